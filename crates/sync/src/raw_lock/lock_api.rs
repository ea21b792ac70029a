// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every `lock_api` mutex as a lock of ours.

use lock_api::RawMutex;

use super::RawLock;

/// A [`lock_api::RawMutex`] (that of `parking_lot`, `spin`, or a kernel's own) as a [`RawLock`].
///
/// A newtype and not an implementation for every `RawMutex`, so that turning the feature on cannot conflict with an
/// implementation that a user already has.
#[derive(Debug)]
#[repr(transparent)]
pub struct LockApi<R>(R);

impl<R: RawMutex> LockApi<R> {
    /// A lock that nobody holds.
    pub const UNLOCKED: Self = Self(R::INIT);
}

impl<R: RawMutex> Default for LockApi<R> {
    fn default() -> Self {
        Self::UNLOCKED
    }
}

// SAFETY: `lock_api::RawMutex` is an unsafe trait whose contract is exclusion and, for a mutex that protects data, the
// ordering of unlock before lock; a mutex is moved only while nobody borrows it, and `INIT` shows that its unlocked state
// has no address.
unsafe impl<R: RawMutex> RawLock for LockApi<R> {
    fn unlocked() -> Self {
        Self::UNLOCKED
    }

    #[inline]
    fn lock(&self) {
        self.0.lock();
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, on the thread that took it.
        unsafe { self.0.unlock() }
    }
}
