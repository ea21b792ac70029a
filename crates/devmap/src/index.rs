// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pagemap a folio belongs to, in its head.

use core::fmt;
use core::num::NonZeroU32;

/// The name of a registered pagemap, in descriptors instead of a pointer.
///
/// It stands in word [`HEAD_WORD`](Self::HEAD_WORD) of the [owner's](mmkit_page::Folio::owner_words) of the head of each folio that was made of the pagemap's
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

    /// The name as it stands in a head.
    #[cfg(feature = "alloc")]
    pub(crate) const fn word(self) -> u64 {
        self.0.get() as u64
    }

    /// What stands in a head.
    #[cfg(feature = "alloc")]
    pub(crate) fn of_word(word: u64) -> Option<Self> {
        u32::try_from(word).ok().and_then(NonZeroU32::new).map(Self)
    }
}

impl fmt::Debug for PagemapIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pagemap {}", self.0)
    }
}
