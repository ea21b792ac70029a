// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sparse virtual memory map: a descriptor for every frame that exists, at an address that follows from its number.
//!
//! A memory manager wants the descriptor of frame `pfn` to be found by arithmetic, at `base + pfn * 64`. Taken
//! literally that is an array as long as the highest frame number, with room for every hole in between. Here it is a
//! range of *addresses* instead, and only those pages of it have memory behind them whose frames exist. And since page
//! tables decide what is behind an address, one page of memory may stand behind many.
//!
//! # Sections and subsections
//!
//! Frames come and go in *subsections* (2M of memory, as a rule) of *sections* (128M on x86-64). A section has an entry
//! in the section table: one bit for each subsection that is present, and one for each that shares tails. The
//! table is a radix tree of single frames, as high as its highest section needs. A hole of any size costs nothing; a
//! lookup is a short walk, a bit, and an addition.
//!
//! # Keep one page, share the rest
//!
//! A huge page that is always used whole is a *compound*: one head, and tails that differ in nothing. The descriptors of
//! a 2M page of 4K frames fill eight pages, of which only the first holds anything that is the compound's own. So
//! that one is kept, and the other seven are mapped, read-only, to one page of tails: the same for all compounds of
//! that order in that zone of that node.
//!
//! ```text
//!   vmemmap      | head, 63 tails | 64 tails | 64 tails | .. | head, 63 tails | 64 tails | ..
//!                         |             \         |      /            |            |
//!   memory            own frame          one shared frame         own frame   the same shared frame
//! ```
//!
//! Where a compound is so large that whole last-level tables would map nothing but that page, the table is shared
//! as well. A 1G page then costs one frame of descriptors and one table, not 4096 frames and eight tables. The shared
//! tails are made for their first user and given back by their last.
//!
//! # Every change is a transaction
//!
//! [`Vmemmap::populate`] takes all frames that it will need, writes every descriptor into memory that nobody can look
//! up yet, maps it, and then publishes it by setting bits, which cannot fail. When something is refused on the way,
//! what was done is undone: frames, tables, counters and the section table are as before.
//!
//! [`Vmemmap::remove`] has to deal with those who are looking:
//!
//! 1. *Claim* every block of the range. If one is in use, nothing happens: [`VmemmapError::Busy`].
//! 2. *Hide* the range by clearing its bits. From now on lookups find nothing.
//! 3. *Wait* until every reader has left that may have found it earlier.
//! 4. *Unmap* the pages and flush, so that no processor remembers where they were.
//! 5. *Give back* frames, tables, and, after one more wait, the nodes of the section table that became empty.
//!
//! A lookup takes no lock: it enters the read side, which keeps steps 4 and 5 away.
//!
//! # What is here
//!
//! | part | what it is |
//! |---|---|
//! | [`Vmemmap`] | the memory map, to be used through [`MemMap`](mmkit_page::MemMap) |
//! | [`VmemmapEnv`] | what it takes from its user: frames, a lock, a read side, slots for tails |
//! | [`WithTailSlots`], [`TailSlot`] | room for shared tails, beside any environment |
//! | [`VmemmapSpace`] | the address space that holds the descriptors: yours, `TableSpace`, or that of `mmkit-host` |
//! | [`Backing`], [`TailRun`], [`Unmapped`] | what stands behind its pages, and what waits for a flush |
//! | `TableSpace` | (feature `pgtable`) an address space in page tables, a processor's or nobody's |
//! | [`Usage`], [`SpaceUsage`] | every frame that was taken, by purpose |
//! | [`VmemmapError`], [`MapError`] | why something was refused |
//!
//! # Example
//!
//! Half a gigabyte as 2M pages with a hole in it, in tables that no processor walks.
//!
#![cfg_attr(feature = "pgtable", doc = "```")]
#![cfg_attr(not(feature = "pgtable"), doc = "```ignore")]
//! use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
//! use mmkit_frame::{Bare, test_util::TestFrames};
//! use mmkit_page::{MemMap, Place, State};
//! use mmkit_pgtable::X86_64;
//! use mmkit_vmemmap::{TableSpace, Vmemmap, VmemmapError, WithTailSlots};
//!
//! let memory = TestFrames::with_frames(1024);
//! let env = || Bare::new(memory.frames());
//! let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
//! let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 2>::new(env()))?;
//! let before = memory.outstanding(); // the root of the tables
//!
//! // Sections 0, 1 and 3; section 2 is a hole.
//! let huge = Order::new(9).unwrap();
//! let low = PfnRange::new(Pfn::ZERO, 2 << 15).unwrap();
//! let high = PfnRange::new(Pfn::new(3 << 15).unwrap(), 1 << 15).unwrap();
//! map.populate(low, huge, Place::default())?;
//! map.populate(high, huge, Place::default())?;
//!
//! // 192 pages of 2M, of eight pages of descriptors each: 192 and 1 of those 1536 are in memory.
//! let usage = map.usage();
//! assert_eq!((usage.own, usage.tails, usage.sections), (192, 1, 1));
//! assert_eq!(usage.total(), memory.outstanding());
//!
//! // Any frame finds its head, and a frame in the hole finds nothing.
//! let frame = Pfn::new(700).unwrap();
//! assert_eq!(map.head(frame), Pfn::new(512));
//! assert!(!map.is_present(Pfn::new(2 << 15).unwrap()));
//!
//! // Compounds are free blocks, for an allocator to claim. While one is in use, it cannot be removed.
//! let folio = map.claim(Pfn::new(512).unwrap())?.allocate().into_folio();
//! assert_eq!(map.enter().page(frame).unwrap().state(), State::Tail { order: huge });
//! assert_eq!(map.remove(low), Err(VmemmapError::Busy { pfn: folio.pfn() }));
//! drop(folio);
//! map.remove(low)?;
//! map.remove(high)?;
//! assert_eq!(memory.outstanding(), before);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Cost
//!
//! A lookup is the read side's entry, one load for each level of the section table, one of the bitmap, and the space's
//! arithmetic: no atomic read-modify-write, no allocation. Populating and removing cost what their documentation
//! says, under one lock. Source: sections and `vmemmap` as in Linux's `SPARSEMEM_VMEMMAP`; keeping one page, sharing
//! tables, and removal by claims are ours.
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
