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

    /// Copies all of `from`.
    pub(crate) fn copy_from(self, from: Contents<'_>) {
        for (to, from) in self.0.iter().zip(from.0) {
            to.store(from.load(Relaxed), Relaxed);
        }
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
    fn bytes_come_back_and_their_neighbours_stay() {
        let words: Vec<Word> = (0..512).map(|_| Word::new(0xaaaa_aaaa_aaaa_aaaa)).collect();
        for shared in [false, true] {
            let contents = Contents(&words);
            contents.write(13, b"hello, words", shared);
            let mut out = [0; 14];
            contents.read(12, &mut out);
            assert_eq!(&out, b"\xaahello, words\xaa");
        }
    }
}
