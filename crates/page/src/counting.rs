// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a folio lends to whoever counts its mappings.

use core::fmt;
use core::ops::Range;

use mmkit_addr::Order;
use mmkit_sync::atomic::{AtomicU32, AtomicU64};

use crate::block::{Block, Each};
use crate::tag::Tag;
use crate::{Folio, Frozen, MemMap, Page};

/// How the map counts of a memory map's folios are kept.
///
/// It is a type that the memory map chooses, once, so that one folio is never counted in two ways. The ways themselves
/// are in `mmkit-folio`; this crate only says that there is one.
pub trait Counting: 'static {}

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

impl<'f> Words<'f> {
    #[inline]
    fn of(page: &'f Page) -> Self {
        page.written();
        Self { half: &page.half, word: &page.word }
    }
}

/// How many of the first descriptors of a block that is `tag` have words and flags of their own.
#[inline]
pub(crate) const fn own(tag: Tag) -> u64 {
    match (tag.is_compound(), tag.is_shared()) {
        (false, _) => 1,
        (true, true) => OWN_DESCRIPTORS,
        (true, false) => tag.order().frames(),
    }
}

/// The descriptors of a block whose handle is borrowed, and what the block is, looked at once.
///
/// Made by [`Folio::descriptors`] and [`Frozen::descriptors`].
pub struct Descriptors<'f, 'm, M> {
    block: &'f Block<'m, M>,
    tag: Tag,
}

impl<M> Clone for Descriptors<'_, '_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Descriptors<'_, '_, M> {}

impl<'f, 'm, M: MemMap> Descriptors<'f, 'm, M> {
    /// log2 of the number of frames.
    #[inline]
    #[must_use]
    pub fn order(&self) -> Order {
        self.tag.order()
    }

    /// Whether only the first descriptors are the block's own, and the others shared and read-only.
    #[inline]
    #[must_use]
    pub fn has_shared_tails(&self) -> bool {
        self.tag.is_shared()
    }

    /// The words of the descriptor of frame `index`; `None` past the block, and where that descriptor is shared. A block
    /// that is no compound has those of its first frame only.
    ///
    /// Cost: nothing is read; past the fourth frame, entering the read side and asking the map.
    #[inline]
    #[must_use]
    pub fn words(&self, index: u64) -> Option<Words<'f>> {
        if index >= own(self.tag) {
            return None;
        }
        self.block.each(index..index + 1).next().map(Words::of)
    }

    /// The words of each descriptor of frames `indices`, in order; `None` unless the block has all of them for its own.
    ///
    /// Cost: as for [`words`](Self::words), once for all, and asking the map for each [run](MemMap::run).
    #[inline]
    #[must_use]
    pub fn words_of(&self, indices: Range<u64>) -> Option<OwnWords<'f, 'm, M>> {
        if indices.start < indices.end && indices.end > own(self.tag) {
            return None;
        }
        Some(OwnWords(self.block.each(indices)))
    }
}

/// The words of consecutive descriptors of a block, in order. Made by [`Descriptors::words_of`].
///
/// For all of them at once use a method that goes through all, such as [`for_each`](Iterator::for_each): it asks the map
/// for each [run](MemMap::run), and does nothing else between one and the next.
pub struct OwnWords<'f, 'm, M: MemMap>(Each<'f, 'm, M>);

impl<'f, M: MemMap> Iterator for OwnWords<'f, '_, M> {
    type Item = Words<'f>;

    #[inline]
    fn next(&mut self) -> Option<Words<'f>> {
        self.0.next().map(Words::of)
    }

    #[inline]
    fn fold<B, F: FnMut(B, Words<'f>) -> B>(self, init: B, mut f: F) -> B {
        self.0.fold(init, |folded, page| f(folded, Words::of(page)))
    }
}

impl<M: MemMap> fmt::Debug for OwnWords<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnWords")
    }
}

impl<M: MemMap> fmt::Debug for Descriptors<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptors({:?}, {:?})", self.block.pfn, self.tag)
    }
}

impl<M: MemMap> Block<'_, M> {
    /// The block's own descriptors, if those of `indices` are: of these, those that `which` picks.
    #[inline]
    pub(crate) fn own_of(
        &self,
        indices: Range<u64>,
        which: impl FnOnce(&Self, Range<u64>) -> Range<u64>,
    ) -> Option<impl Iterator<Item = &Page>> {
        (indices.is_empty() || indices.end <= own(self.tag())).then(|| self.each(which(self, indices)))
    }

    /// Makes the words of the first tails what they are in a new folio.
    pub(crate) fn clear_own_tails(&self) {
        let own = own(self.tag()).min(OWN_DESCRIPTORS);
        self.each(1.min(own)..own).for_each(Page::clear_words);
    }
}

impl<'m, M: MemMap> Folio<'m, M> {
    /// The folio's descriptors, for whoever counts its mappings.
    ///
    /// Cost: one load.
    ///
    /// # Safety
    ///
    /// The caller keeps the map counts of this memory map's folios, in the way that [`MemMap::Counts`] says.
    #[inline]
    #[must_use]
    pub unsafe fn descriptors(&self) -> Descriptors<'_, 'm, M> {
        Descriptors { block: self.block(), tag: self.block().tag() }
    }
}

impl<M: MemMap> Folio<'_, M> {
    /// The words of the second descriptor, for whoever knows that there is one.
    ///
    /// Cost: nothing is read.
    ///
    /// # Safety
    ///
    /// The folio is a compound; the rest as for [`descriptors`](Self::descriptors).
    #[inline]
    #[must_use]
    pub unsafe fn second_words(&self) -> Words<'_> {
        // SAFETY: a compound has a second frame, whose descriptor is adjacent to the first, as `MemMap` promises, and its own.
        let second = unsafe { self.block().descriptor().add(1) };
        // SAFETY: it stays readable for as long as the handle exists.
        Words::of(unsafe { Page::from_ptr(second) })
    }
}

impl<'m, M: MemMap> Frozen<'m, M> {
    /// The block's descriptors, for whoever counts the mappings that it gets.
    ///
    /// # Safety
    ///
    /// As for [`Folio::descriptors`].
    #[inline]
    #[must_use]
    pub unsafe fn descriptors(&self) -> Descriptors<'_, 'm, M> {
        Descriptors { block: &self.block, tag: self.block.tag() }
    }
}
