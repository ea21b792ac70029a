// SPDX-License-Identifier: MIT OR Apache-2.0
//! The locks: mutual exclusion, and publication of what was written under them.
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::thread;
use mmkit_sync::atomic::UnsafeCell;
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{BitSpinLock, Lock, RawLock, SpinLock};

/// A word with its lock, and memory that the lock protects; loom checks every access to it.
struct Shared {
    word: BitSpinLock,
    memory: UnsafeCell<u64>,
}

// SAFETY: `memory` is accessed under the lock; a model that does otherwise fails.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { word: BitSpinLock::new(0), memory: UnsafeCell::new(0) })
    }

    fn bump(&self, mut guard: mmkit_sync::BitGuard<'_>) {
        let next = self.memory.with_mut(|memory| {
            // SAFETY: under the lock.
            unsafe { *memory += 1 };
            // SAFETY: under the lock.
            unsafe { *memory }
        });
        guard.set_data(guard.data() + 1);
        assert_eq!(guard.data(), next, "word and memory disagree");
    }
}

fn bit_lock_blocking() {
    loom::model(|| {
        let shared = Shared::new();
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || other.bump(other.word.lock()));
        shared.bump(shared.word.lock());
        thread.join().unwrap();
        assert_eq!(shared.word.peek(), 2);
        assert!(!shared.word.is_locked());
    });
}

fn bit_lock_trying() {
    loom::model(|| {
        let shared = Shared::new();
        let threads: [_; 2] = core::array::from_fn(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || u64::from(shared.word.try_lock().map(|guard| shared.bump(guard)).is_some()))
        });
        let mut done = u64::from(shared.word.try_lock().map(|guard| shared.bump(guard)).is_some());
        for thread in threads {
            done += thread.join().unwrap();
        }
        assert!(done >= 1, "nobody got a free lock");
        assert_eq!(shared.word.peek(), done);
    });
}

#[test]
fn bit_lock_excludes_and_publishes_2_threads_blocking() {
    bit_lock_blocking();
}

#[test]
fn bit_lock_excludes_and_publishes_3_threads_try_once() {
    bit_lock_trying();
}

#[test]
fn bit_lock_mutants_fail_2_threads_blocking() {
    must_fail("bitlock-relaxed-lock", bit_lock_blocking);
    must_fail("bitlock-relaxed-unlock", bit_lock_blocking);
    must_fail("bitlock-load-then-store", bit_lock_blocking);
}

#[test]
fn bit_lock_mutants_fail_3_threads_try_once() {
    must_fail("bitlock-relaxed-try-lock", bit_lock_trying);
    must_fail("bitlock-relaxed-unlock", bit_lock_trying);
    must_fail("bitlock-try-load-then-store", bit_lock_trying);
}

fn spin_lock_blocking() {
    loom::model(|| {
        let lock = Arc::new(Lock::<SpinLock, u64>::new(0));
        let other = Arc::clone(&lock);
        let thread = thread::spawn(move || *other.lock() += 1);
        *lock.lock() += 1;
        thread.join().unwrap();
        assert_eq!(*lock.lock(), 2);
    });
}

fn spin_lock_trying() {
    loom::model(|| {
        let lock = Arc::new(Lock::<SpinLock, u64>::new(0));
        let bump =
            |lock: &Lock<SpinLock, u64>| u64::from(lock.try_lock().map(|mut data| *data += 1).is_some());
        let threads: [_; 2] = core::array::from_fn(|_| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || bump(&lock))
        });
        let mut done = bump(&lock);
        for thread in threads {
            done += thread.join().unwrap();
        }
        assert!(done >= 1, "nobody got a free lock");
        assert_eq!(*lock.lock(), done);
    });
}

#[test]
fn spin_lock_excludes_and_publishes_2_threads_blocking() {
    spin_lock_blocking();
}

#[test]
fn spin_lock_excludes_and_publishes_3_threads_try_once() {
    spin_lock_trying();
}

#[test]
fn spin_lock_mutants_fail_2_threads_blocking() {
    must_fail("spinlock-relaxed-lock", spin_lock_blocking);
    must_fail("spinlock-relaxed-unlock", spin_lock_blocking);
    must_fail("spinlock-load-then-store", spin_lock_blocking);
}

#[test]
fn spin_lock_mutants_fail_3_threads_try_once() {
    must_fail("spinlock-relaxed-lock", spin_lock_trying);
    must_fail("spinlock-relaxed-unlock", spin_lock_trying);
    must_fail("spinlock-load-then-store", spin_lock_trying);
}

#[test]
#[should_panic(expected = "never reached")]
fn a_misspelt_mutant_is_told() {
    must_fail("no-such-mutant", bit_lock_blocking);
}

#[test]
#[should_panic(expected = "survived")]
fn a_model_that_does_not_see_a_mutant_is_told() {
    must_fail("spinlock-relaxed-lock", || {
        loom::model(|| {
            let lock = SpinLock::new();
            assert!(lock.try_lock());
        });
    });
}
