// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fork: a second address space with the same memory.

use mmkit_folio::{MapError, Mapcounts, Rmap};
use mmkit_pgtable::Prot;

use crate::arena::BYTES;
use crate::runs::Run;
use crate::{AddressSpace, Error};

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// An address space with the same areas and contents. Private pages are shared until somebody writes them, but for
    /// pinned ones, which the child gets copies of now. Linux: `dup_mmap`.
    ///
    /// # Errors
    ///
    /// [`Error::Ids`], [`Error::Alloc`], [`Error::Tables`], [`Error::Counts`]. There is no child then; pages of the parent
    /// may have become read-only, which its next write to them mends.
    pub fn fork(&mut self) -> Result<Self, Error> {
        let mut child = Self::new(self.world)?;
        child.vmas = self.vmas.clone();
        let (Some(first), Some(last)) = (self.vmas.iter().next(), self.vmas.iter().last()) else {
            return Ok(child);
        };
        for run in self.runs(first.start, last.end)? {
            self.fork_run(&child, &run)?;
        }
        Ok(child)
    }

    fn fork_run(&self, child: &Self, run: &Run) -> Result<(), Error> {
        let private = self.is_private(run)?;
        // Before the pages stop being exclusive.
        if private && run.prot.contains(Prot::WRITE) {
            self.protect(run.start, run.end(), Prot::READ)?;
        }
        let prot = if private { Prot::READ } else { run.prot };
        match self.world.folio(run.head)?.fork(child.mm, run.mapping()) {
            Ok(account) => self.world.counters.account(account),
            Err(MapError::PinnedExclusive { .. }) => return self.fork_pinned(child, run),
            Err(error) => return Err(error.into()),
        }
        child.tables.map(run.range(), run.entries(prot)).or_else(|error| {
            child.uncount(run.head, run.mapping())?;
            Err(error.into())
        })
    }

    /// Entry by entry: a page that must be copied now is, and the others are shared.
    fn fork_pinned(&self, child: &Self, run: &Run) -> Result<(), Error> {
        if run.huge {
            self.split(run)?;
        }
        if run.huge || run.pages > 1 {
            for page in (run.start..run.end()).step_by(BYTES as usize) {
                for run in self.runs(page, page + BYTES)? {
                    self.fork_run(child, &run)?;
                }
            }
            return Ok(());
        }
        let area = self.vmas.at(run.range().start())?.area;
        let prot = if area.write { Prot::WRITE } else { Prot::READ };
        child.map_new(self.copy_of(run.pfn())?, run.start, false, prot)
    }
}
