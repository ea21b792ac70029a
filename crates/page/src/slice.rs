// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map over an array of descriptors that the user already has.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use mmkit_addr::{Pfn, PfnRange};
use mmkit_sync::Immovable;

use crate::{Counting, MemMap, Page, Uncounted};

/// A memory map of consecutive frames over a slice of descriptors, which never moves. Linux: `FLATMEM`.
///
/// The slice is borrowed for as long as the map exists, so nobody else can reach the descriptors, or give them other
/// frame numbers.
///
/// ```
/// use mmkit_addr::{Pfn, PfnRange};
/// use mmkit_page::{MemMap, Page, Place, SliceMap, State};
///
/// let mut pages = [const { Page::new() }; 8];
/// let first = Pfn::new(0x100).unwrap();
/// let map = SliceMap::new(&mut pages, first).unwrap();
/// map.initialise(map.range(), Place::default())?;
///
/// let folio = map.claim(first)?.allocate().into_folio();
/// assert_eq!(map.try_get(first).unwrap().count(), 2);
/// drop(folio); // the last reference: the frame is free again
/// # Ok::<(), mmkit_page::ClaimError>(())
/// ```
///
/// ```compile_fail,E0502
/// # use mmkit_addr::Pfn;
/// # use mmkit_page::{Page, SliceMap};
/// let mut pages = [const { Page::new() }; 8];
/// let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
/// let around = &pages[0];
/// let _ = (map.range(), around);
/// ```
pub struct SliceMap<'a, C = Uncounted> {
    /// Where the descriptor of frame 0 would be. Only from the frames of `range` does it lead to memory.
    frame_zero: *mut Page,
    range: PfnRange,
    _pages: PhantomData<&'a mut [Page]>,
    _counts: PhantomData<fn() -> C>,
}

// SAFETY: the map is an exclusive borrow of descriptors, all of whose fields are atomics: `Page` is `Send` and `Sync`.
unsafe impl<C> Send for SliceMap<'_, C> {}
// SAFETY: through `&SliceMap` only shared references to `Page` are made, and `Page` is `Sync`.
unsafe impl<C> Sync for SliceMap<'_, C> {}

impl<'a> SliceMap<'a> {
    /// A map of frames `first..first + pages.len()`, none of them initialised, or `None` where those pass
    /// [`Pfn::MAX`].
    ///
    /// What an earlier map left in the descriptors is overwritten. It could name blocks that this map does not have:
    /// whoever has a `&mut [Page]` can cut it, mix it with another, and number it anew.
    ///
    /// Cost: 64 bytes written for each frame.
    #[must_use]
    pub fn new(pages: &'a mut [Page], first: Pfn) -> Option<Self> {
        Self::counted(pages, first)
    }
}

impl<'a, C> SliceMap<'a, C> {
    /// As [`new`](SliceMap::new), for folios whose mappings are counted as `C` says.
    #[must_use]
    pub fn counted(pages: &'a mut [Page], first: Pfn) -> Option<Self> {
        let range = PfnRange::new(first, pages.len() as u64)?;
        pages.fill_with(Page::new);
        // SAFETY: one descriptor for each frame of `range`, all zero, borrowed exclusively for `'a`.
        Some(unsafe { Self::from_raw_parts(NonNull::from(pages).cast(), range) })
    }

    /// A map of the frames of `range` over the descriptors from `base` up, as they stand.
    ///
    /// For memory that is known to be zeroed, which then need not be touched; for descriptors written with
    /// [`Template`](crate::Template)s; and to go on where an earlier map of the same frames ended.
    ///
    /// Cost: nothing is read or written.
    ///
    /// # Safety
    ///
    /// * `base` is aligned to, and for `'a` valid for reads and writes of, one [`Page`] for each frame of `range`, all in
    ///   one allocation; nobody else accesses them.
    /// * Each descriptor is all zero bytes, or as written with a template at its frame number, or as this crate left
    ///   it under the same frame number; and each block lies in `range` as a whole.
    #[must_use]
    pub unsafe fn from_raw_parts(base: NonNull<Page>, range: PfnRange) -> Self {
        // Kept without the first frame's number, which every lookup would have to subtract before it can load.
        let frame_zero = base.as_ptr().wrapping_sub(range.start().get() as usize);
        Self { frame_zero, range, _pages: PhantomData, _counts: PhantomData }
    }

    /// The frames of the map.
    #[must_use]
    pub fn range(&self) -> PfnRange {
        self.range
    }
}

// SAFETY: the pointers are derived from one exclusive borrow that outlives the map, so they are aligned and valid for
// reads and writes all that time, whatever guard is held, and nothing is ever made read-only; each frame has an
// element of its own, found by its number alone. Nothing else can reach the elements while they are borrowed, so no
// other map has them. `new` made all of them zero; of `from_raw_parts` the caller promised the same.
unsafe impl<C: Counting> MemMap for SliceMap<'_, C> {
    type Read = Immovable;
    type Counts = C;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    #[inline]
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        if pfn.get().wrapping_sub(self.range.start().get()) >= self.range.frames() {
            return None;
        }
        let page = self.frame_zero.wrapping_add(pfn.get() as usize);
        // SAFETY: the frame is in the range, so this is a descriptor of the slice, found from the slice's own pointer by
        // going back and forth; where `usize` is shorter than a frame number both ways are cut alike.
        Some(unsafe { NonNull::new_unchecked(page) })
    }

    #[inline]
    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: passed on to the caller. The slice is one piece of memory, and the caller's frames are in it.
        Some((unsafe { self.descriptor(pfn) }?, most))
    }
}

impl<C> fmt::Debug for SliceMap<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SliceMap").field(&self.range).finish()
    }
}
