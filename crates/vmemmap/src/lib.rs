// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sparse virtual memory map.
#![no_std]

#[cfg(any(test, mmkit_loom))]
extern crate std;

mod bitmap;
mod check;
mod content;
mod env;
mod error;
#[cfg(mmkit_loom)]
#[doc(hidden)]
pub mod models;
mod populate;
mod remove;
mod section;
mod sections;
mod space;
#[cfg(feature = "pgtable")]
mod tables;
mod tails;
mod vmemmap;

pub use env::{VmemmapEnv, WithTailSlots};
pub use error::VmemmapError;
pub use space::{Backing, MapError, SpaceUsage, TailRun, Unmapped, VmemmapSpace};
#[cfg(feature = "pgtable")]
pub use tables::{TableSpace, TableUnmapped};
pub use tails::TailSlot;
pub use vmemmap::{Usage, Vmemmap};
