// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving out ids, and taking them back.

use core::fmt;

use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::mutant;

use crate::MmId;

/// An allocator of [`MmId`]s: one bit for each, in memory of the caller's. Linux: the `mm_id` ida.
///
/// Any number of threads may use it at once. An id that was given back is given out again, so it must be given back
/// only after the *last* mapping that was counted under it is gone. Only its [guard](MmIdGuard) gives an id back, by being
/// dropped: while there is a guard, nobody else gets the id.
///
/// ```
/// use mmkit_folio::MmIds;
/// use mmkit_sync::atomic::AtomicU64;
///
/// let mut memory = [const { AtomicU64::new(0) }; MmIds::words(100)];
/// let ids = MmIds::new(&mut memory);
/// let (a, b) = (ids.take()?, ids.take()?);
/// assert_eq!((a.id().get(), b.id().get()), (1, 2));
/// drop(a);
/// assert_eq!(ids.take()?.id().get(), 1);
/// # Ok::<(), mmkit_folio::IdsExhausted>(())
/// ```
pub struct MmIds<'a> {
    /// Bit `i` of word `w` is set while id `64 * w + i + 1` is taken.
    taken: &'a [AtomicU64],
}

impl<'a> MmIds<'a> {
    /// Words that `ids` ids need.
    #[must_use]
    pub const fn words(ids: u32) -> usize {
        ids.div_ceil(u64::BITS) as usize
    }

    /// An allocator of ids `1..=64 * memory.len()`, none of them taken; what `memory` held is overwritten.
    #[must_use]
    pub fn new(memory: &'a mut [AtomicU64]) -> Self {
        for word in &mut *memory {
            *word = AtomicU64::new(0);
        }
        Self { taken: memory }
    }

    /// The number of ids, taken or not.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        let bits = self.taken.len() as u64 * u64::from(u64::BITS);
        bits.min(u64::from(MmId::MAX.get())) as u32
    }

    /// Takes the smallest id that is seen free. A smaller one may be given back while this looks.
    ///
    /// Everything done under the id before it was given back happens before what follows.
    ///
    /// # Errors
    ///
    /// [`IdsExhausted`] where each id was found taken.
    ///
    /// Cost: a load for each 64 ids that are taken, and one `fetch_or` (more, if others take ids at the same time).
    pub fn take(&self) -> Result<MmIdGuard<'_>, IdsExhausted> {
        let capacity = self.capacity();
        for (at, word) in self.taken.iter().enumerate() {
            let mut seen = word.load(Ordering::Relaxed);
            while seen != u64::MAX {
                let free = seen.trailing_ones();
                let Some(id) = (at as u64 * 64 + u64::from(free) + 1).try_into().ok().and_then(MmId::new)
                else {
                    // The last word of a map of all ids has a bit too many.
                    return Err(IdsExhausted { capacity });
                };
                // Acquire: pairs with the Release of `clear`.
                let order = mutant!("ids-take-relaxed", Ordering::Acquire, Ordering::Relaxed);
                let before = mutant!("ids-load-then-store", word.fetch_or(1 << free, order), {
                    word.store(seen | 1 << free, Ordering::Relaxed);
                    seen
                });
                if before & 1 << free == 0 {
                    return Ok(MmIdGuard { ids: self, id });
                }
                seen = before;
            }
        }
        Err(IdsExhausted { capacity })
    }

    /// Clears the bit of an id whose guard goes. Guards alone give ids back, each its own, once.
    fn clear(&self, id: MmId) {
        let bit = u64::from(id.get() - 1);
        let Some(word) = self.taken.get((bit / 64) as usize) else { return };
        let mask: u64 = 1 << (bit % 64);
        // Release: pairs with the Acquire of `take`.
        let order = mutant!("ids-give-back-relaxed", Ordering::Release, Ordering::Relaxed);
        mutant!("ids-give-back-store", word.fetch_and(!mask, order), {
            let before = word.load(Ordering::Relaxed);
            word.store(before & !mask, order);
            before
        });
    }
}

impl fmt::Debug for MmIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken: u32 = self.taken.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        f.debug_struct("MmIds").field("taken", &taken).field("capacity", &self.capacity()).finish()
    }
}

/// An id that is taken. Dropping it gives the id back.
///
/// Drop it after the last mapping of its address space is gone (Linux: the last `mmdrop`, after `exit_mmap`). If it is
/// dropped earlier, the next address space gets the same id, and all trackers take the two for one: a folio that both
/// map is said to be exclusive, and one is shown what the other writes. Nothing in this crate can notice.
///
/// ```compile_fail,E0505
/// # use mmkit_folio::MmIds;
/// fn outlive(ids: MmIds<'_>) {
///     let guard = ids.take().unwrap();
///     drop(ids); // the id would have nowhere to go back to
///     drop(guard);
/// }
/// ```
#[must_use = "the id is given back when this is dropped"]
pub struct MmIdGuard<'i> {
    ids: &'i MmIds<'i>,
    id: MmId,
}

impl MmIdGuard<'_> {
    /// The id.
    #[must_use]
    pub fn id(&self) -> MmId {
        self.id
    }

    /// Keeps the id for good: it is never given out again. For an address space whose mappings could not all be removed.
    pub fn keep(self) -> MmId {
        core::mem::ManuallyDrop::new(self).id
    }
}

impl Drop for MmIdGuard<'_> {
    fn drop(&mut self) {
        self.ids.clear(self.id);
    }
}

impl fmt::Debug for MmIdGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// Every id is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdsExhausted {
    /// How many there are.
    pub capacity: u32,
}

impl fmt::Display for IdsExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} ids are taken", self.capacity)
    }
}

impl core::error::Error for IdsExhausted {}
