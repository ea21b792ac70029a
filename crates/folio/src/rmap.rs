// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting the entries that map a folio, in batches.

use mmkit_addr::Order;
use mmkit_page::{Folio, MemMap, PageFlags, Words};
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::shape::{Batch, counts};
use crate::tracker::sealed::Sealed;
use crate::words::{ENTIRE, PINS, TOTAL, add_to, take_from};
use crate::{Account, Cow, Kind, MapError, Mapcounts, Mapping, MmId, References, Tracker, Unmapped};
use crate::{cow, exclusive, pages, query};

/// Map counts, owners, pins and the copy-on-write decision of a [`Folio`], whose memory map says how they are kept.
///
/// A *mapping* is one entry of a page table that points into the folio. Each mapping has one reference: the operations
/// that add mappings take the references as well, by one atomic operation for the whole batch, and those that remove
/// mappings hand them out as [`References`]. So the folio stays for as long as somebody maps it, with or without
/// handles.
///
/// A batch belongs to one address space and one kind of entry. An error leaves every count as it was. (Counts of single pages and
/// of the whole folio are taken before the tracker can refuse, and put back: beside a call that unmaps what is not its own,
/// a correct one may be refused meanwhile.)
///
/// Two address spaces may map and unmap the same folio at the same time. For one address space the caller's page table
/// lock orders the calls.
///
/// Sealed: implemented for [`Folio`].
pub trait Rmap<'m, M: MemMap<Counts: Mapcounts>>: Sealed {
    /// Whose memory the folio holds, by its flag [`PageFlags::ANON`].
    fn kind(&self) -> Kind;

    /// Counts `mapping` for `mm`, and takes its references. Linux: `folio_add_anon_rmap_ptes`, `folio_add_file_rmap_ptes`
    /// and their kin, with `folio_ref_add`.
    ///
    /// # Errors
    ///
    /// A batch that does not fit the folio; too many references; [`MapError::SharedTails`] where pages are counted singly.
    ///
    /// Cost: one atomic read-modify-write for the references and one for the mappings; one more for the whole folio by
    /// one entry. [`PageMapcount`](crate::PageMapcount) adds one for each page, and one if the number of pages that are
    /// mapped changes.
    fn add_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Account, MapError>;

    /// Uncounts `mapping` for `mm`, and returns its references. Linux: `folio_remove_rmap_ptes` and its kin.
    ///
    /// Exclusive flags stay. Whoever unmaps a page to find it again later, for swap or migration, clears its flag if others
    /// may map it then.
    ///
    /// # Errors
    ///
    /// A batch that does not fit the folio; fewer mappings than that, as far as the counts show it.
    ///
    /// Cost: as for [`add_mappings`](Self::add_mappings); the references cost one atomic when they are given back.
    fn remove_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Unmapped<'m, M>, MapError>;

    /// Counts `mapping`, which the caller's address space has, for the new address space `child` as well. Afterwards no
    /// page of the batch is exclusive, and all entries must be read-only. Linux: `folio_try_dup_anon_rmap_ptes`,
    /// `folio_dup_file_rmap_ptes`.
    ///
    /// The caller keeps pinners of the parent's pages out: they take their pin, then a `SeqCst` fence, then look at
    /// the sequence count that the caller's fork has changed before its own `SeqCst` fence (pairs with theirs).
    ///
    /// # Errors
    ///
    /// [`MapError::PinnedExclusive`] if the folio has pins and a page of the batch is exclusive: the child gets a copy
    /// of the page. Otherwise as for [`add_mappings`](Self::add_mappings).
    ///
    /// Cost: as for [`add_mappings`](Self::add_mappings), and one atomic for each page that was exclusive.
    fn fork(&self, child: MmId, mapping: Mapping) -> Result<Account, MapError>;

    /// Replaces, in the books of `mm`, the one entry that maps the whole folio by one for each page. Linux: the rmap
    /// part of splitting a PMD.
    ///
    /// # Errors
    ///
    /// [`MapError::EntireNotMapped`], and as for [`add_mappings`](Self::add_mappings).
    ///
    /// Cost: one atomic for the references, one for all mappings at once (Linux: two), one for the entry.
    /// [`PageMapcount`](crate::PageMapcount): one for each page, up to two for their number.
    fn remap(&self, mm: MmId) -> Result<Account, MapError>;

    /// Mappings, by all address spaces; an entry of any size is one. Linux: `folio_large_mapcount`.
    fn mappings(&self) -> u32;

    /// Mappings of the whole folio by one entry. Linux: `folio_entire_mapcount`.
    fn entire_mappings(&self) -> u32;

    /// Mappings of page `index`, by entries of any size; `None` past the folio. Exact where pages are counted singly,
    /// otherwise the average, rounded, and at least 1 while the folio is mapped. Linux: `folio_precise_page_mapcount`,
    /// `folio_average_page_mapcount`.
    fn page_mappings(&self, index: u64) -> Option<u32>;

    /// Mappings of a page on average, as where pages are not counted singly.
    fn average_mappings(&self) -> u32;

    /// Pages that are mapped by an entry of their own where pages are counted singly, and whether an entry maps the whole
    /// folio. Linux: `_nr_pages_mapped`.
    fn pages_mapped(&self) -> (u32, bool);

    /// Whether several address spaces may map the folio. See [`Tracker::maybe_mapped_shared`]; a folio of one page is
    /// counted without a tracker, and two mappings of it are taken for two address spaces.
    fn maybe_mapped_shared(&self) -> bool;

    /// The address space that has all mappings, where the tracker is sure. Takes the lock.
    fn sole_owner(&self) -> Option<MmId>;

    /// Whether page `index` is exclusive: its address space may write it, and others cannot come to see it but by
    /// [`fork`](Self::fork). Of a folio with shared descriptors, whether all pages are.
    fn is_exclusive(&self, index: u64) -> bool;

    /// Makes the pages of `mapping` exclusive: the caller knows that one address space alone has them, for instance
    /// since it just read them from swap. Of a folio with shared descriptors, all pages.
    ///
    /// # Errors
    ///
    /// [`MapError::NotAnon`]; a batch that does not fit the folio.
    fn set_exclusive(&self, mapping: Mapping) -> Result<(), MapError>;

    /// What to do when an address space writes to page `index`, which it maps read-only by a PTE: see [`Cow`]. The
    /// caller has its page table locked, and `held` references of its own on the folio beside those of mappings, `self`
    /// included.
    ///
    /// # Errors
    ///
    /// [`MapError::PastEnd`], [`MapError::NotCompound`].
    ///
    /// Cost: loads; one atomic for the lock if those leave the question open, and one to reuse the page.
    fn write_fault(&self, index: u64, held: u32) -> Result<Cow, MapError>;

    /// The same for one entry that maps the whole folio. On [`Cow::Copy`] the caller [remaps](Self::remap) the folio by
    /// PTEs and tries again.
    ///
    /// # Errors
    ///
    /// [`MapError::SinglePage`], [`MapError::NotCompound`].
    fn write_fault_entire(&self, held: u32) -> Result<Cow, MapError>;

    /// Pins on the folio's pages. Linux: `_pincount`.
    fn pins(&self) -> u32;

    /// Pins `n` pages (or one page `n` times): they stay where they are, and a fork copies them if they are exclusive.
    /// Takes `n` references. Linux: `try_grab_folio` with `FOLL_PIN`.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::References`].
    ///
    /// Cost: two atomics, whatever `n` is. Relaxed: who pins without the page table lock follows up with a `SeqCst`
    /// fence and looks at the entry again (pairs with the fences of [`fork`](Self::fork)'s caller).
    fn pin(&self, n: u32) -> Result<(), MapError>;

    /// Takes `n` pins back, and returns their references. Linux: `unpin_user_folio`.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::TooFewPins`].
    ///
    /// Cost: one atomic, and one when the references are given back.
    fn unpin(&self, n: u32) -> Result<References<'m, M>, MapError>;
}

impl<M: MemMap<Counts: Mapcounts>> Sealed for Folio<'_, M> {}

impl<'m, M: MemMap<Counts: Mapcounts>> Rmap<'m, M> for Folio<'m, M> {
    #[inline]
    fn kind(&self) -> Kind {
        if self.flags().contains(PageFlags::ANON) { Kind::Anon } else { Kind::File }
    }

    #[inline]
    fn add_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Account, MapError> {
        let batch = fit(self, mapping)?;
        let words = counts(self)?;
        add_with_references(self, &words, mm, mapping, batch)
    }

    #[inline]
    fn remove_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Unmapped<'m, M>, MapError> {
        let batch = fit(self, mapping)?;
        let account = remove(self, &counts(self)?, mm, mapping, batch)?;
        // SAFETY: `mappings` of the folio's mappings are gone from T, under its lock or by one exchange, so that
        // nobody else can have removed them; each was added with one reference.
        let references = unsafe { References::new(self.map(), self.pfn(), batch.mappings) };
        Ok(Unmapped { account, references })
    }

    #[inline]
    fn fork(&self, child: MmId, mapping: Mapping) -> Result<Account, MapError> {
        let batch = fit(self, mapping)?;
        let words = counts(self)?;
        if self.kind() == Kind::File {
            return add_with_references(self, &words, child, mapping, batch);
        }
        let pins = words.half[PINS].load(Ordering::Relaxed);
        if pins > 0
            && let Some(index) = exclusive::first(self, batch)
        {
            return Err(MapError::PinnedExclusive { index, pins });
        }
        let account = add_with_references(self, &words, child, mapping, batch)?;
        exclusive::clear(self, batch);
        Ok(account)
    }

    fn remap(&self, mm: MmId) -> Result<Account, MapError> {
        remap(self, mm)
    }

    #[inline]
    fn mappings(&self) -> u32 {
        counts(self).map_or(0, |words| words.half[TOTAL].load(Ordering::Relaxed))
    }

    #[inline]
    fn entire_mappings(&self) -> u32 {
        counts(self).map_or(0, |words| words.half[ENTIRE].load(Ordering::Relaxed))
    }

    fn page_mappings(&self, index: u64) -> Option<u32> {
        query::page_mappings(self, index)
    }

    fn average_mappings(&self) -> u32 {
        query::average(self.mappings(), self.entire_mappings(), self.order())
    }

    fn pages_mapped(&self) -> (u32, bool) {
        query::pages_mapped(self)
    }

    #[inline]
    fn maybe_mapped_shared(&self) -> bool {
        match counts(self) {
            Ok(words) if self.order() > Order::ZERO => {
                <M::Counts as Mapcounts>::Tracker::maybe_mapped_shared(&words)
            }
            Ok(words) => words.half[TOTAL].load(Ordering::Relaxed) > 1,
            Err(_) => false,
        }
    }

    fn sole_owner(&self) -> Option<MmId> {
        if self.order() == Order::ZERO {
            return None;
        }
        <M::Counts as Mapcounts>::Tracker::sole_owner(&counts(self).ok()?)
    }

    #[inline]
    fn is_exclusive(&self, index: u64) -> bool {
        exclusive::is(self, index)
    }

    fn set_exclusive(&self, mapping: Mapping) -> Result<(), MapError> {
        let batch = fit(self, mapping)?;
        if self.kind() == Kind::File {
            return Err(MapError::NotAnon);
        }
        exclusive::set(self, batch);
        Ok(())
    }

    #[inline]
    fn write_fault(&self, index: u64, held: u32) -> Result<Cow, MapError> {
        cow::page(self, index, held)
    }

    fn write_fault_entire(&self, held: u32) -> Result<Cow, MapError> {
        cow::entire(self, held)
    }

    #[inline]
    fn pins(&self) -> u32 {
        counts(self).map_or(0, |words| words.half[PINS].load(Ordering::Relaxed))
    }

    #[inline]
    fn pin(&self, n: u32) -> Result<(), MapError> {
        if n == 0 {
            return Err(MapError::Empty);
        }
        let words = counts(self)?;
        self.take_raw(n)?;
        // Each pin has a reference, and there are at most `i32::MAX` of those.
        words.half[PINS].fetch_add(n, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn unpin(&self, n: u32) -> Result<References<'m, M>, MapError> {
        if n == 0 {
            return Err(MapError::Empty);
        }
        take_from(&counts(self)?.half[PINS], n).map_err(|pins| MapError::TooFewPins { pins, removing: n })?;
        // SAFETY: `n` pins are gone by one exchange, so that nobody else can have taken them back; each was made with
        // one reference.
        Ok(unsafe { References::new(self.map(), self.pfn(), n) })
    }
}

#[inline]
fn fit<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, mapping: Mapping) -> Result<Batch, MapError> {
    Batch::new::<M::Counts>(folio.order(), folio.has_shared_tails(), mapping)
}

/// References first, mappings afterwards: under the lock there are never fewer references than mappings.
#[inline]
fn add_with_references<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    words: &Words<'_>,
    mm: MmId,
    mapping: Mapping,
    batch: Batch,
) -> Result<Account, MapError> {
    if mutant!("rmap-references-last", true, false) {
        folio.take_raw(batch.mappings)?;
    }
    let added = add(folio, words, mm, mapping, batch);
    if mutant!("rmap-references-last", false, true) {
        folio.take_raw(batch.mappings)?;
    }
    if added.is_err() {
        give_back(folio, batch.mappings);
    }
    added
}

/// Gives back references that this operation took and could not use.
#[cold]
fn give_back<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, n: u32) {
    // SAFETY: `n` references were taken by the same operation, and kept for nobody. They are not the last: `folio` is
    // one more.
    let last = unsafe { Folio::put_raw(folio.map(), folio.pfn(), n) };
    debug_assert!(last.is_none(), "the handle is a reference");
}

/// Counts a batch whose references are there.
#[inline]
fn add<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    words: &Words<'_>,
    mm: MmId,
    mapping: Mapping,
    batch: Batch,
) -> Result<Account, MapError> {
    type Of<M> = <<M as MemMap>::Counts as Mapcounts>::Tracker;
    let per_page = <M::Counts as Mapcounts>::PER_PAGE;
    let order = folio.order();
    let pages = order.frames() as i64;
    let mut account =
        Account { kind: folio.kind(), mapped: 0, pmd_mapped: 0, became_partially_mapped: false, mappings: 0 };
    if order == Order::ZERO {
        account.mappings =
            add_to(&words.half[TOTAL], 1).map_err(|mappings| MapError::Overflow { mappings, adding: 1 })?;
        Of::<M>::single_added(words, mm, 1);
        account.mapped = i64::from(account.mappings == 1);
        return Ok(account);
    }
    if mapping.is_entire() {
        let first = pages::map_entire(words);
        if first && mapping == Mapping::Pmd {
            account.pmd_mapped = pages;
        }
        if per_page && first {
            account.mapped = pages::count_entire(words, pages);
        }
        account.mappings = Of::<M>::add(words, mm, 1).inspect_err(|_| {
            if pages::unmap_entire(words) == Ok(true) && per_page {
                pages::count_not_entire(words, pages);
            }
        })?;
    } else {
        let range = batch.first..batch.first + batch.flagged;
        if per_page {
            let first = pages::map::<Of<M>, M>(folio, range.clone())?;
            account.mapped = pages::count_mapped(words, first);
        }
        account.mappings = Of::<M>::add(words, mm, batch.mappings).inspect_err(|_| {
            if per_page && let Ok(last) = pages::unmap::<Of<M>, M>(folio, range) {
                pages::count_unmapped(words, last);
            }
        })?;
    }
    if !per_page && account.mappings == batch.mappings {
        account.mapped = pages;
    }
    Ok(account)
}

/// Uncounts a batch, and leaves its references. Linux takes the mappings first and the counts of pages and of the whole
/// folio afterwards; the other way round a refusal can be undone, and nobody sees a folio that is mapped as a whole
/// and has no mappings.
#[inline]
fn remove<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    words: &Words<'_>,
    mm: MmId,
    mapping: Mapping,
    batch: Batch,
) -> Result<Account, MapError> {
    type Of<M> = <<M as MemMap>::Counts as Mapcounts>::Tracker;
    let per_page = <M::Counts as Mapcounts>::PER_PAGE;
    let order = folio.order();
    let pages = order.frames() as i64;
    let mut account =
        Account { kind: folio.kind(), mapped: 0, pmd_mapped: 0, became_partially_mapped: false, mappings: 0 };
    if order == Order::ZERO {
        Of::<M>::single_removed(words, mm, 1)?;
        account.mappings = take_from(&words.half[TOTAL], 1)
            .map_err(|mappings| MapError::TooFew { mappings, removing: 1 })?;
        account.mapped = -i64::from(account.mappings == 0);
        return Ok(account);
    }
    let partially;
    if mapping.is_entire() {
        let last = pages::unmap_entire(words)?;
        account.mappings = Of::<M>::remove(words, mm, 1).inspect_err(|_| {
            let first = pages::map_entire(words);
            if per_page && last && !first {
                // Somebody else mapped it as a whole meanwhile, and counted that: once too often.
                pages::count_not_entire(words, pages);
            }
        })?;
        if last && mapping == Mapping::Pmd {
            account.pmd_mapped = -pages;
        }
        if per_page && last {
            account.mapped = -pages::count_not_entire(words, pages);
        }
        partially = mapping == Mapping::Pmd
            && if per_page {
                account.mapped != 0 && -account.mapped < pages
            } else {
                last && partly(account.mappings, pages)
            };
    } else {
        let range = batch.first..batch.first + batch.flagged;
        let last = if per_page { pages::unmap::<Of<M>, M>(folio, range.clone())? } else { 0 };
        account.mappings = Of::<M>::remove(words, mm, batch.mappings).inspect_err(|_| {
            if per_page {
                // It fails only where `unmap` would have.
                let _ = pages::undo::<Of<M>, M>(folio, range, last);
            }
        })?;
        partially = if per_page {
            let (mapped, some_left) = pages::count_unmapped(words, last);
            account.mapped = -mapped;
            mapped != 0 && some_left
        } else {
            partly(account.mappings, pages) && words.half[ENTIRE].load(Ordering::Relaxed) == 0
        };
    }
    if !per_page && account.mappings == 0 {
        account.mapped = -pages;
    }
    if partially {
        account.became_partially_mapped = note_partial(folio, account.kind);
    }
    Ok(account)
}

/// Fewer mappings than pages, but some.
fn partly(mappings: u32, pages: i64) -> bool {
    mappings > 0 && i64::from(mappings) < pages
}

/// Marks an anonymous folio as mapped in part; whether it was not marked before. Folios of two pages are not: splitting
/// them is not worth a list.
fn note_partial<M: MemMap>(folio: &Folio<'_, M>, kind: Kind) -> bool {
    kind == Kind::Anon
        && folio.order().get() >= 2
        && !folio.flags().contains(PageFlags::PARTIALLY_MAPPED)
        && !folio.insert(PageFlags::PARTIALLY_MAPPED).contains(PageFlags::PARTIALLY_MAPPED)
}

fn remap<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, mm: MmId) -> Result<Account, MapError> {
    type Of<M> = <<M as MemMap>::Counts as Mapcounts>::Tracker;
    let per_page = <M::Counts as Mapcounts>::PER_PAGE;
    let order = folio.order();
    if order == Order::ZERO {
        return Err(MapError::SinglePage);
    }
    let pages = order.frames() as i64;
    let batch = fit(folio, Mapping::Ptes { first: 0, count: order.frames() })?;
    let words = counts(folio)?;
    // The entry's own reference goes to one of the new entries.
    folio.take_raw(batch.mappings - 1)?;
    let undo_references = |_: &MapError| give_back(folio, batch.mappings - 1);
    let last = pages::unmap_entire(&words).inspect_err(undo_references)?;
    let mappings = Of::<M>::replace(&words, mm, batch.mappings, 1).inspect_err(|error| {
        let first = pages::map_entire(&words);
        if per_page && last && !first {
            pages::count_not_entire(&words, pages);
        }
        undo_references(error);
    })?;
    let mut mapped = 0;
    if per_page {
        let first = pages::map::<Of<M>, M>(folio, 0..order.frames())?;
        mapped = pages::count_mapped(&words, first);
        if last {
            mapped -= pages::count_not_entire(&words, pages);
        }
    }
    let kind = folio.kind();
    if kind == Kind::Anon {
        // The first page's flag stood for all. The others' may be left from PTEs that were there before the entry.
        if exclusive::is(folio, 0) {
            exclusive::set(folio, batch);
        } else {
            exclusive::clear(folio, batch);
        }
    }
    let pmd_mapped = if last { -pages } else { 0 };
    Ok(Account { kind, mapped, pmd_mapped, became_partially_mapped: false, mappings })
}
