// SPDX-License-Identifier: MIT OR Apache-2.0
//! What kind of memory a device has.

use core::fmt;

/// What kind of memory a device has, which decides who may use it and how. Linux: `enum memory_type`.
///
/// | kind | processors reach it | compounds | needs |
/// |---|---|---|---|
/// | [`Generic`](Self::Generic) | yes | of the pagemap's order | - |
/// | [`FsDax`](Self::FsDax) | yes | made where a file wants them | - |
/// | [`Private`](Self::Private) | no | made where a device wants them | `migrate_to_ram`, `folio_free`, an owner |
/// | [`Coherent`](Self::Coherent) | yes | made where a device wants them | `folio_free`, an owner |
/// | [`PciP2pdma`](Self::PciP2pdma) | uncached | of the pagemap's order | `folio_free` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Handed to one user as a whole: device-dax. Linux: `MEMORY_DEVICE_GENERIC`.
    Generic,
    /// The storage of a file system whose files are mapped without a page cache. Linux: `MEMORY_DEVICE_FS_DAX`.
    FsDax,
    /// Memory that only the device reaches; an access by a processor moves it to the machine's. Linux:
    /// `MEMORY_DEVICE_PRIVATE`.
    Private,
    /// Memory of a device that processors reach too. Linux: `MEMORY_DEVICE_COHERENT`.
    Coherent,
    /// A window of a PCI device that other devices write to. Linux: `MEMORY_DEVICE_PCI_P2PDMA`.
    PciP2pdma,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Generic, Self::FsDax, Self::Private, Self::Coherent, Self::PciP2pdma];

    /// Whether its compounds are made on demand, out of single frames: then a pagemap's order is 0.
    #[must_use]
    pub const fn makes_compounds(self) -> bool {
        matches!(self, Self::FsDax | Self::Private | Self::Coherent)
    }

    /// Whether processors reach it at all.
    #[must_use]
    pub const fn is_reachable(self) -> bool {
        !matches!(self, Self::Private)
    }

    /// Whether a pagemap of it needs an owner.
    #[must_use]
    pub const fn needs_owner(self) -> bool {
        matches!(self, Self::Private | Self::Coherent)
    }

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::FsDax => "fs-dax",
            Self::Private => "private",
            Self::Coherent => "coherent",
            Self::PciP2pdma => "PCI P2PDMA",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose memory it is: a number that means something to the drivers that compare it. Linux: `dev_pagemap::owner`, a
/// pointer that is only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u64);
