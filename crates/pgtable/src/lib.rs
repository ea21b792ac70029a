// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables over frames: walk, map, replace, split, protect, share.
//!
//! A page table translates addresses to frames level by level: an entry of the root leads to a table of the level below, and
//! so on down to a *leaf*, which names a block of frames. This crate builds such trees out of the frames of any
//! allocator, for a processor to walk or for software alone, in every geometry that [`mmkit_addr`] knows. It never touches
//! the frames that it maps.
//!
//! | format | geometries | leaves |
//! |---|---|---|
//! | [`X86_64`] | `X86_64`, `X86_64_LA57` | 4K, 2M, 1G |
//! | [`Arm64_4K`] | `ARM64_4K` | 4K, 2M, 1G |
//! | [`Arm64_16K`] | `ARM64_16K` | 16K, 32M |
//! | [`Arm64_64K`] | `ARM64_64K` | 64K, 512M |
//! | [`Software`] | all with tables | those of the geometry |
//!
//! # Three promises
//!
//! * **All or nothing.** An operation that returns an error has changed nothing: no entry, no count, no frame. Tables
//!   are taken before the lock is, filled aside, and published last. Unmapping needs no memory.
//! * **Nothing is freed while somebody may use it.** Unmapping makes entries *pending*: absent for walkers, but still holding
//!   their frame numbers. A [`Batch`] owns them. Its flush makes the caches of translations forget them and waits for readers;
//!   then table frames go back to the allocator, and everything else to the caller, piece by piece. A token
//!   that is dropped unflushed leaks; it never frees.
//! * **Walkers take no lock.** A [`Reader`] follows entries by acquire loads, inside the read side of the environment.
//!
//! # Many entries at once
//!
//! A fork or an exit passes over millions of entries, of which most continue the one before. So what is said of ranges is done
//! in one pass per table, and told in runs: [`Leaves`] are entries that follow each other, map frames that follow each other,
//! and allow the same. [`Reader::leaves`] finds them; [`Tables::map_all`] maps many runs under one lock, all or
//! nothing; [`Tables::restrict`] makes a range read-only, whatever is mapped in it; [`Batch::zap`] takes whatever is mapped,
//! and the flush gives it back by the run. Per entry, each costs one load, and a store if the entry changes (the example
//! `per_entry` measures it). [`Tables::protect`] and [`Batch::unmap`] look first, and refuse holes.
//!
//! # Shared tables
//!
//! A memory map whose tail pages are all the same frame has thousands of last-level tables that are all the same, too. Such
//! a table is made once ([`Tables::share`]), attached to any number of entries ([`Tables::attach`]), and counted. Through an
//! attachment it is opaque: nothing in it can be changed or unmapped piecemeal. [`Tables::unshare`] puts a private copy
//! in the place of one attachment.
//!
//! # The environment
//!
//! What tables need from around them travels in one value, an [`TableEnv`]: frames, lock, read side, [`Mmu`] (flushes; how
//! live entries may be replaced), counters. [`Bare`](mmkit_frame::Bare) is the plainest one.
//!
//! Some machines (arm64) must *break* a live entry, flush, and only then *make* the new one. [`Mmu::replace`] is where they
//! do, and it may fail, with everything put back. A processor that uses the addresses in between faults; a [`Reader`] does
//! not notice: it finds what was there until the new entry is made.
//!
//! # Example
//!
//! ```
//! use mmkit_addr::{Geometry, NodeId, Pfn, VirtAddr, VirtRange};
//! use mmkit_frame::{Bare, test_util::TestFrames};
//! use mmkit_pgtable::{Backing, Leaves, Mapping, Prot, Released, Tables, Walk, X86_64};
//!
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! let frames = TestFrames::with_frames(64);
//! let tables = Tables::<X86_64, _>::new(Bare::new(frames.frames()), Geometry::X86_64, NodeId::ZERO)?;
//!
//! // Three pages, writable, on frames 0x100..0x103: one table of each level is made.
//! let base = VirtAddr::new(0xffff_ea00_0000_0000);
//! let pages = VirtRange::new(base, 3 * 4096).unwrap();
//! let backing = Backing::Run(Pfn::new(0x100).unwrap());
//! tables.map(pages, Mapping::new(backing, Prot::WRITE))?;
//! assert_eq!(tables.table_frames(), 4);
//!
//! let Walk::Mapped(leaf) = tables.walk(VirtAddr::new(base.get() + 4096 + 12))? else { panic!("it is mapped") };
//! assert_eq!(leaf.pfn.get(), 0x101);
//!
//! // Unmapped: nothing comes back yet.
//! let batch = tables.unmap(pages)?;
//! assert!(matches!(tables.walk(base)?, Walk::Pending { .. }));
//! assert_eq!(tables.table_frames(), 4);
//!
//! // Flushed: the tables went back to the allocator, the frames come back to us.
//! let mut back = Vec::new();
//! let flushed = batch.flush(|released| {
//!     // Leaves that continue each other come as one.
//!     if let Released::Leaves(Leaves { frames, .. }) = released {
//!         back.push((frames.start().get(), frames.frames()));
//!     }
//! });
//! assert!(flushed.is_ok());
//! assert_eq!(back, [(0x100, 3)]);
//! assert_eq!(tables.table_frames(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What a table costs
//!
//! A table takes whole frames. One that is smaller than a frame (the last level of s390x, all but the root of ppc64 radix
//! with 64K frames) uses the first part of its frame and wastes the rest; one that is larger (s390x above the last
//! level, the root of ppc64 radix with 4K frames) takes a naturally aligned block. [`Tables::table_frames`] is what the
//! allocator gave out, at any time. Geometries that hash have no tables, and are refused.
#![no_std]

#[cfg(test)]
extern crate std;

mod arm64;
mod batch;
mod cells;
mod change;
mod dump;
mod entry;
mod env;
mod error;
mod fill;
mod flush;
mod leaves;
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

pub use arm64::{Arm64, Arm64_4K, Arm64_16K, Arm64_64K};
pub use batch::Batch;
pub use cells::Cells;
pub use change::{Replaced, Stale};
pub use dump::Dump;
pub use entry::{EncodeError, Entry, Slot, Tag, Target};
pub use env::TableEnv;
pub use error::Error;
pub use flush::{FlushError, Released};
pub use leaves::Leaves;
pub use map::{Backing, Mapping};
pub use mmu::{Change, ChangeKind, Mmu, TryAgain};
pub use prot::Prot;
pub use reader::{Leaf, Reader, Visited, Walk};
pub use share::Share;
pub use software::Software;
pub use tables::Tables;
pub use x86_64::X86_64;
