// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who maps a folio: the contract of the trackers, and the one that does not look.

use mmkit_page::Words;
use mmkit_sync::atomic::Ordering;

use crate::words::{ENTIRE, MAX, TOTAL, add_to, add_to_seen, one_entire_fewer_unlocked, take_from_seen};
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

    /// Counts one more mapping of `mm`, by an entry for the whole folio. Returns T, and whether no such entry was there
    /// before.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    ///
    /// Cost: one atomic read-modify-write: E is under the same lock as T. Without a lock two.
    fn add_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError>;

    /// Counts one mapping of `mm` fewer, by an entry for the whole folio. Returns T, and whether no such entry is left.
    ///
    /// # Errors
    ///
    /// [`MapError::EntireNotMapped`], and as for [`remove`](Self::remove); nothing is changed.
    ///
    /// Cost: as for [`add_entire`](Self::add_entire).
    fn remove_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError>;

    /// Replaces a mapping of `mm` by an entry for the whole folio by `adding` mappings, all at once. Returns T, and whether no
    /// such entry is left.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add) and [`remove_entire`](Self::remove_entire); nothing is changed.
    ///
    /// Cost: as for [`add_entire`](Self::add_entire).
    fn remap(words: &Words<'_>, mm: MmId, adding: u32) -> Result<(u32, bool), MapError>;

    /// Whether several address spaces may map the folio: a snapshot, without the lock. `false` is certain as of some
    /// moment, `true` may be wrong. Linux: `folio_maybe_mapped_shared`.
    ///
    /// Cost: two Relaxed loads.
    fn maybe_mapped_shared(words: &Words<'_>) -> bool;

    /// Whether one address space has all mappings, and those all references but `held`; decided under the lock, so
    /// that no mapping comes or goes meanwhile. `references` is called at most once, with the lock held: it must not come
    /// back to this folio's counts, which would wait for that lock for ever, and others wait while it runs.
    ///
    /// # Errors
    ///
    /// Why not.
    fn sole_user(words: &Words<'_>, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why>;

    /// The address space that has all mappings, if the tracker is sure that there is one. Takes the lock.
    fn sole_owner(words: &Words<'_>) -> Option<MmId>;

    /// What `add_seen` and `remove_seen` may want to know beforehand: a load that follows an atomic waits for it.
    #[doc(hidden)]
    #[inline]
    fn look(words: &Words<'_>) -> u32 {
        let _ = words;
        0
    }

    /// [`add`](Self::add), with what `look` said.
    #[doc(hidden)]
    #[inline]
    fn add_seen(words: &Words<'_>, mm: MmId, count: u32, seen: u32) -> Result<u32, MapError> {
        let _ = seen;
        Self::add(words, mm, count)
    }

    /// [`remove`](Self::remove), with what `look` said.
    #[doc(hidden)]
    #[inline]
    fn remove_seen(words: &Words<'_>, mm: MmId, count: u32, seen: u32) -> Result<u32, MapError> {
        let _ = seen;
        Self::remove(words, mm, count)
    }

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
    fn add(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        Self::add_seen(words, mm, count, Self::look(words))
    }

    #[inline]
    fn remove(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        Self::remove_seen(words, mm, count, Self::look(words))
    }

    #[inline]
    fn look(words: &Words<'_>) -> u32 {
        words.half[TOTAL].load(Ordering::Relaxed)
    }

    #[inline]
    fn add_seen(words: &Words<'_>, _: MmId, count: u32, seen: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        add_to_seen(&words.half[TOTAL], seen, count)
            .map_err(|mappings| MapError::Overflow { mappings, adding: count.into() })
    }

    #[inline]
    fn remove_seen(words: &Words<'_>, _: MmId, count: u32, seen: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        take_from_seen(&words.half[TOTAL], seen, count)
            .map_err(|mappings| MapError::TooFew { mappings, removing: count })
    }

    /// T before E: so E is at most T at any time.
    fn add_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        let mappings = Self::add(words, mm, 1)?;
        match add_to(&words.half[ENTIRE], 1) {
            Ok(entire) => Ok((mappings, entire == 1)),
            // Only where PTEs that never were have been removed, over and over.
            Err(entire) => {
                Self::remove(words, mm, 1)?;
                Err(MapError::Overflow { mappings: entire, adding: 1 })
            }
        }
    }

    fn remove_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        one_entire_fewer_unlocked(words, || Self::remove(words, mm, 1))
    }

    fn remap(words: &Words<'_>, _: MmId, adding: u32) -> Result<(u32, bool), MapError> {
        one_entire_fewer_unlocked(words, || {
            let count = &words.half[TOTAL];
            let mut seen = count.load(Ordering::Relaxed);
            loop {
                let left = seen.checked_sub(1).ok_or(MapError::TooFew { mappings: seen, removing: 1 })?;
                let sum = left
                    .checked_add(adding)
                    .filter(|&sum| sum <= MAX)
                    .ok_or(MapError::Overflow { mappings: seen, adding: adding.into() })?;
                match count.compare_exchange_weak(seen, sum, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return Ok(sum),
                    Err(now) => seen = now,
                }
            }
        })
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
