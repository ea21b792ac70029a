// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine with device memory: frames, a lock that knows how long it was held, and types of pageblocks.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::sync::atomic::{AtomicU8, Ordering};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::{Bare, Env, Frames};
use mmkit_page::Uncounted;
use mmkit_pgtable::X86_64;
use mmkit_sync::{RawLock, Readers, SpinLock};
use mmkit_vmemmap::{TableSpace, TailSlot, Vmemmap, VmemmapEnv};

use crate::arena::Arena;
use crate::clock::ThreadTime;

/// The machine that is measured.
pub(super) const GEOMETRY: Geometry = Geometry::X86_64;
/// log2 of the frames of a pageblock: those of a 2M leaf.
const PAGEBLOCK: u32 = 9;

thread_local! {
    /// When this thread took the lock.
    static TAKEN: Cell<Option<ThreadTime>> = const { Cell::new(None) };
    /// How long it held it, each time since it last asked, in nanoseconds of its processor time. A lock is made where
    /// nothing else is at hand, so all locks of a thread share this.
    static HELD: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// A spinlock that measures how long it is held. Reading the clock is in it.
#[derive(Debug)]
pub(super) struct HeldLock(SpinLock);

impl HeldLock {
    /// How long this thread has held each of its locks, one time after the other, since the last call.
    pub(super) fn holds_ns() -> Vec<f64> {
        HELD.take()
    }
}

// SAFETY: every call is passed on to one spinlock; between taking and giving it only clocks are read.
unsafe impl RawLock for HeldLock {
    fn unlocked() -> Self {
        Self(SpinLock::unlocked())
    }

    fn lock(&self) {
        self.0.lock();
        TAKEN.set(Some(ThreadTime::now()));
    }

    fn try_lock(&self) -> bool {
        let taken = self.0.try_lock();
        if taken {
            TAKEN.set(Some(ThreadTime::now()));
        }
        taken
    }

    unsafe fn unlock(&self) {
        let held = TAKEN.take().map_or(0.0, ThreadTime::elapsed_ns);
        HELD.with_borrow_mut(|holds| holds.push(held));
        // SAFETY: passed on to the caller.
        unsafe { self.0.unlock() };
    }
}

/// The type of every pageblock, a byte each.
#[derive(Debug)]
pub(super) struct Kinds(Box<[AtomicU8]>);

impl Kinds {
    /// Of `frames` frames.
    pub(super) fn new(frames: u64) -> Self {
        Self((0..frames >> PAGEBLOCK).map(|_| AtomicU8::new(0)).collect())
    }

    /// How many have this type, and to make all of them have none again.
    pub(super) fn take(&self, kind: u8) -> usize {
        self.0.iter().filter(|found| found.swap(0, Ordering::Relaxed) == kind).count()
    }
}

/// The environment of a memory map of device memory, with a lock of type `L`.
#[derive(Debug)]
pub(super) struct DeviceEnv<'a, L> {
    frames: Frames<&'a Arena, &'a Arena>,
    readers: Readers,
    slots: [TailSlot; 1],
    kinds: &'a Kinds,
    lock: std::marker::PhantomData<fn() -> L>,
}

// SAFETY: every method returns a field, which is never exchanged; the frames came from `Frames::new`.
unsafe impl<'a, L: RawLock> Env for DeviceEnv<'a, L> {
    type Allocator = &'a Arena;
    type Map = &'a Arena;
    type Lock = L;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<&'a Arena, &'a Arena> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.readers
    }

    fn events(&self) -> &() {
        &()
    }
}

// SAFETY: the slots are a field, and the memory map that owns the value is the only one.
unsafe impl<L: RawLock> VmemmapEnv for DeviceEnv<'_, L> {
    type Counts = Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }

    fn set_pageblock(&self, first: Pfn, _: Order, kind: u8) {
        if let Some(found) = self.kinds.0.get((first.get() >> PAGEBLOCK) as usize) {
            found.store(kind, Ordering::Relaxed);
        }
    }
}

/// A memory map in software tables.
pub(super) type DeviceMap<'a, L> = Vmemmap<TableSpace<X86_64, Bare<&'a Arena, &'a Arena>>, DeviceEnv<'a, L>>;

/// An empty one, out of the frames of `arena` from number `first` up, and then those below it.
pub(super) fn device_map<'a, L: RawLock>(
    arena: &'a Arena,
    first: u64,
    kinds: &'a Kinds,
) -> Result<DeviceMap<'a, L>, Box<dyn Error>> {
    arena.rewind_to(first);
    let space = TableSpace::new(arena.env(), GEOMETRY, NodeId::ZERO)?;
    let env = DeviceEnv {
        frames: arena.bundle(),
        readers: Readers::new(),
        slots: [TailSlot::new()],
        kinds,
        lock: std::marker::PhantomData,
    };
    Ok(Vmemmap::new(GEOMETRY, space, env)?)
}

/// The frames of a device of `bytes` bytes.
pub(super) fn device(bytes: u64) -> Result<PfnRange, &'static str> {
    PfnRange::new(Pfn::ZERO, bytes >> GEOMETRY.base_shift()).ok_or("too many frames")
}

/// Frames that the descriptors of a device take, as pages of `order`, with all that is around them.
pub(super) fn room(range: PfnRange, order: Order) -> u64 {
    let pages = range.frames() >> (GEOMETRY.base_shift() - 6);
    let own = if order >= GEOMETRY.min_dedup_order() { range.frames() >> order.get() } else { pages };
    // An entry for each page of descriptors, and some.
    own + (pages >> 9) + 4096
}
