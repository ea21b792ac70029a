// SPDX-License-Identifier: MIT OR Apache-2.0
//! PMDs: made of PTEs, and made into PTEs.

use mmkit_addr::{NodeId, VirtAddr};
use mmkit_folio::{Kind, Mapcounts, Rmap};
use mmkit_frame::Env;
use mmkit_page::MemMap;
use mmkit_pgtable::Prot;

use crate::arena::SHIFT;
use crate::runs::Run;
use crate::space::PMD_BYTES;
use crate::{AddressSpace, Backing, Error, PMD_ORDER};

/// Tables between the root and the entry of a PMD, its own included.
const UPPER_TABLES: usize = 2;

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// Replaces the PMD that maps `va` by one PTE for each page. Contents and what is allowed stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotHuge`]; [`Error::Tables`] where there is no memory for the table.
    pub fn split_pmd(&mut self, va: VirtAddr) -> Result<(), Error> {
        let start = va.get() & !(PMD_BYTES - 1);
        self.vmas.at(va)?;
        match self.runs(start, start + PMD_BYTES)?.first() {
            Some(run) if run.huge => self.split(run),
            _ => Err(Error::NotHuge { va }),
        }
    }

    pub(crate) fn split(&self, run: &Run) -> Result<(), Error> {
        self.tables.split(VirtAddr::new(run.start), NodeId::ZERO)?.flush();
        let account = self.world.folio(run.head)?.remap(self.mm)?;
        self.world.counters.account(account);
        Ok(())
    }

    /// Splits the PMD that reaches over `va` on both sides, if one does.
    pub(crate) fn split_at(&self, va: u64) -> Result<(), Error> {
        let start = va & !(PMD_BYTES - 1);
        if va == start {
            return Ok(());
        }
        match self.runs(start, start + PMD_BYTES)?.first() {
            Some(run) if run.huge => self.split(run),
            _ => Ok(()),
        }
    }

    /// Moves the pages around `va` into one new folio that one PMD maps; pages that were never touched are zero. Linux:
    /// `madvise(MADV_COLLAPSE)`.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`] where the area does not reach over the whole PMD, [`Error::WrongArea`] where it is a file's, or is
    /// to be mapped by PTEs only, or not to be written; [`Error::Pinned`]; [`Error::Alloc`].
    pub fn collapse(&mut self, va: VirtAddr) -> Result<(), Error> {
        let start = va.get() & !(PMD_BYTES - 1);
        self.vmas.at(va)?;
        let end = start + PMD_BYTES;
        let area = self.vmas.around(start, end)?.area;
        if area.backing != Backing::Anonymous || !area.huge || !area.write {
            return Err(Error::WrongArea { va });
        }
        let old = self.runs(start, end)?;
        for run in &old {
            if run.huge {
                return Ok(());
            }
            let folio = self.world.folio(run.head)?;
            if folio.kind() == Kind::Anon && folio.pins() > 0 {
                return Err(Error::Pinned { va: VirtAddr::new(run.start) });
            }
        }
        let frozen = self.world.memory.take_zeroed(PMD_ORDER)?;
        // Once the old entries are gone, there is no way back: what the new one needs must be there by then. The old ones
        // give their tables back, but others may take those.
        let reserve = self.tables.env().frames().allocator();
        let reserved = reserve.reserve(UPPER_TABLES).map_err(Error::from);
        let replaced = reserved.and_then(|()| {
            for run in &old {
                for page in 0..run.pages {
                    let nth = ((run.start - start) >> SHIFT) + page;
                    if let (Some(from), Some(to)) =
                        (run.pfn().checked_add(page), frozen.pfn().checked_add(nth))
                    {
                        self.copy_frame(from, to);
                    }
                }
            }
            self.zap(&old)
        });
        let result = match replaced {
            Ok(()) => self.map_new(frozen, start, true, Prot::WRITE),
            Err(error) => {
                self.world.memory.release(frozen);
                Err(error)
            }
        };
        reserve.unreserve();
        result
    }
}
