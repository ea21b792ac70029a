// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of all frames, and their descriptors: two allocations that a memory owns.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use mmkit_addr::Pfn;
use mmkit_page::Page;

/// log2 of the bytes of a frame.
pub(crate) const SHIFT: u32 = 12;
/// Bytes of a frame.
pub(crate) const BYTES: u64 = 1 << SHIFT;
/// What the frames and the descriptors are aligned to: the system can have them in huge pages, as a kernel has its direct map.
const ALIGN: usize = 2 << 20;
/// The number of the first frame. Not 0, so that a frame number that was never set names no frame.
pub(crate) const FIRST: u64 = 1 << 10;

/// Memory for `frames` frames and as many descriptors.
pub(crate) struct Arena {
    /// What was allocated, with room to align.
    start: NonNull<u8>,
    layout: Layout,
    /// The first frame's first byte.
    base: NonNull<u8>,
    pages: NonNull<Page>,
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
        let bytes = usize::try_from(frames.checked_mul(BYTES)?).ok()?.checked_add(ALIGN)?;
        // The alignment is made by hand: for alignments beyond its own, the system's allocator would write the zeroes, and
        // so make all of the memory resident.
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).ok()?;
        if frames == 0 {
            return None;
        }
        // SAFETY: the layout has a size above 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = start.addr().get().next_multiple_of(ALIGN) - start.addr().get();
        // SAFETY: less than the alignment further, and so much more than asked for was allocated.
        let base = unsafe { start.add(skip) };
        let Some(pages) = descriptors(frames) else {
            // SAFETY: just allocated with this layout, and not used.
            unsafe { dealloc(start.as_ptr(), layout) };
            return None;
        };
        Some(Self { start, layout, base, pages, frames })
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The first descriptor.
    pub(crate) fn pages(&self) -> NonNull<Page> {
        self.pages
    }

    /// The first byte of a frame.
    #[inline]
    pub(crate) fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        let index = pfn.get().checked_sub(FIRST).filter(|&index| index < self.frames)?;
        // SAFETY: a frame below `frames`, all of which lie in the allocation.
        Some(unsafe { self.base.add((index as usize) << SHIFT) })
    }
}

fn layout_of_descriptors(frames: u64) -> Option<Layout> {
    Layout::array::<Page>(usize::try_from(frames).ok()?).ok()?.align_to(ALIGN).ok()
}

/// As many descriptors as there are frames.
fn descriptors(frames: u64) -> Option<NonNull<Page>> {
    let layout = layout_of_descriptors(frames).filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout has a size above 0.
    let first = NonNull::new(unsafe { alloc(layout) })?.cast::<Page>();
    for nth in 0..frames as usize {
        // SAFETY: one of the array that was just allocated.
        let page = unsafe { first.add(nth) };
        // SAFETY: as aligned as a descriptor, since the first one is, and nobody else's yet.
        unsafe { page.write(Page::new()) };
    }
    Some(first)
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(layout) = layout_of_descriptors(self.frames) {
            // SAFETY: allocated with this layout in `descriptors`, and given back once. The memory map over them is gone by now:
            // `Memory` drops it first. A descriptor has nothing to drop.
            unsafe { dealloc(self.pages.as_ptr().cast(), layout) };
        }
        // SAFETY: allocated with this layout in `new`, and given back once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
