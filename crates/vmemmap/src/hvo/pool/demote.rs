// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making many small pages out of a large one.

use mmkit_addr::{NodeId, Order};
use mmkit_frame::FrameAllocator;

use super::{HugePool, PoolError, PoolMap, PoolReport};
use crate::HvoError;

impl<M: PoolMap, const N: usize> HugePool<'_, M, N> {
    /// Makes pages of order `to` out of up to `pages` free pages of order `from`: as many of these fewer, so many of those
    /// more. The new pages are optimised if the old ones were. Linux: writing `demote`.
    ///
    /// Counts and done pages of the report are those of `to`.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`], [`PoolError::Hvo`] with [`HvoError::BadOrder`] where `to` is not below `from`. In the report:
    /// [`PoolError::Empty`] where fewer pages were free that are not surplus, [`PoolError::Hvo`] where one could not be restored; it
    /// stays.
    ///
    /// Cost: see [`Vmemmap::demote`](crate::Vmemmap::demote).
    pub fn demote(&self, node: NodeId, from: Order, to: Order, pages: u64) -> Result<PoolReport, PoolError> {
        if to >= from {
            return Err(HvoError::BadOrder { from, to }.into());
        }
        let state = self.state.lock();
        let (source, target) = (state.find(node, from)?, state.find(node, to)?);
        drop(state);
        let mut report = PoolReport::default();
        for _ in 0..pages {
            let mut state = self.state.lock();
            let persistent = state.classes[source].counts().persistent() > 0;
            let Some(frozen) = Some(()).filter(|()| persistent).and_then(|()| self.pop(&mut state, source))
            else {
                report.error = Some(PoolError::Empty { node, order: from });
                break;
            };
            state.classes[source].leaving += 1;
            drop(state);
            let whole = frozen.pfn();
            let mut split = false;
            let result = self.vmemmap.demote(frozen, to, |small| {
                if !split {
                    // SAFETY: the page is the pool's at order `from`; it is in parts now, and not one of them was given out.
                    unsafe { self.allocator().split(whole, from, to) };
                    split = true;
                }
                report.done += 1;
                report.full += u64::from(!small.has_shared_tails());
                self.state.lock().classes[target].keep(small);
            });
            let mut state = self.state.lock();
            state.classes[source].leaving -= 1;
            match result {
                Ok(parts) => {
                    report.why_full = report.why_full.or(parts.error.map(|(_, error)| error));
                }
                Err((frozen, error)) => {
                    state.classes[source].keep(frozen);
                    report.error = Some(error.into());
                    break;
                }
            }
        }
        report.counts = self.state.lock().classes[target].counts();
        Ok(report)
    }
}
