// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a frame number to the pagemap that it belongs to.

mod pagemap;
mod reader;
mod reserve;
mod table;

use alloc::boxed::Box;
use core::fmt;

use mmkit_sync::atomic::{AtomicPtr, Ordering};
use mmkit_sync::{Lock, RawLock, ReadSide};

pub use pagemap::Pagemap;
pub use reader::{PagemapRef, RegistryReader};
pub(crate) use reserve::Reserved;

use crate::DevmapError;
use table::Table;

/// Which frames belong to which pagemap. Linux: `pgmap_array`.
///
/// Lookups take no lock: inside a [reader](Self::enter) of the read side `R` they search a sorted array, which is published by
/// one pointer and replaced as a whole. Changes are serialised by a lock `L`.
///
/// An interval is *reserved* before anything is done with its frames, and from then on overlaps every other one that has a
/// frame in common with it; it is *visible* between the moment when all of it is there and that when it begins to go.
///
/// Cost: of a lookup, the read side's entry, a binary search, and two loads. Of a change, a copy of the array, and a wait for
/// readers. Source: ours; arrays replaced whole are as old as RCU.
pub struct Registry<R, L> {
    read_side: R,
    /// What readers search. Never null.
    table: AtomicPtr<Table>,
    /// Held by who changes something; the other table, which nobody sees.
    spare: Lock<L, Option<Box<Table>>>,
    processors: usize,
    processor: fn() -> usize,
}

// SAFETY: a registry owns what its tables point to: pagemaps, which may be sent and shared because what drivers put into
// them may (`Operations`). They are reached through readers, or by who holds references on them.
unsafe impl<R: Send, L: Send> Send for Registry<R, L> {}
// SAFETY: as above; what a shared registry lends is shared pagemaps, and the spare table is reached under the lock only.
unsafe impl<R: Sync, L: Sync> Sync for Registry<R, L> {}

impl<R: ReadSide, L: RawLock> Registry<R, L> {
    /// An empty registry with counters of references for one processor.
    ///
    /// # Errors
    ///
    /// [`DevmapError::NoMemory`].
    pub fn new(read_side: R) -> Result<Self, DevmapError> {
        Self::with_processors(read_side, 1, || 0)
    }

    /// An empty registry. `processor` says on which of `processors` processors it is called; a wrong answer costs time
    /// only.
    ///
    /// # Errors
    ///
    /// [`DevmapError::NoMemory`].
    pub fn with_processors(
        read_side: R,
        processors: usize,
        processor: fn() -> usize,
    ) -> Result<Self, DevmapError> {
        let table = Table::new(0)?;
        let spare = Lock::new(Some(Table::new(0)?));
        let table = AtomicPtr::new(Box::into_raw(table));
        Ok(Self { read_side, table, spare, processors: processors.max(1), processor })
    }

    /// Enters a reader: what it finds stays.
    #[inline]
    pub fn enter(&self) -> RegistryReader<'_, R, L> {
        RegistryReader::new(self)
    }

    /// A reference on the pagemap of `pfn`, if there is one that is not going. Linux: `get_dev_pagemap`.
    ///
    /// Cost: a lookup, and an addition to a counter of this processor.
    pub fn get(&self, pfn: mmkit_addr::Pfn) -> Option<PagemapRef<'_, R, L>> {
        let reader = self.enter();
        PagemapRef::new(self, reader.find(pfn)?)
    }

    /// How many intervals are reserved.
    #[must_use]
    pub fn len(&self) -> usize {
        let _reader = self.read_side.enter();
        self.table().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn processor(&self) -> usize {
        (self.processor)()
    }

    /// The table, for those inside a reader, or who hold the lock.
    #[inline]
    fn table(&self) -> &Table {
        // Acquire: pairs with the Release of `publish`.
        let order = mmkit_sync::mutant!("registry-table-relaxed", Ordering::Acquire, Ordering::Relaxed);
        let table = self.table.load(order);
        // SAFETY: never null, and made from a box. It is freed after it was replaced and readers were waited for, by the
        // holder of the lock, or with the registry; every caller is a reader or the holder of the lock.
        unsafe { &*table }
    }
}

impl<R, L> Drop for Registry<R, L> {
    fn drop(&mut self) {
        let table = self.table.load(Ordering::Relaxed);
        // SAFETY: made from a box, and nobody else has it: the registry is borrowed for good.
        let table = unsafe { Box::from_raw(table) };
        for pagemap in table.pagemaps() {
            // SAFETY: pagemaps in the table are made from boxes, and owned by it.
            drop(unsafe { Box::from_raw(pagemap.as_ptr()) });
        }
    }
}

impl<R, L> fmt::Debug for Registry<R, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("processors", &self.processors).finish_non_exhaustive()
    }
}
