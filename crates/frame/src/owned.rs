// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block that gives itself back.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};

use crate::{DirectMap, FrameAllocator, Frames, Word};

/// A block of frames that goes back to its allocator when dropped, unless [released](Self::release).
///
/// What a fallible step has taken so far is held as these, so that an early return undoes it. Made by
/// [`Frames::allocate_owned`] and [`Frames::adopt`]. Cost: one reference, one frame number and one order; no atomics.
#[must_use = "dropping the block gives it back"]
pub struct OwnedBlock<'a, A: FrameAllocator, D: DirectMap> {
    frames: &'a Frames<A, D>,
    pfn: Pfn,
    order: Order,
}

impl<'a, A: FrameAllocator, D: DirectMap> OwnedBlock<'a, A, D> {
    /// The caller discharges the contract of [`Frames::adopt`].
    pub(crate) const fn new(frames: &'a Frames<A, D>, pfn: Pfn, order: Order) -> Self {
        Self { frames, pfn, order }
    }

    /// First frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// log2 of the number of frames.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The first byte of the block's frame number `index`, or `None` past its last frame. Good for one frame: the next
    /// one may be elsewhere.
    #[must_use]
    pub fn frame(&self, index: u64) -> Option<NonNull<u8>> {
        self.frames.frame(self.nth(index)?)
    }

    /// The block's frame number `index` as words, or `None` past its last frame.
    #[must_use]
    pub fn words(&self, index: u64) -> Option<&[Word]> {
        let pfn = self.nth(index)?;
        // SAFETY: the block is this guard's, which the slice borrows, so it is not given back meanwhile; whoever else
        // has access got it by `unsafe` means that promise atomics of 8 bytes while the guard lives.
        unsafe { self.frames.words(pfn) }
    }

    /// Keeps the block out: the caller owes it to the allocator from here on, at [`order`](Self::order).
    #[must_use = "only the frame number says what is owed"]
    pub fn release(self) -> Pfn {
        ManuallyDrop::new(self).pfn
    }

    fn nth(&self, index: u64) -> Option<Pfn> {
        if index < self.order.frames() { self.pfn.checked_add(index) } else { None }
    }
}

impl<A: FrameAllocator, D: DirectMap> Drop for OwnedBlock<'_, A, D> {
    fn drop(&mut self) {
        // SAFETY: the block became the guard's at this order; no slice of it outlives the guard; drop runs once, and
        // not after `release`.
        unsafe { self.frames.deallocate(self.pfn, self.order) };
    }
}

impl<A: FrameAllocator, D: DirectMap> fmt::Debug for OwnedBlock<'_, A, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owned {:?}, {:?}", self.pfn, self.order)
    }
}
