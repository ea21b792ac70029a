// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices, with descriptors: from the moment when a driver finds it until it is pulled out.
//!
//! Memory of a device that has descriptors is looked up, referenced, mapped and pinned like the machine's own. What is
//! different is that somebody owns it, that it comes late, and that it goes. This crate knows whose it is, what its kind
//! allows, and when it is safe to let it go. Linux: `memremap_pages`, `ZONE_DEVICE`, `struct dev_pagemap`.
//!
//! # From a description to memory
//!
//! 1. A driver *describes* its memory: [`DevPagemap::builder`] checks all of it before anything is done, and says which
//!    range is wrong.
//! 2. [`Devmap::register`] *reserves* the intervals, populates the memory map, has the descriptors written outside of locks,
//!    and *publishes last*: nobody finds anything of it before all of it is there. What fails is undone.
//! 3. Frames are found through the [`Registry`], by number; a folio knows its pagemap by an [index](PagemapIndex) in its
//!    head. A [`DeviceFolio`] keeps its pagemap, as a [`PagemapRef`] does.
//! 4. [`Registration::unregister`] *kills* the pagemap, *revokes* what address spaces map of it, waits until nobody has a
//!    reference, and takes the memory away. Waiting can be given up and tried again.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
//! use mmkit_devmap::{DevPagemap, Devmap, DevmapError, Kind};
//! use mmkit_frame::{Bare, test_util::TestFrames};
//! use mmkit_pgtable::X86_64;
//! use mmkit_sync::Readers;
//! use mmkit_vmemmap::{Serial, TableSpace, Vmemmap, WithTailSlots};
//!
//! let memory = TestFrames::with_frames(4096);
//! let env = || Bare::new(memory.frames());
//! let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
//! let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 1>::new(env()))?;
//! let devmap = Devmap::new(map, Readers::new())?;
//!
//! // A gigabyte of a device, as 2M pages.
//! let range = PfnRange::new(Pfn::new(1 << 20).unwrap(), 1 << 18).unwrap();
//! let huge = Order::new(9).unwrap();
//! let pagemap = DevPagemap::builder(Kind::Generic).range(range).order(huge).build(&Geometry::X86_64)?;
//! let registration = devmap.register(pagemap, &Serial)?;
//! assert_eq!(devmap.registry().enter().find(range.start()).unwrap().ranges(), [range]);
//!
//! // Somebody holds a page, and the device is pulled out: it is waited for, as long as one likes.
//! let folio = devmap.take(range.start(), huge)?;
//! let patience = |tries| if tries < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
//! let error = registration.unregister(&(), patience).unwrap_err();
//! assert_eq!(error.error, DevmapError::Held { range, held: 1 });
//!
//! // Nobody new gets at it. When the last reference is put, it goes, and the description comes back.
//! assert!(folio.pagemap().is_dead() && devmap.registry().get(range.start()).is_none());
//! drop(folio);
//! let pagemap = error.registration.unregister(&(), patience).map_err(|error| error.error)?;
//! assert_eq!(pagemap.ranges(), [range]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is here
//!
//! | part | what it is |
//! |---|---|
//! | [`DevPagemap`], [`PagemapBuilder`], [`PagemapInfo`] | what a driver says of its memory, checked |
//! | [`Kind`], [`Owner`], [`Operations`] | what kind of memory it is, whose, and what the driver does for it |
//! | [`Devmap`] | a memory map with devices in it |
//! | [`Registration`], [`Revoke`] | the right to take the memory away, and what address spaces do for that |
//! | [`Deferred`] | a device that is used while the rest of its descriptors is written |
//! | [`NodeSpans`], [`Span`] | what zones and nodes span |
//! | [`Registry`], [`Pagemap`], [`PagemapRef`] | from a frame number to a pagemap, which is kept by a reference |
//! | [`DeviceFolio`], [`PagemapIndex`] | from a folio to its pagemap |
//! | [`FilePlace`], [`IdleWait`], [`FolioError`] | folios of each kind: made, shared by files, waited for |
//! | [`DaxRegion`], [`DaxDevice`], [`DaxMapping`] | device-dax: pieces of a region, each mapped by pages of one size |
//! | [`Failure`], [`Victims`], [`Report`] | frames that fail |
//!
//! `docs/devmap.md` goes through all of it. The feature `alloc` (by default) is for lists and tables on the heap; every
//! allocation may fail, and is an error then. Without it only kinds, operations and indices are left.
#![no_std]
#![allow(
    clippy::result_large_err,
    reason = "errors give back what was handed in, on the stack: memory for a box may be what was short"
)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, mmkit_loom))]
extern crate std;

#[cfg(feature = "alloc")]
mod builder;
#[cfg(feature = "alloc")]
mod dax;
#[cfg(feature = "alloc")]
mod devmap;
mod error;
#[cfg(feature = "alloc")]
mod failure;
#[cfg(feature = "alloc")]
mod folio;
#[cfg(feature = "alloc")]
mod heap;
mod index;
mod kind;
#[cfg(feature = "alloc")]
mod kinds;
#[cfg(feature = "alloc")]
mod life;
#[cfg(all(mmkit_loom, feature = "alloc"))]
#[doc(hidden)]
pub mod models;
mod operations;
#[cfg(feature = "alloc")]
mod pagemap;
#[cfg(feature = "alloc")]
mod registry;
#[cfg(feature = "alloc")]
mod spans;
mod zones;

#[cfg(feature = "alloc")]
pub use builder::{BuildError, PagemapBuilder};
#[cfg(feature = "alloc")]
pub use dax::{
    DaxDevice, DaxError, DaxFault, DaxMapping, DaxRegion, FaultError, MappingError, RegionError, Sigbus,
};
#[cfg(feature = "alloc")]
pub use devmap::Devmap;
pub use error::DevmapError;
#[cfg(feature = "alloc")]
pub use failure::{Failure, FailureError, Report, Victims};
#[cfg(feature = "alloc")]
pub use folio::DeviceFolio;
pub use index::PagemapIndex;
pub use kind::{Kind, Owner};
#[cfg(all(mmkit_loom, feature = "alloc"))]
pub use kinds::models as kind_models;
#[cfg(feature = "alloc")]
pub use kinds::{Associated, FilePlace, FolioError, IdleWait, MappingId, StillBusy, unused_references};
#[cfg(feature = "alloc")]
pub use life::{Deferred, RegisterError, Registration, Revoke, UnregisterError};
pub use operations::{Failed, Operations, Provided};
#[cfg(feature = "alloc")]
pub use pagemap::{DevPagemap, PagemapInfo};
#[cfg(feature = "alloc")]
pub use registry::{Pagemap, PagemapRef, Registry, RegistryReader};
pub use zones::{NodeSpans, Span, SpanError};
