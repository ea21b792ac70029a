// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad frames in compounds whose descriptors are shared.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{Pfn, PfnRange};
use mmkit_page::{Folio, Frozen, MemMap, PageFlags};

use super::HvoError;
use super::slots::FailureSlot;
use crate::{Vmemmap, VmemmapEnv, VmemmapSpace};

/// What is known of a bad frame after it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The frame is recorded, and its compound's head marked. The mark moves to the frame's own descriptor when the
    /// compound is restored.
    Recorded,
    /// The frame was recorded before.
    Known,
    /// There is no room for the record. Nobody will know which frame of the compound is bad: it is never restored, and so
    /// never freed.
    Unreliable,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Notes that frame `pfn` of a compound in use is bad. Linux: `folio_set_hugetlb_hwpoison`.
    ///
    /// The frame's own descriptor may be a shared tail, which cannot be marked. So the head is marked
    /// ([`HWPOISON`](PageFlags::HWPOISON)), and the frame number is kept in one of the environment's
    /// [`FailureSlot`]s. A compound whose descriptors are all its own is treated alike: [restoring](Self::restore) it
    /// moves the marks.
    ///
    /// The record outlives the head's mark, without which the compound does not become free, and the restore: as long as it is
    /// there, the compound is not optimised again. It ends when the frame is [removed](Self::remove), or when its frame has the
    /// mark and the slot is needed for another one. (A compound without a record, [`Failure::Unreliable`], has only the
    /// head's mark: whoever takes that off lets the bad frame be used.)
    ///
    /// Takes the memory map's lock, and must not be called inside a reader. Cost: a look at each slot.
    ///
    /// # Errors
    ///
    /// [`HvoError::Outside`], [`HvoError::OtherMap`], [`HvoError::NotCompound`].
    pub fn report_failure<M: MemMap>(&self, folio: &Folio<'_, M>, pfn: Pfn) -> Result<Failure, HvoError> {
        let _lock = self.locked();
        let head = folio.pfn();
        if !self.has(head) || !self.is_same(folio) {
            return Err(HvoError::OtherMap { pfn: head });
        }
        if !folio.is_compound() {
            return Err(HvoError::NotCompound { pfn: head });
        }
        let block = PfnRange::block(head, folio.order());
        let failure = self.record(block, pfn, folio.flags())?;
        folio.insert(PageFlags::HWPOISON);
        Ok(failure)
    }

    /// The same for a compound that nobody refers to.
    ///
    /// # Errors
    ///
    /// As [`report_failure`](Self::report_failure).
    pub fn report_failure_of_frozen<M: MemMap>(
        &self,
        frozen: &mut Frozen<'_, M>,
        pfn: Pfn,
    ) -> Result<Failure, HvoError> {
        let _lock = self.locked();
        self.check_own(frozen)?;
        if !frozen.is_compound() {
            return Err(HvoError::NotCompound { pfn: frozen.pfn() });
        }
        let failure = self.record(PfnRange::block(frozen.pfn(), frozen.order()), pfn, frozen.flags())?;
        frozen.insert_at(0..1, PageFlags::HWPOISON);
        Ok(failure)
    }

    /// Whether frame `pfn` is recorded as bad, in a compound that was not restored since. A snapshot; no lock is taken.
    #[must_use]
    pub fn is_recorded_failure(&self, pfn: Pfn) -> bool {
        self.env.failures().iter().any(|slot| slot.get() == Some(pfn) && !slot.is_settled())
    }

    fn is_same<M: MemMap>(&self, folio: &Folio<'_, M>) -> bool {
        // SAFETY: the frame is present, and stays so while the lock is held.
        let here = unsafe { self.space.descriptor(folio.pfn()) };
        here == Some(folio.descriptor())
    }

    fn record(&self, block: PfnRange, pfn: Pfn, flags: PageFlags) -> Result<Failure, HvoError> {
        if !block.contains(pfn) {
            return Err(HvoError::Outside { pfn, head: block.start() });
        }
        let slots = self.env.failures();
        if let Some(slot) = slots.iter().find(|slot| slot.get() == Some(pfn)) {
            slot.set(pfn, false);
            return Ok(Failure::Known);
        }
        // A head that is marked without a record: it is unreliable, and stays so.
        if flags.contains(PageFlags::HWPOISON) && !self.has_failure(block) {
            return Ok(Failure::Unreliable);
        }
        let empty = slots.iter().find(|slot| slot.get().is_none());
        let settled = || slots.iter().find(|slot| slot.is_settled());
        if let Some(slot) = empty {
            self.hvo.bad.fetch_add(1, Ordering::Relaxed);
            slot.set(pfn, false);
            Ok(Failure::Recorded)
        } else if let Some(slot) = settled() {
            slot.set(pfn, false);
            Ok(Failure::Recorded)
        } else {
            // One frame is unknown, so the others need not be known either.
            self.forget_failures(block);
            Ok(Failure::Unreliable)
        }
    }

    fn failures_in(&self, block: PfnRange) -> impl Iterator<Item = (&FailureSlot, Pfn)> {
        let none = self.hvo.bad.load(Ordering::Relaxed) == 0;
        let slots = if none { &[] } else { self.env.failures() };
        slots.iter().filter_map(move |slot| {
            let pfn = slot.get().filter(|&pfn| block.contains(pfn))?;
            Some((slot, pfn))
        })
    }

    /// Whether a compound has a bad frame, known or not. Under the lock.
    pub(super) fn is_poisoned<M: MemMap>(&self, frozen: &Frozen<'_, M>) -> bool {
        // A record may have given way to another since its mark was moved.
        frozen.poisoned().is_some() || self.has_failure(PfnRange::block(frozen.pfn(), frozen.order()))
    }

    /// Whether a compound has a bad frame that nobody knows. Under the lock.
    pub(super) fn is_unreliable<M: MemMap>(&self, frozen: &Frozen<'_, M>) -> bool {
        let block = PfnRange::block(frozen.pfn(), frozen.order());
        frozen.flags().contains(PageFlags::HWPOISON) && !self.has_failure(block)
    }

    /// Whether a bad frame of the block is on record, marked by itself or not. Under the lock.
    pub(super) fn has_failure(&self, block: PfnRange) -> bool {
        self.failures_in(block).next().is_some()
    }

    /// Forgets the bad frames of frames that leave the memory map, or of a block that is unreliable. Under the lock.
    pub(super) fn forget_failures(&self, block: PfnRange) {
        for (slot, _) in self.failures_in(block) {
            slot.clear();
            self.hvo.bad.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Moves the marks of bad frames from the head to where they belong, in a compound whose descriptors are all its own,
    /// and written by nobody through stale translations any more. The records stay while there is room: they keep it from being
    /// optimised, which would erase the marks.
    pub(super) fn settle<M: MemMap>(&self, frozen: &mut Frozen<'_, M>) {
        let block = PfnRange::block(frozen.pfn(), frozen.order());
        if !self.has_failure(block) || self.check_own(frozen).is_err() {
            return;
        }
        let mut first = false;
        for (slot, pfn) in self.failures_in(block) {
            let index: u64 = pfn.get() - block.start().get();
            let one: Range<u64> = index..index + 1;
            frozen.insert_at(one, PageFlags::HWPOISON);
            slot.set(pfn, true);
            first |= index == 0;
        }
        if !first {
            frozen.remove_at(0..1, PageFlags::HWPOISON);
        }
    }
}
