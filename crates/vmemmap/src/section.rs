// SPDX-License-Identifier: MIT OR Apache-2.0
//! One section: which of its subsections have descriptors, and which of those share their tails.

use core::ops::Range;

use mmkit_addr::{Geometry, Pfn, PfnRange};
use mmkit_frame::Word;
use mmkit_sync::atomic::Ordering;

use crate::bitmap::Bitmap;
use crate::tails::TailKey;

/// How sections are cut, and how they lie in the frames of the section table.
///
/// A leaf has the present bitmaps of its sections, one behind the other, then their shared bitmaps, then a tag for each.
/// So the word with the present bit of a frame is found by shifting the frame number, whatever section it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// log2 of the frames of a section.
    section: u32,
    /// log2 of the frames of a subsection.
    pub(crate) subsection: u32,
    /// log2 of the 64-bit words of a frame.
    pub(crate) frame_words: u32,
    /// log2 of the sections of a leaf.
    pub(crate) leaf: u32,
    /// log2 of the frames whose present bits share a word.
    pub(crate) word: u32,
    /// log2 of the words of the present bitmaps of a leaf.
    pub(crate) leaf_words: u32,
    /// The bits of a subsection's number that count in a word.
    pub(crate) bit_mask: u32,
}

impl Shape {
    pub(crate) const fn of(geometry: &Geometry) -> Self {
        let section = geometry.section_order().get() as u32;
        Self::new(section, geometry.subsection_order().get() as u32, geometry.base_shift() - 3)
    }

    pub(crate) const fn new(section: u32, subsection: u32, frame_words: u32) -> Self {
        // A word has the bits of 64 subsections, or of all that a section has.
        let word = if section - subsection < 6 { section } else { subsection + 6 };
        let bitmap_words = 1u32 << (section - word);
        let leaf = ((1u32 << frame_words) / (2 * bitmap_words + 1)).ilog2();
        let bit_mask = (1 << (word - subsection)) - 1;
        Self { section, subsection, frame_words, leaf, word, leaf_words: leaf + (section - word), bit_mask }
    }

    /// Subsections of a section.
    #[inline]
    pub(crate) const fn subsections(self) -> u32 {
        1 << (self.section - self.subsection)
    }

    /// Words of one bitmap of an entry.
    #[inline]
    const fn bitmap_words(self) -> usize {
        1 << (self.section - self.word)
    }

    #[inline]
    pub(crate) const fn section_of(self, pfn: Pfn) -> u64 {
        pfn.get() >> self.section
    }

    #[inline]
    pub(crate) const fn subsection_of(self, pfn: Pfn) -> u32 {
        (pfn.get() >> self.subsection) as u32 & (self.subsections() - 1)
    }

    /// The sections that `range`, which is not empty, touches, first and last.
    pub(crate) const fn sections(self, range: PfnRange) -> (u64, u64) {
        (range.start().get() >> self.section, (range.end() - 1) >> self.section)
    }

    /// `range` by sections: the section's number, and which of its subsections lie in the range.
    pub(crate) fn parts(self, range: PfnRange) -> impl DoubleEndedIterator<Item = (u64, Range<u32>)> {
        let (first, last) = self.sections(range);
        (first..=last).map(move |section| {
            let base = section << self.section;
            let start = range.start().get().max(base) - base;
            let end = (range.end() - base).min(1 << self.section);
            (section, (start >> self.subsection) as u32..(end >> self.subsection) as u32)
        })
    }

    /// The first frame of a subsection.
    pub(crate) fn first_frame(self, section: u64, subsection: u32) -> Pfn {
        let number = section << self.section | u64::from(subsection) << self.subsection;
        Pfn::new(number).unwrap_or(Pfn::MAX)
    }
}

/// What the section table keeps of a section.
///
/// The tag names the tails of those subsections whose bit is set in the shared bitmap; it is 0 while none is. All words
/// are written under the memory map's lock. Lookups read the present bitmap, and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    present: &'a [Word],
    shared: &'a [Word],
    tag: &'a Word,
}

impl<'a> Section<'a> {
    /// Section number `index` of a leaf.
    pub(crate) fn of(leaf: &'a [Word], index: u64, shape: Shape) -> Option<Self> {
        let (sections, words) = (1 << shape.leaf, shape.bitmap_words());
        let index = index as usize;
        let bitmap = |number: usize| leaf.get(number * words..(number + 1) * words);
        let (present, shared) = (bitmap(index)?, bitmap(sections + index)?);
        Some(Self { present, shared, tag: leaf.get(2 * sections * words + index)? })
    }

    /// The present bitmaps of all sections of a leaf.
    pub(crate) fn all_present(leaf: &'a [Word], shape: Shape) -> Bitmap<'a> {
        Bitmap(leaf.get(..1 << shape.leaf_words).unwrap_or(&[]))
    }

    /// Subsections that have descriptors.
    pub(crate) fn present(self) -> Bitmap<'a> {
        Bitmap(self.present)
    }

    /// Subsections whose compounds share their tails.
    pub(crate) fn shared(self) -> Bitmap<'a> {
        Bitmap(self.shared)
    }

    /// Which tails the shared subsections use.
    pub(crate) fn tails(self) -> Option<TailKey> {
        TailKey::from_bits(self.tag.load(Ordering::Relaxed))
    }

    /// Says which tails the shared subsections use.
    pub(crate) fn set_tails(self, tails: Option<TailKey>) {
        self.tag.store(tails.map_or(0, TailKey::bits), Ordering::Relaxed);
    }
}
