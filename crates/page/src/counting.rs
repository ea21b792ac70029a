// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a folio lends to whoever counts its mappings.

use core::ops::Range;

use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::block::Block;
use crate::{Folio, Frozen, MemMap, Page, PageFlags};

/// How the map counts of a memory map's folios are kept.
///
/// It is a type that the memory map chooses, once, so that one folio is never counted in two ways. The ways themselves
/// are in `mmkit-folio`; this crate only says that there is one.
pub trait Counting {}

/// Nobody counts mappings: the memory map of an allocator, or of memory that is never mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {}

impl Counting for Uncounted {}

/// Descriptors at the start of a folio that are its own even where the others are shared: the head and three tails.
pub const OWN_DESCRIPTORS: u64 = 4;

/// The words of one descriptor beside flags and info: 16 and 32 bytes. All zero in a new folio.
#[derive(Clone, Copy, Debug)]
pub struct Words<'f> {
    /// Four words of 4 bytes.
    pub half: &'f [AtomicU32; Page::HALVES],
    /// Four words of 8 bytes.
    pub word: &'f [AtomicU64; Page::WORDS],
}

impl<M: MemMap> Block<'_, M> {
    /// The descriptor of frame `index` of the block, if the block has it and may write it.
    fn own(&self, index: u64) -> Option<&Page> {
        let tag = self.tag();
        let limit = match (tag.is_compound(), tag.is_shared()) {
            (false, _) => 1,
            (true, true) => OWN_DESCRIPTORS,
            (true, false) => tag.order().frames(),
        };
        let page = match index {
            _ if index >= limit => return None,
            0..OWN_DESCRIPTORS => self.beside(index),
            _ => self.nth(index)?,
        };
        page.written();
        Some(page)
    }

    /// The words of each descriptor of `indices`, if the block has all of them and may write them.
    fn words_of(&self, indices: Range<u64>) -> Option<impl Iterator<Item = Words<'_>>> {
        if indices.start < indices.end {
            self.own(indices.end - 1)?;
        }
        Some(self.each(indices).map(|page| {
            page.written();
            Words { half: &page.half, word: &page.word }
        }))
    }

    fn words(&self, index: u64) -> Option<Words<'_>> {
        self.own(index).map(|page| Words { half: &page.half, word: &page.word })
    }

    /// Makes the words of the first tails what they are in a new folio.
    pub(crate) fn clear_own_tails(&self) {
        for page in (1..OWN_DESCRIPTORS).map_while(|index| self.own(index)) {
            page.clear_words();
        }
    }
}

impl<M: MemMap> Folio<'_, M> {
    /// The words of the descriptor of frame `index`; `None` past the folio, and where that descriptor is shared. A block
    /// that is no compound has those of its first frame only.
    ///
    /// # Safety
    ///
    /// The caller keeps the map counts of this memory map's folios, in the way that [`MemMap::Counts`] says.
    #[must_use]
    pub unsafe fn words(&self, index: u64) -> Option<Words<'_>> {
        self.block().words(index)
    }

    /// The words of each descriptor of frames `indices`, in order; `None` unless the folio has all of them for its own.
    ///
    /// Cost: one look at the head for all of them.
    ///
    /// # Safety
    ///
    /// As for [`words`](Self::words).
    #[must_use]
    #[inline]
    pub unsafe fn words_of(&self, indices: Range<u64>) -> Option<impl Iterator<Item = Words<'_>>> {
        self.block().words_of(indices)
    }

    /// Sets `flags` of frame `index` alone, and returns those that were set before; `None` past the folio, and where that
    /// frame's descriptor is shared. Frame 0 has the folio's own flags.
    ///
    /// Cost: one `fetch_or`, Relaxed.
    pub fn insert_at(&self, index: u64, flags: PageFlags) -> Option<PageFlags> {
        let bits = flags.bits() & PageFlags::all().bits();
        let word = &self.block().own(index)?.flags;
        Some(PageFlags::from_bits_truncate(word.fetch_or(bits, Ordering::Relaxed)))
    }

    /// Clears `flags` of frame `index` alone, and returns those that were set before; `None` as for
    /// [`insert_at`](Self::insert_at).
    ///
    /// Cost: one `fetch_and`, Relaxed.
    pub fn remove_at(&self, index: u64, flags: PageFlags) -> Option<PageFlags> {
        let bits = flags.bits() & PageFlags::all().bits();
        let word = &self.block().own(index)?.flags;
        Some(PageFlags::from_bits_truncate(word.fetch_and(!bits, Ordering::Relaxed)))
    }

    /// The flags of frame `index` alone; `None` past the folio. A shared descriptor has none.
    #[must_use]
    pub fn flags_at(&self, index: u64) -> Option<PageFlags> {
        let page = if index < self.order().frames() { self.block().nth(index) } else { None }?;
        Some(PageFlags::from_bits_truncate(page.flags.load(Ordering::Relaxed)))
    }
}

impl<M: MemMap> Frozen<'_, M> {
    /// The words of the descriptor of frame `index`; `None` past the block, and where that descriptor is shared.
    ///
    /// # Safety
    ///
    /// As for [`Folio::words`].
    #[must_use]
    pub unsafe fn words(&self, index: u64) -> Option<Words<'_>> {
        self.block.words(index)
    }

    /// The words of each descriptor of frames `indices`, in order; `None` unless the block has all of them for its own.
    ///
    /// # Safety
    ///
    /// As for [`Folio::words`].
    #[must_use]
    pub unsafe fn words_of(&self, indices: Range<u64>) -> Option<impl Iterator<Item = Words<'_>>> {
        self.block.words_of(indices)
    }

    /// Sets `flags` of each frame of `indices`; whether the block has all of them for its own, without which nothing is
    /// set. Frame 0 has the block's own flags.
    ///
    /// Cost: one store for each frame, no atomic read-modify-write.
    pub fn insert_at(&mut self, indices: Range<u64>, flags: PageFlags) -> bool {
        if indices.start < indices.end && self.block.own(indices.end - 1).is_none() {
            return false;
        }
        let bits = flags.bits() & PageFlags::all().bits();
        for page in self.block.each(indices) {
            page.written();
            page.flags.store(page.flags.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
        }
        true
    }

    /// Clears `flags` of each frame of `indices`; whether the block has all of them for its own, without which nothing is
    /// cleared. Frame 0 has the block's own flags.
    ///
    /// Cost: one load for each frame, and one store for each that had one of the flags; no atomic read-modify-write.
    pub fn remove_at(&mut self, indices: Range<u64>, flags: PageFlags) -> bool {
        if indices.start < indices.end && self.block.own(indices.end - 1).is_none() {
            return false;
        }
        let bits = flags.bits() & PageFlags::all().bits();
        for page in self.block.each(indices) {
            let word = page.flags.load(Ordering::Relaxed);
            if word & bits != 0 {
                page.written();
                page.flags.store(word & !bits, Ordering::Relaxed);
            }
        }
        true
    }
}
