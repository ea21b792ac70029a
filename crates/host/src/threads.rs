// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads to write descriptors with.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use mmkit_vmemmap::Executor;

/// So many threads, which exist while there are jobs, and of which the calling one is the first.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// use mmkit_host::Threads;
/// use mmkit_vmemmap::Executor;
///
/// let sum = AtomicU64::new(0);
/// Threads::all().run(100, &|number| drop(sum.fetch_add(number, Relaxed)));
/// assert_eq!(sum.into_inner(), 4950);
/// ```
///
/// Where a thread cannot be started the others do its work. Cost: one atomic addition for each job, and a thread started
/// and ended for each but the first. Source: the scoped threads of `crossbeam`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads(NonZeroUsize);

impl Threads {
    /// `count` threads, at least one.
    #[must_use]
    pub const fn new(count: usize) -> Self {
        match NonZeroUsize::new(count) {
            Some(count) => Self(count),
            None => Self(NonZeroUsize::MIN),
        }
    }

    /// As many threads as this process may run at once.
    #[must_use]
    pub fn all() -> Self {
        Self(available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> usize {
        self.0.get()
    }
}

impl Executor for Threads {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        let next = AtomicU64::new(0);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    return;
                }
                job(number);
            }
        };
        let others = (self.0.get() as u64).min(jobs).saturating_sub(1);
        let ended = crossbeam::scope(|scope| {
            for _ in 0..others {
                if scope.builder().spawn(|_| work()).is_err() {
                    break;
                }
            }
            work();
        });
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_job_runs_once_on_any_number_of_threads() {
        for threads in [0, 1, 2, 5] {
            for jobs in [0, 1, 3, 1000] {
                let seen = Mutex::new(Vec::new());
                Threads::new(threads).run(jobs, &|number| seen.lock().unwrap().push(number));
                let mut seen = seen.into_inner().unwrap();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..jobs), "{threads}, {jobs}");
            }
        }
    }

    #[test]
    fn more_than_one_thread_works() {
        let seen = Mutex::new(BTreeSet::new());
        // No job ends before there are two threads.
        Threads::new(2).run(2, &|_| {
            seen.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
            while seen.lock().unwrap().len() < 2 {
                std::thread::yield_now();
            }
        });
        assert_eq!(seen.into_inner().unwrap().len(), 2);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let run = || Threads::new(3).run(100, &|number| assert!(number != 50, "this one"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}
