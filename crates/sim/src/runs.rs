// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs: entries that are one batch for the map counts, and what is done with many of them.

use mmkit_addr::{Level, Pfn, VirtAddr, VirtRange};
use mmkit_folio::{Mapcounts, Mapping, Rmap};
use mmkit_page::{MemMap, State};
use mmkit_pgtable::{Backing, Mapping as Entries, Prot, Slot, Target};

use crate::arena::{BYTES, SHIFT};
use crate::{AddressSpace, Error};

/// The level of a PMD.
pub(crate) const PMD: Level = match Level::new(1) {
    Some(level) => level,
    None => unreachable!(),
};

/// Consecutive entries that map consecutive pages of one folio and allow the same; or one PMD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) pages: u64,
    pub(crate) head: Pfn,
    /// The first page's index in the folio.
    pub(crate) index: u64,
    pub(crate) prot: Prot,
    pub(crate) huge: bool,
    /// Pages that the folio has from the first on.
    pub(crate) room: u64,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.pages * BYTES
    }

    pub(crate) fn range(&self) -> VirtRange {
        range(self.start, self.end())
    }

    /// The first page's frame.
    pub(crate) fn pfn(&self) -> Pfn {
        self.head.checked_add(self.index).unwrap_or(self.head)
    }

    pub(crate) fn mapping(&self) -> Mapping {
        if self.huge { Mapping::Pmd } else { Mapping::Ptes { first: self.index, count: self.pages } }
    }

    /// The same entries, for page tables.
    pub(crate) fn entries(&self, prot: Prot) -> Entries {
        let level = if self.huge { PMD } else { Level::LAST };
        Entries::new(Backing::Run(self.pfn()), prot).at_level(level)
    }

    /// Takes one more page in, if it goes on where the run ends, in the same folio.
    ///
    /// It asks the run alone: looking at the page's descriptor would cost a cache line for each page of a batch.
    #[inline]
    fn extend(&mut self, va: u64, pfn: Pfn, prot: Prot) -> bool {
        let follows = self.end() == va && self.pfn().get() + self.pages == pfn.get();
        let fits = follows && self.pages < self.room && self.prot == prot && !self.huge;
        self.pages += u64::from(fits);
        fits
    }
}

/// `start..end`, which the callers have in order.
pub(crate) fn range(start: u64, end: u64) -> VirtRange {
    let (start, end) = (VirtAddr::new(start), VirtAddr::new(end));
    VirtRange::between(start, end).unwrap_or_else(|| unreachable!("{start:?} is above {end:?}"))
}

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// What is mapped in `start..end`. A PMD that reaches out of it comes whole.
    pub(crate) fn runs(&self, start: u64, end: u64) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        self.tables.read().visit(range(start, end), |entry| {
            let Slot::Present(Target::Leaf { pfn, prot }) = entry.slot else { return };
            let (start, huge) = (entry.range.start().get(), entry.level == PMD);
            if !huge && runs.last_mut().is_some_and(|last| last.extend(start, pfn, prot)) {
                return;
            }
            // A mapped folio keeps its head and its order.
            let reader = self.world.memory.enter();
            let head = self.world.memory.head(pfn).unwrap_or(pfn);
            let index = pfn.get() - head.get();
            let frames = match reader.page(head).map(|page| page.state()) {
                Some(State::Held { order, .. }) => order.frames(),
                _ => index + 1,
            };
            let (pages, room) = (entry.range.bytes() >> SHIFT, frames - index);
            runs.push(Run { start, pages, head, index, prot, huge, room });
        })?;
        Ok(runs)
    }

    /// Takes the entries of `runs` away, and flushes; the mappings stay counted.
    pub(crate) fn clear(&self, runs: &[Run]) -> Result<(), Error> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut batch = self.tables.batch()?;
        for run in runs {
            if let Err(error) = batch.unmap(run.range()) {
                batch.cancel();
                return Err(error.into());
            }
        }
        // The runs say already what comes back.
        batch.flush(drop).map_err(|refused| {
            refused.batch.cancel();
            Error::InsideReader
        })
    }

    /// Uncounts mappings whose entries are gone from all caches, and gives their references back.
    pub(crate) fn uncount(&self, head: Pfn, mapping: Mapping) -> Result<(), Error> {
        let removed = self.world.folio(head)?.remove_mappings(self.mm, mapping)?;
        self.world.counters.account(removed.account);
        drop(removed.references);
        Ok(())
    }

    /// Unmaps `runs`: entries, flush, counts, references.
    pub(crate) fn zap(&self, runs: &[Run]) -> Result<(), Error> {
        self.clear(runs)?;
        // All are uncounted, and the first error is told.
        runs.iter().map(|run| self.uncount(run.head, run.mapping())).fold(Ok(()), Result::and)
    }
}
