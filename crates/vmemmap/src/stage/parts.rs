// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who does which part of a piece of work, and when all of it is done.

use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::mutant;

/// So many parts, handed out one by one to whoever asks, each once.
#[derive(Debug)]
pub(crate) struct Parts {
    total: u64,
    /// The next part to hand out; above `total` when there is none left.
    next: AtomicU64,
    /// Parts that are done.
    done: AtomicU64,
}

impl Parts {
    pub(crate) fn new(total: u64) -> Self {
        Self { total, next: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    /// How many there are.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Parts that were handed out.
    pub(crate) fn begun(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.total)
    }

    /// Parts that are done. Acquire: pairs with the Release of [`step`](Self::step): what was done for them is seen.
    pub(crate) fn done(&self) -> u64 {
        // Acquire: pairs with the Release of `step`.
        let order = mutant!("parts-done-relaxed", Ordering::Acquire, Ordering::Relaxed);
        self.done.load(order)
    }

    /// Takes the next part, if there is one, does it by `write`, and shows it by `show`.
    pub(crate) fn step(&self, write: impl Fn(u64), show: impl Fn(u64)) -> Option<u64> {
        let claim = || self.next.fetch_add(1, Ordering::Relaxed);
        let part = mutant!("parts-claim-look-then-store", claim(), {
            let next = self.next.load(Ordering::Relaxed);
            self.next.store(next + 1, Ordering::Relaxed);
            next
        });
        if part >= self.total {
            return None;
        }
        let (first, then): (&dyn Fn(u64), &dyn Fn(u64)) =
            mutant!("parts-show-first", (&write, &show), (&show, &write));
        first(part);
        then(part);
        // Release: pairs with the Acquire of `done`.
        let order = mutant!("parts-step-relaxed", Ordering::Release, Ordering::Relaxed);
        self.done.fetch_add(1, order);
        Some(part)
    }

    /// Hands all parts out anew: some were begun by somebody who did not finish.
    pub(crate) fn restart(&mut self) {
        *self = Self::new(self.total);
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use core::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::vec::Vec;

    use super::*;

    #[test]
    fn each_part_once_and_written_before_it_is_shown() {
        let (parts, log) = (Parts::new(3), RefCell::new(Vec::new()));
        let step = || {
            parts.step(
                |part| log.borrow_mut().push((part, "written")),
                |part| log.borrow_mut().push((part, "shown")),
            )
        };
        assert_eq!([step(), step()], [Some(0), Some(1)]);
        assert_eq!((parts.begun(), parts.done()), (2, 2));
        assert_eq!([step(), step(), step()], [Some(2), None, None]);
        assert_eq!((parts.begun(), parts.done(), parts.total()), (3, 3, 3));
        let expected: Vec<_> = (0..3).flat_map(|part| [(part, "written"), (part, "shown")]).collect();
        assert_eq!(log.into_inner(), expected);
    }

    #[test]
    fn a_part_that_was_not_finished_is_not_done() {
        let mut parts = Parts::new(2);
        let fails = || parts.step(|_| panic!("in the middle"), |_| ());
        catch_unwind(AssertUnwindSafe(fails)).unwrap_err();
        assert_eq!((parts.begun(), parts.done()), (1, 0));
        parts.restart();
        assert_eq!((parts.begun(), parts.step(|_| (), |_| ())), (0, Some(0)));
    }
}
