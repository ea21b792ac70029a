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
//! in the section table: one bit for each subsection that is present, one for each that shares tails or lies in an
//! altmap, and two words for the section as a whole. The table is a radix tree of single frames, as high as its highest
//! section needs. A hole of any size costs nothing; a lookup is a short walk, a bit, and an addition.
//!
//! | a section is | that means |
//! |---|---|
//! | early | memory from boot: descriptor memory for all of it, holes too, until its last frame is removed |
//! | hot-added | everything else: a subsection has descriptor memory exactly while it is present |
//! | partial, whole | some, or all, of its subsections are present |
//! | online, offline | its frames can be claimed, or are in the memory map's hands |
//!
//! An absent frame answers `None` everywhere, in the hole of an early section as well: that there is memory for its
//! descriptor ([`Vmemmap::is_covered`]) says nothing about the frame. What is populated there later uses that memory,
//! writes every descriptor of it, and shares nothing.
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
//! # Where descriptors lie
//!
//! [`Populate`] says what stands behind the descriptors of a range: single frames; one frame for each compound, and shared
//! tails; blocks behind huge leaves; or an [`Altmap`], frames of the very memory that is described, so that a
//! terabyte of device memory costs the machine's own memory nothing.
//!
//! # Every change is a transaction
//!
//! [`Vmemmap::populate`] takes all frames that it will need, writes every descriptor into memory that nobody can look
//! up yet, maps it, and then publishes it by setting bits, which cannot fail. When something is refused on the way,
//! what was done is undone: frames, tables, counters and the section table are as before.
//!
//! For ranges that are large, such as those of devices, [`Vmemmap::stage`] does the same in steps: the lock is held for a section at
//! a time, and descriptors are written outside of it, by as many threads as there are.
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
//! | [`Populate`], [`Altmap`] | what to add, and how |
//! | [`Staged`], [`Executor`] | the same in steps: descriptors written outside the lock, by many, visible at last |
//! | [`SectionState`] | what is the case with a section |
//! | [`Violation`], [`Invariant`] | what [`Vmemmap::verify`] finds |
//! | [`own_pages`], [`SpanTails`] | how many pages a span will own |
//! | [`VmemmapEnv`] | what it takes from its user: frames, a lock, a read side, slots for tails |
//! | [`WithTailSlots`], [`TailSlot`] | room for shared tails, beside any environment |
//! | [`VmemmapSpace`] | the address space that holds the descriptors: yours, `TableSpace`, or that of `mmkit-host` |
//! | [`Backing`], [`Behind`], [`TailRun`], [`Unmapped`] | what stands behind its pages, and what waits for a flush |
//! | [`Exchange`], [`Removed`], [`Taken`] | how one thing behind its pages is replaced by another |
//! | `TableSpace` | (feature `pgtable`) an address space in page tables, a processor's or nobody's |
//! | [`Usage`], [`SpaceUsage`] | every frame that was taken, by purpose |
//! | [`HvoState`], [`HvoReport`], [`HvoError`] | how a compound's descriptors are backed; what became of a batch, and why |
//! | [`WithReserves`], [`ReserveSlot`] | room for frames to restore compounds with |
//! | [`Failure`], [`FailureSlot`] | what is known of a bad frame in a compound, and room for that |
//! | [`HugePool`], [`HugePage`], [`PoolMap`] | huge pages set aside, optimised, to be handed out |
//! | [`PoolCounts`], [`PoolReport`], [`PoolError`] | what a pool has, what it did, and why not more |
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
//! # Optimising and restoring
//!
//! Compounds need not be populated as such. Blocks that an allocator hands out later are *optimised* when they become a
//! huge page, and *restored* before they go back: every page of descriptors but the first becomes the shared one, and gets
//! memory of its own again. Both take batches of [frozen](mmkit_page::Frozen) compounds, with two flushes and one wait for
//! readers however many they are. [`HvoState`] has the states. Restoring needs memory just when there is none, so frames
//! can be [set aside](Vmemmap::set_reserve). `docs/vmemmap.md` goes through it step by step, and says when it pays.
//!
#![cfg_attr(feature = "pgtable", doc = "```")]
#![cfg_attr(not(feature = "pgtable"), doc = "```ignore")]
//! # use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
//! # use mmkit_frame::{Bare, test_util::TestFrames};
//! # use mmkit_page::{MemMap, Place};
//! # use mmkit_pgtable::X86_64;
//! # use mmkit_vmemmap::{HvoState, TableSpace, Vmemmap, WithReserves, WithTailSlots};
//! # let memory = TestFrames::with_frames(2048);
//! # let env = || Bare::new(memory.frames());
//! # let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
//! // An environment with room for shared tails, one reserve and one bad frame. The memory is single frames.
//! let env = WithReserves::<_, 1, 1>::new(WithTailSlots::<_, 1>::new(env()));
//! let map = Vmemmap::new(Geometry::X86_64, space, env)?;
//! map.populate(PfnRange::new(Pfn::ZERO, 1 << 15).unwrap(), Order::ZERO, Place::default())?;
//!
//! // Four compounds of 2M that nobody refers to, and seven frames in reserve.
//! let huge = Order::new(9).unwrap();
//! let compound = |n: u64| {
//!     let free = map.claim_joined(Pfn::new(n << 9).unwrap(), huge).unwrap();
//!     free.allocate().prep().unwrap()
//! };
//! let mut batch = [0, 1, 2, 3].map(compound);
//! map.set_reserve(NodeId::ZERO, huge, true)?;
//!
//! let before = map.usage().own;
//! assert_eq!(map.optimise_batch(&mut batch).ok()?.done, 4);
//! assert_eq!(map.usage().own, before - 4 * 7);
//! assert_eq!(map.hvo_state(&batch[0]), Ok(HvoState::Optimised));
//!
//! // The allocator has nothing left. The reserve is enough for one, which would be freed now, and pay for the next.
//! memory.set_budget(0);
//! map.restore(&mut batch[0])?;
//! assert!(map.restore(&mut batch[1]).unwrap_err().is_no_memory()); // optimised still
//! memory.heal();
//! assert_eq!(map.restore_batch(&mut batch).ok()?.done, 3);
//! assert_eq!((map.usage().own, map.usage().reserve), (before, 7));
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

mod altmap;
mod bitmap;
mod build;
mod check;
mod content;
mod env;
mod error;
mod hvo;
#[cfg(mmkit_loom)]
#[doc(hidden)]
pub mod models;
mod online;
mod own;
mod populate;
mod remove;
mod request;
mod section;
mod sections;
mod space;
mod stage;
#[cfg(feature = "pgtable")]
mod tables;
mod tails;
mod verify;
mod vmemmap;

pub use altmap::Altmap;
pub use env::{VmemmapEnv, WithTailSlots};
pub use error::VmemmapError;
pub use hvo::{
    Failure, FailureSlot, HugePage, HugePool, HvoError, HvoReport, HvoState, PoolCounts, PoolError, PoolMap,
    PoolReport, ReserveSlot, WithReserves,
};
pub use online::SectionState;
pub use own::{SpanTails, own_pages};
pub use request::Populate;
pub use space::{
    Backing, Behind, Exchange, MapError, Removed, SpaceUsage, TailRun, Taken, Unmapped, VmemmapSpace,
};
pub use stage::{Executor, Progress, Serial, Staged};
#[cfg(feature = "pgtable")]
pub use tables::{TableSpace, TableUnmapped};
pub use tails::TailSlot;
pub use verify::{Invariant, Violation};
pub use vmemmap::{Usage, Vmemmap};
