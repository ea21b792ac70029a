// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mapped, and what follows for the books.

use core::fmt;

use mmkit_page::MemMap;

use crate::References;

/// Which entries of one address space a batch consists of.
///
/// A folio has the size of at most one level above PTEs, so the entries that map all of it are PMDs or they are PUDs, in every
/// address space. Both are counted in one number, E; which of them a batch consists of decides about
/// [`Account::pmd_mapped`] alone. A caller who mixes the two for one folio gets a sum of `pmd_mapped` that follows the
/// first and the last such entry, whatever those were; every other count stays right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// `count` entries of the last level, which map the folio's pages from page `first` on, one each.
    Ptes {
        /// Index of the first page in the folio.
        first: u64,
        /// Pages, and entries: at least 1.
        count: u64,
    },
    /// One entry one level up, which maps the whole folio.
    Pmd,
    /// One entry two levels up, which maps the whole folio.
    Pud,
}

impl Mapping {
    /// One entry of the last level.
    #[must_use]
    pub const fn pte(index: u64) -> Self {
        Self::Ptes { first: index, count: 1 }
    }

    /// Whether one entry maps the whole folio.
    #[must_use]
    pub const fn is_entire(self) -> bool {
        matches!(self, Self::Pmd | Self::Pud)
    }
}

/// Whose memory a folio holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Anonymous memory: [`PageFlags::ANON`](mmkit_page::PageFlags::ANON) is set.
    Anon,
    /// Memory of a file.
    File,
}

/// What an operation changed, for the caller's statistics and lists. `docs/mapcounts.md` says what users see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "somebody keeps statistics"]
pub struct Account {
    /// Which of the two statistics `mapped` belongs to.
    pub kind: Kind,
    /// Pages that became mapped, or, negative, are no longer. Linux: `NR_ANON_MAPPED`, `NR_FILE_MAPPED`.
    pub mapped: i64,
    /// Pages that became mapped by PMDs, or are no longer. Linux: `NR_ANON_THPS`, `NR_FILE_PMDMAPPED`.
    pub pmd_mapped: i64,
    /// The folio, an anonymous one, was just found to be mapped in part: a candidate for splitting. Said once in the
    /// life of a folio; [`PageFlags::PARTIALLY_MAPPED`](mmkit_page::PageFlags::PARTIALLY_MAPPED) is set since.
    pub became_partially_mapped: bool,
    /// Mappings that the folio has now, by all.
    pub mappings: u32,
}

impl Account {
    /// Change in pages of anonymous memory that are mapped.
    #[must_use]
    pub fn anon_mapped(&self) -> i64 {
        if self.kind == Kind::Anon { self.mapped } else { 0 }
    }

    /// Change in pages of files that are mapped.
    #[must_use]
    pub fn file_mapped(&self) -> i64 {
        if self.kind == Kind::File { self.mapped } else { 0 }
    }

    /// Whether the last mapping is gone.
    #[must_use]
    pub fn is_unmapped(&self) -> bool {
        self.mappings == 0
    }
}

/// Mappings are gone: what to account, and the references that they had.
#[must_use = "the references are given back when this is dropped: flush first"]
pub struct Unmapped<'m, M: MemMap> {
    /// What changed.
    pub account: Account,
    /// One reference for each mapping.
    pub references: References<'m, M>,
}

impl<M: MemMap> fmt::Debug for Unmapped<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmapped")
            .field("account", &self.account)
            .field("references", &self.references)
            .finish()
    }
}
