// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small kernel: one address space of two levels over an array of descriptors, with faults, copy-on-write and migration.
#![allow(dead_code, reason = "each test uses its part")]

mod kernel;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use mmkit_addr::{Order, Pfn, VirtAddr, VirtRange};
use mmkit_folio::{Mapping, MmId, NoPageMapcount, PowerSums, Rmap, map_new_anon};
use mmkit_gup::*;
use mmkit_page::{
    Folio, Frozen, MemMap, Page, PageFlags, PinPolicy, PinRefusal, PinUse, PinVerdict, Place, SliceMap,
};
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) type Counts = NoPageMapcount<PowerSums>;
pub(crate) type Map<'a> = SliceMap<'a, Counts>;

/// Bytes of a page, as a shift.
pub(crate) const SHIFT: u32 = 12;
pub(crate) const PAGE: u64 = 1 << SHIFT;

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const TABLE: u64 = 1 << 1;
pub(crate) const WRITE: u64 = 1 << 2;
pub(crate) const HINT: u64 = 1 << 3;
pub(crate) const WATCHED: u64 = 1 << 4;
pub(crate) const SPECIAL: u64 = 1 << 5;
pub(crate) const ACCESSED: u64 = 1 << 6;

pub(crate) fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

pub(crate) fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

pub(crate) fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page << SHIFT)
}

/// Descriptors for `frames` frames.
pub(crate) fn descriptors(frames: u64) -> Vec<Page> {
    (0..frames).map(|_| Page::new()).collect()
}

/// A map of all of them, at rest.
pub(crate) fn map(pages: &mut [Page]) -> Map<'_> {
    let map = Map::counted(pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    map
}

/// What is done when something of the address space is called: by its name, and how often it was called before.
pub(crate) type Hook<'m> = Box<dyn Fn(&Space<'m>, &str, u64) + 'm>;

/// The address space, which is its own policy and its own migration.
pub(crate) struct Space<'m> {
    pub(crate) map: &'m Map<'m>,
    /// log2 of the entries of a table.
    bits: u8,
    pub(crate) upper: Vec<AtomicU64>,
    pub(crate) lower: Vec<Vec<AtomicU64>>,
    pub(crate) areas: RefCell<Vec<Area>>,
    pub(crate) seq: SeqCount,
    pub(crate) hook: Option<Hook<'m>>,
    /// Calls are neither counted nor told.
    pub(crate) quiet: bool,
    pub(crate) calls: RefCell<BTreeMap<&'static str, u64>>,
    /// What is said of files, by the head's number.
    pub(crate) files: RefCell<BTreeMap<u64, FileKind>>,
    /// Kinds of memory that are not the machine's.
    pub(crate) devices: RefCell<BTreeMap<u64, PinRefusal>>,
    /// Whether faults keep the lock.
    pub(crate) keeps_lock: Cell<bool>,
    pub(crate) faults: RefCell<Vec<(VirtAddr, FaultFlags)>>,
    pub(crate) fault_error: Cell<Option<FaultError>>,
    pub(crate) interruption: Cell<Option<Interruption>>,
    pub(crate) isolated: RefCell<Vec<u64>>,
    /// Isolation fails so often before it succeeds.
    pub(crate) undrained: Cell<u32>,
    pub(crate) no_memory: Cell<bool>,
    /// Pages of the file that shared and private file areas map, by their index from the area's start.
    pub(crate) mm: MmId,
    pub(crate) locked: Cell<u32>,
}

impl<'m> Space<'m> {
    /// `tables` tables of `2^bits` entries each.
    pub(crate) fn new(map: &'m Map<'m>, bits: u8, tables: usize) -> Self {
        let table = |entries: usize| (0..entries).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Self {
            map,
            bits,
            upper: table(tables),
            lower: (0..tables).map(|_| table(1 << bits)).collect(),
            areas: RefCell::default(),
            seq: SeqCount::new(),
            hook: None,
            quiet: false,
            calls: RefCell::default(),
            files: RefCell::default(),
            devices: RefCell::default(),
            keeps_lock: Cell::new(false),
            faults: RefCell::default(),
            fault_error: Cell::new(None),
            interruption: Cell::new(None),
            isolated: RefCell::default(),
            undrained: Cell::new(0),
            no_memory: Cell::new(false),
            mm: MmId::new(1).unwrap(),
            locked: Cell::new(0),
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        (self.upper.len() as u64) << self.bits
    }

    /// Makes pages `first..first + pages` an area.
    pub(crate) fn area_at(&self, first: u64, pages: u64, flags: AreaFlags) {
        let range = VirtRange::new(va(first), pages << SHIFT).unwrap();
        self.areas.borrow_mut().push(Area { range, flags });
    }

    /// All pages, anonymous, to be read and written.
    pub(crate) fn anonymous(self) -> Self {
        self.area_at(0, self.pages(), ANON_RW);
        self
    }

    pub(crate) fn span(&self, first: u64, pages: u64) -> Span {
        Span::pages(&self.format(), va(first), pages).unwrap()
    }

    fn call(&self, name: &'static str) {
        if self.quiet {
            return;
        }
        let before = {
            let mut calls = self.calls.borrow_mut();
            let count = calls.entry(name).or_default();
            *count += 1;
            *count - 1
        };
        if let Some(hook) = &self.hook {
            hook(self, name, before);
        }
    }

    pub(crate) fn called(&self, name: &str) -> u64 {
        self.calls.borrow().get(name).copied().unwrap_or(0)
    }

    fn row_at(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        self.call("row");
        let page = at.get() >> SHIFT;
        let (index, last) = (page >> self.bits, ((end.get() >> SHIFT) - 1) >> self.bits);
        let Some(upper) = self.upper.get(index as usize) else { return Row::new(&[], Order::ZERO) };
        let seen = upper.load(Relaxed);
        if seen & TABLE != 0 {
            let entry = (page & ((1 << self.bits) - 1)) as usize;
            let past = if last > index {
                1 << self.bits
            } else {
                ((end.get() >> SHIFT) - (index << self.bits)) as usize
            };
            return Row::new(&self.lower[index as usize][entry..past], Order::ZERO).below(upper, seen);
        }
        let leaves = self.upper[index as usize..=(last as usize).min(self.upper.len() - 1)]
            .iter()
            .take_while(|cell| cell.load(Relaxed) & TABLE == 0)
            .count();
        Row::new(&self.upper[index as usize..index as usize + leaves], order(self.bits))
    }
}

pub(crate) const ANON_RW: AreaFlags = AreaFlags::READ
    .union(AreaFlags::WRITE)
    .union(AreaFlags::MAY_READ)
    .union(AreaFlags::MAY_WRITE)
    .union(AreaFlags::ANON);

/// A reader, or a table that is locked.
pub(crate) struct Look<'a, 'm>(&'a Space<'m>, bool);

impl Rows for Look<'_, '_> {
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        let Self(space, locked) = *self;
        let bytes = PAGE << space.bits;
        let table_end = VirtAddr::new((at.get() & !(bytes - 1)) + bytes);
        space.row_at(at, if locked { end.min(table_end) } else { end })
    }
}

pub(crate) struct Locked<'a>(&'a Cell<u32>);

impl<'a> Locked<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<'m> AddressSpace for Space<'m> {
    type Map = Map<'m>;
    type Policy = Self;
    type Migrate = Self;
    type Reader<'a>
        = Look<'a, 'm>
    where
        Self: 'a;
    type Locked<'a>
        = Locked<'a>
    where
        Self: 'a;
    type Table<'a>
        = Look<'a, 'm>
    where
        Self: 'a;

    fn map(&self) -> &Map<'m> {
        self.map
    }

    fn policy(&self) -> &Self {
        self
    }

    fn migrate(&self) -> &Self {
        self
    }

    fn format(&self) -> Format {
        Format { base_shift: SHIFT, limit: va(self.pages()), ignored: ACCESSED, step_shift: SHIFT }
    }

    #[inline]
    fn decode(&self, raw: u64, _: Order) -> Slot {
        if raw & PRESENT == 0 {
            return Slot::Absent;
        }
        if raw & SPECIAL != 0 {
            return Slot::Special;
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::WRITE, raw & WRITE != 0);
        flags.set(LeafFlags::HINT, raw & HINT != 0);
        flags.set(LeafFlags::WATCHED, raw & WATCHED != 0);
        Slot::Leaf { pfn: pfn(raw >> SHIFT), flags }
    }

    fn write_protect_seq(&self) -> &SeqCount {
        self.call("seq");
        &self.seq
    }

    fn read(&self) -> Look<'_, 'm> {
        self.call("read");
        Look(self, false)
    }

    fn lock(&self) -> Locked<'_> {
        self.call("lock");
        Locked::new(&self.locked)
    }

    fn area(&self, _: &Locked<'_>, at: VirtAddr) -> Option<Area> {
        self.areas.borrow().iter().find(|area| area.range.contains(at)).copied()
    }

    fn table(&self, _: &Locked<'_>, _: VirtAddr) -> Look<'_, 'm> {
        Look(self, true)
    }

    fn fault_in<'a>(
        &'a self,
        locked: Locked<'a>,
        at: VirtAddr,
        flags: FaultFlags,
    ) -> Result<Faulted<Locked<'a>>, FaultError> {
        self.call("fault");
        self.faults.borrow_mut().push((at, flags));
        if let Some(error) = self.fault_error.get() {
            return Err(error);
        }
        if self.keeps_lock.get() {
            self.fault(at, flags)?;
            return Ok(Faulted::Kept(locked));
        }
        drop(locked);
        // The first try does nothing but let the lock go.
        if flags.contains(FaultFlags::TRIED) {
            self.fault(at, flags)?;
        }
        Ok(Faulted::Dropped)
    }

    fn file(&self, folio: &Folio<'_, Map<'m>>) -> FileKind {
        self.files.borrow().get(&folio.pfn().get()).copied().unwrap_or(FileKind::Memory)
    }

    fn interrupted(&self) -> Option<Interruption> {
        self.interruption.get()
    }

    fn will_pin(&self) {
        self.call("will_pin");
    }
}

impl<'m> PinPolicy<Map<'m>> for Space<'m> {
    #[inline]
    fn verdict(&self, folio: &Folio<'_, Map<'m>>, usage: PinUse) -> PinVerdict {
        if folio.flags().contains(PageFlags::DEVICE)
            && let Some(&refusal) = self.devices.borrow().get(&folio.pfn().get())
        {
            let allowed = match refusal {
                PinRefusal::FileSystemDax => !usage.contains(PinUse::LONGTERM),
                PinRefusal::Peer => usage.contains(PinUse::PEER),
                _ => false,
            };
            return if allowed { PinVerdict::Allow } else { PinVerdict::Refuse(refusal) };
        }
        let moves = usage.contains(PinUse::LONGTERM) && folio.flags().contains(PageFlags::MOVABLE);
        if moves { PinVerdict::Migrate } else { PinVerdict::Allow }
    }
}
