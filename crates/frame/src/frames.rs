// SPDX-License-Identifier: MIT OR Apache-2.0
//! An allocator and the map that reaches its frames, promised to belong together.

use crate::{DirectMap, FrameAllocator};

/// A frame allocator and a direct map of the same frames.
#[derive(Clone, Copy, Debug)]
pub struct Frames<A, D> {
    allocator: A,
    map: D,
}

impl<A: FrameAllocator, D: DirectMap> Frames<A, D> {
    /// Bundles `allocator` with `map`.
    ///
    /// # Safety
    ///
    /// `map` has a pointer for every frame that `allocator` hands out, and nothing but the frame's owner accesses
    /// memory behind it.
    pub const unsafe fn new(allocator: A, map: D) -> Self {
        Self { allocator, map }
    }

    /// The allocator.
    pub const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// The direct map.
    pub const fn map(&self) -> &D {
        &self.map
    }
}
