// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking frames out of the memory map.

use core::sync::atomic::Ordering;

use mmkit_addr::{DESCRIPTOR_BYTES, Order, Pfn, PfnRange};
use mmkit_page::{Free, MemMap};
use mmkit_sync::{Counter, Event, Events, ReadSide, mutant};

use crate::section::Section;
use crate::sections::Detached;
use crate::{TailSlot, Unmapped, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Takes the descriptors of the frames of `range` away, and gives back what they were made of.
    ///
    /// Every frame must be free and at rest, in blocks that lie in the range. Where a compound's head is in the range,
    /// so is all of it that is there; where its head is there but not in the range, none of it is; where its head is
    /// absent, it goes by the units in which it was populated. (A compound with a hole in it is filled first.) A page of
    /// descriptors that neighbours outside of the range have a part in stays until the last of them goes.
    ///
    /// Linux: `section_deactivate`.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed. [`VmemmapError::InsideReader`] where the read side cannot wait, as from
    /// inside a reader, or with [`Immovable`](mmkit_sync::Immovable), which promises that nothing is removed.
    ///
    /// Cost: one compare-exchange for each free block; one grace period, and a second one where nodes of the section
    /// table go too; one flush.
    pub fn remove(&self, range: PfnRange) -> Result<(), VmemmapError> {
        self.check_range(range, self.geometry.subsection_order())?;
        let _lock = self.locked();
        self.check_present(range)?;
        self.check_cuts(range)?;
        mutant!("vmemmap-remove-no-claim", self.claim_all(range), Ok::<(), VmemmapError>(()))?;
        self.take_out(range).inspect_err(|_| {
            if let Some(end) = Pfn::new(range.end()) {
                self.unclaim(range, end);
            }
        })
    }

    /// The first frame of the range that is not part of a compound whose head is absent.
    fn first_block(&self, range: PfnRange) -> Option<Pfn> {
        let start = range.start();
        match self.shared_order(start) {
            Some(order) => start.align_up(order),
            None => Some(start),
        }
    }

    /// Takes every free block of the range, so that nobody can get at its frames, or none.
    fn claim_all(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let mut next = self.first_block(range);
        while let Some(pfn) = next.filter(|pfn| pfn.get() < range.end()) {
            let claimed = match self.claim(pfn) {
                // A compound may reach past the range where its other descriptors are absent.
                Ok(free)
                    if pfn.get() + free.order().frames() > range.end()
                        && self.shared_order(pfn).is_none() =>
                {
                    None
                }
                claimed => claimed.ok(),
            };
            let Some(free) = claimed else {
                self.unclaim(range, pfn);
                return Err(VmemmapError::Busy { pfn });
            };
            next = pfn.checked_add(free.order().frames());
            let _ = free.into_raw();
        }
        Ok(())
    }

    /// Lets the blocks of the range below `end`, which were claimed, rest again.
    fn unclaim(&self, range: PfnRange, end: Pfn) {
        let mut next = self.first_block(range);
        while let Some(pfn) = next.filter(|&pfn| pfn < end) {
            // SAFETY: `claim_all` made these very blocks raw, under the lock that is still held.
            let Some(free) = (unsafe { Free::from_raw(self, pfn) }) else { return };
            next = pfn.checked_add(free.order().frames());
        }
    }

    /// Hides the range, waits until nobody looks at it, and takes it apart.
    fn take_out(&self, range: PfnRange) -> Result<(), VmemmapError> {
        self.set_present(range, false);
        let undo = |error| {
            self.set_present(range, true);
            error
        };
        self.env.events().count(Counter::Synchronize, 1);
        let readers = self.env.read_side();
        let waited =
            mutant!("vmemmap-remove-no-wait", readers.synchronize(), Ok::<_, mmkit_sync::InsideReader>(()));
        waited.map_err(|_| undo(VmemmapError::InsideReader))?;

        let own = self.own_pages(range);
        if !own.is_empty() {
            // SAFETY: mapped by `populate`. Every frame of the range was claimed and is absent, and a grace period passed.
            let unmapped = unsafe { self.space.unmap(own.clone()) }.map_err(|error| undo(error.into()))?;
            unmapped.flush(&mut |count, backing| self.give_back(count, backing));
        }
        for page in self.pages_of(range).filter(|page| !own.contains(page)) {
            self.erase(page, range);
        }
        self.forget_tails(range);

        let (first, last) = self.shape.sections(range);
        let detached = self.sections.detach(self.frames(), first, last);
        if !detached.is_empty() {
            self.env.events().count(Counter::Synchronize, 1);
            // The first wait succeeded on this thread, which has not become a reader since.
            match self.env.read_side().synchronize() {
                Ok(()) => self.sweep(detached, first, last),
                Err(_) => self.env.events().report(&Event::Leaked { pfn: range.start().get(), frames: 1 }),
            }
        }
        Ok(())
    }

    fn set_present(&self, range: PfnRange, present: bool) {
        for (number, part) in self.shape.parts(range) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            if present {
                section.present().set(part);
            } else {
                section.present().clear(part);
            }
        }
    }

    /// Makes the descriptors of the range in a page that stays what they were before they were populated: zero.
    fn erase(&self, page: u64, range: PfnRange) {
        let Some(part) = self.frames_of(page).intersection(range) else { return };
        // SAFETY: the page has neighbours that are present, and cannot be removed while the lock is held.
        let Some(to) = (unsafe { self.space.descriptor(part.start()) }) else { return };
        // SAFETY: the page stays mapped for its other frames, for writing, as it is not shared tails, whose pages have
        // one compound only. Nobody looks at these descriptors any more: they are absent, and a grace period passed.
        unsafe { to.cast::<u8>().write_bytes(0, (part.frames() * DESCRIPTOR_BYTES) as usize) };
    }

    /// Ends the use of shared tails by the sections of the range that have no more compounds.
    fn forget_tails(&self, range: PfnRange) {
        for (number, part) in self.shape.parts(range) {
            if let Some(section) = self.sections.get(self.frames(), number) {
                section.shared().clear(part);
                self.forget_tails_of(section);
            }
        }
    }

    fn forget_tails_of(&self, section: Section<'_>) {
        let Some(key) = section.tails().filter(|_| section.shared().is_empty()) else { return };
        section.set_tails(None);
        if let Some(slot) = TailSlot::find(self.env.tail_slots(), key, self.space.tail_frames_order()) {
            self.leave_tails(slot, 1);
        }
    }

    fn sweep(&self, detached: Detached, first: u64, last: u64) {
        self.sections.sweep(self.frames(), detached, first, last, &mut |pfn| {
            self.counts.sections.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: nodes are single frames from the allocator; this one was detached, and no lookup is in it.
            unsafe { self.frames().deallocate(pfn, Order::ZERO) };
        });
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Drop for Vmemmap<S, E> {
    fn drop(&mut self) {
        // Exclusive: no reader and no handle is left, since they borrow the memory map. Nothing has to be waited for.
        let this = &*self;
        this.sections.for_each(this.frames(), &mut |number, section| {
            while let Some(start) = section.present().first_set(0..this.shape.subsections()) {
                let end = section.present().first_clear(start..this.shape.subsections());
                let part = start..end.unwrap_or(this.shape.subsections());
                let first = this.shape.first_frame(number, part.start);
                let frames = u64::from(part.end - part.start) << this.shape.subsection;
                section.present().clear(part.clone());
                section.shared().clear(part);
                let own = PfnRange::new(first, frames).map(|range| this.own_pages(range));
                // SAFETY: mapped by `populate`, and no reader or handle is left, since they borrow the memory map.
                let unmap = |pages| unsafe { this.space.unmap(pages) };
                match own.filter(|own| !own.is_empty()).map(unmap) {
                    Some(Ok(unmapped)) => {
                        unmapped.flush(&mut |count, backing| this.give_back(count, backing))
                    }
                    Some(Err(_)) => this.env.events().report(&Event::Leaked { pfn: first.get(), frames }),
                    None => {}
                }
            }
            this.forget_tails_of(section);
        });
        let last = this.geometry.max_sections() - 1;
        let detached = this.sections.detach(this.frames(), 0, last);
        if !detached.is_empty() {
            this.sweep(detached, 0, last);
        }
    }
}
