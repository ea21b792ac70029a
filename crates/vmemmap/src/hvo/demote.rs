// SPDX-License-Identifier: MIT OR Apache-2.0
//! Splitting a huge page into smaller ones.

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Free, Frozen, MemMap, Place};

use super::{HvoError, HvoReport};
use crate::{Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// Compounds that are optimised in one batch.
const BATCH: usize = 64;

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Splits a compound that nobody refers to into compounds of order `to`, optimised if the source was, and hands them to
    /// `out` from the lowest up. Linux: `demote_free_hugetlb_folios`.
    ///
    /// Everything that it needs is taken first: the descriptors that the source shares are [restored](Self::restore), which
    /// may fail, and then nothing has changed. From there on nothing fails: a small compound that cannot be optimised
    /// is handed out with all its descriptors, and counted in the report.
    ///
    /// # Errors
    ///
    /// The compound, with [`HvoError::BadOrder`] where `to` is 0 or not below its order, [`HvoError::Poisoned`] where it
    /// has a bad frame, or the error of the restore.
    ///
    /// Cost: that of the restore; 64 bytes written for each frame twice; then batches of 64 to optimise.
    pub fn demote<'m, M: MemMap>(
        &self,
        mut frozen: Frozen<'m, M>,
        to: Order,
        mut out: impl FnMut(Frozen<'m, M>),
    ) -> Result<HvoReport, (Frozen<'m, M>, HvoError)> {
        let (pfn, from) = (frozen.pfn(), frozen.order());
        if to == Order::ZERO || to >= from {
            return Err((frozen, HvoError::BadOrder { from, to }));
        }
        let lock = self.locked();
        let refused = match self.check_own(&frozen) {
            Ok(()) if self.is_poisoned(&frozen) => Err(HvoError::Poisoned { pfn }),
            checked => checked,
        };
        drop(lock);
        if let Err(error) = refused {
            return Err((frozen, error));
        }
        let optimise = frozen.has_shared_tails();
        if optimise && let Err(error) = self.restore(&mut frozen) {
            return Err((frozen, error));
        }
        let block = match frozen.unprep() {
            Ok(block) => match block.into_free() {
                Ok(free) => free,
                Err(refused) => {
                    let whole = refused.handle.prep().unwrap_or_else(|refused| refused.handle);
                    return Err((whole, HvoError::Poisoned { pfn }));
                }
            },
            Err(refused) => return Err((refused.handle, HvoError::NotCompound { pfn })),
        };
        let mut targets = Targets {
            map: self,
            optimise,
            held: [const { None }; BATCH],
            count: 0,
            report: HvoReport::default(),
        };
        split(block, to, &mut |free| targets.add(free, &mut out));
        targets.flush(&mut out);
        Ok(targets.report)
    }

    /// Populates gigantic compounds at boot, before there is an allocator that could have given them out: each with one page
    /// of descriptors, where it lies in one zone. One that straddles zones is not optimised: its frames become single
    /// ones, each of its own zone. Linux: `hugetlb_vmemmap_init_early`.
    ///
    /// `zones` says in which place the frames are; it covers `range`. How many of the compounds were populated optimised is
    /// returned.
    ///
    /// # Errors
    ///
    /// Those of [`populate`](Self::populate), at the first part that could not be; what was populated before stays, and the
    /// first frame that was not is returned. [`VmemmapError::Absent`] where no zone has a frame of the range.
    pub fn populate_gigantic(
        &self,
        range: PfnRange,
        order: Order,
        zones: &[(PfnRange, Place)],
    ) -> Result<u64, (Pfn, VmemmapError)> {
        let mut optimised = 0;
        let mut next = range.start();
        while next.get() < range.end() {
            let at = |error| (next, error);
            let Some((zone, place)) = zones.iter().find(|(zone, _)| zone.contains(next)) else {
                return Err(at(VmemmapError::Absent { pfn: next }));
            };
            let compound = PfnRange::block(next, order);
            let whole =
                next.is_aligned(order) && compound.end() <= zone.end() && compound.end() <= range.end();
            if whole && self.is_optimising() {
                self.populate(compound, order, *place).map_err(at)?;
                optimised += 1;
                next = Pfn::new(compound.end()).unwrap_or(Pfn::MAX);
            } else {
                let end = compound.end().min(zone.end()).min(range.end());
                let part = PfnRange::new(next, end - next.get()).ok_or(at(VmemmapError::Empty))?;
                self.populate(part, Order::ZERO, *place).map_err(at)?;
                next = Pfn::new(end).unwrap_or(Pfn::MAX);
            }
        }
        Ok(optimised)
    }
}

/// Halves a block until its parts have order `to`, lowest first.
fn split<'m, M: MemMap>(free: Free<'m, M>, to: Order, each: &mut dyn FnMut(Free<'m, M>)) {
    if free.order() <= to {
        return each(free);
    }
    match free.split() {
        Ok((low, high)) => {
            split(low, to, each);
            split(high, to, each);
        }
        // It is no compound, larger than a frame, and all there.
        Err(refused) => each(refused.handle),
    }
}

/// Small compounds that wait to be optimised together.
struct Targets<'a, 'm, S: VmemmapSpace, E: VmemmapEnv, M: MemMap> {
    map: &'a Vmemmap<S, E>,
    optimise: bool,
    held: [Option<Frozen<'m, M>>; BATCH],
    count: usize,
    report: HvoReport,
}

impl<'m, S: VmemmapSpace, E: VmemmapEnv, M: MemMap> Targets<'_, 'm, S, E, M> {
    fn add(&mut self, free: Free<'m, M>, out: &mut dyn FnMut(Frozen<'m, M>)) {
        let frozen = free.allocate().prep().unwrap_or_else(|refused| refused.handle);
        if self.count == BATCH {
            self.flush(out);
        }
        self.held[self.count] = Some(frozen);
        self.count += 1;
    }

    fn flush(&mut self, out: &mut dyn FnMut(Frozen<'m, M>)) {
        let held = &mut self.held[..self.count];
        if self.optimise {
            let report = self.map.optimise_all(held);
            self.report.done += report.done;
            self.report.failed += report.failed;
            self.report.error = self.report.error.or(report.error);
        } else {
            self.report.done += held.len();
        }
        held.iter_mut().filter_map(Option::take).for_each(out);
        self.count = 0;
    }
}
