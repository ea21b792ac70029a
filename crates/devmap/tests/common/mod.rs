// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a machine with devices, and what can be told of its state.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_devmap::{DevPagemap, Devmap, DevmapError, Kind, Operations, Owner, Provided, Registration, Span};
use mmkit_frame::test_util::{Snapshot, TestFrames};
use mmkit_frame::{AllocError, Bare, DirectMap, Env, FrameAllocator, Frames, Request};
use mmkit_page::{Page, Place};
use mmkit_pgtable::X86_64;
use mmkit_sync::{Epoch, Events, ReadSide, SpinLock};
use mmkit_vmemmap::{
    Backing, Behind, MapError, SpaceUsage, TableSpace, TailSlot, Usage, Vmemmap, VmemmapEnv, VmemmapSpace,
};

pub const X86: Geometry = Geometry::X86_64;
/// Frames of a subsection.
pub const SUBSECTION: u64 = 1 << 9;
/// Frames of a section.
pub const SECTION: u64 = 1 << 15;
/// The first frame of devices: above what the allocator has.
pub const DEVICE: u64 = 1 << 32;

std::thread_local! {
    /// Allocations of this thread's heap until one fails, where a test asks for that; 0 where none does. What is beneath the
    /// crate that is tested is left out.
    pub static HEAP_FAILS: Cell<u64> = const { Cell::new(0) };
    /// Where this thread meets another one, twice, at its next pause between two parts of long work.
    pub static MEET: RefCell<Option<Arc<Barrier>>> = const { RefCell::new(None) };
}

/// Pauses in which a test can look at what is half done.
#[derive(Clone, Copy, Debug)]
pub struct Pauses;

impl Events for Pauses {
    fn pause(&self) {
        if let Some(barrier) = MEET.take() {
            barrier.wait();
            barrier.wait();
        }
    }
}

/// The test allocator, whose own lists never want for memory.
#[derive(Clone, Copy)]
pub struct Quiet<'f>(&'f TestFrames);

fn quiet<T>(work: impl FnOnce() -> T) -> T {
    let left = HEAP_FAILS.replace(0);
    let done = work();
    HEAP_FAILS.set(left);
    done
}

// SAFETY: every call is passed on to the one allocator.
unsafe impl FrameAllocator for Quiet<'_> {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        quiet(|| self.0.allocate(request))
    }

    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        quiet(|| self.0.allocate_bulk(request, out))
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        // SAFETY: passed on to the caller.
        quiet(|| unsafe { self.0.deallocate(pfn, order) });
    }

    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        // SAFETY: passed on to the caller.
        quiet(|| unsafe { self.0.split(pfn, from, to) });
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        self.0.node_of(pfn)
    }
}

// SAFETY: every call is passed on to the one direct map.
unsafe impl DirectMap for Quiet<'_> {
    fn base_shift(&self) -> u32 {
        self.0.base_shift()
    }

    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        // Memory is made when it is first looked at.
        quiet(|| self.0.frame(pfn))
    }
}

type Two<'f> = Quiet<'f>;

fn bundle(memory: &TestFrames) -> Frames<Two<'_>, Two<'_>> {
    // SAFETY: the frames that the allocator gives are those that the direct map reaches, and it reaches them for as long as
    // it is borrowed.
    unsafe { Frames::new(Quiet(memory), Quiet(memory)) }
}

/// The environment: epochs, which know which thread waits, and so refuse to wait for it.
pub struct TestEnv<'f, R = Epoch> {
    frames: Frames<Two<'f>, Two<'f>>,
    read_side: R,
    slots: [TailSlot; 8],
}

// SAFETY: the fields are never exchanged; the frames are bundled by `TestFrames`.
unsafe impl<'f, R: ReadSide> Env for TestEnv<'f, R> {
    type Allocator = Two<'f>;
    type Map = Two<'f>;
    type Lock = SpinLock;
    type Read = R;
    type Events = Pauses;

    fn frames(&self) -> &Frames<Two<'f>, Two<'f>> {
        &self.frames
    }

    fn read_side(&self) -> &R {
        &self.read_side
    }

    fn events(&self) -> &Pauses {
        &Pauses
    }
}

// SAFETY: the slots are a field, owned by the one memory map.
unsafe impl<R: ReadSide> VmemmapEnv for TestEnv<'_, R> {
    type Counts = mmkit_page::Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }
}

/// Page tables that refuse their `k`-th change of this thread from now on, where a test asks for that.
pub struct Refusing<S>(S);

std::thread_local! {
    /// Changes until one is refused; 0 where none is.
    pub static SPACE_FAILS: Cell<u64> = const { Cell::new(0) };
}

/// Whether this change is the one.
fn refuses() -> Result<(), MapError> {
    let left = SPACE_FAILS.get();
    SPACE_FAILS.set(left.saturating_sub(1));
    if left == 1 { Err(MapError::Os { errno: 5 }) } else { Ok(()) }
}

// SAFETY: every call is passed on to the space inside, but for those that are refused before anything has changed.
unsafe impl<S: VmemmapSpace> VmemmapSpace for Refusing<S> {
    type Unmapped<'a>
        = S::Unmapped<'a>
    where
        Self: 'a;

    fn base_shift(&self) -> u32 {
        self.0.base_shift()
    }

    fn reaches(&self, pfn: Pfn, bytes: NonNull<u8>) -> bool {
        self.0.reaches(pfn, bytes)
    }

    fn behind(&self, page: u64) -> Behind {
        self.0.behind(page)
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: passed on to the caller.
        unsafe { self.0.descriptor(pfn) }
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, node: NodeId) -> Result<(), MapError> {
        refuses()?;
        // SAFETY: passed on to the caller.
        unsafe { self.0.map(pages, backing, node) }
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<Self::Unmapped<'_>, MapError> {
        refuses()?;
        // SAFETY: passed on to the caller.
        unsafe { self.0.unmap(pages) }
    }

    fn translates(&self) -> bool {
        self.0.translates()
    }

    fn flush(&self, pages: Range<u64>) {
        self.0.flush(pages);
    }

    unsafe fn reclaim(&self) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.reclaim() }
    }

    fn usage(&self) -> SpaceUsage {
        self.0.usage()
    }
}

pub type Space<'f> = Refusing<TableSpace<X86_64, Bare<Two<'f>, Two<'f>>>>;
pub type Device<'f, R = Epoch> = Devmap<Space<'f>, TestEnv<'f, R>>;
pub type Registered<'d, 'f, R = Epoch> = Registration<'d, Space<'f>, TestEnv<'f, R>>;

pub fn memory(frames: u64) -> TestFrames {
    TestFrames::with_frames(frames)
}

/// An empty machine.
pub fn machine(memory: &TestFrames) -> Device<'_> {
    machine_with(memory)
}

/// An empty machine with read sides of type `R`.
pub fn machine_with<R: ReadSide + Default>(memory: &TestFrames) -> Device<'_, R> {
    let space = TableSpace::new(Bare::new(bundle(memory)), X86, NodeId::ZERO).unwrap();
    let slots = core::array::from_fn(|_| TailSlot::new());
    let env = TestEnv { frames: bundle(memory), read_side: R::default(), slots };
    let map = Vmemmap::new(X86, Refusing(space), env).unwrap();
    Devmap::new(map, R::default()).unwrap()
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

/// A pagemap of a file system's storage.
pub fn fsdax(ranges: &[PfnRange]) -> DevPagemap {
    let builder = DevPagemap::builder(Kind::FsDax).at(place());
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

pub fn digest<R: ReadSide>(device: &Device<'_, R>, memory: &TestFrames, ranges: &[PfnRange]) -> Digest {
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

/// What the devices' zone and node span: that grows, and so is no part of the digest.
pub fn spans<R: ReadSide>(device: &Device<'_, R>) -> [Option<Span>; 2] {
    [device.zone_span(place()), device.node_span(NodeId::ZERO)]
}

/// Registers `pagemap`, which must be refused and change nothing.
#[track_caller]
pub fn refused(
    device: &Device<'_>,
    memory: &TestFrames,
    looked: &[PfnRange],
    pagemap: DevPagemap,
) -> DevmapError {
    let before = (digest(device, memory, looked), spans(device));
    let ranges = pagemap.ranges().to_vec();
    let error = device.register(pagemap, &mmkit_vmemmap::Serial).unwrap_err();
    assert_eq!((digest(device, memory, looked), spans(device)), before, "{error}");
    assert_eq!(error.pagemap.unwrap().ranges(), ranges, "the description comes back");
    error.error
}
