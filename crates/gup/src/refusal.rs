// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why pages were not held.

use core::fmt;

use mmkit_addr::{Pfn, VirtAddr};
use mmkit_folio::MapError;
use mmkit_page::PinRefusal;

use crate::{FaultError, Interruption, MigrateError};

/// Why a walk ended before the end of its range. An error holds no page of the call that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The sink has no room for a page.
    NoRoom,
    /// The memory map is not the one of the address space.
    OtherMap,
    /// The range was not checked for this address space: its pages are of another size, or it reaches past the limit.
    OtherSpan,
    /// The sink has something already.
    UsedSink,
    /// Nothing that could be held without a lock, or without a fault, is mapped there; or somebody was changing it. Told to
    /// those who asked for no more than that.
    NotMapped {
        /// The address.
        va: VirtAddr,
    },
    /// No area has the address.
    NoArea {
        /// The address.
        va: VirtAddr,
    },
    /// What is mapped there has no descriptors, or is not to be held by anybody.
    NoPages {
        /// The address.
        va: VirtAddr,
    },
    /// Anonymous memory was asked for, and the area is something else.
    NotAnonymous {
        /// The address.
        va: VirtAddr,
    },
    /// The area cannot be read.
    NotReadable {
        /// The address.
        va: VirtAddr,
    },
    /// The area cannot be written; or only by force, which reaches private areas alone.
    NotWritable {
        /// The address.
        va: VirtAddr,
    },
    /// The architecture keeps the caller out of the area.
    Closed {
        /// The address.
        va: VirtAddr,
    },
    /// Secret memory is nobody's but its owner's.
    Secret {
        /// The address.
        va: VirtAddr,
    },
    /// A file that is written back is not held for long by who writes to it.
    TrackedFile {
        /// The address.
        va: VirtAddr,
    },
    /// Storage of a file system is not held for long.
    FileSystemDax {
        /// The address.
        va: VirtAddr,
    },
    /// Huge pages of a pool are not split.
    CannotSplit {
        /// The address.
        va: VirtAddr,
    },
    /// Who owns this kind of memory does not allow it.
    Policy {
        /// The first such frame.
        pfn: Pfn,
        /// Why.
        reason: PinRefusal,
    },
    /// A fault did not succeed.
    Fault {
        /// The address.
        va: VirtAddr,
        /// Why.
        error: FaultError,
    },
    /// The thread has other things to do.
    Interrupted(Interruption),
    /// A folio that had to move before it could be pinned did not.
    Migrate(MigrateError),
    /// The folio's counts are at their limit, or there is no folio.
    Count {
        /// The frame.
        pfn: Pfn,
        /// Why.
        error: MapError,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => f.write_str("the sink has no room for a page"),
            Self::OtherMap => f.write_str("the memory map is not the address space's"),
            Self::OtherSpan => f.write_str("the range was checked for another address space"),
            Self::UsedSink => f.write_str("the sink has something already"),
            Self::NotMapped { va } => write!(f, "{va:?} is not mapped so that it could be held as it is"),
            Self::NoArea { va } => write!(f, "no area has {va:?}"),
            Self::NoPages { va } => write!(f, "what is mapped at {va:?} cannot be held"),
            Self::NotAnonymous { va } => write!(f, "{va:?} is not anonymous memory"),
            Self::NotReadable { va } => write!(f, "{va:?} cannot be read"),
            Self::NotWritable { va } => write!(f, "{va:?} cannot be written"),
            Self::Closed { va } => write!(f, "{va:?} is closed to the caller"),
            Self::Secret { va } => write!(f, "{va:?} is secret memory"),
            Self::TrackedFile { va } => {
                write!(f, "{va:?} is of a file that is written back, and not to be written for long")
            }
            Self::FileSystemDax { va } => {
                write!(f, "{va:?} is storage of a file system, not to be held for long")
            }
            Self::CannotSplit { va } => write!(f, "the huge page at {va:?} cannot be split"),
            Self::Policy { pfn, reason } => write!(f, "{pfn:?}: {reason}"),
            Self::Fault { va, error } => write!(f, "fault at {va:?}: {error}"),
            Self::Interrupted(how) => how.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::Count { pfn, error } => write!(f, "{pfn:?}: {error}"),
        }
    }
}

impl core::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Policy { reason, .. } => Some(reason),
            Self::Fault { error, .. } => Some(error),
            Self::Migrate(error) => Some(error),
            Self::Count { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What a walk got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the pages are held until they are given back"]
pub struct Held {
    /// Pages that went to the sink: those from the start of the range on, without a gap.
    pub pages: u64,
    /// Where to go on: the address after the last of them.
    pub next: VirtAddr,
    /// Why there are not more; `None` where the range is complete.
    pub stopped: Option<Refusal>,
}

impl Held {
    /// Whether the range is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none()
    }
}
