// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, frame numbers, geometries and the arithmetic of memory maps.
#![no_std]

/// Bytes of a page descriptor.
pub const DESCRIPTOR_BYTES: u64 = 64;

mod id;
mod order;
mod pfn;

pub use id::{NodeId, ZoneId};
pub use order::Order;
pub use pfn::{Pfn, PfnRange};
