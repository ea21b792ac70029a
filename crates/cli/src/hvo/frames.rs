// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of this process that stay in memory when they are given back, as those of a kernel do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mmkit_addr::{Order, Pfn};
use mmkit_frame::{AllocError, Env, FrameAllocator, Frames, Request};
use mmkit_host::HostFrames;
use mmkit_sync::{Readers, SpinLock};

/// The frames of a memory map, and a list of single ones that were given back.
#[derive(Debug)]
pub(crate) struct Kept {
    host: HostFrames,
    free: Mutex<Vec<Pfn>>,
}

impl Kept {
    pub(crate) fn new(host: HostFrames) -> Self {
        Self { host, free: Mutex::new(Vec::new()) }
    }

    /// Frames that are out.
    pub(crate) fn allocated(&self) -> u64 {
        self.host.allocated() - self.free().len() as u64
    }

    fn free(&self) -> MutexGuard<'_, Vec<Pfn>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: every block comes from `HostFrames`, which hands out what is not out. A frame in the list was given back by
// its owner, is still out of `HostFrames`, and leaves the list with its next owner; the lock orders the one after the
// other. What is not a single frame, or must be zeroed, or of a zone, never comes from the list, nor does what asks for
// another node and nothing else: `HostFrames` decides on those. It lets any aligned part of a block that is out be
// given back, so a frame of the list may be one of a block that was split. An error changes nothing.
unsafe impl FrameAllocator for Kept {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let plain =
            request.order == Order::ZERO && !request.zeroed && !request.strict && request.zone.is_none();
        let listed = if plain { self.free().pop() } else { None };
        listed.map_or_else(|| self.host.allocate(request), Ok)
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        if order == Order::ZERO {
            return self.free().push(pfn);
        }
        // SAFETY: the caller's promise; the block came from `HostFrames`, and no part of it is in the list: a block is
        // given back as a whole or, after a split, in parts.
        unsafe { self.host.deallocate(pfn, order) };
    }

    unsafe fn split(&self, _: Pfn, _: Order, _: Order) {}
}

impl Drop for Kept {
    fn drop(&mut self) {
        for pfn in std::mem::take(&mut *self.free()) {
            // SAFETY: a frame of the list is out of `HostFrames`, nobody has it, and it leaves the list here.
            unsafe { self.host.deallocate(pfn, Order::ZERO) };
        }
    }
}

/// The environment of the kit's side.
#[derive(Debug)]
pub(super) struct KitEnv<'a> {
    frames: Frames<&'a Kept, HostFrames>,
    readers: Readers,
}

impl<'a> KitEnv<'a> {
    pub(super) fn new(kept: &'a Kept) -> Self {
        Self { frames: bundle(kept), readers: Readers::new() }
    }
}

/// The allocator and its direct map.
pub(crate) fn bundle(kept: &Kept) -> Frames<&Kept, HostFrames> {
    // SAFETY: all of its frames are in the direct map of the `HostFrames` that it has, and a clone of that is the same.
    // Nothing in this program accesses a frame but the memory map or the tables that took it.
    unsafe { Frames::new(kept, kept.host.clone()) }
}

// SAFETY: every method returns a field, which is never exchanged, or a value without state; the frames came from
// `Frames::new`.
unsafe impl<'a> Env for KitEnv<'a> {
    type Allocator = &'a Kept;
    type Map = HostFrames;
    type Read = Readers;
    type Lock = SpinLock;
    type Events = ();

    fn frames(&self) -> &Frames<&'a Kept, HostFrames> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.readers
    }

    fn events(&self) -> &() {
        &()
    }
}

#[cfg(test)]
mod tests {
    use mmkit_frame::DirectMap;

    use super::*;

    /// A frame comes back from the list, but not to those who want zeros.
    #[test]
    fn frames_are_kept_and_given_back_in_the_end() {
        let host = HostFrames::new(64).unwrap();
        let kept = Kept::new(host.clone());
        let first = kept.allocate(Request::new(Order::ZERO)).unwrap();
        let byte = host.frame(first).unwrap();
        // SAFETY: the frame was allocated above, and its first byte is in the direct map.
        unsafe { byte.write(7) };
        // SAFETY: allocated above at this order, used by nobody any more, given back once.
        unsafe { kept.deallocate(first, Order::ZERO) };
        assert_eq!((kept.allocated(), host.allocated()), (0, 1));
        let zeroed = Request::new(Order::ZERO).zeroed();
        let other = kept.allocate(zeroed).unwrap();
        assert_ne!(other, first);
        // SAFETY: the frame was allocated above, and its first byte is in the direct map.
        assert_eq!(unsafe { host.frame(other).unwrap().read() }, 0);
        assert_eq!(kept.allocate(Request::new(Order::ZERO)).unwrap(), first);
        for pfn in [first, other] {
            // SAFETY: allocated above at this order, used by nobody any more, given back once.
            unsafe { kept.deallocate(pfn, Order::ZERO) };
        }
        drop(kept);
        assert_eq!((host.allocated(), host.bad_frees()), (0, 0));
    }
}
