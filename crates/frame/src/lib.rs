// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame allocator and direct map traits.
#![no_std]

mod allocator;
mod direct_map;
mod frames;
mod request;

pub use allocator::{AllocError, FrameAllocator};
pub use direct_map::DirectMap;
pub use frames::Frames;
pub use request::Request;
