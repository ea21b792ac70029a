// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map counts of single pages, and how many pages are mapped.

use core::ops::Range;

use mmkit_page::{Descriptors, MemMap, OwnWords, Words};
use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mmkit_sync::mutant;

use crate::words::{PAGES_MAPPED, TOTAL};
use crate::{MapError, Tracker};

/// Added to the number of pages mapped while an entry maps the whole folio. So one atomic addition changes either and
/// tells about both. Linux: `ENTIRELY_MAPPED`.
pub const ENTIRELY_MAPPED: u32 = 0x80_0000;

/// The count of page `index`, whose words these are.
pub(crate) fn read<T: Tracker>(index: u64, words: &Words<'_>) -> u32 {
    if index == 1 {
        words.word[T::SPARE_WORD].load(Ordering::Relaxed) as u32
    } else {
        words.half[TOTAL].load(Ordering::Relaxed)
    }
}

/// The pages of a batch, each with its words.
pub(crate) struct Pages<'f, 'm, M: MemMap> {
    first: u64,
    each: OwnWords<'f, 'm, M>,
}

impl<'f, 'm, M: MemMap> Pages<'f, 'm, M> {
    /// `pages` of a folio. Whether it has them was checked when the batch was made.
    #[inline]
    pub(crate) fn of(at: Descriptors<'f, 'm, M>, pages: Range<u64>) -> Result<Self, MapError> {
        let first = pages.start;
        let each = at.words_of(pages).ok_or(MapError::SharedTails { order: at.order() })?;
        Ok(Self { first, each })
    }

    /// Calls `narrow` with the count of each page, in order, but `wide` with page 1's: it is in another word, of another
    /// size.
    #[inline]
    fn for_each(self, mut narrow: impl FnMut(&AtomicU32), wide: impl FnOnce(&[AtomicU64; 4])) {
        let mut each = self.each;
        if self.first == 0
            && let Some(words) = each.next()
        {
            narrow(&words.half[TOTAL]);
        }
        if self.first <= 1
            && let Some(words) = each.next()
        {
            wide(words.word);
        }
        each.for_each(|words| narrow(&words.half[TOTAL]));
    }

    /// One mapping of each, of a folio that nobody sees.
    pub(crate) fn start<T: Tracker>(self) {
        self.for_each(
            |count| count.store(1, Ordering::Relaxed),
            |word| word[T::SPARE_WORD].store(1, Ordering::Relaxed),
        );
    }

    /// One more mapping of each; how many had none.
    #[inline]
    pub(crate) fn map<T: Tracker>(self) -> u32 {
        let (mut first, mut one) = (0, 0);
        self.for_each(
            |count| first += u32::from(count.fetch_add(1, Ordering::Relaxed) == 0),
            |word| one = u32::from(word[T::SPARE_WORD].fetch_add(1, Ordering::Relaxed) == 0),
        );
        first + one
    }

    /// Whether each has a mapping that it can lose.
    ///
    /// This comes before anything is changed: an unmap that is wrong for a page is refused and has not been there, so that
    /// a right one that meets it finds what it looks for. Cost: loads.
    pub(crate) fn are_mapped<T: Tracker>(self) -> Result<(), MapError> {
        let (first, mut index, mut unmapped, mut one) = (self.first, self.first, None, true);
        self.for_each(
            |count| {
                // Page 1 is not among these.
                index += u64::from(index == 1);
                if unmapped.is_none() && count.load(Ordering::Relaxed) == 0 {
                    unmapped = Some(index);
                }
                index += 1;
            },
            |word| one = word[T::SPARE_WORD].load(Ordering::Relaxed) != 0,
        );
        match unmapped {
            Some(0) => Err(MapError::PageNotMapped { index: 0 }),
            _ if !one => Err(MapError::PageNotMapped { index: 1 }),
            Some(index) => Err(MapError::PageNotMapped { index: index.max(first) }),
            None => Ok(()),
        }
    }

    /// One mapping fewer of each, for mappings that are gone from T. How many have none left, and how many were found with
    /// none and mapped by somebody since.
    #[inline]
    pub(crate) fn unmap<T: Tracker>(self) -> (u32, u32) {
        let (mut last, mut again) = (0, 0);
        let (mut last_one, mut again_one) = (0, 0);
        self.for_each(
            |count| {
                let before = count.fetch_sub(1, Ordering::Relaxed);
                if before <= 1 {
                    last += before;
                    if before == 0 {
                        again += u32::from(below_zero(|| count.fetch_add(1, Ordering::Relaxed) == 0));
                    }
                }
            },
            |word| {
                let count = &word[T::SPARE_WORD];
                let before = count.fetch_sub(1, Ordering::Relaxed);
                last_one = u32::from(before == 1);
                if before == 0 {
                    again_one = u32::from(below_zero(|| count.fetch_add(1, Ordering::Relaxed) == 0));
                }
            },
        );
        (last + last_one, again + again_one)
    }
}

/// Two were wrong at a time, and saw each other's mapping: the count, which is below 0 now, does not stay there. Who maps
/// the page before it is back did not find it unmapped; this does then.
#[cold]
fn below_zero(put_back: impl FnOnce() -> bool) -> bool {
    mutant!("pages-below-zero", put_back(), false)
}

/// Pages that are mapped by PTEs.
#[inline]
pub(crate) fn mapped(words: &Words<'_>) -> u64 {
    u64::from(words.half[PAGES_MAPPED].load(Ordering::Relaxed) & (ENTIRELY_MAPPED - 1))
}

/// `first` more pages are mapped by PTEs; by how many more the folio's pages are mapped at all.
#[inline]
pub(crate) fn count_mapped(words: &Words<'_>, first: u32) -> i64 {
    if first == 0 {
        return 0;
    }
    let now = words.half[PAGES_MAPPED].fetch_add(first, Ordering::Relaxed).wrapping_add(first);
    if now < ENTIRELY_MAPPED { first.into() } else { 0 }
}

/// `last` fewer pages are mapped by PTEs; by how many fewer they are mapped at all, and whether some still are.
#[inline]
pub(crate) fn count_unmapped(words: &Words<'_>, last: u32) -> (i64, bool) {
    if last == 0 {
        return (0, false);
    }
    let now = words.half[PAGES_MAPPED].fetch_sub(last, Ordering::Relaxed).wrapping_sub(last);
    if now < ENTIRELY_MAPPED { (last.into(), now != 0) } else { (0, now != 0) }
}

/// An entry maps the whole folio, as the first; how many of its `pages` were not mapped.
#[inline]
pub(crate) fn count_entire(words: &Words<'_>, pages: i64) -> i64 {
    let now =
        words.half[PAGES_MAPPED].fetch_add(ENTIRELY_MAPPED, Ordering::Relaxed).wrapping_add(ENTIRELY_MAPPED);
    if now < 2 * ENTIRELY_MAPPED { (pages - i64::from(now & (ENTIRELY_MAPPED - 1))).max(0) } else { 0 }
}

/// The last such entry is gone; how many of its `pages` are no longer mapped.
#[inline]
pub(crate) fn count_not_entire(words: &Words<'_>, pages: i64) -> i64 {
    let now =
        words.half[PAGES_MAPPED].fetch_sub(ENTIRELY_MAPPED, Ordering::Relaxed).wrapping_sub(ENTIRELY_MAPPED);
    if now < ENTIRELY_MAPPED { (pages - i64::from(now)).max(0) } else { 0 }
}
