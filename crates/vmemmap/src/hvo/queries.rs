// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the rest of the memory map asks about optimised compounds.

use core::sync::atomic::Ordering;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Frozen, MemMap, State};

use super::{HvoError, HvoState};
use crate::tails::TailKey;
use crate::{Behind, TailSlot, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// How a compound's descriptors are backed. For checks and statistics: it looks at every page of them.
    ///
    /// Takes the memory map's lock, and must not be called inside a reader. Nobody has to ask before optimising or restoring:
    /// both take a compound as they find it.
    ///
    /// # Errors
    ///
    /// [`HvoError::OtherMap`], [`HvoError::NotCompound`], [`HvoError::TooSmall`], [`HvoError::Unsupported`].
    pub fn hvo_state<M: MemMap>(&self, frozen: &Frozen<'_, M>) -> Result<HvoState, HvoError> {
        let _lock = self.locked();
        self.check_compound(frozen)?;
        let pages = self.compound_pages(frozen.pfn(), frozen.order());
        if !frozen.has_shared_tails() {
            let leaf = self.space.is_leaf(pages.start + 1);
            return Ok(if leaf { HvoState::Full } else { HvoState::Split });
        }
        let all = pages.end - pages.start;
        let own = pages.filter(|&page| matches!(self.space.behind(page), Behind::Own(_))).count() as u64;
        Ok(match own {
            0 | 1 => HvoState::Optimised,
            own => HvoState::Partial { own, shared: all - own },
        })
    }

    /// The compounds that are optimised in part.
    #[must_use]
    pub fn partial_compounds(&self) -> u64 {
        self.hvo.partial.load(Ordering::Relaxed)
    }

    /// The tails that the compound with head `pfn` uses by itself, where it was optimised after it was populated. Under
    /// the lock.
    pub(crate) fn optimised(&self, pfn: Pfn) -> Option<TailKey> {
        if self.shared_order(pfn).is_some() {
            return None;
        }
        let reader = self.enter();
        let page = reader.page(pfn).filter(|page| page.has_shared_tails())?;
        let order = self.block_order(page.state());
        Some(TailKey { place: page.place(), order })
    }

    fn block_order(&self, state: State) -> Order {
        match state {
            State::Free { order, .. } | State::Frozen { order } | State::Held { order, .. } => order,
            _ => Order::ZERO,
        }
    }

    /// Calls `each` for every compound of `range` that was optimised after it was populated. Under the lock, and
    /// where blocks of the range do not change meanwhile: all of them are claimed, or it is for a check.
    fn for_each_optimised(&self, range: PfnRange, each: &mut dyn FnMut(Pfn, TailKey)) {
        let mut next = Some(range.start());
        while let Some(pfn) = next.filter(|pfn| pfn.get() < range.end()) {
            if let Some(key) = self.optimised(pfn) {
                each(pfn, key);
            }
            let reader = self.enter();
            let order = match self.shared_order(pfn) {
                Some(order) => order,
                None => reader.page(pfn).map_or(Order::ZERO, |page| self.block_order(page.state())),
            };
            next = pfn.align_down(order).checked_add(order.frames());
        }
    }

    /// Users that compounds optimised after they were populated make of the tails of `key`. Under the lock; for checks.
    pub(crate) fn optimised_users(&self, key: TailKey) -> u64 {
        let mut users = 0;
        self.sections.for_each(self.frames(), &mut |number, section| {
            let mut from = 0;
            while let Some(start) = section.present().first_set(from..self.shape.subsections()) {
                let end = section.present().first_clear(start..self.shape.subsections());
                let end = end.unwrap_or(self.shape.subsections());
                let frames = u64::from(end - start) << self.shape.subsection;
                if let Some(range) = PfnRange::new(self.shape.first_frame(number, start), frames) {
                    self.for_each_optimised(range, &mut |_, found| users += u64::from(found == key));
                }
                from = end;
            }
        });
        users
    }

    /// Calls `take_out`, which unmaps `range`, all of whose blocks are claimed. Optimised compounds in it end their use of
    /// tails then.
    ///
    /// # Errors
    ///
    /// Those of `take_out`, which then has changed nothing; [`VmemmapError::Busy`] where an early section would keep the
    /// descriptor memory of an optimised compound.
    pub(crate) fn without_optimised(
        &self,
        range: PfnRange,
        take_out: impl FnOnce() -> Result<(), VmemmapError>,
    ) -> Result<(), VmemmapError> {
        if range.is_empty() || self.hvo.users.load(Ordering::Relaxed) == 0 {
            return take_out().inspect(|()| self.forget_failures(range));
        }
        self.forget_optimised(range)?;
        let result = take_out();
        match result {
            Ok(()) => self.forget_failures(range),
            Err(_) => self.remember_optimised(range),
        }
        self.end_pins();
        result
    }

    /// Ends the use that all optimised compounds make of their tails, before everything is unmapped for good. The tails
    /// themselves stay until [`end_drop`](Self::end_drop). Whether there were any.
    pub(crate) fn begin_drop(&self) -> bool {
        if self.hvo.users.load(Ordering::Relaxed) == 0 || self.pin_tails().is_err() {
            return false;
        }
        for slot in self.env.tail_slots() {
            if let Some((key, ..)) = slot.used() {
                slot.leave(self.optimised_users(key));
            }
        }
        true
    }

    /// Gives tails back that nobody uses any more, now that all pages are unmapped.
    pub(crate) fn end_drop(&self) {
        self.end_pins();
    }

    /// Ends the use that the optimised compounds of `range` make of their tails, all of whose blocks are claimed and about to
    /// be unmapped. The tails themselves stay until [`end_pins`](Self::end_pins).
    ///
    /// # Errors
    ///
    /// [`VmemmapError::TooManyTailUsers`]; [`VmemmapError::Busy`] where an early section would keep the descriptor memory of
    /// one of the compounds: it is restored first. Nothing has changed then.
    fn forget_optimised(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let mut early = None;
        self.for_each_optimised(range, &mut |pfn, _| {
            early = early.or(Some(pfn).filter(|&pfn| self.is_early(pfn)))
        });
        if let Some(pfn) = early {
            return Err(VmemmapError::Busy { pfn });
        }
        self.pin_tails()?;
        self.for_each_optimised(range, &mut |pfn, key| {
            self.hvo.users.fetch_sub(1, Ordering::Relaxed);
            if let Some(slot) = self.slot(key) {
                slot.leave(1);
            }
            self.count_partial(pfn, key, |count| count.wrapping_sub(1));
        });
        Ok(())
    }

    /// Undoes [`forget_optimised`](Self::forget_optimised), but for the pins.
    fn remember_optimised(&self, range: PfnRange) {
        self.for_each_optimised(range, &mut |pfn, key| {
            self.hvo.users.fetch_add(1, Ordering::Relaxed);
            if let Some(slot) = self.slot(key) {
                // There was room for this user a moment ago, and the tails are pinned.
                let _ = slot.join(1);
            }
            self.count_partial(pfn, key, |count| count.wrapping_add(1));
        });
    }

    /// Counts a compound where it is optimised in part.
    fn count_partial(&self, pfn: Pfn, key: TailKey, change: impl Fn(u64) -> u64) {
        let pages = self.compound_pages(pfn, key.order);
        let count = &self.hvo.partial;
        // Changed under the lock only.
        if self.any_own(&(pages.start + 1..pages.end)) {
            count.store(change(count.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    fn slot(&self, key: TailKey) -> Option<&TailSlot> {
        TailSlot::find(self.env.tail_slots(), key, self.space.tail_frames_order())
    }

    /// Becomes a user of all tails there are, so that none goes. Under the lock, which is held until they
    /// [end](Self::end_pins).
    pub(super) fn pin_tails(&self) -> Result<(), VmemmapError> {
        let slots = self.env.tail_slots();
        for (index, slot) in slots.iter().enumerate() {
            let Some((key, ..)) = slot.used() else { continue };
            if slot.join(1).is_err() {
                slots[..index].iter().filter(|slot| slot.used().is_some()).for_each(|slot| {
                    slot.leave(1);
                });
                return Err(VmemmapError::TooManyTailUsers { node: key.place.node, order: key.order });
            }
        }
        Ok(())
    }

    /// Ends the pins. Tails without other users go: nobody can reach them any more.
    pub(super) fn end_pins(&self) {
        for slot in self.env.tail_slots() {
            if slot.used().is_some() {
                self.leave_tails(slot, 1);
            }
        }
    }
}
