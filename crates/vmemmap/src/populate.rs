// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adding frames to the memory map.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::Request;
use mmkit_page::{Place, Template};
use mmkit_sync::{Event, Events};

use crate::content::Content;
use crate::sections::Spare;
use crate::tails::TailKey;
use crate::{Backing, TailRun, TailSlot, Unmapped, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// How far a range has been built. Nobody can look it up yet.
struct Built {
    /// Pages from here...
    start: u64,
    /// ...to here are mapped.
    mapped: u64,
    /// Frames that are written but not mapped yet, for the pages from `mapped` on.
    run: Option<(Pfn, u64)>,
}

/// Why a range could not be built.
struct Failed {
    error: VmemmapError,
    /// Whether everything that had been mapped is unmapped again.
    undone: bool,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Gives the frames of `range` descriptors, as compounds of `order`, or as single frames where that is 0.
    ///
    /// Compounds of at least [`Geometry::min_dedup_order`](mmkit_addr::Geometry::min_dedup_order) share their tails:
    /// each owns the first vmemmap page of its descriptors, and every other one is a page of tails that all compounds
    /// of that order in that node and zone share. Both kinds are free blocks at rest afterwards, for
    /// [`MemMap::claim`](mmkit_page::MemMap::claim).
    ///
    /// `range` is made of whole subsections, and of whole compounds up to a section: a compound that spans sections may
    /// be populated section by section, in any order. A section's shared compounds have one order and one place; single
    /// frames may stand beside them.
    ///
    /// It takes the memory map's lock, so it must not be called from inside a reader: a removal that has the lock may be
    /// waiting for that reader.
    ///
    /// Linux: `sparse_add_section` and `vmemmap_populate_compound_pages`.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed: no frame taken, no page mapped, nothing visible.
    ///
    /// Cost: one frame for each vmemmap page that is not shared, tables of the space, and entries of the section table;
    /// each descriptor of a page of its own is written once. Nothing that was in place is copied.
    pub fn populate(&self, range: PfnRange, order: Order, place: Place) -> Result<(), VmemmapError> {
        self.check_range(range, self.unit(order)?)?;
        let content = Content::new(&self.geometry, range, order, place);
        let _lock = self.locked();
        self.check_room(&content)?;

        let (first, last) = self.shape.sections(range);
        let nodes = self.sections.missing(self.frames(), first, last);
        let spare = Spare::allocate(self.frames(), nodes, place)?;
        match self.build_all(&content) {
            Ok(()) => {
                self.counts.sections.fetch_add(nodes, Ordering::Relaxed);
                self.publish(&content, spare);
                Ok(())
            }
            Err(error) => {
                spare.give_back(self.frames());
                Err(error)
            }
        }
    }

    /// Builds everything that can fail, or nothing.
    fn build_all(&self, content: &Content) -> Result<(), VmemmapError> {
        if !content.shared {
            return self.build(content, None).map_err(|failed| failed.error);
        }
        let key = TailKey { place: content.place, order: content.order };
        let slots = self.env.tail_slots();
        let run = self.space.tail_frames_order();
        let slot = TailSlot::find(slots, key, run).ok_or(VmemmapError::NoTailSlot { slots: slots.len() })?;
        let users = self.sections_without_tails(content.range);
        let run = self.join_tails(slot, key, users)?;
        self.build(content, Some(run)).map_err(|failed| {
            // Tails that are still mapped somewhere keep these users, and so leak.
            if failed.undone {
                self.leave_tails(slot, users);
            }
            failed.error
        })
    }

    /// Sections of the range that use no tails yet.
    fn sections_without_tails(&self, range: PfnRange) -> u64 {
        let has_tails = |number| {
            self.sections.get(self.frames(), number).is_some_and(|section| section.tails().is_some())
        };
        self.shape.parts(range).filter(|&(number, _)| !has_tails(number)).count() as u64
    }

    /// Becomes `users` users of the tails in `slot`, making them where there are none.
    fn join_tails(&self, slot: &TailSlot, key: TailKey, users: u64) -> Result<TailRun, VmemmapError> {
        let too_many = |_| VmemmapError::TooManyTailUsers { node: key.place.node, order: key.order };
        let order = self.space.tail_frames_order();
        loop {
            if let Some(first) = slot.join(users).map_err(too_many)? {
                return Ok(TailRun { first, order });
            }
            let first = self.take(Request::new(order), key.place)?;
            self.write_tails(first, order, key);
            let published = slot.publish(first, users);
            if published == Ok(true) {
                return Ok(TailRun { first, order });
            }
            // SAFETY: taken above at this order, and nobody has seen it.
            unsafe { self.give(first, order) };
            published.map_err(too_many)?;
        }
    }

    fn write_tails(&self, first: Pfn, order: Order, key: TailKey) {
        let tail = Template::tail(key.order, key.place);
        for pfn in PfnRange::block(first, order).iter() {
            let Some(to) = self.frames().frame(pfn) else { continue };
            // SAFETY: the frame was taken by the caller and is reachable for all of its bytes; nobody else has it.
            unsafe { tail.fill(to, self.geometry.descriptors_per_page() as usize) };
        }
    }

    /// Ends the use of tails that cannot be reached any more; the last users give them back.
    pub(crate) fn leave_tails(&self, slot: &TailSlot, users: u64) {
        let order = self.space.tail_frames_order();
        if let Some(first) = slot.leave(users) {
            // SAFETY: `join_tails` took it at this order, which is part of the slot's key; the last user left, so no page
            // maps it and none will.
            unsafe { self.give(first, order) };
        }
    }

    /// Takes, writes and maps the pages that belong to the range alone, or none of them.
    fn build(&self, content: &Content, tails: Option<TailRun>) -> Result<(), Failed> {
        let pages = self.own_pages(content.range);
        let mut built = Built { start: pages.start, mapped: pages.start, run: None };
        self.build_pages(content, tails, pages, &mut built)
            .map_err(|error| Failed { error, undone: self.unbuild(&built) })
    }

    fn build_pages(
        &self,
        content: &Content,
        tails: Option<TailRun>,
        pages: Range<u64>,
        built: &mut Built,
    ) -> Result<(), VmemmapError> {
        let mut page = pages.start;
        while page < pages.end {
            match tails {
                Some(run) if content.is_tails(self.frames_of(page).start()) => {
                    let end = self.next_head(page, content.order).min(pages.end);
                    self.map_run(content, built)?;
                    // SAFETY: the tails are written, and this range is their user until it is taken apart.
                    unsafe { self.space.map(page..end, Backing::Tails(run), content.place.node) }?;
                    built.mapped = end;
                    page = end;
                }
                _ => {
                    self.build_page(content, built, page)?;
                    page += 1;
                }
            }
        }
        self.map_run(content, built)
    }

    /// The first page after `page` that begins with the head of a compound of `order`.
    fn next_head(&self, page: u64, order: Order) -> u64 {
        let pages = order.frames() >> self.page_order().get();
        (page | (pages - 1)) + 1
    }

    /// Takes and writes one page, and joins it to the run where it follows.
    fn build_page(&self, content: &Content, built: &mut Built, page: u64) -> Result<(), VmemmapError> {
        let frames = self.frames_of(page);
        let Some(part) = frames.intersection(content.range) else { return Ok(()) };
        let mut request = Request::new(Order::ZERO);
        request.zeroed = part != frames;
        let pfn = self.take(request, content.place)?;
        let offset = (part.start().get() - frames.start().get()) * mmkit_addr::DESCRIPTOR_BYTES;
        if let Some(bytes) = self.frames().frame(pfn) {
            // SAFETY: the part begins inside the page, so `offset` lies inside the frame.
            let to = unsafe { bytes.byte_add(offset as usize) };
            // SAFETY: the frame was just taken, nobody else has it, and from `offset` on it has room for the part. The
            // caller asks for no page that is all tails; a page with a head is the compound's own.
            unsafe { content.write(part, to) };
        }
        match &mut built.run {
            Some((first, count)) if first.checked_add(*count) == Some(pfn) => *count += 1,
            _ => {
                if let Err(error) = self.map_run(content, built) {
                    // SAFETY: taken above, and not mapped.
                    unsafe { self.give(pfn, Order::ZERO) };
                    return Err(error);
                }
                built.run = Some((pfn, 1));
            }
        }
        Ok(())
    }

    /// Maps the frames that were written since the last page was mapped.
    fn map_run(&self, content: &Content, built: &mut Built) -> Result<(), VmemmapError> {
        if let Some((first, count)) = built.run {
            let pages = built.mapped..built.mapped + count;
            // SAFETY: the frames of the run were taken for these pages, and nobody else has them.
            unsafe { self.space.map(pages, Backing::Own { first }, content.place.node) }?;
            self.counts.own.fetch_add(count, Ordering::Relaxed);
            built.mapped += count;
            built.run = None;
        }
        Ok(())
    }

    /// Undoes what was built, and says whether it could. Nobody has looked it up.
    fn unbuild(&self, built: &Built) -> bool {
        if let Some((first, count)) = built.run {
            self.give_run(first, count);
        }
        if built.start == built.mapped {
            return true;
        }
        // SAFETY: mapped by `build`, and nobody has been able to look the descriptors up.
        match unsafe { self.space.unmap(built.start..built.mapped) } {
            Ok(unmapped) => {
                unmapped.flush(&mut |count, backing| self.give_back(count, backing));
                true
            }
            // Nobody can look the pages up, and a later populate of the range is told that they are occupied.
            Err(_) => {
                let pfn = self.frames_of(built.start).start().get();
                self.env.events().report(&Event::Leaked { pfn, frames: built.mapped - built.start });
                false
            }
        }
    }

    /// Takes back what stood behind pages that nobody can reach any more.
    pub(crate) fn give_back(&self, count: u64, backing: Backing) {
        if let Backing::Own { first } = backing {
            self.counts.own.fetch_sub(count, Ordering::Relaxed);
            self.give_run(first, count);
        }
    }

    fn give_run(&self, first: Pfn, count: u64) {
        for pfn in PfnRange::new(first, count).into_iter().flat_map(PfnRange::iter) {
            // SAFETY: frames of own pages are taken one by one; they were not mapped, or are not any more.
            unsafe { self.give(pfn, Order::ZERO) };
        }
    }

    /// Makes the range visible. Cannot fail: all that it needs is in `spare`.
    fn publish(&self, content: &Content, mut spare: Spare) {
        let own = self.own_pages(content.range);
        for page in self.pages_of(content.range).filter(|page| !own.contains(page)) {
            let Some(part) = self.frames_of(page).intersection(content.range) else { continue };
            // SAFETY: the page has neighbours that are present, and cannot be removed while the lock is held.
            let Some(to) = (unsafe { self.space.descriptor(part.start()) }) else { continue };
            // SAFETY: the page has frames of neighbours, so it is mapped, and is not shared tails, whose pages have one
            // compound only. The descriptors of `part` are absent, so nobody else accesses them.
            unsafe { content.write(part, to.cast()) };
        }
        // From the last section down, so that a compound's head appears when the rest of it is there.
        for (number, part) in self.shape.parts(content.range).rev() {
            let Some(section) = self.sections.insert(self.frames(), number, &mut spare) else { continue };
            if content.shared {
                section.set_tails(Some(TailKey { place: content.place, order: content.order }));
                section.shared().set(part.clone());
            }
            section.present().set(part);
        }
        spare.give_back(self.frames());
    }
}
