// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: a device that looks at a page for as long as it likes.

use std::fmt;

use mmkit_addr::{Pfn, VirtAddr};
use mmkit_folio::{Mapcounts, Rmap};

use crate::arena::BYTES;
use crate::contents::Contents;
use crate::{AddressSpace, Error, World};

/// A page that is pinned: it stays where it is, and a fork does not take it from its address space. Linux: `FOLL_PIN`.
///
/// Dropping it takes the pin back.
pub struct Pin<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    pfn: Pfn,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// Pins the page at `va`, after a write fault where it needs one.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); [`Error::Counts`] at the limit of references.
    pub fn pin(&mut self, va: VirtAddr) -> Result<Pin<'w, C>, Error> {
        let pfn = self.fault(va.get(), true)?;
        self.world.folio(pfn)?.pin(1)?;
        Ok(Pin { world: self.world, pfn })
    }
}

impl<C: Mapcounts> Pin<'_, C> {
    /// Reads bytes of the page; those past its end stay as they were in `out`.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let len = out.len().min((BYTES as usize).saturating_sub(offset));
        // SAFETY: the pin has a reference, and pinned folios are accessed through `Contents` alone.
        let contents = unsafe { Contents::of(&self.world.memory, self.pfn) };
        contents.inspect(|contents| contents.read(offset, &mut out[..len]));
    }
}

impl<C: Mapcounts> Drop for Pin<'_, C> {
    fn drop(&mut self) {
        // The pin has a reference, so there is a folio; one that cannot be had at the limit of references stays pinned.
        if let Ok(folio) = self.world.folio(self.pfn) {
            drop(folio.unpin(1));
        }
    }
}

impl<C: Mapcounts> fmt::Debug for Pin<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({:?})", self.pfn)
    }
}
