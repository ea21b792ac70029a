// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting a batch: references, owners, pages, in an order in which a refusal has nothing to take back but references.

use mmkit_addr::Order;
use mmkit_page::{Folio, MemMap, PageFlags};
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::pages::Pages;
use crate::shape::{Batch, Counts};
use crate::words::{ENTIRE, TOTAL, add_to, take_from};
use crate::{Account, Kind, MapError, Mapcounts, Mapping, MmId, Rmap, Tracker, pages};

type Of<M> = <<M as MemMap>::Counts as Mapcounts>::Tracker;

/// What an operation on the counts did: by value, since what is in memory has to be read back after an atomic.
#[derive(Clone, Copy, Default)]
struct Change {
    /// T now.
    mappings: u32,
    mapped: i64,
    pmd_mapped: i64,
    /// The folio is mapped in part since.
    partially: bool,
}

impl Change {
    #[inline]
    fn account(self, kind: Kind, became_partially_mapped: bool) -> Account {
        let Self { mappings, mapped, pmd_mapped, .. } = self;
        Account { kind, mapped, pmd_mapped, became_partially_mapped, mappings }
    }
}

/// References first, mappings afterwards: under the lock there are never fewer references than mappings.
#[inline]
pub(crate) fn add_with_references<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    counts: &Counts<'_, '_, M>,
    mm: MmId,
    mapping: Mapping,
    batch: Batch,
) -> Result<Account, MapError> {
    if mapping.is_entire() || counts.at.order() == Order::ZERO {
        return with_references(folio, batch, || add_one(counts, mm, mapping));
    }
    // Everything that is only looked at, before the first atomic: loads that come after one wait for it.
    let seen = Of::<M>::look(&counts.words);
    let pages = singly(counts, batch)?;
    with_references(folio, batch, || add_ptes(counts, pages, mm, batch, seen))
}

/// `add` counts a batch whose references are there.
#[inline]
fn with_references<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    batch: Batch,
    add: impl FnOnce() -> Result<Change, MapError>,
) -> Result<Account, MapError> {
    let kind = folio.kind();
    if mutant!("rmap-references-last", true, false) {
        folio.take_raw(batch.mappings)?;
    }
    let added = add();
    if mutant!("rmap-references-last", false, true) {
        folio.take_raw(batch.mappings)?;
    }
    match added {
        Ok(change) => Ok(change.account(kind, false)),
        Err(error) => {
            give_back(folio, batch.mappings);
            Err(error)
        }
    }
}

/// Gives back references that this operation took and could not use.
#[cold]
fn give_back<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, n: u32) {
    // SAFETY: `n` references were taken by the same operation, and kept for nobody. They are not the last: `folio` is
    // one more.
    let last = unsafe { Folio::put_raw(folio.map(), folio.pfn(), n) };
    debug_assert!(last.is_none(), "the handle is a reference");
}

/// The pages of a batch of PTEs, where pages are counted singly.
#[inline]
fn singly<'f, 'm, M: MemMap<Counts: Mapcounts>>(
    counts: &Counts<'f, 'm, M>,
    batch: Batch,
) -> Result<Option<Pages<'f, 'm, M>>, MapError> {
    if M::Counts::PER_PAGE { Pages::of(counts.at, batch.pages()).map(Some) } else { Ok(None) }
}

/// Counts PTEs of a folio with several pages: T and the owners, which may refuse, and then the pages.
#[inline]
fn add_ptes<M: MemMap<Counts: Mapcounts>>(
    Counts { at, words }: &Counts<'_, '_, M>,
    pages: Option<Pages<'_, '_, M>>,
    mm: MmId,
    batch: Batch,
    seen: u32,
) -> Result<Change, MapError> {
    let mappings = Of::<M>::add_seen(words, mm, batch.mappings, seen)?;
    let mapped = match pages {
        Some(pages) => pages::count_mapped(words, pages.map::<Of<M>>()),
        None if mappings == batch.mappings => at.order().frames() as i64,
        None => 0,
    };
    Ok(Change { mappings, mapped, ..Change::default() })
}

/// Counts the one entry that maps all there is: a PTE of a folio of one page, or a PMD or PUD.
#[inline(never)]
fn add_one<M: MemMap<Counts: Mapcounts>>(
    Counts { at, words }: &Counts<'_, '_, M>,
    mm: MmId,
    mapping: Mapping,
) -> Result<Change, MapError> {
    let order = at.order();
    let frames = order.frames() as i64;
    if order == Order::ZERO {
        let mappings =
            add_to(&words.half[TOTAL], 1).map_err(|mappings| MapError::Overflow { mappings, adding: 1 })?;
        Of::<M>::single_added(words, mm, 1);
        return Ok(Change { mappings, mapped: i64::from(mappings == 1), ..Change::default() });
    }
    let (mappings, first) = Of::<M>::add_entire(words, mm)?;
    let mapped = match M::Counts::PER_PAGE {
        true if first => pages::count_entire(words, frames),
        false if mappings == 1 => frames,
        _ => 0,
    };
    let pmd_mapped = if first && mapping == Mapping::Pmd { frames } else { 0 };
    Ok(Change { mappings, mapped, pmd_mapped, partially: false })
}

/// Uncounts a batch, and leaves its references.
#[inline]
pub(crate) fn remove<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    counts: &Counts<'_, '_, M>,
    mm: MmId,
    mapping: Mapping,
    batch: Batch,
) -> Result<Account, MapError> {
    let kind = folio.kind();
    let change = if mapping.is_entire() || counts.at.order() == Order::ZERO {
        remove_one(counts, mm, mapping)?
    } else {
        remove_ptes(counts, mm, batch)?
    };
    Ok(change.account(kind, change.partially && note_partial(folio, kind)))
}

/// Uncounts PTEs of a folio with several pages: a look at the pages and T with the owners, both of which may refuse, and
/// then the pages.
#[inline]
fn remove_ptes<M: MemMap<Counts: Mapcounts>>(
    counts: &Counts<'_, '_, M>,
    mm: MmId,
    batch: Batch,
) -> Result<Change, MapError> {
    let words = &counts.words;
    if let Some(pages) = singly(counts, batch)? {
        let (mappings, last, again) = mutant!(
            "pages-before-owners",
            owners_and_pages(counts, pages, mm, batch)?,
            pages_and_owners(counts, mm, batch)?
        );
        let (mapped, some_left) = pages::count_unmapped(words, last);
        let partially = mapped != 0 && some_left;
        let mapped = pages::count_mapped(words, again) - mapped;
        return Ok(Change { mappings, mapped, pmd_mapped: 0, partially });
    }
    let frames = counts.at.order().frames() as i64;
    let mappings = Of::<M>::remove_seen(words, mm, batch.mappings, Of::<M>::look(words))?;
    let mapped = if mappings == 0 { -frames } else { 0 };
    let partially = partly(mappings, frames) && words.half[ENTIRE].load(Ordering::Relaxed) == 0;
    Ok(Change { mappings, mapped, pmd_mapped: 0, partially })
}

/// Uncounts the one entry that maps all there is.
#[inline(never)]
fn remove_one<M: MemMap<Counts: Mapcounts>>(
    Counts { at, words }: &Counts<'_, '_, M>,
    mm: MmId,
    mapping: Mapping,
) -> Result<Change, MapError> {
    let order = at.order();
    let frames = order.frames() as i64;
    if order == Order::ZERO {
        Of::<M>::single_removed(words, mm, 1)?;
        let mappings = take_from(&words.half[TOTAL], 1)
            .map_err(|mappings| MapError::TooFew { mappings, removing: 1 })?;
        return Ok(Change { mappings, mapped: -i64::from(mappings == 0), ..Change::default() });
    }
    let (mappings, last) = Of::<M>::remove_entire(words, mm)?;
    let (mapped, in_part) = match M::Counts::PER_PAGE {
        true if last => {
            let mapped = pages::count_not_entire(words, frames);
            (-mapped, mapped != 0 && mapped < frames)
        }
        false => (if mappings == 0 { -frames } else { 0 }, last && partly(mappings, frames)),
        true => (0, false),
    };
    let of_pmd = mapping == Mapping::Pmd;
    let pmd_mapped = if last && of_pmd { -frames } else { 0 };
    Ok(Change { mappings, mapped, pmd_mapped, partially: of_pmd && in_part })
}

/// T, and what [`Pages::unmap`] says.
#[inline]
fn owners_and_pages<M: MemMap<Counts: Mapcounts>>(
    Counts { at, words }: &Counts<'_, '_, M>,
    pages: Pages<'_, '_, M>,
    mm: MmId,
    batch: Batch,
) -> Result<(u32, u32, u32), MapError> {
    let seen = Of::<M>::look(words);
    // Where all pages are mapped, these are.
    if mutant!("pages-no-look", pages::mapped(words) != at.order().frames(), false) {
        Pages::of(*at, batch.pages())?.are_mapped::<Of<M>>()?;
    }
    let mappings = Of::<M>::remove_seen(words, mm, batch.mappings, seen)?;
    let (last, again) = pages.unmap::<Of<M>>();
    Ok((mappings, last, again))
}

/// A mutant: takes the pages first, and puts them back if the owners refuse.
#[cfg(mmkit_loom)]
fn pages_and_owners<M: MemMap<Counts: Mapcounts>>(
    counts: &Counts<'_, '_, M>,
    mm: MmId,
    batch: Batch,
) -> Result<(u32, u32, u32), MapError> {
    let each = || Pages::of(counts.at, batch.pages());
    each()?.are_mapped::<Of<M>>()?;
    let (last, again) = each()?.unmap::<Of<M>>();
    match Of::<M>::remove(&counts.words, mm, batch.mappings) {
        Ok(mappings) => Ok((mappings, last, again)),
        Err(error) => {
            each()?.map::<Of<M>>();
            Err(error)
        }
    }
}

/// Fewer mappings than pages, but some.
fn partly(mappings: u32, frames: i64) -> bool {
    mappings > 0 && i64::from(mappings) < frames
}

/// Marks an anonymous folio as mapped in part; whether it was not marked before. Folios of two pages are not: splitting
/// them is not worth a list.
#[inline(never)]
fn note_partial<M: MemMap>(folio: &Folio<'_, M>, kind: Kind) -> bool {
    kind == Kind::Anon
        && folio.order().get() >= 2
        && !folio.flags().contains(PageFlags::PARTIALLY_MAPPED)
        && !folio.insert(PageFlags::PARTIALLY_MAPPED).contains(PageFlags::PARTIALLY_MAPPED)
}

pub(crate) fn remap<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    mm: MmId,
) -> Result<Account, MapError> {
    let order = folio.order();
    if order == Order::ZERO {
        return Err(MapError::SinglePage);
    }
    let frames = order.frames() as i64;
    let (Counts { at, words }, batch) =
        Counts::for_batch(folio, Mapping::Ptes { first: 0, count: order.frames() })?;
    // The entry's own reference goes to one of the new entries.
    folio.take_raw(batch.mappings - 1)?;
    let (mappings, last) =
        Of::<M>::remap(&words, mm, batch.mappings).inspect_err(|_| give_back(folio, batch.mappings - 1))?;
    let mut mapped = 0;
    if M::Counts::PER_PAGE {
        // The folio has words for all pages, or the batch would not have been one.
        let first = Pages::of(at, batch.pages())?.map::<Of<M>>();
        mapped = pages::count_mapped(&words, first);
        if last {
            mapped -= pages::count_not_entire(&words, frames);
        }
    }
    let pmd_mapped = if last { -frames } else { 0 };
    Ok(Account { kind: folio.kind(), mapped, pmd_mapped, became_partially_mapped: false, mappings })
}
