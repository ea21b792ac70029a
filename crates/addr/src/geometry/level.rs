// SPDX-License-Identifier: MIT OR Apache-2.0
//! Levels of a page table and the shape of the tables at each.

use core::fmt;

use crate::VirtAddr;

/// A level of a page table, counted from the leaf up: 0 holds the entries that map base pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Level(u8);

impl Level {
    /// The last level, whose entries map base pages (Linux: PTE).
    pub const LAST: Self = Self(0);
    /// The highest level that a [`Geometry`](crate::Geometry) may have.
    pub const MAX: Self = Self(5);
    /// Number of levels that can be named.
    pub const COUNT: usize = Self::MAX.0 as usize + 1;

    /// Level `level`, or `None` above [`Level::MAX`].
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if level <= Self::MAX.0 { Some(Self(level)) } else { None }
    }

    /// The level's number, 0 at the leaf.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The level whose entries point to tables of this level, or `None` above [`Level::MAX`].
    #[must_use]
    pub const fn up(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The level of the tables that entries of this level point to, or `None` below [`Level::LAST`].
    #[must_use]
    pub const fn down(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(level) => Some(Self(level)),
            None => None,
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

/// The shape of the tables at one level: how many entries they have and how much memory an entry spans.
///
/// Only a [`Geometry`](crate::Geometry) makes these, so every span fits 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableShape {
    level: Level,
    index_bits: u8,
    entry_shift: u8,
    leaf: bool,
}

impl TableShape {
    /// Bytes of one entry.
    pub const ENTRY_BYTES: u64 = 8;

    pub(super) const fn new(level: Level, index_bits: u8, entry_shift: u8, leaf: bool) -> Self {
        Self { level, index_bits, entry_shift, leaf }
    }

    /// The level.
    #[must_use]
    pub const fn level(self) -> Level {
        self.level
    }

    /// Bits of a virtual address that choose an entry.
    #[must_use]
    pub const fn index_bits(self) -> u32 {
        self.index_bits as u32
    }

    /// Entries in a table.
    #[must_use]
    pub const fn entries(self) -> u64 {
        1 << self.index_bits
    }

    /// Bytes of a table. Not always a base page: less at a narrow root or in s390x page tables, more in its segment
    /// tables.
    #[must_use]
    pub const fn table_bytes(self) -> u64 {
        self.entries() * Self::ENTRY_BYTES
    }

    /// log2 of [`TableShape::entry_span`]: the lowest virtual address bit that chooses an entry.
    #[must_use]
    pub const fn entry_shift(self) -> u32 {
        self.entry_shift as u32
    }

    /// Bytes of virtual memory that one entry spans.
    #[must_use]
    pub const fn entry_span(self) -> u64 {
        1 << self.entry_shift
    }

    /// Bytes of virtual memory that a whole table spans, or `None` where that is all 2^64.
    #[must_use]
    pub const fn table_span(self) -> Option<u64> {
        1u64.checked_shl(self.entry_shift() + self.index_bits())
    }

    /// Bytes of the entries that span `bytes` bytes of virtual memory from a multiple of [`TableShape::entry_span`]: a
    /// begun span counts an entry.
    #[must_use]
    pub const fn entry_bytes_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.entry_span()) * Self::ENTRY_BYTES
    }

    /// Whether an entry of this level may map memory instead of pointing to a table.
    #[must_use]
    pub const fn may_be_leaf(self) -> bool {
        self.leaf
    }

    /// The number of the entry that translates `addr` in the table it belongs to, below [`TableShape::entries`].
    #[must_use]
    pub const fn index_of(self, addr: VirtAddr) -> usize {
        ((addr.get() >> self.entry_shift) & (self.entries() - 1)) as usize
    }
}

impl fmt::Debug for TableShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = if self.leaf { ", leaf" } else { "" };
        write!(f, "{:?}: {} bits at {}{leaf}", self.level, self.index_bits, self.entry_shift)
    }
}

static_assertions::assert_eq_size!(Level, u8);
static_assertions::assert_eq_size!(TableShape, u32);
