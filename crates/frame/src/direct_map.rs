// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that makes frames reachable.

use core::ptr::NonNull;

use mmkit_addr::Pfn;

static_assertions::assert_obj_safe!(DirectMap);

/// Where the bytes of a frame can be read and written.
///
/// A pointer is good for one frame: the next frame may be anywhere. Having a pointer gives no right to use it; who may
/// is settled by who owns the frame. It is object safe, and implemented for references.
///
/// Source: ours. (Linux: `page_address`, `__va`; the architecture's direct or linear map.)
///
/// # Safety
///
/// Whoever implements this promises:
///
/// * **Valid.** A pointer returned for `pfn` is aligned to, and valid for reads and writes of, `1 << base_shift()`
///   bytes, from any thread, for as long as `self` lives, whoever owns the frame. (Moving `self` keeps it valid.)
/// * **Initialised.** The bytes are initialised, though arbitrary.
/// * **Stable.** The same `pfn` always gives the same pointer, once it has one.
/// * **Disjoint.** Different frames never overlap.
/// * **Constant.** `base_shift` is 12, 14 or 16 and never changes.
pub unsafe trait DirectMap {
    /// log2 of the bytes of a frame: 12, 14 or 16.
    fn base_shift(&self) -> u32;

    /// The first byte of the frame, or `None` where the map has no such frame.
    ///
    /// Cost: an addition, where the map is linear.
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>>;
}

// SAFETY: every call is passed on unchanged, so each clause holds for `&T` because it holds for `T`.
unsafe impl<T: DirectMap + ?Sized> DirectMap for &T {
    #[inline]
    fn base_shift(&self) -> u32 {
        (**self).base_shift()
    }

    #[inline]
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        (**self).frame(pfn)
    }
}
