// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the demo's memory maps are put together from.

use mmkit_addr::Order;
use mmkit_frame::Frames;
use mmkit_host::HostFrames;
use mmkit_sync::{Immovable, SpinLock};
use mmkit_vmemmap::TailSlot;

/// A kind of tails for every order: all of the demo's memory is one node and one zone.
const SLOTS: usize = Order::MAX.get() as usize + 1;

/// This process's own frames; a read side that costs nothing, since no descriptor goes away before its memory map does.
pub(super) struct Env {
    frames: Frames<HostFrames, HostFrames>,
    slots: [TailSlot; SLOTS],
}

impl Env {
    pub(super) fn new(frames: &HostFrames) -> Self {
        Self { frames: bundle(frames), slots: [const { TailSlot::new() }; SLOTS] }
    }
}

/// An allocator and its own direct map.
pub(super) fn bundle(frames: &HostFrames) -> Frames<HostFrames, HostFrames> {
    // SAFETY: clones of one `HostFrames` are the same frames, each of which is in its direct map. Nothing in this
    // program accesses a frame but the memory map or the tables that took it.
    unsafe { Frames::new(frames.clone(), frames.clone()) }
}

// SAFETY: every method returns a field, or a value without state, that is never exchanged. The slots belong to this
// environment alone, and so to its frames.
unsafe impl mmkit_vmemmap::Env for Env {
    type Allocator = HostFrames;
    type Map = HostFrames;
    type Read = Immovable;
    type Lock = SpinLock;
    type Events = ();

    fn frames(&self) -> &Frames<HostFrames, HostFrames> {
        &self.frames
    }

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    fn events(&self) -> &() {
        &()
    }

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }
}
