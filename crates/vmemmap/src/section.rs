// SPDX-License-Identifier: MIT OR Apache-2.0
//! One section: which of its subsections have descriptors, and what stands behind those.

use core::ops::Range;

use mmkit_addr::{Geometry, Pfn, PfnRange};
use mmkit_frame::Word;
use mmkit_sync::atomic::Ordering;

use crate::bitmap::Bitmap;
use crate::tails::TailKey;

/// How sections are cut, and how they lie in the frames of the section table.
///
/// A leaf has the present bitmaps of its sections, one behind the other, then their marked bitmaps, then their reserved
/// bitmaps, then a word for each with tag and flags.
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
        let leaf = ((1u32 << frame_words) / (3 * bitmap_words + 1)).ilog2();
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
        let (first, end) = if range.is_empty() {
            (0, 0)
        } else {
            let (first, last) = self.sections(range);
            (first, last + 1)
        };
        (first..end).map(move |section| {
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

/// What holds for a section as a whole. All bits zero is a section of which nothing is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u64);

impl Flags {
    /// Descriptor memory was made for the whole section at boot, holes and all, and goes as a whole.
    pub(crate) const EARLY: Self = Self(1 << 56);
    /// Its frames are in the memory map's hands.
    pub(crate) const OFFLINE: Self = Self(1 << 57);
    /// All of it was populated at once, as compounds that share their tails.
    pub(crate) const WHOLE: Self = Self(1 << 58);
    /// The bits of the word that are flags.
    const MASK: u64 = Self::EARLY.0 | Self::OFFLINE.0 | Self::WHOLE.0;

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn with(self, other: Self, on: bool) -> Self {
        Self(if on { self.0 | other.0 } else { self.0 & !other.0 })
    }
}

/// A section's word: what its marked subsections are, 0 where none is marked, and beside that the [`Flags`].
///
/// | bits 62..=63 | bits 56..=58 | bits 0..=55 |
/// |---|---|---|
/// | 2 | flags | a [`TailKey`]: they share these tails |
/// | 1 | flags | a frame number: their descriptors lie in the altmap with this base |
const ALTMAP: u64 = 1 << 62;

// Neither a frame number nor a key reaches the flags.
const _: () = assert!(Pfn::MAX.get() & (ALTMAP | Flags::MASK) == 0);

/// What the section table keeps of a section.
///
/// The tag says what the subsections are whose bit is set in the marked bitmap; it is 0 while none is. A reserved
/// subsection has its descriptor memory and its marks, but is not present: its descriptors are being written. All words
/// are written under the memory map's lock. Lookups read the present bitmap, and nothing else.
#[derive(Clone, Copy)]
pub(crate) struct Section<'a> {
    present: &'a [Word],
    marked: &'a [Word],
    reserved: &'a [Word],
    /// Tag and flags.
    word: &'a Word,
}

impl<'a> Section<'a> {
    /// Section number `index` of a leaf.
    pub(crate) fn of(leaf: &'a [Word], index: u64, shape: Shape) -> Option<Self> {
        let (sections, words) = (1 << shape.leaf, shape.bitmap_words());
        let index = index as usize;
        let bitmap = |number: usize| leaf.get(number * words..(number + 1) * words);
        Some(Self {
            present: bitmap(index)?,
            marked: bitmap(sections + index)?,
            reserved: bitmap(2 * sections + index)?,
            word: leaf.get(3 * sections * words + index)?,
        })
    }

    /// The present bitmaps of all sections of a leaf.
    pub(crate) fn all_present(leaf: &'a [Word], shape: Shape) -> Bitmap<'a> {
        Bitmap(leaf.get(..1 << shape.leaf_words).unwrap_or(&[]))
    }

    /// Subsections that have descriptors.
    pub(crate) fn present(self) -> Bitmap<'a> {
        Bitmap(self.present)
    }

    /// Subsections whose compounds share their tails, where [`tails`](Self::tails) is `Some`; whose descriptors lie in an
    /// altmap, where [`altmap`](Self::altmap) is.
    pub(crate) fn shared(self) -> Bitmap<'a> {
        Bitmap(self.marked)
    }

    /// Subsections whose descriptors are being written.
    pub(crate) fn reserved(self) -> Bitmap<'a> {
        Bitmap(self.reserved)
    }

    /// Whether a subsection has descriptors, or is about to.
    pub(crate) fn is_taken(self, subsection: u32) -> bool {
        self.present().contains(subsection) || self.reserved().contains(subsection)
    }

    /// The first of `subsections` that has descriptors or is about to, if one does.
    pub(crate) fn first_taken(self, mut subsections: Range<u32>) -> Option<u32> {
        subsections.find(|&subsection| self.is_taken(subsection))
    }

    fn tag(self) -> u64 {
        self.word.load(Ordering::Relaxed) & !Flags::MASK
    }

    fn set_tag(self, tag: u64) {
        self.word.store(tag | self.flags().0, Ordering::Relaxed);
    }

    /// Which tails the marked subsections use.
    pub(crate) fn tails(self) -> Option<TailKey> {
        TailKey::from_bits(self.tag())
    }

    /// Says which tails the marked subsections use.
    pub(crate) fn set_tails(self, tails: Option<TailKey>) {
        self.set_tag(tails.map_or(0, TailKey::bits));
    }

    /// The base of the altmap that the marked subsections use.
    pub(crate) fn altmap(self) -> Option<Pfn> {
        let tag = self.tag();
        Pfn::new(tag & !ALTMAP).filter(|_| tag & ALTMAP != 0 && self.tails().is_none())
    }

    /// Says which altmap the marked subsections use.
    pub(crate) fn set_altmap(self, base: Pfn) {
        self.set_tag(ALTMAP | base.get());
    }

    pub(crate) fn flags(self) -> Flags {
        Flags(self.word.load(Ordering::Relaxed) & Flags::MASK)
    }

    pub(crate) fn set_flags(self, flags: Flags) {
        self.word.store(self.tag() | flags.0, Ordering::Relaxed);
    }

    /// Whether there is memory for the descriptors of a subsection, whether or not it is present.
    pub(crate) fn is_covered(self, subsection: u32) -> bool {
        self.is_taken(subsection)
            || self.flags().contains(Flags::EARLY)
            || self.altmap().is_some() && self.shared().contains(subsection)
    }

    /// Whether a subsection is marked, and the tag says what with `of`.
    pub(crate) fn is_marked<T>(self, subsection: u32, of: Option<T>) -> Option<T> {
        of.filter(|_| self.shared().contains(subsection))
    }
}
