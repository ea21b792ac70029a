// SPDX-License-Identifier: MIT OR Apache-2.0
//! The read side of four counters: what is out of reach may be freed after a wait, not before.
#![cfg(mmkit_loom)]

mod both;

use both::both;
use mmkit_sync::atomic::{AtomicBool, Ordering::Relaxed, UnsafeCell};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{ReadSide, Readers};

struct Shared {
    readers: Readers,
    /// Whether `memory` can be found.
    reachable: AtomicBool,
    memory: UnsafeCell<bool>,
}

// SAFETY: `memory` is read inside readers that found it and written after a wait; a model that does otherwise fails.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Self {
        let (reachable, memory) = (AtomicBool::new(true), UnsafeCell::new(true));
        Self { readers: Readers::new(), reachable, memory }
    }

    fn look(&self) {
        let guard = self.readers.enter();
        if self.reachable.load(Relaxed) {
            // SAFETY: found inside a reader.
            assert!(self.memory.with(|memory| unsafe { *memory }), "used after free");
        }
        drop(guard);
    }

    fn free(&self) {
        self.reachable.store(false, Relaxed);
        self.readers.synchronize().unwrap();
        // SAFETY: out of reach, and every reader that might have found it has left.
        self.memory.with_mut(|memory| unsafe { *memory = false });
    }
}

fn one_wait() {
    both(Shared::new, Shared::free, Shared::look, |shared, (), ()| shared.look());
}

#[test]
fn nothing_is_freed_under_a_reader_2_threads_blocking() {
    one_wait();
}

#[test]
fn nothing_is_freed_under_a_reader_mutants_fail_2_threads_blocking() {
    must_fail("readers-enter-no-fence", one_wait);
    must_fail("readers-synchronize-no-fence", one_wait);
    must_fail("readers-leave-relaxed", one_wait);
    must_fail("readers-outs-relaxed", one_wait);
}

fn two_waits() {
    // The reader may have chosen its pair before the first wait, and enter after it.
    let free = |shared: &Shared| {
        shared.readers.synchronize().unwrap();
        shared.free();
    };
    both(Shared::new, free, Shared::look, |_, (), ()| ());
}

#[test]
fn a_late_reader_is_waited_for_2_threads_2_waits() {
    two_waits();
}

#[test]
fn a_late_reader_mutants_fail_2_threads_2_waits() {
    must_fail("readers-one-pair", two_waits);
}
