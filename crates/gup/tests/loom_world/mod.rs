// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space of two entries, and two threads in both roles, for the models of this crate.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Order, Pfn, PfnRange, VirtAddr, VirtRange};
use mmkit_folio::{Mapping, MmId, NoPageMapcount, PowerSums, Rmap, map_new_anon};
use mmkit_gup::*;
use mmkit_page::{Folio, Frozen, MemMap, Page, Place};
use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use mmkit_sync::{Immovable, InsideReader, SeqCount};

pub(crate) const SHIFT: u32 = 12;
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITE: u64 = 2;
pub(crate) const TABLE: u64 = 4;

pub(crate) type Counts = NoPageMapcount<PowerSums>;

/// A few frames from number 0.
pub(crate) struct Map(pub(crate) Vec<Page>);

// SAFETY: the descriptors are in a vector that is never changed while the map exists, each frame has its own, and nothing
// is ever made read-only.
unsafe impl MemMap for Map {
    type Read = Immovable;
    type Counts = Counts;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.0.get(usize::try_from(pfn.get()).ok()?).map(NonNull::from)
    }
}

/// A read side that counts who is inside, and refuses to wait rather than to spin: the models end.
pub(crate) struct Inside(pub(crate) AtomicU32);

pub(crate) struct Guard<'a>(&'a World);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the acquire of `synchronize`.
        self.0.readers.0.fetch_sub(1, Ordering::Release);
    }
}

impl Inside {
    pub(crate) fn synchronize(&self) -> Result<(), InsideReader> {
        // SeqCst: pairs with the fence of `read`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the release with which a reader leaves.
        if self.0.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(InsideReader) }
    }
}

/// An address space with one table of two entries.
pub(crate) struct World {
    pub(crate) map: Map,
    pub(crate) upper: AtomicU64,
    pub(crate) entries: [AtomicU64; 2],
    pub(crate) seq: SeqCount,
    pub(crate) readers: Inside,
    /// Pages that the walker holds.
    pub(crate) held: AtomicU32,
    /// What the other one got done.
    pub(crate) done: AtomicU32,
    /// What came out otherwise than expected, to be looked at in the end.
    pub(crate) surprises: AtomicU32,
}

// SAFETY: everything is atomic.
unsafe impl Sync for World {}

pub(crate) fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

pub(crate) fn mm(id: u32) -> MmId {
    MmId::new(id).unwrap()
}

pub(crate) fn ptes(first: u64, count: u64) -> Mapping {
    Mapping::Ptes { first, count }
}

impl World {
    /// `frames` frames, of which MM 1 maps the first two: a folio of two pages, or two of one.
    pub(crate) fn new(frames: u64, pair: bool, bits: u64) -> Self {
        let map = Map((0..frames).map(|_| Page::new()).collect());
        map.initialise(PfnRange::new(Pfn::ZERO, frames).unwrap(), Place::default()).unwrap();
        if pair {
            let block =
                map.claim_joined(Pfn::ZERO, Order::new(1).unwrap()).unwrap().allocate().prep().unwrap();
            let _ = map_new_anon(block, mm(1), ptes(0, 2)).unwrap();
        } else {
            for n in 0..2 {
                let _ = map_new_anon(map.claim(pfn(n)).unwrap().allocate(), mm(1), ptes(0, 1)).unwrap();
            }
        }
        Self {
            map,
            upper: AtomicU64::new(TABLE),
            entries: core::array::from_fn(|n| AtomicU64::new((n as u64) << SHIFT | PRESENT | bits)),
            seq: SeqCount::new(),
            readers: Inside(AtomicU32::new(0)),
            held: AtomicU32::new(0),
            done: AtomicU32::new(0),
            surprises: AtomicU32::new(0),
        }
    }

    /// The same of a file, whose mappings are not counted: there is one reference for each entry.
    pub(crate) fn of_a_file() -> Self {
        let world = Self::new(2, false, WRITE);
        for n in 0..2 {
            let frozen = world.folio(n).remove_mappings(mm(1), ptes(0, 1)).unwrap().references.put().unwrap();
            let _ = frozen.into_free().unwrap().allocate().into_folio().into_raw();
        }
        world
    }

    /// Takes the entry of page `n` of such a world away, and gives its reference back; the frame, if that was the last.
    pub(crate) fn unmap(&self, n: u64) -> Option<Frozen<'_, Map>> {
        self.entries[n as usize].store(0, Ordering::Relaxed);
        // SAFETY: the entry's reference, which was kept when the world was made.
        unsafe { Folio::from_raw(&self.map, pfn(n)) }.unwrap().put()
    }

    /// The folio of `head`, by the reference of a mapping that the caller's thread has.
    pub(crate) fn folio(&self, head: u64) -> ManuallyDrop<Folio<'_, Map>> {
        // SAFETY: a mapping's reference is there for as long as the caller's thread uses this, and `ManuallyDrop` keeps
        // it from being given back.
        ManuallyDrop::new(unsafe { Folio::from_raw(&self.map, pfn(head)) }.unwrap())
    }

    pub(crate) fn expect(&self, as_expected: bool) {
        self.surprises.fetch_add(u32::from(!as_expected), Ordering::Relaxed);
    }

    /// Holds `pages` pages without locks, as far as that goes.
    pub(crate) fn walk(&self, pages: u64, flags: Flags) {
        let span = Span::pages(&self.format(), VirtAddr::ZERO, pages).unwrap();
        let mut buffer = [Extent::EMPTY; 2];
        let request = Request::new(flags | Flags::FAST_ONLY).unwrap();
        let held = hold(self, span, request, &mut Extents::new(&mut buffer)).unwrap();
        self.held.store(held.pages as u32, Ordering::Relaxed);
    }

    pub(crate) fn pin_one(&self) {
        self.walk(1, Flags::PIN | Flags::WRITE);
    }

    pub(crate) fn pin_two(&self) {
        self.walk(2, Flags::PIN | Flags::WRITE);
    }

    pub(crate) fn pin_to_read(&self) {
        self.walk(1, Flags::PIN);
    }

    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.surprises.load(Ordering::Relaxed), 0);
    }

    /// Takes the entry of page `n`, which maps page `index` of the folio at `head`, away, and gives its reference back.
    pub(crate) fn zap(&self, n: usize, head: u64, index: u64) {
        self.entries[n].store(0, Ordering::Relaxed);
        drop(self.folio(head).remove_mappings(mm(1), ptes(index, 1)).unwrap());
    }
}

impl Rows for Guard<'_> {
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        // Acquire: pairs with the release of who links a table.
        let upper = self.0.upper.load(Ordering::Acquire);
        if upper != TABLE {
            return Row::new(&[], Order::ZERO);
        }
        let [first, past] = [at, end].map(|at| (at.get() >> SHIFT) as usize);
        Row::new(&self.0.entries[first..past], Order::ZERO)
    }
}

impl AddressSpace for World {
    type Map = Map;
    type Policy = ();
    type Migrate = ();
    type Reader<'a> = Guard<'a>;
    type Locked<'a> = ();
    type Table<'a> = Guard<'a>;

    fn map(&self) -> &Map {
        &self.map
    }

    fn policy(&self) -> &() {
        &()
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn format(&self) -> Format {
        Format { base_shift: SHIFT, limit: VirtAddr::new(2 << SHIFT), ignored: 0, step_shift: SHIFT }
    }

    fn decode(&self, raw: u64, _: Order) -> Slot {
        if raw & PRESENT == 0 {
            return Slot::Absent;
        }
        let flags = if raw & WRITE == 0 { LeafFlags::empty() } else { LeafFlags::WRITE };
        Slot::Leaf { pfn: pfn(raw >> SHIFT), flags }
    }

    fn write_protect_seq(&self) -> &SeqCount {
        &self.seq
    }

    fn read(&self) -> Guard<'_> {
        self.readers.0.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence of `synchronize`.
        fence(Ordering::SeqCst);
        Guard(self)
    }

    fn lock(&self) {}

    fn area(&self, (): &(), _: VirtAddr) -> Option<Area> {
        Some(Area { range: VirtRange::new(VirtAddr::ZERO, 2 << SHIFT)?, flags: AreaFlags::READ })
    }

    fn table(&self, (): &(), _: VirtAddr) -> Guard<'_> {
        self.read()
    }

    fn fault_in(&self, (): (), _: VirtAddr, _: FaultFlags) -> Result<Faulted<()>, FaultError> {
        Err(FaultError::Bad)
    }

    fn file(&self, _: &Folio<'_, Map>) -> FileKind {
        FileKind::Memory
    }
}

/// `one` and `other` at the same time on what `start` makes, in both roles; then `end`.
pub(crate) fn race(start: fn() -> World, one: fn(&World), other: fn(&World), end: fn(&World)) {
    race_bounded(3, start, one, other, end);
}

/// The same with so many preemptions at most.
pub(crate) fn race_bounded(
    bound: usize,
    start: fn() -> World,
    one: fn(&World),
    other: fn(&World),
    end: fn(&World),
) {
    for swapped in [false, true] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(bound);
        model.check(move || {
            let world = Arc::new(start());
            let thread = {
                let world = Arc::clone(&world);
                thread::spawn(move || if swapped { one(&world) } else { other(&world) })
            };
            if swapped {
                other(&world)
            } else {
                one(&world)
            }
            thread.join().unwrap();
            end(&world);
            world.check();
        });
    }
}
