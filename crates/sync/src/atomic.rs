// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics facade: `core`'s types, or loom's when the build is for model checking (`--cfg mmkit_loom`).
//!
//! Every protocol of the kit names its atomics through this module, so that the code that ships is the code that loom
//! explores. Two rules follow from what loom can model:
//!
//! * **No sequentially consistent accesses.** Loom treats them as acquire and release. Where store buffering matters,
//!   use `fence(SeqCst)` between [`Ordering::Relaxed`] accesses.
//! * **Constructors are `const` only outside loom.** Code that must build under both creates its atomics at run time.
//!
//! With the feature `count-atomics` the words of 4 and 8 bytes count their read-modify-writes, for tests that assert how
//! many an operation does (`read_modify_writes`). Without it they are `core`'s own.
//!
//! [`UnsafeCell`] has loom's closure-shaped interface, so that a model sees where each access begins and ends.

#[cfg(not(mmkit_loom))]
mod imp {
    pub use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicUsize, fence};
    #[cfg(not(feature = "count-atomics"))]
    pub use core::sync::atomic::{AtomicU32, AtomicU64};

    pub use super::cell::{ConstPtr, MutPtr, UnsafeCell};
    #[cfg(feature = "count-atomics")]
    pub use super::counted::{AtomicU32, AtomicU64};
}

#[cfg(mmkit_loom)]
mod imp {
    pub use loom::cell::{ConstPtr, MutPtr, UnsafeCell};
    pub use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence,
    };
}

pub use core::sync::atomic::Ordering;

pub use imp::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, ConstPtr, MutPtr,
    UnsafeCell, fence,
};

#[cfg(not(mmkit_loom))]
mod cell;
#[cfg(all(not(mmkit_loom), feature = "count-atomics"))]
mod counted;

#[cfg(all(not(mmkit_loom), feature = "count-atomics"))]
pub use counted::read_modify_writes;

/// What to do while waiting for another thread.
pub mod hint {
    /// Tells the processor, or loom, that this thread is waiting in a loop.
    #[inline]
    pub fn spin_loop() {
        #[cfg(not(mmkit_loom))]
        core::hint::spin_loop();
        #[cfg(mmkit_loom)]
        loom::thread::yield_now();
    }

    /// The same for the `tries`-th turn of a loop, counted from 0.
    ///
    /// Under loom the third turn ends the exploration of the branch: a thread that has yielded twice and still waits
    /// shows nothing new, and a loop would never end.
    #[inline]
    pub fn spin(tries: u32) {
        #[cfg(not(mmkit_loom))]
        let _ = tries;
        #[cfg(mmkit_loom)]
        if tries >= 2 {
            loom::skip_branch();
        }
        spin_loop();
    }
}
