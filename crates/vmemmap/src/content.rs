// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in the pages of a range before it is published.

use core::ptr::NonNull;

use mmkit_addr::{DESCRIPTOR_BYTES, Order, Pfn, PfnRange};
use mmkit_page::{Page, Place, Template};

use crate::tails::TailKey;

/// A range of frames that is being populated as compounds of one order, or as single frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    /// What was asked for: the frames, and those that an altmap sets aside.
    pub(crate) asked: PfnRange,
    /// The frames that will be there.
    pub(crate) range: PfnRange,
    /// The frames for whose descriptors memory is made: more than the range has where sections are early, fewer where they
    /// have been so before.
    pub(crate) memory: PfnRange,
    pub(crate) order: Order,
    pub(crate) place: Place,
    /// Only the first page of each compound's descriptors is its own.
    pub(crate) shared: bool,
    /// The sections keep their descriptor memory as a whole.
    pub(crate) early: bool,
    /// Nobody can claim the frames.
    pub(crate) offline: bool,
    /// The altmap that the descriptors lie in, by its base.
    pub(crate) altmap: Option<Pfn>,
    pub(crate) huge: bool,
    pub(crate) strict: bool,
    /// Every block is in use from the beginning, with these words.
    pub(crate) held: Option<[u64; Page::WORDS]>,
    /// The descriptors are written later, outside the lock.
    pub(crate) staged: bool,
}

impl Content {
    pub(crate) const fn tails(&self) -> TailKey {
        TailKey { place: self.place, order: self.order }
    }

    /// What of it lies in `block`. Its memory is yet to be found out.
    pub(crate) fn part(&self, block: PfnRange) -> Self {
        let within = |range: PfnRange| {
            range.intersection(block).unwrap_or(PfnRange::new(block.start(), 0).unwrap_or(range))
        };
        Self { asked: within(self.asked), range: within(self.range), memory: within(self.memory), ..*self }
    }

    /// Writes the descriptors of the frames `part` of the range, the first one to `to`.
    ///
    /// # Safety
    ///
    /// `to` is aligned to a descriptor and valid for writes of one for each frame of `part`, and nobody else accesses
    /// those. `part` lies in the range; none of its descriptors is a shared tail.
    pub(crate) unsafe fn write(&self, part: PfnRange, to: NonNull<u8>) {
        // SAFETY: passed on to the caller.
        unsafe { self.write_by(part, to, Template::fill) };
    }

    /// The same by [`Template::stream`].
    ///
    /// # Safety
    ///
    /// As [`write`](Self::write), and as `Template::stream` until [`Template::finish_streams`].
    pub(crate) unsafe fn stream(&self, part: PfnRange, to: NonNull<u8>) {
        // SAFETY: passed on to the caller.
        unsafe { self.write_by(part, to, Template::stream) };
    }

    /// The same by `put`, which writes so many copies of a template.
    ///
    /// # Safety
    ///
    /// As [`write`](Self::write), and what `put` asks for.
    #[inline(always)]
    unsafe fn write_by(
        &self,
        part: PfnRange,
        to: NonNull<u8>,
        put: unsafe fn(&Template, NonNull<u8>, usize),
    ) {
        let at = |pfn: Pfn| (pfn.get() - part.start().get()) * DESCRIPTOR_BYTES;
        let fill = |template: Template, from: Pfn, count: u64| {
            let template = match self.held {
                _ if self.offline => template.claimed(),
                // SAFETY: whoever asked for it is the owner.
                Some(words) => unsafe { template.held(words) },
                None => template,
            };
            // SAFETY: `from` lies in `part`, for all of which `to` is valid.
            let to = unsafe { to.byte_add(at(from) as usize) };
            // SAFETY: so do the `count` frames from there on; the caller lets nobody else access them.
            unsafe { put(&template, to, count as usize) };
        };
        if self.order == Order::ZERO {
            return fill(Template::base(self.place), part.start(), part.frames());
        }
        let head = match self.shared {
            true => Template::head_of_shared(self.order, self.place),
            false => Template::head(self.order, self.place),
        };
        let mut pfn = part.start();
        while pfn.get() < part.end() {
            if pfn.is_aligned(self.order) {
                fill(head, pfn, 1);
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
