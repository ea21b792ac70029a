// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, frame numbers, geometries and the arithmetic of memory maps.
//!
//! # Frames, descriptors, compounds
//!
//! Physical memory is cut into *frames* of one base page (4 to 64 KiB), numbered by [`Pfn`]. A *memory map* spends a
//! *descriptor* of [`DESCRIPTOR_BYTES`] on each frame. All descriptors form one array in virtual memory, the
//! *vmemmap*: that of frame `n` lies `n * 64` bytes from its start, always. With 4K pages the array is 1/64 of memory,
//! 16 GiB per TiB.
//!
//! `2^order` frames from a multiple of `2^order` are a block of an [`Order`]. A block that is handled as one (a huge
//! page, say) is a *compound*: its first frame is the *head*, all others are *tails*. A tail's descriptor says only
//! "my head is where the block of this order begins", so all tails of an order look alike, and the pages of vmemmap
//! that hold nothing but tails can all be the same page. That is deduplication. This crate says where it applies and
//! what is left: the array itself is in other crates.
//!
//! What there is depends on the architecture: its base page, the width of its page tables *at each level*, the huge
//! pages that it can map. That is a [`Geometry`], a value: two of them can live in one program. [`Geometry::compound`]
//! gives the arithmetic of one order as a [`Compound`], and a [`Scheme`] names each way of backing its descriptors.
//!
//! # What a 2M page's descriptors cost on x86-64
//!
//! ```
//! use mmkit_addr::{Geometry, Keep, Pfn, Scheme};
//!
//! const X86: Geometry = Geometry::X86_64;
//! let order = X86.order_of_bytes(2 << 20).unwrap();
//! let huge = X86.compound(order).unwrap();
//!
//! // 512 frames have 512 descriptors of 64 bytes: eight pages of vmemmap.
//! assert_eq!(order.frames(), 512);
//! assert_eq!(huge.vmemmap_bytes(), 32 << 10);
//! assert_eq!(huge.vmemmap_pages(), Some(8));
//!
//! // The first page holds the head and 63 tails, the other seven hold tails only: they can go.
//! assert_eq!(huge.saved_pages(Keep::One), Some(7));
//! let tail = Pfn::new(5 * 512 + 64).unwrap();
//! assert_eq!(huge.head(tail), Pfn::new(5 * 512).unwrap());
//! assert_eq!(huge.vmemmap_page(tail), Some(1));
//! assert_eq!(huge.is_kept(tail, Keep::One), Some(false));
//!
//! // Eight entries of 8 bytes in a page table map the eight pages, to whatever they are.
//! assert_eq!(huge.last_level_bytes(), Some(64));
//!
//! // Per TiB of such pages: 16 GiB flat, 2080 MiB deduplicated. One TiB of 1G pages gets by with 8 MiB, because the
//! // page tables that map only tails are shared too.
//! let per_tib = |scheme| huge.resident_per_tib(scheme).unwrap().total() >> 20;
//! assert_eq!(per_tib(Scheme::Flat), 16 << 10);
//! assert_eq!(per_tib(Scheme::KeepOne), 2080);
//! let giant = X86.compound(X86.order_of_bytes(1 << 30).unwrap()).unwrap();
//! assert_eq!(giant.resident_per_tib(Scheme::KeepOneSharedTables).unwrap().total(), 8 << 20);
//! ```
//!
//! # Numbers that cannot lie
//!
//! [`Pfn`], [`PhysAddr`], [`Order`], [`NodeId`], [`ZoneId`] and [`Level`] hold only what is in range: their `new`
//! returns an `Option`, as does all arithmetic that could leave it, and there are no conversions by `From`. Ranges
//! ([`PfnRange`], [`PhysRange`], [`VirtRange`]) are half open and never inverted, and reach up to the very last frame
//! or byte. Nearly everything is a `const fn`; nothing allocates, and nothing is unsafe.
#![no_std]
#![forbid(unsafe_code)]

mod bytes;
mod dedup;
mod geometry;
mod id;
mod order;
mod pfn;
mod pfn_range;
mod phys;
mod virt;

pub use dedup::{Compound, Keep, Resident, Scheme};
pub use geometry::{Geometry, GeometryError, GeometrySpec, HugeKind, HugePage, Level, TableShape};
pub use id::{NodeId, ZoneId};
pub use order::Order;
pub use pfn::Pfn;
pub use pfn_range::{Blocks, PfnIter, PfnRange};
pub use phys::{PhysAddr, PhysPieces, PhysRange};
pub use virt::{VirtAddr, VirtPieces, VirtRange};

/// Bytes of a page descriptor: what a memory map spends on each frame (Linux: `sizeof(struct page)`).
pub const DESCRIPTOR_BYTES: u64 = 64;

static_assertions::const_assert!(DESCRIPTOR_BYTES.is_power_of_two());
