// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a memory map refused.

use core::fmt;

use mmkit_addr::{NodeId, Order, Pfn, PfnRange};
use mmkit_frame::AllocError;
use mmkit_page::Place;

use crate::MapError;

/// Why frames could not be added to or removed from a memory map. Nothing has changed then; at most a
/// [tail slot](crate::TailSlot) has got its name.
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
            Self::Absent { pfn } => write!(f, "{pfn:?} is not in the memory map"),
            Self::OtherTails { pfn, order, place } => write!(
                f,
                "the section of {pfn:?} has compounds of {order:?} in {:?}, {:?}",
                place.node, place.zone
            ),
            Self::CutsCompound { head, order } => {
                write!(f, "the range has a part of the compound of {order:?} at {head:?}")
            }
            Self::Busy { pfn } => write!(f, "{pfn:?} is in use"),
            Self::NoFrame(error) => write!(f, "no frame for the memory map: {error}"),
            Self::Map(error) => write!(f, "the memory map's address space refused: {error}"),
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
