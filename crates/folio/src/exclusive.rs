// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are exclusive: a mark in the head while all are, a flag in each page's own descriptor once some are not.
//!
//! A folio is exclusive as a whole from when it is new until a part of it is forked or shared, and most never are in
//! part. So there is one mark for all pages, [`WHOLE`], and while the head has it the pages' own flags mean nothing.
//! Where a part stops being exclusive, the mark is *written out* first: every page outside the part gets a flag, and then
//! the mark goes. A folio whose tails are shared has no other flags to write to, and is exclusive as a whole or not at
//! all.
//!
//! | head has | page `i` is exclusive |
//! |---|---|
//! | [`WHOLE`], with or without [`WRITING`] | yes |
//! | neither, or [`WRITING`] alone | if its own descriptor has [`PAGE`] |
//!
//! Who changes the flags of a page has its entry locked, so that no two change the same page. They may meet at the mark:
//!
//! * Two parts stop being exclusive at once. [`WRITING`] is a lock of one bit, so one of them writes out, without its own
//!   part. The other waits until the mark is gone, and then clears what the first wrote for it.
//! * The whole stops while a part does. One atomic takes the mark and tells whether somebody writes out; if so, what he
//!   writes is awaited, and cleared.
//! * Somebody looks while the mark is written out. He finds the mark, or, Acquire, all flags that were written before it
//!   went.

use mmkit_page::{Folio, Frozen, MemMap, PageFlags};
use mmkit_sync::atomic::{Ordering, fence, hint};
use mmkit_sync::mutant;

use crate::shape::Batch;

/// One page, by its own descriptor.
const PAGE: PageFlags = PageFlags::ANON_EXCLUSIVE;
/// All pages.
const WHOLE: PageFlags = PageFlags::ANON_EXCLUSIVE_WHOLE;
/// Somebody turns the mark into flags of pages.
const WRITING: PageFlags = PageFlags::ANON_EXCLUSIVE_WRITING;

/// Flags of the head, just loaded: who finds no mark there finds the pages' flags as they were when it went.
#[inline]
fn acquire(head: PageFlags) -> PageFlags {
    // Acquire: pairs with the Release fence of `write_out`.
    mutant!("exclusive-look-relaxed", fence(Ordering::Acquire), ());
    head
}

#[inline]
fn head<M: MemMap>(folio: &Folio<'_, M>) -> PageFlags {
    acquire(folio.flags())
}

#[inline]
pub(crate) fn is<M: MemMap>(folio: &Folio<'_, M>, index: u64) -> bool {
    if index >= folio.order().frames() {
        return false;
    }
    let look = || head(folio).contains(WHOLE);
    let own = || own(folio, index);
    // The other order: a page's flag that was looked at before it was written.
    mutant!("exclusive-page-before-mark", look() || own(), own() || look())
}

/// Cold: a page whose folio has not the mark is looked at before it is copied or kept. Where the tails are shared, the first
/// few may have flags of a life in which they were not.
fn own<M: MemMap>(folio: &Folio<'_, M>, index: u64) -> bool {
    !folio.has_shared_tails() && folio.flags_at(index).is_some_and(|flags| flags.contains(PAGE))
}

/// Whether all pages are exclusive. Cost: one load; without the mark one for each page, if any page has a flag.
pub(crate) fn all<M: MemMap>(folio: &Folio<'_, M>) -> bool {
    head(folio).contains(WHOLE) || (0..folio.order().frames()).all(|index| own(folio, index))
}

/// The first exclusive page of the batch. Cost: one load; without the mark one for each page up to there, if any page has
/// a flag.
#[inline]
pub(crate) fn first<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> Option<u64> {
    match () {
        () if head(folio).contains(WHOLE) => Some(batch.first),
        () if folio.has_shared_tails() => None,
        () => folio.find_at(batch.pages(), PAGE),
    }
}

/// How many of the `n` pages from `first` on are exclusive, without a gap. Cost: one load, if the folio has the mark;
/// otherwise one more for each page up to there.
#[inline]
pub(crate) fn leading<M: MemMap>(folio: &Folio<'_, M>, first: u64, n: u64) -> u64 {
    let pages = first..first.saturating_add(n).min(folio.order().frames());
    let end = match () {
        () if head(folio).contains(WHOLE) => pages.end,
        () if folio.has_shared_tails() => first,
        () => folio.find_without_at(pages.clone(), PAGE).unwrap_or(pages.end),
    };
    end.saturating_sub(first)
}

/// No page of the batch is exclusive any more; none of the folio where its tails are shared.
///
/// Cost: one load. With the mark: one atomic if the batch is the whole folio, otherwise two, and one for each page that
/// stays exclusive. Without: one load for each page of the batch if any page of the folio has flags, and one atomic for
/// each that was exclusive.
#[inline]
pub(crate) fn clear<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    if head(folio).intersects(WHOLE | WRITING) {
        if !is_whole(folio, batch) {
            write_out(folio, batch);
        } else if acquire(folio.remove(WHOLE)).contains(WRITING) {
            mutant!("exclusive-whole-does-not-wait", await_writer(folio), ());
        }
    }
    // Where the tails are shared there is the mark alone.
    let _all = folio.remove_at(batch.pages(), PAGE);
}

/// Every page of the batch is exclusive; every page of the folio where its tails are shared.
///
/// Cost: one load, if the mark is there. Otherwise one atomic if the batch is the whole folio, and one load for each page
/// and one atomic for each that was not exclusive if it is not.
pub(crate) fn set<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    if head(folio).contains(WHOLE) {
        return;
    }
    if is_whole(folio, batch) {
        folio.insert(WHOLE);
    } else {
        // The folio's own descriptors, or the batch would be the whole.
        let _all = folio.insert_at(batch.pages(), PAGE);
    }
}

/// The pages of the batch are exclusive, and no others, in a folio that nobody has seen. Cost: one store; if the batch
/// is not the whole folio, one load for each page, and one store for each of the batch and for each that had the flag in
/// a former life.
pub(crate) fn start<M: MemMap>(frozen: &mut Frozen<'_, M>, batch: Batch) {
    let pages = frozen.order().frames();
    // All of these are the block's own descriptors: the head, or those of a batch that is not the whole.
    let _all = if frozen.has_shared_tails() || batch.covers(pages) {
        frozen.insert_at(0..1, WHOLE)
    } else {
        let (ahead, behind) = batch.others(pages);
        frozen.remove_at(0..1, WHOLE)
            && frozen.remove_at(ahead, PAGE)
            && frozen.remove_at(behind, PAGE)
            && frozen.insert_at(batch.pages(), PAGE)
    };
}

#[inline]
fn is_whole<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> bool {
    batch.covers(folio.order().frames()) || folio.has_shared_tails()
}

/// Turns the mark, if it is still there, into flags of all pages but those of the batch.
#[cold]
fn write_out<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    let before = acquire(folio.insert(WRITING));
    if mutant!("exclusive-write-out-unlocked", before.contains(WRITING), false) {
        return await_writer(folio);
    }
    if before.contains(WHOLE) {
        if mutant!("exclusive-mark-first", false, true) {
            folio.remove(WHOLE);
        }
        let (ahead, behind) = batch.others(folio.order().frames());
        // A folio without descriptors of its own for them has no batch that is not the whole.
        let _all = folio.insert_at(ahead, PAGE) && folio.insert_at(behind, PAGE);
        // Release: pairs with the Acquire of whoever finds the mark gone.
        mutant!("exclusive-write-out-relaxed", fence(Ordering::Release), ());
    }
    folio.remove(before.intersection(WHOLE) | WRITING);
}

/// Waits until whoever writes out has done so. He has a page table locked, and at most a flag for each page to write.
#[cold]
fn await_writer<M: MemMap>(folio: &Folio<'_, M>) {
    let mut tries = 0;
    // In `head`, Acquire: pairs with the Release fence of `write_out`, so that the flags are found that were written.
    while head(folio).contains(WRITING) {
        hint::spin(tries);
        tries = tries.saturating_add(1);
    }
}
