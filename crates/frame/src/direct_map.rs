// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that makes frames reachable.

use core::ptr::NonNull;

use mmkit_addr::Pfn;

/// Where the bytes of a frame can be read and written.
///
/// # Safety
///
/// * A pointer returned for `pfn` is aligned to, and valid for reads and writes of, `1 << base_shift()` bytes, for as
///   long as `self` lives, whoever owns the frame.
/// * The same `pfn` always gives the same pointer; different frames never overlap.
/// * `base_shift` never changes.
pub unsafe trait DirectMap {
    /// log2 of the bytes of a frame: 12, 14 or 16.
    fn base_shift(&self) -> u32;

    /// The first byte of the frame, or `None` where the map has no such frame.
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>>;
}

// SAFETY: every call is passed on unchanged, so each clause holds for `&T` because it holds for `T`.
unsafe impl<T: DirectMap + ?Sized> DirectMap for &T {
    fn base_shift(&self) -> u32 {
        (**self).base_shift()
    }

    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        (**self).frame(pfn)
    }
}
