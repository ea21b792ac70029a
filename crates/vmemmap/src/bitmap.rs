// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bitmaps in atomic words.

use core::ops::Range;

use mmkit_frame::Word;
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

/// What bitmaps are made of: words of frames; in models, words of the model checker.
pub(crate) trait Bits {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, bits: u64, order: Ordering);
}

impl Bits for Word {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Word::load(self, order)
    }

    fn store(&self, bits: u64, order: Ordering) {
        Word::store(self, bits, order);
    }
}

#[cfg(mmkit_loom)]
impl Bits for mmkit_sync::atomic::AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    fn store(&self, bits: u64, order: Ordering) {
        Self::store(self, bits, order);
    }
}

/// A bitmap that one thread at a time changes, under the memory map's lock, and anyone reads.
pub(crate) struct Bitmap<'a, W = Word>(pub(crate) &'a [W]);

impl<W> Clone for Bitmap<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Bitmap<'_, W> {}

impl<W: Bits> Bitmap<'_, W> {
    /// Whether bit `index` is set. Acquire: pairs with the Release of [`set`](Self::set).
    #[inline]
    pub(crate) fn contains(self, index: u32) -> bool {
        let Some(word) = self.0.get((index / 64) as usize) else { return false };
        // Acquire: pairs with the Release of `set`: what was written before the bit was set is seen.
        let order = mutant!("bitmap-contains-relaxed", Ordering::Acquire, Ordering::Relaxed);
        word.load(order) >> (index % 64) & 1 != 0
    }

    /// Sets `bits`, the highest first as far as they are in different words: who finds one finds those above it. Release:
    /// pairs with the Acquire of [`contains`](Self::contains).
    pub(crate) fn set(self, bits: Range<u32>) {
        self.change(bits, |word, mask| word | mask);
    }

    /// Clears `bits`.
    pub(crate) fn clear(self, bits: Range<u32>) {
        self.change(bits, |word, mask| word & !mask);
    }

    /// Whether no bit is set.
    pub(crate) fn is_empty(self) -> bool {
        self.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// The first of `bits` that is set, if one is.
    pub(crate) fn first_set(self, bits: Range<u32>) -> Option<u32> {
        bits.into_iter().find(|&bit| self.contains(bit))
    }

    /// The first of `bits` that is clear, if one is.
    pub(crate) fn first_clear(self, bits: Range<u32>) -> Option<u32> {
        bits.into_iter().find(|&bit| !self.contains(bit))
    }

    fn change(self, bits: Range<u32>, new: impl Fn(u64, u64) -> u64) {
        for (word, mask) in self.masks(bits) {
            // Not a read-modify-write: the lock keeps other writers out.
            let value = new(word.load(Ordering::Relaxed), mask);
            // Release: pairs with the Acquire of `contains`.
            let order = mutant!("bitmap-set-relaxed", Ordering::Release, Ordering::Relaxed);
            word.store(value, order);
        }
    }

    /// The words that `bits` touch, with the bits in each, from the last word down.
    fn masks(&self, bits: Range<u32>) -> impl Iterator<Item = (&W, u64)> {
        self.0.iter().enumerate().rev().map(|(index, word)| (word, index as u32 * 64)).filter_map(
            move |(word, first)| {
                let start = bits.start.max(first);
                let end = bits.end.min(first + 64);
                (start < end).then(|| (word, (u64::MAX >> (64 - (end - start))) << (start - first)))
            },
        )
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use core::cell::RefCell;
    use std::vec::Vec;

    use super::*;

    /// A word that says when it is written.
    struct Logged<'a>(u64, &'a RefCell<Vec<u64>>);

    impl Bits for Logged<'_> {
        fn load(&self, _: Ordering) -> u64 {
            0
        }

        fn store(&self, _: u64, _: Ordering) {
            self.1.borrow_mut().push(self.0);
        }
    }

    /// A compound's head appears when the rest of it is there, in a section whose bits need several words.
    #[test]
    fn the_first_bits_appear_last() {
        let log = RefCell::default();
        let words: Vec<_> = (0..4).map(|number| Logged(number, &log)).collect();
        Bitmap(&words).set(10..256);
        assert_eq!(log.take(), [3, 2, 1, 0]);
    }

    #[test]
    fn ranges_cross_words() {
        let words = [const { Word::new(0) }; 4];
        let bitmap = Bitmap(&words);
        bitmap.set(60..200);
        assert_eq!((bitmap.first_set(0..256), bitmap.first_clear(60..256)), (Some(60), Some(200)));
        assert!(!bitmap.contains(59) && bitmap.contains(60) && bitmap.contains(199) && !bitmap.contains(200));
        bitmap.clear(0..64);
        assert_eq!(bitmap.first_set(0..256), Some(64));
        bitmap.clear(64..256);
        assert!(bitmap.is_empty());
        assert!(!bitmap.contains(4096));
    }
}
