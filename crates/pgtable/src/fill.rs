// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing entries where there are none: look, take the tables that are missing, look again, publish.

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_sync::mutant;

use crate::node::{Node, Span};
use crate::shape::{MAX_LEVELS, Shape, named};
use crate::stash::{Need, Stash};
use crate::tables::Locked;
use crate::{Backing, Entry, Error, Prot, Slot, TableEnv, Tables, Target};

/// Where entries lead.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// To leaves: a frame for the first, and how many frames further the next is.
    Leaves { pfn: Pfn, step: u64, prot: Prot },
    /// To a shared table.
    Shared { pfn: Pfn },
    /// To a private table: one entry only.
    Table { pfn: Pfn },
}

impl Fill {
    /// Leaves of `order`.
    pub(crate) const fn new(backing: Backing, order: Order, prot: Prot) -> Self {
        match backing {
            Backing::Run(pfn) => Self::Leaves { pfn, step: order.frames(), prot },
            Backing::Repeat(pfn) => Self::Leaves { pfn, step: 0, prot },
        }
    }

    #[inline]
    pub(crate) fn target(self, index: u64) -> Target {
        match self {
            // `Tables::leaves` checked that the last frame exists.
            Self::Leaves { pfn, step, prot } => {
                Target::Leaf { pfn: pfn.checked_add(index * step).unwrap_or(Pfn::MAX), prot }
            }
            Self::Shared { pfn } => Target::Shared { pfn },
            Self::Table { pfn } => Target::Table { pfn },
        }
    }
}

/// Entries of `level` over `span`, which is aligned to them.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) span: Span,
    pub(crate) level: u8,
    /// Where the first of them leads, and the others.
    pub(crate) fill: Fill,
}

impl Part {
    /// The part, cut where tables of its level end.
    fn by_table(self, shape: &Shape) -> impl Iterator<Item = Piece> {
        let mut rest = Some(self.span);
        core::iter::from_fn(move || {
            let Span { from, last } = rest?;
            let table = shape.table(from, self.level);
            let span = Span { from, last: last.min(table.last) };
            rest = (span.last < last).then(|| Span { from: span.last + 1, last });
            let nth = (from - self.span.from) >> shape.shift(self.level);
            Some(Piece { span, table, nth, part: self })
        })
    }
}

/// What of a part lies in one table.
#[derive(Clone, Copy)]
struct Piece {
    span: Span,
    /// What the table translates.
    table: Span,
    /// Entries of the part before it.
    nth: u64,
    part: Part,
}

impl Piece {
    fn level(&self) -> u8 {
        self.part.level
    }

    fn write<E: Entry, V: TableEnv>(&self, node: &Node<'_, E, V>) {
        let target = |nth| Slot::Present(self.part.fill.target(self.nth + nth));
        if node.level == 0 {
            return node.fill_last(self.span, target);
        }
        for ((index, _), nth) in node.indices(self.span).zip(0..) {
            node.set(index, target(nth));
        }
    }
}

/// What was found out about the table of the piece before: most pieces go where that one went.
struct Known<T> {
    level: u8,
    table: Span,
    what: T,
}

impl<T: Copy> Known<T> {
    fn new(piece: &Piece, what: T) -> Self {
        Self { level: piece.level(), table: piece.table, what }
    }

    fn of(known: &Option<Self>, piece: &Piece) -> Option<T> {
        let same = |known: &&Self| (known.level, known.table) == (piece.level(), piece.table);
        known.as_ref().filter(same).map(|known| known.what)
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Writes entries where there are none: all of `parts` or nothing. They ascend and do not overlap.
    pub(crate) fn fill(&self, parts: impl Iterator<Item = Part> + Clone, node: NodeId) -> Result<(), Error> {
        let mut stash = Stash::new(self, node);
        loop {
            let locked = self.lock();
            let need = locked.missing(parts.clone())?;
            if stash.covers(&need) {
                locked.install(parts, &mut stash);
                return Ok(());
            }
            drop(locked);
            stash.fill(&need)?;
        }
    }
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    /// The table of `level` with the entry of `position`, or the first on the way whose entry leads to no private table.
    fn find_to(&self, position: u64, level: u8) -> (Node<'t, E, V>, u64, Slot) {
        let mut node = self.root();
        loop {
            let index = node.index(position);
            let slot = node.slot(index);
            match slot {
                Slot::Present(Target::Table { pfn }) if node.level > level => {
                    // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under it.
                    node = unsafe { node.child(index, pfn) };
                }
                _ => return (node, index, slot),
            }
        }
    }

    /// How many tables are missing for `parts`, by level; an error if something is in the way.
    fn missing(&self, parts: impl Iterator<Item = Part>) -> Result<Need, Error> {
        let shape = self.tables.shape();
        let mut need: Need = Default::default();
        // The last table counted at each level. Positions ascend, so none comes again later.
        let mut counted = [None; MAX_LEVELS];
        // The table, if it is there.
        let mut last: Option<Known<Option<Node<'t, E, V>>>> = None;
        for piece in parts.flat_map(|part| part.by_table(shape)) {
            let (level, from) = (piece.level(), piece.span.from);
            let room = match Known::of(&last, &piece) {
                Some(room) => room,
                None => match self.find_to(from, level) {
                    (node, ..) if node.level == level => Some(node),
                    (node, _, Slot::Empty) => {
                        for below in level..node.level {
                            let (at, table) = (usize::from(below), from >> shape.shift(below + 1));
                            need[at] += u64::from(counted[at] != Some(table));
                            counted[at] = Some(table);
                        }
                        None
                    }
                    (node, _, slot) => return Err(self.in_the_way(&node, slot, from)),
                },
            };
            if let Some(node) = room
                && let Some((index, slot)) = node.find_not(piece.span, |slot| slot == Slot::Empty)
            {
                return Err(self.in_the_way(&node, slot, node.span(index).from));
            }
            last = Some(Known::new(&piece, room));
        }
        Ok(need)
    }

    fn in_the_way(&self, node: &Node<'t, E, V>, slot: Slot, position: u64) -> Error {
        let va = self.tables.va(position);
        match slot {
            Slot::Pending(..) => Error::Pending { va },
            _ => Error::Occupied { va, level: named(node.level) },
        }
    }

    /// Writes the entries. `missing` has found room, and the stash covers what it counted.
    fn install(&self, parts: impl Iterator<Item = Part>, stash: &mut Stash<'t, E, V>) {
        let shape = self.tables.shape();
        let mut last: Option<Known<Node<'t, E, V>>> = None;
        for piece in parts.flat_map(|part| part.by_table(shape)) {
            if let Some(node) = Known::of(&last, &piece) {
                piece.write(&node);
                continue;
            }
            let (level, from) = (piece.level(), piece.span.from);
            let (mut node, index, _) = mutant!(
                "pgtable-blind-install",
                self.find_to(from, level),
                (self.root(), self.root().index(from), Slot::Empty)
            );
            if node.level > level {
                node = new_tables(&node, index, &piece, stash);
            } else {
                piece.write(&node);
            }
            last = Some(Known::new(&piece, node));
        }
    }
}

/// Makes the tables that `piece` needs below an empty entry of `parent`, fills them, and publishes them. Returns the last.
fn new_tables<'t, E: Entry, V: TableEnv>(
    parent: &Node<'t, E, V>,
    index: u64,
    piece: &Piece,
    stash: &mut Stash<'t, E, V>,
) -> Node<'t, E, V> {
    let Some(pfn) = stash.pop(parent.level - 1) else { unreachable!("the stash covers what is missing") };
    // SAFETY: just popped from the stash for this level, so unpublished and ours.
    let child = unsafe { parent.child(index, pfn) };
    let table = Slot::Present(Target::Table { pfn });
    if mutant!("pgtable-publish-before-fill", false, true) {
        parent.set(index, table);
    }
    let last = if child.level > piece.level() {
        new_tables(&child, child.index(piece.span.from), piece, stash)
    } else {
        piece.write(&child);
        child
    };
    parent.set(index, table);
    last
}
