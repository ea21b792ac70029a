// SPDX-License-Identifier: MIT OR Apache-2.0
//! References of mappings that are gone.

use core::fmt;
use core::mem::ManuallyDrop;

use mmkit_addr::Pfn;
use mmkit_page::{Folio, Frozen, MemMap};

/// The references that mappings had on their folio, to be given back when no processor can use the entries any more.
///
/// Keep it until the translation caches are flushed. Dropping it gives all of them back, by one atomic subtraction; the
/// last reference of a folio hands it to [`MemMap::release`].
#[must_use = "dropping it gives the references back: flush first"]
pub struct References<'m, M: MemMap> {
    map: &'m M,
    head: Pfn,
    count: u32,
}

impl<'m, M: MemMap> References<'m, M> {
    /// # Safety
    ///
    /// `count` references on the folio `head` of `map` are nobody else's.
    pub(crate) unsafe fn new(map: &'m M, head: Pfn, count: u32) -> Self {
        Self { map, head, count }
    }

    /// The folio's first frame.
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.head
    }

    /// How many references.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds those of another removal from the same folio, so that both are given back at once.
    ///
    /// # Errors
    ///
    /// `other`, if it is of another folio or map, or if there would be too many.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        match self.count.checked_add(other.count) {
            Some(count) if core::ptr::eq(self.map, other.map) && self.head == other.head => {
                self.count = count;
                let _ = ManuallyDrop::new(other);
                Ok(())
            }
            _ => Err(other),
        }
    }

    /// Gives the references back. If they were the last, returns the folio, frozen.
    ///
    /// Cost: one atomic subtraction, Release; on the last reference an Acquire fence (pairs with the other puts).
    pub fn put(self) -> Option<Frozen<'m, M>> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `new` was promised that the references are ours, and `self` is gone.
        unsafe { Folio::put_raw(this.map, this.head, this.count) }
    }
}

impl<M: MemMap> Drop for References<'_, M> {
    fn drop(&mut self) {
        // SAFETY: `new` was promised that the references are ours, and `self` is not used again.
        if let Some(frozen) = unsafe { Folio::put_raw(self.map, self.head, self.count) } {
            self.map.release(frozen);
        }
    }
}

impl<M: MemMap> fmt::Debug for References<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "References({} on {:?})", self.count, self.head)
    }
}
