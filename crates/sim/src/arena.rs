// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of all frames, and their descriptors: two allocations that a memory owns.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use mmkit_addr::Pfn;
use mmkit_page::Page;

/// log2 of the bytes of a frame.
pub(crate) const SHIFT: u32 = 12;
/// Bytes of a frame.
pub(crate) const BYTES: u64 = 1 << SHIFT;
/// The number of the first frame. Not 0, so that a frame number that was never set names no frame.
pub(crate) const FIRST: u64 = 1 << 10;

/// Memory for `frames` frames and as many descriptors.
pub(crate) struct Arena {
    /// What was allocated, with room to align.
    start: NonNull<u8>,
    layout: Layout,
    /// The first frame's first byte.
    base: NonNull<u8>,
    pages: NonNull<[Page]>,
    frames: u64,
}

// SAFETY: the arena owns two allocations that are tied to no thread; it gives out pointers, and what is done with them is
// their users' affair.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`: `&Arena` only gives out pointers.
unsafe impl Sync for Arena {}

impl Arena {
    /// `None` where there are no frames, or too many for this process.
    pub(crate) fn new(frames: u64) -> Option<Self> {
        let bytes = usize::try_from(frames.checked_mul(BYTES)?.checked_add(BYTES)?).ok()?;
        // The alignment is made by hand: for alignments beyond its own, the system's allocator would write the zeroes, and
        // so make all of the memory resident.
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).ok()?;
        if frames == 0 {
            return None;
        }
        // SAFETY: the layout has a size above 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = start.addr().get().next_multiple_of(BYTES as usize) - start.addr().get();
        // SAFETY: less than one frame further, and one frame more than asked for was allocated.
        let base = unsafe { start.add(skip) };
        let pages: Box<[Page]> = (0..frames).map(|_| Page::new()).collect();
        Some(Self { start, layout, base, pages: NonNull::from(Box::leak(pages)), frames })
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The first descriptor.
    pub(crate) fn pages(&self) -> NonNull<Page> {
        self.pages.cast()
    }

    /// The first byte of a frame.
    #[inline]
    pub(crate) fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        let index = pfn.get().checked_sub(FIRST).filter(|&index| index < self.frames)?;
        // SAFETY: a frame below `frames`, all of which lie in the allocation.
        Some(unsafe { self.base.add((index as usize) << SHIFT) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the pages came out of a box, and the memory map over them is gone by now: `Memory` drops it first.
        drop(unsafe { Box::from_raw(self.pages.as_ptr()) });
        // SAFETY: allocated with this layout in `new`, and given back once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
