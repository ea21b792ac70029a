// SPDX-License-Identifier: MIT OR Apache-2.0
//! An allocator and the map that reaches its frames, promised to belong together.

use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};

use crate::{AllocError, DirectMap, FrameAllocator, OwnedBlock, Request};

/// A word of a frame: 8 bytes that any number of threads may read and write.
///
/// It is the hardware's atomic under the model checker too (where `mmkit_sync::atomic::AtomicU64` is another type):
/// a frame is plain memory, and a modelled atomic cannot be made of that.
pub type Word = core::sync::atomic::AtomicU64;

/// A frame allocator and a direct map of the same frames.
///
/// Code that builds something out of frames (page tables, a virtual memory map) takes one of these. `A` and `D` may be
/// values, references or `&dyn` objects; the bundle is `Copy` where they are.
///
/// Cost: what its halves cost; the bundle adds nothing. Source: ours. (Linux has one direct map and one allocator for
/// the whole system, so it needs no such type.)
#[derive(Clone, Copy, Debug)]
pub struct Frames<A, D> {
    allocator: A,
    map: D,
}

impl<A: FrameAllocator, D: DirectMap> Frames<A, D> {
    /// Bundles `allocator` with `map`.
    ///
    /// # Safety
    ///
    /// * `map` has a pointer for every frame that `allocator` hands out.
    /// * Nothing but the frame's owner, or with the owner's leave, accesses memory behind it while it is handed out.
    pub const unsafe fn new(allocator: A, map: D) -> Self {
        Self { allocator, map }
    }

    /// The allocator.
    #[inline]
    pub const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// The direct map.
    #[inline]
    pub const fn map(&self) -> &D {
        &self.map
    }

    /// log2 of the bytes of a frame: 12, 14 or 16.
    #[inline]
    pub fn base_shift(&self) -> u32 {
        self.map.base_shift()
    }

    /// Bytes of a frame.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        1 << self.base_shift()
    }

    /// The first byte of the frame, or `None` where the map has no such frame; never `None` for a frame that the
    /// allocator handed out. The pointer is good for [`frame_bytes`](Self::frame_bytes) bytes.
    #[inline]
    pub fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        self.map.frame(pfn)
    }

    /// The frame as words, `frame_bytes() / 8` of them, or `None` where the map has no such frame.
    ///
    /// # Safety
    ///
    /// For as long as the words are in use,
    ///
    /// * the frame is owned by the caller, or by somebody who lets the caller access it, and is not given back;
    /// * everybody else who accesses it does so through atomics of 8 bytes, or only reads while nobody writes.
    #[inline]
    pub unsafe fn words(&self, pfn: Pfn) -> Option<&[Word]> {
        let start = self.map.frame(pfn)?.cast::<Word>();
        // SAFETY: by the contract of `DirectMap` the frame is aligned to, and valid and initialised for, so many bytes
        // for as long as the map lives, which `self` owns or borrows; any bytes make a `Word`; the caller rules out
        // accesses that conflict with a shared slice of atomics.
        Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), self.frame_bytes() / size_of::<Word>()) })
    }

    /// Takes one block; the caller owes it to [`deallocate`](Self::deallocate).
    ///
    /// # Errors
    ///
    /// As [`FrameAllocator::allocate`].
    pub fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        self.allocator.allocate(request)
    }

    /// Takes `out.len()` blocks, all or none.
    ///
    /// # Errors
    ///
    /// As [`FrameAllocator::allocate_bulk`].
    pub fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        self.allocator.allocate_bulk(request, out)
    }

    /// Takes one block that gives itself back when dropped.
    ///
    /// # Errors
    ///
    /// As [`FrameAllocator::allocate`].
    pub fn allocate_owned(&self, request: Request) -> Result<OwnedBlock<'_, A, D>, AllocError> {
        let pfn = self.allocator.allocate(request)?;
        // SAFETY: the allocator has just handed it out at this order, and nobody else knows of it.
        Ok(unsafe { self.adopt(pfn, request.order) })
    }

    /// Makes a block that is out give itself back when dropped.
    ///
    /// # Safety
    ///
    /// * The caller may give the block back, as [`FrameAllocator::deallocate`] asks, and leaves that to the guard.
    /// * While the guard lives, everybody else accesses the block as [`words`](Self::words) asks.
    pub unsafe fn adopt(&self, pfn: Pfn, order: Order) -> OwnedBlock<'_, A, D> {
        OwnedBlock::new(self, pfn, order)
    }

    /// Gives one block back.
    ///
    /// # Safety
    ///
    /// As [`FrameAllocator::deallocate`].
    pub unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller promises what the allocator asks.
        unsafe { self.allocator.deallocate(pfn, order) }
    }

    /// Makes a block freeable in parts only.
    ///
    /// # Safety
    ///
    /// As [`FrameAllocator::split`].
    pub unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        // SAFETY: the caller promises what the allocator asks.
        unsafe { self.allocator.split(pfn, from, to) }
    }
}
