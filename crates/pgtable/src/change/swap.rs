// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing many entries in one walk, and whole last-level tables: what a memory map does that is remapped in place.
//!
//! Everything here leaves the flush to the caller, who changes many places and flushes once.

use core::sync::atomic::Ordering;

use mmkit_addr::{Level, NodeId, Order, Pfn, VirtAddr, VirtRange};

use crate::fill::{Fill, Part};
use crate::node::{Node, Span};
use crate::ranges::Ranges;
use crate::shape::named;
use crate::tables::{Locked, aligned};
use crate::{Backing, ChangeKind, Entry, Error, Mmu, Prot, Slot, TableEnv, Tables, Target};

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Replaces the private single-frame leaves of `range`, from the lowest address up: leaf `n` by what
    /// `new(context, n)` says. Then `old(context, n, ..)` is told what it was.
    ///
    /// Whoever walks finds old or new leaves. Nothing may be done with the old frames before a
    /// [`flush`](Self::flush), and before readers have left that may have found them. Both closures are called with the
    /// lock held.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`], with nothing changed. [`Error::NotMapped`],
    /// [`Error::Pending`], [`Error::Shared`], [`Error::Partial`] (a leaf of more than one frame), [`Error::Encode`],
    /// [`Error::TryAgain`] at the first leaf that cannot be replaced: those before it were, as `old` was told.
    ///
    /// Cost: one walk for each last-level table, one entry written per leaf; no memory.
    pub fn swap_leaves<C>(
        &self,
        range: VirtRange,
        context: &mut C,
        mut new: impl FnMut(&mut C, u64) -> (Pfn, Prot),
        mut old: impl FnMut(&mut C, u64, Pfn, Prot),
    ) -> Result<(), Error> {
        let span = self.span(range)?;
        let locked = self.lock();
        let shift = self.shape().shift(0);
        let in_place = self.env().mmu().replaces_in_place();
        let mut position = span.from;
        loop {
            let table = locked.table_of(position, 0)?;
            let nth = (position - span.from) >> shift;
            let from = table.index(position);
            let end = self.shape().entries(0).min(from + ((span.last - position) >> shift) + 1);
            for index in from..end {
                let was = match table.slot(index) {
                    Slot::Present(leaf @ Target::Leaf { .. }) => leaf,
                    slot => return Err(self.not_a_leaf(self.va(table.span(index).from), slot)),
                };
                let nth = nth + (index - from);
                let (pfn, prot) = new(context, nth);
                let target = Target::Leaf { pfn, prot };
                let raw = E::encode(Slot::Present(target), Level::LAST)?;
                if in_place {
                    table.set_raw(index, raw);
                } else {
                    locked.update(table, index, was, target, ChangeKind::Leaf)?;
                }
                if let Target::Leaf { pfn, prot } = was {
                    old(context, nth, pfn, prot);
                }
            }
            let last = table.span(end - 1).last;
            if last >= span.last {
                return Ok(());
            }
            position = last + 1;
        }
    }

    /// Replaces the entry at `va`, one level above the last, by `new`, and returns what it was.
    ///
    /// A shared table that goes is taken off its count at once, and one that comes is put on it. Nothing may be done with
    /// what was there, shared tables included, before a [`flush`](Self::flush), and before readers have left that may
    /// have found it.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::Misaligned`], [`Error::BadLevel`] where the tables have one level,
    /// [`Error::NotMapped`], [`Error::Pending`], [`Error::Partial`], [`Error::Shared`], [`Error::Encode`],
    /// [`Error::NoShare`], [`Error::ShareLimit`], [`Error::TryAgain`]. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// * A table in `new` came from [`take_table`](Self::take_table) of these tables, or was returned by this method;
    ///   nothing leads to it, and it becomes the tables' own. Every entry of it was written.
    /// * What is returned as a table is the caller's from now on.
    /// * A shared table that lost an attachment is not given back ([`free_share`](Self::free_share)) before the flush and
    ///   the wait for readers.
    pub unsafe fn swap_table(&self, va: VirtAddr, new: Target) -> Result<Target, Error> {
        let position = self.position(va)?;
        if self.shape().root() == 0 {
            return Err(Error::BadLevel { level: named(0) });
        }
        aligned(va.get(), self.shape().span(1))?;
        let mut locked = self.lock();
        let node = locked.table_of(position, 1)?;
        let index = node.index(position);
        let was = match node.slot(index) {
            Slot::Present(was) => was,
            slot => return Err(self.not_a_leaf(va, slot)),
        };
        E::encode(Slot::Present(new), named(1))?;
        if let Target::Shared { pfn } = new {
            locked.add_attachment(pfn)?;
        }
        let result = locked.update(node, index, was, new, ChangeKind::Table);
        match (result, was, new) {
            (Ok(()), Target::Shared { pfn }, _) | (Err(_), _, Target::Shared { pfn }) => {
                locked.drop_attachment(pfn);
            }
            _ => {}
        }
        result.map(|()| was)
    }

    /// Takes an empty table of the last level, on `node` if possible. It counts as one of the tables'.
    ///
    /// # Errors
    ///
    /// [`Error::Alloc`], [`Error::Unreachable`], [`Error::Encode`].
    pub fn take_table(&self, node: NodeId) -> Result<Pfn, Error> {
        self.alloc_table(0, node)
    }

    /// Makes a frame of the caller's an empty table of the last level, as if [`take_table`](Self::take_table) had returned
    /// it: for whoever may not ask the allocator.
    ///
    /// # Errors
    ///
    /// [`Error::BadFrames`] where a table is no single frame, [`Error::Unreachable`], [`Error::Encode`]. The frame is still the
    /// caller's then.
    ///
    /// # Safety
    ///
    /// The frame came from the allocator of these tables, to which it goes back at order 0; it is the caller's, and nobody
    /// uses it.
    pub unsafe fn adopt_table(&self, frame: Pfn) -> Result<(), Error> {
        let order = self.shape().table_order(0);
        if order != Order::ZERO {
            return Err(Error::BadFrames { pfn: frame, frames: order.frames() });
        }
        // SAFETY: the frame is the caller's, and nobody else accesses it.
        let words = unsafe { self.env().frames().words(frame) }.ok_or(Error::Unreachable { pfn: frame })?;
        self.count_table(0, frame)?;
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether there is no entry at all for the last-level table around `va`: [`link_table`](Self::link_table) can put one
    /// there.
    #[must_use]
    pub fn lacks_table(&self, va: VirtAddr) -> bool {
        let Ok(position) = self.position(va) else { return false };
        let locked = self.lock();
        let mut node = locked.root();
        loop {
            let index = node.index(position);
            match node.slot(index) {
                Slot::Empty => return node.level > 0,
                Slot::Present(Target::Table { pfn }) if node.level > 1 => {
                    // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under the lock.
                    node = unsafe { node.child(index, pfn) };
                }
                _ => return false,
            }
        }
    }

    /// Puts a table that was [filled](Self::fill_table) aside where there was none: the leaves of as many addresses as it has
    /// entries, from `va` on, appear at once. Missing tables above it are taken, on `node` if possible.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::Misaligned`], [`Error::BadLevel`] where the tables have one level,
    /// [`Error::Occupied`], [`Error::Pending`], [`Error::Alloc`]. Nothing has changed then, and the table is still the
    /// caller's.
    ///
    /// # Safety
    ///
    /// As for [`give_table`](Self::give_table), but that it becomes the tables' own.
    pub unsafe fn link_table(&self, va: VirtAddr, table: Pfn, node: NodeId) -> Result<(), Error> {
        let from = self.position(va)?;
        if self.shape().root() == 0 {
            return Err(Error::BadLevel { level: named(0) });
        }
        let bytes = self.shape().span(1);
        aligned(va.get(), bytes)?;
        let span = Span { from, last: from + (bytes - 1) };
        self.fill(core::iter::once(Part { span, level: 1, fill: Fill::Table { pfn: table } }), node)
    }

    /// Gives a table of the last level back.
    ///
    /// # Safety
    ///
    /// It came from [`take_table`](Self::take_table) or [`swap_table`](Self::swap_table) and is the caller's; nothing leads to
    /// it, caches were flushed and readers have left since something did; it is given back once.
    pub unsafe fn give_table(&self, table: Pfn) {
        // SAFETY: the caller's promises, and what those methods return came from `alloc_table` for the last level.
        unsafe { self.free_table(table, 0) };
    }

    /// Writes `count` leaves from entry `from` on into a table of the last level that nothing leads to.
    ///
    /// # Errors
    ///
    /// [`Error::BadFrames`], [`Error::Encode`], with nothing written.
    ///
    /// # Safety
    ///
    /// As for [`give_table`](Self::give_table); the entries are among those that the table has.
    pub unsafe fn fill_table(
        &self,
        table: Pfn,
        from: u64,
        count: u64,
        backing: Backing,
        prot: Prot,
    ) -> Result<(), Error> {
        let (first, step) = match backing {
            Backing::Run(first) => (first, 1),
            Backing::Repeat(first) => (first, 0),
        };
        let encode = |pfn| E::encode(Slot::Present(Target::Leaf { pfn, prot }), Level::LAST);
        let mut raw = encode(first)?;
        let last = first.checked_add(step * count.saturating_sub(1));
        let last = last.ok_or(Error::BadFrames { pfn: first, frames: count })?;
        if last > first {
            encode(last)?;
        }
        // SAFETY: it came from `alloc_table` for the last level, and is the caller's.
        let table = unsafe { Node::new(self, table, 0, 0) };
        for nth in 0..count {
            if nth > 0 && step > 0 {
                // Between the two that were found to be encodable.
                raw = encode(first.checked_add(nth).unwrap_or(last))?;
            }
            table.set_raw(from + nth, raw);
        }
        Ok(())
    }

    /// Calls `visit` with each leaf of a table of the last level that nothing leads to: its entry, frame, and what it allows.
    ///
    /// # Safety
    ///
    /// As for [`give_table`](Self::give_table), but that somebody may be in it still.
    pub unsafe fn read_table(&self, table: Pfn, mut visit: impl FnMut(u64, Pfn, Prot)) {
        // SAFETY: it came from `alloc_table` for the last level, and is the caller's.
        let table = unsafe { Node::new(self, table, 0, 0) };
        for index in 0..self.shape().entries(0) {
            if let Slot::Present(Target::Leaf { pfn, prot }) = table.slot(index) {
                visit(index, pfn, prot);
            }
        }
    }

    /// Makes every processor forget what it caches of translations in `range`.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`].
    pub fn flush(&self, range: VirtRange) -> Result<(), Error> {
        self.flush_caches(&Ranges::of(self.span(range)?));
        Ok(())
    }

    fn not_a_leaf(&self, va: VirtAddr, slot: Slot) -> Error {
        match slot {
            Slot::Empty => Error::NotMapped { va },
            Slot::Pending(..) => Error::Pending { va },
            Slot::Present(Target::Shared { .. }) => Error::Shared { va },
            Slot::Present(_) => Error::Partial { va, level: named(1) },
        }
    }
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    /// The private table of `level` with the entry for `position`.
    fn table_of(&self, position: u64, level: u8) -> Result<Node<'t, E, V>, Error> {
        let mut node = self.root();
        while node.level > level {
            let index = node.index(position);
            let Slot::Present(Target::Table { pfn }) = node.slot(index) else {
                let (va, slot) = (self.tables.va(position), node.slot(index));
                return Err(match slot {
                    Slot::Present(Target::Leaf { .. }) => Error::Partial { va, level: named(node.level) },
                    slot => self.tables.not_a_leaf(va, slot),
                });
            };
            // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under the lock.
            node = unsafe { node.child(index, pfn) };
        }
        Ok(node)
    }
}
