// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine with devices, whose folios' mappings are counted.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_devmap::{
    DevPagemap, Devmap, Failed, FilePlace, Kind, MappingId, Operations, Owner, Provided, Registration,
};
use mmkit_folio::{NoPageMapcount, PowerSums};
use mmkit_frame::Bare;
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{MemMap, Place, State};
use mmkit_pgtable::X86_64;
use mmkit_sync::Readers;
use mmkit_vmemmap::{Serial, TableSpace, Vmemmap, WithTailSlots};

pub(crate) type Env<'f> = Bare<&'f TestFrames, &'f TestFrames>;
pub(crate) type Space<'f> = TableSpace<X86_64, Env<'f>>;
pub(crate) type Slots<'f> = WithTailSlots<Env<'f>, 8, NoPageMapcount<PowerSums>>;
pub(crate) type Machine<'f> = Devmap<Space<'f>, Slots<'f>>;
pub(crate) type Registered<'d, 'f> = Registration<'d, Space<'f>, Slots<'f>>;

pub(crate) const X86: Geometry = Geometry::X86_64;
/// The first frame of devices: above what the allocator has.
pub(crate) const DEVICE: u64 = 1 << 32;
/// Frames of 2M.
pub(crate) const HUGE: u64 = 1 << 9;
/// Frames of 1G.
pub(crate) const GIGANTIC: u64 = 1 << 18;

pub(crate) fn machine(memory: &TestFrames) -> Machine<'_> {
    let env = || Bare::new(memory.frames());
    let space = TableSpace::new(env(), X86, NodeId::ZERO).unwrap();
    let map = Vmemmap::new(X86, space, Slots::counted(env())).unwrap();
    Devmap::new(map, Readers::new()).unwrap()
}

pub(crate) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

/// Frame `number` of the device.
pub(crate) fn at(number: u64) -> Pfn {
    pfn(DEVICE + number)
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn frames(first: u64, count: u64) -> PfnRange {
    PfnRange::new(at(first), count).unwrap()
}

pub(crate) fn place() -> Place {
    Place::new(NodeId::ZERO, ZoneId::new(3).unwrap())
}

pub(crate) fn file(mapping: u64, index: u64) -> FilePlace {
    FilePlace { mapping: id(mapping), index }
}

pub(crate) fn id(mapping: u64) -> MappingId {
    MappingId(NonZeroU64::new(mapping).unwrap())
}

/// What a driver was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Free(PfnRange),
    Split(Pfn, PfnRange),
    Failure(PfnRange),
    Idle(PfnRange),
}

/// A driver that remembers what it was called for.
#[derive(Debug)]
pub(crate) struct Driver {
    calls: Mutex<Vec<Call>>,
    /// What it says to failures.
    pub(crate) failure: Result<(), Failed>,
}

impl Driver {
    pub(crate) fn new() -> Arc<Self> {
        Self::saying(Err(Failed::Unsupported))
    }

    pub(crate) fn saying(failure: Result<(), Failed>) -> Arc<Self> {
        Arc::new(Self { calls: Mutex::default(), failure })
    }

    /// What it was called for since the last time.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn called(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Operations for Driver {
    fn provided(&self) -> Provided {
        Provided::all()
    }

    fn folio_free(&self, block: PfnRange) {
        self.called(Call::Free(block));
    }

    fn memory_failure(&self, frames: PfnRange) -> Result<(), Failed> {
        self.called(Call::Failure(frames));
        self.failure
    }

    fn folio_split(&self, head: Pfn, part: PfnRange) {
        self.called(Call::Split(head, part));
    }

    fn idle(&self, frames: PfnRange) {
        self.called(Call::Idle(frames));
    }
}

pub(crate) fn description(kind: Kind, frames: u64, o: u8, driver: &Arc<Driver>) -> DevPagemap {
    let range = PfnRange::new(at(0), frames).unwrap();
    let driver: Arc<dyn Operations> = Arc::clone(driver) as _;
    let builder = DevPagemap::builder(kind).range(range).order(order(o)).at(place());
    builder.owner(Owner(7)).operations(driver).build(&X86).unwrap()
}

/// A device of one subsection of single frames.
pub(crate) fn device<'d, 'f>(
    machine: &'d Machine<'f>,
    kind: Kind,
    driver: &Arc<Driver>,
) -> Registered<'d, 'f> {
    machine.register(description(kind, HUGE, 0, driver), &Serial).unwrap()
}

/// Takes the device away, which nobody uses.
pub(crate) fn remove(registration: Registered<'_, '_>) -> DevPagemap {
    registration.unregister(&(), |_| ControlFlow::Break(())).unwrap()
}

pub(crate) fn state(machine: &Machine<'_>, number: u64) -> State {
    machine.enter().page(at(number)).unwrap().state()
}

pub(crate) fn words(machine: &Machine<'_>, number: u64) -> [u64; 8] {
    machine.enter().page(at(number)).unwrap().words()
}

pub(crate) const REST: State = State::Free { order: Order::ZERO, parked: true };

/// The descriptors of the first `count` frames, as they are in memory.
pub(crate) fn image(machine: &Machine<'_>, count: u64) -> Vec<[u64; 8]> {
    (0..count).map(|number| words(machine, number)).collect()
}
