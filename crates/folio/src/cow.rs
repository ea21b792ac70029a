// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy on write: whether a writer may keep the page.

use mmkit_addr::Order;
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::{Ordering, fence};
use mmkit_sync::mutant;

use crate::shape::{Batch, Counts};
use crate::tracker::compare;
use crate::words::{ENTIRE, TOTAL};
use crate::{Kind, MapError, Mapcounts, Mapping, Rmap, Tracker, exclusive};

/// What a write to an anonymous page that is mapped read-only leads to. Linux: `do_wp_page`,
/// `wp_can_reuse_anon_folio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the writer waits"]
pub enum Cow {
    /// The page was exclusive to the writer already: make the entry writable. Other references and pins do not matter.
    Exclusive,
    /// The writer has all mappings, and those all references: the page is exclusive to it now, make the entry
    /// writable. Neighbours of the page take faults of their own; where descriptors are shared, all pages are exclusive.
    Reused,
    /// The writer gets a copy: copy the page, [remove](Rmap::remove_mappings) this one, map the copy.
    Copy(Why),
}

/// Why a page is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The memory is a file's: a private copy is what the writer asked for.
    File,
    /// The only mapping of a larger folio: with a copy of one page the rest of the folio is free.
    LastMapping,
    /// Other address spaces may map the folio.
    Shared,
    /// There are references that are neither mappings' nor the caller's.
    References {
        /// Mappings.
        mappings: u32,
        /// References that the caller said are its own.
        held: u32,
        /// References found.
        references: u32,
    },
}

/// References now. What their former holders did to the page happens before what follows.
#[inline]
fn references<M: MemMap>(folio: &Folio<'_, M>) -> u32 {
    let count = folio.count();
    // Acquire: pairs with the Release with which references are given back. A reader whose reference is gone has read.
    fence(Ordering::Acquire);
    count
}

pub(crate) fn page<M>(folio: &Folio<'_, M>, index: u64, held: u32) -> Result<Cow, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let order = folio.order();
    if index >= order.frames() {
        return Err(MapError::PastEnd { first: index, count: 1, pages: order.frames() });
    }
    let words = Counts::of(folio)?.words;
    if folio.kind() == Kind::File {
        return Ok(Cow::Copy(Why::File));
    }
    let peek = || words.half[TOTAL].load(Ordering::Relaxed);
    if peek() == 0 {
        return Err(MapError::PageNotMapped { index });
    }
    if exclusive::is(folio, index) {
        return Ok(Cow::Exclusive);
    }
    let decided = if order == Order::ZERO {
        sole_mapping(peek(), held, || references(folio))
    } else if peek() <= 1 {
        Err(Why::LastMapping)
    } else if <M::Counts as Mapcounts>::Tracker::maybe_mapped_shared(&words) {
        Err(Why::Shared)
    } else {
        // Two loads at different moments: a match proves nothing, and most mismatches last.
        compare(peek(), held, folio.count()).and_then(|()| {
            mutant!(
                "cow-no-lock",
                <M::Counts as Mapcounts>::Tracker::sole_user(&words, held, || references(folio)),
                {
                    references(folio);
                    Ok(())
                }
            )
        })
    };
    Ok(match decided {
        Ok(()) => {
            exclusive::set(folio, Batch { mappings: 1, first: index, count: 1 });
            Cow::Reused
        }
        Err(why) => Cow::Copy(why),
    })
}

pub(crate) fn entire<M>(folio: &Folio<'_, M>, held: u32) -> Result<Cow, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let (Counts { words, .. }, batch) = Counts::for_batch(folio, Mapping::Pmd)?;
    if folio.kind() == Kind::File {
        return Ok(Cow::Copy(Why::File));
    }
    if words.half[ENTIRE].load(Ordering::Relaxed) == 0 {
        return Err(MapError::EntireNotMapped);
    }
    if exclusive::all(folio) {
        return Ok(Cow::Exclusive);
    }
    Ok(match sole_mapping(words.half[TOTAL].load(Ordering::Relaxed), held, || references(folio)) {
        Ok(()) => {
            exclusive::set(folio, batch);
            Cow::Reused
        }
        Err(why) => Cow::Copy(why),
    })
}

/// Whether the caller's mapping, of `total`, is the only one, and its reference the only one but `held`. Nobody else can
/// map the folio then, so that there is nothing to lock.
fn sole_mapping(total: u32, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why> {
    if total > 1 { Err(Why::Shared) } else { compare(1, held, references()) }
}
