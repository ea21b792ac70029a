// SPDX-License-Identifier: MIT OR Apache-2.0
//! device-dax: the memory of a device, or a part of it, mapped as a whole by one size of pages.

mod device;
mod fault;
mod region;

pub use device::{DaxDevice, DaxError};
pub use fault::{DaxFault, DaxMapping, FaultError, MappingError, Sigbus};
pub use region::{DaxRegion, RegionError};
