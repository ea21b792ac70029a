// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a walk holds and has not looked at again yet.

use core::mem::MaybeUninit;

use mmkit_folio::{Mapcounts, RunHold};
use mmkit_page::MemMap;

use crate::row::LeafFlags;

/// Pieces that one fence serves.
const PIECES: usize = 32;

/// A hold, and the entries that it follows from.
pub(crate) struct Piece<'m, M: MemMap<Counts: Mapcounts>> {
    pub(crate) hold: RunHold<'m, M>,
    /// What the first entry is to be, but for bits that are ignored.
    pub(crate) raw: u64,
    /// What all entries allow.
    pub(crate) flags: LeafFlags,
    /// Whether the folio is anonymous memory; not where it is the page of zeroes, of which there is no folio here.
    pub(crate) anon: bool,
}

/// Pieces of one row, each of which begins where the one before ends. They are looked at where they are: what is moved has to be written, and an
/// atomic operation waits for what was written before it.
pub(crate) struct Batch<'m, M: MemMap<Counts: Mapcounts>> {
    /// The first `len` are initialised.
    pieces: [MaybeUninit<Piece<'m, M>>; PIECES],
    len: usize,
}

impl<'m, M: MemMap<Counts: Mapcounts>> Batch<'m, M> {
    #[inline]
    pub(crate) fn new() -> Self {
        Self { pieces: [const { MaybeUninit::uninit() }; PIECES], len: 0 }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len == PIECES
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the next piece goes; `None` if there is no room.
    #[inline]
    pub(crate) fn vacancy(&mut self) -> Option<Vacancy<'_, 'm, M>> {
        let slot = self.pieces.get_mut(self.len)?;
        Some(Vacancy { slot, len: &mut self.len })
    }

    /// A piece.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Piece<'m, M>> {
        let slot = self.pieces[..self.len].get(index)?;
        // SAFETY: one of the first `len`.
        Some(unsafe { slot.assume_init_ref() })
    }

    /// Gives back all but the first `keep` frames of a piece, of which there is at least one.
    #[cold]
    pub(crate) fn cut(&mut self, index: usize, keep: u32) {
        if let Some(slot) = self.pieces[..self.len].get_mut(index) {
            // SAFETY: one of the first `len`.
            drop(unsafe { slot.assume_init_mut() }.hold.split_off(keep));
        }
    }

    /// Lets go of all pieces: the first `kept` stay held without them, the others are given back.
    #[inline]
    pub(crate) fn finish(&mut self, kept: usize) {
        let len = core::mem::take(&mut self.len);
        for slot in self.pieces[..len].iter_mut().skip(kept) {
            // SAFETY: one of the first `len` there were, none of which is initialised any more for `self`.
            unsafe { slot.assume_init_drop() };
        }
    }
}

/// Room for a piece, found before there is one: a piece that may have to be dropped again is first put together elsewhere.
pub(crate) struct Vacancy<'b, 'm, M: MemMap<Counts: Mapcounts>> {
    slot: &'b mut MaybeUninit<Piece<'m, M>>,
    len: &'b mut usize,
}

impl<'m, M: MemMap<Counts: Mapcounts>> Vacancy<'_, 'm, M> {
    #[inline(always)]
    pub(crate) fn fill(self, piece: Piece<'m, M>) {
        self.slot.write(piece);
        *self.len += 1;
    }
}

impl<M: MemMap<Counts: Mapcounts>> Drop for Batch<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.finish(0);
    }
}
