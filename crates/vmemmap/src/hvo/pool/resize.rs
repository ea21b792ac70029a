// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages come from the allocator, and go back there.

use mmkit_addr::{NodeId, Order};
use mmkit_frame::{Env, FrameAllocator, Request};
use mmkit_page::Frozen;
use mmkit_sync::{Event, Events};

use super::{HugePool, PoolError, PoolMap, PoolReport, claim};

impl<'m, M: PoolMap, const N: usize> HugePool<'m, M, N> {
    /// Makes `target` the number of pages that there should be, and adds pages or gives free ones back as far as that goes.
    /// Linux: writing `nr_hugepages`.
    ///
    /// Where the allocator has fewer pages, that is the number then: [`PoolReport::error`] says why. Where it should be
    /// less and pages are in use, or cannot be restored, they are the surplus, which is given back later.
    ///
    /// Calls of this wait for each other. Everything else may go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`].
    ///
    /// Cost: that of [`grow`](Self::grow) or [`shrink`](Self::shrink).
    pub fn resize(&self, node: NodeId, order: Order, target: u64) -> Result<PoolReport, PoolError> {
        let _resizing = self.resizing.lock();
        let persistent = self.counts(node, order)?.persistent();
        match target.checked_sub(persistent) {
            Some(more) if more > 0 => self.grow(node, order, more),
            _ => self.shrink(node, order, persistent - target),
        }
    }

    /// Adds `pages` pages: surplus ones first, which are not surplus any more, then such as the allocator has on this node.
    ///
    /// They are optimised in batches of 64. One that cannot be keeps all its descriptors, and counts as
    /// [`full`](PoolReport::full).
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`]. In the report: [`PoolError::Alloc`], [`PoolError::Claim`].
    ///
    /// Cost: for each page 64 bytes written for each frame, and what optimising costs.
    pub fn grow(&self, node: NodeId, order: Order, pages: u64) -> Result<PoolReport, PoolError> {
        let mut state = self.state.lock();
        let class = state.find(node, order)?;
        let kept = state.classes[class].surplus.min(pages);
        state.classes[class].surplus -= kept;
        drop(state);
        let mut report = PoolReport { done: kept, ..PoolReport::default() };
        while report.done < pages && report.error.is_none() {
            let mut batch = [const { None }; 64];
            let count = (pages - report.done).min(Self::BATCH as u64) as usize;
            let built = self.build(node, order, &mut batch[..count]);
            report.full += built.full;
            report.why_full = report.why_full.or(built.why_full);
            report.error = built.error;
            report.done += built.done;
            for frozen in batch.into_iter().flatten() {
                self.state.lock().classes[class].keep(frozen);
            }
        }
        report.counts = self.state.lock().classes[class].counts();
        Ok(report)
    }

    /// Gives `pages` pages back, or all that were asked for if they are fewer. Those that are in use, and those that cannot be
    /// restored, become surplus.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`]. In the report: [`PoolError::Hvo`].
    ///
    /// Cost: for each page what [restoring](crate::Vmemmap::free_batch) costs, and 64 bytes written for each frame.
    pub fn shrink(&self, node: NodeId, order: Order, pages: u64) -> Result<PoolReport, PoolError> {
        let mut state = self.state.lock();
        let class = state.find(node, order)?;
        let persistent = state.classes[class].counts().persistent();
        state.classes[class].surplus += pages.min(persistent);
        drop(state);
        Ok(self.trim(class))
    }

    /// Gives free pages back as long as there is a surplus: after there was no memory to restore them, and now may be.
    ///
    /// # Errors
    ///
    /// As [`shrink`](Self::shrink).
    pub fn retry(&self, node: NodeId, order: Order) -> Result<PoolReport, PoolError> {
        let class = self.state.lock().find(node, order)?;
        Ok(self.trim(class))
    }

    /// Gives free pages back as long as there is a surplus.
    pub(super) fn trim(&self, class: usize) -> PoolReport {
        let mut report = PoolReport::default();
        while report.error.is_none() {
            let mut batch = [const { None }; 64];
            let mut state = self.state.lock();
            let count = state.classes[class].surplus.min(Self::BATCH as u64) as usize;
            let count = batch[..count].iter_mut().map_while(|entry| {
                *entry = Some(self.pop(&mut state, class)?);
                Some(())
            });
            let count = count.count();
            state.classes[class].surplus -= count as u64;
            state.classes[class].leaving += count as u64;
            drop(state);
            if count == 0 {
                break;
            }
            let batch = &mut batch[..count];
            let round = self.vmemmap.free_batch(batch, |frozen| self.give_back(frozen));
            report.error = round.error.map(|(_, error)| PoolError::Hvo(error));
            let mut state = self.state.lock();
            state.classes[class].leaving -= count as u64;
            report.done += count as u64;
            for frozen in batch.iter_mut().filter_map(Option::take) {
                report.done -= 1;
                state.classes[class].surplus += 1;
                state.classes[class].keep(frozen);
            }
        }
        report.counts = self.state.lock().classes[class].counts();
        report
    }

    /// Fills `batch` with new pages, as far as there are any.
    pub(super) fn build(
        &self,
        node: NodeId,
        order: Order,
        batch: &mut [Option<Frozen<'m, M>>],
    ) -> PoolReport {
        let mut report = PoolReport::default();
        for entry in &mut *batch {
            match self.take_block(node, order) {
                Ok(frozen) => *entry = Some(frozen),
                Err(error) => {
                    report.error = Some(error);
                    break;
                }
            }
            report.done += 1;
        }
        let optimised = self.vmemmap.optimise_all(&mut batch[..report.done as usize]);
        report.full = batch.iter().flatten().filter(|page| !page.has_shared_tails()).count() as u64;
        report.why_full = optimised.error.map(|(_, error)| error);
        report
    }

    /// A compound out of a block of the allocator.
    fn take_block(&self, node: NodeId, order: Order) -> Result<Frozen<'m, M>, PoolError> {
        let allocator = self.allocator();
        let pfn = allocator.allocate(Request::new(order).on_node(node).strict())?;
        let claiming = self.claiming.lock();
        let claimed = claim::claim(self.map, pfn, order);
        drop(claiming);
        match claimed {
            Ok(free) => {
                let frozen = free.allocate();
                // Populated as a compound, it is one already.
                Ok(frozen.prep().unwrap_or_else(|refused| refused.handle))
            }
            Err(error) => {
                // SAFETY: handed out just above at this order, and nobody has used it.
                unsafe { allocator.deallocate(pfn, order) };
                Err(error.into())
            }
        }
    }

    /// Gives a page without bad frames back to the allocator, or to the reserve that paid for it. It is restored.
    pub(super) fn give_back(&self, frozen: Frozen<'_, M>) {
        let (pfn, order, node) = (frozen.pfn(), frozen.order(), frozen.place().node);
        match frozen.unprep().and_then(Frozen::into_free) {
            Ok(free) => {
                drop(free);
                // SAFETY: the pages of a pool come from this allocator, at their order, and this one has left the pool. It
                // was frozen: whoever uses its memory does so without a reference.
                unsafe { self.vmemmap.free_block(node, pfn, order) };
            }
            // What is not restored after all cannot be used as anything else, nor what has a bad frame after all.
            Err(_) => self.leak(pfn.get(), order.frames()),
        }
    }

    pub(super) fn allocator(&self) -> &'m <M::Env as Env>::Allocator {
        self.vmemmap.frames().allocator()
    }

    fn leak(&self, pfn: u64, frames: u64) {
        self.vmemmap.env.events().report(&Event::Leaked { pfn, frames });
    }
}

impl<M: PoolMap, const N: usize> Drop for HugePool<'_, M, N> {
    fn drop(&mut self) {
        for class in 0..N {
            let mut state = self.state.lock();
            state.classes[class].surplus = state.classes[class].counts().total();
            drop(state);
            let _ = self.trim(class);
            let mut state = self.state.lock();
            while let Some(frozen) = self.pop(&mut state, class) {
                self.leak(frozen.pfn().get(), frozen.order().frames());
            }
            // SAFETY: all pages of the pool are of its map; the lock is held.
            while let Some(frozen) = unsafe { state.classes[class].poisoned.pop(self.map) } {
                self.leak(frozen.pfn().get(), frozen.order().frames());
            }
        }
    }
}
