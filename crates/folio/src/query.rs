// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the counts say to those who only ask.

use mmkit_addr::Order;
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::Ordering;

use crate::shape::Counts;
use crate::words::PAGES_MAPPED;
use crate::{ENTIRELY_MAPPED, Mapcounts, Rmap, pages};

/// Mappings of a page on average, rounded, and at least 1 while there are any, where `entire` of the folio's
/// `mappings` map all of its pages. Linux: `folio_average_page_mapcount`.
#[must_use]
pub fn average(mappings: u32, entire: u32, order: Order) -> u32 {
    if mappings <= entire {
        return if mappings == 0 { 0 } else { entire };
    }
    let pages = order.frames();
    let singly = (u64::from(mappings - entire) + pages / 2) >> order.get();
    (singly as u32).saturating_add(entire).max(1)
}

pub(crate) fn page_mappings<M>(folio: &Folio<'_, M>, index: u64) -> Option<u32>
where
    M: MemMap<Counts: Mapcounts>,
{
    if index >= folio.order().frames() {
        return None;
    }
    if folio.order() == Order::ZERO {
        return Some(folio.mappings());
    }
    if !<M::Counts as Mapcounts>::PER_PAGE {
        return Some(folio.average_mappings());
    }
    let words = Counts::of(folio).ok()?.at.words(index)?;
    let singly = pages::read::<<M::Counts as Mapcounts>::Tracker>(index, &words);
    Some(singly.saturating_add(folio.entire_mappings()))
}

pub(crate) fn pages_mapped<M>(folio: &Folio<'_, M>) -> (u32, bool)
where
    M: MemMap<Counts: Mapcounts>,
{
    if folio.order() == Order::ZERO {
        return (folio.mappings().min(1), false);
    }
    let count = Counts::of(folio).map_or(0, |counts| counts.words.half[PAGES_MAPPED].load(Ordering::Relaxed));
    (count & (ENTIRELY_MAPPED - 1), count >= ENTIRELY_MAPPED)
}
