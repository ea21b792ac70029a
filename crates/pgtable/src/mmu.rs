// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processors that walk tables and cache what they find.

use core::cell::Cell;
use core::fmt;

use mmkit_addr::{Level, VirtRange};
use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::mutant;

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
    /// machines allow. A machine that asks for break-before-make calls [`Change::clear`], flushes [`Change::range`] from
    /// all processors, and calls [`Change::write`].
    ///
    /// Processors that use the range in between fault. Either none does, because the machine stops the others first and
    /// lets them go last; or the fault handler walks ([`Tables::walk`](crate::Tables::walk), which takes no lock and finds
    /// what was mapped or what will be), sees that the access is allowed, and returns to try it again. The code in between
    /// itself uses no address of the range, and no lock that the handler takes.
    ///
    /// # Errors
    ///
    /// [`TryAgain`] where it could not be done this time: the old entry is put back if it was cleared. An error after
    /// [`Change::write`] is ignored, the change stands.
    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        let _ = change;
        Ok(())
    }

    /// Whether every live entry may be replaced by one store, so that [`replace`](Self::replace) need not be asked. It
    /// never changes.
    fn replaces_in_place(&self) -> bool {
        false
    }
}

impl Mmu for () {
    fn replaces_in_place(&self) -> bool {
        true
    }
}

impl<M: Mmu + ?Sized> Mmu for &M {
    fn flush(&self, ranges: &[VirtRange]) {
        (**self).flush(ranges);
    }

    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        (**self).replace(change)
    }

    fn replaces_in_place(&self) -> bool {
        (**self).replaces_in_place()
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
    /// A table or a large leaf becomes another table, some of whose leaves are of other frames; or the other way round.
    Table,
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

    /// Breaks: makes the entry absent for processors. [`Reader`](crate::Reader)s go on finding what it led to. Does nothing
    /// after [`write`](Self::write): what the entry led to is given up then, and nobody may find it again.
    pub fn clear(&self) {
        if mutant!("pgtable-break-after-make", self.written.get(), false) {
            return;
        }
        self.cleared.set(true);
        // Release: pairs with the Acquire load of a walker, which follows the broken entry to what it led to.
        let order = mutant!("pgtable-relaxed-break", Ordering::Release, Ordering::Relaxed);
        self.cell.store(self.broken, order);
    }

    /// Makes: writes the new entry. Done by the tables where this is not called.
    pub fn write(&self) {
        self.written.set(true);
        // Release: pairs with the Acquire load of a walker, which follows the entry to what it leads to.
        self.cell.store(self.new, Ordering::Release);
    }
}
