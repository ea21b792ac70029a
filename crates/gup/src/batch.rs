// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a walk holds and has not looked at again yet.

use mmkit_folio::{Mapcounts, RunHold};
use mmkit_page::MemMap;

use crate::row::LeafFlags;

/// Pieces that one fence serves.
const PIECES: usize = 32;

/// A hold, and the entries that it follows from.
pub(crate) struct Piece<'m, M: MemMap<Counts: Mapcounts>> {
    pub(crate) hold: RunHold<'m, M>,
    /// The first entry, by its place in the row.
    pub(crate) cell: usize,
    /// Frames that the first entry maps before those of the piece.
    pub(crate) skip: u64,
    /// What the first entry is to be, but for bits that are ignored.
    pub(crate) raw: u64,
    /// What all entries allow.
    pub(crate) flags: LeafFlags,
}

/// Pieces of one row, in the order of addresses.
pub(crate) struct Batch<'m, M: MemMap<Counts: Mapcounts>> {
    pieces: [Option<Piece<'m, M>>; PIECES],
    len: usize,
}

impl<'m, M: MemMap<Counts: Mapcounts>> Batch<'m, M> {
    pub(crate) fn new() -> Self {
        Self { pieces: [const { None }; PIECES], len: 0 }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.len == PIECES
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The caller looks whether there is room.
    #[inline]
    pub(crate) fn push(&mut self, piece: Piece<'m, M>) {
        if let Some(slot) = self.pieces.get_mut(self.len) {
            *slot = Some(piece);
            self.len += 1;
        }
    }

    /// Hands the pieces to `each`, in order, until that says that it was the last one; gives the others back.
    #[inline]
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Piece<'m, M>) -> bool) {
        let len = core::mem::take(&mut self.len);
        let mut pieces = self.pieces[..len].iter_mut();
        for piece in pieces.by_ref() {
            if let Some(piece) = piece.take()
                && !each(piece)
            {
                break;
            }
        }
        // The first to be given back is the first that was taken: whoever waits for the lowest has it soonest.
        for piece in pieces {
            *piece = None;
        }
    }
}
