// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking up, and holding what was found.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use mmkit_addr::Pfn;
use mmkit_sync::{RawLock, ReadSide};

use super::table::Table;
use super::{Pagemap, Registry};
use crate::PagemapIndex;

/// A reader of a [`Registry`]: what it finds stays until it is dropped, and what it does not find may appear meanwhile for
/// other readers, and for this one.
pub struct RegistryReader<'r, R: ReadSide + 'r, L> {
    _guard: R::Guard<'r>,
    registry: &'r Registry<R, L>,
}

impl<'r, R: ReadSide, L: RawLock> RegistryReader<'r, R, L> {
    #[inline]
    pub(super) fn new(registry: &'r Registry<R, L>) -> Self {
        Self { _guard: registry.read_side.enter(), registry }
    }

    #[inline]
    fn table(&self) -> &Table {
        self.registry.table()
    }

    /// The pagemap of `pfn`, if it is visible. No reference is taken: it stays while the reader lives, and may begin to
    /// go.
    ///
    /// Cost: a load, a binary search, and a load.
    #[inline]
    #[must_use]
    pub fn find(&self, pfn: Pfn) -> Option<&Pagemap> {
        let pagemap = self.table().find(pfn)?;
        // SAFETY: a pagemap that was in a table is freed after that table was replaced and readers were waited for.
        Some(unsafe { pagemap.as_ref() })
    }

    /// The pagemap of `pfn`, visible or not.
    pub(crate) fn find_reserved(&self, pfn: Pfn) -> Option<&Pagemap> {
        let pagemap = self.table().find_reserved(pfn)?;
        // SAFETY: as for `find`.
        Some(unsafe { pagemap.as_ref() })
    }

    /// The pagemap of that index, visible or going: for those who have a folio of it.
    ///
    /// Cost: two loads.
    #[inline]
    #[must_use]
    pub fn of_index(&self, index: PagemapIndex) -> Option<&Pagemap> {
        let pagemap = self.table().of_index(index)?;
        // SAFETY: as for `find`.
        Some(unsafe { pagemap.as_ref() })
    }
}

impl<R: ReadSide, L> fmt::Debug for RegistryReader<'_, R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryReader")
    }
}

/// A reference on a pagemap: while it lives, the memory does not go. Made by [`Registry::get`].
#[must_use = "the reference is put when it is dropped"]
pub struct PagemapRef<'r, R: ReadSide, L: RawLock> {
    registry: &'r Registry<R, L>,
    pagemap: NonNull<Pagemap>,
}

impl<'r, R: ReadSide, L: RawLock> PagemapRef<'r, R, L> {
    pub(crate) const fn registry(&self) -> &'r Registry<R, L> {
        self.registry
    }

    /// One more reference on `pagemap`, which a reader found.
    pub(crate) fn new(registry: &'r Registry<R, L>, pagemap: &Pagemap) -> Option<Self> {
        pagemap.get(registry.processor(), 1).then(|| Self { registry, pagemap: NonNull::from(pagemap) })
    }
}

// SAFETY: a shared pagemap and the right to put one reference, which any thread may.
unsafe impl<R: ReadSide + Sync, L: RawLock + Sync> Send for PagemapRef<'_, R, L> {}
// SAFETY: as above.
unsafe impl<R: ReadSide + Sync, L: RawLock + Sync> Sync for PagemapRef<'_, R, L> {}

impl<R: ReadSide, L: RawLock> Deref for PagemapRef<'_, R, L> {
    type Target = Pagemap;

    fn deref(&self) -> &Pagemap {
        // SAFETY: pagemaps are freed once they have drained, for which this reference is missing.
        unsafe { self.pagemap.as_ref() }
    }
}

impl<R: ReadSide, L: RawLock> Drop for PagemapRef<'_, R, L> {
    fn drop(&mut self) {
        let registry = self.registry;
        let _reader = registry.read_side.enter();
        // SAFETY: the one reference that this stands for, inside a reader.
        unsafe { self.put(registry.processor(), 1) };
    }
}

impl<R: ReadSide, L: RawLock> fmt::Debug for PagemapRef<'_, R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PagemapRef({:?})", self.index())
    }
}
