// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reference count with a tag, in one word.

mod error;
mod word;

pub use error::{GetError, Underflow};
pub use word::Counted;

use word::Word;

use crate::atomic::{Ordering, fence};
use crate::mutant;

/// A reference count of 32 bits and a *tag* of 32 bits in one atomic word, for objects that are found without a reference.
///
/// # States
///
/// | count (bits 63..32) | means | who may write |
/// |---|---|---|
/// | 0 | no references: free, frozen, or not an object of its own | its unique owner, if it has one |
/// | 1 ..= [`MAX`](Self::MAX) | so many references | holders of references; [`try_get`](Self::try_get) |
/// | above | saturated after more puts than gets: refuses gets, is never freed | nobody |
///
/// The tag (bits 31..0) says what the object is. Counting never changes it, so that one compare-exchange of a get
/// checks identity and count together: a reference is never taken on something that has become something else.
///
/// # Looking up without a reference
///
/// The word may live where the processor refuses writes, and even a *failing* read-modify-write is a write to it. So
/// [`try_get`](Self::try_get) looks first and writes only on a count above 0 and an accepted tag. The count may still
/// drop to 0 between the look and the write. Whoever makes a frozen word read-only must therefore first wait for lookups
/// in flight ([`ReadSide::synchronize`](crate::ReadSide::synchronize)).
///
/// # What it does not do
///
/// Every method is safe, as on any atomic. A type whose memory safety rests on the count keeps it private and
/// gives out guards. Handing out a count of 0 (from [`freeze`](Self::freeze), or [`Put::Last`]) is what makes an owner unique.
///
/// Zeroed memory is a count of 0 with tag 0.
///
/// Source: ours; the operations are those of Linux' `folio_try_get`, `folio_put_testzero`, `folio_ref_freeze` and
/// `folio_ref_unfreeze`, the saturation that of `refcount_t`.
///
/// ```
/// use mmkit_sync::{GetError, Put, RefCount};
///
/// let count = RefCount::new(1, 7);
/// assert_eq!(count.try_get(2, |tag| tag == 7), Ok(7));
/// assert_eq!(count.put(2), Ok(Put::Held));
/// assert_eq!(count.put(1), Ok(Put::Last(7)));
/// assert_eq!(count.try_get(1, |_| true), Err(GetError::Zero));
/// ```
#[cfg_attr(not(mmkit_loom), repr(transparent))]
pub struct RefCount(Word);

/// What a [`put`](RefCount::put) left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "whoever drops the last reference frees the object"]
pub enum Put {
    /// References remain.
    Held,
    /// It was the last reference: the count is 0, the object, with this tag, is the caller's alone.
    Last(u32),
}

impl RefCount {
    /// The highest count: 2^31 - 1.
    pub const MAX: u32 = i32::MAX as u32;

    /// What a count that underflowed is set to: half-way between the highest count and 0, far from both.
    pub const SATURATED: u32 = 0xC000_0000;

    /// Puts of at most so many references are one subtraction; larger ones compare and exchange. It bounds how far
    /// subtractions in flight can carry a count before it is saturated: 2^13 of them stay clear of [`MAX`](Self::MAX).
    const STEP: u32 = 1 << 16;

    const_unless_loom! {
        /// A word with `count` references and `tag`.
        #[must_use]
        pub fn new(count: u32, tag: u32) -> Self {
            Self(Word::new(Counted { count, tag }.raw()))
        }
    }

    /// Count and tag now: a snapshot, relaxed.
    #[inline]
    #[must_use]
    pub fn load(&self) -> Counted {
        Counted::from_raw(self.raw())
    }

    /// The same, and everything that happened before the word was published is visible.
    ///
    /// A relaxed load and an acquire fence: all that may be done to read-only memory.
    #[inline]
    #[must_use]
    pub fn load_acquire(&self) -> Counted {
        let counted = self.load();
        // Acquire: pairs with the release of `unfreeze`, `store_unique`, `set_tag`, `swap_tag` and `put`.
        fence(Ordering::Acquire);
        counted
    }

    /// The word as it is: the count in bits 63..32, the tag in bits 31..0. Relaxed.
    #[inline]
    #[must_use]
    pub fn raw(&self) -> u64 {
        self.0.load()
    }

    /// Takes `n` references if there is at least one and `accept` agrees with the tag; returns the tag.
    ///
    /// The caller needs no reference. On success everything that happened before the object was published is visible
    /// (acquire). `accept` is called at least once unless the count is 0, and again whenever the word changed meanwhile.
    /// `n == 0` takes nothing and checks everything, without writing.
    ///
    /// Cost: a load and, uncontended, one compare-exchange.
    ///
    /// # Errors
    ///
    /// A count of 0, a tag that is not accepted, or a count that would exceed [`MAX`](Self::MAX). In all three cases the word has
    /// not been written.
    #[inline]
    pub fn try_get(&self, n: u32, mut accept: impl FnMut(u32) -> bool) -> Result<u32, GetError> {
        self.try_get_some(|tag| accept(tag).then_some(n)).map(|(tag, _)| tag)
    }

    /// As [`try_get`](Self::try_get), of as many references as `amount` says for the tag; `None` refuses the tag. Returns
    /// the tag and how many.
    ///
    /// The exchange that takes the references proves that the tag still is the one that `amount` was asked about. So what
    /// the tag says of the object's size can decide about their number, and no more are ever taken than that.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get).
    #[inline]
    pub fn try_get_some(&self, mut amount: impl FnMut(u32) -> Option<u32>) -> Result<(u32, u32), GetError> {
        // Acquire: pairs with the release of `unfreeze`, `store_unique`, `set_tag` and `swap_tag`.
        let order = mutant!("refcount-try-get-relaxed", Ordering::Acquire, Ordering::Relaxed);
        self.add(&mut amount, order)
    }

    /// Takes `n` more references; the caller holds one. Relaxed: whoever holds a reference has seen the object.
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get); a count of 0 means that the caller was wrong about holding one.
    #[inline]
    pub fn get(&self, n: u32) -> Result<u32, GetError> {
        self.add(&mut |_| Some(n), Ordering::Relaxed).map(|(tag, _)| tag)
    }

    #[inline]
    fn add(
        &self,
        amount: &mut impl FnMut(u32) -> Option<u32>,
        order: Ordering,
    ) -> Result<(u32, u32), GetError> {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if count == 0 {
                return mutant!("refcount-write-at-zero", Err(GetError::Zero), {
                    self.0.touch();
                    Err(GetError::Zero)
                });
            }
            let Some(n) = amount(tag) else { return Err(GetError::Refused(tag)) };
            if count > Self::MAX || n > Self::MAX - count {
                return Err(GetError::Overflow { count, n });
            }
            if n == 0 {
                // Acquire: pairs with what the compare-exchange below would pair with.
                fence(Ordering::Acquire);
                return Ok((tag, 0));
            }
            let new = Counted { count: count + n, tag }.raw();
            // The mutants look and then add, as if nothing could happen in between.
            let done = mutant!(
                "refcount-look-then-add",
                self.0.compare_exchange(raw, new, order),
                Ok(self.0.fetch_add(u64::from(n) << 32, order))
            );
            match done {
                Ok(_) => return Ok((tag, n)),
                Err(found) => raw = found,
            }
        }
    }

    /// Drops `n` references. `n == 0` does nothing.
    ///
    /// Everything done under each reference happens before what follows the last put (release; acquire on the last).
    ///
    /// Cost: one atomic subtraction (above 65536 references, a compare-exchange).
    ///
    /// # Errors
    ///
    /// [`Underflow`] if fewer references are held. The caller's books are wrong; the count is saturated, so that the
    /// object is never freed rather than freed while in use.
    #[inline]
    pub fn put(&self, n: u32) -> Result<Put, Underflow> {
        if n == 0 {
            return Ok(Put::Held);
        }
        if n > Self::STEP {
            return self.put_many(n);
        }
        // Release: pairs with the acquire fence of the last put and the acquire of `freeze`.
        let order = mutant!("refcount-put-relaxed", Ordering::Release, Ordering::Relaxed);
        let old = Counted::from_raw(self.0.fetch_sub(u64::from(n) << 32, order));
        if old.count == n {
            // Acquire: pairs with the release of every other put.
            mutant!("refcount-last-put-no-fence", fence(Ordering::Acquire), ());
            Ok(Put::Last(old.tag))
        } else if old.count > n && old.count <= Self::MAX {
            Ok(Put::Held)
        } else {
            mutant!("refcount-no-saturation", self.saturate(), ());
            Err(Underflow { count: old.count, n })
        }
    }

    /// Exact for any `n`.
    #[cold]
    fn put_many(&self, n: u32) -> Result<Put, Underflow> {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if count < n || count > Self::MAX {
                if count != 0 {
                    // Not on a count of 0: the word is its owner's, and nothing was subtracted.
                    let saturated = Counted { count: Self::SATURATED, tag }.raw();
                    if let Err(found) = self.0.compare_exchange(raw, saturated, Ordering::Relaxed) {
                        raw = found;
                        continue;
                    }
                }
                return Err(Underflow { count, n });
            }
            let new = Counted { count: count - n, tag }.raw();
            // AcqRel: pairs with itself and with `put`, as a subtraction with its fence does.
            match self.0.compare_exchange(raw, new, Ordering::AcqRel) {
                Ok(_) => return Ok(if count == n { Put::Last(tag) } else { Put::Held }),
                Err(found) => raw = found,
            }
        }
    }

    /// After a subtraction from too small a count: makes it a count that never frees, unless an owner has already replaced it.
    #[cold]
    fn saturate(&self) {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if count <= Self::MAX || count == Self::SATURATED {
                return;
            }
            let saturated = Counted { count: Self::SATURATED, tag }.raw();
            match self.0.compare_exchange(raw, saturated, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => raw = found,
            }
        }
    }

    /// Turns exactly `expected` references, all of them the caller's, into unique ownership: the count becomes 0, the tag,
    /// which is returned, stays. Everything done under references dropped earlier is visible (acquire).
    ///
    /// # Errors
    ///
    /// The count found, if it is not `expected` or `expected` is 0 or above [`MAX`](Self::MAX); nothing has been written.
    #[inline]
    pub fn freeze(&self, expected: u32) -> Result<u32, u32> {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if count != expected || expected == 0 || expected > Self::MAX {
                return Err(count);
            }
            let frozen = Counted { count: 0, tag }.raw();
            // Acquire: pairs with the release of `put`.
            let order = mutant!("refcount-freeze-relaxed", Ordering::Acquire, Ordering::Relaxed);
            let done = mutant!("refcount-freeze-by-store", self.0.compare_exchange(raw, frozen, order), {
                self.0.store(frozen, order);
                Ok(raw)
            });
            match done {
                Ok(_) => return Ok(tag),
                Err(found) => raw = found,
            }
        }
    }

    /// Gives the frozen object back to everybody with `n` references; the tag stays. Publishes what its owner did (release).
    ///
    /// A compare-exchange, so that a caller who does not own the object changes nothing.
    ///
    /// # Errors
    ///
    /// The count found, if it is not 0, or 0 if `n` is 0 or above [`MAX`](Self::MAX); nothing has been written.
    #[inline]
    pub fn unfreeze(&self, n: u32) -> Result<(), u32> {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if count != 0 || n == 0 || n > Self::MAX {
                return Err(count);
            }
            // Release: pairs with the acquire of `try_get` and of `load_acquire`.
            let order = mutant!("refcount-unfreeze-relaxed", Ordering::Release, Ordering::Relaxed);
            match self.0.compare_exchange(raw, Counted { count: n, tag }.raw(), order) {
                Ok(_) => return Ok(()),
                Err(found) => raw = found,
            }
        }
    }

    /// Replaces the tag, whatever the count, which stays; returns the former tag. Releases and acquires.
    ///
    /// For whoever may say what the object is: its unique owner, or a holder under the user's rules.
    #[inline]
    pub fn swap_tag(&self, tag: u32) -> u32 {
        let mut raw = self.0.load();
        loop {
            let old = Counted::from_raw(raw);
            let new = Counted { count: old.count, tag }.raw();
            // AcqRel: pairs with the acquire of `try_get` and `load_acquire`, and with itself.
            match self.0.compare_exchange(raw, new, Ordering::AcqRel) {
                Ok(_) => return old.tag,
                Err(found) => raw = found,
            }
        }
    }

    /// Replaces the tag `old` by `new`, whatever the count, which stays. Releases and acquires.
    ///
    /// # Errors
    ///
    /// The tag found, if it is not `old`; nothing has been written.
    #[inline]
    pub fn set_tag(&self, old: u32, new: u32) -> Result<(), u32> {
        let mut raw = self.0.load();
        loop {
            let Counted { count, tag } = Counted::from_raw(raw);
            if tag != old {
                return Err(tag);
            }
            // AcqRel: pairs with the acquire of `try_get` and `load_acquire`, and with itself.
            match self.0.compare_exchange(raw, Counted { count, tag: new }.raw(), Ordering::AcqRel) {
                Ok(_) => return Ok(()),
                Err(found) => raw = found,
            }
        }
    }

    /// Overwrites count and tag by one plain store, which publishes what came before it (release).
    ///
    /// For a unique owner only, that is while the count is 0 and the caller is who made it so: references that others hold are
    /// forgotten.
    #[inline]
    pub fn store_unique(&self, count: u32, tag: u32) {
        // Release: pairs with the acquire of `try_get` and `load_acquire`.
        let order = mutant!("refcount-store-unique-relaxed", Ordering::Release, Ordering::Relaxed);
        self.0.store(Counted { count, tag }.raw(), order);
    }

    /// From now on (`true`) a write to the word fails the model, as one to a page mapped read-only would.
    #[cfg(mmkit_loom)]
    pub fn write_protect(&self, protect: bool) {
        self.0.write_protect(protect);
    }
}

impl core::fmt::Debug for RefCount {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.load().fmt(f)
    }
}
