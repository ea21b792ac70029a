// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking frames out of the memory map.

use core::sync::atomic::Ordering;

use mmkit_addr::{NodeId, Order, Pfn, PfnRange};
use mmkit_page::{Free, MemMap, State};
use mmkit_sync::{Counter, Event, Events, ReadSide, mutant};

use crate::populate::between;
use crate::section::{Flags, Section};
use crate::sections::Detached;
use crate::{Altmap, TailSlot, Unmapped, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// What the section table says of the frames of one subsection.
#[derive(Clone, Copy, Default)]
struct Around {
    present: bool,
    /// The order of its compounds, if they share their tails.
    shared: Option<Order>,
    offline: bool,
}

/// The first frames of the blocks of a range, from the lowest up, and what is around them. A tail whose head is not in the
/// range belongs to no block of it.
///
/// Under the lock: the section table is asked once for each subsection.
struct Blocks<'m, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'m Vmemmap<S, E>,
    /// Where the next block may begin.
    at: Option<Pfn>,
    end: u64,
    around: Around,
    /// The first frame that `around` says nothing about.
    unknown: u64,
}

impl<'m, S: VmemmapSpace, E: VmemmapEnv> Blocks<'m, S, E> {
    /// The blocks of `range` that begin below `end`.
    fn of(map: &'m Vmemmap<S, E>, range: PfnRange, end: u64) -> Self {
        Self { map, at: Some(range.start()), end, around: Around::default(), unknown: 0 }
    }

    fn next(&mut self) -> Option<(Pfn, Around)> {
        loop {
            let pfn = self.at.filter(|pfn| pfn.get() < self.end)?;
            if pfn.get() >= self.unknown {
                self.around = self.map.around(pfn);
                let subsection = self.map.geometry.subsection_order();
                self.unknown = PfnRange::block(pfn, subsection).end();
            }
            match self.around {
                Around { present: false, .. } => self.at = Pfn::new(self.unknown),
                Around { shared: Some(order), .. } if !pfn.is_aligned(order) => self.at = pfn.align_up(order),
                around => return Some((pfn, around)),
            }
        }
    }

    /// Goes on behind the block of `order` at `pfn`.
    fn pass(&mut self, pfn: Pfn, order: Order) {
        self.at = pfn.checked_add(order.frames());
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Takes the descriptors of the frames of `range` away, and gives back what they were made of.
    ///
    /// Every frame must be free and at rest, or offline, in blocks that lie in the range. A compound that shares its
    /// tails and is there as a whole goes as a whole; one of which something is missing goes by the units in which it
    /// was populated, if all of it is at rest. A page of descriptors that neighbours outside of the range have a part in
    /// stays until the last of them goes; the descriptor memory of an [early](crate::Populate::early) section, until its
    /// last frame goes.
    ///
    /// Linux: `section_deactivate`.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed, but for one thing: a huge leaf of which a part was to go, and which was split
    /// before something else was refused, stays split. [`VmemmapError::InsideReader`] where the read side cannot wait,
    /// as from inside a reader, or with [`Immovable`](mmkit_sync::Immovable), which promises that nothing is removed.
    ///
    /// Cost: for each free block a lookup and a compare-exchange, and for each subsection a look at the section table; one
    /// grace period, and a second one where nodes of the section table go too; one flush, and one for each huge leaf that
    /// has to be split. Where anything is optimised, a pass over the blocks for that, too. The lock is held all the time,
    /// while readers are waited for as well.
    pub fn remove(&self, range: PfnRange) -> Result<(), VmemmapError> {
        self.check_range(range, self.geometry.subsection_order())?;
        let _lock = self.locked();
        self.remove_locked(range, range, None)
    }

    /// Takes the descriptors of the frames of `range` away that lie in `altmap`, as [`remove`](Self::remove) does, and
    /// counts them off.
    ///
    /// The frames that the altmap sets aside go with the last of the others: a range that has them must be all that is
    /// left.
    ///
    /// # Errors
    ///
    /// Those of [`remove`](Self::remove); [`VmemmapError::NoAltmap`] and [`VmemmapError::OtherAltmap`] where some of the
    /// descriptors lie elsewhere; [`VmemmapError::AltmapCut`] where some of the frames set aside are in the range and
    /// others are not, and [`VmemmapError::Busy`] where descriptors lie in them that would stay.
    pub fn remove_altmap(&self, range: PfnRange, altmap: &mut Altmap) -> Result<(), VmemmapError> {
        self.check_range(range, self.geometry.subsection_order().max(self.page_order()))?;
        let _lock = self.locked();
        let set_aside = altmap.set_aside();
        if !set_aside.overlaps(range) {
            return self.remove_locked(range, range, Some(altmap));
        }
        if !range.contains_range(set_aside) || set_aside.start() != range.start() {
            return Err(VmemmapError::AltmapCut { set_aside, range });
        }
        let rest = between(set_aside.end(), range.end());
        self.check_altmap(range, Some(altmap.pool()))?;
        let own = self.own_pages(range);
        if own.end - own.start != altmap.alloc() {
            return Err(VmemmapError::Busy { pfn: set_aside.start() });
        }
        self.remove_locked(range, rest, Some(altmap))
    }

    /// Removes `range`, of which the frames `present` should be there.
    fn remove_locked(
        &self,
        range: PfnRange,
        present: PfnRange,
        altmap: Option<&mut Altmap>,
    ) -> Result<(), VmemmapError> {
        let mut guard = None;
        if !present.is_empty() {
            self.check_present(present)?;
            self.check_altmap(present, altmap.as_deref().map(Altmap::pool))?;
            self.check_cuts(present)?;
            guard = self.claim_guard(present)?;
            let claimed =
                mutant!("vmemmap-remove-no-claim", self.claim_all(present), Ok::<(), VmemmapError>(()));
            claimed?;
        }
        let result = self.without_optimised(present, || self.take_out(range, present, altmap));
        if result.is_err() {
            self.unclaim(present, present.end());
        }
        // A compound that had a hole, and now has another, rests again.
        drop(guard);
        result
    }

    /// Makes sure that the descriptors of all frames of `range` lie in the altmap with this pool, or none in any.
    fn check_altmap(&self, range: PfnRange, given: Option<Pfn>) -> Result<(), VmemmapError> {
        for (number, part) in self.shape.parts(range) {
            let section = self.sections.get(self.frames(), number);
            for subsection in part {
                let has = section.and_then(|section| section.is_marked(subsection, section.altmap()));
                let pfn = self.shape.first_frame(number, subsection);
                match (has, given) {
                    (Some(pool), _) if given != has => return Err(VmemmapError::OtherAltmap { pfn, pool }),
                    (None, Some(_)) => return Err(VmemmapError::NoAltmap { pfn }),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Claims the compound that begins before the range and reaches into it, if it is there in parts.
    fn claim_guard(&self, range: PfnRange) -> Result<Option<Free<'_, Self>>, VmemmapError> {
        let start = range.start();
        let head = self.shared_order(start).map(|order| start.align_down(order));
        let Some(head) = head.filter(|&head| head < start && self.has(head) && !self.is_offline(head)) else {
            return Ok(None);
        };
        self.claim(head).map(Some).map_err(|_| VmemmapError::Busy { pfn: head })
    }

    fn around(&self, pfn: Pfn) -> Around {
        let Some(section) = self.sections.get(self.frames(), self.shape.section_of(pfn)) else {
            return Around::default();
        };
        let subsection = self.shape.subsection_of(pfn);
        Around {
            present: section.present().contains(subsection),
            shared: section.is_marked(subsection, section.tails()).map(|tails| tails.order),
            offline: section.flags().contains(Flags::OFFLINE),
        }
    }

    /// The order of the block of an offline section at `pfn`: the memory map's own.
    fn block_of_ours(&self, pfn: Pfn) -> Option<Order> {
        match self.enter().page(pfn)?.state() {
            State::Free { order, parked: false } => Some(order),
            _ => None,
        }
    }

    /// Takes every free block of the range, so that nobody can get at its frames, or none. Those of offline sections
    /// are taken already.
    pub(crate) fn claim_all(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let mut blocks = Blocks::of(self, range, range.end());
        while let Some((pfn, around)) = blocks.next() {
            // A compound may reach past the range where its other descriptors are absent.
            let fits = |order: Order| pfn.get() + order.frames() <= range.end() || around.shared.is_some();
            let claimed = if around.offline {
                self.block_of_ours(pfn).filter(|&order| fits(order))
            } else {
                self.claim(pfn).ok().filter(|free| fits(free.order())).map(|free| {
                    let order = free.order();
                    let _ = free.into_raw();
                    order
                })
            };
            let Some(order) = claimed else {
                self.unclaim(range, pfn.get());
                return Err(VmemmapError::Busy { pfn });
            };
            blocks.pass(pfn, order);
        }
        Ok(())
    }

    /// Lets the blocks of the range below `end`, which were claimed, rest again, unless they are offline.
    pub(crate) fn unclaim(&self, range: PfnRange, end: u64) {
        let mut blocks = Blocks::of(self, range, end);
        while let Some((pfn, around)) = blocks.next() {
            let order = if around.offline {
                self.block_of_ours(pfn)
            } else {
                // SAFETY: `claim_all` made this very block raw, or it was written as claimed when it was populated, and
                // the lock has been held since, or its section was offline.
                unsafe { Free::from_raw(self, pfn) }.map(|free| free.order())
            };
            let Some(order) = order else { return };
            blocks.pass(pfn, order);
        }
    }

    /// Hides the range, waits until nobody looks at it, and takes it apart.
    fn take_out(
        &self,
        range: PfnRange,
        present: PfnRange,
        altmap: Option<&mut Altmap>,
    ) -> Result<(), VmemmapError> {
        let node = self.node_of(present);
        self.set_present(present, false);
        let undo = |error| {
            self.set_present(present, true);
            error
        };
        self.env.events().count(Counter::Synchronize, 1);
        let readers = self.env.read_side();
        let waited =
            mutant!("vmemmap-remove-no-wait", readers.synchronize(), Ok::<_, mmkit_sync::InsideReader>(()));
        waited.map_err(|_| undo(VmemmapError::InsideReader))?;

        // SAFETY: every frame of the range was claimed and is absent, and a grace period passed.
        let pages = unsafe { self.take_apart(range, node, altmap.is_some()) }.map_err(undo)?;
        if let Some(altmap) = altmap {
            altmap.give(pages);
        }
        Ok(())
    }

    /// Unmaps and gives back the memory that the frames of `range` have for their descriptors, and what the section table
    /// keeps of them. How many pages that were. Under the lock.
    ///
    /// # Errors
    ///
    /// Those of the space. Nothing has changed then, but that a huge leaf may be split.
    ///
    /// # Safety
    ///
    /// No frame of the range is present or reserved, and nobody looks at its descriptor.
    pub(crate) unsafe fn take_apart(
        &self,
        range: PfnRange,
        node: NodeId,
        hosted: bool,
    ) -> Result<u64, VmemmapError> {
        let gone = self.without_early(range);
        let own = self.own_pages(gone);
        if !own.is_empty() {
            for edge in [own.start, own.end] {
                // SAFETY: what is mapped here was mapped by the memory map.
                if unsafe { self.space.split(edge, node) }? {
                    self.space.flush(edge - 1..edge + 1);
                }
            }
            // SAFETY: mapped by the memory map, and only the frames of the range have descriptors in these pages.
            let unmapped = unsafe { self.space.unmap(own.clone()) }?;
            unmapped.flush(&mut |count, backing| self.give_back(count, backing, hosted));
        }
        for page in self.pages_of(range).filter(|page| !own.contains(page)) {
            self.erase(page, range);
        }
        self.forget_marks(range, gone);

        // Empty nodes of the section table stay where nobody can wait: they are used again.
        if !self.env.read_side().may_wait() {
            return Ok(own.end - own.start);
        }
        let (first, last) = self.shape.sections(range);
        let detached = self.sections.detach(self.frames(), first, last);
        if !detached.is_empty() {
            self.env.events().count(Counter::Synchronize, 1);
            match self.env.read_side().synchronize() {
                Ok(()) => self.sweep(detached, first, last),
                Err(_) => self.env.events().report(&Event::Leaked { pfn: range.start().get(), frames: 1 }),
            }
        }
        Ok(own.end - own.start)
    }

    /// The frames whose descriptor memory goes when `range` is hidden: without early sections that have other frames,
    /// and with all of those that have not. (A section in the middle of the range has no others.)
    fn without_early(&self, range: PfnRange) -> PfnRange {
        let section = self.geometry.section_order();
        let bound = |pfn: Pfn, end: u64, is_end: bool| {
            if !self.is_early(pfn) {
                return end;
            }
            let all = PfnRange::block(pfn, section);
            if self.any_taken(all) == is_end { all.start().get() } else { all.end() }
        };
        let Some(last) = range.last() else { return range };
        let start = range.start();
        // One early section that has other frames ends before it begins: nothing goes.
        between(bound(start, start.get(), false), bound(last, range.end(), true))
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

    /// Makes the descriptors of the range in a page that stays what those of absent frames are.
    fn erase(&self, page: u64, range: PfnRange) {
        let first = self.frames_of(page).start();
        if self.shared_order(first).is_some_and(|order| !first.is_aligned(order)) {
            // Shared tails, which an early section keeps until it goes.
            return;
        }
        let Some(part) = self.frames_of(page).intersection(range) else { return };
        // SAFETY: the page has neighbours that are present, or an early section keeps it: it stays mapped while the
        // lock is held.
        let Some(to) = (unsafe { self.space.descriptor(part.start()) }) else { return };
        // SAFETY: the page stays mapped, for writing, as it is not shared tails. Nobody looks at these descriptors any
        // more: they are absent, and a grace period passed.
        unsafe { self.fill_absent(to.cast(), part.frames()) };
    }

    /// Ends the use of shared tails by the sections of the range that have no more compounds, and forgets what held for
    /// sections of which nothing is left. The descriptor memory of `gone` is gone.
    fn forget_marks(&self, range: PfnRange, gone: PfnRange) {
        for (number, part) in self.shape.parts(range) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            let early = section.flags().contains(Flags::EARLY);
            if !early {
                section.shared().clear(part);
            } else if gone
                .overlaps(PfnRange::block(self.shape.first_frame(number, 0), self.geometry.section_order()))
            {
                section.shared().clear(0..self.shape.subsections());
                section.set_flags(Flags::default());
            }
            self.forget_marks_of(section);
        }
    }

    fn forget_marks_of(&self, section: Section<'_>) {
        if !section.shared().is_empty() {
            return;
        }
        let taken = !section.present().is_empty() || !section.reserved().is_empty();
        if !taken && !section.flags().contains(Flags::EARLY) {
            section.set_flags(Flags::default());
        }
        let tails = section.tails();
        section.set_tails(None);
        section.set_flags(section.flags().with(Flags::WHOLE, false));
        let Some(key) = tails else { return };
        if let Some(slot) = TailSlot::find(self.env.tail_slots(), key, self.space.tail_frames_order()) {
            self.leave_tails(slot, 1);
        }
    }

    /// The first run of subsections that have descriptor memory, and whether that is an altmap's.
    fn covered_run(&self, section: Section<'_>) -> Option<(core::ops::Range<u32>, bool)> {
        let all = 0..self.shape.subsections();
        let hosted = |bit| section.is_marked(bit, section.altmap()).is_some();
        let start = all.clone().find(|&bit| section.is_covered(bit))?;
        let same = |bit: u32| section.is_covered(bit) && hosted(bit) == hosted(start);
        let end = (start..all.end).find(|&bit| !same(bit)).unwrap_or(all.end);
        Some((start..end, hosted(start)))
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
        let mut leaked = false;
        let optimised = this.begin_drop();
        this.sections.for_each(this.frames(), &mut |number, section| {
            let mut unmapped_all = true;
            while let Some((part, hosted)) = this.covered_run(section) {
                let first = this.shape.first_frame(number, part.start);
                let frames = u64::from(part.end - part.start) << this.shape.subsection;
                section.set_flags(Flags::default());
                section.present().clear(part.clone());
                // Of a stage that was forgotten.
                section.reserved().clear(part.clone());
                section.shared().clear(part);
                let own = PfnRange::new(first, frames).map(|range| this.own_pages(range));
                // SAFETY: mapped by `populate`, and no reader or handle is left, since they borrow the memory map.
                let unmap = |pages| unsafe { this.space.unmap(pages) };
                match own.filter(|own| !own.is_empty()).map(unmap) {
                    Some(Ok(unmapped)) => {
                        unmapped.flush(&mut |count, backing| this.give_back(count, backing, hosted));
                    }
                    Some(Err(_)) => {
                        unmapped_all = false;
                        this.env.events().report(&Event::Leaked { pfn: first.get(), frames });
                    }
                    None => {}
                }
            }
            // Tails that still stand behind pages keep this user, and so leak.
            if unmapped_all {
                this.forget_marks_of(section);
            } else {
                leaked = true;
            }
        });
        if optimised && !leaked {
            this.end_drop();
        }
        this.drop_reserves();
        let last = this.geometry.max_sections() - 1;
        let detached = this.sections.detach(this.frames(), 0, last);
        if !detached.is_empty() {
            this.sweep(detached, 0, last);
        }
    }
}
