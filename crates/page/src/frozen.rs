// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owning a block that has no references.

use core::fmt;

use mmkit_addr::{Order, Pfn};
use mmkit_sync::atomic::Ordering;

use crate::block::{Block, tell};
use crate::counting::{OWN_DESCRIPTORS, own};
use crate::flags::{TAILS_FLAGGED, TAILS_POISONED};
use crate::tag::Tag;
use crate::{Folio, Free, MemMap, Page, PageFlags, Reason, Refused};

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

    /// Hands the block out as a shared page of zeroes ([`PageFlags::ZERO`]), which it is from now on: it has one reference more
    /// than the caller, for good. The caller has filled it with zeroes. Linux: `ZERO_PAGE`.
    pub fn into_zeroes(self) -> Folio<'m, M> {
        let page = self.block.page();
        page.written();
        page.flags.fetch_or(PageFlags::ZERO.bits(), Ordering::Relaxed);
        // Pins of it have no references, and must not outlive it. Release: as for `into_folio`, which also orders the flag.
        page.info.store_unique(2, self.block.tag().bits());
        Folio::new(self.block)
    }

    /// Gives the block back to its allocator. Flags and words of the head are cleared, and the words of the tails that are
    /// always its own. A compound stays one, and the flags of its tails end when it is handed out again or
    /// [unprepared](Self::unprep).
    ///
    /// # Errors
    ///
    /// The block, unchanged, if a frame of it is [`HWPOISON`](PageFlags::HWPOISON): such a frame is not free again before
    /// somebody clears the flag. [`split`](Self::split) parts it from the others. Dropping the block keeps all of it from
    /// the allocator for good.
    ///
    /// Cost: four descriptors written, whatever the order; one load for each frame where one of them was ever reported by
    /// the hardware.
    pub fn into_free(self) -> Result<Free<'m, M>, Refused<Self>> {
        if let Some(pfn) = self.poisoned() {
            return Err(Refused::new(self, Reason::Poisoned { pfn }));
        }
        let tag = self.block.tag();
        let page = self.block.page();
        let word = page.flags.load(Ordering::Relaxed);
        page.clear_words();
        self.block.clear_own_tails();
        // Tails that are always a head's own were written just now: a look at their flags as well costs nothing.
        let few = own(tag) <= OWN_DESCRIPTORS;
        if few {
            self.block.clear_tail_flags();
        }
        let kept = if tag.is_compound() && !few { word & TAILS_FLAGGED } else { 0 };
        page.flags.store(self.block.place().bits() | kept, Ordering::Relaxed);
        self.block.retag(tag.with_free(true));
        Ok(Free::new(self.block))
    }

    /// The first frame of the block that is [`HWPOISON`](PageFlags::HWPOISON) by its own descriptor.
    ///
    /// Cost: one load; one for each frame where one of them was ever reported by the hardware.
    #[must_use]
    pub fn poisoned(&self) -> Option<Pfn> {
        let noted = self.block.page().flags.load(Ordering::Relaxed);
        if noted & (PageFlags::HWPOISON.bits() | TAILS_POISONED) == 0 {
            return None;
        }
        let tag = self.block.tag();
        let flagged = 0..if tag.is_compound() { own(tag) } else { tag.order().frames() };
        let poison = |page: &Page| page.flags.load(Ordering::Relaxed) & PageFlags::HWPOISON.bits() != 0;
        let first = self.block.each(flagged).position(poison)?;
        self.block.pfn.checked_add(first as u64)
    }

    /// Splits the block into its two halves, lower first: to part a frame that must not be free again from the others.
    ///
    /// # Errors
    ///
    /// The block, unchanged: of one frame, or a compound.
    ///
    /// The upper half begins with no owner words.
    ///
    /// Cost: two words written, and the words of the upper head.
    pub fn split(self) -> Result<(Self, Self), Refused<Self>> {
        match self.block.split(Tag::head) {
            Ok((lower, upper)) => {
                // Whichever half has the bad frames.
                let note = lower.page().flags.load(Ordering::Relaxed) & TAILS_POISONED;
                let head = upper.page();
                head.flags.store(head.flags.load(Ordering::Relaxed) | note, Ordering::Relaxed);
                Ok((Self::new(lower), Self::new(upper)))
            }
            Err(reason) => Err(Refused::new(self, reason)),
        }
    }

    /// The flags.
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        self.block.flags()
    }

    /// Where the head's descriptor is: for memory maps, which tell by it whether the block is theirs.
    #[must_use]
    pub fn descriptor(&self) -> core::ptr::NonNull<Page> {
        self.block.descriptor()
    }

    /// Says whether only the first descriptors of the compound are its own, and the others shared and read-only. For
    /// memory maps, which decide that. Linux: `folio_set_hugetlb_vmemmap_optimized`.
    ///
    /// Cost: one store, of Release ordering: pairs with the Acquire of those who look the frame up.
    ///
    /// # Safety
    ///
    /// The block is a compound. Where `shared` is `false`, every descriptor of it is its own, and valid for writes.
    pub unsafe fn set_shared_tails(&mut self, shared: bool) {
        self.block.retag(self.block.tag().with_shared(shared));
    }

    /// Says where the head's descriptor is now, after the memory map has moved it.
    ///
    /// # Safety
    ///
    /// The memory map of the block finds the descriptor of its first frame at `page`, and the contract of
    /// [`MemMap`] holds for that from now on as it did for the old one.
    pub unsafe fn moved(&mut self, page: core::ptr::NonNull<Page>) {
        self.block.set_descriptor(page);
    }

    /// Gives every descriptor but the first `tag`, and clears its words and its flags but [`PageFlags::HWPOISON`]. The
    /// block's tails are its own.
    fn rewrite_others(&self, tag: Tag) {
        let head = self.block.page();
        head.written();
        head.flags.store(head.flags.load(Ordering::Relaxed) & !TAILS_FLAGGED, Ordering::Relaxed);
        let place = self.block.place().bits();
        // Blocks grow only out of frames that are in the map, so each has a descriptor.
        for page in self.block.each(1..self.block.order().frames()) {
            page.clear_words();
            let poison = page.flags.load(Ordering::Relaxed) & PageFlags::HWPOISON.bits();
            page.flags.store(place | poison, Ordering::Relaxed);
            page.info.store_unique(0, tag.bits());
        }
    }
}

impl<M: MemMap> fmt::Debug for Frozen<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({:?}, {:?})", self.pfn(), self.block.tag())
    }
}
