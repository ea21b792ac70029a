// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sequence count: readers against writers.
#![cfg(mmkit_loom)]

mod both;

use both::both;
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
    fn new() -> Self {
        Self { seq: SeqCount::new(), low: AtomicU64::new(0), high: AtomicU64::new(0) }
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

    /// Writes where there is no other writer.
    fn write(&self) {
        // SAFETY: the models call it from one thread.
        let writer = unsafe { self.seq.write_unchecked() };
        self.low.store(1, Relaxed);
        self.high.store(1, Relaxed);
        drop(writer);
    }

    /// Reads once; the two words, if they were read in peace.
    fn try_read(&self) -> Option<(u64, u64)> {
        let pair = self.seq.try_read(|| self.load());
        if let Some((low, high)) = pair {
            assert_eq!(low, high, "a reader sees half of a write");
        }
        pair
    }
}

fn write_against_try_read() {
    both(Pair::new, Pair::write, Pair::try_read, |pair, (), _| {
        assert_eq!(pair.try_read(), Some((1, 1)));
    });
}

#[test]
fn a_reader_sees_all_or_nothing_2_threads_try_once() {
    write_against_try_read();
}

#[test]
fn a_reader_mutants_fail_2_threads_try_once() {
    must_fail("seq-relaxed-sample", write_against_try_read);
    must_fail("seq-relaxed-end", write_against_try_read);
    must_fail("seq-ignore-odd", write_against_try_read);
    must_fail("seq-no-acquire-fence", write_against_try_read);
    must_fail("seq-no-release-fence", write_against_try_read);
}

#[test]
fn a_reader_that_waits_sees_all_or_nothing_2_threads_blocking() {
    both(
        Pair::new,
        Pair::write,
        |pair| pair.seq.read(|| pair.load()),
        |_, (), (low, high)| {
            assert_eq!(low, high);
        },
    );
}

#[test]
fn two_readers_against_a_writer_3_threads_try_once_2_preemptions() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let pair = Arc::new(Pair::new());
        let threads: [_; 2] = core::array::from_fn(|_| {
            let pair = Arc::clone(&pair);
            thread::spawn(move || pair.try_read())
        });
        pair.write();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn two_writers() {
    both(Pair::new, Pair::try_bump, Pair::try_bump, |pair, mine, theirs| {
        assert!(mine | theirs);
        let bumps = u64::from(mine) + u64::from(theirs);
        assert_eq!(pair.try_read(), Some((bumps, bumps)));
    });
}

#[test]
fn writers_exclude_each_other_2_threads_try_once() {
    two_writers();
}

#[test]
fn writers_mutants_fail_2_threads_try_once() {
    must_fail("seq-relaxed-end", two_writers);
    must_fail("seq-writers-together", two_writers);
}
