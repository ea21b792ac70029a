// SPDX-License-Identifier: MIT OR Apache-2.0
//! What descriptors cost, and what deduplicating them saves.

mod compound;
mod scheme;

pub use compound::Compound;
pub use scheme::{Keep, Resident, Scheme};
