// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the demo's memory maps are put together from.

use mmkit_addr::Order;
use mmkit_frame::{Env, Frames};
use mmkit_host::HostFrames;
use mmkit_sync::{Immovable, SpinLock};
use mmkit_vmemmap::WithTailSlots;

/// A kind of tails for every order: all of the demo's memory is one node and one zone.
const SLOTS: usize = Order::MAX.get() as usize + 1;

/// The environment of a memory map in this process.
pub(super) type DemoEnv = WithTailSlots<HostEnv, SLOTS>;

/// This process's own frames; a read side that costs nothing, since no descriptor goes away before its memory map does.
#[derive(Debug)]
pub(super) struct HostEnv(Frames<HostFrames, HostFrames>);

/// The environment of one memory map over `frames`.
pub(super) fn env(frames: &HostFrames) -> DemoEnv {
    WithTailSlots::new(HostEnv(bundle(frames)))
}

/// An allocator and its own direct map.
pub(super) fn bundle(frames: &HostFrames) -> Frames<HostFrames, HostFrames> {
    // SAFETY: clones of one `HostFrames` are the same frames, each of which is in its direct map. Nothing in this
    // program accesses a frame but the memory map or the tables that took it.
    unsafe { Frames::new(frames.clone(), frames.clone()) }
}

// SAFETY: every method returns the field, which is never exchanged, or a value without state; the frames came from
// `Frames::new`.
unsafe impl Env for HostEnv {
    type Allocator = HostFrames;
    type Map = HostFrames;
    type Read = Immovable;
    type Lock = SpinLock;
    type Events = ();

    fn frames(&self) -> &Frames<HostFrames, HostFrames> {
        &self.0
    }

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    fn events(&self) -> &() {
        &()
    }
}
