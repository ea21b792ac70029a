// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocols on real threads, for a bounded number of rounds: what loom's small models leave out.
#![cfg(not(mmkit_loom))]

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mmkit_sync::{
    BitSpinLock, LiveRef, Lock, Put, ReadSide, Readers, RefCount, SeqCount, Shard, SpinEnv, SpinLock,
};

const ROUNDS: u64 = if cfg!(miri) { 50 } else { 20_000 };

/// Waits by yielding: the tests may run on fewer processors than threads.
struct Yield;

impl SpinEnv for Yield {
    type Critical = ();

    fn enter(&self) {}

    fn relax(&self, _: u32) {
        thread::yield_now();
    }
}

#[test]
fn the_bit_lock_loses_no_update() {
    let (word, beside) = (<BitSpinLock>::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut guard = word.lock_with(&Yield);
                    guard.set_data(guard.data() + 1);
                    // Not an addition: only the lock makes it one.
                    beside.store(beside.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!((word.peek(), beside.into_inner()), (4 * ROUNDS, 4 * ROUNDS));
}

#[test]
fn the_spin_lock_loses_no_update() {
    let data = Lock::<SpinLock, _>::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut guard = loop {
                        match data.try_lock() {
                            Some(guard) => break guard,
                            None => thread::yield_now(),
                        }
                    };
                    *guard += 1;
                }
            });
        }
    });
    assert_eq!(data.into_inner(), 4 * ROUNDS);
}

#[test]
fn an_object_is_freed_once_per_life() {
    // Lookups against an owner that lets go, sees to it that the object was freed, and brings it back.
    let (count, owned, stop) = (RefCount::new(1, 0), AtomicU64::new(0), AtomicBool::new(false));
    let freed = |put: Put| {
        if put == Put::Last(0) {
            assert_eq!(owned.fetch_add(1, Ordering::Relaxed), 0, "two owners");
            owned.store(0, Ordering::Relaxed);
            count.unfreeze(1).expect("the owner's");
            return true;
        }
        false
    };
    thread::scope(|scope| {
        let lookups: [_; 3] = core::array::from_fn(|_| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if count.try_get(2, |tag| tag == 0).is_ok() {
                        assert_eq!(owned.load(Ordering::Relaxed), 0, "looked up and owned at once");
                        freed(count.put(1).expect("held"));
                        freed(count.put(1).expect("held"));
                    }
                }
            })
        });
        for _ in 0..ROUNDS {
            if count.freeze(1).is_ok() {
                assert_eq!(owned.fetch_add(1, Ordering::Relaxed), 0, "two owners");
                owned.store(0, Ordering::Relaxed);
                count.unfreeze(1).expect("the owner's");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for lookup in lookups {
            lookup.join().expect("no lookup failed");
        }
    });
    assert_eq!(count.load().count, 1);
}

#[test]
fn sequence_readers_never_see_half_a_write() {
    let (seq, words, stop) = (SeqCount::new(), [const { AtomicU64::new(0) }; 4], AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seen =
                        seq.read_with(&Yield, || words.each_ref().map(|word| word.load(Ordering::Relaxed)));
                    assert!(seen.iter().all(|word| *word == seen[0]), "{seen:?}");
                }
            });
        }
        for round in 1..=ROUNDS {
            let writer = seq.try_write().expect("the only writer");
            words.iter().for_each(|word| word.store(round, Ordering::Relaxed));
            drop(writer);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nothing_is_entered_after_it_drained() {
    for _ in 0..ROUNDS / 100 {
        let live = LiveRef::new([const { Shard::new() }; 2]);
        let (drained, entered) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let (sender, receiver) = crossbeam::channel::bounded(4);
            for shard in 0..2 {
                let (sender, live, drained, entered) = (sender.clone(), &live, &drained, &entered);
                scope.spawn(move || {
                    while let Some(guard) = live.enter(shard) {
                        assert!(!drained.load(Ordering::Relaxed), "entered after it drained");
                        entered.fetch_add(1, Ordering::Relaxed);
                        // Dropped by another thread.
                        sender.send(guard).expect("the receiver stays until all have sent");
                    }
                });
            }
            drop(sender);
            scope.spawn(move || receiver.into_iter().for_each(drop));
            while entered.load(Ordering::Relaxed) < 20 {
                thread::yield_now();
            }
            let wait = |_| {
                thread::yield_now();
                ControlFlow::Continue(())
            };
            live.drain(wait).expect("not given up");
            drained.store(true, Ordering::Relaxed);
        });
        assert!(live.is_drained());
    }
}

#[test]
fn readers_are_waited_for() {
    let (readers, reachable, freed) = (Readers::new(), AtomicBool::new(true), AtomicBool::new(false));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let guard = readers.enter();
                    if reachable.load(Ordering::Relaxed) {
                        assert!(!freed.load(Ordering::Relaxed), "freed under a reader");
                    }
                    drop(guard);
                    thread::yield_now();
                }
            });
        }
        for _ in 0..ROUNDS / 100 {
            reachable.store(false, Ordering::Relaxed);
            readers.synchronize().expect("not inside a reader");
            freed.store(true, Ordering::Relaxed);
            thread::yield_now();
            // Published again: who finds it must find it alive.
            freed.store(false, Ordering::Relaxed);
            readers.synchronize().expect("not inside a reader");
            reachable.store(true, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
