// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting the entries that map a folio, in batches.

use mmkit_addr::Order;
use mmkit_page::{Folio, MemMap, PageFlags};
use mmkit_sync::atomic::{Ordering, fence};
use mmkit_sync::mutant;

use crate::shape::{Batch, Counts};
use crate::tracker::sealed::Sealed;
use crate::words::{ENTIRE, TOTAL};
use crate::{Account, Cow, Kind, MapError, Mapcounts, Mapping, MmId, References, Tracker, Unmapped};
use crate::{count, cow, exclusive, pins, query};

/// Map counts, owners, pins and the copy-on-write decision of a [`Folio`], whose memory map says how they are kept.
///
/// A *mapping* is one entry of a page table that points into the folio. Each mapping has one reference: the operations
/// that add mappings take the references as well, by one atomic operation for the whole batch, and those that remove
/// mappings hand them out as [`References`]. So the folio stays for as long as somebody maps it, with or without
/// handles.
///
/// A batch belongs to one address space and one kind of entry. An error leaves every count as it was, and was not there for
/// others: whatever is refused is refused before a count that others rely on is written. So a call that unmaps what is not
/// its own, and is refused, does not disturb a right one that it meets.
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
    /// Cost: one atomic read-modify-write for the references and one for the mappings; by one entry for the whole folio,
    /// one more where the tracker has no lock. [`PageMapcount`](crate::PageMapcount) adds one for each page, and one if the
    /// number of pages that are mapped changes.
    fn add_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Account, MapError>;

    /// Uncounts `mapping` for `mm`, and returns its references. Linux: `folio_remove_rmap_ptes` and its kin.
    ///
    /// Exclusive flags stay. Whoever unmaps a page to find it again later, for swap or migration,
    /// [shares](Self::try_share) it first.
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
    /// Cost: as for [`add_mappings`](Self::add_mappings), and of an anonymous folio that of making pages [exclusive no
    /// longer](Self::try_share).
    fn fork(&self, child: MmId, mapping: Mapping) -> Result<Account, MapError>;

    /// Replaces, in the books of `mm`, the one entry that maps the whole folio by one for each page. Linux: the rmap
    /// part of splitting a PMD.
    ///
    /// # Errors
    ///
    /// [`MapError::EntireNotMapped`], and as for [`add_mappings`](Self::add_mappings).
    ///
    /// Cost: one atomic for the references, one for all mappings at once (Linux: two), one more where the tracker has no
    /// lock. [`PageMapcount`](crate::PageMapcount): one for each page, up to two for their number.
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
    ///
    /// The answer does not depend on how the page is mapped. What is done by an entry that maps the whole folio is done to all
    /// pages, so that they are alike afterwards; [`remap`](Self::remap) changes nothing. Where such an entry took the place of
    /// PTEs whose pages were not alike, the entry is exclusive if all pages are
    /// ([`write_fault_entire`](Self::write_fault_entire)).
    ///
    /// Cost: one load; another where the folio is not exclusive as a whole. Acquire: pairs with the release of whoever makes a
    /// part of the folio exclusive no longer, so that a page that stays exclusive is found so all the time.
    fn is_exclusive(&self, index: u64) -> bool;

    /// Makes the pages of `mapping` exclusive: the caller knows that one address space alone has them, for instance
    /// since it just read them from swap, or since they were exclusive when it [shared](Self::try_share) them and nobody
    /// forked the entry that stood for them. Of a folio with shared descriptors, all pages: then all must be one's.
    ///
    /// # Errors
    ///
    /// [`MapError::NotAnon`]; a batch that does not fit the folio.
    fn set_exclusive(&self, mapping: Mapping) -> Result<(), MapError>;

    /// Makes the pages of `mapping` exclusive no longer, so that their entries may be replaced by entries for swap or
    /// migration, which others may copy. Of a folio with shared descriptors, all pages. Linux:
    /// `folio_try_share_anon_rmap_pte`, `folio_try_share_anon_rmap_pmd`.
    ///
    /// 1. The caller, with its page table locked, notes which pages are [exclusive](Self::is_exclusive), and clears their
    ///    present entries so that no walker can use them any more.
    /// 2. This call. A `SeqCst` fence comes first (pairs with the one of those who pin: they take their pin, fence, and look at
    ///    the entry and the flag again; what they find changed, they unpin).
    /// 3. If it is refused, the caller puts the entries back as they were: the pages stay where they are. Otherwise it writes
    ///    the new entries, with a mark for pages that were exclusive, and [removes](Self::remove_mappings) the mappings.
    /// 4. When the page returns, and its entry still has the mark, [`set_exclusive`](Self::set_exclusive).
    ///
    /// # Errors
    ///
    /// [`MapError::PinnedExclusive`] if the folio has pins and a page of the batch is exclusive; [`MapError::NotAnon`]; a
    /// batch that does not fit the folio. Nothing is changed.
    ///
    /// Cost: one fence, and one atomic if the folio is exclusive as a whole and ceases to be. If a part of it ceases to be,
    /// three, once, and one for each page that remains exclusive; from then on, one load for each page of the batch, and one
    /// atomic for each that was exclusive.
    fn try_share(&self, mapping: Mapping) -> Result<(), MapError>;

    /// What to do when an address space writes to page `index`, which it maps read-only by a PTE: see [`Cow`]. The
    /// caller has its page table locked, and `held` references of its own on the folio beside those of mappings, `self`
    /// included.
    ///
    /// # Errors
    ///
    /// [`MapError::PastEnd`], [`MapError::NotCompound`]; [`MapError::PageNotMapped`] where nothing maps the folio.
    ///
    /// Cost: loads; one atomic for the lock if those leave the question open, and one to reuse the page.
    fn write_fault(&self, index: u64, held: u32) -> Result<Cow, MapError>;

    /// The same for one entry that maps the whole folio. On [`Cow::Copy`] the caller [remaps](Self::remap) the folio by
    /// PTEs and tries again.
    ///
    /// # Errors
    ///
    /// [`MapError::SinglePage`], [`MapError::NotCompound`]; [`MapError::EntireNotMapped`].
    fn write_fault_entire(&self, held: u32) -> Result<Cow, MapError>;

    /// Pins on the folio's pages. Linux: `_pincount`.
    ///
    /// Of a folio of one page, as many as its references may be: [`PIN_BIAS`](crate::PIN_BIAS) of them count as one. So
    /// there are never fewer pins than this says, but for pins of a shared page of zeroes, which are not counted.
    fn pins(&self) -> u32;

    /// Whether a page of the folio may be pinned. Never false for one that is. Linux: `folio_maybe_dma_pinned`.
    fn maybe_pinned(&self) -> bool {
        self.pins() > 0
    }

    /// Pins `n` pages (or one page `n` times): they stay where they are, and a fork copies them if they are exclusive.
    /// Takes `n` references, of a folio of one page [`PIN_BIAS`](crate::PIN_BIAS) for each. Linux: `try_grab_folio` with
    /// `FOLL_PIN`.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::References`], [`MapError::NotCompound`].
    ///
    /// Cost: two atomics, whatever `n` is; of a folio of one page, one. Relaxed: who pins without the page table lock
    /// follows up with a `SeqCst` fence and looks at the entry again (pairs with the fences of [`fork`](Self::fork)'s
    /// caller).
    fn pin(&self, n: u32) -> Result<(), MapError>;

    /// Takes `n` pins back, and returns their references; `None` from a shared page of zeroes. Linux: `unpin_user_folio`.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::TooFewPins`] as far as the counts show it.
    ///
    /// Cost: of a folio with several pages one atomic, and one when the references are given back; of one page only that.
    ///
    /// # Safety
    ///
    /// `n` pins on this folio were made by [`pin`](Self::pin), or kept by [`RunHold::into_raw`](crate::RunHold::into_raw),
    /// and each is taken back at most once. (In the references of a folio of one page they look like anybody's.)
    unsafe fn unpin(&self, n: u32) -> Result<Option<References<'m, M>>, MapError>;

    /// How many of the `n` pages from page `first` on are exclusive, without a gap. See
    /// [`is_exclusive`](Self::is_exclusive).
    ///
    /// Cost: a load for each.
    fn exclusive_pages(&self, first: u64, n: u64) -> u64;
}

impl<M: MemMap<Counts: Mapcounts>> Sealed for Folio<'_, M> {}

impl<'m, M: MemMap<Counts: Mapcounts>> Rmap<'m, M> for Folio<'m, M> {
    #[inline]
    fn kind(&self) -> Kind {
        if self.flags().contains(PageFlags::ANON) { Kind::Anon } else { Kind::File }
    }

    #[inline]
    fn add_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Account, MapError> {
        let (counts, batch) = Counts::for_batch(self, mapping)?;
        count::add_with_references(self, &counts, mm, mapping, batch)
    }

    #[inline]
    fn remove_mappings(&self, mm: MmId, mapping: Mapping) -> Result<Unmapped<'m, M>, MapError> {
        let (counts, batch) = Counts::for_batch(self, mapping)?;
        let account = count::remove(self, &counts, mm, mapping, batch)?;
        // SAFETY: `mappings` of the folio's mappings are gone from T, under its lock or by one exchange, so that
        // nobody else can have removed them; each was added with one reference, and there is one at least.
        let folio = unsafe { self.adopt() };
        // SAFETY: the others of them.
        let references = unsafe { References::new(folio, batch.mappings - 1) };
        Ok(Unmapped { account, references })
    }

    #[inline]
    fn fork(&self, child: MmId, mapping: Mapping) -> Result<Account, MapError> {
        let (counts, batch) = Counts::for_batch(self, mapping)?;
        if self.kind() == Kind::File {
            return count::add_with_references(self, &counts, child, mapping, batch);
        }
        not_pinned_exclusive(self, batch)?;
        let account = count::add_with_references(self, &counts, child, mapping, batch)?;
        exclusive::clear(self, batch);
        Ok(account)
    }

    fn remap(&self, mm: MmId) -> Result<Account, MapError> {
        count::remap(self, mm)
    }

    #[inline]
    fn mappings(&self) -> u32 {
        peek(self, TOTAL)
    }

    #[inline]
    fn entire_mappings(&self) -> u32 {
        peek(self, ENTIRE)
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
        match Counts::of(self) {
            Ok(counts) if self.order() > Order::ZERO => {
                <M::Counts as Mapcounts>::Tracker::maybe_mapped_shared(&counts.words)
            }
            Ok(counts) => counts.words.half[TOTAL].load(Ordering::Relaxed) > 1,
            Err(_) => false,
        }
    }

    fn sole_owner(&self) -> Option<MmId> {
        if self.order() == Order::ZERO {
            return None;
        }
        <M::Counts as Mapcounts>::Tracker::sole_owner(&Counts::of(self).ok()?.words)
    }

    #[inline]
    fn is_exclusive(&self, index: u64) -> bool {
        exclusive::is(self, index)
    }

    fn set_exclusive(&self, mapping: Mapping) -> Result<(), MapError> {
        let (_, batch) = Counts::for_batch(self, mapping)?;
        if self.kind() == Kind::File {
            return Err(MapError::NotAnon);
        }
        exclusive::set(self, batch);
        Ok(())
    }

    fn try_share(&self, mapping: Mapping) -> Result<(), MapError> {
        let (_, batch) = Counts::for_batch(self, mapping)?;
        if self.kind() == Kind::File {
            return Err(MapError::NotAnon);
        }
        // SeqCst: pairs with the fence of those who pin. Either they see that the entry is gone, or their pin is seen here.
        mutant!("share-no-fence", fence(Ordering::SeqCst), ());
        not_pinned_exclusive(self, batch)?;
        exclusive::clear(self, batch);
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
        pins::read(self)
    }

    #[inline]
    fn pin(&self, n: u32) -> Result<(), MapError> {
        pins::add(self, n)
    }

    #[inline]
    unsafe fn unpin(&self, n: u32) -> Result<Option<References<'m, M>>, MapError> {
        // SAFETY: passed on.
        unsafe { pins::take(self, n) }
    }

    #[inline]
    fn exclusive_pages(&self, first: u64, n: u64) -> u64 {
        exclusive::leading(self, first, n)
    }
}

/// A word of the folio's counts at this moment; 0 where it has none.
#[inline]
fn peek<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, half: usize) -> u32 {
    Counts::of(folio).map_or(0, |counts| counts.words.half[half].load(Ordering::Relaxed))
}

/// Refuses a batch with an exclusive page of a folio that has pins: somebody may have pinned that page, and relies on what
/// its address space writes being what it sees.
#[inline]
fn not_pinned_exclusive<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    batch: Batch,
) -> Result<(), MapError> {
    let pins = pins::read(folio);
    if pins > 0
        && let Some(index) = exclusive::first(folio, batch)
    {
        return Err(MapError::PinnedExclusive { index, pins });
    }
    Ok(())
}
