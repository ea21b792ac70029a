// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios, and how often each is held.

use core::fmt;

use mmkit_addr::Pfn;
use mmkit_folio::Mapcounts;
use mmkit_page::MemMap;

use super::sealed::Sealed;
use crate::{Dirty, Keeper, Release, Released, Run, Sink};

/// A folio of which consecutive pages are held, each once; or one that is held so often, for its pages from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolioHolds {
    /// The folio's first frame.
    pub head: Pfn,
    /// The first page that is meant, by its index in the folio.
    pub first: u64,
    /// How many pages are meant.
    pub pages: u32,
    /// How often the folio is held: once for each page, until they are coalesced.
    pub holds: u32,
}

impl FolioHolds {
    /// No folio: what a buffer is filled with before it is used.
    pub const EMPTY: Self = Self { head: Pfn::ZERO, first: 0, pages: 0, holds: 0 };
}

/// A sink of folios, in a buffer of the caller's.
pub struct Folios<'b> {
    buffer: &'b mut [FolioHolds],
    len: usize,
}

impl<'b> Folios<'b> {
    /// An empty sink over `buffer`.
    #[must_use]
    pub fn new(buffer: &'b mut [FolioHolds]) -> Self {
        Self { buffer, len: 0 }
    }

    /// What it has.
    #[must_use]
    pub fn folios(&self) -> &[FolioHolds] {
        &self.buffer[..self.len]
    }

    /// The same, to be coalesced.
    pub fn folios_mut(&mut self) -> &mut [FolioHolds] {
        &mut self.buffer[..self.len]
    }

    /// Hands the folios out, and is empty.
    pub fn take(&mut self) -> &[FolioHolds] {
        let len = core::mem::take(&mut self.len);
        &self.buffer[..len]
    }
}

impl Sink for Folios<'_> {
    #[inline]
    fn room(&self) -> u64 {
        if self.len < self.buffer.len() {
            return u64::MAX;
        }
        self.buffer.last().map_or(0, |last| u64::from(u32::MAX - last.pages.max(last.holds)))
    }

    #[inline]
    fn push(&mut self, run: Run) -> u32 {
        let Run { pfn, frames, head, .. } = run;
        let first = pfn.get() - head.get();
        if let Some(last) = self.len.checked_sub(1).and_then(|at| self.buffer.get_mut(at))
            && last.head == head
            && last.first + u64::from(last.pages) == first
            && let (Some(pages), Some(holds)) =
                (last.pages.checked_add(frames), last.holds.checked_add(frames))
        {
            (last.pages, last.holds) = (pages, holds);
            return frames;
        }
        match self.buffer.get_mut(self.len) {
            Some(slot) => {
                *slot = FolioHolds { head, first, pages: frames, holds: frames };
                self.len += 1;
                frames
            }
            None => 0,
        }
    }
}

impl Sealed for Folios<'_> {}

impl Keeper for Folios<'_> {
    fn is_fresh(&self) -> bool {
        self.len == 0
    }

    unsafe fn give_back<M: MemMap<Counts: Mapcounts>, D: Dirty<M>>(
        &self,
        release: &Release<'_, M, D>,
    ) -> Released {
        // SAFETY: passed on.
        unsafe { release.folios(self.folios()) }
    }
}

impl fmt::Debug for Folios<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.folios()).finish()
    }
}
