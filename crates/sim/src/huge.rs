// SPDX-License-Identifier: MIT OR Apache-2.0
//! PMDs: made of PTEs, and made into PTEs.

use mmkit_addr::{NodeId, VirtAddr};
use mmkit_folio::{Kind, Mapcounts, Rmap};
use mmkit_frame::Env;
use mmkit_page::MemMap;
use mmkit_pgtable::{Error as TableError, Prot};

use crate::arena::{BYTES, SHIFT};
use crate::files::CollapseError;
use crate::memory::Home;
use crate::runs::Run;
use crate::space::PMD_BYTES;
use crate::table_frames::Aside;
use crate::vma::Vma;
use crate::{AddressSpace, Backing, Error, PMD_ORDER};

/// Tables between the root and the entry of a PMD, its own included.
pub(crate) const UPPER_TABLES: usize = 2;

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// Replaces the PMD that maps `va` by one PTE for each page. Contents and what is allowed stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotHuge`]; [`Error::Tables`] where there is no memory for the table. Nothing has changed then.
    pub fn split_pmd(&self, va: VirtAddr) -> Result<(), Error> {
        let start = va.get() & !(PMD_BYTES - 1);
        let vmas = self.vmas.read();
        vmas.at(va)?;
        let _locked = self.locks.lock(start);
        match self.runs(start, start + PMD_BYTES)?.first() {
            Some(run) if run.huge => self.split(run),
            _ => Err(Error::NotHuge { va }),
        }
    }

    /// The table first, then the counts, then the entries: only what comes before the counts can fail.
    pub(crate) fn split(&self, run: &Run) -> Result<(), Error> {
        let _aside = self.set_aside(1)?;
        let account = self.world.folio(run.head)?.remap(self.mm)?;
        self.world.counters.account(account);
        self.tables.split(VirtAddr::new(run.start), NodeId::ZERO)?.flush();
        Ok(())
    }

    /// Frames that the next tables will be made of, whatever else happens.
    pub(crate) fn set_aside(&self, tables: usize) -> Result<Aside<'_, 'w, C>, Error> {
        let frames = self.tables.env().frames().allocator();
        frames.set_aside(tables).map_err(|error| TableError::Alloc(error).into())
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

    /// Moves the pages around `va` into one new folio that one PMD maps. Linux: `madvise(MADV_COLLAPSE)`.
    ///
    /// Anonymous pages that were never touched are zero afterwards. Pages of a file are moved within the file, for all who
    /// will map it, unless one folio holds them already; nobody else may map them at the time.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`] where the area does not reach over the whole PMD, [`Error::WrongArea`] where it is to be mapped by PTEs
    /// only, anonymous and not to be written, or out of step with its file; [`Error::Pinned`]; of a file [`Error::Busy`] where
    /// others have a page, or a page is not the file's but a private copy; [`Error::Alloc`], [`Error::Tables`]. Contents and
    /// mappings are as before then.
    pub fn collapse(&self, va: VirtAddr) -> Result<(), Error> {
        let start = va.get() & !(PMD_BYTES - 1);
        let vmas = self.vmas.write();
        vmas.at(va)?;
        let vma = vmas.around(start, start + PMD_BYTES)?;
        if !vma.area.huge {
            return Err(Error::WrongArea { va });
        }
        let old = self.runs(start, start + PMD_BYTES)?;
        if old.first().is_some_and(|run| run.huge) {
            return Ok(());
        }
        match vma.area.backing {
            Backing::Anonymous if vma.area.write => self.collapse_anon(start, &old),
            Backing::File { .. } if vma.is_in_step(start) => self.collapse_file(&vma, start, &old),
            _ => Err(Error::WrongArea { va }),
        }
    }

    fn collapse_anon(&self, start: u64, old: &[Run]) -> Result<(), Error> {
        let _writer = self.write_protecting();
        for run in old {
            if self.world.folio(run.head)?.pins() > 0 {
                return Err(Error::Pinned { va: VirtAddr::new(run.start) });
            }
        }
        // Once the old entries are gone, there is no way back: what the new one needs must be there by then. The old ones
        // give their tables back, but others may take those.
        let _aside = self.set_aside(UPPER_TABLES)?;
        let frozen = self.world.memory.take_zeroed(PMD_ORDER, Home::Any)?;
        if let Err(error) = self.clear(start, start + PMD_BYTES) {
            self.world.memory.release(frozen);
            return Err(error);
        }
        // Flushed: no thread writes to the old pages any more. Their mappings are still counted, and keep them.
        for run in old {
            for page in 0..run.pages {
                let nth = ((run.start - start) >> SHIFT) + page;
                if let (Some(from), Some(to)) = (run.pfn().checked_add(page), frozen.pfn().checked_add(nth)) {
                    self.world.copy_frame(from, to);
                }
            }
        }
        let mapped = self.map_new(frozen, start, true, Prot::WRITE);
        mapped.and(self.uncount_all(old))
    }

    fn collapse_file(&self, vma: &Vma, start: u64, old: &[Run]) -> Result<(), Error> {
        let Backing::File { file, page: first, shared } = vma.area.backing else {
            return Err(Error::WrongArea { va: VirtAddr::new(start) });
        };
        for run in old {
            if self.world.folio(run.head)?.kind() == Kind::Anon {
                return Err(Error::Busy { va: VirtAddr::new(run.start) });
            }
        }
        let _writer = self.write_protecting();
        let _aside = self.set_aside(UPPER_TABLES)?;
        let first = vma.file_page(start, first);
        let mapped = |head| old.iter().filter(|run| run.head == head).map(|run| run.pages as u32).sum();
        let collapsed = self.world.collapse_file(file, first, mapped, || self.zap(start, start + PMD_BYTES));
        let head = collapsed.map_err(|error| match error {
            CollapseError::Busy { page, pinned } => {
                let va = VirtAddr::new(start + (page - first) * BYTES);
                if pinned { Error::Pinned { va } } else { Error::Busy { va } }
            }
            CollapseError::Other(error) => error,
        })?;
        let prot = if shared && vma.area.write { Prot::WRITE } else { Prot::READ };
        self.map_file_pmd(head, start, prot)
    }
}
