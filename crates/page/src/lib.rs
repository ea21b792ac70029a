// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 64-byte page descriptor, and what may be done to a frame.
//!
//! A memory manager keeps a descriptor for each frame. It is looked up by frame number, by anybody, at any time: while
//! the frame is allocated, freed, merged into a huge page, or taken away. So a descriptor in hand says little about
//! what may be done with it. This crate makes that a matter of types. A frame is in one of four states, and each has a
//! handle that can do what the state allows and nothing else:
//!
//! | state | handle | who has it | what it may do |
//! |---|---|---|---|
//! | any | [`PageView`] | anyone, inside a [`Reader`] | read; try to take a reference |
//! | held | [`Folio`] | holds a reference | flags, more references, freeze when it is the only one |
//! | frozen | [`Frozen`] | the one owner, count 0 | make a compound, undo that, hand out, give back |
//! | free | [`Free`] | the one allocator | private words, split, merge, hand out |
//!
//! ```text
//!  not initialised ──initialise──▶ at rest ◀──drop────┐
//!                                     │ claim         │
//!                                     ▼               │
//!            split, merge ──────────▶ Free ───────────┘
//!                                     │ ▲
//!                            allocate │ │ into_free
//!                                     ▼ │
//!            prep, unprep ─────────▶ Frozen
//!                                     │ ▲
//!                          into_folio │ │ freeze, last put
//!                                     ▼ │
//!                                    Folio ──try_clone, PageView::try_get──▶ Folio
//! ```
//!
//! All of it is decided by one 64-bit word of the descriptor, `info`: reference count in the high half, kind and order
//! in the low half. One compare-exchange therefore takes a reference *and* proves that the frame is still what it
//! seemed to be.
//!
//! # Heads by frame number
//!
//! A block of `2^order` frames may be used as one *compound*. Its first frame is the head; the `info` word of every
//! other, a tail, is its order. The head is found by clearing the low `order` bits of the frame number, since
//! compounds are naturally aligned. No pointer is stored, so all tails of an order in a zone are the same bytes, and
//! one page full of them can stand for all: that is what `mmkit-vmemmap` builds on. Nothing in this crate writes a
//! descriptor that may be such a tail.
//!
//! # Example
//!
//! ```
//! use mmkit_addr::{Order, Pfn};
//! use mmkit_page::{MemMap, Page, PageFlags, Place, SliceMap, State};
//!
//! // Sixteen frames, with an array of descriptors.
//! let mut pages = [const { Page::new() }; 16];
//! let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
//! map.initialise(map.range(), Place::default())?;
//!
//! // An allocator joins two free frames, and makes a compound of them.
//! let (a, b) = (map.claim(Pfn::ZERO)?, map.claim(Pfn::new(1).unwrap())?);
//! let folio = a.merge(b).unwrap().allocate().prep().unwrap().into_folio();
//! assert_eq!(folio.order(), Order::new(1).unwrap());
//!
//! // Anyone finds the head from the tail, and a reference from either.
//! let tail = Pfn::new(1).unwrap();
//! assert_eq!(map.head(tail), Some(folio.pfn()));
//! let second = map.try_get(tail)?;
//! second.insert(PageFlags::DIRTY);
//! assert_eq!(folio.count(), 2);
//!
//! // One holder cannot take it apart; the last one can.
//! let folio = folio.freeze().unwrap_err();
//! drop(second);
//! let frozen = folio.freeze().unwrap().unprep().unwrap();
//! let (a, b) = frozen.into_free().unwrap().split().unwrap();
//! assert_eq!((a.pfn(), b.pfn()), (Pfn::ZERO, tail));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Frames that fail
//!
//! Flags end with the use of a block: [`Frozen::into_free`] clears those of all of its frames. One does not:
//! [`PageFlags::HWPOISON`], the hardware reported an error. A block with such a frame does not become free; its owner
//! [splits](Frozen::split) it, gives the halves without such a frame back, and keeps the frame, or forgets it. So an
//! allocator is never handed a bad frame, whoever drops the last reference.
//!
//! # Cost
//!
//! Looking up a head is one load and a mask. Taking a reference is two loads and one compare-exchange; giving it back
//! is one `fetch_sub`. No operation allocates.
#![no_std]

#[cfg(any(test, mmkit_loom))]
extern crate std;

mod block;
mod counting;
mod dump;
mod flags;
mod flags_at;
mod folio;
mod free;
mod frozen;
mod memmap;
mod owner;
mod page;
mod pinning;
mod raw;
mod references;
mod refused;
mod slice;
mod tag;
mod template;
mod view;

pub use counting::{Counting, Descriptors, OWN_DESCRIPTORS, OwnWords, Uncounted, Words};
pub use dump::Dump;
pub use flags::{PageFlags, Place};
pub use folio::Folio;
pub use free::Free;
pub use frozen::Frozen;
pub use memmap::{ClaimError, MemMap};
pub use page::Page;
pub use pinning::{PinPolicy, PinRefusal, PinUse, PinVerdict};
pub use references::{References, Taken};
pub use refused::{Reason, Refused};
pub use slice::SliceMap;
pub use template::Template;
pub use view::{Bounds, GetError, PageView, Reader, State};
