// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map counts and owners of folios, pins, and the copy-on-write decision.
//!
//! A folio is a block of frames that is referenced as one ([`mmkit_page::Folio`]). Page tables of several address spaces
//! may lead to it: through one entry for each page, or through one entry for all of them. Four questions come up all
//! the time, and none may cost a walk through all page tables:
//!
//! * *Is it mapped at all, and how much of it?* For statistics, and to know what can be split or freed.
//! * *Is it mapped by several address spaces?* Then one must not write to it.
//! * *Is it used by anybody beside its mappings?* Then a writer who keeps the page would be seen.
//! * *Is it pinned?* Then it must not be copied away from under a device.
//!
//! This crate keeps the counts that answer them, in words that each folio has in its own first descriptors.
//!
//! # Mappings and references
//!
//! A *mapping* is one entry of a page table, of whatever size. Each has one reference on the folio. [`Rmap`] adds and
//! removes them in batches: `k` entries that map `k` consecutive pages are one operation, with one atomic for the
//! references and one for the counts, whatever `k` is. What is removed hands its references out as [`References`],
//! which are given back when the translation caches are flushed, and not before.
//!
//! # Strategies
//!
//! How mappings are counted is a type that the memory map chooses ([`mmkit_page::MemMap::Counts`]), so that no folio is
//! ever counted in two ways. It says two things. Is there a count for each page, or only for the folio?
//!
//! | | knows | costs | shared descriptors |
//! |---|---|---|---|
//! | [`PageMapcount`] | which pages are mapped | an atomic for each page of a batch | refused |
//! | [`NoPageMapcount`] | that the folio is mapped | nothing more | yes |
//!
//! And who maps the folio?
//!
//! | | says "one address space" | space beside T |
//! |---|---|---|
//! | [`Untracked`] | never | - |
//! | [`TwoSlots`] | certainly for two, cautiously for more; the algorithm of Linux | 16 bytes |
//! | [`PowerSums`] | exactly when it is so, for any number | 24 bytes |
//! | `Checked` | the same, from a table of counts; for tests (`test-util`) | unbounded |
//!
//! None ever says that one address space alone maps what two do. `docs/ownership.md` has the proofs and the cases in
//! which caution is wrong, `docs/mapcounts.md` what the two modes mean for statistics. An address space has a name,
//! [`MmId`], which [`MmIds`] gives out.
//!
//! # Copy on write
//!
//! After a fork, parent and child map the same pages read-only. Who writes first faults, and gets a copy, unless it is
//! alone by then: [`Rmap::write_fault`] decides. A page that is known to be its writer's is *exclusive*, until
//! a fork, or the way to swap ([`Rmap::try_share`]), ends that. One mark stands for all pages of a folio for as long as all
//! are exclusive, and where the folio's descriptors are shared there is nothing but the mark.
//!
//! # Example
//!
//! ```
//! use mmkit_addr::{Order, Pfn};
//! use mmkit_folio::{Cow, Mapping, MmIds, NoPageMapcount, PowerSums, Rmap, Why, map_new_anon};
//! use mmkit_page::{MemMap, Page, Place, SliceMap};
//! use mmkit_sync::atomic::AtomicU64;
//!
//! // Four frames, whose mappings are counted by folio, with exact owners; and names for 64 address spaces.
//! let mut pages = [const { Page::new() }; 4];
//! let map = SliceMap::<NoPageMapcount<PowerSums>>::counted(&mut pages, Pfn::ZERO).unwrap();
//! map.initialise(map.range(), Place::default())?;
//! let mut memory = [const { AtomicU64::new(0) }; MmIds::words(64)];
//! let ids = MmIds::new(&mut memory);
//! let (parent, child) = (ids.take()?, ids.take()?);
//!
//! // A folio of four pages, which the parent maps with four entries. It had no references before, and has theirs now.
//! let block = |n| map.claim(Pfn::new(n).unwrap()).unwrap();
//! let low = block(0).merge(block(1)).unwrap();
//! let high = block(2).merge(block(3)).unwrap();
//! let new = low.merge(high).unwrap().allocate().prep().unwrap();
//! let all = Mapping::Ptes { first: 0, count: 4 };
//! let account = map_new_anon(new, parent.id(), all).unwrap();
//! assert_eq!(account.anon_mapped(), 4);
//!
//! // A fork: both map it, and whoever writes gets a copy.
//! let folio = map.try_get(Pfn::ZERO)?;
//! let _ = folio.fork(child.id(), all)?;
//! assert_eq!((folio.mappings(), folio.count()), (8, 9));
//! assert_eq!(folio.write_fault(2, 1)?, Cow::Copy(Why::Shared));
//!
//! // The child exits; its references go when the flush is done. The parent is alone, and keeps its pages.
//! let gone = folio.remove_mappings(child.id(), all)?;
//! drop(gone.references);
//! assert_eq!(folio.sole_owner(), Some(parent.id()));
//! assert_eq!(folio.write_fault(2, 1)?, Cow::Reused);
//! # drop(folio.remove_mappings(parent.id(), all)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What the counts cannot show
//!
//! An address space that unmaps what it never mapped is refused where the counts show it: more mappings than there are,
//! sums that no ids have, slots of others that would count too much. Constant space cannot show every case; `Checked`
//! does. Memory safety does not depend on it: an operation hands out as many references as it took mappings off T, whoever
//! they belonged to, so a folio is never freed while a mapping is counted.
//!
//! # Features
//!
//! * `test-util`: `Checked`. Needs `std`.
//! * `count-atomics`: for this crate's test of how many atomics an operation costs. Needs `std`.
#![no_std]

#[cfg(feature = "test-util")]
mod checked;
mod count;
mod cow;
mod error;
mod exclusive;
mod fresh;
mod ids;
mod mapping;
mod mm_id;
mod pages;
mod pins;
mod query;
mod rmap;
mod shape;
mod slots;
mod strategy;
mod sums;
mod tracker;
mod words;

#[cfg(feature = "test-util")]
pub use checked::Checked;
pub use cow::{Cow, Why};
pub use error::MapError;
pub use fresh::{NotMapped, map_new_anon};
pub use ids::{IdsExhausted, MmIdGuard, MmIds};
pub use mapping::{Account, Kind, Mapping, Unmapped};
pub use mm_id::MmId;
pub use mmkit_page::References;
pub use pages::ENTIRELY_MAPPED;
pub use pins::{Hold, PIN_BIAS, RunHold};
pub use query::average;
pub use rmap::Rmap;
pub use slots::{Slots, TwoSlots};
pub use strategy::{Mapcounts, NoPageMapcount, PageMapcount};
pub use sums::{PowerSums, Sums};
pub use tracker::{Tracker, Untracked};
pub use words::CountWords;

#[cfg(not(mmkit_loom))]
mod layout {
    use core::mem::size_of;

    use mmkit_page::SliceMap;
    use static_assertions::{assert_impl_all, const_assert_eq};

    use crate::{CountWords, MmId, MmIds, NoPageMapcount, PageMapcount, PowerSums, References, TwoSlots};

    // The words of a descriptor beside its flags and info.
    const_assert_eq!(size_of::<CountWords>(), 48);
    const_assert_eq!(size_of::<PageMapcount<TwoSlots>>(), 0);
    const_assert_eq!(size_of::<NoPageMapcount<PowerSums>>(), 0);
    const_assert_eq!(size_of::<Option<MmId>>(), 4);
    assert_impl_all!(MmIds<'static>: Send, Sync);
    assert_impl_all!(References<'static, SliceMap<'static, NoPageMapcount<PowerSums>>>: Send, Sync);
}
