// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kit for the part of memory management between a frame allocator and an address space.
//!
//! This crate is a front door: it re-exports the crates of the kit, each behind a feature of its name. Take it to have
//! everything under one version; take a single crate where that is all you need. None of them knows this one.
//!
//! | module | feature | what it is |
//! |---|---|---|
//! | [`addr`] | always | addresses, frame numbers, geometries, and the arithmetic of memory maps |
//! | [`sync`] | always | bit locks, reference counts, sequence counts, read sides |
//! | [`frame`] | `frame` | the traits of a frame allocator and a direct map |
//! | [`page`] | `page` | the 64-byte descriptor, and the states a frame can be in |
//! | [`folio`] | `folio` | map counts, owners, copy-on-write |
//! | [`gup`] | `gup` | getting and pinning user pages, by the run |
//! | [`pgtable`] | `pgtable` | page tables over frames |
//! | [`vmemmap`] | `vmemmap` | the sparse virtual memory map, with shared tails |
//! | `devmap` | `devmap`, not by default: it needs a heap | memory of devices: kinds, registry, life cycle |
//!
//! Where to begin: with an array of descriptors, [`page::SliceMap`]; with a whole machine's memory,
//! [`vmemmap::Vmemmap`].
#![no_std]
#![forbid(unsafe_code)]

pub use mmkit_addr as addr;
#[cfg(feature = "devmap")]
pub use mmkit_devmap as devmap;
#[cfg(feature = "folio")]
pub use mmkit_folio as folio;
#[cfg(feature = "frame")]
pub use mmkit_frame as frame;
#[cfg(feature = "gup")]
pub use mmkit_gup as gup;
#[cfg(feature = "page")]
pub use mmkit_page as page;
#[cfg(feature = "pgtable")]
pub use mmkit_pgtable as pgtable;
pub use mmkit_sync as sync;
#[cfg(feature = "vmemmap")]
pub use mmkit_vmemmap as vmemmap;

/// The types and traits that most programs name.
pub mod prelude {
    pub use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange, ZoneId};
    #[cfg(feature = "frame")]
    pub use mmkit_frame::{DirectMap, FrameAllocator, Frames, Request};
    #[cfg(feature = "page")]
    pub use mmkit_page::{Folio, Free, Frozen, MemMap, Page, PageFlags, PageView, Place, SliceMap};
    pub use mmkit_sync::{Events, ReadSide};
    #[cfg(feature = "vmemmap")]
    pub use mmkit_vmemmap::{Vmemmap, VmemmapError, VmemmapSpace};
}

/// The programs of the README, compiled and run.
#[cfg(all(
    doctest,
    feature = "folio",
    feature = "gup",
    feature = "page",
    feature = "pgtable",
    feature = "vmemmap"
))]
#[doc = include_str!("../../../README.md")]
mod readme {}
