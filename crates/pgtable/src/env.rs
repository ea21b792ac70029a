// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tables live in: frames, a lock, a read side, the machine that caches translations, counters.

use mmkit_frame::{DirectMap, FrameAllocator, Frames};
use mmkit_sync::{Events, RawLock, ReadSide};
#[cfg(not(mmkit_loom))]
use mmkit_sync::{Readers, SpinLock};

use crate::Mmu;

/// Everything that tables need from around them, in one value.
///
/// * `Lock` serialises whoever changes entries. It is held for the length of one operation on the tables, during which
///   [`Mmu::replace`] is called; never while frames are allocated or given back, while caches are flushed, while readers
///   are waited for, or while a caller's closure runs.
/// * `Read` is entered by walkers that take no lock; frames wait for it before they are given back.
/// * `Mmu` flushes the caches of translations. `()` where no processor walks the tables.
/// * `Events` counts. `()` counts nothing.
///
/// # Safety
///
/// * Each method returns the same object every time, however the value is moved.
/// * In a build for the model checker (`--cfg mmkit_loom`) the pointer of a frame leads to modelled atomics, as many as a
///   table has entries, instead of bytes. (Elsewhere nothing is asked beyond what [`Frames::new`] was promised.)
pub unsafe trait Env {
    /// Gives the frames that tables are made of.
    type Allocator: FrameAllocator;
    /// Reaches them.
    type Map: DirectMap;
    /// Serialises changes.
    type Lock: RawLock;
    /// Delays giving frames back until walkers have left.
    type Read: ReadSide;
    /// The processors that walk the tables, if any.
    type Mmu: Mmu;
    /// Counts what operations cost.
    type Events: Events;

    /// The frames.
    fn frames(&self) -> &Frames<Self::Allocator, Self::Map>;
    /// The read side.
    fn read_side(&self) -> &Self::Read;
    /// The processors.
    fn mmu(&self) -> &Self::Mmu;
    /// The counters.
    fn events(&self) -> &Self::Events;
}

// SAFETY: every call is passed on to the one value behind the reference.
unsafe impl<T: Env + ?Sized> Env for &T {
    type Allocator = T::Allocator;
    type Map = T::Map;
    type Lock = T::Lock;
    type Read = T::Read;
    type Mmu = T::Mmu;
    type Events = T::Events;

    fn frames(&self) -> &Frames<Self::Allocator, Self::Map> {
        (**self).frames()
    }

    fn read_side(&self) -> &Self::Read {
        (**self).read_side()
    }

    fn mmu(&self) -> &Self::Mmu {
        (**self).mmu()
    }

    fn events(&self) -> &Self::Events {
        (**self).events()
    }
}

/// The plainest environment: frames, a spinlock, [`Readers`], no processor, no counters. For software tables.
///
/// [`Readers`] cannot tell who waits: flushing inside a reader of the same thread never returns.
#[cfg(not(mmkit_loom))]
#[derive(Debug)]
pub struct Bare<A, D> {
    frames: Frames<A, D>,
    readers: Readers,
}

#[cfg(not(mmkit_loom))]
impl<A, D> Bare<A, D> {
    /// An environment over `frames`.
    pub fn new(frames: Frames<A, D>) -> Self {
        Self { frames, readers: Readers::new() }
    }
}

// SAFETY: the fields are private and never exchanged. Not in builds for the model checker.
#[cfg(not(mmkit_loom))]
unsafe impl<A: FrameAllocator, D: DirectMap> Env for Bare<A, D> {
    type Allocator = A;
    type Map = D;
    type Lock = SpinLock;
    type Read = Readers;
    type Mmu = ();
    type Events = ();

    fn frames(&self) -> &Frames<A, D> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.readers
    }

    fn mmu(&self) -> &() {
        &()
    }

    fn events(&self) -> &() {
        &()
    }
}
