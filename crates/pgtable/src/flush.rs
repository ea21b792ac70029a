// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flushing: what a batch took out of use is given back, once nobody can use it any more.

use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Pfn, VirtAddr};
use mmkit_sync::{Counter, Events, InsideReader, ReadSide, mutant};

use crate::leaves::Merge;
use crate::node::{Node, Span, store};
use crate::ranges::{RANGES, Ranges};
use crate::tables::Locked;
use crate::{Batch, Entry, Leaves, Mmu, Share, Slot, TableEnv, Tables, Target};

/// What a flush gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The frames of leaves that continued each other. A frame that was mapped repeatedly comes once for each leaf.
    Leaves(Leaves),
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

impl<'t, E: Entry, V: TableEnv> Batch<'t, E, V> {
    /// Flushes the caches, waits for readers, gives everything back: `release` is called for each run of leaves and each
    /// shared table, in ascending order within a range, with no lock held.
    ///
    /// One flush and one wait, whatever the number of ranges. (Another of each where a table lost its last entries to this
    /// batch and to another one that was flushed at the same time. None where nothing was mapped.) No memory is needed. While
    /// it runs, mapping next to the ranges may be refused as [`Error::Pending`](crate::Error::Pending).
    ///
    /// # Errors
    ///
    /// [`FlushError`] where the read side refused to wait, because the calling thread is inside a reader. Not every read side
    /// can tell: [`Readers`](mmkit_sync::Readers) does not know threads, and would wait for itself for ever.
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
        if node.level == 0 {
            let other = |slot| !matches!(slot, Slot::Pending(_, tag) if tag == self.tag);
            return node.find_not(span, other).is_some();
        }
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
        let mut merge = Merge::new(self.tables.shape().base_shift());
        loop {
            let mut chunk = Chunk::new();
            let mut locked = self.tables.lock();
            let root = locked.root();
            let full = self.collect(&mut locked, root, rest, &mut chunk);
            drop(locked);
            chunk.drain(|released| {
                let complete = match released {
                    Released::Leaves(leaves) => merge.push(leaves),
                    Released::Shared { .. } => merge.finish(),
                };
                complete.map(Released::Leaves).map(&mut *release);
                if let Released::Shared { .. } = released {
                    release(released);
                }
            });
            match full {
                ControlFlow::Break(from) => rest.from = from,
                ControlFlow::Continue(()) => break,
            }
        }
        merge.finish().map(Released::Leaves).map(release);
    }

    /// Breaks with the position to go on at when the chunk is full.
    fn collect(
        &self,
        locked: &mut Locked<'t, E, V>,
        node: Node<'t, E, V>,
        span: Span,
        chunk: &mut Chunk<Released>,
    ) -> ControlFlow<u64> {
        if node.level == 0 {
            return self.collect_last(node, span, chunk);
        }
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

    /// The same in a table that holds nothing but single frames: run by run.
    fn collect_last(
        &self,
        node: Node<'t, E, V>,
        span: Span,
        chunk: &mut Chunk<Released>,
    ) -> ControlFlow<u64> {
        let ours = |slot| match slot {
            Slot::Pending(target, tag) if tag == self.tag => Some(target),
            _ => None,
        };
        let mut emptied = 0;
        let full = node.last_runs(span, ours, |position, cells, pfn, prot| {
            if chunk.is_full() {
                return false;
            }
            for cell in cells {
                store(cell, 0);
            }
            emptied += cells.len() as u64;
            chunk.push(Released::Leaves(self.tables.leaves_at(position, pfn, cells.len(), prot)));
            true
        });
        node.count_written(emptied);
        full.map_or(ControlFlow::Continue(()), ControlFlow::Break)
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
        if node.level == 0 {
            return ControlFlow::Continue(());
        }
        for (index, part) in node.indices(span) {
            let slot = node.slot(index);
            let Some(child) = self.child(node, index, slot) else { continue };
            self.reap(child, part, chunk)?;
            // Where several ranges share a table, the last one reaps it.
            if matches!(slot, Slot::Pending(..)) && child.is_empty() {
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
    /// What is given back for a leaf, or for a shared table, whose count drops. After the flush only.
    pub(crate) fn released(&mut self, level: u8, part: Span, target: Target) -> Released {
        match target {
            Target::Leaf { pfn, prot } => Released::Leaves(self.tables.leaf_at(level, part.from, pfn, prot)),
            Target::Table { pfn } | Target::Shared { pfn } => {
                Released::Shared { va: self.tables.va(part.from), share: self.drop_attachment(pfn) }
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
