// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver does for its memory.

use core::fmt;

use bitflags::bitflags;
use mmkit_addr::{Pfn, PfnRange};

use crate::Kind;

bitflags! {
    /// Operations of a driver, as a set.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Provided: u8 {
        /// [`Operations::folio_free`].
        const FOLIO_FREE = 1 << 0;
        /// [`Operations::migrate_to_ram`].
        const MIGRATE_TO_RAM = 1 << 1;
        /// [`Operations::memory_failure`].
        const MEMORY_FAILURE = 1 << 2;
        /// [`Operations::folio_split`].
        const FOLIO_SPLIT = 1 << 3;
        /// [`Operations::idle`].
        const IDLE = 1 << 4;
    }
}

impl Provided {
    /// Those that memory of `kind` cannot do without.
    #[must_use]
    pub const fn needed_by(kind: Kind) -> Self {
        match kind {
            Kind::Generic | Kind::FsDax => Self::empty(),
            Kind::Private => Self::FOLIO_FREE.union(Self::MIGRATE_TO_RAM),
            Kind::Coherent | Kind::PciP2pdma => Self::FOLIO_FREE,
        }
    }
}

/// What a driver does for its memory, called by the kit. Linux: `struct dev_pagemap_ops`.
///
/// Everything is told by frame numbers. No operation is given a way to the pagemap's
/// registration, so none can take away what it is called for.
///
/// They are called with a reference on the pagemap held, without locks, and from wherever a last reference was put: they do
/// not wait for that pagemap to go.
pub trait Operations: Send + Sync {
    /// Which of them are there. One that is not in the set is never called.
    fn provided(&self) -> Provided {
        Provided::empty()
    }

    /// The last reference on the folio of these frames was put: they are the driver's again. Linux: `folio_free`.
    fn folio_free(&self, block: PfnRange) {
        let _ = block;
    }

    /// A processor touched the folio of these frames, which it cannot reach: their contents are to move. Linux:
    /// `migrate_to_ram`.
    ///
    /// # Errors
    ///
    /// [`Failed`] where they could not be moved.
    fn migrate_to_ram(&self, block: PfnRange) -> Result<(), Failed> {
        let _ = block;
        Err(Failed::Unsupported)
    }

    /// The hardware reported errors in these frames. Linux: `memory_failure`.
    ///
    /// # Errors
    ///
    /// [`Failed::Unsupported`] leaves it to the kit.
    fn memory_failure(&self, frames: PfnRange) -> Result<(), Failed> {
        let _ = frames;
        Err(Failed::Unsupported)
    }

    /// The folio whose head was `head` was split, and `part` is one of the folios that it is now. Linux: `folio_split`.
    fn folio_split(&self, head: Pfn, part: PfnRange) {
        let _ = (head, part);
    }

    /// Nobody uses these frames of a file system any more: whoever waits for that is to be woken. Linux: `wake_up_var`.
    fn idle(&self, frames: PfnRange) {
        let _ = frames;
    }
}

/// Why a driver did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failed {
    /// It has nothing for this case. Linux: `EOPNOTSUPP`.
    Unsupported,
    /// It tried, and this number says what went wrong.
    Device(i32),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the driver has nothing for this"),
            Self::Device(number) => write!(f, "the device failed: {number}"),
        }
    }
}

impl core::error::Error for Failed {}
