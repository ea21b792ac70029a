// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs: entries that are one batch for the map counts, and what is done with many of them.

use mmkit_addr::{Level, Pfn, VirtAddr, VirtRange};
use mmkit_folio::{Mapcounts, Mapping, Rmap};
use mmkit_page::{Folio, MemMap, State};
use mmkit_pgtable::{Backing, Leaves, Mapping as Entries, Prot, Released};

use crate::arena::BYTES;
use crate::memory::Memory;
use crate::{AddressSpace, Error, PMD_ORDER};

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

    /// Entries, each of which is one mapping.
    pub(crate) fn mappings(&self) -> u32 {
        if self.huge { 1 } else { self.pages as u32 }
    }

    /// The same entries, for page tables.
    pub(crate) fn entries(&self, prot: Prot) -> Entries {
        let level = if self.huge { PMD } else { Level::LAST };
        Entries::new(Backing::Run(self.pfn()), prot).at_level(level)
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
        self.tables.read().leaves(range(start, end), |leaves| self.cut(leaves, |run| runs.push(run)))?;
        Ok(runs)
    }

    /// Cuts leaves, whose mappings are counted, into runs of one folio each. Cost: one descriptor looked at per run.
    fn cut(&self, leaves: Leaves, mut each: impl FnMut(Run)) {
        let Leaves { va, level, frames, prot } = leaves;
        let (huge, reader) = (level == PMD, self.world.memory.enter());
        let mut done = 0;
        while let Some(pfn) = frames.start().checked_add(done).filter(|_| done < frames.frames()) {
            // A mapped folio keeps its head and its order.
            let head = self.world.memory.head(pfn).unwrap_or(pfn);
            let index = pfn.get() - head.get();
            let room = match reader.page(head).map(|page| page.state()) {
                Some(State::Held { order, .. }) => order.frames() - index,
                _ => 1,
            };
            let pages = if huge { PMD_ORDER.frames() } else { room.min(frames.frames() - done) };
            each(Run { start: va.get() + done * BYTES, pages, head, index, prot, huge });
            done += pages;
        }
    }

    /// Takes away whatever is mapped in `start..end`, which cuts no PMD, and flushes; then `release` gets what was there,
    /// whose mappings stay counted. One pass takes the entries, one empties them.
    fn take(&self, start: u64, end: u64, release: impl FnMut(Released)) -> Result<(), Error> {
        let mut batch = self.tables.batch()?;
        if let Err(error) = batch.zap(range(start, end)) {
            batch.cancel();
            return Err(error.into());
        }
        batch.flush(release).map_err(|refused| {
            refused.batch.cancel();
            Error::InsideReader
        })
    }

    /// Takes the entries of `start..end` away, and flushes; the mappings stay counted.
    pub(crate) fn clear(&self, start: u64, end: u64) -> Result<(), Error> {
        self.take(start, end, drop)
    }

    /// Uncounts mappings whose entries are gone from all caches, and gives their references back.
    pub(crate) fn uncount(&self, head: Pfn, mapping: Mapping) -> Result<(), Error> {
        self.uncount_of(&self.world.folio(head)?, mapping)
    }

    /// The same, where the folio is at hand.
    pub(crate) fn uncount_of(&self, folio: &Folio<'_, Memory<C>>, mapping: Mapping) -> Result<(), Error> {
        let removed = folio.remove_mappings(self.mm, mapping)?;
        self.world.counters.account(removed.account);
        drop(removed.references);
        Ok(())
    }

    /// Uncounts all of `runs`, and tells the first error.
    pub(crate) fn uncount_all(&self, runs: &[Run]) -> Result<(), Error> {
        runs.iter().map(|run| self.uncount(run.head, run.mapping())).fold(Ok(()), Result::and)
    }

    /// Unmaps whatever is mapped in `start..end`, which cuts no PMD: entries, flush, counts, references. All are uncounted,
    /// and the first error is told. Linux: `zap_page_range`.
    pub(crate) fn zap(&self, start: u64, end: u64) -> Result<(), Error> {
        let mut result = Ok(());
        self.take(start, end, |released| {
            // Nothing is shared between page tables here.
            if let Released::Leaves(leaves) = released {
                self.cut(leaves, |run| result = result.and(self.uncount(run.head, run.mapping())));
            }
        })?;
        result
    }
}
