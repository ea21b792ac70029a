// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each operation does and refuses, on one thread.
#![cfg(not(mmkit_loom))]

use core::cell::{Cell, RefCell};
use core::ops::ControlFlow;

use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::{
    BitSpinLock, Counted, Counter, Event, Events, GetError, Immovable, InsideReader, LiveRef, Lock, Put,
    ReadSide, Readers, RefCount, SeqCount, Shard, SpinEnv, SpinLock, StillHeld, Tally, Underflow,
};

const TAG: u32 = 0x8000_0001;

fn at(count: u32) -> RefCount {
    RefCount::new(count, TAG)
}

#[test]
fn a_count_packs_count_high_and_tag_low() {
    assert_eq!(RefCount::new(3, 7).raw(), 3 << 32 | 7);
    assert_eq!(Counted::from_raw(3 << 32 | 7), Counted { count: 3, tag: 7 });
    assert_eq!(at(5).load_acquire(), Counted { count: 5, tag: TAG });
}

#[test]
fn try_get_refuses_zero_foreign_tags_and_overflow_and_leaves_the_word() {
    let refused = |count: RefCount, n, accept, error| {
        let before = count.raw();
        assert_eq!(count.try_get(n, |_| accept), Err(error));
        assert_eq!(count.raw(), before);
    };
    refused(at(0), 1, true, GetError::Zero);
    refused(at(0), 0, true, GetError::Zero);
    refused(at(1), 1, false, GetError::Refused(TAG));
    refused(at(RefCount::MAX), 1, true, GetError::Overflow { count: RefCount::MAX, n: 1 });
    refused(at(1), RefCount::MAX, true, GetError::Overflow { count: 1, n: RefCount::MAX });
    refused(at(1), u32::MAX, true, GetError::Overflow { count: 1, n: u32::MAX });
    let saturated = RefCount::SATURATED;
    refused(at(saturated), 0, true, GetError::Overflow { count: saturated, n: 0 });
    refused(at(u32::MAX), 1, true, GetError::Overflow { count: u32::MAX, n: 1 });
}

#[test]
fn try_get_reaches_the_limit_exactly() {
    let count = at(1);
    assert_eq!(count.try_get(RefCount::MAX - 1, |tag| tag == TAG), Ok(TAG));
    assert_eq!(count.load(), Counted { count: RefCount::MAX, tag: TAG });
    assert_eq!(count.try_get(0, |_| true), Ok(TAG));
    assert_eq!(count.get(1), Err(GetError::Overflow { count: RefCount::MAX, n: 1 }));
}

#[test]
fn try_get_asks_about_the_tag_that_is_there() {
    let seen = Cell::new(0);
    let _ = at(1).try_get(1, |tag| {
        seen.set(tag);
        true
    });
    assert_eq!(seen.get(), TAG);
}

#[test]
fn put_tells_the_last_and_keeps_the_tag() {
    for n in [1, 3, 65536, 65537, RefCount::MAX] {
        let count = at(n);
        if n > 1 {
            assert_eq!(count.put(n - 1), Ok(Put::Held));
            assert_eq!(count.get(n - 1), Ok(TAG));
        }
        assert_eq!(count.put(n), Ok(Put::Last(TAG)));
        assert_eq!(count.load(), Counted { count: 0, tag: TAG });
    }
    assert_eq!(at(0).put(0), Ok(Put::Held));
}

#[test]
fn an_underflow_saturates_for_good() {
    for (held, n) in [(1, 2), (2, 65536), (5, 65537), (1, u32::MAX), (0, 1)] {
        let count = at(held);
        assert_eq!(count.put(n), Err(Underflow { count: held, n }));
        assert_eq!(count.load(), Counted { count: RefCount::SATURATED, tag: TAG });
        for n in [1, 65536, 65537, RefCount::SATURATED, u32::MAX] {
            assert_eq!(count.put(n), Err(Underflow { count: RefCount::SATURATED, n }));
        }
        assert_eq!(count.load().count, RefCount::SATURATED);
        assert_eq!(count.freeze(RefCount::SATURATED), Err(RefCount::SATURATED));
        assert!(count.get(1).is_err());
    }
    // A large put on an owner's word changes nothing.
    let count = at(0);
    assert_eq!(count.put(65537), Err(Underflow { count: 0, n: 65537 }));
    assert_eq!(count.load().count, 0);
}

#[test]
fn freeze_takes_exactly_what_is_expected() {
    let count = at(2);
    assert_eq!(count.freeze(1), Err(2));
    assert_eq!(count.freeze(0), Err(2));
    assert_eq!(count.freeze(2), Ok(TAG));
    assert_eq!(count.freeze(0), Err(0), "a count of 0 has an owner already");
    assert_eq!(count.unfreeze(0), Err(0));
    assert_eq!(count.unfreeze(RefCount::MAX + 1), Err(0));
    assert_eq!(count.unfreeze(3), Ok(()));
    assert_eq!(count.unfreeze(1), Err(3));
    assert_eq!(count.load(), Counted { count: 3, tag: TAG });
}

#[test]
fn tags_change_and_counts_stay() {
    for held in [0, 4] {
        let count = at(held);
        assert_eq!(count.set_tag(1, 2), Err(TAG));
        assert_eq!(count.set_tag(TAG, 2), Ok(()));
        assert_eq!(count.swap_tag(3), 2);
        assert_eq!(count.load(), Counted { count: held, tag: 3 });
        count.store_unique(1, 9);
        assert_eq!(count.load(), Counted { count: 1, tag: 9 });
    }
}

#[test]
fn errors_name_the_numbers() {
    assert_eq!(Underflow { count: 1, n: 2 }.to_string(), "2 references dropped where 1 were held");
    assert!(Underflow { count: 0xC000_0000, n: 2 }.to_string().contains("saturated"));
    assert_eq!(GetError::Refused(16).to_string(), "the tag 0x10 was not accepted");
    assert!(GetError::Overflow { count: 7, n: 9 }.to_string().starts_with("9 more references than 7"));
    assert_eq!(StillHeld { held: 3 }.to_string(), "3 references are still held");
}

#[test]
fn a_bit_lock_keeps_its_bit_out_of_the_data() {
    let lock = BitSpinLock::<0>::new(u64::MAX);
    assert_eq!(lock.peek(), u64::MAX - 1);
    assert!(!lock.is_locked());
    let mut guard = lock.lock();
    assert!(lock.is_locked());
    assert!(lock.try_lock().is_none());
    assert_eq!(guard.data(), u64::MAX - 1);
    guard.set_data(7);
    assert_eq!(guard.data(), 6);
    assert_eq!(lock.peek(), u64::MAX - 1, "published only by unlocking");
    drop(guard);
    assert_eq!(lock.peek(), 6);
    assert!(lock.try_lock().is_some());
}

#[test]
fn a_bit_lock_lives_in_any_word() {
    let word = AtomicU64::new(5);
    let lock = BitSpinLock::<63>::from_ref(&word);
    let guard = lock.lock();
    assert_eq!(word.load(Ordering::Relaxed), 1 << 63 | 5);
    drop(guard);
    assert_eq!(word.load(Ordering::Relaxed), 5);
}

#[test]
fn a_forgotten_guard_keeps_the_lock_and_the_old_data() {
    let lock = <BitSpinLock>::new(1);
    let mut guard = lock.lock();
    guard.set_data(2);
    core::mem::forget(guard);
    assert!(lock.is_locked());
    assert_eq!(lock.peek(), 1);
}

/// Writes down what the lock does with its environment; frees the lock when it is told to wait.
struct Diary<'a> {
    log: &'a RefCell<Vec<&'static str>>,
    word: &'a AtomicU64,
}

struct Critical<'a>(&'a Diary<'a>);

impl Drop for Critical<'_> {
    fn drop(&mut self) {
        let locked = self.0.word.load(Ordering::Relaxed) >> 63 != 0;
        self.0.log.borrow_mut().push(if locked { "leave, locked" } else { "leave" });
    }
}

impl<'a> SpinEnv for &'a Diary<'a> {
    type Critical = Critical<'a>;

    fn enter(&self) -> Critical<'a> {
        self.log.borrow_mut().push("enter");
        Critical(self)
    }

    fn relax(&self, tries: u32) {
        self.log.borrow_mut().push("relax");
        if tries == 1 {
            self.word.store(5, Ordering::Relaxed);
        }
    }
}

#[test]
fn the_critical_section_surrounds_the_lock_but_not_the_wait() {
    let (log, word) = (RefCell::new(Vec::new()), AtomicU64::new(1 << 63));
    let diary = Diary { log: &log, word: &word };
    let lock = BitSpinLock::<63>::from_ref(&word);
    assert!(lock.try_lock_with(&&diary).is_none());
    assert_eq!(log.take(), ["enter", "leave, locked"]);
    drop(lock.lock_with(&&diary));
    assert_eq!(log.take(), ["enter", "leave, locked", "relax", "relax", "enter", "leave"]);
}

#[test]
fn a_lock_protects_its_data() {
    let mut lock = Lock::<SpinLock, _>::new(vec![1]);
    lock.lock().push(2);
    let guard = lock.lock();
    assert!(lock.try_lock().is_none());
    assert_eq!(format!("{lock:?}"), "Lock(<taken>)");
    assert_eq!(format!("{guard:?}"), "[1, 2]");
    drop(guard);
    assert_eq!(format!("{lock:?}"), "Lock([1, 2])");
    lock.get_mut().push(3);
    assert_eq!(lock.into_inner(), [1, 2, 3]);
}

#[test]
fn a_panic_under_a_lock_releases_it() {
    let (lock, word) = (Lock::<SpinLock, _>::new(0), <BitSpinLock>::new(0));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guards = (lock.lock(), word.lock());
        panic!("under the lock");
    }));
    assert!(result.is_err());
    assert!(lock.try_lock().is_some() && word.try_lock().is_some());
}

#[cfg(feature = "lock_api")]
#[test]
fn any_lock_api_mutex_will_do() {
    use mmkit_sync::LockApi;
    static COUNT: Lock<LockApi<parking_lot::RawMutex>, u32> = Lock::from_raw(LockApi::UNLOCKED, 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..1000).for_each(|_| *COUNT.lock() += 1));
        }
    });
    assert_eq!(*COUNT.lock(), 2000);
}

#[test]
fn a_sequence_count_refuses_readers_and_writers_while_written() {
    let seq = SeqCount::new();
    let sample = seq.sample().expect("nobody writes");
    assert!(seq.unchanged(sample));
    let writer = seq.try_write().expect("nobody writes");
    assert!(seq.try_write().is_none());
    assert!(seq.sample().is_none());
    assert!(seq.try_read(|| ()).is_none());
    assert!(!seq.unchanged(sample));
    drop(writer);
    assert!(!seq.unchanged(sample), "it has moved on");
    assert_eq!(seq.read(|| 3), 3);
    // SAFETY: there is no other writer.
    drop(unsafe { seq.write_unchecked() });
    assert_eq!(seq.try_read(|| 4), Some(4));
}

#[test]
fn a_live_reference_lives_dies_and_revives() {
    let mut live = LiveRef::new([const { Shard::new() }; 2]);
    assert!(!live.is_drained(), "not dead, so not drained");
    let guards = [live.enter(0), live.enter(1), live.enter(usize::MAX), live.enter_many(2, 10)];
    let guards = guards.map(|guard| guard.expect("it lives"));
    assert_eq!(guards[3].count(), 10);
    assert!(live.kill());
    assert!(!live.kill());
    assert!(live.is_dead() && live.enter(0).is_none());
    let mut pauses = 0;
    let gave_up = live.drain(|tries| {
        assert_eq!(tries, pauses);
        pauses += 1;
        if pauses == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(gave_up, Err(StillHeld { held: 13 }));
    drop(guards);
    assert!(live.is_drained());
    live.revive();
    assert!(!live.is_drained());
    core::mem::forget(live.enter_many(0, 4));
    assert_eq!(live.drain(|_| ControlFlow::Break(())), Err(StillHeld { held: 4 }));
    // SAFETY: the forgotten guard's four references, in a shard of our choice.
    unsafe { live.put_many(1, 4) };
    assert_eq!(live.drain(|_| unreachable!("drained already")), Ok(()));
}

#[test]
fn a_live_reference_without_shards_refuses() {
    let live = LiveRef::new([]);
    assert!(live.enter(0).is_none());
    assert!(!live.is_drained());
    live.kill();
    assert!(live.is_drained());
    let borrowed: &[Shard] = &[Shard::new()];
    assert!(LiveRef::new(borrowed).enter(7).is_some());
}

#[test]
fn immovable_memory_never_sees_a_grace_period() {
    assert_eq!(Immovable.synchronize(), Err(InsideReader));
    fn never(_: *mut ()) {
        panic!("called");
    }
    // SAFETY: `never` may be called at any time, and is not.
    let deferred = unsafe { mmkit_sync::Deferred::new(never, core::ptr::null_mut()) };
    assert!(Immovable.defer(deferred).is_err(), "given back");
}

#[test]
fn readers_nest_and_waiting_ends() {
    let readers = Readers::new();
    for _ in 0..3 {
        let outer = readers.enter();
        drop(readers.enter());
        drop(outer);
        assert_eq!(readers.synchronize(), Ok(()));
    }
}

#[test]
fn events_are_counted_or_cost_nothing() {
    assert_eq!(core::mem::size_of::<()>(), 0);
    let event = Event::OffNode { wanted: 1, got: 0, pfn: 0x40 };
    ().count(Counter::TlbFlush, 1);
    ().report(&event);

    let tally = Tally::new();
    let events: &dyn Events = &tally;
    for (by, &counter) in (1..).zip(Counter::ALL) {
        events.count(counter, by);
        assert_eq!(tally.get(counter), by, "{}", counter.name());
    }
    events.report(&event);
    assert_eq!(tally.reports(), 1);
    assert_eq!(event.to_string(), "pfn 0x40: wanted on node 1, came from node 0");
    tally.reset();
    assert_eq!(Counter::ALL.iter().map(|&counter| tally.get(counter)).sum::<u64>() + tally.reports(), 0);
}
