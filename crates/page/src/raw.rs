// SPDX-License-Identifier: MIT OR Apache-2.0
//! References without handles, many at a time: those that page table entries stand for.

use mmkit_addr::Pfn;
use mmkit_sync::Put;
use mmkit_sync::atomic::Ordering;

use crate::block::Block;
use crate::{Folio, Frozen, GetError, MemMap};

impl<'m, M: MemMap> Folio<'m, M> {
    /// Takes `n` more references and keeps them without a handle, as `n` times [`into_raw`](Self::into_raw) of a clone
    /// would. Linux: `folio_ref_add`.
    ///
    /// They leak unless [`put_raw`](Self::put_raw) or [`from_raw`](Self::from_raw) takes them back.
    ///
    /// # Errors
    ///
    /// [`GetError::Overflow`] where the sum would pass the limit of `i32::MAX` references; nothing is changed.
    ///
    /// Cost: one compare-exchange, Relaxed, whatever `n` is.
    #[inline]
    pub fn take_raw(&self, n: u32) -> Result<(), GetError> {
        let page = self.block().page();
        if n == 0 {
            return Ok(());
        }
        match page.info.get(n) {
            Ok(_) => {
                page.written();
                Ok(())
            }
            Err(_) => Err(GetError::Overflow { pfn: self.pfn(), count: self.count() }),
        }
    }

    /// A handle for one of the references that are kept without one: [`from_raw`](Self::from_raw) where there is a handle
    /// already, without looking the folio up.
    ///
    /// # Safety
    ///
    /// A reference on this folio was kept by [`take_raw`](Self::take_raw), [`into_raw`](Self::into_raw) or
    /// [`Frozen::into_raw`], and each is taken back at most once.
    #[inline]
    pub unsafe fn adopt(&self) -> Self {
        Self::new(*self.block())
    }

    /// Gives back this reference, and `others` more that are kept without a handle. The last one returns the folio,
    /// frozen.
    ///
    /// Cost: as for [`put_raw`](Self::put_raw), without looking the folio up.
    ///
    /// # Safety
    ///
    /// As for [`adopt`](Self::adopt), of all `others`.
    #[inline]
    pub unsafe fn put_with(self, others: u32) -> Option<Frozen<'m, M>> {
        put(self.into_block(), others.saturating_add(1))
    }

    /// Gives back `n` references that are kept without a handle. The last one returns the folio, frozen. Linux:
    /// `folio_put_refs`.
    ///
    /// Cost: one atomic subtraction, Release, whatever `n` is; on the last reference an Acquire fence, as for
    /// [`put`](Self::put).
    ///
    /// # Safety
    ///
    /// `head` is the head of a folio of `map`; `n` references on it were kept by [`take_raw`](Self::take_raw),
    /// [`into_raw`](Self::into_raw) or [`Frozen::into_raw`], and each is taken back at most once.
    #[inline]
    pub unsafe fn put_raw(map: &'m M, head: Pfn, n: u32) -> Option<Frozen<'m, M>> {
        if n == 0 {
            return None;
        }
        // SAFETY: the references that were kept keep the descriptors in place.
        let block = unsafe { Block::find(map, head) }?;
        put(block, n)
    }
}

/// Gives back `n` references.
#[inline]
fn put<'m, M: MemMap>(block: Block<'m, M>, n: u32) -> Option<Frozen<'m, M>> {
    block.page().written();
    match block.page().info.put(n) {
        Ok(Put::Last(_)) => Some(Frozen::new(block)),
        // An underflow is the caller's broken promise. It leaves the count saturated: the frame leaks.
        Ok(Put::Held) | Err(_) => None,
    }
}

impl<'m, M: MemMap> Frozen<'m, M> {
    /// Sets the block apart: nobody has a handle, and whoever remembers its frame number gets it back. That is for blocks
    /// that cannot be [`Free`](crate::Free), because a frame is bad. The words of the head are cleared, and one of them keeps
    /// `word` meanwhile.
    ///
    /// Cost: 48 bytes written.
    #[must_use = "the block is lost unless `recall` takes it back"]
    pub fn set_apart(self, word: u64) -> Pfn {
        let page = self.block.page();
        page.clear_words();
        page.word[0].store(word, Ordering::Relaxed);
        self.block.pfn
    }

    /// Takes back a block that was [set apart](Self::set_apart), and the word that it kept.
    ///
    /// # Safety
    ///
    /// `pfn` was returned by `set_apart` of a block of the same `map`. Each call of that is undone at most once, and the
    /// caller orders the two (by the lock of its lists, say).
    #[must_use]
    pub unsafe fn recall(map: &'m M, pfn: Pfn) -> Option<(Self, u64)> {
        // SAFETY: the handle that `set_apart` took keeps the descriptors in place.
        let block = unsafe { Block::find(map, pfn) }?;
        let kept = &block.page().word[0];
        let word = kept.load(Ordering::Relaxed);
        kept.store(0, Ordering::Relaxed);
        Some((Self::new(block), word))
    }

    /// Hands the block out with `n` references that are kept without a handle, as [`Folio::into_raw`] keeps one.
    ///
    /// # Errors
    ///
    /// The block, unchanged, if `n` is 0 or passes the limit of `i32::MAX` references.
    ///
    /// Cost: one store, Release, as for [`into_folio`](Self::into_folio).
    pub fn into_raw(self, n: u32) -> Result<Pfn, Self> {
        if n == 0 || n > mmkit_sync::RefCount::MAX {
            return Err(self);
        }
        let page = self.block.page();
        page.written();
        page.info.store_unique(n, self.block.tag().bits());
        Ok(self.block.pfn)
    }
}
