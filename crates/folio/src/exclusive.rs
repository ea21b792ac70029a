// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are exclusive: a flag in each page's own descriptor, or one for the folio where those are shared.

use core::ops::Range;

use mmkit_page::{Folio, MemMap, PageFlags};

use crate::shape::Batch;

const FLAG: PageFlags = PageFlags::ANON_EXCLUSIVE;

/// The descriptors that hold the flags of a batch.
#[inline]
fn holders<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> Range<u64> {
    if folio.has_shared_tails() { 0..1 } else { batch.pages() }
}

#[inline]
pub(crate) fn is<M: MemMap>(folio: &Folio<'_, M>, index: u64) -> bool {
    let holder = if folio.has_shared_tails() { 0 } else { index };
    index < folio.order().frames() && folio.flags_at(holder).is_some_and(|flags| flags.contains(FLAG))
}

/// The first exclusive page of the batch. Cost: one load for each page up to there.
#[inline]
pub(crate) fn first<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> Option<u64> {
    Some(folio.find_at(holders(folio, batch), FLAG)?.max(batch.first))
}

/// How many of the `n` pages from `first` on are exclusive, without a gap. Cost: one load for each page up to there.
#[inline]
pub(crate) fn leading<M: MemMap>(folio: &Folio<'_, M>, first: u64, n: u64) -> u64 {
    let pages = first..first.saturating_add(n).min(folio.order().frames());
    if folio.has_shared_tails() {
        return if is(folio, 0) { pages.end.saturating_sub(first) } else { 0 };
    }
    let end = folio.find_without_at(pages.clone(), FLAG).unwrap_or(pages.end);
    end.saturating_sub(first)
}

/// No page of the batch is exclusive any more. Cost: one load for each, and one atomic for each that was.
#[inline]
pub(crate) fn clear<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    // The holders are the folio's own descriptors.
    let _all = folio.remove_at(holders(folio, batch), FLAG);
}

/// Every page of the batch is exclusive. Cost: one load for each, and one atomic for each that was not.
pub(crate) fn set<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    // As above.
    let _all = folio.insert_at(holders(folio, batch), FLAG);
}
