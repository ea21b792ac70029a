// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why there is no such folio.

use core::fmt;

use mmkit_addr::{Order, Pfn, PfnRange};

use crate::Kind;

/// Why a folio of a device could not be had, or not be changed. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FolioError {
    /// No pagemap has the frame: none ever had it, or it is going. Linux: `ENXIO`.
    NoPagemap {
        /// The frame.
        pfn: Pfn,
    },
    /// The pagemap is going.
    Gone {
        /// The frame.
        pfn: Pfn,
    },
    /// Memory of this kind is not used that way.
    OtherKind {
        /// The frame.
        pfn: Pfn,
        /// Its kind.
        kind: Kind,
    },
    /// A folio of `order` does not begin there.
    Misaligned {
        /// The frame.
        pfn: Pfn,
        /// The order.
        order: Order,
    },
    /// The pagemap has no folios of that order.
    OtherOrder {
        /// The frame.
        pfn: Pfn,
        /// What was asked for.
        order: Order,
        /// The lowest that there is.
        least: Order,
        /// The highest that there is.
        most: Order,
    },
    /// Part of the folio would lie outside of the pagemap, or where its descriptors do.
    Outside {
        /// The first frame.
        pfn: Pfn,
        /// The order.
        order: Order,
    },
    /// Some of the frames are in a folio of another size or place. Who maps files maps smaller ones instead. Linux:
    /// `VM_FAULT_FALLBACK`.
    Conflict {
        /// That folio.
        folio: PfnRange,
    },
    /// The frame is being handed out or taken back: try again.
    Busy {
        /// The frame.
        pfn: Pfn,
    },
    /// The hardware reported an error in the folio. Linux: `EHWPOISON`.
    Poisoned {
        /// The frame.
        pfn: Pfn,
    },
    /// There are too many references on the folio, or files that have it.
    References {
        /// The frame.
        pfn: Pfn,
    },
    /// Others hold the folio too. Linux: `EAGAIN`.
    Shared {
        /// The first frame.
        pfn: Pfn,
        /// References.
        references: u32,
    },
    /// The file does not have the folio.
    NotAssociated {
        /// The first frame.
        pfn: Pfn,
    },
}

impl fmt::Display for FolioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPagemap { pfn } => write!(f, "no device has {pfn:?}"),
            Self::Gone { pfn } => write!(f, "the device behind {pfn:?} is going"),
            Self::OtherKind { pfn, kind } => {
                write!(f, "{pfn:?} is {kind} memory, which is not used that way")
            }
            Self::Misaligned { pfn, order } => write!(f, "no folio of {order:?} begins at {pfn:?}"),
            Self::OtherOrder { pfn, order, least, most } => {
                write!(f, "{order:?} at {pfn:?} is not between {least:?} and {most:?}")
            }
            Self::Outside { pfn, order } => {
                write!(f, "{order:?} at {pfn:?} is not all in the device's memory")
            }
            Self::Conflict { folio } => write!(f, "{folio:?} are in use as a folio of another size"),
            Self::Busy { pfn } => write!(f, "{pfn:?} is being handed out or taken back"),
            Self::Poisoned { pfn } => write!(f, "the hardware reported an error in the folio of {pfn:?}"),
            Self::References { pfn } => write!(f, "{pfn:?} cannot have more references or files"),
            Self::Shared { pfn, references } => write!(f, "{pfn:?} has {references} references"),
            Self::NotAssociated { pfn } => write!(f, "the file does not have {pfn:?}"),
        }
    }
}

impl core::error::Error for FolioError {}
