// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags of single frames of a block: in each frame's own descriptor.

use core::ops::Range;

use mmkit_sync::atomic::Ordering;

use crate::block::Block;
use crate::counting::own;
use crate::flags::{TAILS_FLAGGED, TAILS_POISONED};
use crate::{Folio, Frozen, MemMap, PageFlags};

impl<M: MemMap> Block<'_, M> {
    /// What the head has to note when frames of `indices` get `bits`, and does not yet: 0 for a head alone.
    fn note(&self, indices: &Range<u64>, bits: u64) -> u64 {
        if indices.end <= 1 {
            return 0;
        }
        let poison = if bits & PageFlags::HWPOISON.bits() != 0 { TAILS_POISONED } else { 0 };
        (TAILS_FLAGGED | poison) & !self.page().flags.load(Ordering::Relaxed)
    }

    /// `indices` without those whose descriptors have no flags for certain: where no tail was ever given one, all but the
    /// head's. For those who look for flags that are set; whoever set one happens before them.
    #[inline]
    fn flagged(&self, indices: Range<u64>) -> Range<u64> {
        if indices.end > 1 && self.page().flags.load(Ordering::Relaxed) & TAILS_FLAGGED == 0 {
            return indices.start..indices.start.max(1);
        }
        indices
    }

    /// Takes all flags from the tails, if any has one. For the block's owner, when it has none itself.
    pub(crate) fn clear_tail_flags(&self) {
        let head = self.page();
        if head.flags.load(Ordering::Relaxed) & TAILS_FLAGGED == 0 {
            return;
        }
        let place = self.place().bits();
        for page in self.each(1..own(self.tag())) {
            page.written();
            page.flags.store(place, Ordering::Relaxed);
        }
        head.written();
        head.flags.store(place, Ordering::Relaxed);
    }
}

/// Each of these takes frames by their indices in the block. Frame 0 has the folio's own flags.
impl<M: MemMap> Folio<'_, M> {
    /// Sets `flags` of each frame of `indices`, but for [`PageFlags::ZERO`]; whether the folio has all of their descriptors for its
    /// own, without which nothing is set.
    ///
    /// Cost: one load for each frame, and one `fetch_or`, Relaxed, for each that had not all of them, and for the head
    /// with the first flag of a tail. The map is asked for each [run](MemMap::run).
    pub fn insert_at(&self, indices: Range<u64>, flags: PageFlags) -> bool {
        let bits = flags.settable();
        let Some(pages) = self.block().own_of(indices.clone(), |_, all| all) else { return false };
        let note = self.block().note(&indices, bits);
        if note != 0 {
            let head = self.block().page();
            head.written();
            head.flags.fetch_or(note, Ordering::Relaxed);
        }
        for page in pages {
            if page.flags.load(Ordering::Relaxed) & bits != bits {
                page.written();
                page.flags.fetch_or(bits, Ordering::Relaxed);
            }
        }
        true
    }

    /// Clears `flags` of each frame of `indices`; whether the folio has all of their descriptors for its own, without
    /// which nothing is cleared.
    ///
    /// Cost: one load for each frame, and one `fetch_and`, Relaxed, for each that had one of them. Where no tail was ever
    /// given a flag, one load for the head tells.
    #[inline]
    pub fn remove_at(&self, indices: Range<u64>, flags: PageFlags) -> bool {
        let bits = flags.settable();
        let Some(pages) = self.block().own_of(indices, Block::flagged) else { return false };
        for page in pages {
            if page.flags.load(Ordering::Relaxed) & bits != 0 {
                page.written();
                page.flags.fetch_and(!bits, Ordering::Relaxed);
            }
        }
        true
    }

    /// The first frame of `indices` that has one of `flags`; `None` too unless the folio has all of their descriptors for
    /// its own.
    ///
    /// Cost: one load for each frame up to there; one for the head where no tail was ever given a flag.
    #[inline]
    #[must_use]
    pub fn find_at(&self, indices: Range<u64>, flags: PageFlags) -> Option<u64> {
        let (bits, first) = (flags.known(), indices.start);
        let at = self
            .block()
            .own_of(indices, Block::flagged)?
            .position(|page| page.flags.load(Ordering::Relaxed) & bits != 0)?;
        Some(first + at as u64)
    }

    /// The first frame of `indices` that lacks one of `flags`: the start of them, where the folio has not all of their
    /// descriptors for its own. `None` if each has all.
    ///
    /// Cost: one load for each frame up to there.
    #[inline]
    #[must_use]
    pub fn find_without_at(&self, indices: Range<u64>, flags: PageFlags) -> Option<u64> {
        let (bits, first) = (flags.known(), indices.start);
        let Some(mut pages) = self.block().own_of(indices, |_, all| all) else { return Some(first) };
        let at = pages.position(|page| page.flags.load(Ordering::Relaxed) & bits != bits)?;
        Some(first + at as u64)
    }

    /// The flags of frame `index`; `None` past the folio. A shared descriptor has none.
    #[inline]
    #[must_use]
    pub fn flags_at(&self, index: u64) -> Option<PageFlags> {
        if index >= self.order().frames() {
            return None;
        }
        let page = self.block().each(index..index + 1).next()?;
        Some(PageFlags::from_bits_truncate(page.flags.load(Ordering::Relaxed)))
    }
}

impl<M: MemMap> Frozen<'_, M> {
    /// Sets `flags` of each frame of `indices`, but for [`PageFlags::ZERO`]; whether the block has all of their descriptors for its
    /// own, without which nothing is set. A block that is no compound has its first alone.
    ///
    /// Cost: one store for each frame and one for the head, no atomic read-modify-write.
    pub fn insert_at(&mut self, indices: Range<u64>, flags: PageFlags) -> bool {
        let bits = flags.settable();
        let Some(pages) = self.block.own_of(indices.clone(), |_, all| all) else { return false };
        let head = self.block.page();
        head.written();
        let noted = head.flags.load(Ordering::Relaxed) | self.block.note(&indices, bits);
        head.flags.store(noted, Ordering::Relaxed);
        for page in pages {
            page.written();
            page.flags.store(page.flags.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
        }
        true
    }

    /// Clears `flags` of each frame of `indices`; whether the block has all of their descriptors for its own, without
    /// which nothing is cleared.
    ///
    /// Cost: one load for each frame, and one store for each that had one of the flags; no atomic read-modify-write.
    pub fn remove_at(&mut self, indices: Range<u64>, flags: PageFlags) -> bool {
        let bits = flags.settable();
        let Some(pages) = self.block.own_of(indices, Block::flagged) else { return false };
        for page in pages {
            let word = page.flags.load(Ordering::Relaxed);
            if word & bits != 0 {
                page.written();
                page.flags.store(word & !bits, Ordering::Relaxed);
            }
        }
        true
    }
}
