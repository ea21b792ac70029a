// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared tables: filled once, attached to many entries, counted.

use mmkit_addr::{Level, NodeId, Order, Pfn, VirtRange};
use mmkit_frame::FrameAllocator;
use mmkit_sync::{Counter, Events};

use crate::fill::{Fill, Part};
use crate::node::Node;
use crate::stash::{Need, Stash};
use crate::tables::{Locked, aligned, take_frames};
use crate::{Backing, Entry, Error, Prot, Slot, TableEnv, Tables};

/// The name of a shared table.
///
/// A plain number: a name used with other tables, or after its table was given back, is refused, or names another
/// shared table there. It keeps nothing alive; the tables own what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    slot: u32,
    generation: u32,
}

/// One shared table as the registry has it: two words of a frame.
///
/// | word | bits | meaning |
/// |---|---|---|
/// | 0 | 0..=7 | level plus one; 0: the slot is free |
/// | 0 | 8..=59 | the table's first frame |
/// | 1 | 0..=31 | attachments |
/// | 1 | 32..=63 | generation: how many shared tables there had been |
#[derive(Clone, Copy)]
struct Record {
    pfn: Pfn,
    level: u8,
    attachments: u32,
    generation: u32,
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Makes a table of `level`, all of whose entries are leaves, to be shared by many entries of the level above.
    ///
    /// It is filled here, once: nothing can change it afterwards. It lives until [`free_share`](Self::free_share), or until
    /// the tables are dropped. Cost: one table, and one frame for the registry with the first one.
    ///
    /// # Errors
    ///
    /// [`Error::BadLevel`] where `level` has no leaves or is the root's, [`Error::Misaligned`], [`Error::BadFrames`],
    /// [`Error::Encode`], [`Error::Alloc`], [`Error::TooManyShares`] where the registry's frame is full: 16 bytes each, so
    /// 256 shared tables with frames of 4 KiB.
    pub fn share(&self, level: Level, backing: Backing, prot: Prot, node: NodeId) -> Result<Share, Error> {
        if !self.shape().is_leaf(level.get()) || level.get() >= self.shape().root() {
            return Err(Error::BadLevel { level });
        }
        let level = level.get();
        let entries = self.shape().entries(level);
        let fill = self.leaves(level, backing, prot, entries)?;
        let mut need: Need = Default::default();
        need[usize::from(level)] = 1;
        let mut stash = Stash::new(self, node);
        stash.fill(&need)?;
        self.with_registry(node, |locked| {
            let slot = locked.free_slot()?;
            let Some(pfn) = stash.pop(level) else { unreachable!("the stash was filled") };
            // SAFETY: just popped from the stash for this level, so unpublished and ours.
            let table = unsafe { Node::new(self, pfn, level, 0) };
            for index in 0..entries {
                table.set(index, Slot::Present(fill.target(index)));
            }
            let generation = locked.state.generation;
            locked.state.generation = generation.wrapping_add(1);
            locked.state.shares += 1;
            locked.write_record(slot, Some(Record { pfn, level, attachments: 0, generation }));
            Ok(Share { slot, generation })
        })
    }

    /// Runs `body` under the lock with a registry there, and takes a frame for one if there is none.
    fn with_registry<R>(
        &self,
        node: NodeId,
        body: impl FnOnce(&mut Locked<'_, E, V>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut locked = self.lock();
        let mut spare = None;
        if locked.state.registry.is_none() {
            drop(locked);
            let frame = take_frames(self.env(), Order::ZERO, node)?;
            self.env().events().count(Counter::TableTaken, 1);
            locked = self.lock();
            if locked.state.registry.is_none() {
                locked.state.registry = Some(frame);
                self.count_registry(true);
            } else {
                spare = Some(frame);
            }
        }
        let result = body(&mut locked);
        drop(locked);
        if let Some(frame) = spare {
            // SAFETY: taken above at this order and never used.
            unsafe { self.free_frame(frame) };
        }
        result
    }

    /// Gives a registry frame back.
    ///
    /// # Safety
    ///
    /// It came from `take_frames` as one frame, nobody uses it, and it is given back once.
    unsafe fn free_frame(&self, frame: Pfn) {
        self.env().events().count(Counter::TableGiven, 1);
        // SAFETY: the caller's promise.
        unsafe { self.env().frames().allocator().deallocate(frame, Order::ZERO) };
    }

    /// Attaches a shared table to every entry of the level above its own in `range`, where nothing may be mapped yet.
    ///
    /// From then on walkers go through it. Nothing in it can be changed, and nothing but whole entries can be unmapped;
    /// [`unshare`](Self::unshare) puts a private copy in its place. Upper tables that are missing are taken as in
    /// [`map`](Self::map).
    ///
    /// # Errors
    ///
    /// [`Error::NoShare`], [`Error::ShareLimit`], and those of [`Tables::map`]. Nothing has changed then.
    pub fn attach(&self, range: VirtRange, share: Share, node: NodeId) -> Result<(), Error> {
        let span = self.span(range)?;
        let mut locked = self.lock();
        let mut record = locked.record(share)?;
        let level = record.level + 1;
        let size = self.shape().span(level);
        aligned(range.start().get(), size)?;
        aligned(range.bytes(), size)?;
        // Counted first: what has a count is not given back while the lock is not held.
        let attachments = record.attachments;
        let more = u32::try_from(range.bytes() / size).ok();
        let sum = more.and_then(|more| attachments.checked_add(more));
        record.attachments = sum.ok_or(Error::ShareLimit { attachments })?;
        locked.write_record(share.slot, Some(record));
        drop(locked);
        let part = Part { span, level, fill: Fill::Shared { pfn: record.pfn } };
        let result = self.fill(core::iter::once(part), node);
        if result.is_err() {
            let mut locked = self.lock();
            let mut now = locked.record(share)?;
            now.attachments -= record.attachments - attachments;
            locked.write_record(share.slot, Some(now));
        }
        result
    }

    /// The shared table of `level` that was filled with `backing` and `prot`, if there is one.
    ///
    /// Cost: the lock, and a look at each shared table.
    pub fn share_of(&self, level: Level, backing: Backing, prot: Prot) -> Option<Share> {
        let entries = self.shape().entries(level.get());
        let fill = self.leaves(level.get(), backing, prot, entries).ok()?;
        let locked = self.lock();
        (0..locked.slots()).find_map(|slot| {
            let record = locked.slot(slot).filter(|record| record.level == level.get())?;
            // SAFETY: the record names a table of this level that is not given back while the lock is held.
            let table = unsafe { Node::new(self, record.pfn, record.level, 0) };
            // The first two entries tell a run from a repetition.
            let same =
                (0..entries.min(2)).all(|index| table.slot(index) == Slot::Present(fill.target(index)));
            same.then_some(Share { slot, generation: record.generation })
        })
    }

    /// The first frame that a shared table maps.
    ///
    /// # Errors
    ///
    /// [`Error::NoShare`].
    pub fn share_target(&self, share: Share) -> Result<Pfn, Error> {
        let locked = self.lock();
        let record = locked.record(share)?;
        // SAFETY: the record names a table of this level that is not given back while the lock is held.
        let table = unsafe { Node::new(self, record.pfn, record.level, 0) };
        match table.slot(0) {
            Slot::Present(target) => Ok(target.pfn()),
            // `share` fills every entry.
            _ => Err(Error::NoShare { share }),
        }
    }

    /// The first frame of a shared table itself, as [`Target::Shared`](crate::Target::Shared) names it.
    ///
    /// # Errors
    ///
    /// [`Error::NoShare`].
    pub fn share_table(&self, share: Share) -> Result<Pfn, Error> {
        Ok(self.lock().record(share)?.pfn)
    }

    /// Gives every shared table back that nothing leads to.
    ///
    /// Only where everything that led to one was flushed, and readers have left that may have found it. Cost: the lock, and
    /// a look at each slot of the registry.
    ///
    /// # Safety
    ///
    /// Caches were flushed, and readers have left, since [`swap_table`](Self::swap_table) took an attachment away.
    pub unsafe fn free_unused_shares(&self) {
        while let Some(share) = self.unused_share() {
            if self.free_share(share).is_err() {
                return;
            }
        }
    }

    fn unused_share(&self) -> Option<Share> {
        let locked = self.lock();
        locked.registry()?;
        (0..locked.slots()).find_map(|slot| {
            let record = locked.slot(slot).filter(|record| record.attachments == 0)?;
            Some(Share { slot, generation: record.generation })
        })
    }

    /// How many shared tables there are.
    #[must_use]
    pub fn shares(&self) -> u32 {
        self.lock().state.shares
    }

    /// How many entries lead to a shared table, those that wait for a flush included.
    ///
    /// # Errors
    ///
    /// [`Error::NoShare`].
    pub fn attachments(&self, share: Share) -> Result<u32, Error> {
        Ok(self.lock().record(share)?.attachments)
    }

    /// Gives a shared table back that nothing leads to. The frames it maps are untouched: they are whoever's they were.
    ///
    /// # Errors
    ///
    /// [`Error::ShareInUse`] where an entry leads to it or waits for a flush, [`Error::NoShare`].
    pub fn free_share(&self, share: Share) -> Result<(), Error> {
        let mut locked = self.lock();
        let Record { pfn, level, attachments, .. } = locked.record(share)?;
        if attachments > 0 {
            return Err(Error::ShareInUse { attachments });
        }
        locked.write_record(share.slot, None);
        locked.state.shares -= 1;
        let empty = locked.state.shares == 0;
        let registry = if empty { locked.state.registry.take() } else { None };
        if registry.is_some() {
            self.count_registry(false);
        }
        drop(locked);
        // SAFETY: it came from `alloc_table` for this level. Its count is 0, and each attachment was taken off only after
        // its entry had been emptied, caches flushed and readers waited for; its record is gone, so it comes here once.
        unsafe { self.free_table(pfn, level) };
        if let Some(frame) = registry {
            // SAFETY: it was taken as one frame, and was taken out of the state under the lock.
            unsafe { self.free_frame(frame) };
        }
        Ok(())
    }

    /// Gives back all shared tables and the registry.
    pub(crate) fn drop_shares(&mut self) {
        let mut locked = self.lock();
        let Some(frame) = locked.state.registry else { return };
        for slot in 0..locked.slots() {
            if let Some(record) = locked.slot(slot) {
                // SAFETY: it came from `alloc_table` for this level; the tables are borrowed exclusively, so no reader
                // is in it, and nothing follows the entries that lead to it any more.
                unsafe { self.free_table(record.pfn, record.level) };
            }
        }
        locked.state.registry = None;
        drop(locked);
        // SAFETY: it was taken as one frame, and was taken out of the state.
        unsafe { self.free_frame(frame) };
    }
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    fn slots(&self) -> u32 {
        1 << (self.tables.shape().base_shift() - 4)
    }

    /// The registry as a table of words, while there is one.
    fn registry(&self) -> Option<Node<'t, E, V>> {
        let pfn = self.state.registry?;
        // SAFETY: it came from `take_frames`, which looked whether it can be reached; it is in the state, under the lock,
        // until it is given back; and only the words of its one frame are used.
        Some(unsafe { Node::new(self.tables, pfn, 0, 0) })
    }

    fn slot(&self, slot: u32) -> Option<Record> {
        let registry = self.registry()?;
        let (what, counts) = (registry.word(u64::from(slot) * 2), registry.word(u64::from(slot) * 2 + 1));
        let level = (what & 0xff).checked_sub(1)? as u8;
        let pfn = Pfn::new(what >> 8)?;
        Some(Record { pfn, level, attachments: counts as u32, generation: (counts >> 32) as u32 })
    }

    fn write_record(&mut self, slot: u32, record: Option<Record>) {
        let (what, counts) = record.map_or((0, 0), |record| {
            let what = (record.pfn.get() << 8) | (u64::from(record.level) + 1);
            (what, (u64::from(record.generation) << 32) | u64::from(record.attachments))
        });
        if let Some(registry) = self.registry() {
            registry.set_word(u64::from(slot) * 2, what);
            registry.set_word(u64::from(slot) * 2 + 1, counts);
        }
    }

    fn free_slot(&self) -> Result<u32, Error> {
        let free = (0..self.slots()).find(|&slot| self.slot(slot).is_none());
        free.ok_or(Error::TooManyShares { shares: self.state.shares })
    }

    fn record(&self, share: Share) -> Result<Record, Error> {
        let record = if share.slot < self.slots() { self.slot(share.slot) } else { None };
        record.filter(|record| record.generation == share.generation).ok_or(Error::NoShare { share })
    }

    /// The share whose table is at `pfn`.
    fn share_at(&self, pfn: Pfn) -> Option<Share> {
        (0..self.slots()).find_map(|slot| {
            let record = self.slot(slot).filter(|record| record.pfn == pfn)?;
            Some(Share { slot, generation: record.generation })
        })
    }

    /// Puts one more attachment on the shared table at `pfn`.
    pub(crate) fn add_attachment(&mut self, pfn: Pfn) -> Result<(), Error> {
        let share =
            self.share_at(pfn).ok_or(Error::NoShare { share: Share { slot: u32::MAX, generation: 0 } })?;
        let mut record = self.record(share)?;
        let attachments = record.attachments;
        record.attachments = attachments.checked_add(1).ok_or(Error::ShareLimit { attachments })?;
        self.write_record(share.slot, Some(record));
        Ok(())
    }

    /// Takes one attachment off the shared table at `pfn`: its entry is empty, caches are flushed, readers have left.
    pub(crate) fn drop_attachment(&mut self, pfn: Pfn) -> Share {
        let Some(share) = self.share_at(pfn) else { unreachable!("a shared table outlives its attachments") };
        if let Some(mut record) = self.slot(share.slot) {
            record.attachments -= 1;
            self.write_record(share.slot, Some(record));
        }
        share
    }
}
