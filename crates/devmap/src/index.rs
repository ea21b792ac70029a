// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pagemap a folio belongs to, in its head.

use core::fmt;
use core::num::NonZeroU32;

use mmkit_page::Words;
use mmkit_sync::atomic::Ordering;

/// The name of a registered pagemap, in descriptors instead of a pointer.
///
/// It stands in [`Words::word`]`[`[`HEAD_WORD`](Self::HEAD_WORD)`]` of the head of each folio that was made of the pagemap's
/// frames, from before its first reference is there until its last one is gone. Zero there is no pagemap. The other words of a head
/// are not used by map counts, whatever the order of the folio.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PagemapIndex(NonZeroU32);

impl PagemapIndex {
    /// Where it stands among the words of 8 bytes of a head.
    pub const HEAD_WORD: usize = 0;

    /// The name of the pagemap in slot `slot`; `None` where there are no so many.
    #[must_use]
    pub const fn of_slot(slot: usize) -> Option<Self> {
        if slot >= u32::MAX as usize {
            return None;
        }
        match NonZeroU32::new(slot as u32 + 1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its slot.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.0.get() as usize - 1
    }

    /// What the words of a head say.
    #[must_use]
    pub fn read(head: &Words<'_>) -> Option<Self> {
        // Relaxed: it was written before the folio had a reference.
        let word = head.word[Self::HEAD_WORD].load(Ordering::Relaxed);
        u32::try_from(word).ok().and_then(NonZeroU32::new).map(Self)
    }

    /// Writes it, or zero, into the words of the head of a block that is frozen.
    pub(crate) fn write(index: Option<Self>, head: &Words<'_>) {
        let word = index.map_or(0, |index| u64::from(index.0.get()));
        head.word[Self::HEAD_WORD].store(word, Ordering::Relaxed);
    }
}

impl fmt::Debug for PagemapIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pagemap {}", self.0)
    }
}
