// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the counts of a folio are, and which batches fit it.

use mmkit_addr::Order;
use mmkit_page::{Folio, Frozen, MemMap, Words};

use crate::words::MAX;
use crate::{ENTIRELY_MAPPED, MapError, Mapcounts, Mapping};

/// A batch that fits its folio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    /// Mappings, which is references too.
    pub(crate) mappings: u32,
    /// First page.
    pub(crate) first: u64,
    /// Pages, for their flags: the first alone stands for an entry that maps all.
    pub(crate) flagged: u64,
}

impl Batch {
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
                    Ok(mappings) if mappings <= MAX => Ok(Self { mappings, first, flagged: count }),
                    _ => Err(MapError::Overflow { mappings: 0, adding: count }),
                }
            }
            Mapping::Pmd | Mapping::Pud if order == Order::ZERO => Err(MapError::SinglePage),
            Mapping::Pmd | Mapping::Pud => Ok(Self { mappings: 1, first: 0, flagged: 1 }),
        }
    }
}

/// The words that hold the folio's counts: tail 1's, or those of its only descriptor.
#[inline]
pub(crate) fn counts<'f, M>(folio: &'f Folio<'_, M>) -> Result<Words<'f>, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let order = folio.order();
    // SAFETY: this crate keeps the counts of every map whose `Counts` is one of its strategies.
    let words = unsafe { folio.words(u64::from(order > Order::ZERO)) };
    words.ok_or(MapError::NotCompound { order })
}

/// The same words of a folio that nobody sees yet.
pub(crate) fn fresh_counts<'f, M>(frozen: &'f Frozen<'_, M>) -> Result<Words<'f>, MapError>
where
    M: MemMap<Counts: Mapcounts>,
{
    let order = frozen.order();
    // SAFETY: this crate keeps the counts of every map whose `Counts` is one of its strategies.
    let words = unsafe { frozen.words(u64::from(order > Order::ZERO)) };
    words.ok_or(MapError::NotCompound { order })
}
