// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapping: look, take the tables that are missing, look again, publish.

use mmkit_addr::{Level, NodeId, Pfn, PfnRange, VirtRange};
use mmkit_sync::mutant;

use crate::node::{Node, Span};
use crate::shape::named;
use crate::stash::{Need, Stash};
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

/// Where the entries of one mapping lead.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// To leaves: a frame for the first, and how many frames further the next is.
    Leaves { pfn: Pfn, step: u64, prot: Prot },
    /// To a shared table.
    Shared { pfn: Pfn },
}

impl Fill {
    pub(crate) fn target(self, index: u64) -> Target {
        match self {
            // The caller of `Fill::leaves` checked that the last frame exists.
            Self::Leaves { pfn, step, prot } => {
                Target::Leaf { pfn: pfn.checked_add(index * step).unwrap_or(Pfn::MAX), prot }
            }
            Self::Shared { pfn } => Target::Shared { pfn },
        }
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
        let Mapping { level, backing, prot, node } = mapping;
        let span = self.span(range)?;
        if !self.shape().is_leaf(level.get()) {
            return Err(Error::BadLevel { level });
        }
        let level = level.get();
        let leaf = self.shape().span(level);
        aligned(range.start().get(), leaf)?;
        aligned(range.bytes(), leaf)?;
        let fill = self.leaves(level, backing, prot, range.bytes() / leaf)?;
        self.fill(span, level, fill, node)
    }

    /// `count` leaves at `level`, checked to be sayable.
    pub(crate) fn leaves(&self, level: u8, backing: Backing, prot: Prot, count: u64) -> Result<Fill, Error> {
        let (pfn, order) = (backing.pfn(), self.shape().leaf_order(level));
        aligned(pfn.get(), order.frames())?;
        let (frames, step) = match backing {
            Backing::Run(_) => (count << order.get(), order.frames()),
            Backing::Repeat(_) => (order.frames(), 0),
        };
        let run = PfnRange::new(pfn, frames).ok_or(Error::BadFrames { pfn, frames })?;
        let fill = Fill::Leaves { pfn, step, prot };
        // The highest frame is the last leaf's first.
        let highest = Pfn::new(run.end() - order.frames()).unwrap_or(Pfn::MAX);
        E::encode(Slot::Present(Target::Leaf { pfn: highest, prot }), named(level))?;
        Ok(fill)
    }

    /// Writes entries of `level` over `span`, which is aligned to them, where there are none.
    pub(crate) fn fill(&self, span: Span, level: u8, fill: Fill, node: NodeId) -> Result<(), Error> {
        let mut stash = Stash::new(self, node);
        loop {
            let locked = self.lock();
            let mut need: Need = Default::default();
            self.missing(locked.root(), span, level, &mut need)?;
            if stash.covers(&need) {
                self.install(locked.root(), span, level, (span.from, fill), &mut stash);
                return Ok(());
            }
            drop(locked);
            stash.fill(&need)?;
        }
    }

    /// Counts the tables that are missing for entries of `level` over `span`.
    fn missing(&self, node: Node<'_, E, V>, span: Span, level: u8, need: &mut Need) -> Result<(), Error> {
        for (index, part) in node.indices(span) {
            match node.slot(index) {
                Slot::Empty => {
                    for below in level..node.level {
                        let shift = self.shape().shift(below + 1);
                        need[usize::from(below)] += (part.last >> shift) - (part.from >> shift) + 1;
                    }
                }
                Slot::Present(Target::Table { pfn }) if node.level > level => {
                    // SAFETY: `fill` holds the lock, and what is linked is given back only after it was unlinked.
                    let child = unsafe { node.child(index, pfn) };
                    self.missing(child, part, level, need)?;
                }
                Slot::Present(_) => {
                    return Err(Error::Occupied { va: self.va(part.from), level: named(node.level) });
                }
                Slot::Pending(..) => return Err(Error::Pending { va: self.va(part.from) }),
            }
        }
        Ok(())
    }

    /// Writes the entries. `missing` has found room, and the stash covers what it counted.
    fn install(
        &self,
        node: Node<'_, E, V>,
        span: Span,
        level: u8,
        (origin, fill): (u64, Fill),
        stash: &mut Stash<'_, E, V>,
    ) {
        for (index, part) in node.indices(span) {
            if node.level == level {
                let nth = (part.from - origin) >> self.shape().shift(level);
                node.set(index, Slot::Present(fill.target(nth)));
                continue;
            }
            let slot = mutant!("pgtable-blind-install", node.slot(index), Slot::Empty);
            if let Slot::Present(Target::Table { pfn }) = slot {
                // SAFETY: `fill` holds the lock, and what is linked is given back only after it was unlinked.
                let child = unsafe { node.child(index, pfn) };
                self.install(child, part, level, (origin, fill), stash);
                continue;
            }
            let Some(pfn) = stash.pop(node.level - 1) else {
                unreachable!("the stash covers what is missing")
            };
            // SAFETY: just popped from the stash for this level, so unpublished and ours.
            let child = unsafe { node.child(index, pfn) };
            let table = Slot::Present(Target::Table { pfn });
            if mutant!("pgtable-publish-before-fill", false, true) {
                node.set(index, table);
            }
            self.install(child, part, level, (origin, fill), stash);
            node.set(index, table);
        }
    }
}
