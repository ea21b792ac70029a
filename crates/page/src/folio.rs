// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holding a reference.

use core::fmt;
use core::mem;

use mmkit_addr::Pfn;
use mmkit_sync::atomic::Ordering;
use mmkit_sync::{Put, mutant};

use crate::block::{Block, tell};
use crate::{Frozen, GetError, MemMap, PageFlags};

/// One reference on a folio: a frame, or a block of them that is referenced as one. Linux: `struct folio`.
///
/// While it exists the folio is not freed, merged or split, and its descriptors stay in the memory map. Dropping it
/// gives the reference back; the last one to go hands the folio to [`MemMap::release`].
///
/// A folio that was given back cannot be used:
///
/// ```compile_fail,E0382
/// # use mmkit_page::{Folio, MemMap};
/// fn stale<M: MemMap>(folio: Folio<'_, M>) {
///     drop(folio);
///     let _ = folio.order();
/// }
/// ```
///
/// Nor can one that was frozen:
///
/// ```compile_fail,E0382
/// # use mmkit_page::{Folio, MemMap, PageFlags};
/// fn frozen<M: MemMap>(folio: Folio<'_, M>) {
///     let _frozen = folio.freeze();
///     folio.insert(PageFlags::DIRTY);
/// }
/// ```
///
/// A reference cannot outlive its map:
///
/// ```compile_fail,E0597
/// # use mmkit_page::{Folio, MemMap, Page, SliceMap};
/// # use mmkit_addr::Pfn;
/// let mut pages = [const { Page::new() }; 1];
/// let folio = {
///     let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
///     map.try_get(Pfn::ZERO)
/// };
/// drop(folio);
/// ```
///
/// And a reference gives no right to the words that belong to the allocator, or to take a compound apart:
///
/// ```compile_fail,E0599
/// # use mmkit_page::{Folio, MemMap};
/// fn take_apart<M: MemMap>(folio: Folio<'_, M>) {
///     let _ = folio.unprep();
/// }
/// ```
#[must_use = "dropping a folio gives its reference back"]
pub struct Folio<'m, M: MemMap> {
    block: Block<'m, M>,
}

tell!(Folio);

impl<'m, M: MemMap> Folio<'m, M> {
    /// For a reference that was just taken.
    pub(crate) fn new(block: Block<'m, M>) -> Self {
        Self { block }
    }

    /// References at this moment, this one included. A hint: others come and go.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.block.page().info.load().count
    }

    /// The flags at this moment.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        self.block.flags()
    }

    /// Where the head's descriptor is: for memory maps, which tell by it whether the folio is theirs.
    #[must_use]
    pub fn descriptor(&self) -> core::ptr::NonNull<crate::Page> {
        self.block.descriptor()
    }

    /// Sets `flags`, and returns those that were set before. Bits without a name are ignored, and so is [`PageFlags::ZERO`].
    ///
    /// Cost: one `fetch_or`. Relaxed: a flag publishes nothing by itself.
    pub fn insert(&self, flags: PageFlags) -> PageFlags {
        let page = self.block.page();
        page.written();
        PageFlags::from_bits_truncate(page.flags.fetch_or(flags.settable(), Ordering::Relaxed))
    }

    /// Clears `flags`, and returns those that were set before. Bits without a name are ignored, and so is [`PageFlags::ZERO`].
    ///
    /// Cost: one `fetch_and`. Relaxed: a flag publishes nothing by itself.
    pub fn remove(&self, flags: PageFlags) -> PageFlags {
        let page = self.block.page();
        page.written();
        PageFlags::from_bits_truncate(page.flags.fetch_and(!flags.settable(), Ordering::Relaxed))
    }

    /// Takes one more reference. Linux: `folio_get`.
    ///
    /// # Errors
    ///
    /// [`GetError::Overflow`] at the limit of `i32::MAX` references.
    ///
    /// Cost: one compare-exchange, Relaxed: whoever may call this already sees the folio.
    pub fn try_clone(&self) -> Result<Self, GetError> {
        let info = &self.block.page().info;
        match info.get(1) {
            Ok(_) => {
                self.block.page().written();
                Ok(Self { block: self.block })
            }
            Err(_) => Err(GetError::Overflow { pfn: self.pfn(), count: self.count() }),
        }
    }

    /// Gives the reference back. The last one returns the folio, frozen. Linux: `folio_put_testzero`.
    ///
    /// Cost: one `fetch_sub`, of Release ordering, and on the last an Acquire fence: the last holder sees what all
    /// others did to the folio before they gave it back.
    pub fn put(self) -> Option<Frozen<'m, M>> {
        let block = self.into_block();
        block.page().written();
        match block.page().info.put(1) {
            Ok(Put::Last(_)) => Some(Frozen::new(block)),
            // An underflow cannot come from handles. It leaves the count saturated: the frame leaks.
            Ok(Put::Held) | Err(_) => None,
        }
    }

    /// Takes the folio for oneself, if this is its only reference. Linux: `folio_ref_freeze(folio, 1)`.
    ///
    /// # Errors
    ///
    /// The folio itself, where others hold references too.
    ///
    /// Cost: one compare-exchange, of Acquire ordering: pairs with the Release of the references given back before.
    pub fn freeze(self) -> Result<Frozen<'m, M>, Self> {
        let info = &self.block.page().info;
        // The mutant looks, and leaves the reference for others to find.
        let frozen = mutant!(
            "page-freeze-look-only",
            info.freeze(1),
            match info.load() {
                one if one.count == 1 => Ok(one.tag),
                more => Err(more.count),
            }
        );
        match frozen {
            Ok(_) => {
                let block = self.into_block();
                block.page().written();
                Ok(Frozen::new(block))
            }
            Err(_) => Err(self),
        }
    }

    /// Forgets the handle but keeps the reference, for instance in a page table entry.
    #[must_use = "the reference leaks unless `from_raw` takes it back"]
    pub fn into_raw(self) -> Pfn {
        self.into_block().pfn
    }

    /// Takes back a reference that [`into_raw`](Self::into_raw) kept.
    ///
    /// # Safety
    ///
    /// `head` was returned by `into_raw` of a folio of the same `map`, and each call of `into_raw` is undone at most
    /// once.
    #[must_use]
    pub unsafe fn from_raw(map: &'m M, head: Pfn) -> Option<Self> {
        // SAFETY: the reference that `into_raw` kept keeps the descriptors in place.
        let block = unsafe { Block::find(map, head) }?;
        Some(Self { block })
    }

    #[inline]
    pub(crate) fn block(&self) -> &Block<'m, M> {
        &self.block
    }

    #[inline]
    pub(crate) fn into_block(self) -> Block<'m, M> {
        mem::ManuallyDrop::new(self).block
    }
}

impl<M: MemMap> Drop for Folio<'_, M> {
    fn drop(&mut self) {
        let folio = Self { block: self.block };
        if let Some(frozen) = folio.put() {
            self.block.map.release(frozen);
        }
    }
}

impl<M: MemMap> fmt::Debug for Folio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Folio({:?}, {:?}, count {})", self.pfn(), self.order(), self.count())
    }
}
