// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks without data: the trait, and a spinlock.

#[cfg(feature = "lock_api")]
mod lock_api;

#[cfg(feature = "lock_api")]
pub use self::lock_api::LockApi;

use crate::atomic::{AtomicBool, Ordering};
use crate::mutant;
use crate::spin::{Spin, SpinEnv};

/// A mutual exclusion lock without data, for [`Lock`](crate::Lock) to build on.
///
/// # Safety
///
/// * At any time at most one holder: between a `lock` that returned, or a `try_lock` that returned true, and the next
///   `unlock`, every other `try_lock` answers false and every other `lock` waits.
/// * `unlock` happens before the next `lock` or `try_lock` that succeeds: what was written under the lock is visible
///   under it.
/// * Moving an unlocked lock keeps it unlocked.
pub unsafe trait RawLock {
    /// A lock that nobody holds.
    fn unlocked() -> Self
    where
        Self: Sized;

    /// Takes the lock, waiting as long as it takes. Taking it twice in one thread may never return.
    fn lock(&self);

    /// Takes the lock if nobody holds it; says whether it did.
    #[must_use]
    fn try_lock(&self) -> bool;

    /// Releases the lock.
    ///
    /// # Safety
    ///
    /// The caller holds the lock, on the thread that took it.
    unsafe fn unlock(&self);
}

/// A test-and-test-and-set spinlock: one byte, unfair, does not disable anything.
///
/// Cost: one compare-exchange to take, one release store to release. For data in the same word, see
/// [`BitSpinLock`](crate::BitSpinLock).
#[derive(Debug)]
#[cfg_attr(not(mmkit_loom), repr(transparent))]
pub struct SpinLock(AtomicBool);

impl SpinLock {
    const_unless_loom! {
        /// A lock that nobody holds.
        #[must_use]
        pub fn new() -> Self {
            Self(AtomicBool::new(false))
        }
    }
}

impl Default for SpinLock {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY:
// * One holder: only a compare-exchange of false for true takes the lock, and only `unlock` writes false.
// * Ordering: `unlock` is a release store of the value that the next successful acquire exchange reads.
// * Moving: the whole state is the byte, which moves along.
unsafe impl RawLock for SpinLock {
    fn unlocked() -> Self {
        Self::new()
    }

    #[inline]
    fn lock(&self) {
        let mut tries = 0u32;
        while !self.try_lock() {
            // Wait on a plain load, which does not take the cache line away from the holder. Loom would explore the
            // stale values that the load may return, so there the loop is one of compare-exchanges.
            loop {
                Spin.relax(tries);
                tries = tries.saturating_add(1);
                if cfg!(mmkit_loom) || !self.0.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // Acquire: pairs with the release store in `unlock`.
        let order = mutant!("spinlock-relaxed-lock", Ordering::Acquire, Ordering::Relaxed);
        mutant!(
            "spinlock-load-then-store",
            self.0.compare_exchange(false, true, order, Ordering::Relaxed).is_ok(),
            if self.0.load(order) {
                false
            } else {
                self.0.store(true, Ordering::Relaxed);
                true
            }
        )
    }

    #[inline]
    unsafe fn unlock(&self) {
        // Release: pairs with the acquire exchange in `try_lock`.
        let order = mutant!("spinlock-relaxed-unlock", Ordering::Release, Ordering::Relaxed);
        self.0.store(false, order);
    }
}
