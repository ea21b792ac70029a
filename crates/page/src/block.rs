// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all handles are made of: a frame number, its descriptor, and the map that both come from.

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn};

use crate::tag::Tag;
use crate::{MemMap, OWN_DESCRIPTORS, Page, PageFlags, Place, Reader, Reason};

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
    #[inline]
    pub(crate) unsafe fn new(map: &'m M, pfn: Pfn) -> Option<Self> {
        // SAFETY: the caller is inside the read side.
        let page = unsafe { map.descriptor(pfn) }?;
        Some(Self { map, page, pfn })
    }

    /// The block whose head is `head`, where this one was made for a frame of it; the map is not asked if that is the head.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    #[inline(always)]
    pub(crate) unsafe fn at_head(&self, head: Pfn) -> Option<Self> {
        // One value is chosen, and not a whole block, which would be put together in memory.
        let page = if head == self.pfn {
            self.page
        } else {
            // SAFETY: the caller is inside the read side.
            unsafe { self.map.descriptor(head) }?
        };
        Some(Self { map: self.map, page, pfn: head })
    }

    /// As [`new`](Self::new), for callers outside of the read side: a handle keeps the descriptors of its block in
    /// place, but not what a map goes through to find them.
    ///
    /// # Safety
    ///
    /// The descriptor of every frame of the block stays readable for as long as the block or a copy of it is used.
    #[inline]
    pub(crate) unsafe fn find(map: &'m M, pfn: Pfn) -> Option<Self> {
        let _reader = Reader::new(map);
        // SAFETY: inside the reader; the rest is the caller's promise.
        unsafe { Self::new(map, pfn) }
    }

    /// Where the head's descriptor is.
    #[inline]
    pub(crate) fn descriptor(&self) -> NonNull<Page> {
        self.page
    }

    /// The same block, whose head's descriptor is elsewhere now.
    pub(crate) fn set_descriptor(&mut self, page: NonNull<Page>) {
        self.page = page;
    }

    /// The head's descriptor.
    #[inline]
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

    /// The descriptors of the frames from `indices.start` to `indices.end` after the head, which lie in the block.
    ///
    /// The map is asked for each run of descriptors, inside one stay in its read side; not at all for the first four.
    #[inline]
    pub(crate) fn each(&self, indices: Range<u64>) -> Each<'_, 'm, M> {
        Each::new(self, indices)
    }

    /// What the block is, for its handle: a handle saw the descriptor when it was made, and its tag stays since.
    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        Tag::from_bits(self.page().info.load().tag)
    }

    #[inline]
    pub(crate) fn order(&self) -> Order {
        self.tag().order()
    }

    pub(crate) fn place(&self) -> Place {
        Place::from_bits(self.flags_word())
    }

    #[inline]
    pub(crate) fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags_word())
    }

    #[inline]
    fn flags_word(&self) -> u64 {
        self.page().flags.load(mmkit_sync::atomic::Ordering::Relaxed)
    }

    /// The halves of a block whose one handle the caller has, each with the tag that `half` makes of its order.
    pub(crate) fn split(&self, half: impl Fn(Order) -> Tag) -> Result<(Self, Self), Reason> {
        let tag = self.tag();
        if tag.is_compound() {
            return Err(Reason::Compound { order: tag.order() });
        }
        let order = tag.order().get().checked_sub(1).and_then(Order::new).ok_or(Reason::SingleFrame)?;
        let buddy = self.pfn.checked_add(order.frames()).ok_or(Reason::Absent)?;
        // SAFETY: the upper half is part of this block, whose handle keeps its descriptors in place, and then its own.
        let upper = unsafe { Block::find(self.map, buddy) }.ok_or(Reason::Absent)?;
        // Its owner words may be those of a block that was merged into this one.
        upper.page().clear_words();
        upper.retag(half(order));
        self.retag(half(order));
        Ok((*self, upper))
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

/// The descriptors of consecutive frames of a block.
pub(crate) struct Each<'b, 'm, M: MemMap> {
    block: Block<'m, M>,
    _borrowed: PhantomData<&'b ()>,
    _reader: Option<Reader<'m, M>>,
    indices: Range<u64>,
    /// The descriptor of the next frame, and how many lie there one behind the other, at least 1. Found before it is asked
    /// for, so that there is nothing left to do between one and the next but where a run ends.
    run: Option<(NonNull<Page>, u64)>,
}

impl<'m, M: MemMap> Each<'_, 'm, M> {
    #[inline]
    fn new(block: &Block<'m, M>, indices: Range<u64>) -> Self {
        let reader = (indices.end > OWN_DESCRIPTORS).then(|| Reader::new(block.map));
        let mut each = Self { block: *block, _borrowed: PhantomData, _reader: reader, indices, run: None };
        each.run = each.look_up();
        each
    }

    /// The run that starts with the first of `indices`.
    #[inline]
    fn look_up(&self) -> Option<(NonNull<Page>, u64)> {
        let Range { start, end } = self.indices;
        if start >= end {
            return None;
        }
        if end <= OWN_DESCRIPTORS {
            // SAFETY: a block is naturally aligned, so these frames and the head lie in one aligned group of four, whose
            // descriptors `MemMap` promises to be adjacent, in one piece of memory.
            return Some((unsafe { self.block.page.add(start as usize) }, end - start));
        }
        let pfn = self.block.pfn.checked_add(start)?;
        // SAFETY: inside the reader, which was entered if any index is so high; all frames of the block are in the map.
        unsafe { self.block.map.run(pfn, end - start) }
    }
}

impl<'b, M: MemMap> Iterator for Each<'b, '_, M> {
    type Item = &'b Page;

    #[inline]
    fn next(&mut self) -> Option<&'b Page> {
        let (page, left) = self.run?;
        self.indices.start += 1;
        self.run = if left > 1 {
            // SAFETY: the run has a descriptor behind this one.
            Some((unsafe { page.add(1) }, left - 1))
        } else {
            self.look_up()
        };
        // SAFETY: the frame lies in the block, so the promise of `Block::new` covers its descriptor.
        Some(unsafe { Page::from_ptr(page) })
    }

    #[inline]
    fn fold<B, F: FnMut(B, &'b Page) -> B>(mut self, init: B, mut f: F) -> B {
        let mut folded = init;
        while let Some((first, left)) = self.run {
            for offset in 0..left as usize {
                // SAFETY: the run has as many.
                let page = unsafe { first.add(offset) };
                // SAFETY: as in `next`.
                folded = f(folded, unsafe { Page::from_ptr(page) });
            }
            self.indices.start += left;
            self.run = self.look_up();
        }
        folded
    }
}

/// What every handle tells about its block.
macro_rules! tell {
    ($handle:ident) => {
        impl<'m, M: $crate::MemMap> $handle<'m, M> {
            /// The map that the handle comes from.
            #[inline]
            #[must_use]
            pub fn map(&self) -> &'m M {
                self.block.map
            }

            /// The first frame.
            #[inline]
            #[must_use]
            pub fn pfn(&self) -> mmkit_addr::Pfn {
                self.block.pfn
            }

            /// log2 of the number of frames. It cannot change while the handle exists.
            #[inline]
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
            #[inline]
            #[must_use]
            pub fn has_shared_tails(&self) -> bool {
                self.block.tag().is_shared()
            }
        }
    };
}
pub(crate) use tell;
