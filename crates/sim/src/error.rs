// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a world and its address spaces refuse.

use std::fmt;

use mmkit_addr::{Order, VirtAddr, VirtRange};
use mmkit_folio::{IdsExhausted, MapError};
use mmkit_frame::AllocError;
use mmkit_gup::{BadFlags, BadSpan, Refusal};
use mmkit_pgtable::Error as TableError;

use crate::FileId;

/// Why an operation was refused. Contents, mappings and counts are as before, but for faults that were served on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// This process cannot have as much memory.
    TooMuch {
        /// Frames that were asked for.
        frames: u64,
    },
    /// A range is empty, not of whole pages, or not in the lower half of the address space.
    BadRange {
        /// The range.
        range: VirtRange,
    },
    /// Folios of this order cannot be had.
    BadOrder {
        /// What was asked for.
        order: Order,
        /// The largest there is.
        max: Order,
    },
    /// Something is mapped in the range.
    Occupied {
        /// The first address in the way.
        va: VirtAddr,
    },
    /// The address is not in any area, or the range is not in one.
    NoArea {
        /// The first such address.
        va: VirtAddr,
    },
    /// The area does not allow writing.
    ReadOnly {
        /// The address.
        va: VirtAddr,
    },
    /// Another kind of area is needed there.
    WrongArea {
        /// The address.
        va: VirtAddr,
    },
    /// No PMD maps the address.
    NotHuge {
        /// The address.
        va: VirtAddr,
    },
    /// A page of the range is pinned: it cannot be replaced.
    Pinned {
        /// Its address.
        va: VirtAddr,
    },
    /// Somebody else has a page of the range: it cannot be replaced.
    Busy {
        /// Its address.
        va: VirtAddr,
    },
    /// There is no such file.
    NoFile {
        /// The file.
        file: FileId,
    },
    /// Beyond the end of the file.
    PastEnd {
        /// The file.
        file: FileId,
        /// The first byte past what was asked for.
        end: u64,
        /// Bytes that the file has.
        bytes: u64,
    },
    /// The pages are held to be read, not to be written.
    NotForWriting,
    /// Pages cannot be held.
    Refused(Refusal),
    /// Flags that do not go together.
    Flags(BadFlags),
    /// Not a range whose pages could be held.
    Span(BadSpan),
    /// No memory for a folio.
    Alloc(AllocError),
    /// There are as many address spaces as there can be.
    Ids(IdsExhausted),
    /// The page tables refused.
    Tables(TableError),
    /// The map counts refused.
    Counts(MapError),
    /// The page tables did not wait for readers: the calling thread is one.
    InsideReader,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooMuch { frames } => {
                write!(f, "{frames} frames are more than this process can have, or none")
            }
            Self::BadRange { range } => {
                write!(f, "{range:?} is not a range of whole pages in the lower half of the address space")
            }
            Self::BadOrder { order, max } => write!(f, "no folios of {order:?}, the largest are of {max:?}"),
            Self::Occupied { va } => write!(f, "{va:?} is in an area already"),
            Self::NoArea { va } => write!(f, "{va:?} is in no area"),
            Self::ReadOnly { va } => write!(f, "the area of {va:?} may not be written"),
            Self::WrongArea { va } => write!(f, "not possible in the kind of area that {va:?} is in"),
            Self::NotHuge { va } => write!(f, "{va:?} is not mapped by a PMD"),
            Self::Pinned { va } => write!(f, "the page at {va:?} is pinned"),
            Self::Busy { va } => write!(f, "others have the page at {va:?}"),
            Self::NoFile { file } => write!(f, "there is no {file:?}"),
            Self::PastEnd { file, end, bytes } => write!(f, "{file:?} has {bytes} bytes, not {end}"),
            Self::NotForWriting => f.write_str("the pages are held to be read, not to be written"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Flags(error) => error.fmt(f),
            Self::Span(error) => error.fmt(f),
            Self::Alloc(error) => error.fmt(f),
            Self::Ids(error) => error.fmt(f),
            Self::Tables(error) => write!(f, "page tables: {error}"),
            Self::Counts(error) => write!(f, "map counts: {error}"),
            Self::InsideReader => {
                f.write_str("the calling thread reads the page tables that it wants to flush")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Flags(error) => Some(error),
            Self::Span(error) => Some(error),
            Self::Alloc(error) => Some(error),
            Self::Ids(error) => Some(error),
            Self::Tables(error) => Some(error),
            Self::Counts(error) => Some(error),
            _ => None,
        }
    }
}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<Refusal> for Error {
    /// What loads and stores are refused for, too, has the same name here.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoArea { va } => Self::NoArea { va },
            Refusal::NotWritable { va } => Self::ReadOnly { va },
            refusal => Self::Refused(refusal),
        }
    }
}

impl From<BadFlags> for Error {
    fn from(error: BadFlags) -> Self {
        Self::Flags(error)
    }
}

impl From<BadSpan> for Error {
    fn from(error: BadSpan) -> Self {
        Self::Span(error)
    }
}

impl From<IdsExhausted> for Error {
    fn from(error: IdsExhausted) -> Self {
        Self::Ids(error)
    }
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        Self::Tables(error)
    }
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Counts(error)
    }
}
