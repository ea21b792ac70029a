// SPDX-License-Identifier: MIT OR Apache-2.0
//! Intervals come and go.

use alloc::boxed::Box;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::ControlFlow;
use core::ptr::NonNull;

use mmkit_addr::PfnRange;
use mmkit_sync::atomic::{Ordering, fence};
use mmkit_sync::{RawLock, ReadSide, Shard, mutant};

use super::table::Table;
use super::{Pagemap, Registry};
use crate::heap::boxed;
use crate::{DevmapError, PagemapIndex, PagemapInfo};

/// The intervals of one pagemap in a registry. There is one of these for each pagemap; dropping it leaves them there,
/// whatever they are, until the registry goes.
#[must_use = "the intervals stay reserved"]
pub(crate) struct Reserved<'r, R, L> {
    registry: &'r Registry<R, L>,
    pagemap: NonNull<Pagemap>,
}

// SAFETY: a shared pagemap and a shared registry.
unsafe impl<R: Sync, L: Sync> Send for Reserved<'_, R, L> {}
// SAFETY: as above.
unsafe impl<R: Sync, L: Sync> Sync for Reserved<'_, R, L> {}

/// What a reservation takes, before anything has changed.
struct Prepared {
    index: PagemapIndex,
    pagemap: Box<MaybeUninit<Pagemap>>,
    counters: Box<[Shard]>,
    /// The table that is to be next.
    next: Box<Table>,
}

/// What was to be reserved, and why it was not. It is kept where somebody may still look at it.
type Refused = (Option<Box<PagemapInfo>>, DevmapError);

impl<R: ReadSide, L: RawLock> Registry<R, L> {
    /// Reserves the intervals of `info`, all or none. Nobody finds them yet.
    pub(crate) fn reserve(&self, info: Box<PagemapInfo>) -> Result<Reserved<'_, R, L>, Refused> {
        if !self.read_side.may_wait() {
            return Err((Some(info), DevmapError::InsideReader));
        }
        // The mutant looks before it takes the lock.
        let seen: Option<Result<(), _>> =
            mutant!("registry-reserve-look-first", None, Some(self.look(&info)));
        let mut spare = self.spare.lock();
        let looked = match seen {
            Some(seen) => seen,
            None => self.check(&info),
        };
        let prepared = looked.and_then(|()| self.prepare(&info, &mut spare));
        let Prepared { index, mut pagemap, counters, mut next } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((Some(info), error)),
        };
        pagemap.write(Pagemap::new(info, index, counters));
        // SAFETY: just written.
        let pagemap = NonNull::from(Box::leak(unsafe { pagemap.assume_init() }));
        let reserved = Reserved { registry: self, pagemap };
        next.rebuild(self.table(), Some((reserved.pagemap().ranges(), index, pagemap)), None);
        match self.publish(next, &mut spare) {
            Ok(()) => Ok(reserved),
            // It is never freed: somebody may still look at it, who cannot be waited for.
            Err(error) => Err((None, error)),
        }
    }

    /// The mutant's look.
    #[cfg(mmkit_loom)]
    fn look(&self, info: &PagemapInfo) -> Result<(), DevmapError> {
        let _spare = self.spare.lock();
        self.check(info)
    }

    /// Whether no interval overlaps, under the lock.
    fn check(&self, info: &PagemapInfo) -> Result<(), DevmapError> {
        info.ranges().iter().try_for_each(|&range| match self.table().overlap(range) {
            Some(with) => Err(DevmapError::Overlap { range, with }),
            None => Ok(()),
        })
    }

    /// Everything that can fail. The spare table may have grown.
    fn prepare(&self, info: &PagemapInfo, spare: &mut Option<Box<Table>>) -> Result<Prepared, DevmapError> {
        let table = self.table();
        let slot = table.free_slot().unwrap_or(table.room());
        let index = PagemapIndex::of_slot(slot).ok_or(DevmapError::TooMany)?;
        let counters = Pagemap::counters(self.processors)?;
        let pagemap = boxed(MaybeUninit::uninit())?;
        let needed = table.len() + info.ranges().len();
        let next = match spare.take() {
            Some(next) if next.room() >= needed && table.room() >= needed => next,
            old => {
                let room = needed.max(table.room()).next_power_of_two();
                let tables = Table::new(room).and_then(|one| Ok((one, Table::new(room)?)));
                *spare = old;
                let (one, two) = tables?;
                *spare = Some(two);
                one
            }
        };
        Ok(Prepared { index, pagemap, counters, next })
    }

    /// Replaces the table by `next`, under the lock, and waits for the readers of the old one. That becomes the spare one if
    /// there is none.
    ///
    /// # Errors
    ///
    /// [`DevmapError::InsideReader`], with the old table in its place. The new one is lost: somebody may still read it.
    fn publish(&self, next: Box<Table>, spare: &mut Option<Box<Table>>) -> Result<(), DevmapError> {
        // Release: pairs with the Acquire of `table`.
        let order = mutant!("registry-publish-relaxed", Ordering::Release, Ordering::Relaxed);
        let old = self.table.swap(Box::into_raw(next), order);
        self.hide_killed();
        let waited = mutant!("registry-publish-no-wait", self.read_side.synchronize(), Ok(()));
        if waited.is_err() {
            // Release: pairs with the Acquire of `table`.
            self.table.store(old, Ordering::Release);
            self.hide_killed();
            return Err(DevmapError::InsideReader);
        }
        // SAFETY: made from a box, replaced, and its readers have left; the lock is held.
        let old = unsafe { Box::from_raw(old) };
        if spare.is_none() {
            *spare = Some(old);
        }
        Ok(())
    }
}

impl<R: ReadSide, L: RawLock> Registry<R, L> {
    /// Hides what was killed while the table was copied, in the one that was just put in place.
    fn hide_killed(&self) {
        // SeqCst: pairs with the fence of `Reserved::kill`: either the death is seen here, or who kills finds this table.
        mutant!("registry-publish-no-fence", fence(Ordering::SeqCst), ());
        mutant!("registry-publish-forget-killed", self.table().hide_dead(), ());
    }
}

impl<R: ReadSide, L: RawLock> Reserved<'_, R, L> {
    /// The pagemap.
    pub(crate) fn pagemap(&self) -> &Pagemap {
        // SAFETY: freed by `release`, which takes this, or with the registry, which is borrowed.
        unsafe { self.pagemap.as_ref() }
    }

    /// Makes the intervals visible.
    pub(crate) fn show(&self) {
        let _spare = self.registry.spare.lock();
        self.registry.table().show(self.pagemap);
    }

    /// Kills the pagemap and makes the intervals invisible. No lock is taken, so it may be called by a reader, for whom the holder of
    /// the lock may be waiting.
    ///
    /// If the table is just being replaced, a lookup may find the pagemap once more, dead, before whoever replaces it has seen
    /// that.
    pub(crate) fn kill(&self) {
        self.pagemap().kill();
        // SeqCst: pairs with the fence of `hide_killed`.
        fence(Ordering::SeqCst);
        let _reader = self.registry.read_side.enter();
        self.registry.table().hide(self.pagemap);
    }

    /// Kills the pagemap, has `revoke` end the translations to each of its ranges, and waits until no reference is left. The
    /// first call also has `stop` put the references that stand for the memory; `let_go` says whether one has.
    ///
    /// `pause` is called with a count from 0 while there are references. From time to time translations are
    /// revoked again: of those who had a reference before the kill, and mapped what they had after the last time.
    ///
    /// # Errors
    ///
    /// References that are left, where `pause` breaks.
    pub(crate) fn retire(
        &self,
        let_go: &mut bool,
        stop: impl FnOnce(&Pagemap),
        revoke: &mut dyn FnMut(PfnRange),
        mut pause: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), u64> {
        let pagemap = self.pagemap();
        let mut revoke_all = || pagemap.ranges().iter().for_each(|&range| revoke(range));
        self.kill();
        if !*let_go {
            revoke_all();
            stop(pagemap);
            *let_go = true;
        }
        let drained = || mutant!("retire-no-wait", pagemap.is_drained(), true);
        let mut tries = 0_u32;
        while !drained() {
            let again = mutant!("retire-revoke-once", tries == 0 || tries.is_power_of_two(), false);
            if again {
                revoke_all();
                if drained() {
                    break;
                }
            }
            if pause(tries).is_break() {
                return Err(pagemap.references());
            }
            tries = tries.saturating_add(1);
        }
        Ok(())
    }

    /// Gives the intervals up and waits for readers. The pagemap has no references.
    ///
    /// # Errors
    ///
    /// This again: where readers cannot be waited for, or there is no memory, and nothing has changed.
    pub(crate) fn release(self) -> Result<Box<PagemapInfo>, (Self, DevmapError)> {
        let registry = self.registry;
        if !registry.read_side.may_wait() {
            return Err((self, DevmapError::InsideReader));
        }
        let mut spare = registry.spare.lock();
        let table = registry.table();
        let next = match spare.take() {
            Some(next) if next.room() >= table.len() => Ok(next),
            // A table was lost to a reader that could not be waited for.
            _ => Table::new(table.room()),
        };
        let done = next.and_then(|mut next| {
            next.rebuild(table, None, Some(self.pagemap));
            registry.publish(next, &mut spare)
        });
        drop(spare);
        match done {
            Ok(()) => {
                // SAFETY: leaked by `reserve`. No table has it, its readers have left, and nobody has a reference.
                let pagemap = unsafe { Box::from_raw(self.pagemap.as_ptr()) };
                Ok(pagemap.into_info())
            }
            Err(error) => Err((self, error)),
        }
    }
}

impl<R, L> fmt::Debug for Reserved<'_, R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").finish_non_exhaustive()
    }
}
