// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space of one table, for examples and tests.

use core::fmt;

use mmkit_addr::{Order, Pfn, VirtAddr, VirtRange};
use mmkit_folio::Mapcounts;
use mmkit_page::{Folio, MemMap, PinPolicy};
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::{AtomicU64, Ordering};

use crate::{
    AddressSpace, Area, AreaFlags, FaultError, FaultFlags, Faulted, FileKind, Format, LeafFlags, Row, Rows,
    Slot,
};

const SHIFT: u32 = 12;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;

/// Pages from address 0 on, one for each entry of a table that is lent to it, and nothing that a fault could do.
///
/// It counts no mappings: whoever [sets](Self::set) an entry holds the folio for as long as the entry is there.
pub struct Flat<'m, M, P = ()> {
    map: &'m M,
    policy: &'m P,
    entries: &'m [AtomicU64],
    write_protect: SeqCount,
}

impl<'m, M> Flat<'m, M> {
    /// An address space with as many pages of 4 KiB as there are entries, which are 0 where nothing is mapped.
    #[must_use]
    pub fn new(map: &'m M, entries: &'m [AtomicU64]) -> Self {
        Self::with_policy(map, entries, &())
    }
}

impl<'m, M, P> Flat<'m, M, P> {
    /// The same, where `policy` knows what may be pinned.
    #[must_use]
    pub fn with_policy(map: &'m M, entries: &'m [AtomicU64], policy: &'m P) -> Self {
        Self { map, policy, entries, write_protect: SeqCount::new() }
    }

    /// Maps a page to a frame; whether there is such a page.
    pub fn set(&self, page: usize, pfn: Pfn, writable: bool) -> bool {
        let bits = PRESENT | if writable { WRITE } else { 0 };
        // Release: pairs with the acquire fence of walks, so that they see what the frame was when it was mapped.
        self.entries
            .get(page)
            .map(|entry| entry.store(pfn.get() << SHIFT | bits, Ordering::Release))
            .is_some()
    }

    /// Unmaps a page; whether there is such a page.
    pub fn clear(&self, page: usize) -> bool {
        self.entries.get(page).map(|entry| entry.store(0, Ordering::Relaxed)).is_some()
    }

    fn limit(&self) -> VirtAddr {
        VirtAddr::new((self.entries.len() as u64) << SHIFT)
    }
}

/// The entries of a [`Flat`], which stay where they are.
#[derive(Debug)]
pub struct FlatRows<'a>(&'a [AtomicU64]);

impl Rows for FlatRows<'_> {
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        let [first, past] = [at, end].map(|at| (at.get() >> SHIFT) as usize);
        Row::new(self.0.get(first..past.min(self.0.len())).unwrap_or(&[]), Order::ZERO)
    }
}

impl<M: MemMap<Counts: Mapcounts>, P: PinPolicy<M>> AddressSpace for Flat<'_, M, P> {
    type Map = M;
    type Policy = P;
    type Migrate = ();
    type Reader<'a>
        = FlatRows<'a>
    where
        Self: 'a;
    type Locked<'a>
        = ()
    where
        Self: 'a;
    type Table<'a>
        = FlatRows<'a>
    where
        Self: 'a;

    fn map(&self) -> &M {
        self.map
    }

    fn policy(&self) -> &P {
        self.policy
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn format(&self) -> Format {
        Format { base_shift: SHIFT, limit: self.limit(), ignored: 0, step_shift: SHIFT }
    }

    fn decode(&self, raw: u64, _: Order) -> Slot {
        let flags = if raw & WRITE == 0 { LeafFlags::empty() } else { LeafFlags::WRITE };
        match Pfn::new(raw >> SHIFT) {
            Some(pfn) if raw & PRESENT != 0 => Slot::Leaf { pfn, flags },
            _ => Slot::Absent,
        }
    }

    fn write_protect_seq(&self) -> &SeqCount {
        &self.write_protect
    }

    fn read(&self) -> FlatRows<'_> {
        FlatRows(self.entries)
    }

    fn lock(&self) {}

    fn area(&self, (): &(), va: VirtAddr) -> Option<Area> {
        let range = VirtRange::between(VirtAddr::ZERO, self.limit())?;
        let flags = AreaFlags::READ | AreaFlags::WRITE | AreaFlags::SHARED;
        range.contains(va).then_some(Area { range, flags })
    }

    fn table(&self, (): &(), _: VirtAddr) -> FlatRows<'_> {
        FlatRows(self.entries)
    }

    fn fault_in(&self, (): (), _: VirtAddr, _: FaultFlags) -> Result<Faulted<()>, FaultError> {
        Err(FaultError::Bad)
    }

    fn file(&self, _: &Folio<'_, M>) -> FileKind {
        FileKind::Memory
    }
}

impl<M, P> fmt::Debug for Flat<'_, M, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flat").field("pages", &self.entries.len()).finish_non_exhaustive()
    }
}
