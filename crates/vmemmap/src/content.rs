// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in the pages of a range before it is published.

use core::ptr::NonNull;

use mmkit_addr::{DESCRIPTOR_BYTES, Geometry, Order, Pfn, PfnRange};
use mmkit_page::{Place, Template};

/// A range of frames that is being populated as compounds of one order, or as single frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) range: PfnRange,
    pub(crate) order: Order,
    pub(crate) place: Place,
    /// Only the first page of each compound's descriptors is its own.
    pub(crate) shared: bool,
}

impl Content {
    pub(crate) fn new(geometry: &Geometry, range: PfnRange, order: Order, place: Place) -> Self {
        Self { range, order, place, shared: order >= geometry.min_dedup_order() }
    }

    /// Whether the descriptors of the page whose first is that of `first` are all shared tails.
    pub(crate) fn is_tails(&self, first: Pfn) -> bool {
        self.shared && !first.is_aligned(self.order)
    }

    /// Writes the descriptors of the frames `part` of the range, the first one to `to`.
    ///
    /// # Safety
    ///
    /// `to` is aligned to a descriptor and valid for writes of one for each frame of `part`, and nobody else accesses
    /// those. `part` lies in the range; none of its descriptors is a shared tail.
    pub(crate) unsafe fn write(&self, part: PfnRange, to: NonNull<u8>) {
        let at = |pfn: Pfn| (pfn.get() - part.start().get()) * DESCRIPTOR_BYTES;
        let fill = |template: Template, from: Pfn, count: u64| {
            // SAFETY: `from` lies in `part`, for all of which `to` is valid.
            let to = unsafe { to.byte_add(at(from) as usize) };
            // SAFETY: so do the `count` frames from there on; the caller lets nobody else access them.
            unsafe { template.fill(to, count as usize) };
        };
        if self.order == Order::ZERO {
            return fill(Template::base(self.place), part.start(), part.frames());
        }
        let head = if self.shared { Template::head_of_shared } else { Template::head };
        let mut pfn = part.start();
        while pfn.get() < part.end() {
            if pfn.is_aligned(self.order) {
                fill(head(self.order, self.place), pfn, 1);
            }
            let tails = if pfn.is_aligned(self.order) { pfn.checked_add(1) } else { Some(pfn) };
            let end = pfn.align_down(self.order).checked_add(self.order.frames());
            let (Some(tails), Some(end)) = (tails, end) else { return };
            let count = end.get().min(part.end()) - tails.get();
            fill(Template::tail(self.order, self.place), tails, count);
            pfn = end;
        }
    }
}
