// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pagemap was refused.

use core::fmt;

use mmkit_addr::{Order, PfnRange};
use mmkit_vmemmap::VmemmapError;

use crate::{Kind, Provided};

/// Why a pagemap could not be made, registered or taken away. Nothing has changed then, unless the operation says
/// otherwise.
///
/// [`errno`](Self::errno) says what Linux would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DevmapError {
    /// It has no ranges. Linux: `EINVAL`.
    NoRange,
    /// A range has no frames.
    Empty {
        /// Its number among the ranges.
        number: usize,
        /// The range.
        range: PfnRange,
    },
    /// No compound of this geometry is that large. Linux: `EINVAL`.
    OrderTooLarge {
        /// What was asked for.
        order: Order,
        /// The largest.
        max: Order,
    },
    /// This kind makes compounds on demand, out of single frames.
    OrderOfKind {
        /// The kind.
        kind: Kind,
        /// What was asked for.
        order: Order,
    },
    /// Both ends of a range must be multiples of so many frames.
    Misaligned {
        /// The range.
        range: PfnRange,
        /// The unit.
        unit: Order,
    },
    /// A range passes what physical addresses reach. Linux: `EINVAL`.
    TooHigh {
        /// The range.
        range: PfnRange,
        /// Frames that there can be.
        frames: u64,
    },
    /// Two ranges of the pagemap have frames in common.
    SelfOverlap {
        /// The one that begins first.
        range: PfnRange,
        /// The other.
        other: PfnRange,
    },
    /// An altmap serves one range only. Linux: `EINVAL`.
    AltmapOfMany {
        /// The second range.
        range: PfnRange,
    },
    /// The frames that the altmap sets aside are not at the beginning of the range, or are all of it.
    AltmapCut {
        /// The frames.
        set_aside: PfnRange,
        /// The range.
        range: PfnRange,
    },
    /// Descriptors cannot lie where no processor reaches them.
    AltmapOfKind {
        /// The kind.
        kind: Kind,
        /// The frames that the altmap sets aside.
        set_aside: PfnRange,
    },
    /// The kind needs operations that the driver does not have. Linux: `EINVAL`.
    MissingOperations {
        /// The kind.
        kind: Kind,
        /// Those that are missing.
        missing: Provided,
    },
    /// The kind needs an owner. Linux: `EINVAL`.
    MissingOwner {
        /// The kind.
        kind: Kind,
    },
    /// A range has frames in common with one of a pagemap that is registered, about to be, or not yet gone. Linux:
    /// `ENOMEM`, where first or last frames meet.
    Overlap {
        /// The range.
        range: PfnRange,
        /// The other pagemap's.
        with: PfnRange,
    },
    /// A range has frames that are the machine's own memory. Linux: `ENXIO`.
    Ram {
        /// The range.
        range: PfnRange,
        /// What the memory map said.
        cause: VmemmapError,
    },
    /// The memory map refused a range.
    Memory {
        /// The range.
        range: PfnRange,
        /// Why.
        cause: VmemmapError,
    },
    /// So many pagemaps that no more can be named.
    TooMany,
    /// No memory for tables or counters. Linux: `ENOMEM`.
    NoMemory,
    /// Readers would have to be waited for, by a thread that is one.
    InsideReader,
    /// So many references, in units of the pagemap's order, were held when waiting was given up. It stays killed.
    Held {
        /// The first range.
        range: PfnRange,
        /// References.
        held: u64,
    },
}

impl DevmapError {
    /// The error number that Linux has for it, in its generic numbering.
    ///
    /// | number | name | for |
    /// |---|---|---|
    /// | 6 | `ENXIO` | the machine's own memory |
    /// | 12 | `ENOMEM` | overlaps, as Linux says it, and memory that ran out |
    /// | 16 | `EBUSY` | references that are held, a reader that would have to be waited for |
    /// | 22 | `EINVAL` | what cannot be meant |
    ///
    /// Where the memory map refused, [that number](VmemmapError::errno).
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Ram { .. } => 6,
            Self::Overlap { .. } | Self::TooMany | Self::NoMemory => 12,
            Self::Held { .. } | Self::InsideReader => 16,
            Self::Memory { cause, .. } => cause.errno(),
            _ => 22,
        }
    }
}

impl fmt::Display for DevmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRange => f.write_str("a pagemap without ranges"),
            Self::Empty { number, range } => write!(f, "range {number} at {:?} has no frames", range.start()),
            Self::OrderTooLarge { order, max } => {
                write!(f, "{order:?} is above {max:?}, the largest compound")
            }
            Self::OrderOfKind { kind, order } => {
                write!(f, "{kind} memory makes compounds on demand, and cannot be of {order:?}")
            }
            Self::Misaligned { range, unit } => write!(f, "{range:?} is not of whole blocks of {unit:?}"),
            Self::TooHigh { range, frames } => {
                write!(f, "{range:?} passes the {frames} frames that there can be")
            }
            Self::SelfOverlap { range, other } => write!(f, "{range:?} and {other:?} of one pagemap overlap"),
            Self::AltmapOfMany { range } => write!(f, "an altmap, and a second range {range:?}"),
            Self::AltmapCut { set_aside, range } => {
                write!(f, "{set_aside:?}, set aside, is not the beginning of {range:?}, with something left")
            }
            Self::AltmapOfKind { kind, set_aside } => {
                write!(
                    f,
                    "descriptors of {kind} memory cannot lie in {set_aside:?}, which no processor reaches"
                )
            }
            Self::MissingOperations { kind, missing } => write!(f, "{kind} memory needs {missing:?}"),
            Self::MissingOwner { kind } => write!(f, "{kind} memory needs an owner"),
            Self::Overlap { range, with } => write!(f, "{range:?} overlaps {with:?} of another pagemap"),
            Self::Ram { range, cause } => write!(f, "{range:?} has memory of the machine: {cause}"),
            Self::Memory { range, cause } => write!(f, "{range:?}: {cause}"),
            Self::TooMany => f.write_str("too many pagemaps"),
            Self::NoMemory => f.write_str("no memory"),
            Self::InsideReader => f.write_str("cannot wait for readers from inside a reader"),
            Self::Held { range, held } => write!(f, "{held} references are held on the pagemap of {range:?}"),
        }
    }
}

impl core::error::Error for DevmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Ram { cause, .. } | Self::Memory { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
