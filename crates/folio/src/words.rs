// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which word of a descriptor holds what.

use mmkit_page::Words;
use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::MapError;

/// The words in which the mappings of one folio are counted, by themselves: for models, benchmarks and tools. A folio
/// lends the same words out of its descriptors ([`mmkit_page::Words`]).
///
/// Of a folio with several pages they are those of tail 1; of a folio with one page, those of its only descriptor.
///
/// | bytes | word | `Untracked` | `TwoSlots` | `PowerSums` |
/// |---|---|---|---|---|
/// | 16..20 | `half[0]` | T: mappings, an entry of any size is one | the same | the same |
/// | 20..24 | `half[1]` | mappings of the whole folio by one entry | the same | the same |
/// | 24..28 | `half[2]` | pins | the same | the same |
/// | 28..32 | `half[3]` | pages mapped, and [`ENTIRELY_MAPPED`](crate::ENTIRELY_MAPPED) | the same | the same |
/// | 32..40 | `word[0]` | map count of page 1 | counts of the slots, slot 0 in the low half | map count of page 1 |
/// | 40..48 | `word[1]` | - | bits 0..=30 id of slot 0, 31 LOCK, 32..=62 id of slot 1, 63 SHARED | bits 0..=61 S1, 62 SHARED, 63 LOCK |
/// | 48..56 | `word[2]` | - | map count of page 1 | S2, low half |
/// | 56..64 | `word[3]` | - | - | S2, high half |
///
/// `half[3]` and the map counts of single pages are used by [`PageMapcount`](crate::PageMapcount) only. Page 1's count
/// is where the tracker left room; that of page 0 is `half[0]` of the head, that of any other page `half[0]` of its own
/// descriptor. `TwoSlots` has the layout of Linux in the words that hold ids and counts. All counts start at 0 here;
/// Linux stores one less, and starts at -1.
#[derive(Debug)]
pub struct CountWords {
    half: [AtomicU32; 4],
    word: [AtomicU64; 4],
}

impl CountWords {
    /// The words of a folio that nobody maps.
    #[must_use]
    pub fn new() -> Self {
        Self {
            half: core::array::from_fn(|_| AtomicU32::new(0)),
            word: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Lends them, as a folio lends its own.
    #[must_use]
    pub fn words(&self) -> Words<'_> {
        Words { half: &self.half, word: &self.word }
    }
}

impl Default for CountWords {
    fn default() -> Self {
        Self::new()
    }
}

/// `half`: mappings.
pub(crate) const TOTAL: usize = 0;
/// `half`: mappings of the whole folio by one entry.
pub(crate) const ENTIRE: usize = 1;
/// `half`: pins.
pub(crate) const PINS: usize = 2;
/// `half`: pages mapped.
pub(crate) const PAGES_MAPPED: usize = 3;

/// The highest count of mappings: each has a reference, and there are no more of those.
pub(crate) const MAX: u32 = i32::MAX as u32;

/// Takes `n` from `count`, and returns what is left; or what there is, if that is less.
///
/// References rest on it, so it looks before it writes: a count is never wrong, not even for a moment. Cost: a load and
/// a compare-exchange, Relaxed.
#[inline]
pub(crate) fn take_from(count: &AtomicU32, n: u32) -> Result<u32, u32> {
    take_from_seen(count, count.load(Ordering::Relaxed), n)
}

/// [`take_from`] a count that was `seen` a moment ago.
#[inline]
pub(crate) fn take_from_seen(count: &AtomicU32, mut seen: u32, n: u32) -> Result<u32, u32> {
    let mut fresh = false;
    loop {
        let Some(left) = seen.checked_sub(n) else {
            if fresh {
                return Err(seen);
            }
            // It may have grown since.
            (seen, fresh) = (count.load(Ordering::Relaxed), true);
            continue;
        };
        fresh = true;
        match count.compare_exchange_weak(seen, left, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(left),
            Err(now) => seen = now,
        }
    }
}

/// Adds `n` to `count`, and returns the sum; or what there is, if the sum would pass [`MAX`].
#[inline]
pub(crate) fn add_to(count: &AtomicU32, n: u32) -> Result<u32, u32> {
    add_to_seen(count, count.load(Ordering::Relaxed), n)
}

/// [`add_to`] a count that was `seen` a moment ago.
#[inline]
pub(crate) fn add_to_seen(count: &AtomicU32, mut seen: u32, n: u32) -> Result<u32, u32> {
    let mut fresh = false;
    loop {
        let Some(sum) = seen.checked_add(n).filter(|&sum| sum <= MAX) else {
            if fresh {
                return Err(seen);
            }
            // It may have shrunk since.
            (seen, fresh) = (count.load(Ordering::Relaxed), true);
            continue;
        };
        fresh = true;
        match count.compare_exchange_weak(seen, sum, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(sum),
            Err(now) => seen = now,
        }
    }
}

/// One more entry for the whole folio, by the holder of T's lock: E changes if `change`, which changes T, agrees. Returns
/// T and whether the entry is the first.
#[inline]
pub(crate) fn one_more_entire(
    words: &Words<'_>,
    change: impl FnOnce() -> Result<u32, MapError>,
) -> Result<(u32, bool), MapError> {
    let entire = words.half[ENTIRE].load(Ordering::Relaxed);
    if entire >= MAX {
        return Err(MapError::Overflow { mappings: entire, adding: 1 });
    }
    let mappings = change()?;
    words.half[ENTIRE].store(entire + 1, Ordering::Relaxed);
    Ok((mappings, entire == 0))
}

/// One entry fewer, likewise; whether it was the last.
#[inline]
pub(crate) fn one_entire_fewer(
    words: &Words<'_>,
    change: impl FnOnce() -> Result<u32, MapError>,
) -> Result<(u32, bool), MapError> {
    let entire = words.half[ENTIRE].load(Ordering::Relaxed);
    let left = entire.checked_sub(1).ok_or(MapError::EntireNotMapped)?;
    let mappings = change()?;
    words.half[ENTIRE].store(left, Ordering::Relaxed);
    Ok((mappings, left == 0))
}

/// The same without a lock: E first, and back again if `change` refuses. It refuses only where a PTE that never was has
/// been removed before: otherwise E is at most T, and whoever took one from E finds one in T.
#[inline]
pub(crate) fn one_entire_fewer_unlocked(
    words: &Words<'_>,
    change: impl FnOnce() -> Result<u32, MapError>,
) -> Result<(u32, bool), MapError> {
    let left = take_from(&words.half[ENTIRE], 1).map_err(|_| MapError::EntireNotMapped)?;
    match change() {
        Ok(mappings) => Ok((mappings, left == 0)),
        Err(error) => {
            words.half[ENTIRE].fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    }
}
