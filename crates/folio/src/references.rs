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
    /// One of them.
    folio: ManuallyDrop<Folio<'m, M>>,
    /// The others, which are kept without a handle.
    others: u32,
}

impl<'m, M: MemMap> References<'m, M> {
    /// # Safety
    ///
    /// `others` references on `folio`, kept without a handle, are nobody else's.
    #[inline]
    pub(crate) unsafe fn new(folio: Folio<'m, M>, others: u32) -> Self {
        Self { folio: ManuallyDrop::new(folio), others }
    }

    /// The folio's first frame.
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.folio.pfn()
    }

    /// How many references.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.others.saturating_add(1)
    }

    /// Adds those of another removal from the same folio, so that both are given back at once.
    ///
    /// # Errors
    ///
    /// `other`, if it is of another folio or map, or if there would be too many.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        match self.others.checked_add(other.count()) {
            Some(others)
                if core::ptr::eq(self.folio.map(), other.folio.map()) && self.head() == other.head() =>
            {
                self.others = others;
                let _ = ManuallyDrop::new(other);
                Ok(())
            }
            _ => Err(other),
        }
    }

    /// Gives the references back. If they were the last, returns the folio, frozen.
    ///
    /// Cost: one atomic subtraction, Release; on the last reference an Acquire fence (pairs with the other puts).
    #[inline]
    pub fn put(self) -> Option<Frozen<'m, M>> {
        let mut this = ManuallyDrop::new(self);
        this.give_back()
    }

    /// For the end of `self`.
    #[inline]
    fn give_back(&mut self) -> Option<Frozen<'m, M>> {
        // SAFETY: only at the end of `self`, which does not use the handle again.
        let folio = unsafe { ManuallyDrop::take(&mut self.folio) };
        // SAFETY: `new` was promised that the references are ours.
        unsafe { folio.put_with(self.others) }
    }
}

impl<M: MemMap> Drop for References<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let map = self.folio.map();
        if let Some(frozen) = self.give_back() {
            map.release(frozen);
        }
    }
}

impl<M: MemMap> fmt::Debug for References<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "References({} on {:?})", self.count(), self.head())
    }
}
