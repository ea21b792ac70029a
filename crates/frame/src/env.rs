// SPDX-License-Identifier: MIT OR Apache-2.0
//! What everything above frames needs from around it, in one value.

use mmkit_sync::{Events, RawLock, ReadSide, Readers, SpinLock};

use crate::{DirectMap, FrameAllocator, Frames};

/// The parts of a kernel that page tables and memory maps stand on, as one value that the kernel implements once.
///
/// Crates above extend it by what they need more: processors that walk tables, slots for shared tails.
///
/// # Safety
///
/// Each method returns the same object every time, however the value is moved, and `frames` bundles what
/// [`Frames::new`] was promised for.
pub unsafe trait Env {
    /// Gives frames.
    type Allocator: FrameAllocator;
    /// Reaches them.
    type Map: DirectMap;
    /// Serialises changes.
    type Lock: RawLock;
    /// Delays giving frames back until readers have left.
    type Read: ReadSide;
    /// Counts what operations cost, and hears what is worth a message.
    type Events: Events;

    /// The frames.
    fn frames(&self) -> &Frames<Self::Allocator, Self::Map>;
    /// The read side.
    fn read_side(&self) -> &Self::Read;
    /// The listener; `&()` for nobody.
    fn events(&self) -> &Self::Events;
}

// SAFETY: every call is passed on to the one value behind the reference.
unsafe impl<T: Env + ?Sized> Env for &T {
    type Allocator = T::Allocator;
    type Map = T::Map;
    type Lock = T::Lock;
    type Read = T::Read;
    type Events = T::Events;

    fn frames(&self) -> &Frames<Self::Allocator, Self::Map> {
        (**self).frames()
    }

    fn read_side(&self) -> &Self::Read {
        (**self).read_side()
    }

    fn events(&self) -> &Self::Events {
        (**self).events()
    }
}

/// The plainest environment: frames, a spinlock, [`Readers`], no listener.
#[derive(Debug)]
pub struct Bare<A, D> {
    frames: Frames<A, D>,
    readers: Readers,
}

impl<A, D> Bare<A, D> {
    /// An environment over `frames`.
    pub fn new(frames: Frames<A, D>) -> Self {
        Self { frames, readers: Readers::new() }
    }
}

// SAFETY: the fields are private and never exchanged; `frames` came from `Frames::new`.
unsafe impl<A: FrameAllocator, D: DirectMap> Env for Bare<A, D> {
    type Allocator = A;
    type Map = D;
    type Lock = SpinLock;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<A, D> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.readers
    }

    fn events(&self) -> &() {
        &()
    }
}
