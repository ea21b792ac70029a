// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the small kernel does with pages.

use super::*;

impl<'m> Space<'m> {
    /// A block of `order` at frame `first`, nobody's yet.
    pub(crate) fn block(&self, first: u64, order: u8) -> Frozen<'m, Map<'m>> {
        let block = self.map.claim_joined(pfn(first), super::order(order)).unwrap().allocate();
        // One that was freed is a compound still.
        if order == 0 || block.is_compound() { block } else { block.prep().unwrap() }
    }

    /// Maps `pages` pages from `page` on to frames from `first` on, as they are: no counts.
    pub(crate) fn set(&self, page: u64, first: u64, pages: u64, bits: u64) {
        for n in 0..pages {
            let entry = (first + n) << SHIFT | PRESENT | bits;
            self.entry(page + n).store(entry, Relaxed);
        }
    }

    /// The entry of the last level for `page`, under a table.
    pub(crate) fn entry(&self, page: u64) -> &AtomicU64 {
        let index = (page >> self.bits) as usize;
        self.upper[index].store(TABLE | (index as u64) << SHIFT, Relaxed);
        &self.lower[index][(page & ((1 << self.bits) - 1)) as usize]
    }

    /// A new anonymous folio of `order` at frame `first`, mapped from `page` on by an entry for each page.
    pub(crate) fn map_anon(&self, page: u64, first: u64, order: u8, bits: u64) {
        let pages = 1 << order;
        let mapping = Mapping::Ptes { first: 0, count: pages };
        let _ = map_new_anon(self.block(first, order), self.mm, mapping).unwrap();
        self.set(page, first, pages, bits);
    }

    /// The same by one entry of the upper level.
    pub(crate) fn map_huge(&self, page: u64, first: u64, bits: u64) {
        let _ = map_new_anon(self.block(first, self.bits), self.mm, Mapping::Pmd).unwrap();
        self.upper[(page >> self.bits) as usize].store(first << SHIFT | PRESENT | bits, Relaxed);
    }

    /// A new folio of a file, mapped from `page` on by an entry for each page.
    pub(crate) fn map_file(&self, page: u64, first: u64, order: u8, bits: u64, kind: FileKind) {
        let folio = self.block(first, order).into_folio();
        let pages = 1 << order;
        let _ = folio.add_mappings(self.mm, Mapping::Ptes { first: 0, count: pages }).unwrap();
        let _ = folio.into_raw();
        self.files.borrow_mut().insert(first, kind);
        self.set(page, first, pages, bits);
    }

    /// The page of zeroes, mapped at `page`.
    pub(crate) fn map_zero(&self, page: u64, first: u64) {
        if self.map.try_get(pfn(first)).is_err() {
            drop(self.block(first, 0).into_zeroes());
        }
        self.set(page, first, 1, 0);
    }

    /// The folio of a frame that is in use.
    pub(crate) fn folio(&self, frame: u64) -> Folio<'m, Map<'m>> {
        self.map.try_get(pfn(frame)).unwrap()
    }

    /// References and pins of it.
    pub(crate) fn counts(&self, frame: u64) -> (u32, u32) {
        let folio = self.folio(frame);
        (folio.count() - 1, folio.pins())
    }

    /// The frame that `page` is mapped to.
    pub(crate) fn frame(&self, page: u64) -> u64 {
        self.entry(page).load(Relaxed) >> SHIFT
    }

    /// A frame that nobody has, the highest.
    fn take(&self) -> Result<Frozen<'m, Map<'m>>, FaultError> {
        if self.no_memory.get() {
            return Err(FaultError::NoMemory);
        }
        let frames = self.map.range().frames();
        (0..frames)
            .rev()
            .find_map(|n| self.map.claim(pfn(n)).ok())
            .map(mmkit_page::Free::allocate)
            .ok_or(FaultError::NoMemory)
    }

    /// A fault, with everything that it does.
    pub(crate) fn fault(&self, at: VirtAddr, flags: FaultFlags) -> Result<(), FaultError> {
        let page = at.get() >> SHIFT;
        let areas = self.areas.borrow();
        let area = areas.iter().find(|area| area.range.contains(at)).ok_or(FaultError::Bad)?;
        let upper = &self.upper[(page >> self.bits) as usize];
        let raw = upper.load(Relaxed);
        if raw & TABLE == 0 && raw & PRESENT != 0 {
            return self.split_or_write(page, raw, flags);
        }
        let cell = self.entry(page);
        let raw = cell.load(Relaxed);
        let write = flags.contains(FaultFlags::WRITE);
        let allowed = area.flags.contains(AreaFlags::WRITE);
        if write && !allowed && !flags.contains(FaultFlags::FORCE) {
            return Err(FaultError::Bad);
        }
        let bits = if allowed { WRITE } else { 0 };
        if raw & PRESENT == 0 {
            if !area.flags.contains(AreaFlags::ANON) {
                return Err(FaultError::Bad);
            }
            let frozen = self.take()?;
            cell.store(self.new_page(frozen) << SHIFT | PRESENT | bits, Relaxed);
            return Ok(());
        }
        if raw & (HINT | WATCHED) != 0 {
            cell.store(raw & !(HINT | WATCHED), Relaxed);
            return Ok(());
        }
        if !write && !flags.contains(FaultFlags::UNSHARE) {
            return Ok(());
        }
        let folio = self.folio(raw >> SHIFT);
        let bits = if write { bits } else { raw & WRITE };
        let index = (raw >> SHIFT) - folio.pfn().get();
        let is_anon = folio.flags().contains(PageFlags::ANON);
        let shared = area.flags.contains(AreaFlags::SHARED);
        let keeps =
            shared || is_anon && !matches!(folio.write_fault(index, 1), Ok(mmkit_folio::Cow::Copy(_)));
        if keeps {
            cell.store(raw & !WRITE | bits, Relaxed);
            return Ok(());
        }
        let new = self.new_page(self.take()?);
        cell.store(new << SHIFT | PRESENT | bits, Relaxed);
        if !folio.flags().contains(PageFlags::ZERO) {
            drop(folio.remove_mappings(self.mm, Mapping::pte(index)).map_err(|_| FaultError::Bad)?);
        }
        Ok(())
    }

    fn new_page(&self, frozen: Frozen<'m, Map<'m>>) -> u64 {
        let frame = frozen.pfn().get();
        let _ = map_new_anon(frozen, self.mm, Mapping::pte(0)).unwrap();
        frame
    }

    /// A fault at a leaf of the upper level.
    fn split_or_write(&self, page: u64, raw: u64, flags: FaultFlags) -> Result<(), FaultError> {
        let folio = self.folio(raw >> SHIFT);
        if !flags.contains(FaultFlags::SPLIT)
            && !matches!(folio.write_fault_entire(1), Ok(mmkit_folio::Cow::Copy(_)))
        {
            let bits = if flags.contains(FaultFlags::WRITE) { WRITE } else { raw & WRITE };
            self.upper[(page >> self.bits) as usize].store(raw & !WRITE | bits, Relaxed);
            return Ok(());
        }
        let _ = folio.remap(self.mm).map_err(|_| FaultError::Bad)?;
        let first = page & !((1 << self.bits) - 1);
        self.set(first, raw >> SHIFT, 1 << self.bits, raw & WRITE);
        Ok(())
    }

    /// Takes `page` away, and gives its mapping's reference back.
    pub(crate) fn zap(&self, page: u64) {
        let raw = self.entry(page).swap(0, Relaxed);
        let folio = self.folio(raw >> SHIFT);
        let index = (raw >> SHIFT) - folio.pfn().get();
        drop(folio.remove_mappings(self.mm, Mapping::pte(index)).unwrap());
    }

    /// Shares the pages of the folio at `frame`, mapped from `page` on, with another address space.
    pub(crate) fn fork(&self, page: u64, frame: u64) {
        let folio = self.folio(frame);
        let (first, pages) = (folio.pfn().get(), folio.order().frames());
        self.set(page, first, pages, 0);
        let child = MmId::new(2).unwrap();
        let _ = folio.fork(child, Mapping::Ptes { first: 0, count: pages }).unwrap();
    }
}

impl<'m> Migrate<Map<'m>> for Space<'m> {
    fn isolate(&self, folio: &Folio<'_, Map<'m>>) -> bool {
        self.call("isolate");
        if self.undrained.get() > 0 {
            return false;
        }
        self.isolated.borrow_mut().push(folio.pfn().get());
        true
    }

    fn drain(&self) {
        self.call("drain");
        self.undrained.set(self.undrained.get().saturating_sub(1));
    }

    fn migrate(&self, isolated: Isolated<'_, Map<'m>>) -> Result<(), MigrateError> {
        self.call("migrate");
        assert_eq!(self.locked.get(), 0, "migration may wait, so nothing is locked");
        let mut result = Ok(());
        for folio in isolated {
            let frame = folio.pfn().get();
            self.isolated.borrow_mut().retain(|&other| other != frame);
            // The handle's, and the mapping's.
            if folio.count() != 2 {
                result = Err(MigrateError::Busy);
                continue;
            }
            let Ok(new) = self.take() else {
                result = Err(MigrateError::NoMemory);
                continue;
            };
            let page = (0..self.pages()).find(|&page| self.frame(page) == frame).unwrap();
            let bits = self.entry(page).load(Relaxed) & WRITE;
            self.zap(page);
            self.set(page, self.new_page(new), 1, bits);
        }
        result
    }
}
