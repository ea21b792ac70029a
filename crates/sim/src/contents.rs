// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of frames, as words that any number of threads may access.

use mmkit_addr::Pfn;
use mmkit_folio::Mapcounts;
use mmkit_frame::{DirectMap, Word};
use mmkit_sync::atomic::Ordering::Relaxed;

use crate::arena::BYTES;
use crate::memory::Memory;

/// The words of one frame, borrowed from the memory for as long as somebody keeps the frame.
#[derive(Clone, Copy)]
pub(crate) struct Contents<'f>(&'f [Word]);

impl<'f> Contents<'f> {
    /// The contents of `pfn`.
    ///
    /// # Safety
    ///
    /// For `'f` the frame belongs to a folio that somebody holds a reference on, or is the caller's own, and the folio's bytes are accessed through
    /// this type alone.
    pub(crate) unsafe fn of<C: Mapcounts>(memory: &'f Memory<C>, pfn: Pfn) -> Option<Self> {
        let start = memory.frame(pfn)?.cast::<Word>();
        // SAFETY: a frame is initialised, aligned to its size, and valid as long as the memory; any bytes make a word; and by
        // the caller's promise all accesses are atomic ones of this size.
        Some(Self(unsafe { core::slice::from_raw_parts(start.as_ptr(), BYTES as usize / 8) }))
    }

    /// Reads bytes from `offset` on; the caller stays inside the frame.
    pub(crate) fn read(self, offset: usize, out: &mut [u8]) {
        if offset.is_multiple_of(8) && out.len().is_multiple_of(8) {
            for (word, out) in self.0[offset / 8..].iter().zip(out.as_chunks_mut().0) {
                *out = word.load(Relaxed).to_ne_bytes();
            }
            return;
        }
        let mut at = offset;
        for part in pieces(offset, out.len()) {
            let word = self.0[at / 8].load(Relaxed).to_ne_bytes();
            out[part.clone()].copy_from_slice(&word[at % 8..at % 8 + part.len()]);
            at += part.len();
        }
    }

    /// Writes bytes from `offset` on; the caller stays inside the frame.
    ///
    /// Bytes that others write at the same time into the same word are kept: it is an exchange where the page is `shared`,
    /// a load and a store where nobody else can write.
    pub(crate) fn write(self, offset: usize, bytes: &[u8], shared: bool) {
        if offset.is_multiple_of(8) && bytes.len().is_multiple_of(8) {
            // Whole words, of which nothing is kept.
            for (word, bytes) in self.0[offset / 8..].iter().zip(bytes.as_chunks().0) {
                word.store(u64::from_ne_bytes(*bytes), Relaxed);
            }
            return;
        }
        let mut at = offset;
        for part in pieces(offset, bytes.len()) {
            let (cell, start, len) = (&self.0[at / 8], at % 8, part.len());
            let change = |old: u64| {
                let mut word = old.to_ne_bytes();
                word[start..start + len].copy_from_slice(&bytes[part.clone()]);
                u64::from_ne_bytes(word)
            };
            if shared {
                // It never gives up, so there is no error.
                let _ = cell.fetch_update(Relaxed, Relaxed, |old| Some(change(old)));
            } else {
                cell.store(change(cell.load(Relaxed)), Relaxed);
            }
            at += len;
        }
    }

    /// Copies all of `from`, word by word, each whole and in no order, whoever writes there meanwhile.
    ///
    /// Cost: that of copying memory that nobody else has. Linux: `copy_page`.
    pub(crate) fn copy_from(self, from: Contents<'_>) {
        copy_words(self.0, from.0);
    }
}

/// By the instruction that kernels copy pages with: on memory that is in no cache, a loop of loads and stores takes up to a third
/// longer, and who copies pages would look slower than it has to be.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn copy_words(to: &[Word], from: &[Word]) {
    // SAFETY:
    // * Valid: both point to as many words as are copied, which shared references keep there; those of `to` may be written
    //   through one, because they are atomics.
    // * No data race: each step loads one aligned quadword and stores one, which the processor does as a whole. So the block
    //   does what as many Relaxed loads and stores do, and like those in no particular order among themselves.
    // * It uses the three registers that are named, and no stack; it reads the direction flag, which is clear, and writes none.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            inout("rcx") to.len().min(from.len()) => _,
            inout("rdi") to.as_ptr() => _,
            inout("rsi") from.as_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn copy_words(to: &[Word], from: &[Word]) {
    for (to, from) in to.iter().zip(from) {
        to.store(from.load(Relaxed), Relaxed);
    }
}

/// `0..len` cut where `offset + i` is a multiple of 8.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = core::ops::Range<usize>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let start = done;
        done = len.min((offset + start) / 8 * 8 + 8 - offset);
        (start < done).then_some(start..done)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn pieces_end_at_words() {
        let all = |offset, len| pieces(offset, len).collect::<Vec<_>>();
        assert_eq!(all(0, 16), [0..8, 8..16]);
        assert_eq!(all(5, 2), vec![0..2usize; 1]);
        assert_eq!(all(5, 12), [0..3, 3..11, 11..12]);
        assert_eq!(all(8, 0), []);
    }

    #[test]
    fn a_copy_is_of_every_word_and_of_no_other() {
        let words: Vec<Word> = (0..1536).map(|nth| Word::new(nth * 0x0101_0101)).collect();
        let [before, page, after] = [0, 512, 1024].map(|start| Contents(&words[start..start + 512]));
        let from: Vec<Word> = (0..512_u64).map(|nth| Word::new(!nth)).collect();
        page.copy_from(Contents(&from));
        let is = |words: &[Word], value: &dyn Fn(u64) -> u64| {
            words.iter().zip(0..).all(|(word, nth)| word.load(Relaxed) == value(nth))
        };
        assert!(is(page.0, &|nth| !nth) && is(&from, &|nth| !nth));
        assert!(is(before.0, &|nth| nth * 0x0101_0101));
        assert!(is(after.0, &|nth| (nth + 1024) * 0x0101_0101));
    }

    /// No half of a word is ever copied without the other.
    #[test]
    fn words_that_others_write_are_copied_whole() {
        let [from, to] = [(); 2].map(|()| (0..512).map(|_| Word::new(0)).collect::<Vec<_>>());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = 0_u64;
                while !done.load(Relaxed) {
                    value = value.wrapping_add(0x0000_0001_0000_0001);
                    from.iter().for_each(|word| word.store(value, Relaxed));
                }
            });
            while from[511].load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            let mut torn = 0;
            for _ in 0..2000 {
                Contents(&to).copy_from(Contents(&from));
                let halves =
                    to.iter().map(|word| word.load(Relaxed)).map(|word| (word >> 32, word & 0xffff_ffff));
                torn += halves.filter(|(high, low)| high != low).count();
            }
            done.store(true, Relaxed);
            assert_eq!(torn, 0);
        });
    }

    #[test]
    fn bytes_come_back_and_their_neighbours_stay() {
        let words: Vec<Word> = (0..512).map(|_| Word::new(0xaaaa_aaaa_aaaa_aaaa)).collect();
        for shared in [false, true] {
            let contents = Contents(&words);
            contents.write(13, b"hello, words", shared);
            contents.write(32, b"two words, whole", shared);
            let mut out = [0; 14];
            contents.read(12, &mut out);
            assert_eq!(&out, b"\xaahello, words\xaa");
            let mut out = [0; 24];
            contents.read(32, &mut out);
            assert_eq!(&out, b"two words, whole\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa");
        }
    }
}
