// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames for page tables, with a few set aside for an operation that must not fail half-way.

use std::thread::{self, ThreadId};

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_folio::Mapcounts;
use mmkit_frame::{AllocError, FrameAllocator, Request};
use parking_lot::Mutex;

use crate::memory::Memory;

/// The world's memory, and single frames that threads have set aside for themselves, which they use up first.
#[derive(Debug)]
pub(crate) struct TableFrames<'w, C: Mapcounts> {
    memory: &'w Memory<C>,
    /// Frames that `memory` handed out, and that nobody else knows; for whom.
    aside: Mutex<Vec<(ThreadId, Pfn)>>,
}

impl<'w, C: Mapcounts> TableFrames<'w, C> {
    pub(crate) fn new(memory: &'w Memory<C>) -> Self {
        Self { memory, aside: Mutex::default() }
    }

    /// Sets `count` frames aside for the tables that this thread makes while the result lives.
    pub(crate) fn set_aside(&self, count: usize) -> Result<Aside<'_, 'w, C>, AllocError> {
        // Given back on drop, if there are fewer.
        let aside = Aside { frames: self };
        for _ in 0..count {
            let pfn = self.memory.allocate(Request::new(Order::ZERO))?;
            self.aside.lock().push((thread::current().id(), pfn));
        }
        Ok(aside)
    }

    /// One of this thread's own.
    fn take_own(&self) -> Option<Pfn> {
        let mut aside = self.aside.lock();
        if aside.is_empty() {
            return None;
        }
        let me = thread::current().id();
        let at = aside.iter().position(|&(whose, _)| whose == me)?;
        Some(aside.swap_remove(at).1)
    }
}

/// Frames that a thread has set aside. What it did not use is given back on drop.
#[derive(Debug)]
pub(crate) struct Aside<'f, 'w, C: Mapcounts> {
    frames: &'f TableFrames<'w, C>,
}

impl<C: Mapcounts> Drop for Aside<'_, '_, C> {
    fn drop(&mut self) {
        while let Some(pfn) = self.frames.take_own() {
            // SAFETY: `allocate` handed it out as one frame, nobody has seen it, and it is off the list.
            unsafe { self.frames.memory.deallocate(pfn, Order::ZERO) };
        }
    }
}

// SAFETY: every call is passed on to the memory, so each clause holds because it holds there; what was set aside was handed
// out by it as one frame, on its only node and in its only zone, leaves the list once, and is zeroed here if that is asked
// for. Requests for another node or zone are refused by the memory, and do not come to the list.
unsafe impl<C: Mapcounts> FrameAllocator for TableFrames<'_, C> {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let plain = request.order == Order::ZERO && request.zone.is_none() && !request.strict;
        let Some(pfn) = plain.then(|| self.take_own()).flatten() else {
            return self.memory.allocate(request);
        };
        if request.zeroed {
            // SAFETY: just taken off the list, and nobody else has seen it.
            unsafe { self.memory.zero(pfn, 1) };
        }
        Ok(pfn)
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        // SAFETY: what the caller has came from the memory, and the caller promises the rest.
        unsafe { self.memory.deallocate(pfn, order) };
    }

    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        // SAFETY: as for `deallocate`.
        unsafe { self.memory.split(pfn, from, to) };
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        self.memory.node_of(pfn)
    }
}
