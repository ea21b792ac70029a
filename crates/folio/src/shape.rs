// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the counts of a folio are, and which batches fit it.

use core::ops::Range;

use mmkit_addr::Order;
use mmkit_page::{Descriptors, Folio, Frozen, MemMap, Words};

use crate::words::MAX;
use crate::{ENTIRELY_MAPPED, MapError, Mapcounts, Mapping};

/// A batch that fits its folio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    /// Mappings, which is references too.
    pub(crate) mappings: u32,
    /// First page.
    pub(crate) first: u64,
    /// Pages.
    pub(crate) count: u64,
}

impl Batch {
    /// The pages.
    #[inline]
    pub(crate) fn pages(self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Whether it has all of so many pages.
    #[inline]
    pub(crate) fn covers(self, pages: u64) -> bool {
        self.count == pages
    }

    /// Those of so many pages that are not in it: ahead of it, and behind.
    #[inline]
    pub(crate) fn others(self, pages: u64) -> (Range<u64>, Range<u64>) {
        (0..self.first, self.first + self.count..pages)
    }

    /// # Errors
    ///
    /// Does not fit a folio of `order`, or its pages cannot be counted as `C` says.
    #[inline]
    pub(crate) fn new<C: Mapcounts>(order: Order, shared: bool, mapping: Mapping) -> Result<Self, MapError> {
        let pages = order.frames();
        if C::PER_PAGE && order > Order::ZERO {
            if shared {
                return Err(MapError::SharedTails { order });
            }
            if pages >= u64::from(ENTIRELY_MAPPED) {
                return Err(MapError::TooManyPages { pages });
            }
        }
        match mapping {
            Mapping::Ptes { count: 0, .. } => Err(MapError::Empty),
            Mapping::Ptes { first, count } => {
                if first >= pages || count > pages - first {
                    return Err(MapError::PastEnd { first, count, pages });
                }
                match u32::try_from(count) {
                    Ok(mappings) if mappings <= MAX => Ok(Self { mappings, first, count }),
                    _ => Err(MapError::Overflow { mappings: 0, adding: count }),
                }
            }
            Mapping::Pmd | Mapping::Pud if order == Order::ZERO => Err(MapError::SinglePage),
            Mapping::Pmd | Mapping::Pud => Ok(Self { mappings: 1, first: 0, count: pages }),
        }
    }
}

/// Where the counts of a folio are.
pub(crate) struct Counts<'f, 'm, M: MemMap> {
    /// All descriptors, and the folio's order.
    pub(crate) at: Descriptors<'f, 'm, M>,
    /// The words of the whole folio: tail 1's, or those of its only descriptor.
    pub(crate) words: Words<'f>,
}

impl<'f, 'm, M: MemMap<Counts: Mapcounts>> Counts<'f, 'm, M> {
    #[inline]
    fn new(at: Descriptors<'f, 'm, M>) -> Result<Self, MapError> {
        let order = at.order();
        let words = at.words(u64::from(order > Order::ZERO)).ok_or(MapError::NotCompound { order })?;
        Ok(Self { at, words })
    }

    /// The batch that `mapping` is, if it fits.
    #[inline]
    fn with(at: Descriptors<'f, 'm, M>, mapping: Mapping) -> Result<(Self, Batch), MapError> {
        let batch = Batch::new::<M::Counts>(at.order(), at.has_shared_tails(), mapping)?;
        Ok((Self::new(at)?, batch))
    }

    /// Those of a folio.
    #[inline]
    pub(crate) fn of(folio: &'f Folio<'m, M>) -> Result<Self, MapError> {
        // SAFETY: this crate keeps the counts of every map whose `Counts` is one of its strategies.
        Self::new(unsafe { folio.descriptors() })
    }

    /// Those of a folio for which there is a batch.
    #[inline]
    pub(crate) fn for_batch(folio: &'f Folio<'m, M>, mapping: Mapping) -> Result<(Self, Batch), MapError> {
        // SAFETY: as above.
        Self::with(unsafe { folio.descriptors() }, mapping)
    }

    /// Those of a folio that nobody sees yet.
    pub(crate) fn fresh(frozen: &'f Frozen<'m, M>, mapping: Mapping) -> Result<(Self, Batch), MapError> {
        // SAFETY: as above.
        Self::with(unsafe { frozen.descriptors() }, mapping)
    }
}
