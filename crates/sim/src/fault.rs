// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults: folios are installed where nothing is mapped, and pages are copied or kept where they are read-only.

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_folio::{Cow, Kind, Mapcounts, Mapping, Rmap, map_new_anon};
use mmkit_page::{Frozen, MemMap};
use mmkit_pgtable::{Prot, Walk};

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::memory::Memory;
use crate::runs::{Run, range};
use crate::space::PMD_BYTES;
use crate::vma::Vma;
use crate::{AddressSpace, Backing, Error, FileId, PMD_ORDER};

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// The frame behind `va`, which may be read afterwards, or written. Linux: `handle_mm_fault`.
    pub(crate) fn fault(&mut self, va: u64, write: bool) -> Result<Pfn, Error> {
        let vma = self.vmas.at(VirtAddr::new(va))?;
        if write && !vma.area.write {
            return Err(Error::ReadOnly { va: VirtAddr::new(va) });
        }
        let page = va & !(BYTES - 1);
        // Each round makes progress: nothing, a read-only PMD, a read-only PTE, a writable page.
        loop {
            let Walk::Mapped(leaf) = self.tables.walk(VirtAddr::new(va))? else {
                match vma.area.backing {
                    Backing::Anonymous => self.install_anon(&vma, va)?,
                    Backing::File { file, page, shared } => {
                        self.install_file(&vma, va, file, page, shared)?
                    }
                }
                continue;
            };
            if !write || leaf.prot.contains(Prot::WRITE) {
                let index = (page - leaf.range.start().get()) >> SHIFT;
                return Ok(leaf.pfn.checked_add(index).unwrap_or(leaf.pfn));
            }
            // One entry: a page, or a PMD.
            for run in self.runs(page, page + BYTES)? {
                self.write_fault(&run)?;
            }
        }
    }

    /// A new folio of the area's order, or of the largest that fits and can be had.
    fn install_anon(&self, vma: &Vma, va: u64) -> Result<(), Error> {
        let mut order = vma.area.order;
        loop {
            let bytes = BYTES << order.get();
            let start = va & !(bytes - 1);
            let fits = vma.contains(start, start + bytes) && self.runs(start, start + bytes)?.is_empty();
            let taken = if fits { Some(self.world.memory.take_zeroed(order)) } else { None };
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
        let run = Run { start, pages, head: frozen.pfn(), index: 0, prot, huge, room: pages };
        self.count_new(frozen, run.mapping())?;
        self.tables.map(run.range(), run.entries(prot)).or_else(|error| {
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

    /// As much of the file's folio as is in the area and not mapped yet, around `va`; by a PMD where that can be.
    fn install_file(&self, vma: &Vma, va: u64, file: FileId, first: u64, shared: bool) -> Result<(), Error> {
        let (head, order, index) = self.world.file_page(file, vma.file_page(va, first))?;
        let page = va & !(BYTES - 1);
        let prot = if shared && vma.area.write { Prot::WRITE } else { Prot::READ };
        // The folio's pages before and after this one, as far as the area reaches.
        let mut start = page - (index * BYTES).min(page - vma.start);
        let mut end = vma.end.min(page + (order.frames() - index) * BYTES);
        for run in self.runs(start, end)? {
            if run.end() <= page {
                start = run.end();
            } else {
                end = end.min(run.start);
            }
        }
        let entire = order == PMD_ORDER && end - start == PMD_BYTES && start.is_multiple_of(PMD_BYTES);
        let index = index - ((page - start) >> SHIFT);
        let pages = (end - start) >> SHIFT;
        let room = order.frames() - index;
        let run = Run { start, pages, head, index, prot, huge: vma.area.huge && entire, room };
        let account = self.world.folio(head)?.add_mappings(self.mm, run.mapping())?;
        self.world.counters.account(account);
        self.tables.map(run.range(), run.entries(prot)).or_else(|error| {
            self.uncount(run.head, run.mapping())?;
            Err(error.into())
        })
    }

    /// A write to what is mapped read-only in an area that may be written. Linux: `do_wp_page`.
    fn write_fault(&self, run: &Run) -> Result<(), Error> {
        let counters = &self.world.counters;
        let folio = self.world.folio(run.head)?;
        let decision = if run.huge { folio.write_fault_entire(1) } else { folio.write_fault(run.index, 1) };
        let how = match decision? {
            Cow::Exclusive => &counters.exclusive,
            Cow::Reused => &counters.reused,
            Cow::Copy(_) if run.huge => return self.split(run),
            Cow::Copy(_) => {
                self.copy(run)?;
                &counters.copied
            }
        };
        how.fetch_add(1, Relaxed);
        self.protect(run.start, run.end(), Prot::WRITE)
    }

    /// Puts a copy in the place of one page.
    fn copy(&self, run: &Run) -> Result<(), Error> {
        let frozen = self.copy_of(run.pfn())?;
        let new = frozen.pfn();
        self.count_new(frozen, Mapping::pte(0))?;
        let replaced = self.tables.replace(VirtAddr::new(run.start), run.pfn(), new, Prot::WRITE);
        let replaced = match replaced {
            Ok(replaced) => replaced,
            Err(error) => {
                self.uncount(new, Mapping::pte(0))?;
                return Err(error.into());
            }
        };
        // The frames that come back are those of the run.
        let _ = replaced.flush().map_err(|_| Error::InsideReader)?;
        self.uncount(run.head, run.mapping())
    }

    /// A new folio of one page with the contents of `pfn`, which is mapped.
    pub(crate) fn copy_of(&self, pfn: Pfn) -> Result<Frozen<'w, Memory<C>>, Error> {
        let frozen = self.world.memory.take(Order::ZERO)?;
        self.copy_frame(pfn, frozen.pfn());
        Ok(frozen)
    }

    /// Copies the contents of `from`, which this address space maps, to `to`, which is new.
    pub(crate) fn copy_frame(&self, from: Pfn, to: Pfn) {
        // SAFETY: it is mapped, so a reference is held, and mapped folios are accessed through `Contents` alone.
        let from = unsafe { Contents::of(&self.world.memory, from) };
        // SAFETY: the callers own the new block, and nobody else has seen it.
        let to = unsafe { Contents::of(&self.world.memory, to) };
        if let (Some(from), Some(to)) = (from, to) {
            to.copy_from(from);
        }
    }

    /// Changes what is allowed in `start..end`, all of it mapped.
    pub(crate) fn protect(&self, start: u64, end: u64, prot: Prot) -> Result<(), Error> {
        self.tables.protect(range(start, end), prot)?.flush();
        Ok(())
    }

    /// Whether writes to what `run` maps stay in this address space: whether a fork makes it read-only.
    pub(crate) fn is_private(&self, run: &Run) -> Result<bool, Error> {
        let anon = self.world.folio(run.head)?.kind() == Kind::Anon;
        Ok(anon || self.vmas.at(VirtAddr::new(run.start))?.area.is_private())
    }
}
