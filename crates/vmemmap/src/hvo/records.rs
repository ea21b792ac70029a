// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of frames that need no memory: they are kept in the frames themselves.

use core::sync::atomic::Ordering;

use mmkit_addr::Pfn;
use mmkit_frame::{DirectMap, FrameAllocator, Frames, Word};
use mmkit_page::OWN_DESCRIPTORS;

use crate::{Removed, Taken};

/// A stack of runs of frames: what was taken from behind pages and waits for a flush, or what is to be put there.
///
/// Records are kept in *chunks*, in the order in which they were pushed, so that going through them reads memory in order.
/// A chunk is a frame of the run that was pushed when the last chunk was full; so it is the last of its chunk to be taken
/// off, and the frame is empty then. Where it holds descriptors that stale translations may still lead to, the words
/// used are words of tails that nobody reads to decide anything, and nobody writes: not those of the first four
/// descriptors, which may be a compound's own. They are zero in every tail, and zero again when a record is taken off.
///
/// | descriptor of the chunk | its last four words |
/// |---|---|
/// | 4, 5, .. | a record: first frame, first page, pages, frame number plus one of the table that names the frames, if one does |
/// | the last | frame number plus one of the chunk below, records in that, 0, 0 |
#[derive(Debug, Default)]
pub(crate) struct Records {
    chunk: Option<Pfn>,
    /// Records in the chunk.
    count: u64,
}

/// A chunk, as its words.
#[derive(Clone, Copy)]
struct Chunk<'a>(&'a [Word]);

impl<'a> Chunk<'a> {
    /// The chunk in a frame.
    fn of<A: FrameAllocator, D: DirectMap>(frames: &'a Frames<A, D>, pfn: Pfn) -> Option<Self> {
        // SAFETY: frames in a list are the memory map's own, taken from its allocator and not given back before they
        // leave the list; whoever still reads them through stale translations does so by atomics.
        unsafe { frames.words(pfn) }.map(Self)
    }

    /// Records that a chunk has room for.
    fn room(self) -> u64 {
        (self.0.len() / Records::WORDS) as u64 - OWN_DESCRIPTORS - 1
    }

    /// The last four words of descriptor `nth`.
    fn words(self, nth: u64) -> Option<[&'a Word; 4]> {
        let at = (nth as usize + 1) * Records::WORDS;
        match self.0.get(at - 4..at)? {
            [a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    fn record(self, index: u64) -> Option<[&'a Word; 4]> {
        self.words(OWN_DESCRIPTORS + index)
    }

    fn link(self) -> Option<[&'a Word; 4]> {
        self.words((self.0.len() / Records::WORDS) as u64 - 1)
    }
}

impl Records {
    /// Words of a descriptor.
    const WORDS: usize = 8;
    /// Bits of the number of records in a chunk: a frame of 64 KiB has 1024 descriptors.
    const COUNT_BITS: u32 = 11;

    /// The stack that a word names: see [`word`](Self::word).
    pub(crate) fn from_word(word: u64) -> Self {
        let chunk = (word >> Self::COUNT_BITS).checked_sub(1).and_then(Pfn::new);
        Self { chunk, count: word & ((1 << Self::COUNT_BITS) - 1) }
    }

    /// The stack as a word, to be kept by somebody else.
    pub(crate) fn word(&self) -> u64 {
        self.chunk.map_or(0, |chunk| (chunk.get() + 1) << Self::COUNT_BITS | self.count)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunk.is_none()
    }

    /// Puts a run on the stack. One without frames is forgotten.
    pub(crate) fn push<A: FrameAllocator, D: DirectMap>(&mut self, frames: &Frames<A, D>, removed: Removed) {
        let (first, table) = match removed.what {
            Taken::Own { first } => (first, 0),
            Taken::Table { first, table } => (first, table.get() + 1),
            Taken::Tails => return,
        };
        let chunk = self.chunk.and_then(|chunk| Chunk::of(frames, chunk));
        let chunk = match chunk.filter(|chunk| self.count < chunk.room()) {
            Some(chunk) => chunk,
            None => {
                let Some(chunk) = Chunk::of(frames, first) else { return };
                if let Some([below, count, ..]) = chunk.link() {
                    below.store(self.chunk.map_or(0, |below| below.get() + 1), Ordering::Relaxed);
                    count.store(self.count, Ordering::Relaxed);
                }
                *self = Self { chunk: Some(first), count: 0 };
                chunk
            }
        };
        if let Some(words) = chunk.record(self.count) {
            for (word, value) in words.into_iter().zip([first.get(), removed.page, removed.pages, table]) {
                word.store(value, Ordering::Relaxed);
            }
        }
        self.count += 1;
    }

    /// Takes the run on top off the stack. Its frames are again what they were.
    pub(crate) fn pop<A: FrameAllocator, D: DirectMap>(&mut self, frames: &Frames<A, D>) -> Option<Removed> {
        self.take(frames, true)
    }

    /// Takes the run on top off the stack, for good: none of the frames in it is used for descriptors again.
    pub(crate) fn pop_last<A: FrameAllocator, D: DirectMap>(
        &mut self,
        frames: &Frames<A, D>,
    ) -> Option<Removed> {
        self.take(frames, false)
    }

    fn take<A: FrameAllocator, D: DirectMap>(
        &mut self,
        frames: &Frames<A, D>,
        clear: bool,
    ) -> Option<Removed> {
        let take = |word: &Word| {
            let value = word.load(Ordering::Relaxed);
            if clear {
                word.store(0, Ordering::Relaxed);
            }
            value
        };
        let chunk = Chunk::of(frames, self.chunk?)?;
        self.count = self.count.checked_sub(1)?;
        let [first, page, pages, table] = chunk.record(self.count)?.map(take);
        if self.count == 0 {
            let [below, count, ..] = chunk.link()?;
            let below = take(below).checked_sub(1).and_then(Pfn::new);
            *self = Self { chunk: below, count: take(count) };
        }
        let first = Pfn::new(first)?;
        let what = match table.checked_sub(1).and_then(Pfn::new) {
            Some(table) => Taken::Table { first, table },
            None => Taken::Own { first },
        };
        Some(Removed { page, pages, what })
    }

    /// Puts `count` frames from `first` on on the stack, which stood behind no page.
    pub(crate) fn push_run<A: FrameAllocator, D: DirectMap>(
        &mut self,
        frames: &Frames<A, D>,
        first: Pfn,
        count: u64,
    ) {
        self.push(frames, Removed { page: 0, pages: count, what: Taken::Own { first } });
    }

    /// Takes at most `count` frames of the run on top: the last of them.
    pub(crate) fn pop_run<A: FrameAllocator, D: DirectMap>(
        &mut self,
        frames: &Frames<A, D>,
        count: u64,
    ) -> Option<(Pfn, u64)> {
        let Removed { page, pages, what } = self.pop(frames)?;
        let Taken::Own { first } = what else { return None };
        let rest = pages.saturating_sub(count);
        if rest > 0 {
            self.push(frames, Removed { page, pages: rest, what: Taken::Own { first } });
        }
        Some((first.checked_add(rest)?, pages - rest))
    }
}
