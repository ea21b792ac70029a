// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that a frame allocator implements.

use core::fmt;

use mmkit_addr::{Order, Pfn};

use crate::Request;

/// An allocator of naturally aligned blocks of frames.
///
/// # Safety
///
/// * A block returned by [`allocate`](Self::allocate) is naturally aligned in frame-number space and belongs to the
///   caller alone until it is given back.
/// * An error changes nothing: no frame is lost or handed out.
/// * A request with `zeroed` returns frames whose every byte is zero.
/// * `split` changes only how the block may be given back, never its contents or its owner.
pub unsafe trait FrameAllocator {
    /// Takes one block.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where no block satisfies `request`; nothing has changed then.
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError>;

    /// Takes `out.len()` blocks, all or none.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where fewer could be had; those that could are given back, and `out` is arbitrary.
    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        for taken in 0..out.len() {
            match self.allocate(request) {
                Ok(pfn) => out[taken] = pfn,
                Err(error) => {
                    for &pfn in &out[..taken] {
                        // SAFETY: `allocate` returned `pfn` at this order above, and nobody else has seen it.
                        unsafe { self.deallocate(pfn, request.order) };
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives one block back.
    ///
    /// # Safety
    ///
    /// `pfn` was returned by `allocate` of this allocator at `order`, or is a part of such a block that
    /// [`split`](Self::split) made freeable at `order`; nothing uses it any more; it is given back once.
    unsafe fn deallocate(&self, pfn: Pfn, order: Order);

    /// Makes the block at `pfn` of order `from` freeable in parts of order `to`.
    ///
    /// # Safety
    ///
    /// The caller owns the block `(pfn, from)`, as [`deallocate`](Self::deallocate) would ask, and `to <= from`.
    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order);
}

/// No block satisfies the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// What was asked for.
    pub request: Request,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no free block of {:?} on {:?}", self.request.order, self.request.node)
    }
}

impl core::error::Error for AllocError {}

// SAFETY: every call is passed on unchanged, so each clause holds for `&T` because it holds for `T`.
unsafe impl<T: FrameAllocator + ?Sized> FrameAllocator for &T {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        (**self).allocate(request)
    }

    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        (**self).allocate_bulk(request, out)
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller's promise is about the allocator behind the reference.
        unsafe { (**self).deallocate(pfn, order) }
    }

    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        // SAFETY: the caller's promise is about the allocator behind the reference.
        unsafe { (**self).split(pfn, from, to) }
    }
}
