// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables for people to read.

use core::fmt;

use mmkit_addr::Pfn;

use crate::{Entry, Prot, Slot, TableEnv, Tables, Target, Visited};

/// Displays tables, one line per run of entries that continue each other; see [`Tables::dump`].
pub struct Dump<'t, E: Entry, V: TableEnv>(&'t Tables<E, V>);

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// What is mapped, for people: one line per run of entries of one level that allow the same and map consecutive
    /// frames, or all the same frame.
    ///
    /// Walked in a reader, without the lock: what changes meanwhile may be shown or not.
    #[must_use]
    pub const fn dump(&self) -> Dump<'_, E, V> {
        Dump(self)
    }
}

/// Entries that continue each other.
#[derive(Clone, Copy)]
struct Run {
    first: Visited,
    /// The last address.
    last: u64,
    pfn: Pfn,
    entries: u64,
    /// Frames from one entry to the next; undecided for one entry.
    step: Option<u64>,
}

impl Run {
    const fn new(first: Visited, pfn: Pfn) -> Self {
        let last = first.range.start().get() + (first.range.bytes() - 1);
        Self { first, last, pfn, entries: 1, step: None }
    }

    /// Takes `next` in if it continues the run.
    fn extend(&mut self, next: Visited, pfn: Pfn, frames: u64) -> bool {
        let same = (next.level, next.shared, kind(next.slot))
            == (self.first.level, self.first.shared, kind(self.first.slot));
        let adjoins = self.last.checked_add(1) == Some(next.range.start().get());
        let step = [frames, 0].into_iter().find(|&step| {
            self.step.is_none_or(|decided| decided == step)
                && step.checked_mul(self.entries).and_then(|ahead| self.pfn.checked_add(ahead)) == Some(pfn)
        });
        if !same || !adjoins || step.is_none() {
            return false;
        }
        self.step = step;
        self.entries += 1;
        self.last += next.range.bytes();
        true
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, frames: u64) -> fmt::Result {
        let (start, pfn, level) = (self.first.range.start().get(), self.pfn.get(), self.first.level.get());
        write!(f, "{start:#018x}..={:#018x}  level {level}  ", self.last)?;
        let (what, prot, pending) = kind(self.first.slot);
        let entries = self.entries;
        match (what, self.step) {
            (Kind::Leaf, Some(0)) => write!(f, "pfn {pfn:#x} x {entries}")?,
            (Kind::Leaf, _) => write!(f, "pfns {pfn:#x}..={:#x}", pfn + (frames * entries - 1))?,
            (Kind::Table, _) => write!(f, "table at pfn {pfn:#x}")?,
            (Kind::Shared, _) => write!(f, "shared table at pfn {pfn:#x} x {entries}")?,
        }
        if let Some(prot) = prot {
            write!(f, "  {prot}")?;
        }
        if self.first.shared {
            f.write_str("  shared")?;
        }
        if pending {
            f.write_str("  pending")?;
        }
        writeln!(f)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Table,
    Shared,
}

/// What runs have in common: what it is, what it allows, whether it is pending.
const fn kind(slot: Slot) -> (Kind, Option<Prot>, bool) {
    let (target, pending) = match slot {
        Slot::Present(target) => (target, false),
        Slot::Pending(target, _) => (target, true),
        Slot::Empty => return (Kind::Table, None, false),
    };
    match target {
        Target::Leaf { prot, .. } => (Kind::Leaf, Some(prot), pending),
        Target::Table { .. } => (Kind::Table, None, pending),
        Target::Shared { .. } => (Kind::Shared, None, pending),
    }
}

impl<E: Entry, V: TableEnv> fmt::Display for Dump<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.0;
        writeln!(f, "{} tables of {}, root at {:?}", E::NAME, tables.geometry(), tables.root())?;
        let frames = |entry: &Visited| tables.shape().leaf_order(entry.level.get()).frames();
        let mut run: Option<Run> = None;
        let mut result = Ok(());
        tables.read().visit_all(|entry| {
            let (Slot::Present(target) | Slot::Pending(target, _)) = entry.slot else { return };
            let pfn = target.pfn();
            if run.as_mut().is_some_and(|run| run.extend(entry, pfn, frames(&entry))) {
                return;
            }
            if let Some(done) = run.replace(Run::new(entry, pfn)) {
                result = result.and_then(|()| done.write(f, frames(&done.first)));
            }
        });
        result?;
        run.map_or(Ok(()), |run| run.write(f, frames(&run.first)))?;
        let levels = (0..=tables.shape().root()).rev();
        f.write_str("tables by level, from the root:")?;
        for level in levels {
            write!(f, " {}", tables.tables_at(crate::shape::named(level)))?;
        }
        writeln!(f, "; {} frames", tables.table_frames())
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Dump<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
