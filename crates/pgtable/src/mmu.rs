// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processors that walk tables and cache what they find.

use core::cell::Cell;
use core::fmt;

use mmkit_addr::{Level, VirtRange};
use mmkit_sync::atomic::{AtomicU64, Ordering};

/// The machine behind the tables. `()` is none: software tables, whose only walkers are readers.
///
/// Memory that is mapped by a real processor is safe from reuse only if `flush` does what it says; whoever loads a root
/// into a processor promises that it does, there.
pub trait Mmu {
    /// Removes what any processor caches of translations in `ranges`: leaves, and upper entries that lead to them.
    /// Returns when it is done everywhere. Called without locks held.
    fn flush(&self, ranges: &[VirtRange]) {
        let _ = ranges;
    }

    /// Called before a live entry is replaced by one with another output address, with the lock of the tables held.
    ///
    /// Returning `Ok` without having touched `change` lets the entry be replaced by one store, which is what most
    /// machines allow. A machine that asks for break-before-make stops its other processors, calls [`Change::clear`],
    /// flushes, calls [`Change::write`], and lets them go.
    ///
    /// # Errors
    ///
    /// [`TryAgain`] where it could not be done this time: the old entry is put back if it was cleared. An error after
    /// [`Change::write`] is ignored, the change stands.
    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        let _ = change;
        Ok(())
    }
}

impl Mmu for () {}

impl<M: Mmu + ?Sized> Mmu for &M {
    fn flush(&self, ranges: &[VirtRange]) {
        (**self).flush(ranges);
    }

    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        (**self).replace(change)
    }
}

/// A live entry could not be replaced this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TryAgain;

impl fmt::Display for TryAgain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entry could not be replaced this time")
    }
}

impl core::error::Error for TryAgain {}

/// What a change does to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A leaf becomes a leaf of another frame.
    Leaf,
    /// A leaf becomes a table of smaller leaves of the same frames.
    Split,
    /// A shared table becomes a private one of the same leaves.
    Unshare,
}

/// A live entry that is about to be replaced.
#[derive(Debug)]
pub struct Change<'a> {
    pub(crate) cell: &'a AtomicU64,
    pub(crate) broken: u64,
    pub(crate) new: u64,
    pub(crate) kind: ChangeKind,
    pub(crate) level: Level,
    pub(crate) range: VirtRange,
    pub(crate) cleared: Cell<bool>,
    pub(crate) written: Cell<bool>,
}

impl Change<'_> {
    /// What is changed into what.
    #[must_use]
    pub const fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The entry's level.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The addresses that the entry translates.
    #[must_use]
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Breaks: makes the entry absent. Readers that take no lock find it pending meanwhile.
    pub fn clear(&self) {
        self.cleared.set(true);
        self.cell.store(self.broken, Ordering::Relaxed);
    }

    /// Makes: writes the new entry. Done by the tables where this is not called.
    pub fn write(&self) {
        self.written.set(true);
        // Release: pairs with the Acquire load of a walker, which follows the entry to what it leads to.
        self.cell.store(self.new, Ordering::Release);
    }
}
