// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock with the data that it protects.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use crate::atomic::{MutPtr, UnsafeCell};
use crate::raw_lock::RawLock;

/// Data `T` behind a lock of the user's choice `R`.
///
/// Not poisoned by a panic. A guard that is forgotten leaves the lock taken for ever.
///
/// ```
/// use mmkit_sync::{Lock, SpinLock};
///
/// static BALANCE: Lock<SpinLock, i64> = Lock::from_raw(SpinLock::new(), 0);
///
/// *BALANCE.lock() += 3;
/// assert_eq!(*BALANCE.lock(), 3);
/// ```
pub struct Lock<R, T: ?Sized> {
    raw: R,
    data: UnsafeCell<T>,
}

// SAFETY: the data is reached through `&Lock` only under the lock, which has one holder at a time and orders one holder's
// accesses before the next's; so sharing the lock hands `T` from thread to thread, for which `T: Send` suffices.
unsafe impl<R: RawLock + Sync, T: ?Sized + Send> Sync for Lock<R, T> {}

impl<R: RawLock, T> Lock<R, T> {
    /// `data` behind a new lock.
    pub fn new(data: T) -> Self {
        Self::from_raw(R::unlocked(), data)
    }
}

impl<R, T> Lock<R, T> {
    const_unless_loom! {
        /// `data` behind `raw`, which must be unlocked: in a constant or a static. A lock that is taken stays so for ever.
        pub fn from_raw(raw: R, data: T) -> Self {
            Self { raw, data: UnsafeCell::new(data) }
        }
    }

    /// Takes the data out.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<R: RawLock, T: ?Sized> Lock<R, T> {
    /// Takes the lock, waiting for it, until the guard is dropped.
    #[inline]
    pub fn lock(&self) -> LockGuard<'_, R, T> {
        self.raw.lock();
        self.guard()
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, R, T>> {
        self.raw.try_lock().then(|| self.guard())
    }

    /// The data, without locking: the exclusive borrow shows that nobody holds the lock.
    pub fn get_mut(&mut self) -> &mut T {
        let data = self.data.with_mut(|data| data);
        // SAFETY: `self` is borrowed exclusively for as long as the result lives, and no guard outlives its borrow of
        // the lock.
        unsafe { &mut *data }
    }

    /// Only after the lock was taken.
    #[inline]
    fn guard(&self) -> LockGuard<'_, R, T> {
        LockGuard { lock: self, data: ManuallyDrop::new(self.data.get_mut()), not_send: PhantomData }
    }
}

impl<R: RawLock, T: Default> Default for Lock<R, T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<R: RawLock, T: ?Sized + fmt::Debug> fmt::Debug for Lock<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Lock").field(&&*guard).finish(),
            None => f.write_str("Lock(<taken>)"),
        }
    }
}

/// Access to the data of a [`Lock`]; dropping it releases the lock. Stays on the thread that took it.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a, R: RawLock, T: ?Sized> {
    lock: &'a Lock<R, T>,
    data: ManuallyDrop<MutPtr<T>>,
    not_send: PhantomData<*mut ()>,
}

// SAFETY: a shared guard gives out only `&T`.
unsafe impl<R: RawLock + Sync, T: ?Sized + Sync> Sync for LockGuard<'_, R, T> {}

impl<R: RawLock, T: ?Sized> Deref for LockGuard<'_, R, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so only this guard reaches the data, and it is borrowed for reading.
        unsafe { MutPtr::deref(&self.data) }
    }
}

impl<R: RawLock, T: ?Sized> DerefMut for LockGuard<'_, R, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, so only this guard reaches the data, and it is borrowed exclusively.
        unsafe { MutPtr::deref(&self.data) }
    }
}

impl<R: RawLock, T: ?Sized> Drop for LockGuard<'_, R, T> {
    #[inline]
    fn drop(&mut self) {
        // The access ends before the lock is released.
        // SAFETY: dropped once, here, and not used again.
        unsafe { ManuallyDrop::drop(&mut self.data) };
        // SAFETY: a guard exists only while the lock is held, and it does not leave the thread that took it.
        unsafe { self.lock.raw.unlock() };
    }
}

impl<R: RawLock, T: ?Sized + fmt::Debug> fmt::Debug for LockGuard<'_, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
