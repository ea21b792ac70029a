// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: an environment, two kinds of address space behind one trait, and helpers.
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports)]

pub mod digest;
pub mod soft;
#[cfg(feature = "pgtable")]
mod tables;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_frame::{Env, Frames};
use mmkit_page::{MemMap, Place, Template};
use mmkit_sync::{Counter, Epoch, Event, Events, ReadSide, Readers, SpinLock, Tally};
use mmkit_vmemmap::{Altmap, SpaceUsage, TailSlot, Usage, Vmemmap, VmemmapEnv, VmemmapSpace};

pub use soft::Soft;
#[cfg(feature = "pgtable")]
pub use tables::InTables;

/// Frames of the allocator that are on node 0, from frame 0; those of node 1 begin at [`NODE_1`].
pub const NODE_FRAMES: u64 = 1 << 20;
/// The allocator's first frame on node 1.
pub const NODE_1: u64 = 1 << 30;

/// Counts, and keeps what was reported.
#[derive(Default)]
pub struct Log {
    tally: Tally,
    pub events: Mutex<Vec<Event>>,
    pub pauses: AtomicU64,
}

impl Log {
    pub fn get(&self, counter: Counter) -> u64 {
        self.tally.get(counter)
    }

    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

impl Events for Log {
    fn count(&self, counter: Counter, by: u64) {
        self.tally.count(counter, by);
    }

    fn report(&self, event: &Event) {
        self.events.lock().unwrap().push(*event);
    }

    fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }
}

/// The environment of a memory map under test.
pub struct TestEnv<'a, R = Readers> {
    frames: Frames<&'a TestFrames, &'a TestFrames>,
    read_side: R,
    pub log: Log,
    slots: Vec<TailSlot>,
    /// What was said of pageblocks: first frame, order, type.
    pub pageblocks: Mutex<Vec<(u64, u8, u8)>>,
}

impl<'a, R: Default> TestEnv<'a, R> {
    pub fn new(frames: &'a TestFrames) -> Self {
        Self::with_slots(frames, 32)
    }

    pub fn with_slots(frames: &'a TestFrames, slots: usize) -> Self {
        Self {
            frames: frames.frames(),
            read_side: R::default(),
            log: Log::default(),
            slots: (0..slots).map(|_| TailSlot::new()).collect(),
            pageblocks: Mutex::default(),
        }
    }
}

// SAFETY: the fields never change, and the bundle came from `TestFrames::frames`.
unsafe impl<'a, R: ReadSide> Env for TestEnv<'a, R> {
    type Allocator = &'a TestFrames;
    type Map = &'a TestFrames;
    type Lock = SpinLock;
    type Read = R;
    type Events = Log;

    fn frames(&self) -> &Frames<&'a TestFrames, &'a TestFrames> {
        &self.frames
    }

    fn read_side(&self) -> &R {
        &self.read_side
    }

    fn events(&self) -> &Log {
        &self.log
    }
}

// SAFETY: the slots are the environment's own, and no test makes a second memory map of it while there is one.
unsafe impl<R: ReadSide> VmemmapEnv for &TestEnv<'_, R> {
    type Counts = mmkit_page::Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }

    fn set_pageblock(&self, first: Pfn, order: Order, kind: u8) {
        self.pageblocks.lock().unwrap().push((first.get(), order.get(), kind));
    }
}

/// A kind of address space that the tests run over.
pub trait Fixture {
    type Space<'a>: VmemmapSpace + Sync;
    /// Whether tables cost frames, and the tables of tails are shared.
    const TABLES: bool;

    fn space(frames: &TestFrames, geometry: Geometry) -> Self::Space<'_>;
}

/// Pages in a map of the standard library.
pub struct InSoftware;

impl Fixture for InSoftware {
    type Space<'a> = Soft<'a>;
    const TABLES: bool = false;

    fn space(frames: &TestFrames, geometry: Geometry) -> Soft<'_> {
        Soft::new(frames, geometry.base_shift())
    }
}

/// A memory map whose environment the test keeps, to look at it.
pub type Map<'a, F, R = Readers> = Vmemmap<<F as Fixture>::Space<'a>, &'a TestEnv<'a, R>>;
pub type SoftMap<'a, R = Readers> = Vmemmap<Soft<'a>, &'a TestEnv<'a, R>>;
pub type EpochEnv<'a> = TestEnv<'a, Epoch>;

/// Frames of two nodes, of the geometry's size.
pub fn frames(geometry: &Geometry) -> TestFrames {
    let config = TestConfig::new().base_shift(geometry.base_shift());
    TestFrames::new(config.range_of(0, NODE_FRAMES, 0, 0).range_of(NODE_1, NODE_FRAMES, 1, 0))
}

pub fn map<'a, F: Fixture, R: ReadSide>(
    geometry: Geometry,
    frames: &'a TestFrames,
    env: &'a TestEnv<'a, R>,
) -> Map<'a, F, R> {
    Vmemmap::new(geometry, F::space(frames, geometry), env).unwrap()
}

pub fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

pub fn range(start: u64, frames: u64) -> PfnRange {
    PfnRange::new(pfn(start), frames).unwrap()
}

pub fn place(node: u16, zone: u8) -> Place {
    Place::new(NodeId::new(node).unwrap(), ZoneId::new(zone).unwrap())
}

/// The words that the descriptor of `pfn` has, in a compound of `order` at rest. By division, not by mask.
pub fn expected(geometry: &Geometry, number: u64, order: Order, place: Place) -> [u64; 8] {
    if order == Order::ZERO {
        return Template::base(place).words();
    }
    if !number.is_multiple_of(order.frames()) {
        return Template::tail(order, place).words();
    }
    let pages = order.frames() * 64 / geometry.base_bytes();
    if pages >= 2 {
        Template::head_of_shared(order, place).words()
    } else {
        Template::head(order, place).words()
    }
}

/// Checks that every frame of `range` is there, and has the words and the head that it should.
#[track_caller]
pub fn assert_content<S: VmemmapSpace, E: VmemmapEnv>(
    map: &Vmemmap<S, E>,
    range: PfnRange,
    order: Order,
    place: Place,
) {
    let reader = map.enter();
    for pfn in range {
        let number = pfn.get();
        let Some(page) = reader.page(pfn) else { panic!("{pfn:?} is absent") };
        assert_eq!(page.words(), expected(map.geometry(), number, order, place), "{pfn:?}");
        assert_eq!(page.head().get(), number / order.frames() * order.frames(), "{pfn:?}");
    }
}

/// Checks that no frame of `range` is there.
#[track_caller]
pub fn assert_absent<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, range: PfnRange) {
    let reader = map.enter();
    for pfn in range {
        assert!(reader.page(pfn).is_none(), "{pfn:?} is there");
        assert!(!map.is_present(pfn), "{pfn:?} is there");
    }
}

/// Checks that what the memory map says it took is what the allocator gave out, and returns it.
#[track_caller]
pub fn balance<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, frames: &TestFrames) -> Usage {
    let usage = map.usage();
    let devices =
        frames.outstanding_blocks().iter().filter(|block| block.order == DEVICE_ORDER).count() as u64;
    assert_eq!(usage.total(), frames.outstanding() - devices * DEVICE_ORDER.frames(), "{usage:?}");
    usage
}

/// The size of a device's memory: a section of x86-64, and no size that a memory map takes.
pub const DEVICE_ORDER: Order = Order::new(15).unwrap();

/// Memory of a device: a block of node 1, which the allocator does not have meanwhile.
pub struct Device<'a>(&'a TestFrames, pub Pfn);

impl<'a> Device<'a> {
    pub fn new(frames: &'a TestFrames) -> Self {
        let request = mmkit_frame::Request::new(DEVICE_ORDER).on_node(NodeId::new(1).unwrap()).strict();
        Self(frames, frames.frames().allocate(request).unwrap())
    }

    /// Its first frame.
    pub fn start(&self) -> u64 {
        self.1.get()
    }

    /// A pool at its start, of `pages` frames, and `reserve` before it.
    pub fn altmap(&self, reserve: u64, pages: u64) -> Altmap {
        // SAFETY: the frames are the device's, which outlives what a test does with the pool; nobody else uses them, and
        // of several pools no two are in use at once.
        unsafe { Altmap::new(self.1, reserve, pages) }.unwrap()
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // SAFETY: taken by `new`, at this order; the test removed what was in it.
        unsafe { self.0.frames().deallocate(self.1, DEVICE_ORDER) };
    }
}

/// As [`balance`], and everything else that must hold. Not while a reader is held. It looks at every descriptor.
#[track_caller]
pub fn verified<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, frames: &TestFrames) -> Usage {
    assert_eq!(map.verify(), Ok(()));
    balance(map, frames)
}

/// Checks that nothing is left of what was populated. The root of the address space may be.
#[track_caller]
pub fn assert_empty<S: VmemmapSpace, E: VmemmapEnv>(
    map: &Vmemmap<S, E>,
    frames: &TestFrames,
    new: SpaceUsage,
) {
    let usage = balance(map, frames);
    assert_eq!(usage, Usage { space: new, ..Usage::default() });
}

/// The memory behind the descriptor of `pfn`, as an address, rounded down to the page.
pub fn behind<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, pfn: Pfn) -> usize {
    let _reader = map.enter();
    // SAFETY: inside the reader.
    let descriptor = unsafe { map.descriptor(pfn) }.unwrap_or_else(|| panic!("{pfn:?} is absent"));
    descriptor.as_ptr() as usize & !(map.geometry().base_bytes() as usize - 1)
}

/// How many vmemmap pages of `range` stand in memory of their own, and how many of them in memory that others share.
pub fn own_and_shared<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, range: PfnRange) -> (u64, u64) {
    let step = map.geometry().descriptors_per_page();
    let mut seen = std::collections::BTreeMap::<usize, u64>::new();
    for number in (range.start().get()..range.end()).step_by(step as usize) {
        *seen.entry(behind(map, pfn(number))).or_default() += 1;
    }
    let own = seen.values().filter(|&&count| count == 1).count() as u64;
    (own, seen.values().filter(|&&count| count > 1).sum())
}

/// Calls `$name::<Fixture>()` for each kind of address space, as tests of the name.
#[macro_export]
macro_rules! over_spaces {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        mod in_software {
            $($(#[$meta])* #[test] fn $name() { super::$name::<$crate::common::InSoftware>(); })*
        }
        #[cfg(feature = "pgtable")]
        mod in_tables {
            $($(#[$meta])* #[test] fn $name() { super::$name::<$crate::common::InTables>(); })*
        }
    };
}

/// A geometry with small sections, so that a test can look at all of it. Shifts are in bytes.
pub fn small(base_shift: u8, section_shift: u8, huge: &[u8]) -> Geometry {
    use mmkit_addr::{GeometrySpec, HugeKind, Level};

    let above = Level::new(1).unwrap();
    let table = 2 * base_shift - 3;
    let kind = |shift: u8| match shift.cmp(&table) {
        std::cmp::Ordering::Less => HugeKind::Contiguous(Level::LAST),
        std::cmp::Ordering::Equal => HugeKind::Leaf(above),
        std::cmp::Ordering::Greater => HugeKind::Contiguous(above),
    };
    let huge: Vec<_> = huge.iter().map(|&shift| (shift, kind(shift))).collect();
    let index_bits: &[u8] = match base_shift {
        12 => &[9, 9, 9, 9],
        14 => &[11, 11, 11, 11],
        _ => &[13, 13, 13],
    };
    Geometry::new(GeometrySpec {
        name: "small",
        aliases: &[],
        base_shift,
        index_bits,
        huge_pages: huge.leak(),
        section_shift,
        physical_bits: 52,
    })
    .unwrap()
}
