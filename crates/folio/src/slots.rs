// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two slots: exact for two address spaces, cautious for more.

use mmkit_page::Words;
use mmkit_sync::BitSpinLock;
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::tracker::{compare, sealed};
#[cfg(mmkit_loom)]
use crate::words::one_entire_fewer_unlocked;
use crate::words::{MAX, TOTAL, one_entire_fewer, one_more_entire};
use crate::{MapError, MmId, Tracker, Why};

/// What two slots know, as a value. [`TwoSlots`] keeps it in a folio's words.
///
/// A slot is an id and the number of mappings that were counted in it; it is free while both are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slots {
    total: u32,
    /// The address space of each slot, or 0.
    id: [u32; 2],
    count: [u32; 2],
    shared: bool,
}

impl Slots {
    /// T: mappings, by all.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The address space of each slot, and the mappings counted in it.
    #[must_use]
    pub fn slots(&self) -> [Option<(MmId, u32)>; 2] {
        let slot = |at: usize| Some((MmId::new(self.id[at])?, self.count[at]));
        [slot(0), slot(1)]
    }

    /// SHARED: perhaps several address spaces map the folio. It may stay set while there is one mapping only;
    /// [`maybe_mapped_shared`](Self::maybe_mapped_shared) looks at both.
    #[must_use]
    pub fn is_marked_shared(&self) -> bool {
        self.shared
    }

    /// `count` more mappings of `mm`; returns T. `limit` is the highest count of a slot: a slot that would pass it is
    /// given up (the 32-bit form has 2^15; in the 64-bit form T is exhausted first).
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`], [`MapError::Overflow`]; nothing is changed.
    #[inline]
    pub fn add(&mut self, mm: MmId, count: u32, limit: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        if count > MAX || self.total > MAX - count {
            return Err(MapError::Overflow { mappings: self.total, adding: count.into() });
        }
        self.total += count;
        let id = mm.get();
        // Each slot by its constant number: an index in a variable would send the state through memory.
        if self.id[0] == id {
            self.grow::<0>(count, limit);
        } else if self.id[1] == id {
            self.grow::<1>(count, limit);
        } else if count > limit {
            self.shared = true;
        } else if self.id[0] == 0 {
            (self.id[0], self.count[0]) = (id, count);
            // Somebody else maps it, or this one did before it had a slot.
            self.shared |= mutant!("slots-first-slot-is-alone", self.total != count, false);
        } else if self.id[1] == 0 {
            (self.id[1], self.count[1]) = (id, count);
            self.shared = true;
        }
        Ok(self.total)
    }

    /// `count` fewer mappings of `mm`; returns T.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`]; [`MapError::TooFew`]; [`MapError::NotTheirs`] where fewer mappings would be left than the
    /// slots of others count. Nothing is changed.
    #[inline]
    pub fn remove(&mut self, mm: MmId, count: u32) -> Result<u32, MapError> {
        if count == 0 {
            return Err(MapError::Empty);
        }
        let Some(left) = self.total.checked_sub(count) else {
            return Err(MapError::TooFew { mappings: self.total, removing: count });
        };
        let id = mm.get();
        let others = if self.id[0] == id {
            self.count[1]
        } else if self.id[1] == id {
            self.count[0]
        } else {
            self.count[0] + self.count[1]
        };
        if left < others {
            return Err(MapError::NotTheirs { mm, removing: count, mappings: self.total });
        }
        self.total = left;
        let keeps_slot = if self.id[0] == id {
            self.shrink::<0>(count)
        } else if self.id[1] == id {
            self.shrink::<1>(count)
        } else {
            false
        };
        if keeps_slot {
            return Ok(left);
        }
        // A slot that counts every mapping owns every mapping.
        let one = self.count[0] == left || self.count[1] == left;
        if mutant!("slots-leaver-clears-shared", one, true) {
            self.shared = false;
        }
        Ok(left)
    }

    /// Whether several address spaces may map the folio. One mapping is never shared.
    #[inline]
    #[must_use]
    pub fn maybe_mapped_shared(&self) -> bool {
        self.total > 1 && self.shared
    }

    /// Slot `AT` counts `count` more; past `limit` it is given up.
    #[inline]
    fn grow<const AT: usize>(&mut self, count: u32, limit: u32) {
        match self.count[AT].checked_add(count).filter(|&sum| sum <= limit) {
            Some(sum) => self.count[AT] = sum,
            None => {
                (self.id[AT], self.count[AT]) = (0, 0);
                self.shared = true;
            }
        }
    }

    /// Slot `AT` counts `count` fewer; at 0 it is free. Whether it is not.
    #[inline]
    fn shrink<const AT: usize>(&mut self, count: u32) -> bool {
        // Fewer than `count` where the address space had mappings before it had the slot.
        self.count[AT] = self.count[AT].saturating_sub(count);
        if self.count[AT] == 0 {
            self.id[AT] = 0;
        }
        self.count[AT] > 0
    }
}

/// Tracks two address spaces at a time, as Linux does, field for field. Linux: `CONFIG_MM_ID`.
///
/// Two slots of an id and a count, and a bit SHARED that is set when a second address space comes and cleared when one
/// slot counts every mapping. Who comes while both slots are taken is not tracked: if it stays alone, SHARED stays set
/// until nobody maps the folio. `docs/ownership.md` has the rules and what they get wrong.
///
/// The word of ids is the lock: bit 31. T and the counts are written under it; the store that unlocks publishes ids and
/// SHARED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoSlots {}

/// `word`: the counts of the slots.
const COUNTS: usize = 0;
/// `word`: the ids of the slots, LOCK and SHARED.
const IDS: usize = 1;
const LOCK: u32 = 31;
const SHARED: u64 = 1 << 63;
const ID: u64 = (1 << MmId::BITS) - 1;

type Lock = BitSpinLock<LOCK>;

#[inline]
fn lock<'w>(words: &Words<'w>) -> &'w Lock {
    Lock::from_ref(&words.word[IDS])
}

/// The state, while the caller holds the lock whose data is `ids`.
#[inline]
fn load(words: &Words<'_>, ids: u64) -> Slots {
    let counts = words.word[COUNTS].load(Ordering::Relaxed);
    Slots {
        total: words.half[TOTAL].load(Ordering::Relaxed),
        id: [(ids & ID) as u32, (ids >> 32 & ID) as u32],
        count: [counts as u32, (counts >> 32) as u32],
        shared: ids & SHARED != 0,
    }
}

#[inline]
fn ids(slots: &Slots) -> u64 {
    let shared = if slots.shared { SHARED } else { 0 };
    u64::from(slots.id[0]) | u64::from(slots.id[1]) << 32 | shared
}

/// Changes the state under the lock; not at all if `change` fails.
#[inline]
fn update<R>(
    words: &Words<'_>,
    change: impl FnOnce(&mut Slots) -> Result<R, MapError>,
) -> Result<R, MapError> {
    let mut guard = lock(words).lock();
    let mut slots = load(words, guard.data());
    let result = change(&mut slots)?;
    words.half[TOTAL].store(slots.total, Ordering::Relaxed);
    words.word[COUNTS].store(u64::from(slots.count[0]) | u64::from(slots.count[1]) << 32, Ordering::Relaxed);
    guard.set_data(ids(&slots));
    Ok(result)
}

impl TwoSlots {
    /// The state at this moment. Takes the lock.
    #[must_use]
    pub fn state(words: &Words<'_>) -> Slots {
        let guard = lock(words).lock();
        load(words, guard.data())
    }
}

impl sealed::Sealed for TwoSlots {}

impl Tracker for TwoSlots {
    const NAME: &'static str = "TwoSlots";
    const SPARE_WORD: usize = 2;

    #[inline]
    fn start(words: &Words<'_>, mm: MmId, count: u32) {
        words.half[TOTAL].store(count, Ordering::Relaxed);
        words.word[COUNTS].store(count.into(), Ordering::Relaxed);
        words.word[IDS].store(mm.get().into(), Ordering::Relaxed);
    }

    #[inline]
    fn add(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        update(words, |slots| slots.add(mm, count, MAX))
    }

    #[inline]
    fn remove(words: &Words<'_>, mm: MmId, count: u32) -> Result<u32, MapError> {
        update(words, |slots| slots.remove(mm, count))
    }

    #[inline]
    fn add_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        update(words, |slots| one_more_entire(words, || slots.add(mm, 1, MAX)))
    }

    #[inline]
    fn remove_entire(words: &Words<'_>, mm: MmId) -> Result<(u32, bool), MapError> {
        mutant!(
            "entire-outside-the-lock",
            update(words, |slots| one_entire_fewer(words, || slots.remove(mm, 1))),
            one_entire_fewer_unlocked(words, || Self::remove(words, mm, 1))
        )
    }

    fn remap(words: &Words<'_>, mm: MmId, adding: u32) -> Result<(u32, bool), MapError> {
        update(words, |slots| {
            one_entire_fewer(words, || {
                // What is removed must have been there before.
                { *slots }.remove(mm, 1)?;
                slots.add(mm, adding, MAX)?;
                slots.remove(mm, 1)
            })
        })
    }

    #[inline]
    fn maybe_mapped_shared(words: &Words<'_>) -> bool {
        words.half[TOTAL].load(Ordering::Relaxed) > 1 && lock(words).peek() & SHARED != 0
    }

    #[inline]
    fn sole_user(words: &Words<'_>, held: u32, references: impl FnOnce() -> u32) -> Result<(), Why> {
        let guard = lock(words).lock();
        let slots = load(words, guard.data());
        if mutant!("cow-shared-not-rechecked", slots.shared, false) {
            return Err(Why::Shared);
        }
        compare(slots.total, held, references())
    }

    fn sole_owner(words: &Words<'_>) -> Option<MmId> {
        let slots = Self::state(words);
        let slot = slots.count.iter().position(|&count| count == slots.total)?;
        MmId::new(slots.id[slot])
    }
}
