// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tables live in: an environment, and the machine that caches translations.

use mmkit_frame::Env;
#[cfg(not(mmkit_loom))]
use mmkit_frame::{Bare, DirectMap, FrameAllocator};

use crate::Mmu;

/// An environment with the processors that walk tables.
///
/// * The lock serialises whoever changes entries. It is held for the length of one operation on the tables, during which
///   [`Mmu::replace`] is called; never while frames are allocated or given back, while caches are flushed, while readers
///   are waited for, or while a caller's closure runs.
/// * The read side is entered by walkers that take no lock; frames wait for it before they are given back.
///
/// # Safety
///
/// * `mmu` returns the same object every time, however the value is moved.
/// * In a build for the model checker (`--cfg mmkit_loom`) the pointer of a frame leads to modelled atomics, as many as a
///   table has entries, instead of bytes. (Elsewhere nothing is asked beyond what
///   [`Frames::new`](mmkit_frame::Frames::new) was promised.)
pub unsafe trait TableEnv: Env {
    /// The processors that walk the tables, if any; `()` where there are none.
    type Mmu: Mmu;

    /// The processors.
    fn mmu(&self) -> &Self::Mmu;
}

// SAFETY: the call is passed on to the one value behind the reference.
unsafe impl<T: TableEnv + ?Sized> TableEnv for &T {
    type Mmu = T::Mmu;

    fn mmu(&self) -> &Self::Mmu {
        (**self).mmu()
    }
}

// SAFETY: there is one `()`.
#[cfg(not(mmkit_loom))]
unsafe impl<A: FrameAllocator, D: DirectMap> TableEnv for Bare<A, D> {
    type Mmu = ();

    fn mmu(&self) -> &() {
        &()
    }
}
