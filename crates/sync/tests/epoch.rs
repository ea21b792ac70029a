// SPDX-License-Identifier: MIT OR Apache-2.0
//! The read side over crossbeam-epoch.
#![cfg(all(feature = "epoch", not(mmkit_loom)))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mmkit_sync::{Deferred, Epoch, EpochGuard, InsideReader, ReadSide};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(Epoch: Send, Sync);
assert_not_impl_any!(EpochGuard<'static>: Send, Sync);

/// A deferred call that adds one to a shared counter.
fn bump(counter: &Arc<AtomicU64>) -> Deferred {
    fn call(data: *mut ()) {
        // SAFETY: made by `into_raw` below, and called once.
        let counter = unsafe { Arc::from_raw(data.cast::<AtomicU64>().cast_const()) };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    let data = Arc::into_raw(Arc::clone(counter)).cast_mut().cast();
    // SAFETY: the counter may be bumped at any time, on any thread.
    unsafe { Deferred::new(call, data) }
}

#[test]
fn synchronize_waits_for_a_reader_in_another_thread() {
    let (epoch, left) = (Epoch::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        let (inside, wait) = mpsc::channel();
        let (epoch, left) = (&epoch, &left);
        scope.spawn(move || {
            let guard = epoch.enter();
            inside.send(()).expect("the other end waits");
            // Long enough for a `synchronize` that does not wait to return first.
            thread::sleep(Duration::from_millis(100));
            left.store(true, Ordering::Relaxed);
            drop(guard);
        });
        wait.recv().expect("it sends");
        epoch.synchronize().expect("not inside a reader");
        assert!(left.load(Ordering::Relaxed), "returned while a reader was inside");
    });
}

#[test]
fn synchronize_does_not_wait_for_readers_of_another_epoch() {
    let (ours, theirs) = (Epoch::new(), Epoch::new());
    let guard = theirs.enter();
    assert_eq!(ours.synchronize(), Ok(()));
    drop(guard);
}

#[test]
fn synchronize_is_refused_inside_a_reader_however_deep() {
    let epoch = Epoch::new();
    let (outer, inner) = (epoch.enter(), epoch.enter());
    assert_eq!(epoch.synchronize(), Err(InsideReader));
    drop(outer);
    assert_eq!(epoch.synchronize(), Err(InsideReader));
    drop(inner);
    assert_eq!(epoch.synchronize(), Ok(()));
}

#[test]
fn a_deferred_call_waits_for_readers_and_is_made_once() {
    let (epoch, calls) = (Epoch::new(), Arc::new(AtomicU64::new(0)));
    let guard = epoch.enter();
    epoch.defer(bump(&calls)).expect("kept");
    for _ in 0..300 {
        epoch.flush();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0, "made under a reader");
    drop(guard);
    for _ in 0..8 {
        epoch.synchronize().expect("not inside a reader");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn dropping_the_epoch_makes_the_calls_that_are_left() {
    let calls = Arc::new(AtomicU64::new(0));
    let epoch = Epoch::new();
    for _ in 0..200 {
        epoch.defer(bump(&calls)).expect("kept");
    }
    drop(epoch);
    assert_eq!(calls.load(Ordering::Relaxed), 200);
    assert_eq!(Arc::strong_count(&calls), 1, "each call freed what it held");
}

#[test]
fn a_deferred_call_may_enter_and_defer_again() {
    struct Again {
        epoch: Epoch,
        other: Epoch,
        calls: Arc<AtomicU64>,
    }
    fn call(data: *mut ()) {
        // SAFETY: made by `into_raw` below, and called once.
        let again = unsafe { Arc::from_raw(data.cast::<Again>().cast_const()) };
        drop((again.epoch.enter(), again.other.enter()));
        assert_eq!(again.epoch.synchronize(), Err(InsideReader), "calls are made inside a reader");
        again.epoch.defer(bump(&again.calls)).expect("kept");
    }
    let calls = Arc::new(AtomicU64::new(0));
    let again = Arc::new(Again { epoch: Epoch::new(), other: Epoch::new(), calls: Arc::clone(&calls) });
    let data = Arc::into_raw(Arc::clone(&again)).cast_mut().cast();
    // SAFETY: the call may be made at any time, on any thread.
    again.epoch.defer(unsafe { Deferred::new(call, data) }).expect("kept");
    for _ in 0..16 {
        again.epoch.synchronize().expect("not inside a reader");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn nothing_is_freed_under_a_reader() {
    let (epoch, reachable, freed) = (Epoch::new(), AtomicBool::new(true), AtomicBool::new(false));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let guard = epoch.enter();
                    if reachable.load(Ordering::Relaxed) {
                        assert!(!freed.load(Ordering::Relaxed), "freed under a reader");
                    }
                    drop(guard);
                }
            });
        }
        for _ in 0..if cfg!(miri) { 3 } else { 100 } {
            reachable.store(false, Ordering::Relaxed);
            epoch.synchronize().expect("not inside a reader");
            freed.store(true, Ordering::Relaxed);
            thread::yield_now();
            freed.store(false, Ordering::Relaxed);
            epoch.synchronize().expect("not inside a reader");
            reachable.store(true, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
