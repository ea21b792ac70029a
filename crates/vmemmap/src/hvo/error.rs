// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a compound was not optimised or restored.

use core::fmt;

use mmkit_addr::{Order, Pfn};

use crate::VmemmapError;

/// Why a compound was not optimised, restored or split up. It is as it was before, but for [`Partial`](Self::Partial).
///
/// [`errno`](Self::errno) says what Linux would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HvoError {
    /// Optimising is switched off.
    Off,
    /// The block is another memory map's.
    OtherMap {
        /// Its first frame.
        pfn: Pfn,
    },
    /// The block is no compound.
    NotCompound {
        /// Its first frame.
        pfn: Pfn,
    },
    /// The compound's descriptors fill less than two pages: there is nothing to share.
    TooSmall {
        /// The compound's order.
        order: Order,
        /// The smallest that can be optimised.
        min: Order,
    },
    /// The address space cannot replace pages that are read.
    Unsupported,
    /// The compound's descriptors lie in memory of its own section, which is not given back by pages. Linux: `ENOTSUPP`.
    SelfHosted {
        /// The compound's head.
        pfn: Pfn,
    },
    /// A frame of the compound is known to be bad: it is to be taken apart, not optimised.
    Poisoned {
        /// The compound's head.
        pfn: Pfn,
    },
    /// A frame of the compound is bad, and nobody knows which: it is never restored.
    Unreliable {
        /// The compound's head.
        pfn: Pfn,
    },
    /// The frame is not in the compound.
    Outside {
        /// The frame.
        pfn: Pfn,
        /// The compound's head.
        head: Pfn,
    },
    /// The compound cannot be split into compounds of this order.
    BadOrder {
        /// The compound's order.
        from: Order,
        /// The order that was asked for.
        to: Order,
    },
    /// No memory, no tails, or the address space refused.
    Map(VmemmapError),
    /// The address space refused in the middle, and then refused to go back. Some pages of descriptors are shared, others
    /// the compound's own; it can be used like an optimised one, and restored with only the frames that it lacks.
    Partial {
        /// The compound's head.
        pfn: Pfn,
        /// What the space said first.
        error: VmemmapError,
    },
}

impl HvoError {
    /// Whether memory was all that was missing: the same may succeed later.
    #[must_use]
    pub const fn is_no_memory(&self) -> bool {
        matches!(self, Self::Map(VmemmapError::NoFrame(_)))
    }

    /// The error number that Linux gives in such a case, or would, on most architectures.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        const EINVAL: i32 = 22;
        const EOPNOTSUPP: i32 = 95;
        const EHWPOISON: i32 = 133;
        match self {
            Self::Off | Self::Unsupported | Self::SelfHosted { .. } => EOPNOTSUPP,
            Self::Poisoned { .. } | Self::Unreliable { .. } => EHWPOISON,
            Self::OtherMap { .. }
            | Self::NotCompound { .. }
            | Self::TooSmall { .. }
            | Self::Outside { .. }
            | Self::BadOrder { .. } => EINVAL,
            Self::Map(error) | Self::Partial { error, .. } => error.errno(),
        }
    }
}

impl fmt::Display for HvoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("optimising is switched off"),
            Self::OtherMap { pfn } => write!(f, "{pfn:?} is a block of another memory map"),
            Self::NotCompound { pfn } => write!(f, "the block at {pfn:?} is no compound"),
            Self::TooSmall { order, min } => {
                write!(f, "{order:?} is below {min:?}, the smallest to optimise")
            }
            Self::Unsupported => f.write_str("the address space cannot replace pages in use"),
            Self::SelfHosted { pfn } => write!(f, "the descriptors of {pfn:?} lie in its own section"),
            Self::Poisoned { pfn } => write!(f, "the compound at {pfn:?} has a bad frame"),
            Self::Unreliable { pfn } => write!(f, "the compound at {pfn:?} has an unknown bad frame"),
            Self::Outside { pfn, head } => write!(f, "{pfn:?} is not in the compound at {head:?}"),
            Self::BadOrder { from, to } => write!(f, "a compound of {from:?} has none of {to:?} in it"),
            Self::Map(error) => error.fmt(f),
            Self::Partial { pfn, error } => {
                write!(f, "the compound at {pfn:?} is optimised in part: {error}")
            }
        }
    }
}

impl core::error::Error for HvoError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Map(error) | Self::Partial { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<VmemmapError> for HvoError {
    fn from(error: VmemmapError) -> Self {
        Self::Map(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_the_memory_map_is_the_number() {
        let pfn = Pfn::ZERO;
        let error = VmemmapError::InsideReader;
        assert_eq!(HvoError::Map(error).errno(), error.errno());
        assert_eq!(HvoError::Partial { pfn, error }.errno(), error.errno());
        let numbers = [HvoError::Off, HvoError::NotCompound { pfn }, HvoError::Unreliable { pfn }];
        assert_eq!(numbers.map(|error| error.errno()), [95, 22, 133]);
    }
}
