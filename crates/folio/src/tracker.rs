// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who maps a folio: the contract of the trackers, and the one that does not look.

use mmkit_page::Words;
use mmkit_sync::atomic::Ordering;

use crate::words::{MAX, TOTAL, add_to, take_from};
use crate::{MapError, MmId, Why};

pub(crate) mod sealed {
    /// Strategies are this crate's: references rest on their counts.
    pub trait Sealed {}
}

/// Counts the mappings of one folio, and knows more or less about who has them. Zero-sized; all state is in the words.
///
/// For folios with several pages. A mapping is one entry of a page table, of any size. Every implementation keeps the
/// number of mappings, T, exact, and none ever says "one address space only" of a folio that two map. How often they
/// say "perhaps several" of a folio that one maps is how they differ:
///
/// | | two or fewer address spaces since T was 0 | any number |
/// |---|---|---|
/// | [`Untracked`] | always | always |
/// | [`TwoSlots`](crate::TwoSlots) | never | until T is 0 again, if the last one was not among the first two or had mappings before it was |
/// | [`PowerSums`](crate::PowerSums) | never | never |
///
/// Sealed: the references of a folio are given back according to these counts.
pub trait Tracker: sealed::Sealed + 'static {
    /// A short name, for tables.
    const NAME: &'static str;
    /// `word` of tail 1 that the tracker leaves free.
    #[doc(hidden)]
    const SPARE_WORD: usize;

    /// Counts the first `count` mappings, all of `mm`, of a folio that nobody else can see. No lock, no atomic
    /// read-modify-write: publishing the entries publishes the counts.
    fn start(words: &Words<'_>, mm: MmId, count: u32);

    /// Counts `count` more mappings of `mm`, and returns T.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::Overflow`]; nothing is changed.
    ///
    /// Cost: one atomic read-modify-write.
    fn add(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError>;

    /// Counts `count` fewer mappings of `mm`, and returns T.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::TooFew`], and where it shows [`MapError::NotTheirs`]; nothing is changed.
    ///
    /// Cost: one atomic read-modify-write.
    fn remove(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError>;

    /// Counts `adding` more mappings of `mm` and `removing` fewer, all at once, and returns T.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add) and [`remove`](Self::remove); the former mappings must be enough for the latter. Nothing is
    /// changed.
    ///
    /// Cost: one atomic read-modify-write.
    fn replace(words: &Words<'_>, mm: MmId, adding: u32, removing: u32) -> Result<u32, MapError>;

    /// Whether several address spaces may map the folio: a snapshot, without the lock. `false` is certain as of some
    /// moment, `true` may be wrong. Linux: `folio_maybe_mapped_shared`.
    ///
    /// Cost: two Relaxed loads.
    fn maybe_mapped_shared(words: &Words<'_>) -> bool;

    /// Whether one address space has all mappings, and those all references but `held`; decided under the lock, so
    /// that no mapping comes or goes meanwhile. `references` is called at most once.
    ///
    /// # Errors
    ///
    /// Why not.
    fn sole_user(words: &Words<'_>, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why>;

    /// The address space that has all mappings, if the tracker is sure that there is one. Takes the lock.
    fn sole_owner(words: &Words<'_>) -> Option<MmId>;

    /// Told of mappings of a folio of one page, which are counted without a tracker.
    #[doc(hidden)]
    #[inline]
    fn single_added(words: &Words<'_>, mm: MmId, count: u32) {
        let _ = (words, mm, count);
    }

    /// Asked before mappings of a folio of one page go.
    #[doc(hidden)]
    #[inline]
    fn single_removed(words: &Words<'_>, mm: MmId, count: u32) -> Result<(), MapError> {
        let _ = (words, mm, count);
        Ok(())
    }
}

/// T and the references under the lock: whether the mappings have all references but `held`.
#[inline]
pub(crate) fn compare(total: u32, held: u32, references: u32) -> Result<(), Why> {
    if u64::from(references) == u64::from(total) + u64::from(held) {
        Ok(())
    } else {
        Err(Why::References { mappings: total, held, references })
    }
}

/// Counts mappings, and nothing else: every mapped folio may be mapped by several. Linux: no `CONFIG_MM_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untracked {}

impl sealed::Sealed for Untracked {}

impl Tracker for Untracked {
    const NAME: &'static str = "Untracked";
    const SPARE_WORD: usize = 0;

    #[inline]
    fn start(words: &Words<'_>, _: MmId, count: u32) {
        words.half[TOTAL].store(count, Ordering::Relaxed);
    }

    #[inline]
    fn add(words: &Words<'_>, _: MmId, count: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        add_to(&words.half[TOTAL], count)
            .map_err(|mappings| MapError::Overflow { mappings, adding: count.into() })
    }

    #[inline]
    fn remove(words: &Words<'_>, _: MmId, count: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        take_from(&words.half[TOTAL], count)
            .map_err(|mappings| MapError::TooFew { mappings, removing: count })
    }

    fn replace(words: &Words<'_>, _: MmId, adding: u32, removing: u32) -> Result<u32, MapError> {
        if adding == 0 || removing == 0 {
            return Err(MapError::Empty);
        }
        let count = &words.half[TOTAL];
        let mut seen = count.load(Ordering::Relaxed);
        loop {
            let left = seen.checked_sub(removing).ok_or(MapError::TooFew { mappings: seen, removing })?;
            let sum = left
                .checked_add(adding)
                .filter(|&sum| sum <= MAX)
                .ok_or(MapError::Overflow { mappings: seen, adding: adding.into() })?;
            match count.compare_exchange_weak(seen, sum, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(sum),
                Err(now) => seen = now,
            }
        }
    }

    /// Always `true`, of an unmapped folio too.
    #[inline]
    fn maybe_mapped_shared(_: &Words<'_>) -> bool {
        true
    }

    fn sole_user(_: &Words<'_>, _: u32, _: impl FnOnce() -> u32) -> Result<(), Why> {
        Err(Why::Shared)
    }

    fn sole_owner(_: &Words<'_>) -> Option<MmId> {
        None
    }
}
