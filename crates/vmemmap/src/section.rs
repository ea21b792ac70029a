// SPDX-License-Identifier: MIT OR Apache-2.0
//! One section: which of its subsections have descriptors, and which of those share their tails.

use core::ops::Range;

use mmkit_addr::{Geometry, Pfn, PfnRange};
use mmkit_frame::Word;
use mmkit_sync::atomic::Ordering;

use crate::bitmap::Bitmap;
use crate::tails::TailKey;

/// How sections are cut, and how they lie in the frames of the section table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// log2 of the frames of a section.
    pub(crate) section: u32,
    /// log2 of the frames of a subsection.
    pub(crate) subsection: u32,
    /// log2 of the 64-bit words of a frame.
    pub(crate) frame_words: u32,
    /// log2 of the words of a section's entry.
    pub(crate) entry_words: u32,
}

impl Shape {
    pub(crate) const fn of(geometry: &Geometry) -> Self {
        let section = geometry.section_order().get() as u32;
        let subsection = geometry.subsection_order().get() as u32;
        let bitmap = (1u32 << (section - subsection)).div_ceil(64);
        let entry_words = (1 + 2 * bitmap).next_power_of_two().trailing_zeros();
        Self { section, subsection, frame_words: geometry.base_shift() - 3, entry_words }
    }

    /// Subsections of a section.
    #[inline]
    pub(crate) const fn subsections(self) -> u32 {
        1 << (self.section - self.subsection)
    }

    /// Words of one bitmap of an entry.
    #[inline]
    const fn bitmap_words(self) -> usize {
        self.subsections().div_ceil(64) as usize
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

/// What the section table keeps of a section: `tag | present bitmap | shared bitmap`.
///
/// The tag word names the tails of those subsections whose bit is set in the shared bitmap; it is 0 while none is.
/// All words are written under the memory map's lock. Lookups read the present bitmap, and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    words: &'a [Word],
    shape: Shape,
}

impl<'a> Section<'a> {
    #[inline]
    pub(crate) fn new(words: &'a [Word], shape: Shape) -> Self {
        Self { words, shape }
    }

    /// Subsections that have descriptors.
    #[inline]
    pub(crate) fn present(self) -> Bitmap<'a> {
        self.bitmap(1)
    }

    /// Subsections whose compounds share their tails.
    pub(crate) fn shared(self) -> Bitmap<'a> {
        self.bitmap(1 + self.shape.bitmap_words())
    }

    #[inline]
    fn bitmap(self, start: usize) -> Bitmap<'a> {
        Bitmap(self.words.get(start..start + self.shape.bitmap_words()).unwrap_or(&[]))
    }

    /// Which tails the shared subsections use.
    pub(crate) fn tails(self) -> Option<TailKey> {
        TailKey::from_bits(self.words.first()?.load(Ordering::Relaxed))
    }

    /// Says which tails the shared subsections use.
    pub(crate) fn set_tails(self, tails: Option<TailKey>) {
        if let Some(tag) = self.words.first() {
            tag.store(tails.map_or(0, TailKey::bits), Ordering::Relaxed);
        }
    }
}
