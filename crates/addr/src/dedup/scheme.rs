// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways of backing the descriptors of compounds, and what they leave resident.

use core::fmt;

/// How many vmemmap pages a deduplicated compound keeps for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// The page with the head; all others map one tail page that is shared by all compounds of the same node, zone
    /// and order. What this kit builds (Linux: huge pages of HugeTLB since 5.18, device-dax in 2026).
    One,
    /// The page with the head and a tail page that all others of the *same* compound map. Here for comparison only
    /// (Linux: HugeTLB 5.14 to 5.17, device-dax 5.19 to 7.1).
    Two,
}

impl Keep {
    /// Vmemmap pages that each compound keeps.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// A way of backing the descriptors of compounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Every descriptor has memory of its own, mapped by leaves above the last level: no last-level tables.
    Flat,
    /// Every descriptor has memory of its own, mapped by base pages.
    FlatBase,
    /// [`Keep::Two`], each compound with last-level tables of its own.
    KeepTwo,
    /// [`Keep::Two`], and all last-level tables of a compound that map only its tail page are one (published for
    /// Linux in 2021, never merged).
    KeepTwoSharedTables,
    /// [`Keep::One`], each compound with last-level tables of its own.
    KeepOne,
    /// [`Keep::One`], and all last-level tables that map only the shared tail page are one table per node, zone and
    /// order. What this kit builds.
    KeepOneSharedTables,
}

impl Scheme {
    /// Every scheme, dearest first.
    pub const ALL: &'static [Self] = &[
        Self::FlatBase,
        Self::Flat,
        Self::KeepTwo,
        Self::KeepTwoSharedTables,
        Self::KeepOne,
        Self::KeepOneSharedTables,
    ];

    /// A short name, such as `"keep-1"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::FlatBase => "flat-base",
            Self::KeepTwo => "keep-2",
            Self::KeepTwoSharedTables => "keep-2-shared-tables",
            Self::KeepOne => "keep-1",
            Self::KeepOneSharedTables => "keep-1-shared-tables",
        }
    }

    /// What each compound keeps, or `None` where nothing is deduplicated.
    #[must_use]
    pub const fn keep(self) -> Option<Keep> {
        match self {
            Self::Flat | Self::FlatBase => None,
            Self::KeepTwo | Self::KeepTwoSharedTables => Some(Keep::Two),
            Self::KeepOne | Self::KeepOneSharedTables => Some(Keep::One),
        }
    }

    /// Whether last-level tables are shared.
    #[must_use]
    pub const fn shares_tables(self) -> bool {
        matches!(self, Self::KeepTwoSharedTables | Self::KeepOneSharedTables)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Memory that descriptors occupy, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Resident {
    /// Descriptors.
    pub data_bytes: u64,
    /// Last-level page tables, or the part of them that the entries fill. 0 where the architecture hashes. The levels
    /// above are not counted; [`TableShape::entry_bytes_for`](crate::TableShape::entry_bytes_for) sizes them.
    pub table_bytes: u64,
}

impl Resident {
    /// Descriptors and tables together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.data_bytes.saturating_add(self.table_bytes)
    }
}
