// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a machine with devices, and what can be told of its state.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_devmap::{DevPagemap, Devmap, DevmapError, Kind, Operations, Owner, Provided, Registration};
use mmkit_frame::test_util::{Snapshot, TestFrames};
use mmkit_frame::{Bare, Env, Frames};
use mmkit_page::Place;
use mmkit_pgtable::X86_64;
use mmkit_sync::{Epoch, SpinLock};
use mmkit_vmemmap::{TableSpace, TailSlot, Usage, Vmemmap, VmemmapEnv};

pub const X86: Geometry = Geometry::X86_64;
/// Frames of a subsection.
pub const SUBSECTION: u64 = 1 << 9;
/// Frames of a section.
pub const SECTION: u64 = 1 << 15;
/// The first frame of devices: above what the allocator has.
pub const DEVICE: u64 = 1 << 32;

type Two<'f> = &'f TestFrames;

/// The environment: epochs, which know which thread waits, and so refuse to wait for it.
pub struct TestEnv<'f> {
    frames: Frames<Two<'f>, Two<'f>>,
    epoch: Epoch,
    slots: [TailSlot; 8],
}

// SAFETY: the fields are never exchanged; the frames are bundled by `TestFrames`.
unsafe impl<'f> Env for TestEnv<'f> {
    type Allocator = Two<'f>;
    type Map = Two<'f>;
    type Lock = SpinLock;
    type Read = Epoch;
    type Events = ();

    fn frames(&self) -> &Frames<Two<'f>, Two<'f>> {
        &self.frames
    }

    fn read_side(&self) -> &Epoch {
        &self.epoch
    }

    fn events(&self) -> &() {
        &()
    }
}

// SAFETY: the slots are a field, owned by the one memory map.
unsafe impl VmemmapEnv for TestEnv<'_> {
    type Counts = mmkit_page::Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }
}

pub type Space<'f> = TableSpace<X86_64, Bare<Two<'f>, Two<'f>>>;
pub type Device<'f> = Devmap<Space<'f>, TestEnv<'f>>;
pub type Registered<'d, 'f> = Registration<'d, Space<'f>, TestEnv<'f>>;

pub fn memory(frames: u64) -> TestFrames {
    TestFrames::with_frames(frames)
}

/// An empty machine.
pub fn machine(memory: &TestFrames) -> Device<'_> {
    let space = TableSpace::new(Bare::new(memory.frames()), X86, NodeId::ZERO).unwrap();
    let slots = core::array::from_fn(|_| TailSlot::new());
    let env = TestEnv { frames: memory.frames(), epoch: Epoch::new(), slots };
    let map = Vmemmap::new(X86, space, env).unwrap();
    Devmap::new(map, Epoch::new()).unwrap()
}

pub fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

pub fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub fn range(start: u64, frames: u64) -> PfnRange {
    PfnRange::new(pfn(start), frames).unwrap()
}

pub fn place() -> Place {
    Place::new(NodeId::ZERO, ZoneId::new(3).unwrap())
}

/// A generic pagemap of these ranges.
pub fn generic(ranges: &[PfnRange], o: u8) -> DevPagemap {
    let builder = DevPagemap::builder(Kind::Generic).order(order(o)).at(place());
    ranges.iter().fold(builder, |builder, &range| builder.range(range)).build(&X86).unwrap()
}

/// A driver that provides what it is told to, and remembers what it was called for.
#[derive(Default)]
pub struct Driver {
    pub provided: Provided,
    pub freed: Mutex<Vec<PfnRange>>,
}

impl Driver {
    pub fn new(provided: Provided) -> Arc<Self> {
        Arc::new(Self { provided, freed: Mutex::default() })
    }
}

impl Operations for Driver {
    fn provided(&self) -> Provided {
        self.provided
    }

    fn folio_free(&self, block: PfnRange) {
        self.freed.lock().unwrap().push(block);
    }
}

/// A private pagemap.
pub fn private(ranges: &[PfnRange]) -> DevPagemap {
    let builder = DevPagemap::builder(Kind::Private)
        .operations(Driver::new(Provided::FOLIO_FREE | Provided::MIGRATE_TO_RAM))
        .owner(Owner(7))
        .at(place());
    ranges.iter().fold(builder, |builder, &range| builder.range(range)).build(&X86).unwrap()
}

/// For `unregister`: gives up after so many looks.
pub fn looks(most: u32) -> impl FnMut(u32) -> ControlFlow<()> {
    move |tries| if tries >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Looks until it is told to stop, with other threads running in between.
pub fn until(stop: &AtomicBool) -> impl FnMut(u32) -> ControlFlow<()> + '_ {
    move |_| {
        std::thread::yield_now();
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Everything that could tell that something had happened.
#[derive(Debug, PartialEq)]
pub struct Digest {
    usage: Usage,
    snapshot: Snapshot,
    intervals: usize,
    /// Of frames at the edges of ranges: who has them, and whether they are there.
    frames: BTreeMap<u64, (Option<usize>, bool)>,
    /// References of each pagemap that is found there.
    references: BTreeMap<usize, (bool, u64)>,
}

pub fn digest(device: &Device<'_>, memory: &TestFrames, ranges: &[PfnRange]) -> Digest {
    device.memory().verify().unwrap();
    let usage = device.memory().usage();
    assert_eq!(usage.total(), memory.outstanding());
    let mut digest = Digest {
        usage,
        snapshot: memory.snapshot(),
        intervals: device.registry().len(),
        frames: BTreeMap::new(),
        references: BTreeMap::new(),
    };
    let reader = device.registry().enter();
    for range in ranges {
        let middle = range.start().get() + range.frames() / 2;
        for number in [range.start().get(), middle, range.end() - 1] {
            let pagemap = reader.find(pfn(number));
            let found =
                (pagemap.map(|pagemap| pagemap.index().slot()), device.memory().is_present(pfn(number)));
            digest.frames.insert(number, found);
            if let Some(pagemap) = pagemap {
                digest.references.insert(pagemap.index().slot(), (pagemap.is_dead(), pagemap.references()));
            }
        }
    }
    digest
}

/// Registers `pagemap`, which must be refused and change nothing.
#[track_caller]
pub fn refused(
    device: &Device<'_>,
    memory: &TestFrames,
    looked: &[PfnRange],
    pagemap: DevPagemap,
) -> DevmapError {
    let before = digest(device, memory, looked);
    let ranges = pagemap.ranges().to_vec();
    let error = device.register(pagemap, &mmkit_vmemmap::Serial).unwrap_err();
    assert_eq!(digest(device, memory, looked), before, "{error}");
    assert_eq!(error.pagemap.unwrap().ranges(), ranges, "the description comes back");
    error.error
}
