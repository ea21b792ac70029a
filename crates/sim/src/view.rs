// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space as those see it who hold pages of it.

use mmkit_addr::{Level, Order, VirtAddr};
use mmkit_folio::Mapcounts;
use mmkit_gup::{
    Area, AreaFlags, FaultError, FaultFlags, Faulted, FileKind, Format, LeafFlags, Row, Rows, Slot,
};
use mmkit_page::Folio;
use mmkit_pgtable::{Entry, Prot, Reader, Slot as Entries, Software, Target};
use mmkit_sync::SeqCount;
use parking_lot::{MutexGuard, RwLockReadGuard};

use crate::arena::SHIFT;
use crate::fault::Access;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::migrate::Zones;
use crate::runs::range;
use crate::space::PMD_BYTES;
use crate::vma::{TOP, Vmas};
use crate::{AddressSpace, Backing, Error, PMD_ORDER};

/// What the walkers of `mmkit-gup` are given. It stays in this crate: with the memory map in hand, safe code could take the
/// references of mappings away.
pub(crate) struct View<'s, 'w, C: Mapcounts>(pub(crate) &'s AddressSpace<'w, C>);

/// The format of entries.
pub(crate) const FORMAT: Format = Format {
    base_shift: SHIFT,
    limit: VirtAddr::new(TOP),
    // Nobody sets bits in entries that no processor walks.
    ignored: 0,
    step_shift: Software::FRAME_SHIFT,
};

/// A stay inside the read side of the page tables.
pub(crate) struct Walker<'s, 'w, C: Mapcounts>(Reader<'s, Software, Machine<'w, C>>);

impl<C: Mapcounts> Rows for Walker<'_, '_, C> {
    #[inline]
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        // SAFETY: a row only loads.
        let cells = unsafe { self.0.cells(at, end) };
        // All addresses below the limit are canonical, so there are some.
        cells.map_or_else(|_| Row::new(&[], Order::ZERO), |cells| Row::new(cells.entries, cells.order))
    }
}

/// One table, locked.
pub(crate) struct Locked<'s, 'w, C: Mapcounts> {
    // Left before the lock is: who has a lock may wait for readers.
    walker: Walker<'s, 'w, C>,
    /// The first address that the lock does not cover.
    end: VirtAddr,
    _lock: MutexGuard<'s, ()>,
}

impl<C: Mapcounts> Rows for Locked<'_, '_, C> {
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        self.walker.row(at, end.min(self.end))
    }
}

impl<'s, 'w, C: Mapcounts> mmkit_gup::AddressSpace for View<'s, 'w, C> {
    type Map = Memory<C>;
    type Policy = Zones;
    type Migrate = Self;
    type Reader<'a>
        = Walker<'a, 'w, C>
    where
        Self: 'a;
    type Locked<'a>
        = RwLockReadGuard<'a, Vmas>
    where
        Self: 'a;
    type Table<'a>
        = Locked<'a, 'w, C>
    where
        Self: 'a;

    fn map(&self) -> &Memory<C> {
        &self.0.world.memory
    }

    fn policy(&self) -> &Zones {
        &Zones
    }

    fn migrate(&self) -> &Self {
        self
    }

    fn format(&self) -> Format {
        FORMAT
    }

    #[inline]
    fn decode(&self, raw: u64, order: Order) -> Slot {
        let level =
            if order == Order::ZERO { Some(Level::LAST) } else { Level::new(order.get() / PMD_ORDER.get()) };
        match level.map(|level| Software::decode(raw, level).for_readers()) {
            Some(Entries::Present(Target::Leaf { pfn, prot })) => {
                let mut flags = LeafFlags::empty();
                flags.set(LeafFlags::WRITE, prot.contains(Prot::WRITE));
                Slot::Leaf { pfn, flags }
            }
            _ => Slot::Absent,
        }
    }

    fn write_protect_seq(&self) -> &SeqCount {
        &self.0.write_protect
    }

    fn read(&self) -> Walker<'_, 'w, C> {
        Walker(self.0.tables.read())
    }

    fn lock(&self) -> RwLockReadGuard<'_, Vmas> {
        self.0.vmas.read()
    }

    fn area(&self, vmas: &RwLockReadGuard<'_, Vmas>, va: VirtAddr) -> Option<Area> {
        let vma = vmas.at(va).ok()?;
        let mut flags = AreaFlags::READ | AreaFlags::MAY_READ | AreaFlags::MAY_WRITE;
        flags.set(AreaFlags::WRITE, vma.area.write);
        flags.set(AreaFlags::SHARED, !vma.area.is_private());
        flags.set(AreaFlags::ANON, vma.area.backing == Backing::Anonymous);
        Some(Area { range: range(vma.start, vma.end), flags })
    }

    fn table(&self, _: &RwLockReadGuard<'_, Vmas>, va: VirtAddr) -> Locked<'_, 'w, C> {
        let lock = self.0.locks.lock(va.get());
        let end = VirtAddr::new((va.get() & !(PMD_BYTES - 1)).saturating_add(PMD_BYTES));
        Locked { walker: Walker(self.0.tables.read()), end, _lock: lock }
    }

    fn fault_in<'a>(
        &'a self,
        vmas: RwLockReadGuard<'a, Vmas>,
        va: VirtAddr,
        flags: FaultFlags,
    ) -> Result<Faulted<RwLockReadGuard<'a, Vmas>>, FaultError> {
        let done = self.fault_for(&vmas, va, flags);
        done.map(|()| Faulted::Kept(vmas)).map_err(|error| match error {
            Error::Alloc(_) | Error::Tables(_) => FaultError::NoMemory,
            _ => FaultError::Bad,
        })
    }

    fn file(&self, _: &Folio<'_, Memory<C>>) -> FileKind {
        // The page cache is all that a file is.
        FileKind::Memory
    }
}

impl<C: Mapcounts> View<'_, '_, C> {
    fn fault_for(&self, vmas: &Vmas, va: VirtAddr, flags: FaultFlags) -> Result<(), Error> {
        if flags.contains(FaultFlags::SPLIT) {
            let start = va.get() & !(PMD_BYTES - 1);
            let _locked = self.0.locks.lock(start);
            if let Some(run) = self.0.runs(start, start + PMD_BYTES)?.first().filter(|run| run.huge) {
                self.0.split(run)?;
            }
        }
        let writable = vmas.at(va)?.area.write;
        let access = if flags.contains(FaultFlags::UNSHARE) || flags.contains(FaultFlags::FORCE) && !writable
        {
            Access::Unshare
        } else if flags.contains(FaultFlags::WRITE) {
            Access::Write
        } else {
            Access::Read
        };
        self.0.fault_under(vmas, va.get(), access)
    }
}
