// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: consecutive entries of one table, as they lie in memory, to be read and read again.

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;

/// What the walker has to know of an entry format, besides how to [decode](crate::AddressSpace::decode) one entry.
///
/// The contract: where `e` is a leaf, and another entry of its row is equal to `e + k * (frames << step_shift)` but for
/// bits in `ignored`, that one maps the frames `k * frames` further, and allows the same; `frames` is what one entry of the
/// row maps. So the walker decodes the first entry of a run and compares the others as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// log2 of the bytes of a base page: 12, 14 or 16 with the processors that there are. Below 32.
    pub base_shift: u32,
    /// The first address that no user can have. Linux: `TASK_SIZE_MAX`.
    pub limit: VirtAddr,
    /// Bits of an entry that may change while it maps the same and allows the same: accessed, dirty.
    pub ignored: u64,
    /// The bit of an entry that one frame more adds.
    pub step_shift: u32,
}

impl Format {
    /// The bits of an entry that count.
    #[inline]
    pub(crate) fn mask(&self) -> u64 {
        !self.ignored
    }
}

bitflags! {
    /// What a leaf allows, as far as it matters here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct LeafFlags: u8 {
        /// Users may write through it.
        const WRITE = 1 << 0;
        /// It was made inaccessible so that the next access is noticed, and is a leaf otherwise. Linux: `pte_protnone`,
        /// NUMA hinting.
        const HINT = 1 << 1;
        /// It was made read-only so that the next write is noticed (soft-dirty, userfaultfd), and that is not done yet.
        const WATCHED = 1 << 2;
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing that leads to memory: an access faults.
    Absent,
    /// It maps what has no descriptor, or is not to be held by anybody: device registers, the like. Linux: `pte_special`.
    Special,
    /// A leaf.
    Leaf {
        /// The first frame that it maps.
        pfn: Pfn,
        /// What it allows.
        flags: LeafFlags,
    },
}

/// Consecutive entries of one table that are not tables themselves. Each is loaded, never stored to.
#[derive(Clone, Copy)]
pub struct Row<'r> {
    cells: &'r [AtomicU64],
    order: Order,
    above: Option<(&'r AtomicU64, u64)>,
}

impl<'r> Row<'r> {
    /// `cells`, each of which maps `2^order` frames; empty where there is no table.
    #[inline]
    #[must_use]
    pub fn new(cells: &'r [AtomicU64], order: Order) -> Self {
        Self { cells, order, above: None }
    }

    /// The same, and the entry that led to the table was found to be `seen`. A walker that takes no lock looks at it again:
    /// for tables that are taken out of use with entries still in them. Linux: the second look at the PMD.
    #[inline]
    #[must_use]
    pub fn below(self, entry: &'r AtomicU64, seen: u64) -> Self {
        Self { above: Some((entry, seen)), ..self }
    }

    /// The entries.
    #[inline]
    pub(crate) fn cells(&self) -> &'r [AtomicU64] {
        self.cells
    }

    /// log2 of the frames that each entry maps.
    #[inline]
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Whether the entry that led to the table is still the one that was found.
    #[inline]
    pub(crate) fn is_linked(&self, format: &Format) -> bool {
        self.above.is_none_or(|(entry, seen)| (entry.load(Ordering::Relaxed) ^ seen) & format.mask() == 0)
    }
}

impl core::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Row").field("len", &self.len()).field("order", &self.order).finish_non_exhaustive()
    }
}

/// Where rows come from: page tables that somebody looks at, with or without a lock.
pub trait Rows {
    /// The entries from the one that translates `at` on, as many as lie one behind the other in one table, are no tables, and
    /// translate addresses below `end`. Empty where no table has an entry for `at`.
    ///
    /// `at` is below `end`, and both are multiples of a base page. The row may end earlier than it has to, but has the entry
    /// of `at`. The tables stay readable for as long as the row is borrowed. Loads of entries that lead to tables are of
    /// Acquire ordering.
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_>;
}
