// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, frame numbers, geometries and the arithmetic of memory maps.
#![no_std]

mod id;
mod order;
mod pfn;

pub use id::{NodeId, ZoneId};
pub use order::Order;
pub use pfn::{Pfn, PfnRange};
