// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who runs independent jobs.

/// Runs jobs that have nothing to do with each other: on the calling thread, on a pool, on the processors of a node.
///
/// Nothing rests on what an implementor does but speed: a job that is called too often has nothing left to do, and what
/// jobs that were not called leave undone, the caller does. Source: ours. (Linux: `padata`.)
pub trait Executor {
    /// Calls `job` with each number below `jobs`, in any order, on any threads, and returns when all calls have returned.
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync));
}

impl<X: Executor + ?Sized> Executor for &X {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        (**self).run(jobs, job);
    }
}

/// One job after the other, on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Executor for Serial {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        for number in 0..jobs {
            job(number);
        }
    }
}
