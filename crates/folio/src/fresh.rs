// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first mappings of a folio that nobody has seen.

use core::fmt;

use mmkit_addr::Order;
use mmkit_page::{Frozen, MemMap, PageFlags};
use mmkit_sync::atomic::Ordering;

use crate::pages::Pages;
use crate::shape::{Batch, Counts};
use crate::words::{ENTIRE, PAGES_MAPPED, TOTAL};
use crate::{Account, ENTIRELY_MAPPED, Kind, MapError, Mapcounts, Mapping, MmId, Tracker, exclusive};

/// Maps a new anonymous folio: `mapping` of `mm` are its first mappings, and theirs its only references. The pages that
/// are mapped are exclusive. Linux: `folio_add_new_anon_rmap`.
///
/// Afterwards the folio is reached through its entries, or with [`MemMap::try_get`].
///
/// # Errors
///
/// The block, unchanged, and why: a batch that does not fit it, or that cannot be counted.
///
/// Cost: no lock and no atomic read-modify-write; plain stores, of which the last, Release, sets the references.
pub fn map_new_anon<'m, M>(
    mut frozen: Frozen<'m, M>,
    mm: MmId,
    mapping: Mapping,
) -> Result<Account, NotMapped<'m, M>>
where
    M: MemMap<Counts: Mapcounts>,
{
    let order = frozen.order();
    let batch = match start(&frozen, mm, mapping) {
        Ok(batch) => batch,
        Err(error) => return Err(NotMapped { frozen, error }),
    };
    // A block that comes from its last holder, and not from its allocator, may have flags of its former life.
    frozen.remove_at(0..1, PageFlags::PARTIALLY_MAPPED);
    frozen.insert_at(0..1, PageFlags::ANON);
    exclusive::start(&mut frozen, batch);
    let pages = order.frames() as i64;
    let per_page = <M::Counts as Mapcounts>::PER_PAGE;
    let account = Account {
        kind: Kind::Anon,
        mapped: if per_page && !mapping.is_entire() { batch.mappings.into() } else { pages },
        pmd_mapped: if mapping == Mapping::Pmd { pages } else { 0 },
        became_partially_mapped: false,
        mappings: batch.mappings,
    };
    match frozen.into_raw(batch.mappings) {
        Ok(_) => Ok(account),
        Err(frozen) => Err(NotMapped {
            frozen,
            error: MapError::Overflow { mappings: 0, adding: batch.mappings.into() },
        }),
    }
}

/// Writes the counts.
fn start<M>(frozen: &Frozen<'_, M>, mm: MmId, mapping: Mapping) -> Result<Batch, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    type Of<M> = <<M as MemMap>::Counts as Mapcounts>::Tracker;
    let order = frozen.order();
    let (Counts { at, words }, batch) = Counts::fresh(frozen, mapping)?;
    if order == Order::ZERO {
        words.half[TOTAL].store(1, Ordering::Relaxed);
        Of::<M>::single_added(&words, mm, 1);
        return Ok(batch);
    }
    words.half[ENTIRE].store(mapping.is_entire().into(), Ordering::Relaxed);
    if <M::Counts as Mapcounts>::PER_PAGE {
        let mapped = if mapping.is_entire() {
            ENTIRELY_MAPPED
        } else {
            Pages::of(at, batch.pages())?.start::<Of<M>>();
            batch.mappings
        };
        words.half[PAGES_MAPPED].store(mapped, Ordering::Relaxed);
    }
    Of::<M>::start(&words, mm, batch.mappings);
    Ok(batch)
}

/// A new folio that could not be mapped.
pub struct NotMapped<'m, M: MemMap> {
    /// The block, as it was.
    pub frozen: Frozen<'m, M>,
    /// Why.
    pub error: MapError,
}

impl<M: MemMap> fmt::Debug for NotMapped<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotMapped({:?})", self.error)
    }
}

impl<M: MemMap> fmt::Display for NotMapped<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M: MemMap> core::error::Error for NotMapped<'_, M> {}
