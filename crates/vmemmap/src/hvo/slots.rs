// SPDX-License-Identifier: MIT OR Apache-2.0
//! Room, handed in by the user, for reserves and for bad frames.

// Everything in the slots is written under the memory map's lock, and read without it only where a snapshot will do, so it is
// nothing for the model checker.
use core::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_frame::{Env, Frames};

use super::records::Records;
use crate::{TailSlot, VmemmapEnv};

/// Room for the reserve of one node and one order of compounds. See [`Vmemmap::set_reserve`](crate::Vmemmap::set_reserve).
#[derive(Debug, Default)]
pub struct ReserveSlot {
    /// Bit 63: somebody has the slot; bits 16..=31: node; bits 0..=7: order.
    key: AtomicU64,
    /// The list of frames.
    frames: AtomicU64,
    /// Frames in it.
    have: AtomicU64,
    /// Frames that should be in it.
    wanted: AtomicU64,
}

impl ReserveSlot {
    const VALID: u64 = 1 << 63;

    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            key: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            have: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
        }
    }

    fn key(node: NodeId, order: Order) -> u64 {
        Self::VALID | u64::from(node.get()) << 16 | u64::from(order.get())
    }

    /// The slot of a node and an order, if it has one.
    pub(super) fn find(slots: &[Self], node: NodeId, order: Order) -> Option<&Self> {
        slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == Self::key(node, order))
    }

    /// The same, or else a free slot, which gets the name.
    pub(super) fn find_or_name(slots: &[Self], node: NodeId, order: Order) -> Option<&Self> {
        let free = || slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == 0);
        let slot = Self::find(slots, node, order).or_else(free)?;
        slot.key.store(Self::key(node, order), Ordering::Relaxed);
        Some(slot)
    }

    /// Node and order, while somebody has the slot.
    pub(super) fn named(&self) -> Option<(NodeId, Order)> {
        let key = self.key.load(Ordering::Relaxed);
        if key & Self::VALID == 0 {
            return None;
        }
        Some((NodeId::new((key >> 16) as u16)?, Order::new(key as u8)?))
    }

    pub(super) fn forget(&self) {
        self.key.store(0, Ordering::Relaxed);
    }

    pub(super) fn frames(&self) -> Records {
        Records::from_word(self.frames.load(Ordering::Relaxed))
    }

    pub(super) fn set_frames(&self, frames: &Records, have: u64) {
        self.frames.store(frames.word(), Ordering::Relaxed);
        self.have.store(have, Ordering::Relaxed);
    }

    pub(crate) fn have(&self) -> u64 {
        self.have.load(Ordering::Relaxed)
    }

    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Whether there are fewer frames than there should be.
    pub(super) fn is_short(&self) -> bool {
        self.have() < self.wanted()
    }

    pub(super) fn want(&self, frames: u64) {
        self.wanted.store(frames, Ordering::Relaxed);
    }
}

/// Room for one bad frame of a compound. See [`Vmemmap::report_failure`](crate::Vmemmap::report_failure).
///
/// Bit 63: the frame's own descriptor has the mark; bits 0..=62: frame number plus one, 0 where there is none.
#[derive(Debug, Default)]
pub struct FailureSlot(AtomicU64);

impl FailureSlot {
    const SETTLED: u64 = 1 << 63;

    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The bad frame.
    pub(super) fn get(&self) -> Option<Pfn> {
        Pfn::new((self.0.load(Ordering::Relaxed) & !Self::SETTLED).checked_sub(1)?)
    }

    /// Whether the frame's own descriptor has the mark.
    pub(super) fn is_settled(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::SETTLED != 0
    }

    pub(super) fn set(&self, pfn: Pfn, settled: bool) {
        let settled = if settled { Self::SETTLED } else { 0 };
        self.0.store((pfn.get() + 1) | settled, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Any environment of a memory map, with room for `RESERVES` reserves and `FAILURES` bad frames beside it.
#[derive(Debug)]
pub struct WithReserves<E, const RESERVES: usize, const FAILURES: usize> {
    env: E,
    reserves: [ReserveSlot; RESERVES],
    failures: [FailureSlot; FAILURES],
}

impl<E, const RESERVES: usize, const FAILURES: usize> WithReserves<E, RESERVES, FAILURES> {
    /// `env`, with empty slots.
    #[must_use]
    pub const fn new(env: E) -> Self {
        Self {
            env,
            reserves: [const { ReserveSlot::new() }; RESERVES],
            failures: [const { FailureSlot::new() }; FAILURES],
        }
    }

    /// The environment without the slots.
    pub const fn env(&self) -> &E {
        &self.env
    }
}

// SAFETY: every call is passed on to one value.
unsafe impl<E: Env, const RESERVES: usize, const FAILURES: usize> Env
    for WithReserves<E, RESERVES, FAILURES>
{
    type Allocator = E::Allocator;
    type Map = E::Map;
    type Lock = E::Lock;
    type Read = E::Read;
    type Events = E::Events;

    fn frames(&self) -> &Frames<E::Allocator, E::Map> {
        self.env.frames()
    }

    fn read_side(&self) -> &E::Read {
        self.env.read_side()
    }

    fn events(&self) -> &E::Events {
        self.env.events()
    }
}

// SAFETY: passed on to one value, but for the slots, which are fields that are never exchanged. The value is not `Clone`, and
// does not implement this trait by reference.
unsafe impl<E: VmemmapEnv, const RESERVES: usize, const FAILURES: usize> VmemmapEnv
    for WithReserves<E, RESERVES, FAILURES>
{
    type Counts = E::Counts;

    fn tail_slots(&self) -> &[TailSlot] {
        self.env.tail_slots()
    }

    fn set_pageblock(&self, first: Pfn, order: Order, kind: u8) {
        self.env.set_pageblock(first, order, kind);
    }

    fn reserves(&self) -> &[ReserveSlot] {
        &self.reserves
    }

    fn failures(&self) -> &[FailureSlot] {
        &self.failures
    }

    fn optimises(&self) -> bool {
        self.env.optimises()
    }

    unsafe fn give_boot(&self, pfn: Pfn) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.env.give_boot(pfn) }
    }
}
