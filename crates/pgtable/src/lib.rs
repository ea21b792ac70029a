// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables over frames.
#![no_std]

#[cfg(test)]
extern crate std;

mod batch;
mod change;
mod dump;
mod entry;
mod env;
mod error;
mod map;
mod mmu;
mod node;
mod prot;
mod ranges;
mod reader;
mod shape;
mod share;
mod software;
mod stash;
mod tables;
mod x86_64;

pub use batch::{Batch, FlushError, Released};
pub use change::{Replaced, Stale};
pub use dump::Dump;
pub use entry::{EncodeError, Entry, Slot, Tag, Target};
#[cfg(not(mmkit_loom))]
pub use env::Bare;
pub use env::Env;
pub use error::Error;
pub use map::{Backing, Mapping};
pub use mmu::{Change, ChangeKind, Mmu, TryAgain};
pub use prot::Prot;
pub use reader::{Leaf, Reader, Visited, Walk};
pub use share::Share;
pub use software::Software;
pub use tables::Tables;
pub use x86_64::X86_64;
