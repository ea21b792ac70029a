// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux kernel that this runs on, as a judge: what it has, what its own huge pages and descriptors cost, and the
//! operations of this kit done by it.
//!
//! # What the kernel tells
//!
//! The kernel keeps a descriptor of 64 bytes for each base page (`struct page`), and counts the pages of memory that
//! hold them: `nr_memmap_boot_pages` (taken at boot) and `nr_memmap_pages` (taken later) in `/proc/vmstat`. Huge pages
//! wait in *pools*, one for each size and node, whose length is a number in `/sys` that the administrator writes. With
//! `vm.hugetlb_optimize_vmemmap` set, a page that enters a pool gives back all pages of its descriptors but one
//! (HugeTLB vmemmap optimization, HVO), and takes them again when it leaves. So growing and shrinking a pool *is*
//! optimising and restoring, and the counters tell how much it frees, to the page.
//!
//! # What is here
//!
//! * [`Root`]: where `proc` and `sys` are found. All readers go through it, so they read any copy of these trees.
//! * [`Memory`], [`Memmap`], [`Pool`], [`Node`], [`DaxDevice`], [`PmemDevice`]: what a machine has. No privilege is needed.
//! * [`hvo`]: grows and shrinks a pool with HVO and without, and measures it. That needs root, and changes settings of
//!   the machine: they are written to a file first and put back on every way out.
//! * [`pin`]: what pinning memory costs, in three shapes. It changes nothing, and most systems let every user do it.
//! * [`Signals`]: what lets an interrupted run put things back before it ends.
//!
//! A library that only reads and measures: what the numbers ought to be is for its user to say.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use mmkit_oracle::{Memory, Pool, Root};
//!
//! let root = Root::system();
//! if let Ok(memory) = Memory::read(&root) {
//!     println!("{} bytes of memory, {} of them free", memory.total_bytes, memory.free_bytes);
//! }
//! for pool in Pool::read_all(&root).items {
//!     println!("{} pages of {} bytes on {:?}", pool.pages, pool.page_bytes, pool.node);
//! }
//! # }
//! ```
#![cfg(target_os = "linux")]

mod dax;
#[cfg(test)]
mod fixture;
pub mod hvo;
mod memory;
mod node;
pub mod pin;
mod pool;
mod root;
mod signals;

pub use dax::{DaxDevice, Descriptors, PmemDevice};
pub use memory::{Memmap, Memory};
pub use node::Node;
pub use pool::Pool;
pub use root::{Found, ReadError, ReadFault, Root};
pub use signals::Signals;
