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

    /// Hands the pieces over one after the other. What was handed over stays held if it `keeps`.
    #[inline]
    pub(crate) fn deliver(&mut self, keeps: bool) -> Delivery<'_, 'm, M> {
        Delivery { batch: self, done: 0, keeps }
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

/// Pieces on their way to a visitor. Its end gives back those that did not get there, also where that is a panic.
pub(crate) struct Delivery<'b, 'm, M: MemMap<Counts: Mapcounts>> {
    batch: &'b mut Batch<'m, M>,
    /// Pieces that were handed over.
    done: usize,
    keeps: bool,
}

impl<'m, M: MemMap<Counts: Mapcounts>> Delivery<'_, 'm, M> {
    /// The next piece.
    #[inline]
    pub(crate) fn next(&self) -> Option<&Piece<'m, M>> {
        let slot = self.batch.pieces[..self.batch.len].get(self.done)?;
        // SAFETY: one of the first `len`.
        Some(unsafe { slot.assume_init_ref() })
    }

    /// It was handed over.
    #[inline]
    pub(crate) fn delivered(&mut self) {
        self.done += 1;
    }

    /// Of its frames, the first `keep` were handed over. The others are given back.
    #[cold]
    pub(crate) fn delivered_in_part(&mut self, keep: u32) {
        let piece = self.done;
        // Of none, all go in the end.
        self.done += usize::from(keep > 0);
        if let Some(slot) = self.batch.pieces[..self.batch.len].get_mut(piece) {
            // SAFETY: one of the first `len`.
            drop(unsafe { slot.assume_init_mut() }.hold.split_off(keep));
        }
    }
}

impl<M: MemMap<Counts: Mapcounts>> Drop for Delivery<'_, '_, M> {
    #[inline]
    fn drop(&mut self) {
        self.batch.finish(if self.keeps { self.done } else { 0 });
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
