// SPDX-License-Identifier: MIT OR Apache-2.0
//! Held pages that give themselves back.

use core::fmt;

use mmkit_folio::{Hold, Mapcounts};
use mmkit_page::MemMap;

use crate::{AddressSpace, Dirty, Extent, Extents, Held, Refusal, Release, Released, Request, Span, hold};

/// Pages that are held, as extents in a buffer of the caller's. Dropping it gives them back.
///
/// It outlives the address space that the pages are of, but not the memory map.
#[must_use = "dropping it gives the pages back"]
pub struct Pinned<'b, 'm, M: MemMap<Counts: Mapcounts>> {
    map: &'m M,
    extents: &'b [Extent],
    hold: Hold,
}

impl<'b, 'm, M: MemMap<Counts: Mapcounts>> Pinned<'b, 'm, M> {
    /// Holds the pages of `span` as far as that goes and `buffer` has room, and tells how far. `map` is that of the address
    /// space, borrowed for as long as the pages are to be held.
    ///
    /// # Errors
    ///
    /// [`Refusal`], if not a single page is held; [`Refusal::OtherMap`] where `map` is not the address space's.
    pub fn some<A: AddressSpace<Map = M>>(
        map: &'m M,
        space: &A,
        span: Span,
        request: Request,
        buffer: &'b mut [Extent],
    ) -> Result<(Self, Held), Refusal> {
        if !core::ptr::eq(map, space.map()) {
            return Err(Refusal::OtherMap);
        }
        let kind = if request.is_pin() { Hold::Pin } else { Hold::Get };
        let mut sink = Extents::new(buffer);
        let held = hold(space, span, request, &mut sink)?;
        Ok((Self { map, extents: sink.into_extents(), hold: kind }, held))
    }

    /// Holds all pages of `span`, or none.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: why not all of them can be held. None is, then.
    pub fn all<A: AddressSpace<Map = M>>(
        map: &'m M,
        space: &A,
        span: Span,
        request: Request,
        buffer: &'b mut [Extent],
    ) -> Result<Self, Refusal> {
        let (pinned, held) = Self::some(map, space, span, request, buffer)?;
        match held.stopped {
            None => Ok(pinned),
            Some(why) => Err(why),
        }
    }

    /// The frames that are held, in the order of their addresses.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        self.extents
    }

    /// How many.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.frames)).sum()
    }

    /// Gives the pages back after they were written: has each folio marked as dirty that is not. Linux:
    /// `unpin_user_pages_dirty_lock`.
    pub fn release_dirty(self, dirty: impl Dirty<M>) -> Released {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: as in `drop`, which does not come any more.
        unsafe { Release::of(this.map, this.hold).dirty(dirty).extents(this.extents) }
    }
}

impl<M: MemMap<Counts: Mapcounts>> Drop for Pinned<'_, '_, M> {
    fn drop(&mut self) {
        // SAFETY: a walk over this memory map put these holds into the extents, which nobody else had, and this is the only
        // place where they are given back.
        unsafe { Release::of(self.map, self.hold).extents(self.extents) };
    }
}

impl<M: MemMap<Counts: Mapcounts>> fmt::Debug for Pinned<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("hold", &self.hold).field("extents", &self.extents).finish()
    }
}
