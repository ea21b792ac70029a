// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmapping: entries are taken out of use here, and given back by the flush.

use core::fmt;

use mmkit_addr::VirtRange;
use mmkit_sync::mutant;

use crate::node::{Node, Span};
use crate::ranges::Ranges;
use crate::shape::named;
use crate::tables::Locked;
use crate::{Entry, Error, Slot, TableEnv, Tables, Tag, Target};

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
    pub(crate) tables: &'t Tables<E, V>,
    pub(crate) tag: Tag,
    pub(crate) ranges: Ranges,
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
    /// The tables.
    #[must_use]
    pub const fn tables(&self) -> &'t Tables<E, V> {
        self.tables
    }

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

    /// Takes out of use whatever is mapped in `range`, by leaves and shared tables that lie in it whole. Where nothing is
    /// mapped, or where another batch was first, nothing happens.
    ///
    /// Until the flush, mapping something in the holes of the range may be refused as [`Error::Pending`]. Cost: one load
    /// per entry, one entry written per leaf or shared table, and one per table that holds nothing else; no memory, no flush.
    /// Linux: `unmap_page_range`.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`], [`Error::Partial`]. Nothing has changed then;
    /// ranges unmapped before stay in the batch.
    pub fn zap(&mut self, range: VirtRange) -> Result<(), Error> {
        let span = self.tables.span(range)?;
        let locked = self.tables.lock();
        // Only what is at its ends can reach out of the range.
        for end in [span.from, span.last] {
            let (node, index, slot) = locked.find(end);
            let entry = node.span(index);
            let inside = span.from <= entry.from && entry.last <= span.last;
            if matches!(slot, Slot::Present(_)) && !inside {
                let va = self.tables.va(entry.from.max(span.from));
                return Err(Error::Partial { va, level: named(node.level) });
            }
        }
        self.mark(locked.root(), span);
        self.ranges.add(span);
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
    pub(crate) fn close(self) {
        let mut locked = self.tables.lock();
        locked.state.tags[usize::from(self.tag) / 64] &= !(1 << (self.tag % 64));
    }

    /// Makes every present entry of `span` pending: none of them reaches out of it. Whether nothing is left there but what
    /// is pending in this batch.
    fn mark(&self, node: Node<'t, E, V>, span: Span) -> bool {
        let mut ours = true;
        if node.level == 0 {
            node.rewrite(span, |slot| match slot {
                Slot::Present(target) => Some(Slot::Pending(target, self.tag)),
                Slot::Pending(_, tag) => {
                    ours &= tag == self.tag;
                    None
                }
                Slot::Empty => None,
            });
            return ours;
        }
        for (index, part) in node.indices(span) {
            match node.slot(index) {
                Slot::Present(Target::Table { pfn }) => {
                    // SAFETY: the caller holds the lock, and what is linked is given back only after it was unlinked.
                    let emptied = self.mark(unsafe { node.child(index, pfn) }, part);
                    // A table whose last entries go here goes with them; the flush would find out, but would have to look
                    // at every entry for it.
                    if mutant!("pgtable-detach-others", emptied, true) && part == node.span(index) {
                        node.set(index, Slot::Pending(Target::Table { pfn }, self.tag));
                    }
                    ours &= emptied;
                }
                Slot::Present(target) => node.set(index, Slot::Pending(target, self.tag)),
                Slot::Pending(_, tag) => ours &= tag == self.tag,
                Slot::Empty => {}
            }
        }
        ours
    }

    /// Makes everything of the batch in `span` present again.
    fn restore(&self, node: Node<'t, E, V>, span: Span) {
        if node.level > 0 {
            for (index, part) in node.indices(span) {
                if let Some(child) = self.child(node, index, node.slot(index)) {
                    self.restore(child, part);
                }
            }
        }
        node.rewrite(span, |slot| match slot {
            Slot::Pending(target, tag) if tag == self.tag => Some(Slot::Present(target)),
            _ => None,
        });
    }

    /// The table behind a slot, if it is linked or was detached by this batch.
    pub(crate) fn child(&self, node: Node<'t, E, V>, index: u64, slot: Slot) -> Option<Node<'t, E, V>> {
        let pfn = match slot {
            Slot::Present(Target::Table { pfn }) => pfn,
            Slot::Pending(Target::Table { pfn }, tag) if tag == self.tag => pfn,
            _ => return None,
        };
        // SAFETY: the callers hold the lock; what is linked is given back only after it was unlinked, and what this batch
        // detached is given back by it alone.
        Some(unsafe { node.child(index, pfn) })
    }
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    /// Whether every address of `span` is mapped by something that lies in it whole; by shared tables only if asked.
    pub(crate) fn check_mapped(&self, node: Node<'t, E, V>, span: Span, shared: bool) -> Result<(), Error> {
        if node.level == 0 {
            let Some((index, slot)) = node.find_not(span, |slot| matches!(slot, Slot::Present(_))) else {
                return Ok(());
            };
            let va = self.tables.va(node.span(index).from);
            return Err(if slot == Slot::Empty { Error::NotMapped { va } } else { Error::Pending { va } });
        }
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
}

impl<E: Entry, V: TableEnv> fmt::Debug for Batch<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.as_slice().iter().map(|&span| self.tables.va_range(span));
        f.debug_list().entries(ranges).finish()
    }
}
