// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fork: a second address space with the same memory.

use mmkit_folio::{MapError, Mapcounts, Rmap};
use mmkit_pgtable::{Prot, Stale};

use crate::arena::BYTES;
use crate::runs::{Run, range};
use crate::vma::Vmas;
use crate::{AddressSpace, Error};

/// Folios whose entries the child gets at once.
const BATCH: usize = 64;

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// An address space with the same areas and contents. Private pages are shared until somebody writes them, but for
    /// pinned ones, which the child gets copies of now. Linux: `dup_mmap`.
    ///
    /// # Errors
    ///
    /// [`Error::Ids`], [`Error::Alloc`], [`Error::Tables`], [`Error::Counts`]. There is no child then; pages of the parent
    /// may have become read-only, which its next write to them mends.
    pub fn fork(&self) -> Result<Self, Error> {
        let vmas = self.vmas.write();
        let child = Self::new(self.world)?;
        child.vmas.write().clone_from(&vmas);
        let (Some(first), Some(last)) = (vmas.iter().next(), vmas.iter().last()) else {
            return Ok(child);
        };
        let _writer = self.write_protecting();
        self.protect_private(&vmas)?;
        let mut counted = Vec::with_capacity(BATCH);
        let runs = self.runs(first.start, last.end)?;
        let forked = runs.iter().try_for_each(|run| {
            if counted.len() == BATCH {
                child.map_forked(&mut counted)?;
            }
            self.fork_run(&vmas, &child, run, &mut counted)
        });
        // Where something failed, too: the child uncounts what it maps when it goes.
        child.map_forked(&mut counted).and(forked)?;
        Ok(child)
    }

    /// Maps what is counted; uncounts it where that fails.
    fn map_forked(&self, counted: &mut Vec<Run>) -> Result<(), Error> {
        let parts: Vec<_> = counted.iter().map(|run| (run.range(), run.entries(run.prot))).collect();
        let mapped = self.tables.map_all(&parts).map_err(Error::from);
        if mapped.is_err() {
            self.uncount_all(counted)?;
        }
        counted.clear();
        mapped
    }

    /// Makes all that is private read-only, before its pages stop being exclusive: one pass, one flush.
    fn protect_private(&self, vmas: &Vmas) -> Result<(), Error> {
        let mut stale: Option<Stale<'_, _, _>> = None;
        for vma in vmas.iter().filter(|vma| vma.area.write && vma.area.is_private()) {
            let more = self.tables.restrict(range(vma.start, vma.end), Prot::READ)?;
            match &mut stale {
                None => stale = Some(more),
                // All are of the same tables, so none is refused.
                Some(stale) => stale.merge(more).unwrap_or_else(Stale::flush),
            }
        }
        if let Some(stale) = stale {
            stale.flush();
        }
        Ok(())
    }

    /// Counts `run` for the child as well, which is to map it.
    fn fork_run(&self, vmas: &Vmas, child: &Self, run: &Run, counted: &mut Vec<Run>) -> Result<(), Error> {
        match self.world.folio(run.head)?.fork(child.mm, run.mapping()) {
            Ok(account) => self.world.counters.account(account),
            Err(MapError::PinnedExclusive { .. }) => return self.fork_pinned(vmas, child, run, counted),
            Err(error) => return Err(error.into()),
        }
        counted.push(*run);
        Ok(())
    }

    /// Entry by entry: a page that must be copied now is, and the others are shared.
    fn fork_pinned(&self, vmas: &Vmas, child: &Self, run: &Run, counted: &mut Vec<Run>) -> Result<(), Error> {
        if run.huge {
            self.split(run)?;
        }
        if run.huge || run.pages > 1 {
            for page in (run.start..run.end()).step_by(BYTES as usize) {
                for run in self.runs(page, page + BYTES)? {
                    self.fork_run(vmas, child, &run, counted)?;
                }
            }
            return Ok(());
        }
        let area = vmas.at(run.range().start())?.area;
        let prot = if area.write { Prot::WRITE } else { Prot::READ };
        child.map_new(self.copy_of(run.pfn())?, run.start, false, prot)
    }
}
