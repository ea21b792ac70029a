// SPDX-License-Identifier: MIT OR Apache-2.0
//! What optimising and restoring have in common: one flush for many compounds.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Frozen, MemMap};
use mmkit_sync::{Counter, Event, Events, ReadSide, mutant};

use super::HvoError;
use super::records::Records;
use crate::tails::TailKey;
use crate::{TailRun, TailSlot, Taken, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// What became of a batch of compounds. Which of them are optimised now, each tells:
/// [`Frozen::has_shared_tails`](mmkit_page::Frozen::has_shared_tails).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says what was not done, and why"]
pub struct HvoReport {
    /// Compounds that were changed as asked.
    pub done: usize,
    /// Compounds that were so before.
    pub already: usize,
    /// Compounds that were not changed, or only in part. Those after the first error of a restoring batch count too.
    pub failed: usize,
    /// The first error, and the index of its compound.
    pub error: Option<(usize, HvoError)>,
}

impl HvoReport {
    pub(super) fn fail(&mut self, index: usize, error: HvoError) {
        self.failed += 1;
        self.error.get_or_insert((index, error));
    }

    /// `Ok` where every compound is as asked.
    ///
    /// # Errors
    ///
    /// The first error.
    pub fn ok(self) -> Result<Self, HvoError> {
        match self.error {
            None => Ok(self),
            Some((_, error)) => Err(error),
        }
    }
}

/// How a compound's descriptors are backed.
///
/// ```text
///  Full ──split──▶ Split ──optimise──▶ Optimised ──restore──▶ Split
///                    ▲                    │  ▲
///                    │   restored in part │  │ optimised in part, and not undone
///                    └───── restore ──── Partial
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HvoState {
    /// All descriptors have memory of their own, behind a huge leaf of the address space.
    Full,
    /// All descriptors have memory of their own, page by page.
    Split,
    /// The first page of descriptors has memory of its own; all others are shared tails.
    Optimised,
    /// Some pages have memory of their own and others are shared tails, because the address space refused both to go on
    /// and to go back. To be used as an optimised compound.
    Partial {
        /// Pages that are the compound's own.
        own: u64,
        /// Pages that are shared.
        shared: u64,
    },
}

/// Pages that were changed and not flushed, and frames that wait for it.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) removed: Records,
    /// From the lowest page that was changed to past the highest.
    pages: Option<Range<u64>>,
    /// Uses of tails that end with the flush.
    leaving: Option<(TailKey, u64)>,
    /// Whether all tails are pinned.
    pinned: bool,
}

impl Batch {
    pub(super) fn touch(&mut self, pages: Range<u64>) {
        self.pages = Some(match self.pages.take() {
            Some(hull) => hull.start.min(pages.start)..hull.end.max(pages.end),
            None => pages,
        });
    }
}

/// The tails that the last compound used: as a rule the next one uses the same.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) key: TailKey,
    pub(super) slot: &'a TailSlot,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// The vmemmap pages of a compound.
    pub(super) fn compound_pages(&self, head: Pfn, order: Order) -> Range<u64> {
        self.pages_of(PfnRange::block(head, order))
    }

    pub(super) fn key_of<M: MemMap>(frozen: &Frozen<'_, M>) -> TailKey {
        TailKey { place: frozen.place(), order: frozen.order() }
    }

    /// Whether the block is a compound of this memory map that can be optimised.
    pub(super) fn check_compound<M: MemMap>(&self, frozen: &Frozen<'_, M>) -> Result<(), HvoError> {
        let (pfn, order, min) = (frozen.pfn(), frozen.order(), self.geometry.min_dedup_order());
        self.check_own(frozen)?;
        match () {
            () if order < min => Err(HvoError::TooSmall { order, min }),
            () if !frozen.is_compound() => Err(HvoError::NotCompound { pfn }),
            () if !self.space.replaces() => Err(HvoError::Unsupported),
            () => Ok(()),
        }
    }

    /// Whether the block's head is where this memory map has it. Two maps have all descriptors in common or none.
    pub(super) fn check_own<M: MemMap>(&self, frozen: &Frozen<'_, M>) -> Result<(), HvoError> {
        let pfn = frozen.pfn();
        // SAFETY: the frame is present, and stays so: callers hold the lock that a removal takes.
        let here = if self.has(pfn) { unsafe { self.space.descriptor(pfn) } } else { None };
        if here == Some(frozen.descriptor()) { Ok(()) } else { Err(HvoError::OtherMap { pfn }) }
    }

    /// The slot of `key`, as last time or looked up.
    pub(super) fn slot_of<'a>(
        &'a self,
        key: TailKey,
        known: &mut Option<Known<'a>>,
    ) -> Result<&'a TailSlot, VmemmapError> {
        if let Some(known) = known.filter(|known| known.key == key) {
            return Ok(known.slot);
        }
        let slots = self.env.tail_slots();
        let found = TailSlot::find(slots, key, self.space.tail_frames_order());
        let slot = found.ok_or(VmemmapError::NoTailSlot { slots: slots.len() })?;
        *known = Some(Known { key, slot });
        Ok(slot)
    }

    /// Becomes the user of tails that a number of compounds are.
    pub(super) fn join(&self, slot: &TailSlot, key: TailKey, users: u64) -> Result<TailRun, VmemmapError> {
        let run = self.join_tails(slot, key, users)?;
        self.hvo.users.fetch_add(users, Ordering::Relaxed);
        Ok(run)
    }

    /// Ends the use that compounds make of the tails of `key`, which nobody can reach any more through the pages that it was for.
    pub(super) fn leave(&self, key: TailKey, users: u64) {
        let slots = self.env.tail_slots();
        self.hvo.users.fetch_sub(users, Ordering::Relaxed);
        if let Some(slot) = TailSlot::find(slots, key, self.space.tail_frames_order()) {
            self.leave_tails(slot, users);
        }
    }

    /// Has one use of the tails of `key` end with the next flush, which is now if other tails wait for it.
    pub(super) fn leave_later(&self, batch: &mut Batch, key: TailKey) {
        if batch.leaving.is_some_and(|(other, _)| other != key) {
            self.flush_batch(batch);
        }
        batch.leaving = Some((key, 1 + batch.leaving.map_or(0, |(_, users)| users)));
    }

    /// Ends the uses of other tails than those of `key` that wait for the flush, and keeps the tails themselves until then.
    /// Nobody may become the first user of tails before the flush.
    pub(super) fn leave_others(&self, batch: &mut Batch, key: TailKey) {
        let Some((other, users)) = batch.leaving.filter(|&(other, _)| other != key) else { return };
        batch.pinned = batch.pinned || self.pin_tails().is_ok();
        if batch.pinned {
            batch.leaving = None;
            self.leave(other, users);
        }
    }

    /// One wait for readers.
    pub(super) fn wait(&self) -> Result<(), HvoError> {
        self.env.events().count(Counter::Synchronize, 1);
        let waited = mutant!(
            "hvo-no-wait",
            self.env.read_side().synchronize(),
            Ok::<(), mmkit_sync::InsideReader>(())
        );
        waited.map_err(|_| HvoError::Map(VmemmapError::InsideReader))
    }

    /// Makes everybody forget what the batch changed, and gives back what was removed: whether it could.
    ///
    /// Where addresses are translated, the flush reaches everybody. Otherwise those who look hold pointers to the memory
    /// itself, and are waited for.
    pub(super) fn flush_batch(&self, batch: &mut Batch) -> bool {
        if batch.pages.is_none() && batch.leaving.is_none() {
            return true;
        }
        let waited = self.space.translates() || self.wait().is_ok();
        if let Some(pages) = batch.pages.take() {
            mutant!("hvo-no-flush", self.space.flush(pages), ());
        }
        let (mut leaked, mut given) = (0, 0);
        while let Some(removed) = batch.removed.pop_last(self.frames()) {
            if waited {
                let mut give = |first, frames| {
                    given += frames;
                    for pfn in PfnRange::new(first, frames).into_iter().flat_map(PfnRange::iter) {
                        // SAFETY: frames of own pages are taken one by one, or as blocks that were split; they stand
                        // behind no page any more, and nobody can reach them.
                        unsafe { self.give(pfn, Order::ZERO) };
                    }
                };
                // SAFETY: `replace` handed it out for pages of this batch, which were flushed above; where pointers lead
                // past the translation, their holders have left. Nothing was discarded or put back twice: it was popped.
                unsafe { self.space.discard(removed, &mut give) };
            } else {
                leaked += removed.pages;
                let (Taken::Own { first } | Taken::Table { first, .. }) = removed.what else { continue };
                self.env.events().report(&Event::Leaked { pfn: first.get(), frames: removed.pages });
            }
        }
        self.counts.own.fetch_sub(given, Ordering::Relaxed);
        if let Some((key, users)) = batch.leaving.take()
            && waited
        {
            self.leave(key, users);
        }
        if core::mem::take(&mut batch.pinned) && waited {
            self.end_pins();
        }
        if waited {
            // SAFETY: everything that was replaced was flushed above, and pointers that lead past that are gone.
            unsafe { self.space.reclaim() };
        }
        leaked == 0 && waited
    }
}
