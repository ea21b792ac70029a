// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait that an entry format implements: what the 64 bits of an entry say.

use core::fmt;

use mmkit_addr::{Geometry, Level, Pfn};
use mmkit_sync::mutant;

use crate::Prot;

/// Where an entry leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A block of frames as large as the entry's span.
    Leaf {
        /// The block's first frame.
        pfn: Pfn,
        /// What the mapping allows.
        prot: Prot,
    },
    /// A table of the level below, which belongs to this entry alone.
    Table {
        /// The table's first frame.
        pfn: Pfn,
    },
    /// A table of the level below that other entries lead to as well. It is opaque from here: nothing in it may be
    /// changed through this entry.
    Shared {
        /// The table's first frame.
        pfn: Pfn,
    },
}

impl Target {
    /// The first frame of the block or of the table.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        match self {
            Self::Leaf { pfn, .. } | Self::Table { pfn } | Self::Shared { pfn } => pfn,
        }
    }
}

/// Who took an entry out of use: the number of a batch. 0 belongs to no batch, but to a change of a live entry
/// ([`Change`](crate::Change)).
pub type Tag = u8;

/// The tag of entries that are broken before the new one is made.
pub(crate) const BROKEN: Tag = 0;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Nothing. All 64 bits are zero.
    Empty,
    /// A translation that is in force.
    Present(Target),
    /// A translation that was in force and may still be cached: taken out of use, not yet given back.
    Pending(Target, Tag),
}

impl Slot {
    /// What the entry says to somebody who takes no lock. A live entry that is being replaced may be broken, for
    /// processors; what it led to is in use until it is replaced, and afterwards until readers have left.
    #[inline]
    #[must_use]
    pub fn for_readers(self) -> Self {
        match self {
            Self::Pending(target, BROKEN) => mutant!("pgtable-broken-is-absent", Self::Present(target), self),
            slot => slot,
        }
    }
}

/// The layout of a 64-bit entry. Formats are unit types: [`X86_64`](crate::X86_64), [`Arm64`](crate::Arm64),
/// [`Software`](crate::Software).
///
/// # Safety
///
/// Tables follow the frame numbers that they read back, so a format must not invent any:
///
/// * `decode(encode(slot, level)?, level) == slot` for every slot that `encode` accepts;
/// * `encode(Slot::Empty, _) == Ok(0)` and `decode(0, _) == Slot::Empty`;
/// * a processor that walks the entries takes the encodings of `Empty` and `Pending` for absent ones;
/// * setting accessed and dirty bits in an encoded entry, as a processor may, changes no decoded slot;
/// * a target that can be said present can be said pending, under every tag;
/// * the functions are pure.
pub unsafe trait Entry: Sized + 'static {
    /// The format's name, for people.
    const NAME: &'static str;

    /// Whether tables of this geometry can hold such entries.
    fn supports(geometry: &Geometry) -> bool;

    /// The bits that say `slot` in a table of `level`.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] where the format cannot say it.
    fn encode(slot: Slot, level: Level) -> Result<u64, EncodeError>;

    /// What the bits of an entry in a table of `level` say.
    fn decode(raw: u64, level: Level) -> Slot;
}

/// An entry that the format has no bits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The frame number does not fit.
    FrameTooHigh {
        /// The frame.
        pfn: Pfn,
        /// The highest that fits.
        max: Pfn,
    },
    /// A block of frames that is not aligned to its size.
    Misaligned {
        /// Its first frame.
        pfn: Pfn,
        /// Its frames.
        frames: u64,
    },
    /// The format has no leaves at this level.
    NoLeaf {
        /// The level.
        level: Level,
    },
    /// The format has no tables below this level.
    NoTable {
        /// The level.
        level: Level,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FrameTooHigh { pfn, max } => {
                write!(f, "{pfn:?} does not fit into an entry, the highest is {max:?}")
            }
            Self::Misaligned { pfn, frames } => {
                write!(f, "{pfn:?} is no multiple of the {frames} frames of a leaf")
            }
            Self::NoLeaf { level } => write!(f, "the entry format has no leaf at {level:?}"),
            Self::NoTable { level } => write!(f, "the entry format has no table below {level:?}"),
        }
    }
}

impl core::error::Error for EncodeError {}
