// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adding frames to the memory map.

use core::sync::atomic::Ordering;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::Request;
use mmkit_page::{Place, Template};
use mmkit_sync::{Counter, Events};

use crate::build::Failed;
use crate::content::Content;
use crate::section::Flags;
use crate::sections::Spare;
use crate::tails::TailKey;
use crate::{Altmap, Populate, TailRun, TailSlot, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Gives the frames of `range` descriptors, as compounds of `order`, or as single frames where that is 0.
    ///
    /// [`populate_with`](Self::populate_with) does the same and more.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed.
    pub fn populate(&self, range: PfnRange, order: Order, place: Place) -> Result<(), VmemmapError> {
        self.populate_with(Populate::new(range).compounds(order).at(place))
    }

    /// Gives frames descriptors.
    ///
    /// Compounds of at least [`Geometry::min_dedup_order`](mmkit_addr::Geometry::min_dedup_order) share their tails, as a
    /// rule: each owns the first vmemmap page of its descriptors, and every other one is a page of tails that all
    /// compounds of that order in that node and zone share. Compounds and single frames are free blocks at rest
    /// afterwards, for [`MemMap::claim`](mmkit_page::MemMap::claim), unless the request says
    /// [`offline`](Populate::offline).
    ///
    /// The range is made of whole subsections, and of whole compounds; of compounds that share tails and span sections,
    /// of whole sections, which may be populated one by one, in any order. A section's shared compounds have one order
    /// and one place; single frames may stand beside them. What was populated as a whole section of shared compounds
    /// is not completed in parts later on.
    ///
    /// It takes the memory map's lock, so it must not be called from inside a reader: a removal that has the lock may be
    /// waiting for that reader.
    ///
    /// Linux: `sparse_add_section`, `vmemmap_populate_compound_pages`, and for [early](Populate::early) ranges
    /// `sparse_init`.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed: no frame taken, no page mapped, nothing visible, the altmap as it was.
    ///
    /// Cost: one frame for each vmemmap page that is not shared, tables of the space, and entries of the section table;
    /// each descriptor of a page of its own is written once. Nothing that was in place is copied.
    pub fn populate_with(&self, mut request: Populate<'_>) -> Result<(), VmemmapError> {
        let _lock = self.locked();
        let content = self.content(&request)?;
        self.take_in(&content, request.altmap.as_deref_mut())?;
        self.write_kept_pages(&content);
        if let Some(kind) = request.pageblocks {
            self.set_pageblocks(content.range, kind);
        }
        self.publish(&content);
        Ok(())
    }

    /// Takes and maps everything that the content needs, writes what is not [staged](Content::staged), and reserves the
    /// frames: or nothing of all that. Under the lock.
    pub(crate) fn take_in(
        &self,
        content: &Content,
        mut altmap: Option<&mut Altmap>,
    ) -> Result<(), VmemmapError> {
        self.check_room(content)?;
        let (first, last) = self.shape.sections(content.asked);
        let nodes = self.sections.missing(self.frames(), first, last);
        let spare = Spare::allocate(self.frames(), nodes, content.place)?;
        let mark = altmap.as_deref().map(Altmap::mark);
        match self.build_all(content, altmap.as_deref_mut()) {
            Ok(()) => {
                self.counts.sections.fetch_add(nodes, Ordering::Relaxed);
                self.reserve(content, spare);
                Ok(())
            }
            Err(failed) => {
                if let (Some(altmap), Some(mark), true) = (altmap, mark, failed.undone) {
                    altmap.rewind(mark);
                }
                spare.give_back(self.frames());
                Err(failed.error)
            }
        }
    }

    /// What the request comes to.
    pub(crate) fn content(&self, request: &Populate<'_>) -> Result<Content, VmemmapError> {
        let &Populate { range: asked, order, place, huge, strict, early, offline, .. } = request;
        let section = self.geometry.section_order();
        self.check_range(asked, Order::ZERO)?;
        let shared_unit = self.unit(order)?;
        let (Some(last), altmap) = (asked.last(), request.altmap.as_deref()) else {
            return Err(VmemmapError::Empty);
        };
        if early && altmap.is_some() {
            return Err(VmemmapError::Early { pfn: asked.start() });
        }
        // Only the first and the last section can be early: one in between is there as a whole, or not at all.
        let reuses = (self.is_early(asked.start()), self.is_early(last));
        let parts = early && !asked.is_aligned(section) || reuses.0 || reuses.1;
        let shared = order >= self.geometry.min_dedup_order() && altmap.is_none() && !parts;
        let unit = match altmap {
            _ if shared => shared_unit,
            None => order.max(self.geometry.subsection_order()),
            Some(_) => order.max(self.geometry.subsection_order()).max(self.page_order()),
        };
        self.check_range(asked, unit)?;

        Ok(Content {
            asked,
            range: altmap.map_or(Ok(asked), |altmap| self.beyond(asked, altmap, unit))?,
            memory: self.memory_of(asked, early),
            order,
            place,
            shared,
            early,
            offline,
            altmap: altmap.map(Altmap::pool),
            huge,
            strict,
            held: request.held,
            staged: false,
        })
    }

    /// The frames for whose descriptors memory has to be made where `asked` is populated.
    pub(crate) fn memory_of(&self, asked: PfnRange, early: bool) -> PfnRange {
        let (section, Some(last)) = (self.geometry.section_order(), asked.last()) else { return asked };
        let (mut start, mut end) = (asked.start().get(), asked.end());
        if early {
            start = asked.start().align_down(section).get();
            end = end.next_multiple_of(section.frames());
        }
        // Only the first and the last section can be early.
        if self.is_early(asked.start()) {
            start = asked.start().align_down(section).get() + section.frames();
        }
        if self.is_early(last) {
            end = last.align_down(section).get();
        }
        between(start, end)
    }

    /// The frames of `asked` that the altmap does not set aside.
    fn beyond(&self, asked: PfnRange, altmap: &Altmap, unit: Order) -> Result<PfnRange, VmemmapError> {
        let set_aside = altmap.set_aside();
        if !set_aside.overlaps(asked) {
            return Ok(asked);
        }
        if set_aside.start() != asked.start() || set_aside.end() >= asked.end() {
            return Err(VmemmapError::AltmapCut { set_aside, range: asked });
        }
        self.check_range(set_aside, unit)?;
        Ok(between(set_aside.end(), asked.end()))
    }

    /// Builds everything that can fail, or nothing.
    fn build_all(&self, content: &Content, altmap: Option<&mut Altmap>) -> Result<(), Failed> {
        if !content.shared {
            return self.build(content, None, altmap);
        }
        let key = content.tails();
        let slots = self.env.tail_slots();
        let run = self.space.tail_frames_order();
        let full = VmemmapError::NoTailSlot { slots: slots.len() };
        let slot = TailSlot::find(slots, key, run).ok_or(full)?;
        let users = self.sections_without_tails(content.range);
        let run = self.join_tails_from(slot, key, users, content.strict)?;
        self.build(content, Some(run), None).inspect_err(|failed| {
            // Tails that are still mapped somewhere keep these users, and so leak.
            if failed.undone {
                self.leave_tails(slot, users);
            }
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
    pub(crate) fn join_tails(
        &self,
        slot: &TailSlot,
        key: TailKey,
        users: u64,
    ) -> Result<TailRun, VmemmapError> {
        self.join_tails_from(slot, key, users, false)
    }

    /// As [`join_tails`](Self::join_tails); made of frames of their own node or not at all where it is `strict`.
    fn join_tails_from(
        &self,
        slot: &TailSlot,
        key: TailKey,
        users: u64,
        strict: bool,
    ) -> Result<TailRun, VmemmapError> {
        let request = Request::new(self.space.tail_frames_order());
        let request = if strict { request.strict() } else { request };
        self.try_join_tails(slot, key, users, request).inspect_err(|_| slot.forget_if_unused())
    }

    fn try_join_tails(
        &self,
        slot: &TailSlot,
        key: TailKey,
        users: u64,
        request: Request,
    ) -> Result<TailRun, VmemmapError> {
        let too_many = |_| VmemmapError::TooManyTailUsers { node: key.place.node, order: key.order };
        let order = request.order;
        loop {
            if let Some(first) = slot.join(users).map_err(too_many)? {
                return Ok(TailRun { first, order });
            }
            let first = self.take(request, key.place)?;
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
            slot.forget_if_unused();
            // SAFETY: `join_tails` took it at this order, which is part of the slot's key; the last user left, so no page
            // maps it and none will.
            unsafe { self.give(first, order) };
        }
    }

    /// Tells the environment of all pageblocks of the range: no tail is too uninteresting.
    pub(crate) fn set_pageblocks(&self, range: PfnRange, kind: u8) {
        let order = self.pageblock_order();
        let mut next = Some(range.start().align_down(order));
        while let Some(first) = next.filter(|first| first.get() < range.end()) {
            self.env.set_pageblock(first, order, kind);
            next = first.checked_add(order.frames());
        }
    }

    /// Writes what the content has in pages that neighbours or an early section had before.
    fn write_kept_pages(&self, content: &Content) {
        let own = self.own_pages(content.memory);
        for page in self.pages_of(content.range).filter(|page| !own.contains(page)) {
            let Some(part) = self.frames_of(page).intersection(content.range) else { continue };
            // SAFETY: the page has been mapped for neighbours or for its early section, and cannot be unmapped while the
            // lock is held.
            let Some(to) = (unsafe { self.space.descriptor(part.start()) }) else { continue };
            // SAFETY: the page is mapped, and is not shared tails: those have one compound only, and an early section
            // that has any is refused. The descriptors of `part` are absent, so nobody else accesses them.
            unsafe { content.write(part, to.cast()) };
            self.env.events().count(Counter::DescriptorWritten, part.frames());
        }
    }

    /// Notes in the section table what the range is, and that it is not there yet. Cannot fail: all that it needs is in
    /// `spare`.
    fn reserve(&self, content: &Content, mut spare: Spare) {
        for (number, part) in self.shape.parts(content.asked) {
            let Some(section) = self.sections.insert(self.frames(), number, &mut spare) else { continue };
            let whole = part == (0..self.shape.subsections());
            if content.shared {
                section.set_tails(Some(content.tails()));
                section.shared().set(part.clone());
            } else if let Some(base) = content.altmap {
                section.set_altmap(base);
                section.shared().set(part.clone());
            }
            let flags = section.flags().with(Flags::OFFLINE, content.offline);
            let flags = if content.early { flags.with(Flags::EARLY, true) } else { flags };
            // A section that shares again, after all that was populated whole was restored, shares in parts.
            section.set_flags(if content.shared { flags.with(Flags::WHOLE, whole) } else { flags });
            section.reserved().set(part);
        }
        spare.give_back(self.frames());
    }

    /// Makes the range, which is reserved and written, visible. Under the lock. Cannot fail.
    pub(crate) fn publish(&self, content: &Content) {
        // From the last section down, so that a compound's head appears when the rest of it is there.
        for (number, part) in self.shape.parts(content.range).rev() {
            if let Some(section) = self.sections.get(self.frames(), number) {
                section.present().set(part);
            }
        }
        for (number, part) in self.shape.parts(content.asked) {
            if let Some(section) = self.sections.get(self.frames(), number) {
                section.reserved().clear(part);
            }
        }
    }
}

/// Frames `start..end`, none where the end is not above the start. Both are ends of ranges that there are.
pub(crate) fn between(start: u64, end: u64) -> PfnRange {
    let first = Pfn::new(start).unwrap_or(Pfn::MAX);
    PfnRange::new(first, end.saturating_sub(start)).unwrap_or(PfnRange::block(Pfn::MAX, Order::ZERO))
}
