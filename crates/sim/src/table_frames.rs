// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames for page tables, with a few set aside for an operation that must not fail half-way.

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_folio::Mapcounts;
use mmkit_frame::{AllocError, FrameAllocator, Request};
use parking_lot::Mutex;

use crate::memory::Memory;

/// The world's memory, and a reserve of single frames that is used when the memory has none left.
#[derive(Debug)]
pub(crate) struct TableFrames<'w, C: Mapcounts> {
    memory: &'w Memory<C>,
    /// Frames that `memory` handed out, and that nobody else knows.
    reserve: Mutex<Vec<Pfn>>,
}

impl<'w, C: Mapcounts> TableFrames<'w, C> {
    pub(crate) fn new(memory: &'w Memory<C>) -> Self {
        Self { memory, reserve: Mutex::default() }
    }

    /// Sets frames aside until there are `count`.
    pub(crate) fn reserve(&self, count: usize) -> Result<(), AllocError> {
        let mut reserve = self.reserve.lock();
        while reserve.len() < count {
            reserve.push(self.memory.allocate(Request::new(Order::ZERO))?);
        }
        Ok(())
    }

    /// Gives back what is set aside.
    pub(crate) fn unreserve(&self) {
        for pfn in self.reserve.lock().drain(..) {
            // SAFETY: `allocate` handed it out as one frame, nobody has seen it, and it is off the list.
            unsafe { self.memory.deallocate(pfn, Order::ZERO) };
        }
    }
}

impl<C: Mapcounts> Drop for TableFrames<'_, C> {
    fn drop(&mut self) {
        self.unreserve();
    }
}

// SAFETY: every call is passed on to the memory, so each clause holds because it holds there; what comes out of the reserve
// was handed out by it as one frame, on its only node and in its only zone, leaves the reserve once, and is zeroed here if
// that is asked for. Requests for another node or zone are refused by the memory, and do not come to the reserve.
unsafe impl<C: Mapcounts> FrameAllocator for TableFrames<'_, C> {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        self.memory.allocate(request).or_else(|error| {
            let plain = request.order == Order::ZERO && request.zone.is_none() && !request.strict;
            let pfn = self.reserve.lock().pop_if(|_| plain).ok_or(error)?;
            if request.zeroed {
                // SAFETY: just taken, and nobody else has seen it.
                unsafe { self.memory.zero(pfn, 1) };
            }
            Ok(pfn)
        })
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
