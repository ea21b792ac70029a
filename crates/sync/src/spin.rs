// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a lock does around its critical section and while it waits.

use crate::atomic::hint;

/// The environment of a spinning lock: what to enter before taking it, and what to do while it is taken.
///
/// A kernel implements it once: [`enter`](SpinEnv::enter) disables preemption or interrupts and returns the guard that
/// enables them again; [`relax`](SpinEnv::relax) is its pause instruction, perhaps with a call to a watchdog. The
/// critical guard is taken *before* the lock and dropped *after* it is released, and is dropped while waiting.
pub trait SpinEnv {
    /// Held for as long as the lock is.
    type Critical;

    /// Enters the critical section that holding the lock needs.
    fn enter(&self) -> Self::Critical;

    /// Called each time the lock was found taken; `tries` counts from 0 and saturates.
    fn relax(&self, tries: u32);
}

impl<E: SpinEnv + ?Sized> SpinEnv for &E {
    type Critical = E::Critical;

    fn enter(&self) -> Self::Critical {
        (**self).enter()
    }

    fn relax(&self, tries: u32) {
        (**self).relax(tries);
    }
}

/// The default environment: no critical section, the processor's pause instruction while waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin;

impl SpinEnv for Spin {
    type Critical = ();

    #[inline]
    fn enter(&self) {}

    #[inline]
    fn relax(&self, tries: u32) {
        hint::spin(tries);
    }
}
