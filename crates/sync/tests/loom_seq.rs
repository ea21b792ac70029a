// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sequence count: readers against writers.
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::thread;
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::{AtomicU64, Ordering::Relaxed};
use mmkit_sync::mutant::must_fail;

/// Two words that are always equal, outside a write.
struct Pair {
    seq: SeqCount,
    low: AtomicU64,
    high: AtomicU64,
}

impl Pair {
    fn new() -> Arc<Self> {
        Arc::new(Self { seq: SeqCount::new(), low: AtomicU64::new(0), high: AtomicU64::new(0) })
    }

    fn load(&self) -> (u64, u64) {
        (self.low.load(Relaxed), self.high.load(Relaxed))
    }

    /// One more in each, unless another writer is at work.
    fn try_bump(&self) -> bool {
        let Some(writer) = self.seq.try_write() else { return false };
        let (low, high) = self.load();
        assert_eq!(low, high, "a writer sees half of another write");
        self.low.store(low + 1, Relaxed);
        self.high.store(high + 1, Relaxed);
        drop(writer);
        true
    }

    fn check(&self) {
        if let Some((low, high)) = self.seq.try_read(|| self.load()) {
            assert_eq!(low, high, "a reader sees half of a write");
        }
    }
}

fn try_read() {
    loom::model(|| {
        let pair = Pair::new();
        let other = Arc::clone(&pair);
        let thread = thread::spawn(move || other.try_bump());
        pair.check();
        assert!(thread.join().unwrap());
        assert_eq!(pair.seq.try_read(|| pair.load()), Some((1, 1)));
    });
}

#[test]
fn a_reader_sees_all_or_nothing_2_threads_try_once() {
    try_read();
}

#[test]
fn a_reader_mutants_fail_2_threads_try_once() {
    must_fail("seq-relaxed-sample", try_read);
    must_fail("seq-relaxed-end", try_read);
    must_fail("seq-ignore-odd", try_read);
    must_fail("seq-no-acquire-fence", try_read);
    must_fail("seq-no-release-fence", try_read);
}

#[test]
fn a_reader_that_waits_sees_all_or_nothing_2_threads_blocking() {
    loom::model(|| {
        let pair = Pair::new();
        let other = Arc::clone(&pair);
        let thread = thread::spawn(move || other.try_bump());
        let (low, high) = pair.seq.read(|| pair.load());
        assert_eq!(low, high);
        thread.join().unwrap();
    });
}

#[test]
fn two_readers_against_a_writer_3_threads_try_once() {
    loom::model(|| {
        let pair = Pair::new();
        let threads: [_; 2] = core::array::from_fn(|_| {
            let pair = Arc::clone(&pair);
            thread::spawn(move || pair.check())
        });
        assert!(pair.try_bump());
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn two_writers() {
    loom::model(|| {
        let pair = Pair::new();
        let other = Arc::clone(&pair);
        let thread = thread::spawn(move || other.try_bump());
        let mine = pair.try_bump();
        let theirs = thread.join().unwrap();
        assert!(mine | theirs);
        let bumps = u64::from(mine) + u64::from(theirs);
        assert_eq!(pair.seq.read(|| pair.load()), (bumps, bumps));
    });
}

#[test]
fn writers_exclude_each_other_2_threads_try_once() {
    two_writers();
}

#[test]
fn writers_mutants_fail_2_threads_try_once() {
    must_fail("seq-relaxed-end", two_writers);
}
