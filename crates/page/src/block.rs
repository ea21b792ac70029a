// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all handles are made of: a frame number, its descriptor, and the map that both come from.

use core::ops::Range;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};

use crate::tag::Tag;
use crate::{MemMap, Page, PageFlags, Place, Reader};

/// A block of frames, by its head. Not yet a promise: the handle that wraps it says who may do what.
pub(crate) struct Block<'m, M> {
    pub(crate) map: &'m M,
    page: NonNull<Page>,
    pub(crate) pfn: Pfn,
}

impl<M> Clone for Block<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Block<'_, M> {}

// SAFETY: a block is a shared reference to a map and a pointer to a descriptor, whose fields are all atomics. The map
// must be `Sync`, as for `&M`.
unsafe impl<M: Sync> Send for Block<'_, M> {}
// SAFETY: as for `Send`: everything reachable from `&Block` is reachable from `&M` or atomic.
unsafe impl<M: Sync> Sync for Block<'_, M> {}

impl<'m, M: MemMap> Block<'m, &M> {
    /// The same block, of the map behind the reference.
    pub(crate) fn through_reference(self) -> Block<'m, M> {
        Block { map: self.map, page: self.page, pfn: self.pfn }
    }
}

impl<'m, M: MemMap> Block<'m, M> {
    /// The block whose head is `pfn`.
    ///
    /// # Safety
    ///
    /// * The caller is inside the read side of `map`.
    /// * The descriptor of every frame of the block stays readable for as long as the block or a copy of it is used.
    pub(crate) unsafe fn new(map: &'m M, pfn: Pfn) -> Option<Self> {
        // SAFETY: the caller is inside the read side.
        let page = unsafe { map.descriptor(pfn) }?;
        Some(Self { map, page, pfn })
    }

    /// As [`new`](Self::new), for callers outside of the read side: a handle keeps the descriptors of its block in
    /// place, but not what a map goes through to find them.
    ///
    /// # Safety
    ///
    /// The descriptor of every frame of the block stays readable for as long as the block or a copy of it is used.
    pub(crate) unsafe fn find(map: &'m M, pfn: Pfn) -> Option<Self> {
        let _reader = Reader::new(map);
        // SAFETY: inside the reader; the rest is the caller's promise.
        unsafe { Self::new(map, pfn) }
    }

    /// The head's descriptor.
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: readable for as long as `self` is used, by the promise of `new`.
        unsafe { Page::from_ptr(self.page) }
    }

    /// Whether the block's map finds the head of `other` where `other` has it: both are in one map then.
    pub(crate) fn shares_map_with(&self, other: &Self) -> bool {
        let _reader = Reader::new(self.map);
        // SAFETY: inside the reader.
        let found = unsafe { self.map.descriptor(other.pfn) };
        found == Some(other.page)
    }

    /// The descriptor of the frame `index` frames after the head, which lies in the block.
    pub(crate) fn nth(&self, index: u64) -> Option<&Page> {
        self.each(index..index.checked_add(1)?).next()
    }

    /// The descriptors of the frames from `indices.start` to `indices.end` after the head, which lie in the block.
    pub(crate) fn each(&self, indices: Range<u64>) -> impl Iterator<Item = &Page> {
        let reader = Reader::new(self.map);
        indices.filter_map(move |index| {
            let _inside = &reader;
            // SAFETY: inside the reader.
            let page = unsafe { self.map.descriptor(self.pfn.checked_add(index)?) }?;
            // SAFETY: the frame lies in the block, so the promise of `new` covers its descriptor.
            Some(unsafe { Page::from_ptr(page) })
        })
    }

    /// The descriptor of frame `index`, which lies in the compound and is one of the first [`OWN_DESCRIPTORS`](crate::OWN_DESCRIPTORS): found
    /// from the head's alone, without asking the map.
    pub(crate) fn beside(&self, index: u64) -> &Page {
        // SAFETY: a compound is naturally aligned, so these frames and the head lie in one aligned group of four, whose
        // descriptors `MemMap` promises to be adjacent, in one piece of memory.
        let page = unsafe { self.page.add(index as usize) };
        // SAFETY: the frame lies in the block, so the promise of `Block::new` covers its descriptor.
        unsafe { Page::from_ptr(page) }
    }

    pub(crate) fn tag(&self) -> Tag {
        self.page().snapshot().0
    }

    pub(crate) fn order(&self) -> Order {
        self.tag().order()
    }

    pub(crate) fn place(&self) -> Place {
        Place::from_bits(self.flags_word())
    }

    pub(crate) fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags_word())
    }

    fn flags_word(&self) -> u64 {
        self.page().flags.load(mmkit_sync::atomic::Ordering::Relaxed)
    }

    /// Gives the head a new tag, with count 0.
    ///
    /// Only for a handle that is the block's only one: nobody else writes the word then.
    pub(crate) fn retag(&self, tag: Tag) {
        let page = self.page();
        page.written();
        page.info.store_unique(0, tag.bits());
    }
}

/// What every handle tells about its block.
macro_rules! tell {
    ($handle:ident) => {
        impl<'m, M: $crate::MemMap> $handle<'m, M> {
            /// The map that the handle comes from.
            #[must_use]
            pub fn map(&self) -> &'m M {
                self.block.map
            }

            /// The first frame.
            #[must_use]
            pub fn pfn(&self) -> mmkit_addr::Pfn {
                self.block.pfn
            }

            /// log2 of the number of frames. It cannot change while the handle exists.
            #[must_use]
            pub fn order(&self) -> mmkit_addr::Order {
                self.block.order()
            }

            /// Node and zone.
            #[must_use]
            pub fn place(&self) -> $crate::Place {
                self.block.place()
            }

            /// Whether the block is a compound: its other descriptors are tails that name the first.
            #[must_use]
            pub fn is_compound(&self) -> bool {
                self.block.tag().is_compound()
            }

            /// Whether only the first descriptors are the block's own, and the others shared and read-only.
            #[must_use]
            pub fn has_shared_tails(&self) -> bool {
                self.block.tag().is_shared()
            }
        }
    };
}
pub(crate) use tell;
