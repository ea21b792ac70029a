// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pagemap of a folio, kept by the folio.

use core::ops::Deref;
use core::ptr::NonNull;

use mmkit_addr::{Order, PfnRange};
use mmkit_page::{Folio, Frozen, MemMap};
use mmkit_sync::{RawLock, ReadSide};

use super::words::HeadWords;
use crate::{Pagemap, PagemapRef, Registry};

/// References on a pagemap that a folio has, or is about to get: while they are there, the pagemap is too.
///
/// Dropping it puts nothing: the references are the folio's.
pub(crate) struct Held<'r, R, L> {
    registry: &'r Registry<R, L>,
    pagemap: NonNull<Pagemap>,
}

impl<R, L> Clone for Held<'_, R, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, L> Copy for Held<'_, R, L> {}

impl<R, L> Deref for Held<'_, R, L> {
    type Target = Pagemap;

    fn deref(&self) -> &Pagemap {
        // SAFETY: a pagemap is freed once it has drained, for which the folio's references are missing; `put` takes this.
        unsafe { self.pagemap.as_ref() }
    }
}

impl<'r, R: ReadSide, L: RawLock> Held<'r, R, L> {
    /// The pagemap that `words` name, if it has `block`: the words of a folio of the machine's own memory may say
    /// anything. An interval alone proves nothing: the machine may have memory there while it is only reserved, and when
    /// part of the pagemap was removed.
    fn of(registry: &'r Registry<R, L>, words: &HeadWords<'_>, block: PfnRange) -> Option<Self> {
        let index = words.pagemap()?;
        let reader = registry.enter();
        let pagemap = reader.of_index(index)?;
        let own = pagemap.is_populated() && pagemap.holds(block);
        own.then(|| Self { registry, pagemap: NonNull::from(pagemap) })
    }

    /// The pagemap of a folio that is held.
    pub(crate) fn of_folio<M: MemMap>(registry: &'r Registry<R, L>, folio: &Folio<'_, M>) -> Option<Self> {
        Self::of(registry, &HeadWords::of(folio), PfnRange::block(folio.pfn(), folio.order()))
    }

    /// The pagemap of a folio whose last reference was just put.
    pub(crate) fn of_frozen<M: MemMap>(registry: &'r Registry<R, L>, frozen: &Frozen<'_, M>) -> Option<Self> {
        Self::of(registry, &HeadWords::of_frozen(frozen), PfnRange::block(frozen.pfn(), frozen.order()))
    }

    /// The references of a new folio of `order`; `None` where the pagemap is going.
    pub(crate) fn take(found: &PagemapRef<'r, R, L>, order: Order) -> Option<Self> {
        let pagemap: &Pagemap = found;
        let registry = found.registry();
        let taken = pagemap.get(registry.processor(), pagemap.references_of(order));
        taken.then(|| Self { registry, pagemap: NonNull::from(pagemap) })
    }

    pub(crate) const fn registry(&self) -> &'r Registry<R, L> {
        self.registry
    }

    /// One more reference, for a moment; whether it could be had.
    pub(crate) fn enter(&self) -> bool {
        self.get(self.registry.processor(), 1)
    }

    /// Puts `n` references. It may be the last that is seen of the pagemap.
    pub(crate) fn put(self, n: u32) {
        let _reader = self.registry.enter();
        let pagemap: &Pagemap = &self;
        // SAFETY: the folio's, which has none any more, or one that `enter` took; inside a reader.
        unsafe { pagemap.put(self.registry.processor(), n) };
    }
}
