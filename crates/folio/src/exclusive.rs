// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are exclusive: a flag in each page's own descriptor, or one for the folio where those are shared.

use core::ops::Range;

use mmkit_page::{Folio, MemMap, PageFlags};

use crate::shape::Batch;

const FLAG: PageFlags = PageFlags::ANON_EXCLUSIVE;

/// The descriptors that hold the flags of a batch.
fn holders<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> Range<u64> {
    if folio.has_shared_tails() { 0..1 } else { batch.first..batch.first + batch.flagged }
}

#[inline]
pub(crate) fn is<M: MemMap>(folio: &Folio<'_, M>, index: u64) -> bool {
    let holder = if folio.has_shared_tails() { 0 } else { index };
    index < folio.order().frames() && folio.flags_at(holder).is_some_and(|flags| flags.contains(FLAG))
}

/// The first exclusive page of the batch.
pub(crate) fn first<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) -> Option<u64> {
    let holder = holders(folio, batch)
        .find(|&index| folio.flags_at(index).is_some_and(|flags| flags.contains(FLAG)))?;
    Some(holder.max(batch.first))
}

/// No page of the batch is exclusive any more. Cost: one atomic for each that was.
pub(crate) fn clear<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    for index in holders(folio, batch) {
        if folio.flags_at(index).is_some_and(|flags| flags.contains(FLAG)) {
            folio.remove_at(index, FLAG);
        }
    }
}

/// Every page of the batch is exclusive. Cost: one atomic for each that was not.
pub(crate) fn set<M: MemMap>(folio: &Folio<'_, M>, batch: Batch) {
    for index in holders(folio, batch) {
        if !folio.flags_at(index).is_some_and(|flags| flags.contains(FLAG)) {
            folio.insert_at(index, FLAG);
        }
    }
}
