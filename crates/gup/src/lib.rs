// SPDX-License-Identifier: MIT OR Apache-2.0
//! Get and pin user pages, by the run and not by the page.
//!
//! A device, a file system or another kernel subsystem wants at the memory of a process: bytes from one address on, by the
//! frames behind them, which must not go away meanwhile. To *get* a page is to have a reference on it. To *pin* it says that
//! its contents are accessed as well, so that it also stays the process's: nobody moves it, and a fork copies it at once
//! instead of sharing it. This crate does both for any address space that implements [`AddressSpace`].
//!
//! # Runs
//!
//! Memory is mapped in runs: entry after entry leads to frame after frame. Page tables say so by themselves, in numbers that
//! lie one behind the other. So the walker asks an address space for [`Rows`] of raw entries, compares them as numbers, and
//! has the length of a run before it has looked at a single descriptor. What it does afterwards it does once for each folio of
//! the run: one compare-exchange for the references, one addition for the pins, one look at each entry again, one entry in
//! the caller's [`Sink`].
//!
//! | to hold | takes | and to give back |
//! |---|---|---|
//! | a folio of several pages, however it is mapped: pin | two atomics | two |
//! | the same: get | one | one |
//! | a folio of one page | one | one |
//!
//! # Without locks, and with them
//!
//! [`hold`] first goes as far as it can without any lock. It reads entries inside a reader, takes references, which prove by
//! themselves that the folio is what it was taken for, and then looks at the entries again: an entry that is still there led
//! to the folio all the time. From the first page on that is not there, or not as it is needed, it locks the areas, has
//! [faults](AddressSpace::fault_in) made, and goes on under the lock of each table.
//!
//! It ends early where something is in the way. What it has until then is the caller's: an error means that there is not a
//! single page, and [`Held`] says how far it came, why not farther, and where to go on.
//!
//! # Sinks
//!
//! | sink | gets | for |
//! |---|---|---|
//! | [`Extents`] | runs of frames, merged across folios | whoever maps memory for a device |
//! | [`Bytes`] | stretches of bytes, with unaligned ends | DMA, block requests |
//! | [`Folios`] | folios, and how often each is held | registered buffers |
//! | [`Pages`] | one word for each page | older interfaces |
//!
//! All of them use buffers of the caller's. Holds are given back from whatever they were put into ([`Release`]); a
//! [`Pinned`] does so by itself.
//!
//! # Example
//!
//! ```
//! use mmkit_addr::{Order, Pfn, PhysAddr, VirtAddr};
//! use mmkit_folio::{NoPageMapcount, PowerSums, Rmap};
//! use mmkit_gup::{AddressSpace, Bytes, Flags, Flat, Pinned, Request, Segment, Span};
//! use mmkit_page::{MemMap, Page, Place, SliceMap};
//! use mmkit_sync::atomic::AtomicU64;
//!
//! // A folio of four pages, frames 4 to 7, mapped from address 0 on.
//! let mut pages = [const { Page::new() }; 8];
//! let map = SliceMap::<NoPageMapcount<PowerSums>>::counted(&mut pages, Pfn::ZERO).unwrap();
//! map.initialise(map.range(), Place::default())?;
//! let first = Pfn::new(4).unwrap();
//! let folio = map.claim_joined(first, Order::new(2).unwrap())?.allocate().prep().unwrap().into_folio();
//! let entries = [const { AtomicU64::new(0) }; 4];
//! let space = Flat::new(&map, &entries);
//! for page in 0..4 {
//!     space.set(page, first.checked_add(page as u64).unwrap(), true);
//! }
//!
//! // A device reads into 10000 bytes from 0x800 on: pin them, and tell it where they are.
//! let span = Span::bytes(&space.format(), VirtAddr::new(0x800), 10_000)?;
//! let request = Request::new(Flags::PIN | Flags::WRITE | Flags::LONGTERM)?;
//! let mut buffer = [Segment::EMPTY; 8];
//! let pinned = Pinned::all(&map, &space, span, request, Bytes::new(&mut buffer, &span))?;
//! let start = PhysAddr::new(0x4800).unwrap();
//! assert_eq!(pinned.sink().stretches(), [Segment { phys: start, len: 10_000 }]);
//! assert_eq!(folio.pins(), 3);
//!
//! // The device is done.
//! drop(pinned);
//! assert_eq!((folio.pins(), folio.count()), (0, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `docs/pinning.md` explains the whole: the rules, what those who change page tables have to do, and how a driver gets from a
//! range of bytes to the segments of a device.
//!
//! # Features
//!
//! * `test-util`: `Flat`, an address space of one table.
//! * `count-atomics`: for this crate's test of how many atomics an operation costs. Needs `std`.
#![no_std]

mod area;
mod batch;
mod fault;
mod file;
#[cfg(feature = "test-util")]
mod flat;
mod hold;
mod longterm;
mod migrate;
mod pinned;
mod populate;
mod refusal;
mod release;
mod request;
mod row;
mod sink;
mod slow;
mod space;
mod span;
mod walk;

pub use area::{Area, AreaFlags, FileKind};
pub use fault::{FaultError, FaultFlags, Faulted, Interruption};
pub use file::{AllocateError, FilePins, FileRefusal, MemoryFile, pin_file};
#[cfg(feature = "test-util")]
pub use flat::{Flat, FlatRows};
pub use hold::hold;
pub use migrate::{Isolated, Migrate, MigrateError};
pub use pinned::Pinned;
pub use populate::populate;
pub use refusal::{Held, Refusal};
pub use release::{Dirty, Release, Released};
pub use request::{BadFlags, Flags, Request, Rule};
pub use row::{Format, LeafFlags, Row, Rows, Slot};
pub use sink::{
    BioVec, Bytes, Extent, Extents, FolioHolds, Folios, Keeper, PageRef, Pages, Run, Segment, Sink, Stretch,
};
pub use space::AddressSpace;
pub use span::{BadSpan, Span};
