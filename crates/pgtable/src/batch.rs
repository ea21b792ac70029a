// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: entries are taken out of use by one step, and given back by another, after a flush.

use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Level, Pfn, PfnRange, VirtAddr, VirtRange};
use mmkit_sync::{Counter, Events, InsideReader, ReadSide, mutant};

use crate::node::{Node, Span};
use crate::ranges::{RANGES, Ranges};
use crate::shape::named;
use crate::tables::Locked;
use crate::{Entry, Error, Mmu, Prot, Share, Slot, TableEnv, Tables, Tag, Target};

/// Ranges that were unmapped and wait for one flush: the frames behind them belong to the batch.
///
/// Unmapping needs no memory: entries become *pending*, which walkers take for absent, and keep their frame numbers.
/// [`flush`](Self::flush) makes the caches forget them, waits for readers, and only then gives back: table frames
/// to the allocator, everything else to the caller. [`cancel`](Self::cancel) puts everything back.
///
/// Dropped without either, a batch leaks: its entries stay pending, its frames are never given back, and one of 255 batches
/// is used up.
///
/// Of up to six ranges that do not touch, each is kept apart; with more, those with the smallest gaps between
/// them are flushed and searched as one.
#[must_use = "what was unmapped is leaked unless the batch is flushed or cancelled"]
pub struct Batch<'t, E: Entry, V: TableEnv> {
    tables: &'t Tables<E, V>,
    tag: Tag,
    ranges: Ranges,
}

/// What a flush gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The frames of one leaf. A frame that was mapped repeatedly comes once for each leaf.
    Leaf {
        /// The first address it was mapped at.
        va: VirtAddr,
        /// Its level.
        level: Level,
        /// Its frames.
        frames: PfnRange,
        /// What it allowed.
        prot: Prot,
    },
    /// One attachment of a shared table, which has been taken off its count.
    Shared {
        /// The first address it was attached at.
        va: VirtAddr,
        /// The shared table.
        share: Share,
    },
}

/// A flush that was asked for inside a reader. Nothing was given back; the batch is handed back to be flushed later.
#[must_use = "the batch in it is leaked unless it is flushed or cancelled"]
pub struct FlushError<'t, E: Entry, V: TableEnv> {
    /// The batch, unchanged.
    pub batch: Batch<'t, E, V>,
    /// Why.
    pub error: InsideReader,
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// A batch to unmap ranges with.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyBatches`] where 255 are open or were leaked.
    pub fn batch(&self) -> Result<Batch<'_, E, V>, Error> {
        let mut locked = self.lock();
        // Tag 0 belongs to no batch.
        for tag in 1..=Tag::MAX {
            let (word, bit) = (usize::from(tag) / 64, 1 << (tag % 64));
            if locked.state.tags[word] & bit == 0 {
                locked.state.tags[word] |= bit;
                return Ok(Batch { tables: self, tag, ranges: Ranges::new() });
            }
        }
        Err(Error::TooManyBatches)
    }

    /// Unmaps one range: a batch of it.
    ///
    /// # Errors
    ///
    /// As [`Tables::batch`] and [`Batch::unmap`].
    pub fn unmap(&self, range: VirtRange) -> Result<Batch<'_, E, V>, Error> {
        let mut batch = self.batch()?;
        match batch.unmap(range) {
            Ok(()) => Ok(batch),
            Err(error) => {
                batch.close();
                Err(error)
            }
        }
    }
}

impl<'t, E: Entry, V: TableEnv> Batch<'t, E, V> {
    /// Takes `range` out of use: every address of it must be mapped, by leaves and shared tables that lie in it whole.
    ///
    /// Cost: one entry written per leaf or shared table; no memory, no flush.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`], [`Error::NotMapped`], [`Error::Pending`],
    /// [`Error::Partial`]. Nothing has changed then; ranges unmapped before stay in the batch.
    pub fn unmap(&mut self, range: VirtRange) -> Result<(), Error> {
        let span = self.tables.span(range)?;
        let locked = self.tables.lock();
        locked.check_mapped(locked.root(), span, true)?;
        self.mark(locked.root(), span);
        self.ranges.add(span);
        Ok(())
    }

    /// Flushes the caches, waits for readers, gives everything back: `release` is called for each leaf and each
    /// shared table, in ascending order within a range, with no lock held.
    ///
    /// One flush and one wait, whatever the number of ranges. (Another of each where a table lost its last entries to this
    /// batch and to another one that was flushed at the same time.) No memory is needed. While it runs, mapping next
    /// to the ranges may be refused as [`Error::Pending`].
    ///
    /// # Errors
    ///
    /// [`FlushError`] where the read side refused to wait, because the calling thread is inside a reader.
    pub fn flush(self, mut release: impl FnMut(Released)) -> Result<(), FlushError<'t, E, V>> {
        while self.detach_all() {
            if let Err(error) = self.tables.quiesce(&self.ranges) {
                return Err(FlushError { batch: self, error });
            }
            for &span in self.ranges.as_slice() {
                self.give_back(span, &mut release);
            }
            for &span in self.ranges.as_slice() {
                self.reap_all(span);
            }
            // A table that another batch had entries in until now may have become empty. It needs a flush of its own.
            if mutant!("pgtable-one-round", false, true) {
                break;
            }
        }
        self.close();
        Ok(())
    }

    /// Puts everything back as it was before the ranges were unmapped.
    pub fn cancel(self) {
        let locked = self.tables.lock();
        for &span in self.ranges.as_slice() {
            self.restore(locked.root(), span);
        }
        drop(locked);
        self.close();
    }

    /// Gives the tag back. Nothing may be pending under it.
    fn close(self) {
        let mut locked = self.tables.lock();
        locked.state.tags[usize::from(self.tag) / 64] &= !(1 << (self.tag % 64));
    }

    /// Makes every entry of `span`, which is mapped, pending.
    fn mark(&self, node: Node<'t, E, V>, span: Span) {
        for (index, part) in node.indices(span) {
            match node.slot(index) {
                Slot::Present(Target::Table { pfn }) => {
                    // SAFETY: the caller holds the lock, and what is linked is given back only after it was unlinked.
                    self.mark(unsafe { node.child(index, pfn) }, part);
                }
                Slot::Present(target) => node.set(index, Slot::Pending(target, self.tag)),
                Slot::Empty | Slot::Pending(..) => {}
            }
        }
    }

    /// Makes everything of the batch in `span` present again.
    fn restore(&self, node: Node<'t, E, V>, span: Span) {
        for (index, part) in node.indices(span) {
            let slot = node.slot(index);
            if let Some(child) = self.child(node, index, slot) {
                self.restore(child, part);
            }
            if let Slot::Pending(target, tag) = slot
                && tag == self.tag
            {
                node.set(index, Slot::Present(target));
            }
        }
    }

    /// The table behind a slot, if it is linked or was detached by this batch.
    fn child(&self, node: Node<'t, E, V>, index: u64, slot: Slot) -> Option<Node<'t, E, V>> {
        let pfn = match slot {
            Slot::Present(Target::Table { pfn }) => pfn,
            Slot::Pending(Target::Table { pfn }, tag) if tag == self.tag => pfn,
            _ => return None,
        };
        // SAFETY: the callers hold the lock; what is linked is given back only after it was unlinked, and what this batch
        // detached is given back by it alone.
        Some(unsafe { node.child(index, pfn) })
    }

    /// Detaches tables that hold nothing but what is pending in this batch. Whether a flush is due: whether anything of
    /// the batch is left.
    fn detach_all(&self) -> bool {
        let locked = self.tables.lock();
        let mut left = false;
        for &span in self.ranges.as_slice() {
            left |= self.detach(locked.root(), span);
        }
        left
    }

    fn detach(&self, node: Node<'t, E, V>, span: Span) -> bool {
        let mut left = false;
        for (index, part) in node.indices(span) {
            match node.slot(index) {
                Slot::Present(Target::Table { pfn }) => {
                    // SAFETY: `detach_all` holds the lock, and what is linked is given back only after it was unlinked.
                    let child = unsafe { node.child(index, pfn) };
                    left |= self.detach(child, part);
                    if child.holds_only(self.tag) {
                        node.set(index, Slot::Pending(Target::Table { pfn }, self.tag));
                        left = true;
                    }
                }
                Slot::Pending(_, tag) => left |= tag == self.tag,
                Slot::Present(_) | Slot::Empty => {}
            }
        }
        left
    }

    /// Empties the entries of leaves and shared tables of the batch in `span`, and releases what was behind them.
    fn give_back(&self, span: Span, release: &mut impl FnMut(Released)) {
        let mut rest = span;
        loop {
            let mut chunk = Chunk::new();
            let mut locked = self.tables.lock();
            let root = locked.root();
            let full = self.collect(&mut locked, root, rest, &mut chunk);
            drop(locked);
            chunk.drain(&mut *release);
            match full {
                ControlFlow::Break(from) => rest.from = from,
                ControlFlow::Continue(()) => return,
            }
        }
    }

    /// Breaks with the position to go on at when the chunk is full.
    fn collect(
        &self,
        locked: &mut Locked<'t, E, V>,
        node: Node<'t, E, V>,
        span: Span,
        chunk: &mut Chunk<Released>,
    ) -> ControlFlow<u64> {
        for (index, part) in node.indices(span) {
            let slot = node.slot(index);
            if let Some(child) = self.child(node, index, slot) {
                self.collect(locked, child, part, chunk)?;
            } else if let Slot::Pending(target, tag) = slot
                && tag == self.tag
            {
                if chunk.is_full() {
                    return ControlFlow::Break(part.from);
                }
                node.set(index, Slot::Empty);
                chunk.push(locked.released(node.level, part, target));
            }
        }
        ControlFlow::Continue(())
    }

    /// Gives back the tables that the batch detached, which are empty by now.
    fn reap_all(&self, span: Span) {
        loop {
            let mut chunk = Chunk::new();
            let locked = self.tables.lock();
            let full = self.reap(locked.root(), span, &mut chunk);
            drop(locked);
            chunk.drain(|(pfn, level)| {
                // SAFETY: the table was detached by this batch before the last flush and the last wait for readers, so
                // nobody is in it; its entry was emptied by `reap`, so nothing leads to it, and it comes here once.
                unsafe { self.tables.free_table(pfn, level) };
            });
            if full.is_continue() {
                return;
            }
        }
    }

    fn reap(&self, node: Node<'t, E, V>, span: Span, chunk: &mut Chunk<(Pfn, u8)>) -> ControlFlow<()> {
        for (index, part) in node.indices(span) {
            let slot = node.slot(index);
            let Some(child) = self.child(node, index, slot) else { continue };
            self.reap(child, part, chunk)?;
            // Tag 0 is nobody's: only empty entries are left. Where several ranges share a table, the last one reaps it.
            if matches!(slot, Slot::Pending(..)) && child.holds_only(0) {
                if chunk.is_full() {
                    return ControlFlow::Break(());
                }
                node.set(index, Slot::Empty);
                chunk.push((child.pfn, child.level));
            }
        }
        ControlFlow::Continue(())
    }
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    /// Whether every address of `span` is mapped by something that lies in it whole; by shared tables only if asked.
    pub(crate) fn check_mapped(&self, node: Node<'t, E, V>, span: Span, shared: bool) -> Result<(), Error> {
        for (index, part) in node.indices(span) {
            let va = self.tables.va(part.from);
            match node.slot(index) {
                Slot::Empty => return Err(Error::NotMapped { va }),
                Slot::Pending(..) => return Err(Error::Pending { va }),
                Slot::Present(Target::Table { pfn }) => {
                    // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under it.
                    self.check_mapped(unsafe { node.child(index, pfn) }, part, shared)?;
                }
                Slot::Present(Target::Shared { .. }) if !shared => return Err(Error::Shared { va }),
                Slot::Present(_) if part != node.span(index) => {
                    return Err(Error::Partial { va, level: named(node.level) });
                }
                Slot::Present(_) => {}
            }
        }
        Ok(())
    }

    /// What is given back for a leaf, or for a shared table, whose count drops. After the flush only.
    pub(crate) fn released(&mut self, level: u8, part: Span, target: Target) -> Released {
        let va = self.tables.va(part.from);
        match target {
            Target::Leaf { pfn, prot } => {
                let order = self.tables.shape().leaf_order(level);
                Released::Leaf { va, level: named(level), frames: PfnRange::block(pfn, order), prot }
            }
            Target::Table { pfn } | Target::Shared { pfn } => {
                Released::Shared { va, share: self.drop_attachment(pfn) }
            }
        }
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// After this nobody uses what was taken out of use in `ranges` before.
    pub(crate) fn quiesce(&self, ranges: &Ranges) -> Result<(), InsideReader> {
        self.flush_caches(ranges);
        mutant!("pgtable-no-synchronize", self.env().read_side().synchronize()?, ());
        self.env().events().count(Counter::Synchronize, 1);
        Ok(())
    }

    pub(crate) fn flush_caches(&self, ranges: &Ranges) {
        let spans = ranges.as_slice();
        let range = |at| spans.get(at).map(|&span| self.va_range(span));
        let all: [_; RANGES] = core::array::from_fn(|at| range(at).unwrap_or(self.va_range(spans[0])));
        self.env().mmu().flush(&all[..spans.len()]);
        self.env().events().count(Counter::TlbFlush, 1);
    }
}

/// A few things that were collected under the lock, to be dealt with after it.
struct Chunk<T> {
    items: [Option<T>; 32],
    len: usize,
}

impl<T> Chunk<T> {
    const fn new() -> Self {
        Self { items: [const { None }; 32], len: 0 }
    }

    const fn is_full(&self) -> bool {
        self.len == self.items.len()
    }

    fn push(&mut self, item: T) {
        self.items[self.len] = Some(item);
        self.len += 1;
    }

    fn drain(self, take: impl FnMut(T)) {
        self.items.into_iter().flatten().for_each(take);
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Batch<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.as_slice().iter().map(|&span| self.tables.va_range(span));
        f.debug_list().entries(ranges).finish()
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for FlushError<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushError").field("batch", &self.batch).field("error", &self.error).finish()
    }
}

impl<E: Entry, V: TableEnv> fmt::Display for FlushError<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing was flushed: {}", self.error)
    }
}

impl<E: Entry, V: TableEnv> core::error::Error for FlushError<'_, E, V> {}
