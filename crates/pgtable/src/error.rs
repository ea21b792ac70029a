// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an operation on tables can be refused for.

use core::fmt;

use mmkit_addr::{Level, Pfn, VirtAddr, VirtRange};
use mmkit_frame::AllocError;

use crate::{EncodeError, Share};

/// Why an operation was refused. Whatever the reason, tables, counts and allocator balance are as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Geometry and frames do not agree on the size of a frame.
    FrameSize {
        /// log2 of the geometry's.
        geometry: u32,
        /// log2 of the direct map's.
        frames: u32,
    },
    /// The geometry has no tables, or the entry format does not fit it.
    Geometry {
        /// The geometry.
        geometry: &'static str,
        /// The format.
        format: &'static str,
    },
    /// The direct map has no pointer for a frame that the allocator handed out.
    Unreachable {
        /// The frame.
        pfn: Pfn,
    },
    /// The bits of an address above the translated ones are not copies of the highest translated bit.
    NotCanonical {
        /// The address.
        va: VirtAddr,
    },
    /// An address, a length or a frame is not a multiple of what the level asks for.
    Misaligned {
        /// What was given: bytes, or a frame number.
        value: u64,
        /// What it must be a multiple of, in the same unit.
        align: u64,
    },
    /// A range is empty or does not end inside the address space.
    BadRange {
        /// The range.
        range: VirtRange,
    },
    /// A run of frames passes the highest frame number.
    BadFrames {
        /// Its first frame.
        pfn: Pfn,
        /// Its frames.
        frames: u64,
    },
    /// There are no leaves or no such tables at this level.
    BadLevel {
        /// The level.
        level: Level,
    },
    /// The entry format cannot say it.
    Encode(EncodeError),
    /// No memory for a table.
    Alloc(AllocError),
    /// Something is mapped there.
    Occupied {
        /// The first address in the way.
        va: VirtAddr,
        /// The level of the entry.
        level: Level,
    },
    /// Nothing is mapped there.
    NotMapped {
        /// The first such address.
        va: VirtAddr,
    },
    /// Something there was unmapped and not flushed yet; or a flush is at work nearby: try again after it.
    Pending {
        /// The first such address.
        va: VirtAddr,
    },
    /// A leaf or a shared table reaches out of the range.
    Partial {
        /// The first address of the range in it.
        va: VirtAddr,
        /// The level of its entry.
        level: Level,
    },
    /// The address is mapped through a shared table, in which nothing may be changed.
    Shared {
        /// The address.
        va: VirtAddr,
    },
    /// The address is not mapped through a shared table.
    NotShared {
        /// The address.
        va: VirtAddr,
    },
    /// Another frame is mapped than was expected.
    Changed {
        /// The address.
        va: VirtAddr,
        /// The frame that is mapped.
        found: Pfn,
    },
    /// The machine could not update the entry this time.
    TryAgain {
        /// The address.
        va: VirtAddr,
    },
    /// No such shared table.
    NoShare {
        /// The name.
        share: Share,
    },
    /// The shared table is attached.
    ShareInUse {
        /// How many entries lead to it.
        attachments: u32,
    },
    /// The shared table has as many attachments as can be counted.
    ShareLimit {
        /// How many entries lead to it.
        attachments: u32,
    },
    /// There are as many shared tables as can be registered.
    TooManyShares {
        /// How many.
        shares: u32,
    },
    /// There are as many batches as can be told apart.
    TooManyBatches,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FrameSize { geometry, frames } => {
                write!(f, "the geometry has frames of 2^{geometry} bytes, the direct map of 2^{frames}")
            }
            Self::Geometry { geometry, format } => {
                write!(f, "{format} entries do not fit the tables of {geometry}")
            }
            Self::Unreachable { pfn } => {
                write!(f, "{pfn:?} came from the allocator and is not in the direct map")
            }
            Self::NotCanonical { va } => write!(f, "{va:?} is not canonical"),
            Self::Misaligned { value, align } => write!(f, "{value:#x} is not a multiple of {align:#x}"),
            Self::BadRange { range } => write!(f, "{range:?} is empty or leaves the address space"),
            Self::BadFrames { pfn, frames } => {
                write!(f, "{frames:#x} frames from {pfn:?} pass the last frame number")
            }
            Self::BadLevel { level } => write!(f, "no such leaf or table at {level:?}"),
            Self::Encode(error) => error.fmt(f),
            Self::Alloc(error) => write!(f, "no memory for a table: {error}"),
            Self::Occupied { va, level } => write!(f, "{va:?} is mapped already, at {level:?}"),
            Self::NotMapped { va } => write!(f, "{va:?} is not mapped"),
            Self::Pending { va } => write!(f, "{va:?} waits for a flush"),
            Self::Partial { va, level } => {
                write!(f, "the entry of {level:?} at {va:?} reaches out of the range")
            }
            Self::Shared { va } => write!(f, "{va:?} is mapped through a shared table"),
            Self::NotShared { va } => write!(f, "{va:?} is not mapped through a shared table"),
            Self::Changed { va, found } => write!(f, "{va:?} maps {found:?}, not the frame expected"),
            Self::TryAgain { va } => write!(f, "the machine could not update the entry of {va:?} this time"),
            Self::NoShare { share } => write!(f, "there is no {share:?}"),
            Self::ShareInUse { attachments } => write!(f, "{attachments} entries lead to the shared table"),
            Self::ShareLimit { attachments } => {
                write!(f, "{attachments} entries lead to the shared table, no more can be counted")
            }
            Self::TooManyShares { shares } => {
                write!(f, "{shares} shared tables are as many as can be registered")
            }
            Self::TooManyBatches => {
                f.write_str("255 batches are open or were leaked, no more can be told apart")
            }
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Encode(error) => Some(error),
            Self::Alloc(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}
