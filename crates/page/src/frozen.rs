// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owning a block that has no references.

use core::fmt;

use mmkit_addr::Order;
use mmkit_sync::atomic::Ordering;

use crate::block::{Block, tell};
use crate::tag::Tag;
use crate::{Folio, Free, MemMap, Reason, Refused};

/// The one handle to a block whose count is 0. Linux: a folio with a frozen reference count.
///
/// Nobody can take a reference, so its owner may change what the block is: make it a compound and undo that, hand it
/// out, give it back to the allocator. There is only one, and it cannot be copied:
///
/// ```compile_fail,E0599
/// # use mmkit_page::{Frozen, MemMap};
/// fn two<M: MemMap>(frozen: Frozen<'_, M>) {
///     let _second = frozen.clone();
/// }
/// ```
///
/// It ends with what it becomes:
///
/// ```compile_fail,E0382
/// # use mmkit_page::{Frozen, MemMap};
/// fn still_mine<M: MemMap>(frozen: Frozen<'_, M>) {
///     let _folio = frozen.into_folio();
///     let _ = frozen.prep();
/// }
/// ```
///
/// Dropping it leaks the block: nobody can reach it any more, and nothing is freed that might be in use.
#[must_use = "a dropped frozen block is lost; hand it out or give it back"]
pub struct Frozen<'m, M: MemMap> {
    pub(crate) block: Block<'m, M>,
}

tell!(Frozen);

impl<'m, M: MemMap> Frozen<'m, M> {
    /// For a block whose count just became 0 in the caller's hands.
    pub(crate) fn new(block: Block<'m, M>) -> Self {
        Self { block }
    }

    /// Makes the block a compound: every other descriptor becomes a tail. Linux: `prep_compound_page`.
    ///
    /// # Errors
    ///
    /// The block, unchanged: of one frame, or a compound already.
    ///
    /// Cost: 64 bytes written for each frame but the first, no atomic read-modify-write.
    pub fn prep(self) -> Result<Self, Refused<Self>> {
        let tag = self.block.tag();
        let order = tag.order();
        if order == Order::ZERO {
            return Err(Refused::new(self, Reason::SingleFrame));
        }
        if tag.is_compound() {
            return Err(Refused::new(self, Reason::Compound { order }));
        }
        self.rewrite_others(Tag::tail(order));
        self.block.retag(tag.with_compound(true));
        Ok(self)
    }

    /// Undoes [`prep`](Self::prep): every other descriptor becomes that of a frame inside the block.
    ///
    /// # Errors
    ///
    /// The block, unchanged: not a compound, or one whose tails are shared. Those are not its own to write; they
    /// become its own where the memory map gives it descriptors again.
    ///
    /// Cost: 64 bytes written for each frame but the first, no atomic read-modify-write.
    pub fn unprep(self) -> Result<Self, Refused<Self>> {
        let tag = self.block.tag();
        if !tag.is_compound() {
            return Err(Refused::new(self, Reason::NotCompound));
        }
        if tag.is_shared() {
            return Err(Refused::new(self, Reason::SharedTails { order: tag.order() }));
        }
        self.rewrite_others(Tag::INSIDE_BLOCK);
        self.block.retag(tag.with_compound(false));
        Ok(self)
    }

    /// Hands the block out, with one reference.
    ///
    /// Cost: one store, of Release ordering: pairs with the Acquire of [`PageView::try_get`](crate::PageView::try_get).
    pub fn into_folio(self) -> Folio<'m, M> {
        let page = self.block.page();
        page.written();
        page.info.store_unique(1, self.block.tag().bits());
        Folio::new(self.block)
    }

    /// Gives the block back to its allocator. Flags and words of the head are cleared, and of a compound, which stays
    /// one, the words of the tails that are always its own.
    pub fn into_free(self) -> Free<'m, M> {
        let page = self.block.page();
        page.clear_words();
        self.block.clear_own_tails();
        page.flags.store(self.block.place().bits(), Ordering::Relaxed);
        self.block.retag(self.block.tag().with_free(true));
        Free::new(self.block)
    }

    /// Gives every descriptor but the first `tag`, and clears its words. The block's tails are its own.
    fn rewrite_others(&self, tag: Tag) {
        let place = self.block.place();
        // Blocks grow only out of frames that are in the map, so each has a descriptor.
        for page in self.block.each(1..self.block.order().frames()) {
            page.clear_words();
            page.flags.store(place.bits(), Ordering::Relaxed);
            page.info.store_unique(0, tag.bits());
        }
    }
}

impl<M: MemMap> fmt::Debug for Frozen<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({:?}, {:?})", self.pfn(), self.block.tag())
    }
}
