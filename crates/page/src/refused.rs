// SPDX-License-Identifier: MIT OR Apache-2.0
//! A transition that was refused gives its handle back.

use core::fmt;

use mmkit_addr::{Order, Pfn};

/// The handle of a block, unchanged, and why it could not become what was asked.
pub struct Refused<H> {
    /// What was passed in.
    pub handle: H,
    /// Why it came back.
    pub reason: Reason,
}

impl<H> Refused<H> {
    pub(crate) fn new(handle: H, reason: Reason) -> Self {
        Self { handle, reason }
    }
}

impl<H> fmt::Debug for Refused<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refused({:?})", self.reason)
    }
}

impl<H> fmt::Display for Refused<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<H> core::error::Error for Refused<H> {}

/// Why a block cannot become what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The block has one frame.
    SingleFrame,
    /// The block is a compound.
    Compound {
        /// Its order.
        order: Order,
    },
    /// The block is not a compound.
    NotCompound,
    /// Only the first descriptors of the compound are its own.
    SharedTails {
        /// Its order.
        order: Order,
    },
    /// The two blocks are not the halves of one.
    NotBuddies {
        /// First frame of one.
        pfn: Pfn,
        /// First frame of the other.
        other: Pfn,
    },
    /// The two blocks lie in different nodes or zones.
    OtherPlace {
        /// First frame of one.
        pfn: Pfn,
        /// First frame of the other.
        other: Pfn,
    },
    /// No block is larger.
    TooLarge {
        /// The order that cannot grow.
        order: Order,
    },
    /// A frame of the block is not in the memory map.
    Absent,
    /// The hardware reported an error in a frame of the block: [`HWPOISON`](crate::PageFlags::HWPOISON).
    Poisoned {
        /// The first such frame.
        pfn: Pfn,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SingleFrame => f.write_str("the block has one frame only"),
            Self::Compound { order } => write!(f, "the block is a compound of {order:?}"),
            Self::NotCompound => f.write_str("the block is not a compound"),
            Self::SharedTails { order } => {
                write!(f, "the descriptors of this compound of {order:?} are shared")
            }
            Self::NotBuddies { pfn, other } => {
                write!(f, "{pfn:?} and {other:?} are not the halves of one block")
            }
            Self::OtherPlace { pfn, other } => {
                write!(f, "{pfn:?} and {other:?} lie in different nodes or zones")
            }
            Self::TooLarge { order } => write!(f, "no block is larger than {order:?}"),
            Self::Absent => f.write_str("a frame of the block is not in the memory map"),
            Self::Poisoned { pfn } => write!(f, "the hardware reported an error in {pfn:?}"),
        }
    }
}
