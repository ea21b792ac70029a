// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation of an operation fails once.

use core::fmt;

use super::TestFrames;

/// What [`TestFrames::for_each_failure`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Runs that a failed allocation made fail.
    pub refused: u64,
    /// Runs that succeeded although an allocation failed.
    pub survived: u64,
}

impl TestFrames {
    /// Runs `attempt(k)` for k = 1, 2, .. while its k-th allocation fails, until it makes fewer than k.
    ///
    /// After every run, failed or not, exactly the blocks that were out before must be out again: an attempt that
    /// succeeds undoes itself before it returns. (It may call [`heal`](Self::heal) first, where undoing allocates.)
    /// What else must be unchanged after an error, the attempt checks itself.
    ///
    /// Plans that were in force are forgotten. Cost: two snapshots per run.
    ///
    /// # Panics
    ///
    /// Where a run leaves other blocks out than were out before it, breaks a promise, or fails though no allocation
    /// was made to fail.
    pub fn for_each_failure<E: fmt::Debug>(&self, mut attempt: impl FnMut(u64) -> Result<(), E>) -> Sweep {
        let mut sweep = Sweep { refused: 0, survived: 0 };
        for k in 1.. {
            let (before, injected) = (self.snapshot(), self.stats().injected);
            self.heal();
            self.fail_nth(k);
            let result = attempt(k);
            self.heal();
            let struck = self.stats().injected > injected;
            let after = self.snapshot();
            assert!(
                before == after,
                "run {k} (allocation {k} {}, result {result:?}) left its mark: {}",
                if struck { "failed" } else { "not reached" },
                before.changes(&after)
            );
            self.assert_clean();
            match (struck, result) {
                (true, Err(_)) => sweep.refused += 1,
                (true, Ok(())) => sweep.survived += 1,
                (false, Ok(())) => break,
                (false, Err(error)) => panic!("run {k} failed by itself: {error:?}"),
            }
        }
        sweep
    }
}
