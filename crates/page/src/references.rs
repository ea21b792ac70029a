// SPDX-License-Identifier: MIT OR Apache-2.0
//! References that are kept together: those of mappings that are gone, of pins, of a walk.

use core::fmt;
use core::mem::ManuallyDrop;

use mmkit_addr::Pfn;

use crate::{Folio, Frozen, MemMap};

/// References on one folio, at least one, of which only one has a handle.
///
/// Dropping it gives all of them back, by one atomic subtraction; the last reference of a folio hands it to
/// [`MemMap::release`]. Those of mappings are kept until the translation caches are flushed.
#[must_use = "dropping it gives the references back; those of mappings after a flush only"]
pub struct References<'m, M: MemMap> {
    /// One of them.
    folio: ManuallyDrop<Folio<'m, M>>,
    /// The others, which are kept without a handle.
    others: u32,
}

impl<'m, M: MemMap> References<'m, M> {
    /// The reference that `folio` is, and `others` more.
    ///
    /// # Safety
    ///
    /// `others` references on `folio` were kept by [`Folio::take_raw`] or what says that it keeps them so, and are nobody
    /// else's.
    #[inline]
    pub unsafe fn new(folio: Folio<'m, M>, others: u32) -> Self {
        Self { folio: ManuallyDrop::new(folio), others }
    }

    /// `n` references that [`into_raw`](Self::into_raw) or [`Folio::take_raw`] kept; `None` if `n` is 0.
    ///
    /// # Safety
    ///
    /// `head` is the head of a folio of `map`, `n` references on it were kept so, and each is taken back at most once.
    #[inline]
    pub unsafe fn from_raw(map: &'m M, head: Pfn, n: u32) -> Option<Self> {
        let others = n.checked_sub(1)?;
        // SAFETY: the caller has one such reference.
        let folio = unsafe { Folio::from_raw(map, head) }?;
        // SAFETY: and so many more.
        Some(unsafe { Self::new(folio, others) })
    }

    /// The folio's first frame.
    #[inline]
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.folio.pfn()
    }

    /// The folio.
    #[inline]
    pub fn folio(&self) -> &Folio<'m, M> {
        &self.folio
    }

    /// How many references.
    #[inline]
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

    /// `n` of them by themselves; `None`, and nothing changed, unless at least one stays and one goes.
    #[inline]
    pub fn split_off(&mut self, n: u32) -> Option<Self> {
        let others = n.checked_sub(1)?;
        self.others = self.others.checked_sub(n)?;
        // SAFETY: one of the references that were kept without a handle, and are none of the others' any more.
        let folio = unsafe { self.folio.adopt() };
        // SAFETY: the rest of the `n`.
        Some(unsafe { Self::new(folio, others) })
    }

    /// Keeps all of them without a handle: the folio's head, and how many there are. They leak unless
    /// [`from_raw`](Self::from_raw) or [`Folio::put_raw`] takes them back.
    #[inline]
    #[must_use = "the references leak unless `from_raw` takes them back"]
    pub fn into_raw(self) -> (Pfn, u32) {
        let this = ManuallyDrop::new(self);
        (this.head(), this.count())
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

/// References on one folio, or none: what [`PageView::try_take`](crate::PageView::try_take) took, of which there was such a
/// folio in either case.
///
/// Dropping it gives them back.
#[must_use = "dropping it gives the references back"]
pub struct Taken<'m, M: MemMap> {
    /// A handle for one of them; for nothing, where there are none.
    folio: ManuallyDrop<Folio<'m, M>>,
    count: u32,
}

impl<'m, M: MemMap> Taken<'m, M> {
    /// So many references, of which `folio` has one.
    ///
    /// # Safety
    ///
    /// `count` references on `folio`, its own included, were kept without a handle, and are nobody else's. If that is 0, the
    /// folio has no reference of its own.
    #[inline(always)]
    pub unsafe fn new(folio: Folio<'m, M>, count: u32) -> Self {
        Self { folio: ManuallyDrop::new(folio), count }
    }

    /// The folio's first frame, as it was when the references were taken.
    #[inline]
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.folio.pfn()
    }

    /// How many references.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The folio, if there is a reference.
    #[inline]
    #[must_use]
    pub fn folio(&self) -> Option<&Folio<'m, M>> {
        if self.count > 0 { Some(&self.folio) } else { None }
    }

    /// `n` of them by themselves; `None`, and nothing changed, if there are not so many.
    pub fn split_off(&mut self, n: u32) -> Option<Self> {
        self.count = self.count.checked_sub(n)?;
        // SAFETY: a handle for one of the references that go, or for nothing, if `n` is 0; it is not dropped but with them.
        let folio = unsafe { self.folio.adopt() };
        // SAFETY: those that go are nobody else's any more.
        Some(unsafe { Self::new(folio, n) })
    }

    /// Keeps all of them without a handle, as [`References::into_raw`] does.
    #[inline]
    pub fn into_raw(self) -> (Pfn, u32) {
        let this = ManuallyDrop::new(self);
        (this.head(), this.count)
    }

    /// The same references, if there are any.
    #[inline]
    #[must_use]
    pub fn into_references(self) -> Option<References<'m, M>> {
        let mut this = ManuallyDrop::new(self);
        let others = this.count.checked_sub(1)?;
        // SAFETY: `this` is not used again, and not dropped.
        let folio = unsafe { ManuallyDrop::take(&mut this.folio) };
        // SAFETY: `new` was promised that so many are ours.
        Some(unsafe { References::new(folio, others) })
    }
}

impl<M: MemMap> Drop for Taken<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if let Some(others) = self.count.checked_sub(1) {
            // SAFETY: this is the handle's end.
            let folio = unsafe { ManuallyDrop::take(&mut self.folio) };
            // SAFETY: as in `into_references`.
            drop(unsafe { References::new(folio, others) });
        }
    }
}

impl<M: MemMap> fmt::Debug for Taken<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taken({} on {:?})", self.count, self.head())
    }
}
