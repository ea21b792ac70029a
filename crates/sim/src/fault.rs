// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults: folios are installed where nothing is mapped, and pages are copied or kept where they are read-only.

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_folio::{Cow, Kind, Mapcounts, Mapping, Rmap, map_new_anon};
use mmkit_page::{Folio, Frozen, MemMap};
use mmkit_pgtable::{Error as TableError, Leaf, Prot, Walk};

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::memory::{Home, Memory};
use crate::runs::{PMD, Run};
use crate::space::PMD_BYTES;
use crate::vma::{Vma, Vmas};
use crate::{AddressSpace, Area, Backing, Error, FileId, PMD_ORDER, World};

/// What a fault is to make possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read.
    Read,
    /// To write. Linux: `FAULT_FLAG_WRITE`.
    Write,
    /// To read for as long as one likes what the address space reads: a private page becomes its own. Linux:
    /// `FAULT_FLAG_UNSHARE`.
    Unshare,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// Makes what is at `va` accessible. When this returns, other threads may have changed it again: the caller looks,
    /// and comes back. Linux: `handle_mm_fault`.
    pub(crate) fn fault_in(&self, va: u64, access: Access) -> Result<(), Error> {
        self.fault_under(&self.vmas.read(), va, access)
    }

    /// The same, for those who have the areas for reading.
    pub(crate) fn fault_under(&self, vmas: &Vmas, va: u64, access: Access) -> Result<(), Error> {
        let vma = vmas.at(VirtAddr::new(va))?;
        if access == Access::Write && !vma.area.write {
            return Err(Error::ReadOnly { va: VirtAddr::new(va) });
        }
        // Each round makes progress: nothing, a read-only PMD, a read-only PTE, a writable page.
        loop {
            let locked = self.locks.lock(va);
            match self.fault_step(&vma, va, access) {
                Ok(false) => {}
                // An upper table is on its way out, with the last entries of a neighbour. It was not needed for them.
                Err(Error::Tables(TableError::Pending { .. })) => {
                    drop(locked);
                    std::thread::yield_now();
                }
                Ok(true) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// One round, with the table's lock held: whether the access finds now what it needs. One walk finds what is mapped.
    fn fault_step(&self, vma: &Vma, va: u64, access: Access) -> Result<bool, Error> {
        let Walk::Mapped(leaf) = self.tables.walk(VirtAddr::new(va))? else {
            return match vma.area.backing {
                // New, and the address space's own.
                Backing::Anonymous => self.install_anon(vma, va).map(|()| true),
                Backing::File { file, page, shared } => {
                    self.install_file(vma, va, file, page, shared).map(|()| access == Access::Read)
                }
            };
        };
        if access == Access::Read || leaf.prot.contains(Prot::WRITE) {
            return Ok(true);
        }
        self.write_fault(&vma.area, &leaf, access)
    }

    /// A new folio of the area's order, or of the largest that fits and can be had.
    fn install_anon(&self, vma: &Vma, va: u64) -> Result<(), Error> {
        let mut order = vma.area.order;
        loop {
            let bytes = BYTES << order.get();
            let start = va & !(bytes - 1);
            let fits = vma.contains(start, start + bytes) && self.runs(start, start + bytes)?.is_empty();
            let taken = if fits { Some(self.world.memory.take_zeroed(order, Home::Any)) } else { None };
            match (taken, order.checked_sub(1)) {
                (Some(Ok(frozen)), _) => {
                    let prot = if vma.area.write { Prot::WRITE } else { Prot::READ };
                    let huge = vma.area.huge && order == PMD_ORDER;
                    return self.map_new(frozen, start, huge, prot);
                }
                (_, Some(smaller)) => order = smaller,
                (Some(Err(error)), None) => return Err(error.into()),
                // An area consists of whole pages, and nothing maps the one that faults.
                (None, None) => return Err(Error::Occupied { va: VirtAddr::new(va) }),
            }
        }
    }

    /// Maps a new anonymous folio at `start`. What cannot be mapped is given back.
    pub(crate) fn map_new(
        &self,
        frozen: Frozen<'w, Memory<C>>,
        start: u64,
        huge: bool,
        prot: Prot,
    ) -> Result<(), Error> {
        let pages = frozen.order().frames();
        let run = Run { start, pages, head: frozen.pfn(), index: 0, prot, huge };
        self.count_new(frozen, run.mapping())?;
        self.map_counted(&run)
    }

    /// Writes the entries of `run`, which is counted; uncounts it where that fails.
    fn map_counted(&self, run: &Run) -> Result<(), Error> {
        self.tables.map(run.range(), run.entries(run.prot)).or_else(|error| {
            self.uncount(run.head, run.mapping())?;
            Err(error.into())
        })
    }

    /// Counts the first mappings of a new anonymous folio.
    pub(crate) fn count_new(&self, frozen: Frozen<'w, Memory<C>>, mapping: Mapping) -> Result<(), Error> {
        match map_new_anon(frozen, self.mm, mapping) {
            Ok(account) => self.world.counters.account(account),
            Err(refused) => {
                self.world.memory.release(refused.frozen);
                return Err(refused.error.into());
            }
        }
        Ok(())
    }

    /// As much of the file's folio as is in the area, in one table, and not mapped yet, around `va`; by a PMD where that
    /// can be.
    fn install_file(&self, vma: &Vma, va: u64, file: FileId, first: u64, shared: bool) -> Result<(), Error> {
        let (folio, index) = self.world.file_folio(file, vma.file_page(va, first))?;
        let order = folio.order();
        let page = va & !(BYTES - 1);
        let table = va & !(PMD_BYTES - 1);
        let prot = if shared && vma.area.write { Prot::WRITE } else { Prot::READ };
        // The folio's pages before and after this one, as far as area and table reach.
        let mut start = page - (index * BYTES).min(page - vma.start.max(table));
        let mut end = vma.end.min(table + PMD_BYTES).min(page + (order.frames() - index) * BYTES);
        for run in self.runs(start, end)? {
            if run.end() <= page {
                start = run.end();
            } else {
                end = end.min(run.start);
            }
        }
        let entire = order == PMD_ORDER && end - start == PMD_BYTES;
        let index = index - ((page - start) >> SHIFT);
        let pages = (end - start) >> SHIFT;
        let run = Run { start, pages, head: folio.pfn(), index, prot, huge: vma.area.huge && entire };
        self.world.counters.account(folio.add_mappings(self.mm, run.mapping())?);
        self.map_counted(&run)
    }

    /// Maps a folio of a file by one PMD at `start`.
    pub(crate) fn map_file_pmd(&self, head: Pfn, start: u64, prot: Prot) -> Result<(), Error> {
        let pages = PMD_ORDER.frames();
        let run = Run { start, pages, head, index: 0, prot, huge: true };
        self.world.counters.account(self.world.folio(head)?.add_mappings(self.mm, run.mapping())?);
        self.map_counted(&run)
    }

    /// A write to what is mapped read-only in an area that may be written, or the same for a page that is only to be
    /// made the address space's own: whether it is possible now. Linux: `do_wp_page`.
    ///
    /// The caller holds the table's lock, so that `leaf` stays as it was found.
    fn write_fault(&self, area: &Area, leaf: &Leaf, access: Access) -> Result<bool, Error> {
        let counters = &self.world.counters;
        let folio = self.world.folio(leaf.pfn)?;
        if access == Access::Unshare && is_own(&folio, leaf, area) {
            return Ok(true);
        }
        let run = Run {
            start: leaf.range.start().get(),
            pages: leaf.range.bytes() >> SHIFT,
            head: folio.pfn(),
            index: leaf.pfn.get() - folio.pfn().get(),
            prot: leaf.prot,
            huge: leaf.level == PMD,
        };
        let decision = if run.huge { folio.write_fault_entire(1) } else { folio.write_fault(run.index, 1) };
        let how = match decision? {
            Cow::Exclusive => &counters.exclusive,
            Cow::Reused => &counters.reused,
            // Its pages are looked at one by one.
            Cow::Copy(_) if run.huge => return self.split(&run).map(|()| false),
            Cow::Copy(_) => {
                let prot = if access == Access::Write { Prot::WRITE } else { Prot::READ };
                self.copy(&folio, &run, prot)?;
                counters.copied.fetch_add(1, Relaxed);
                return Ok(true);
            }
        };
        how.fetch_add(1, Relaxed);
        if access == Access::Write {
            // Not flushed: who still has the old translation faults once more, and finds the new one.
            self.tables.upgrade(leaf.range.start(), leaf.pfn, Prot::WRITE)?;
        }
        Ok(true)
    }

    /// Puts a copy in the place of one page of `folio`.
    fn copy(&self, folio: &Folio<'_, Memory<C>>, run: &Run, prot: Prot) -> Result<(), Error> {
        let frozen = self.copy_of(run.pfn())?;
        let new = frozen.pfn();
        self.count_new(frozen, Mapping::pte(0))?;
        let replaced = match self.tables.replace(VirtAddr::new(run.start), run.pfn(), new, prot) {
            Ok(replaced) => replaced,
            Err(error) => {
                self.uncount(new, Mapping::pte(0))?;
                return Err(error.into());
            }
        };
        // The frames that come back are those of the run.
        let _ = replaced.flush().map_err(|_| Error::InsideReader)?;
        self.uncount_of(folio, run.mapping())
    }

    /// A new folio of one page with the contents of `pfn`, which is mapped.
    pub(crate) fn copy_of(&self, pfn: Pfn) -> Result<Frozen<'w, Memory<C>>, Error> {
        let frozen = self.world.memory.take(Order::ZERO, Home::Any)?;
        self.world.copy_frame(pfn, frozen.pfn());
        Ok(frozen)
    }
}

/// Whether a page that `leaf` maps read-only stays in its place when the address space writes to it. Linux:
/// `gup_must_unshare`.
pub(crate) fn is_own<C: Mapcounts>(folio: &Folio<'_, Memory<C>>, leaf: &Leaf, area: &Area) -> bool {
    if folio.kind() == Kind::File {
        return !area.is_private();
    }
    folio.is_exclusive(if leaf.level == PMD { 0 } else { leaf.pfn.get() - folio.pfn().get() })
}

impl<C: Mapcounts> World<'_, C> {
    /// Copies the contents of `from`, which somebody holds, to `to`, which is new.
    pub(crate) fn copy_frame(&self, from: Pfn, to: Pfn) {
        // SAFETY: the callers hold a reference or a mapping of its folio, and such folios are accessed through `Contents`
        // alone.
        let from = unsafe { Contents::of(&self.memory, from) };
        // SAFETY: the callers own the new block, and nobody else has seen it.
        let to = unsafe { Contents::of(&self.memory, to) };
        if let (Some(from), Some(to)) = (from, to) {
            to.copy_from(from);
        }
    }
}
