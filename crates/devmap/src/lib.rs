// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices, with descriptors.
#![no_std]
// Errors give back what was handed in: a description, a registration, a device.
#![allow(clippy::result_large_err)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, mmkit_loom))]
extern crate std;

#[cfg(feature = "alloc")]
mod builder;
#[cfg(feature = "alloc")]
mod dax;
#[cfg(feature = "alloc")]
mod devmap;
mod error;
#[cfg(feature = "alloc")]
mod failure;
#[cfg(feature = "alloc")]
mod folio;
#[cfg(feature = "alloc")]
mod heap;
mod index;
mod kind;
#[cfg(feature = "alloc")]
mod kinds;
#[cfg(feature = "alloc")]
mod life;
#[cfg(all(mmkit_loom, feature = "alloc"))]
#[doc(hidden)]
pub mod models;
mod operations;
#[cfg(feature = "alloc")]
mod pagemap;
#[cfg(feature = "alloc")]
mod registry;

#[cfg(feature = "alloc")]
pub use builder::{BuildError, PagemapBuilder};
#[cfg(feature = "alloc")]
pub use dax::{
    DaxDevice, DaxError, DaxFault, DaxMapping, DaxRegion, FaultError, MappingError, RegionError, Sigbus,
};
#[cfg(feature = "alloc")]
pub use devmap::Devmap;
pub use error::DevmapError;
#[cfg(feature = "alloc")]
pub use failure::{Failure, FailureError, Report, Victims};
#[cfg(feature = "alloc")]
pub use folio::DeviceFolio;
pub use index::PagemapIndex;
pub use kind::{Kind, Owner};
#[cfg(all(mmkit_loom, feature = "alloc"))]
pub use kinds::models as kind_models;
#[cfg(feature = "alloc")]
pub use kinds::{Associated, FilePlace, FolioError, IdleWait, MappingId, StillBusy, unused_references};
#[cfg(feature = "alloc")]
pub use life::{RegisterError, Registration, Revoke, UnregisterError};
pub use operations::{Failed, Operations, Provided};
#[cfg(feature = "alloc")]
pub use pagemap::{DevPagemap, PagemapInfo};
#[cfg(feature = "alloc")]
pub use registry::{Pagemap, PagemapRef, Registry, RegistryReader};
