// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping: what is asked for, and whether it can be said.

use mmkit_addr::{Level, NodeId, Pfn, PfnRange, VirtRange};

use crate::fill::{Fill, Part};
use crate::node::Span;
use crate::shape::named;
use crate::tables::aligned;
use crate::{Entry, Error, Prot, Slot, TableEnv, Tables, Target};

/// The frames behind a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Consecutive frames, the first of which is given.
    Run(Pfn),
    /// The same frame, or block of frames, behind every leaf of the range.
    Repeat(Pfn),
}

impl Backing {
    /// The first frame.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        match self {
            Self::Run(pfn) | Self::Repeat(pfn) => pfn,
        }
    }
}

/// What to map: the same for every leaf of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The level of the leaves; the last level maps single frames.
    pub level: Level,
    /// The frames.
    pub backing: Backing,
    /// What the leaves allow.
    pub prot: Prot,
    /// The node that new tables should be on.
    pub node: NodeId,
}

impl Mapping {
    /// Single frames, on node 0.
    #[must_use]
    pub const fn new(backing: Backing, prot: Prot) -> Self {
        Self { level: Level::LAST, backing, prot, node: NodeId::ZERO }
    }

    /// The same mapping with leaves at `level`.
    #[must_use]
    pub const fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The same mapping with its new tables on `node`.
    #[must_use]
    pub const fn on_node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Maps `range`, all of it or nothing. Nothing may be mapped there yet.
    ///
    /// The contents of the frames as they are now are visible to every walker that finds a leaf. Which frames are mapped is
    /// the caller's affair: the tables never touch what they map.
    ///
    /// Tables that are missing are taken before the lock is held, filled aside and published last; one entry per leaf,
    /// one per table, no flush (absent translations are not cached).
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::BadLevel`], [`Error::Misaligned`] (range or frame, to the
    /// leaves' size), [`Error::BadFrames`], [`Error::Encode`], [`Error::Occupied`], [`Error::Pending`], [`Error::Alloc`].
    /// Nothing has changed then.
    pub fn map(&self, range: VirtRange, mapping: Mapping) -> Result<(), Error> {
        let part = self.check_part(range, mapping)?;
        self.fill(core::iter::once(part), mapping.node)
    }

    /// Maps many ranges at once, all of them or nothing: what a fork does with the folios of a parent. The ranges ascend,
    /// and do not overlap.
    ///
    /// Whoever walks meanwhile may find some mapped and others not yet. New tables are on the first mapping's node.
    /// Cost: as [`map`](Self::map), with one lock for all, and one walk per last-level table.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`Error::BadRange`] also where a range does not begin behind the one before it. Nothing has
    /// changed then.
    pub fn map_all(&self, parts: &[(VirtRange, Mapping)]) -> Result<(), Error> {
        let Some((_, Mapping { node, .. })) = parts.first() else { return Ok(()) };
        let mut before = None;
        for &(range, mapping) in parts {
            let part = self.check_part(range, mapping)?;
            if before.is_some_and(|last| part.span.from <= last) {
                return Err(Error::BadRange { range });
            }
            before = Some(part.span.last);
        }
        self.fill(parts.iter().map(|&(range, mapping)| self.checked_part(range, mapping)), *node)
    }

    fn check_part(&self, range: VirtRange, mapping: Mapping) -> Result<Part, Error> {
        let Mapping { level, backing, prot, .. } = mapping;
        let span = self.span(range)?;
        if !self.shape().is_leaf(level.get()) {
            return Err(Error::BadLevel { level });
        }
        let level = level.get();
        let leaf = self.shape().span(level);
        aligned(range.start().get(), leaf)?;
        aligned(range.bytes(), leaf)?;
        let fill = self.leaves(level, backing, prot, range.bytes() >> self.shape().shift(level))?;
        Ok(Part { span, level, fill })
    }

    /// The same for what was checked before.
    fn checked_part(&self, range: VirtRange, mapping: Mapping) -> Part {
        let Mapping { level, backing, prot, .. } = mapping;
        let from = self.shape().canonical(range.start().get());
        let span = Span { from, last: from + (range.bytes() - 1) };
        let level = level.get();
        Part { span, level, fill: Fill::new(backing, self.shape().leaf_order(level), prot) }
    }

    /// `count` leaves at `level`, checked to be sayable.
    pub(crate) fn leaves(&self, level: u8, backing: Backing, prot: Prot, count: u64) -> Result<Fill, Error> {
        let (pfn, order) = (backing.pfn(), self.shape().leaf_order(level));
        aligned(pfn.get(), order.frames())?;
        let frames = match backing {
            Backing::Run(_) => count << order.get(),
            Backing::Repeat(_) => order.frames(),
        };
        let run = PfnRange::new(pfn, frames).ok_or(Error::BadFrames { pfn, frames })?;
        // The highest frame is the last leaf's first.
        let highest = Pfn::new(run.end() - order.frames()).unwrap_or(Pfn::MAX);
        E::encode(Slot::Present(Target::Leaf { pfn: highest, prot }), named(level))?;
        Ok(Fill::new(backing, order, prot))
    }
}
