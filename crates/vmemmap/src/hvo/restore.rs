// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restoring: all pages of descriptors get memory of their own again.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{Pfn, PfnRange};
use mmkit_page::{Frozen, MemMap, Template};
use mmkit_sync::{RawLock, ReadSide};

use super::batch::Batch;
use super::optimise::{Holds, indexed};
use super::records::Records;
use super::{HvoError, HvoReport};
use crate::tails::TailKey;
use crate::vmemmap::Locked;
use crate::{Backing, Behind, Exchange, MapError, Removed, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Restores one compound: a [batch](Self::restore_batch) of one.
    ///
    /// # Errors
    ///
    /// [`HvoError`]. The compound is as before, but for [`HvoError::Partial`].
    pub fn restore<M: MemMap>(&self, folio: &mut Frozen<'_, M>) -> Result<(), HvoError> {
        self.restore_batch(core::slice::from_mut(folio)).ok().map(drop)
    }

    /// Gives compounds that nobody refers to all their descriptors back, up to the first that cannot have them. Linux:
    /// `hugetlb_vmemmap_restore_folios`.
    ///
    /// A compound that is not optimised is left alone, at no cost, but for one that has a bad frame nobody knows. Frames come from the allocator, or else from the
    /// [reserve](Self::set_reserve) of the compound's node and order; where neither has enough, the compound stays
    /// optimised, and may be tried again when there is memory. Bad frames that were [reported](Self::report_failure) are
    /// marked in their own descriptors now.
    ///
    /// Compounds in sections that were populated with shared tails can be restored too, where all of the compound is there.
    ///
    /// It takes the memory map's locks, and must not be called inside a reader.
    ///
    /// Cost: for each compound of `v` pages `v - 1` frames taken and written and `v - 1` entries written (one for each
    /// last-level table that was shared whole); one flush for the batch, and where the address space does not
    /// [translate](VmemmapSpace::translates) one wait for readers.
    pub fn restore_batch<M: MemMap>(&self, folios: &mut [Frozen<'_, M>]) -> HvoReport {
        let (mut report, mut batch) = (HvoReport::default(), Batch::default());
        if !self.may_restore() {
            refuse_to_restore(folios, &mut report);
            return report;
        }
        let _restoring = self.restoring();
        let _lock = self.locked();
        let mut refs = folios.iter_mut().map(Some);
        let done = self.restore_some(&mut refs, &mut batch, &mut report);
        let rest = refs.count();
        report.failed += rest;
        self.finish(&mut folios[..done], &mut batch);
        self.refill_all();
        report
    }

    /// Restores compounds and hands them out, each as soon as it can be: for a pool that gives its pages back.
    ///
    /// With a [reserve](Self::set_reserve) for their node and order it does not fail for want of memory, however little
    /// the allocator has: what `free` gives back to the allocator, a whole compound, pays for the next ones. The first one
    /// that is freed refills the reserve: by way of the allocator, where others may take all of it in the moment between, so that
    /// the next compound stays and is reported; or with [`free_block`](Self::free_block), which leaves no such moment.
    ///
    /// Entries of `folios` that could not be restored stay; those that could are taken, and given to `free`. `free` is
    /// called without the memory map's lock; it may claim, populate and optimise, but not restore.
    ///
    /// Cost: as [`restore_batch`](Self::restore_batch) for each time that memory runs out.
    pub fn free_batch<'m, M: MemMap>(
        &self,
        folios: &mut [Option<Frozen<'m, M>>],
        mut free: impl FnMut(Frozen<'m, M>),
    ) -> HvoReport {
        let mut report = HvoReport::default();
        if !self.may_restore() {
            refuse_to_restore(folios, &mut report);
            return report;
        }
        let _restoring = self.restoring();
        let mut start = 0;
        while start < folios.len() {
            let lock = self.locked();
            let (mut round, mut batch) = (HvoReport::default(), Batch::default());
            let mut refs = folios[start..].iter_mut().map(Option::as_mut);
            let end = start + self.restore_some(&mut refs, &mut batch, &mut round);
            self.finish(&mut folios[start..end], &mut batch);
            drop(lock);
            report.done += round.done;
            report.already += round.already;
            for folio in folios[start..end].iter_mut().filter_map(Option::take) {
                free(folio);
                if self.lacks_reserve() {
                    let _lock = self.locked();
                    self.refill_all();
                }
            }
            match round.error {
                // What was freed meanwhile may be enough.
                Some((_, error)) if error.is_no_memory() && end > start => start = end,
                Some((_, error)) if error.is_no_memory() => {
                    let rest = folios[end..].iter().flatten().count();
                    report.fail(end, error);
                    report.failed += rest - 1;
                    break;
                }
                Some((_, error)) => {
                    report.fail(end, error);
                    start = end + 1;
                }
                None => break,
            }
        }
        self.trim_reserves();
        report
    }

    fn restoring(&self) -> Locked<'_, E::Lock> {
        self.hvo.restoring.lock();
        Locked::new(&self.hvo.restoring)
    }

    /// Restores up to the first failure, without a flush. How many entries it passed.
    fn restore_some<'f, 'm: 'f, M: MemMap + 'm>(
        &self,
        folios: &mut dyn Iterator<Item = Option<&'f mut Frozen<'m, M>>>,
        batch: &mut Batch,
        report: &mut HvoReport,
    ) -> usize {
        let mut done = 0;
        for folio in folios {
            match folio {
                Some(folio) if folio.has_shared_tails() => {
                    if let Err(error) = self.restore_one(folio, batch) {
                        report.fail(done, error);
                        break;
                    }
                    report.done += 1;
                }
                Some(folio) if self.is_unreliable(folio) => {
                    report.fail(done, HvoError::Unreliable { pfn: folio.pfn() });
                    break;
                }
                Some(_) => report.already += 1,
                None => {}
            }
            done += 1;
        }
        done
    }

    /// Whether readers can be waited for, where that is needed: they may hold what is given back at the end. Asked before a
    /// lock is taken: who waits for this reader may have it.
    fn may_restore(&self) -> bool {
        self.space.translates() || self.env.read_side().may_wait()
    }

    /// Ends what [`restore_some`](Self::restore_some) began for these compounds, with the flush.
    fn finish<'m, M: MemMap + 'm>(&self, folios: &mut [impl Holds<'m, M>], batch: &mut Batch) {
        for (_, folio) in indexed(folios).filter(|(_, folio)| folio.has_shared_tails()) {
            // SAFETY: every page of the compound's descriptors has a frame of its own again, mapped for writing. Nobody
            // writes through a stale translation: marks are moved after the flush, and the owner gets the compound back then.
            unsafe { folio.set_shared_tails(false) };
            let key = Self::key_of(folio);
            self.leave_others(batch, key);
            self.leave_later(batch, key);
        }
        self.flush_batch(batch);
        if self.hvo.bad.load(Ordering::Relaxed) > 0 {
            indexed(folios).for_each(|(_, folio)| self.settle(folio));
        }
    }

    fn restore_one<M: MemMap>(&self, folio: &mut Frozen<'_, M>, batch: &mut Batch) -> Result<(), HvoError> {
        let (pfn, key) = (folio.pfn(), Self::key_of(folio));
        self.check_compound(folio)?;
        if self.is_unreliable(folio) {
            return Err(HvoError::Unreliable { pfn });
        }
        let populated = self.shared_order(pfn) == Some(key.order);
        if populated {
            self.check_present(PfnRange::block(pfn, key.order))?;
            self.adopt(pfn, key)?;
        }
        let pages = self.compound_pages(pfn, key.order);
        let all = pages.start + 1..pages.end;
        let partial = self.hvo.partial.load(Ordering::Relaxed) > 0 && self.any_own(&all);
        let wanted = if partial {
            self.tails_in(&all).map(|run| run.end - run.start).sum()
        } else {
            all.end - all.start
        };
        let result = self.gather(wanted, key).map_err(|error| (error, 0)).and_then(|frames| {
            let mut fill = Fill { map: self, frames, asked: 0, done: 0, key };
            let mut replace = |run: Range<u64>| {
                fill.asked = run.end - run.start;
                batch.touch(run.clone());
                // SAFETY: the frames were taken for this compound, and are filled with the same tails that stand there
                // now. Nobody writes the pages: the compound is frozen.
                unsafe { self.space.replace(run, key.place.node, &mut fill) }
            };
            let mut result: Result<(), MapError> = Ok(());
            if partial {
                for run in self.tails_in(&all) {
                    result = result.and_then(|()| replace(run));
                }
            } else {
                result = replace(all.clone());
            }
            let done = fill.done;
            self.give_rest(fill.frames);
            self.counts.own.fetch_add(done, Ordering::Relaxed);
            result.map_err(|error| (error.into(), done))
        });
        match result {
            Ok(()) => {
                if partial {
                    self.hvo.partial.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(())
            }
            Err((error, 0)) => {
                if populated {
                    self.disown(pfn, key);
                }
                Err(HvoError::Map(error))
            }
            Err((error, _)) => {
                if !partial {
                    self.hvo.partial.fetch_add(1, Ordering::Relaxed);
                }
                Err(HvoError::Partial { pfn, error })
            }
        }
    }

    /// Whether one of the pages is own memory.
    pub(super) fn any_own(&self, pages: &Range<u64>) -> bool {
        pages.clone().any(|page| matches!(self.space.behind(page), Behind::Own(_)))
    }

    /// The pages of `pages` that are tails, in runs.
    pub(super) fn tails_in(&self, pages: &Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let (mut at, end) = (pages.start, pages.end);
        let is_own = |page| matches!(self.space.behind(page), Behind::Own(_));
        core::iter::from_fn(move || {
            while at < end && is_own(at) {
                at += 1;
            }
            let start = at;
            while at < end && !is_own(at) {
                at += 1;
            }
            (start < at).then_some(start..at)
        })
    }

    /// Makes a compound of a section that was populated with shared tails a user of the tails by itself, and so the others
    /// that lie in one subsection with it; the subsections are not marked any more.
    fn adopt(&self, pfn: Pfn, key: TailKey) -> Result<(), VmemmapError> {
        let block = self.subsections_around(pfn, key);
        let slots = self.env.tail_slots();
        let slot = crate::TailSlot::find(slots, key, self.space.tail_frames_order());
        let slot = slot.ok_or(VmemmapError::NoTailSlot { slots: slots.len() })?;
        self.join(slot, key, block.frames() / key.order.frames())?;
        for (number, part) in self.shape.parts(block) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            section.shared().clear(part);
            if section.shared().is_empty() {
                section.set_tails(None);
                self.leave_tails(slot, 1);
            }
        }
        Ok(())
    }

    /// Undoes [`adopt`](Self::adopt).
    fn disown(&self, pfn: Pfn, key: TailKey) {
        let block = self.subsections_around(pfn, key);
        let slots = self.env.tail_slots();
        let Some(slot) = crate::TailSlot::find(slots, key, self.space.tail_frames_order()) else { return };
        for (number, part) in self.shape.parts(block) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            if section.tails().is_none() {
                // The compounds are users still, so there are tails, and there was room for this user a moment ago.
                let _ = slot.join(1);
                section.set_tails(Some(key));
            }
            section.shared().set(part);
        }
        self.leave(key, block.frames() / key.order.frames());
    }

    fn subsections_around(&self, pfn: Pfn, key: TailKey) -> PfnRange {
        PfnRange::block(pfn, key.order.max(self.geometry.subsection_order()))
    }
}

/// Fails all compounds that are optimised.
fn refuse_to_restore<'m, M: MemMap + 'm>(folios: &mut [impl Holds<'m, M>], report: &mut HvoReport) {
    for (index, folio) in indexed(folios) {
        match folio.has_shared_tails() {
            true => report.fail(index, HvoError::Map(VmemmapError::InsideReader)),
            false => report.already += 1,
        }
    }
}

/// One compound's exchange: frames filled with tails, for the shared ones.
struct Fill<'a, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'a Vmemmap<S, E>,
    frames: Records,
    /// Pages of the run that have been given nothing yet.
    asked: u64,
    done: u64,
    key: TailKey,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Exchange for Fill<'_, S, E> {
    fn next(&mut self) -> (u64, Backing) {
        let frames = self.map.frames();
        let Some((first, count)) = self.frames.pop_run(frames, self.asked) else {
            unreachable!("as many frames were taken as pages are replaced")
        };
        self.asked -= count;
        let tail = Template::tail(self.key.order, self.key.place);
        for pfn in PfnRange::new(first, count).into_iter().flat_map(PfnRange::iter) {
            let Some(to) = frames.frame(pfn) else { continue };
            // SAFETY: the frame was taken for this compound and is reachable; nobody else has it.
            unsafe { tail.fill(to, self.map.geometry.descriptors_per_page() as usize) };
        }
        (count, Backing::Own { first })
    }

    fn removed(&mut self, removed: Removed) {
        self.done += removed.pages;
    }

    fn unused(&mut self, first: Pfn, frames: u64) {
        self.frames.push_run(self.map.frames(), first, frames);
    }
}
