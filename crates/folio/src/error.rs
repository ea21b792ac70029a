// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why mappings could not be counted.

use core::fmt;

use mmkit_addr::Order;
use mmkit_page::GetError;

use crate::MmId;

/// Why an operation on a folio's mappings was refused. Nothing was changed.
///
/// What a refusal can see is what the counts show. Trackers that keep constant space cannot show every unmap of what
/// was never mapped; the feature `test-util` has one that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// A batch of no entries.
    Empty,
    /// The batch reaches past the folio.
    PastEnd {
        /// The first page of the batch.
        first: u64,
        /// Pages in the batch.
        count: u64,
        /// Pages in the folio.
        pages: u64,
    },
    /// One entry cannot map the whole folio: it has a single page, which a PTE maps.
    SinglePage,
    /// Each page is counted by itself, and this folio's descriptors are shared.
    SharedTails {
        /// The folio's order.
        order: Order,
    },
    /// Each page is counted by itself, and this folio has more pages than the counter of mapped pages can hold.
    TooManyPages {
        /// Pages in the folio.
        pages: u64,
    },
    /// The block is not a compound, so its pages have no folio in common.
    NotCompound {
        /// The block's order.
        order: Order,
    },
    /// More mappings than can be counted.
    Overflow {
        /// Mappings that there are.
        mappings: u32,
        /// Mappings to be added.
        adding: u64,
    },
    /// No references for the mappings.
    References(GetError),
    /// More mappings to be removed than there are.
    TooFew {
        /// Mappings that there are.
        mappings: u32,
        /// Mappings to be removed.
        removing: u32,
    },
    /// The mappings that there are, or some of them, are not this address space's.
    NotTheirs {
        /// The address space.
        mm: MmId,
        /// Mappings to be removed.
        removing: u32,
        /// Mappings of the folio, by all.
        mappings: u32,
    },
    /// A page of the batch is not mapped by a PTE.
    PageNotMapped {
        /// Its index in the folio.
        index: u64,
    },
    /// The folio is not mapped by a PMD or PUD.
    EntireNotMapped,
    /// The folio may be pinned and a page of the batch is exclusive: a child gets a copy at once.
    PinnedExclusive {
        /// The first such page.
        index: u64,
        /// Pins of the folio.
        pins: u32,
    },
    /// More pins to be removed than there are.
    TooFewPins {
        /// Pins that there are.
        pins: u32,
        /// Pins to be removed.
        removing: u32,
    },
    /// Only anonymous pages are exclusive.
    NotAnon,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a batch of no entries"),
            Self::PastEnd { first, count, pages } => {
                write!(f, "{count} pages from page {first} reach past a folio of {pages}")
            }
            Self::SinglePage => f.write_str("a folio of one page is mapped by a PTE only"),
            Self::SharedTails { order } => {
                write!(f, "pages of a folio of {order:?} with shared descriptors cannot be counted singly")
            }
            Self::TooManyPages { pages } => {
                write!(f, "a folio of {pages} pages has too many to count singly")
            }
            Self::NotCompound { order } => write!(f, "a block of {order:?} that is no compound"),
            Self::Overflow { mappings, adding } => {
                write!(f, "{adding} more mappings than {mappings} are too many")
            }
            Self::References(error) => write!(f, "no references for the mappings: {error}"),
            Self::TooFew { mappings, removing } => {
                write!(f, "{removing} mappings cannot be removed from {mappings}")
            }
            Self::NotTheirs { mm, removing, mappings } => {
                write!(f, "{removing} of {mappings} mappings cannot be removed for {mm:?}: it has fewer")
            }
            Self::PageNotMapped { index } => write!(f, "page {index} is not mapped"),
            Self::EntireNotMapped => f.write_str("the folio is not mapped as a whole"),
            Self::PinnedExclusive { index, pins } => {
                write!(f, "page {index} is exclusive, and its folio has {pins} pins")
            }
            Self::TooFewPins { pins, removing } => {
                write!(f, "{removing} pins cannot be removed from {pins}")
            }
            Self::NotAnon => f.write_str("the folio is not anonymous"),
        }
    }
}

impl core::error::Error for MapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::References(error) => Some(error),
            _ => None,
        }
    }
}

impl From<GetError> for MapError {
    fn from(error: GetError) -> Self {
        Self::References(error)
    }
}
