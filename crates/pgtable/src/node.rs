// SPDX-License-Identifier: MIT OR Apache-2.0
//! One table: its entries as atomics, and the part of the address space that it covers.

use core::ptr::NonNull;
use core::slice;

use mmkit_addr::{Level, Pfn, VirtAddr, VirtRange};
use mmkit_frame::DirectMap;
use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::{Counter, Events, mutant};

use crate::shape::named;
use crate::{EncodeError, Entry, Slot, TableEnv, Tables, Tag};

/// Positions `from..=last` of a tree: addresses without what lies above the translated bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) last: u64,
}

/// A table that may be accessed. Everything here relies on what [`Node::new`] was promised.
pub(crate) struct Node<'t, E: Entry, V: TableEnv> {
    tables: &'t Tables<E, V>,
    pub(crate) pfn: Pfn,
    pub(crate) level: u8,
    /// The position of its first entry.
    pub(crate) base: u64,
    /// The table's first frame.
    first: NonNull<AtomicU64>,
}

impl<E: Entry, V: TableEnv> Clone for Node<'_, E, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Entry, V: TableEnv> Copy for Node<'_, E, V> {}

impl<'t, E: Entry, V: TableEnv> Node<'t, E, V> {
    /// The table of `level` at `pfn`, covering positions from `base`.
    ///
    /// # Safety
    ///
    /// `alloc_table` of these tables returned `pfn` for `level`, and it is not given back while the node is used: it is
    /// unpublished and the caller's, or linked while the lock is held, or was found in a reader that has not left. The
    /// node is written through only under the lock or while it is unpublished.
    pub(crate) unsafe fn new(tables: &'t Tables<E, V>, pfn: Pfn, level: u8, base: u64) -> Self {
        Self { tables, pfn, level, base, first: tables.frame_cells(pfn) }
    }

    #[inline]
    fn cell(&self, index: u64) -> &'t AtomicU64 {
        // SAFETY: valid and aligned, as the direct map promises; the frame is a table of ours for as long as the node is
        // used (`new`), and tables are accessed as atomics only, after the allocator zeroed them.
        unsafe { self.pointer(index).as_ref() }
    }

    /// Where the entry is.
    fn pointer(&self, index: u64) -> NonNull<AtomicU64> {
        let (frame, within) = (index >> self.frame_bits(), index & ((1 << self.frame_bits()) - 1));
        let start = if frame == 0 {
            self.first
        } else {
            self.tables.frame_cells(self.pfn.checked_add(frame).unwrap_or(Pfn::MAX))
        };
        // SAFETY: the index is below the entries of a frame, and the direct map's pointer is valid for a whole frame.
        unsafe { start.add(within as usize) }
    }

    /// log2 of the entries in a frame.
    fn frame_bits(&self) -> u32 {
        self.tables.shape().base_shift() - 3
    }

    /// The entries that `span` touches, which must overlap the node: one slice for each frame of the table, and the index
    /// that it begins with.
    pub(crate) fn rows(&self, span: Span) -> impl Iterator<Item = (u64, &'t [AtomicU64])> + use<'t, E, V> {
        let (node, bits) = (*self, self.frame_bits());
        let (first, last) = (self.index(span.from), self.index(span.last));
        (first >> bits..=last >> bits).map(move |frame| {
            let from = first.max(frame << bits);
            let len = last.min((frame << bits) + ((1 << bits) - 1)) - from + 1;
            // SAFETY: the entries `from..from + len` are in one frame of the table, one after the other; the rest is as for
            // `cell`, for each of them.
            (from, unsafe { slice::from_raw_parts(node.pointer(from).as_ptr(), len as usize) })
        })
    }

    /// The first of [`rows`](Self::rows).
    pub(crate) fn first_row(&self, from: u64, last: u64) -> (u64, &'t [AtomicU64]) {
        self.rows(Span { from, last }).next().unwrap_or((0, &[]))
    }

    /// Rewrites the entries of `span` in this table as `change` says, which gets each slot. Other tables are not looked at.
    #[inline]
    pub(crate) fn rewrite(&self, span: Span, change: impl FnMut(Slot) -> Option<Slot>) {
        // One loop for the last level, where nearly all entries are: the format has one kind of entry to tell there.
        if self.level == 0 {
            self.rewrite_at(Level::LAST, span, change);
        } else {
            self.rewrite_at(named(self.level), span, change);
        }
    }

    #[inline]
    fn rewrite_at(&self, level: Level, span: Span, mut change: impl FnMut(Slot) -> Option<Slot>) {
        let mut written = 0;
        for (_, cells) in self.rows(span) {
            for cell in cells {
                if let Some(slot) = change(E::decode(load(cell), level)) {
                    store(cell, encode::<E>(slot, level));
                    written += 1;
                }
            }
        }
        self.count_written(written);
    }

    /// Writes the entries of `span` in this table, which is all of the last level: `slot` gets their numbers in `span`.
    #[inline]
    pub(crate) fn fill_last(&self, span: Span, slot: impl Fn(u64) -> Slot) {
        let first = self.index(span.from);
        for (from, cells) in self.rows(span) {
            for (cell, nth) in cells.iter().zip(from - first..) {
                store(cell, encode::<E>(slot(nth), Level::LAST));
            }
            self.count_written(cells.len() as u64);
        }
    }

    /// Entries that were written other than by `set`.
    pub(crate) fn count_written(&self, entries: u64) {
        if entries > 0 {
            self.tables.env().events().count(Counter::EntryWritten, entries);
        }
    }

    /// The first entry of `span` in this table that `wanted` does not want.
    #[inline]
    pub(crate) fn find_not(&self, span: Span, wanted: impl Fn(Slot) -> bool) -> Option<(u64, Slot)> {
        // As in `rewrite`.
        if self.level == 0 {
            self.find_not_at(Level::LAST, span, wanted)
        } else {
            self.find_not_at(named(self.level), span, wanted)
        }
    }

    #[inline]
    fn find_not_at(&self, level: Level, span: Span, wanted: impl Fn(Slot) -> bool) -> Option<(u64, Slot)> {
        self.rows(span).find_map(|(from, cells)| {
            cells.iter().zip(from..).find_map(|(cell, index)| {
                let slot = E::decode(load(cell), level);
                (!wanted(slot)).then_some((index, slot))
            })
        })
    }

    /// What the entry says.
    #[inline]
    pub(crate) fn slot(&self, index: u64) -> Slot {
        E::decode(self.raw(index), named(self.level))
    }

    /// The entry's bits.
    #[inline]
    pub(crate) fn raw(&self, index: u64) -> u64 {
        load(self.cell(index))
    }

    /// Writes an entry.
    pub(crate) fn set(&self, index: u64, slot: Slot) {
        self.set_raw(index, self.encode(slot));
    }

    /// Writes an entry's bits.
    #[inline]
    pub(crate) fn set_raw(&self, index: u64, raw: u64) {
        self.count_written(1);
        store(self.cell(index), raw);
    }

    /// A word of an unpublished table, or of a frame that holds no entries.
    pub(crate) fn word(&self, index: u64) -> u64 {
        self.cell(index).load(Ordering::Relaxed)
    }

    /// Writes a word of an unpublished table, or of a frame that holds no entries.
    pub(crate) fn set_word(&self, index: u64, word: u64) {
        self.cell(index).store(word, Ordering::Relaxed);
    }

    pub(crate) fn entry_cell(&self, index: u64) -> &'t AtomicU64 {
        self.cell(index)
    }

    /// The bits for a slot that is known to be encodable: it was checked when frames entered the tables, or was decoded.
    pub(crate) fn encode(&self, slot: Slot) -> u64 {
        encode::<E>(slot, named(self.level))
    }

    /// The indices that `span` touches, which must overlap the node, each with its part of the span.
    pub(crate) fn indices(&self, span: Span) -> impl Iterator<Item = (u64, Span)> + use<E, V> {
        let shift = self.tables.shape().shift(self.level);
        let (base, within) = (self.base, (1 << shift) - 1);
        let (first, last) = ((span.from - base) >> shift, (span.last - base) >> shift);
        (first..=last).map(move |index| {
            let start = base + (index << shift);
            (index, Span { from: span.from.max(start), last: span.last.min(start + within) })
        })
    }

    /// The index of the entry that translates `position`.
    #[inline]
    pub(crate) fn index(&self, position: u64) -> u64 {
        (position - self.base) >> self.tables.shape().shift(self.level)
    }

    /// All positions that the entry translates.
    pub(crate) fn span(&self, index: u64) -> Span {
        let shift = self.tables.shape().shift(self.level);
        let from = self.base + (index << shift);
        Span { from, last: from + ((1 << shift) - 1) }
    }

    /// The table of the level below that the entry leads to.
    ///
    /// # Safety
    ///
    /// `pfn` was decoded as a table from the entry at `index`, and [`Node::new`]'s promises hold for it.
    pub(crate) unsafe fn child(&self, index: u64, pfn: Pfn) -> Self {
        // SAFETY: passed on; an entry of this level leads to a table of the level below.
        unsafe { Self::new(self.tables, pfn, self.level - 1, self.span(index).from) }
    }

    /// All positions that the table translates.
    pub(crate) fn whole(&self) -> Span {
        self.tables.shape().table(self.base, self.level)
    }

    /// Whether all entries are empty, or pending under `tag`.
    pub(crate) fn holds_only(&self, tag: Tag) -> bool {
        let ours = |slot| match slot {
            Slot::Empty => true,
            Slot::Pending(_, other) => other == tag,
            Slot::Present(_) => false,
        };
        self.find_not(self.whole(), ours).is_none()
    }

    /// Whether all entries are empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows(self.whole()).all(|(_, cells)| cells.iter().all(|cell| load(cell) == 0))
    }
}

/// The bits for a slot that is known to be encodable.
#[inline]
fn encode<E: Entry>(slot: Slot, level: Level) -> u64 {
    match E::encode(slot, level) {
        Ok(raw) => raw,
        Err(error) => lost::<E>(error),
    }
}

#[cold]
fn lost<E: Entry>(error: EncodeError) -> ! {
    unreachable!("{} lost an entry: {error}", E::NAME)
}

/// An entry's bits.
#[inline]
pub(crate) fn load(cell: &AtomicU64) -> u64 {
    // Acquire: pairs with the Release store that published what the entry leads to, in `store`.
    cell.load(Ordering::Acquire)
}

/// Writes an entry's bits.
#[inline]
pub(crate) fn store(cell: &AtomicU64, raw: u64) {
    // Release: pairs with the Acquire load of a walker, in `load`: it sees the table or the contents of the frame
    // that the entry leads to as they were when it was written.
    let order = mutant!("pgtable-relaxed-publish", Ordering::Release, Ordering::Relaxed);
    cell.store(raw, order);
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// The first entry in a frame that belongs to the tables. (Of the modelled ones, under loom: see [`TableEnv`].)
    fn frame_cells(&self, pfn: Pfn) -> NonNull<AtomicU64> {
        match self.env().frames().map().frame(pfn) {
            Some(frame) => frame.cast(),
            // `alloc_table` has looked.
            None => unreachable!("{pfn:?} has left the direct map"),
        }
    }

    pub(crate) fn va(&self, position: u64) -> VirtAddr {
        VirtAddr::new(self.shape().address(position))
    }

    pub(crate) fn va_range(&self, span: Span) -> VirtRange {
        let (start, last) = (self.va(span.from), self.va(span.last));
        // Addresses rise with positions. All 2^64 bytes are one more than a range can say.
        let bytes = (last.get() - start.get()).saturating_add(1);
        VirtRange::new(start, bytes).unwrap_or_else(|| unreachable!("{span:x?} wraps"))
    }
}
