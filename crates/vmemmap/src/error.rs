// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a memory map refused.

use core::fmt;

use mmkit_addr::{NodeId, Order, Pfn, PfnRange};
use mmkit_frame::AllocError;
use mmkit_page::Place;

use crate::MapError;

/// Why a memory map refused something. Nothing has changed then.
///
/// [`errno`](Self::errno) says what Linux would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmemmapError {
    /// The range has no frames.
    Empty,
    /// Both ends of the range must be multiples of so many frames: a subsection, or the compounds in it where those
    /// are larger, up to a section. Linux: `EINVAL`.
    Misaligned {
        /// What was asked for.
        range: PfnRange,
        /// The unit.
        unit: Order,
    },
    /// The range has frames that the geometry's physical addresses do not reach.
    TooHigh {
        /// What was asked for.
        range: PfnRange,
        /// Frames that there can be.
        frames: u64,
    },
    /// No compound of this geometry is that large.
    OrderTooLarge {
        /// What was asked for.
        order: Order,
        /// The largest.
        max: Order,
    },
    /// A frame of the range, or of a compound that reaches out of it, has a descriptor already. Linux: `EEXIST`.
    Present {
        /// The first frame of its subsection.
        pfn: Pfn,
    },
    /// The descriptor of a frame of the range is being written by somebody who [staged](crate::Vmemmap::stage) it. Linux:
    /// `EBUSY`.
    Staged {
        /// The first frame of its subsection.
        pfn: Pfn,
    },
    /// A frame of the range has no descriptor.
    Absent {
        /// The first frame of its subsection.
        pfn: Pfn,
    },
    /// A section of the range, or of a compound that reaches into the range or out of it, has compounds of another order
    /// or place: a section shares one kind of tails, and no frame is in two compounds.
    OtherTails {
        /// The section's first frame.
        pfn: Pfn,
        /// The order of its compounds.
        order: Order,
        /// Their node and zone.
        place: Place,
    },
    /// A section that was populated whole, as compounds that share their tails, is not completed in parts. Nor is an
    /// early section whose descriptor memory is shared tails.
    Piecewise {
        /// The section's first frame.
        pfn: Pfn,
        /// The order of its compounds.
        order: Order,
    },
    /// Descriptors of the range lie in an altmap, and not in the one that was given, if one was. A section has at most
    /// one altmap, and none beside shared tails.
    OtherAltmap {
        /// The first frame of the subsection, or of the section.
        pfn: Pfn,
        /// The first frame of its altmap's [`pool`](crate::Altmap::pool).
        pool: Pfn,
    },
    /// Descriptors of the range do not lie in an altmap, though one was given.
    NoAltmap {
        /// The first frame of the subsection.
        pfn: Pfn,
    },
    /// The frames that the altmap sets aside lie in the range in part, or not at its beginning, or are all of it.
    AltmapCut {
        /// The frames.
        set_aside: PfnRange,
        /// What was asked for.
        range: PfnRange,
    },
    /// The altmap has too few frames.
    AltmapFull {
        /// Its base.
        base: Pfn,
        /// Frames that were needed in one block.
        needed: u64,
        /// Frames that it has in all.
        free: u64,
    },
    /// The section has descriptor memory from boot, or was to get it, which an altmap cannot replace.
    Early {
        /// The section's first frame, or that of the range.
        pfn: Pfn,
    },
    /// The section is offline, and the call is about frames that are online.
    Offline {
        /// The section's first frame.
        pfn: Pfn,
    },
    /// The section is online, and the call is about frames that are offline.
    Online {
        /// The section's first frame.
        pfn: Pfn,
    },
    /// The range has the head of a compound, but not all of it, or the other way round.
    CutsCompound {
        /// The compound's head.
        head: Pfn,
        /// Its order.
        order: Order,
    },
    /// A frame of the range is in use, or part of a block that reaches beyond it. Linux: `EBUSY`.
    Busy {
        /// The frame.
        pfn: Pfn,
    },
    /// No frame for descriptors or for the section table. Linux: `ENOMEM`.
    NoFrame(AllocError),
    /// The address space refused.
    Map(MapError),
    /// All tail slots are taken by other nodes, zones and orders.
    NoTailSlot {
        /// Slots that the environment has.
        slots: usize,
    },
    /// The environment has no room for one more reserve.
    NoReserveSlot {
        /// Slots that it has.
        slots: usize,
    },
    /// So many sections use the same tails that no more can be counted.
    TooManyTailUsers {
        /// The node of the tails.
        node: NodeId,
        /// Their order.
        order: Order,
    },
    /// The environment's allocator gave a frame that is other memory in the address space: the two do not belong
    /// together.
    OtherMemory {
        /// The frame.
        pfn: Pfn,
    },
    /// A reader of this thread would have to be waited for.
    InsideReader,
    /// The frames of the space and of the environment, or those of the geometry, have different sizes.
    PageSize {
        /// log2 of the geometry's.
        geometry: u32,
        /// log2 of the space's.
        space: u32,
        /// log2 of the frames'.
        frames: u32,
    },
}

impl VmemmapError {
    /// The error number that Linux has for it, in its generic numbering.
    ///
    /// | number | name | for |
    /// |---|---|---|
    /// | 11 | `EAGAIN` | hardware that could not replace an entry now |
    /// | 12 | `ENOMEM` | frames, tail slots, an altmap or mappings that ran out |
    /// | 16 | `EBUSY` | frames in use or being staged, a compound that would be cut, a reader that would have to be waited for |
    /// | 17 | `EEXIST` | what is there already |
    /// | 22 | `EINVAL` | what cannot be meant: misaligned, absent, in the wrong state |
    /// | 95 | `EOPNOTSUPP` | other tails, and parts of sections that were populated whole |
    ///
    /// Where the operating system refused, its own number.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        const EAGAIN: i32 = 11;
        const ENOMEM: i32 = 12;
        const EBUSY: i32 = 16;
        const EEXIST: i32 = 17;
        const EINVAL: i32 = 22;
        const EOPNOTSUPP: i32 = 95;
        match self {
            Self::NoFrame(_)
            | Self::NoTailSlot { .. }
            | Self::NoReserveSlot { .. }
            | Self::TooManyTailUsers { .. }
            | Self::AltmapFull { .. }
            | Self::Map(MapError::NoFrame(_) | MapError::TooManyMappings { .. }) => ENOMEM,
            Self::Busy { .. } | Self::CutsCompound { .. } | Self::Staged { .. } | Self::InsideReader => EBUSY,
            Self::Present { .. } | Self::Map(MapError::Occupied { .. }) => EEXIST,
            Self::OtherTails { .. } | Self::Piecewise { .. } | Self::Map(MapError::Unsupported) => EOPNOTSUPP,
            Self::Map(MapError::TryAgain) => EAGAIN,
            Self::Map(MapError::Os { errno }) => *errno,
            _ => EINVAL,
        }
    }
}

impl fmt::Display for VmemmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the range has no frames"),
            Self::Misaligned { range, unit } => {
                write!(f, "{range:?} does not begin and end at a multiple of {} frames", unit.frames())
            }
            Self::TooHigh { range, frames } => {
                write!(f, "{range:?} passes the end of physical memory, which has {frames:#x} frames")
            }
            Self::OrderTooLarge { order, max } => {
                write!(f, "{order:?} is above {max:?}, the largest compound")
            }
            Self::Present { pfn } => write!(f, "{pfn:?} is in the memory map already"),
            Self::Staged { pfn } => write!(f, "{pfn:?} is being put into the memory map"),
            Self::Absent { pfn } => write!(f, "{pfn:?} is not in the memory map"),
            Self::OtherTails { pfn, order, place } => write!(
                f,
                "the section of {pfn:?} has compounds of {order:?} in {:?}, {:?}",
                place.node, place.zone
            ),
            Self::Piecewise { pfn, order } => {
                write!(f, "the section of {pfn:?} was populated whole with compounds of {order:?}")
            }
            Self::OtherAltmap { pfn, pool } => {
                write!(f, "the descriptor of {pfn:?} lies in the altmap whose pool begins at {pool:?}")
            }
            Self::NoAltmap { pfn } => write!(f, "the descriptor of {pfn:?} lies in no altmap"),
            Self::AltmapCut { set_aside, range } => {
                write!(
                    f,
                    "{range:?} does not begin with {set_aside:?}, which the altmap sets aside, and go on"
                )
            }
            Self::AltmapFull { base, needed, free } => {
                write!(f, "the altmap at {base:?}, of {free} frames, has not {needed} more in one block")
            }
            Self::Early { pfn } => write!(f, "the section of {pfn:?} has descriptor memory from boot"),
            Self::Offline { pfn } => write!(f, "the section of {pfn:?} is offline"),
            Self::Online { pfn } => write!(f, "the section of {pfn:?} is online"),
            Self::CutsCompound { head, order } => {
                write!(f, "the range has a part of the compound of {order:?} at {head:?}")
            }
            Self::Busy { pfn } => write!(f, "{pfn:?} is in use"),
            Self::NoFrame(error) => write!(f, "no frame for the memory map: {error}"),
            Self::Map(error) => write!(f, "the memory map's address space refused: {error}"),
            Self::NoReserveSlot { slots } => write!(f, "all {slots} reserve slots are taken"),
            Self::NoTailSlot { slots } => write!(f, "all {slots} tail slots are taken"),
            Self::TooManyTailUsers { node, order } => {
                write!(f, "too many sections share the tails of {order:?} of {node:?}")
            }
            Self::OtherMemory { pfn } => {
                write!(f, "{pfn:?} of the frame allocator is other memory in the memory map's address space")
            }
            Self::InsideReader => f.write_str("the memory map cannot wait for a reader of this thread"),
            Self::PageSize { geometry, space, frames } => write!(
                f,
                "pages have {} bytes in the geometry, {} in the address space and {} in the frame allocator",
                1u64 << geometry,
                1u64 << space,
                1u64 << frames
            ),
        }
    }
}

impl core::error::Error for VmemmapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::NoFrame(error) => Some(error),
            Self::Map(error) => Some(error),
            _ => None,
        }
    }
}

impl From<AllocError> for VmemmapError {
    fn from(error: AllocError) -> Self {
        Self::NoFrame(error)
    }
}

impl From<MapError> for VmemmapError {
    fn from(error: MapError) -> Self {
        match error {
            MapError::NoFrame(error) => Self::NoFrame(error),
            other => Self::Map(other),
        }
    }
}
