// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walking without a lock.

use core::fmt;
use core::num::NonZeroU64;

use mmkit_addr::{Level, Pfn, VirtAddr, VirtRange};
use mmkit_sync::ReadSide;

use crate::leaves::Merge;
use crate::node::{Node, Span, load};
use crate::shape::named;
use crate::{Entry, Error, Leaves, Prot, Slot, TableEnv, Tables, Target};

/// A reader of the tables: while it lives, no table and no frame that it has found is given back.
///
/// It takes no lock, so what it found may have been changed since; it is what was true at some moment of the walk.
pub struct Reader<'t, E: Entry, V: TableEnv> {
    pub(crate) tables: &'t Tables<E, V>,
    guard: <V::Read as ReadSide>::Guard<'t>,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// A leaf.
    Mapped(Leaf),
    /// Nothing.
    Unmapped {
        /// The level of the empty entry.
        level: Level,
    },
    /// Something that was unmapped and not flushed yet. (What is being replaced is found as it was, or as it will be.)
    Pending {
        /// The level of the entry.
        level: Level,
    },
}

/// A leaf, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The addresses that it maps.
    pub range: VirtRange,
    /// The first frame that it maps.
    pub pfn: Pfn,
    /// What it allows.
    pub prot: Prot,
    /// Its level.
    pub level: Level,
    /// Whether it is in a shared table.
    pub shared: bool,
}

/// An entry as [`Reader::visit`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    /// The addresses that it translates.
    pub range: VirtRange,
    /// Its level.
    pub level: Level,
    /// What it says.
    pub slot: Slot,
    /// Whether it is in a shared table.
    pub shared: bool,
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Enters a reader of the environment's read side. Cost: that of entering it.
    pub fn read(&self) -> Reader<'_, E, V> {
        Reader { guard: self.env().read_side().enter(), tables: self }
    }

    /// What maps `va`: one walk in a reader of its own.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`].
    pub fn walk(&self, va: VirtAddr) -> Result<Walk, Error> {
        self.read().walk(va)
    }
}

impl<'t, E: Entry, V: TableEnv> Reader<'t, E, V> {
    /// What maps `va`. Cost: one acquire load per level.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`].
    pub fn walk(&self, va: VirtAddr) -> Result<Walk, Error> {
        let position = self.tables.position(va)?;
        let (mut node, mut shared) = (self.root(), false);
        loop {
            let (index, level) = (node.index(position), named(node.level));
            let pfn = match node.slot(index).for_readers() {
                Slot::Empty => return Ok(Walk::Unmapped { level }),
                Slot::Pending(..) => return Ok(Walk::Pending { level }),
                Slot::Present(Target::Leaf { pfn, prot }) => {
                    let range = self.tables.va_range(node.span(index));
                    return Ok(Walk::Mapped(Leaf { range, pfn, prot, level, shared }));
                }
                Slot::Present(Target::Table { pfn }) => pfn,
                Slot::Present(Target::Shared { pfn }) => {
                    shared = true;
                    pfn
                }
            };
            node = self.child(node, index, pfn);
        }
    }

    /// Calls `visit` for every entry in `range` that is not empty and leads to no table, in ascending order.
    ///
    /// An entry that reaches out of the range is visited too. Cost: one acquire load per entry of the tables on the way.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`].
    pub fn visit(&self, range: VirtRange, mut visit: impl FnMut(Visited)) -> Result<(), Error> {
        let span = self.tables.span(range)?;
        self.visit_node(self.root(), span, false, &mut visit);
        Ok(())
    }

    /// Calls `visit` for every run of leaves in `range`, in ascending order: leaves that continue each other come as one.
    ///
    /// A leaf that reaches out of the range comes whole. What is pending is passed over. Cost: as for
    /// [`visit`](Self::visit), and a call per run instead of one per entry.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`].
    pub fn leaves(&self, range: VirtRange, mut visit: impl FnMut(Leaves)) -> Result<(), Error> {
        let span = self.tables.span(range)?;
        let mut merge = Merge::new(self.tables.shape().base_shift());
        self.leaves_node(self.root(), span, &mut merge, &mut visit);
        merge.finish().map(visit);
        Ok(())
    }

    /// Calls `visit` with the frame behind every `step`-th page of `range`, from the first one on, and what may be done with
    /// it, in ascending order. Pages that nothing maps are passed over.
    ///
    /// Cost: one acquire load for each page, and those of the levels above for each last table; no more is told of an entry
    /// than these two, which takes a few instructions.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`].
    pub fn every(
        &self,
        range: VirtRange,
        step: NonZeroU64,
        mut visit: impl FnMut(VirtAddr, Pfn, Prot),
    ) -> Result<(), Error> {
        let span = self.tables.span(range)?;
        let shift = self.tables.shape().base_shift();
        // Past the last position where the next one does not fit.
        let next = |at: u64| {
            step.get().checked_mul(1 << shift).and_then(|step| at.checked_add(step)).unwrap_or(u64::MAX)
        };
        let mut at = span.from;
        while at <= span.last {
            let (node, index) = self.last_above(at);
            if node.level == 0 {
                let last = node.whole().last.min(span.last);
                while at <= last {
                    let slot = E::decode(load(node.entry_cell(node.index(at))), Level::LAST).for_readers();
                    if let Slot::Present(Target::Leaf { pfn, prot }) = slot {
                        visit(self.tables.va(at), pfn, prot);
                    }
                    at = next(at);
                }
                continue;
            }
            let (slot, part) = (node.slot(index).for_readers(), node.span(index));
            while at <= part.last.min(span.last) {
                if let Slot::Present(Target::Leaf { pfn, prot }) = slot
                    && let Some(pfn) = pfn.checked_add((at - part.from) >> shift)
                {
                    visit(self.tables.va(at), pfn, prot);
                }
                at = next(at);
            }
        }
        Ok(())
    }

    /// The lowest table that there is above `position`, and the index of the entry that is about it.
    fn last_above(&self, position: u64) -> (Node<'t, E, V>, u64) {
        let mut node = self.root();
        loop {
            let index = node.index(position);
            if node.level == 0 {
                return (node, index);
            }
            match node.slot(index).for_readers() {
                Slot::Present(Target::Table { pfn } | Target::Shared { pfn }) => {
                    node = self.child(node, index, pfn);
                }
                _ => return (node, index),
            }
        }
    }

    /// Calls `visit` for every entry that is not empty and leads to no table, at all addresses.
    pub fn visit_all(&self, mut visit: impl FnMut(Visited)) {
        let root = self.root();
        self.visit_node(root, root.whole(), false, &mut visit);
    }

    fn visit_node(&self, node: Node<'t, E, V>, span: Span, shared: bool, visit: &mut impl FnMut(Visited)) {
        if node.level == 0 {
            // A loop of its own for the last level, where nearly all entries are.
            for (from, cells) in node.rows(span) {
                for (cell, index) in cells.iter().zip(from..) {
                    self.visit_slot(
                        node,
                        index,
                        (E::decode(load(cell), Level::LAST).for_readers(), shared),
                        visit,
                    );
                }
            }
            return;
        }
        for (index, part) in node.indices(span) {
            match node.slot(index).for_readers() {
                Slot::Present(Target::Table { pfn }) => {
                    self.visit_node(self.child(node, index, pfn), part, shared, visit);
                }
                Slot::Present(Target::Shared { pfn }) => {
                    self.visit_node(self.child(node, index, pfn), part, true, visit);
                }
                slot => self.visit_slot(node, index, (slot, shared), visit),
            }
        }
    }

    #[inline]
    fn visit_slot(
        &self,
        node: Node<'t, E, V>,
        index: u64,
        (slot, shared): (Slot, bool),
        visit: &mut impl FnMut(Visited),
    ) {
        if slot != Slot::Empty {
            let range = self.tables.va_range(node.span(index));
            visit(Visited { range, level: named(node.level), slot, shared });
        }
    }

    fn leaves_node(
        &self,
        node: Node<'t, E, V>,
        span: Span,
        merge: &mut Merge,
        visit: &mut impl FnMut(Leaves),
    ) {
        if node.level == 0 {
            let present =
                |slot: Slot| if let Slot::Present(target) = slot.for_readers() { Some(target) } else { None };
            node.last_runs(span, present, |position, cells, pfn, prot| {
                merge.push(self.tables.leaves_at(position, pfn, cells.len(), prot)).map(&mut *visit);
                true
            });
            return;
        }
        for (index, part) in node.indices(span) {
            match node.slot(index).for_readers() {
                Slot::Present(Target::Table { pfn } | Target::Shared { pfn }) => {
                    self.leaves_node(self.child(node, index, pfn), part, merge, visit);
                }
                Slot::Present(Target::Leaf { pfn, prot }) => {
                    let leaf = self.tables.leaf_at(node.level, node.span(index).from, pfn, prot);
                    merge.push(leaf).map(&mut *visit);
                }
                Slot::Pending(..) | Slot::Empty => {}
            }
        }
    }

    pub(crate) fn root(&self) -> Node<'t, E, V> {
        let (pfn, level) = (self.tables.root(), self.tables.shape().root());
        // SAFETY: the root came from `alloc_table` for its level, and is given back only when the tables are dropped.
        unsafe { Node::new(self.tables, pfn, level, 0) }
    }

    pub(crate) fn child(&self, node: Node<'t, E, V>, index: u64, pfn: Pfn) -> Node<'t, E, V> {
        // SAFETY: the reader entered before the entry was loaded, and whoever gives a table back waits for readers after it
        // emptied or detached the entry. So the table outlives `self`, and what leaves the methods of a reader borrows it. It is
        // only read.
        unsafe { node.child(index, pfn) }
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Reader<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.guard;
        f.debug_struct("Reader").field("tables", self.tables).finish()
    }
}
