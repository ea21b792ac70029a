// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking out one page: because its memory goes offline, or because a frame of it is bad.

use mmkit_addr::{Pfn, PfnRange};
use mmkit_frame::FrameAllocator;
use mmkit_page::{Frozen, PageFlags};

use super::{HugePool, PoolError, PoolMap, Taken};
use crate::{Failure, HvoError};

/// Bad frames that are set apart in one page.
const MAX_BAD: usize = 16;

impl<'m, M: PoolMap, const N: usize> HugePool<'m, M, N> {
    /// Gives the one page back that `pfn` lies in, which is not in use: before its memory goes offline. A surplus shrinks
    /// with it. Linux: `dissolve_free_hugetlb_folio`.
    ///
    /// Of a page with bad frames, the largest blocks without any go back to the allocator. Each bad frame is kept: its descriptor has
    /// the flag [`HWPOISON`](PageFlags::HWPOISON), nobody can claim it, and it counts in [`bad_frames`](Self::bad_frames).
    ///
    /// # Errors
    ///
    /// [`PoolError::NotHere`]. [`PoolError::Hvo`] where its descriptors cannot be restored, or nobody knows which of its
    /// frames are bad ([`HvoError::Unreliable`]); [`PoolError::TooManyBad`], above 16. The page is where it was.
    ///
    /// Cost: a look at each page that is not in use; then that of restoring one, and of a page with bad frames a look at each frame.
    pub fn dissolve(&self, pfn: Pfn) -> Result<(), PoolError> {
        let (taken, surplus) = self.take_out(pfn)?;
        let Taken { frozen, class, poisoned } = taken;
        let head = frozen.pfn();
        let back = |frozen, error| {
            self.put_in(Taken { frozen, class, poisoned }, surplus);
            Err(error)
        };
        if poisoned && self.vmemmap.is_unreliable(&frozen) {
            return back(frozen, HvoError::Unreliable { pfn: head }.into());
        }
        let mut one = [Some(frozen)];
        let mut kept = None;
        let report = self.vmemmap.free_batch(&mut one, |frozen| match poisoned {
            true => kept = self.give_back_healthy(frozen).err(),
            false => self.give_back(frozen),
        });
        let [left] = one;
        match (left, report.error, kept) {
            (Some(frozen), Some((_, error)), _) => back(frozen, error.into()),
            (_, _, Some(frozen)) => back(frozen, PoolError::TooManyBad { pfn: head, max: MAX_BAD }),
            _ => {
                self.state.lock().classes[class].leaving -= 1;
                Ok(())
            }
        }
    }

    /// Notes that frame `pfn` of a page that is not in use is bad. The page is not handed out any more, nor given back, until
    /// it is [dissolved](Self::dissolve). (Of a page in use it is noted by
    /// [`Vmemmap::report_failure`](crate::Vmemmap::report_failure), and the same holds once it comes back.)
    ///
    /// # Errors
    ///
    /// [`PoolError::NotHere`], [`PoolError::Hvo`].
    ///
    /// Cost: a look at each page that is not in use, and at each failure slot.
    pub fn report_failure(&self, pfn: Pfn) -> Result<Failure, PoolError> {
        let (mut taken, surplus) = self.take_out(pfn)?;
        let result = self.vmemmap.report_failure_of_frozen(&mut taken.frozen, pfn);
        taken.poisoned |= result.is_ok();
        self.put_in(taken, surplus);
        Ok(result?)
    }

    /// Takes the page off its list that frame `pfn` lies in, and out of the counts. Whether a surplus shrank with it.
    fn take_out(&self, pfn: Pfn) -> Result<(Taken<'m, M>, bool), PoolError> {
        let mut state = self.state.lock();
        for (class, found) in state.classes.iter_mut().enumerate() {
            let wanted = |block: PfnRange| block.contains(pfn);
            // SAFETY: all pages of the pool are of its map; the lock is held.
            let free = unsafe { found.free.take(self.map, wanted) };
            let poisoned = free.is_none();
            let frozen = match free {
                Some(free) => Some(free.allocate()),
                // SAFETY: as above.
                None => unsafe { found.poisoned.take(self.map, wanted) },
            };
            let Some(frozen) = frozen else { continue };
            let surplus = found.surplus > 0;
            found.surplus -= u64::from(surplus);
            found.leaving += 1;
            return Ok((Taken { frozen, class, poisoned }, surplus));
        }
        Err(PoolError::NotHere { pfn })
    }

    /// Undoes [`take_out`](Self::take_out).
    fn put_in(&self, taken: Taken<'m, M>, surplus: bool) {
        let mut state = self.state.lock();
        let class = &mut state.classes[taken.class];
        class.keep(taken.frozen);
        class.surplus += u64::from(surplus);
        class.leaving -= 1;
    }

    /// Gives everything back of a page, which is restored, but its bad frames.
    fn give_back_healthy(&self, frozen: Frozen<'m, M>) -> Result<(), Frozen<'m, M>> {
        let block = PfnRange::block(frozen.pfn(), frozen.order());
        let reader = self.map.enter();
        let marked =
            |&pfn: &Pfn| reader.page(pfn).is_some_and(|page| page.flags().contains(PageFlags::HWPOISON));
        let bad = block.iter().filter(marked).count();
        drop(reader);
        if bad > MAX_BAD {
            return Err(frozen);
        }
        let frozen = frozen.unprep().map_err(|refused| refused.handle)?;
        // Their own descriptors have the marks: they need no record any more.
        let lock = self.vmemmap.locked();
        self.vmemmap.forget_failures(block);
        drop(lock);
        self.give_parts(frozen);
        Ok(())
    }

    fn give_parts(&self, frozen: Frozen<'m, M>) {
        let (pfn, order) = (frozen.pfn(), frozen.order());
        let bad = match frozen.into_free() {
            Ok(free) => {
                drop(free);
                // SAFETY: a block that the pool took at this order or had split to it, which has left the pool; nobody has a
                // reference to it.
                return unsafe { self.allocator().deallocate(pfn, order) };
            }
            Err(refused) => refused.handle,
        };
        match (order.checked_sub(1), bad.split()) {
            (Some(half), Ok((low, high))) => {
                // SAFETY: the block is the pool's at `order`.
                unsafe { self.allocator().split(pfn, order, half) };
                self.give_parts(low);
                self.give_parts(high);
            }
            // A frozen block whose handle is dropped is nobody's for ever.
            _ => self.state.lock().bad += order.frames(),
        }
    }
}
