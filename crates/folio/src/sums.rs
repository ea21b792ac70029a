// SPDX-License-Identifier: MIT OR Apache-2.0
//! Three sums: exact for any number of address spaces.

use mmkit_page::Words;
use mmkit_sync::BitSpinLock;
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::tracker::{compare, sealed};
#[cfg(mmkit_loom)]
use crate::words::one_entire_fewer_unlocked;
use crate::words::{MAX, TOTAL, one_entire_fewer, one_more_entire};
use crate::{MapError, MmId, Tracker, Why};

/// The sums of the zeroth, first and second powers of the ids of all mappings, as a value. [`PowerSums`] keeps it in a
/// folio's words.
///
/// `s1 * s1 <= total * s2` always, and the two are equal exactly if all ids are (Cauchy and Schwarz).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sums {
    /// T: the number of mappings. Below 2^31.
    total: u32,
    /// The sum of the ids. Below 2^62.
    s1: u64,
    /// The sum of the squares of the ids. Below 2^93.
    s2: u128,
}

impl Sums {
    /// T: the number of mappings.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The sum of the ids, and that of their squares.
    #[must_use]
    pub fn powers(&self) -> (u64, u128) {
        (self.s1, self.s2)
    }

    /// `count` more mappings of `mm`; returns T.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::Overflow`]; nothing is changed.
    #[inline]
    pub fn add(&mut self, mm: MmId, count: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        if count > MAX || self.total > MAX - count {
            return Err(MapError::Overflow { mappings: self.total, adding: count.into() });
        }
        let (s1, s2) = Self::of(mm, count);
        self.total += count;
        self.s1 += s1;
        self.s2 += s2;
        Ok(self.total)
    }

    /// `count` fewer mappings of `mm`; returns T.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`]; [`MapError::TooFew`]; [`MapError::NotTheirs`] where what would be left are no sums of
    /// ids: one is below 0, `s1 * s1 > total * s2`, there is no mapping and yet a sum, or the ids would have to be below
    /// 1 or above [`MmId::MAX`] on average. Nothing is changed.
    #[inline]
    pub fn remove(&mut self, mm: MmId, count: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        let Some(total) = self.total.checked_sub(count) else {
            return Err(MapError::TooFew { mappings: self.total, removing: count });
        };
        let (s1, s2) = Self::of(mm, count);
        let left =
            self.s1.checked_sub(s1).zip(self.s2.checked_sub(s2)).map(|(s1, s2)| Self { total, s1, s2 });
        match left {
            Some(left) if left.are_sums() => {
                *self = left;
                Ok(total)
            }
            _ => Err(MapError::NotTheirs { mm, removing: count, mappings: self.total }),
        }
    }

    /// Whether two mappings have different ids. Exact.
    #[inline]
    #[must_use]
    pub fn mapped_shared(&self) -> bool {
        self.square() != self.product()
    }

    /// The one id of all mappings, if they have one.
    #[must_use]
    pub fn owner(&self) -> Option<MmId> {
        if self.total == 0 || self.mapped_shared() {
            return None;
        }
        MmId::new((self.s1 / u64::from(self.total)) as u32)
    }

    /// The sums of `count` mappings of `mm`.
    #[inline]
    fn of(mm: MmId, count: u32) -> (u64, u128) {
        let s1 = u64::from(mm.get()) * u64::from(count);
        (s1, u128::from(s1) * u128::from(mm.get()))
    }

    /// Whether these can be sums of as many ids as they say.
    ///
    /// Whatever was removed before, what passes keeps the bounds of the sums: from `s1 * s1 <= total * s2` and
    /// `s2 <= s1 * 2^31` follows `s1 <= total * 2^31`.
    #[inline]
    fn are_sums(&self) -> bool {
        if self.total == 0 {
            return self.s1 == 0 && self.s2 == 0;
        }
        // Each id is at least 1, and its square at most 2^31 times itself.
        u64::from(self.total) <= self.s1
            && self.s2 <= u128::from(self.s1) << MmId::BITS
            && self.square() <= self.product()
    }

    /// Below 2^124.
    #[inline]
    fn square(&self) -> u128 {
        u128::from(self.s1) * u128::from(self.s1)
    }

    /// Below 2^124.
    #[inline]
    fn product(&self) -> u128 {
        u128::from(self.total) * self.s2
    }
}

/// Knows at any time whether one address space has all mappings: for any number of them, in any order, in the space of
/// two counts. Source: ours; the proof is in `docs/ownership.md`.
///
/// Keeps the sums of [`Sums`]. Under the lock, bit 63 of the word that holds S1, each change works out whether all ids
/// are equal, and the store that unlocks publishes the answer in that word's bit 62, SHARED. A peek without the lock
/// reads that bit alone: three sums read one by one may belong to different moments, and look equal when they never
/// were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerSums {}

/// `word`: S1, SHARED and LOCK.
const S1: usize = 1;
/// `word`: the low and the high half of S2.
const S2: [usize; 2] = [2, 3];
const LOCK: u32 = 63;
const SHARED: u64 = 1 << 62;

type Lock = BitSpinLock<LOCK>;

#[inline]
fn lock<'w>(words: &Words<'w>) -> &'w Lock {
    Lock::from_ref(&words.word[S1])
}

/// The sums, while the caller holds the lock whose data is `s1`.
#[inline]
fn load(words: &Words<'_>, s1: u64) -> Sums {
    let [low, high] = S2.map(|at| words.word[at].load(Ordering::Relaxed));
    Sums {
        total: words.half[TOTAL].load(Ordering::Relaxed),
        s1: s1 & !SHARED,
        s2: u128::from(high) << 64 | u128::from(low),
    }
}

/// Writes T and S2, and returns the word that unlocks.
#[inline]
fn store(words: &Words<'_>, sums: &Sums) -> u64 {
    words.half[TOTAL].store(sums.total, Ordering::Relaxed);
    words.word[S2[0]].store(sums.s2 as u64, Ordering::Relaxed);
    words.word[S2[1]].store((sums.s2 >> 64) as u64, Ordering::Relaxed);
    sums.s1 | if sums.mapped_shared() { SHARED } else { 0 }
}

/// Changes the sums under the lock; not at all if `change` fails.
#[inline]
fn update<R>(
    words: &Words<'_>,
    change: impl FnOnce(&mut Sums) -> Result<R, MapError>,
) -> Result<R, MapError> {
    let mut guard = lock(words).lock();
    let mut sums = load(words, guard.data());
    let result = change(&mut sums)?;
    guard.set_data(store(words, &sums));
    Ok(result)
}

impl PowerSums {
    /// The sums at this moment. Takes the lock.
    #[must_use]
    pub fn state(words: &Words<'_>) -> Sums {
        let guard = lock(words).lock();
        load(words, guard.data())
    }
}

impl sealed::Sealed for PowerSums {}

impl Tracker for PowerSums {
    const NAME: &'static str = "PowerSums";
    const SPARE_WORD: usize = 0;

    #[inline]
    fn start(words: &Words<'_>, mm: MmId, count: u32) {
        let (s1, s2) = Sums::of(mm, count);
        let word = store(words, &Sums { total: count, s1, s2 });
        words.word[S1].store(word, Ordering::Relaxed);
    }

    #[inline]
    fn add(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        update(words, |sums| sums.add(mm, count))
    }

    #[inline]
    fn remove(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        update(words, |sums| sums.remove(mm, count))
    }

    #[inline]
    fn add_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        update(words, |sums| one_more_entire(words, || sums.add(mm, 1)))
    }

    #[inline]
    fn remove_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        mutant!(
            "entire-outside-the-lock",
            update(words, |sums| one_entire_fewer(words, || sums.remove(mm, 1))),
            one_entire_fewer_unlocked(words, || Self::remove(words, mm, 1))
        )
    }

    fn remap(words: &Words<'_>, mm: MmId, adding: u32) -> Result<(u32, bool), MapError> {
        update(words, |sums| {
            one_entire_fewer(words, || {
                // What is removed must have been there before.
                { *sums }.remove(mm, 1)?;
                sums.add(mm, adding)?;
                sums.remove(mm, 1)
            })
        })
    }

    #[inline]
    fn maybe_mapped_shared(words: &Words<'_>) -> bool {
        mutant!("sums-peek-at-the-sums", lock(words).peek() & SHARED != 0, {
            load(words, lock(words).peek()).mapped_shared()
        })
    }

    #[inline]
    fn sole_user(words: &Words<'_>, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why> {
        let guard = lock(words).lock();
        if mutant!("cow-shared-not-rechecked", guard.data() & SHARED != 0, false) {
            return Err(Why::Shared);
        }
        compare(words.half[TOTAL].load(Ordering::Relaxed), held, references())
    }

    fn sole_owner(words: &Words<'_>) -> Option<MmId> {
        Self::state(words).owner()
    }
}
