// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of a stage, written by several threads, against lookups and against whoever asks whether all is done.
//!
//! The descriptors and the presence bits are the model checker's; who does which part, in which order it is written and
//! shown, and when all of it is done, is the code of [`Staged`](mmkit_vmemmap::Staged).
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::thread;
use mmkit_sync::atomic::{AtomicU64, UnsafeCell};
use mmkit_sync::mutant::must_fail;
use mmkit_vmemmap::models::{Work, contains_in, set_in};

/// Two parts, of one descriptor each.
struct Stage {
    work: Work,
    descriptors: [UnsafeCell<u64>; 2],
    present: [AtomicU64; 2],
}

// SAFETY: a descriptor is written by whoever has its part, and read where it was found present, or all is done; the model
// checker fails where that is not so.
unsafe impl Sync for Stage {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Stage {}

impl Stage {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            work: Work::new(2),
            descriptors: [UnsafeCell::new(0), UnsafeCell::new(0)],
            present: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// Does one part, and shows it where the stage is deferred.
    fn step(&self, deferred: bool) -> Option<u64> {
        let write = |part: u64| {
            // SAFETY: the part is this thread's, or else the model checker fails.
            self.descriptors[part as usize].with_mut(|descriptor| unsafe { *descriptor += 7 });
        };
        let show = |part: u64| {
            if deferred {
                set_in(&self.present, part as usize);
            }
        };
        self.work.step(write, show)
    }

    fn read(&self, part: usize) -> u64 {
        // SAFETY: the part is written, or else the model checker fails.
        self.descriptors[part].with(|descriptor| unsafe { descriptor.read() })
    }

    /// Looks a frame of each part up.
    fn look(&self) {
        for part in 0..2 {
            if contains_in(&self.present, part) {
                assert_eq!(self.read(part), 7);
            }
        }
    }
}

/// Two threads take parts until none is left.
fn two_that_write() {
    loom::model(|| {
        let stage = Stage::new();
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || while other.step(false).is_some() {});
        while stage.step(false).is_some() {}
        thread.join().unwrap();
        assert!(stage.work.is_done());
        assert_eq!((stage.read(0), stage.read(1)), (7, 7));
    });
}

#[test]
fn each_part_is_written_once_2_threads_2_parts() {
    two_that_write();
}

#[test]
fn parts_taken_twice_are_caught_2_threads_2_parts() {
    must_fail("parts-claim-look-then-store", two_that_write);
}

/// One thread writes and shows, another looks up.
fn shown_and_looked_up() {
    loom::model(|| {
        let stage = Stage::new();
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || other.look());
        while stage.step(true).is_some() {}
        thread.join().unwrap();
        stage.look();
    });
}

#[test]
fn what_is_found_is_written_2_threads_2_parts() {
    shown_and_looked_up();
}

#[test]
fn parts_shown_too_early_are_caught_2_threads_2_parts() {
    must_fail("parts-show-first", shown_and_looked_up);
    must_fail("bitmap-set-relaxed", shown_and_looked_up);
    must_fail("bitmap-contains-relaxed", shown_and_looked_up);
}

/// Two threads write and show a part each, a third looks up.
fn written_by_two_and_looked_up() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let stage = Stage::new();
        let [writer, reader] = [Arc::clone(&stage), Arc::clone(&stage)];
        let writer = thread::spawn(move || drop(writer.step(true)));
        let reader = thread::spawn(move || reader.look());
        let _ = stage.step(true);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!((stage.read(0), stage.read(1)), (7, 7));
    });
}

#[test]
fn what_is_found_is_written_3_threads_2_parts_3_preemptions() {
    written_by_two_and_looked_up();
}

/// Who is told that all is done, by whomever, finds all of it written: he may publish it.
fn told_that_all_is_done() {
    loom::model(|| {
        let stage = Stage::new();
        let other = Arc::clone(&stage);
        let thread = thread::spawn(move || while other.step(false).is_some() {});
        let _ = stage.step(false);
        if stage.work.is_done() {
            assert_eq!((stage.read(0), stage.read(1)), (7, 7));
        }
        thread.join().unwrap();
    });
}

#[test]
fn all_done_is_all_written_2_threads_2_parts() {
    told_that_all_is_done();
}

#[test]
fn parts_done_too_early_are_caught_2_threads_2_parts() {
    must_fail("parts-step-relaxed", told_that_all_is_done);
    must_fail("parts-done-relaxed", told_that_all_is_done);
}
