// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a memory map takes from its user.

use mmkit_frame::{DirectMap, FrameAllocator, Frames};
use mmkit_sync::{Events, RawLock, ReadSide};

use crate::TailSlot;

/// The parts that a memory map is put together from, as one value: a kernel implements this once.
///
/// # Safety
///
/// Every method returns the same object each time, and no two environments with different frames return the same tail
/// slots.
pub unsafe trait Env {
    /// Where frames come from.
    type Allocator: FrameAllocator;
    /// How they are reached before they are mapped.
    type Map: DirectMap;
    /// What keeps descriptors in place while they are looked at.
    type Read: ReadSide;
    /// What serialises changes of the memory map. Linux: the memory hotplug lock.
    type Lock: RawLock;
    /// Who is told.
    type Events: Events;

    /// Frames for descriptors and for the section table.
    fn frames(&self) -> &Frames<Self::Allocator, Self::Map>;

    /// The read side that lookups enter, and that removals wait for.
    fn read_side(&self) -> &Self::Read;

    /// The listener; `&()` for nobody.
    fn events(&self) -> &Self::Events;

    /// Room for the shared tails: one slot for each node, zone and order whose compounds exist at a time.
    fn tail_slots(&self) -> &[TailSlot];
}
