// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processor time of a thread: what work costs on a machine that has other things to do.

use rustix::time::{ClockId, clock_gettime};

/// A moment, by the clock that runs while the calling thread does.
///
/// Where nothing is waited for, it tells what a wall clock tells on an idle machine. Reading it is a system call, so it is
/// for work of a millisecond and more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadTime(f64);

impl ThreadTime {
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
    }

    /// Nanoseconds that this thread has run since. `self` must be of the same thread.
    pub(crate) fn elapsed_ns(self) -> f64 {
        Self::now().0 - self.0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn sleep_takes_no_time_and_work_does() {
        let start = ThreadTime::now();
        thread::sleep(Duration::from_millis(50));
        let asleep = start.elapsed_ns();
        let start = ThreadTime::now();
        for n in 0..1_000_000_u64 {
            std::hint::black_box(n);
        }
        let awake = start.elapsed_ns();
        assert!(asleep < 25e6 && awake > 1e5, "{asleep} asleep, {awake} awake");
    }
}
