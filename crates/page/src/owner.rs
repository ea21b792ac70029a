// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words of a head that belong to whoever owns the memory.

use mmkit_sync::atomic::AtomicU64;

use crate::{Folio, Frozen, MemMap, Page};

impl<M: MemMap> Folio<'_, M> {
    /// The four words of 8 bytes of the folio's first descriptor. Whoever counts mappings never uses them, in a folio of any
    /// order: they are left to the owner of the memory, for what Linux keeps in `mapping`, `index`, `private` and
    /// `pgmap`. All zero in a new folio, and lost when it becomes free.
    ///
    /// Cost: nothing is read.
    ///
    /// # Safety
    ///
    /// The caller owns the memory that the folio is: a page cache the folios that it filled, a driver those of its
    /// device. What an owner keeps here may be all that tells where the memory goes in the end.
    #[inline]
    #[must_use]
    pub unsafe fn owner_words(&self) -> &[AtomicU64; Page::WORDS] {
        self.block().page().owner_words()
    }
}

impl<M: MemMap> Frozen<'_, M> {
    /// The same words of a block that nobody has a reference to.
    ///
    /// # Safety
    ///
    /// As for [`Folio::owner_words`].
    #[inline]
    #[must_use]
    pub unsafe fn owner_words(&self) -> &[AtomicU64; Page::WORDS] {
        self.block.page().owner_words()
    }
}

impl Page {
    fn owner_words(&self) -> &[AtomicU64; Self::WORDS] {
        self.written();
        &self.word
    }
}
