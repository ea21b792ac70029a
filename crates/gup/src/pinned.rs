// SPDX-License-Identifier: MIT OR Apache-2.0
//! Held pages that give themselves back.

use core::fmt;
use core::mem::ManuallyDrop;

use mmkit_folio::{Hold, Mapcounts};
use mmkit_page::MemMap;

use crate::hold::hold_in;
use crate::{AddressSpace, Dirty, Held, Keeper, Refusal, Release, Released, Request, Span};

/// Pages that are held, in a sink of the caller's. Dropping it gives them back.
///
/// It outlives the address space that the pages are of, but not the memory map: a device may go on when its process is gone.
///
/// ```compile_fail,E0502
/// # use mmkit_gup::{AddressSpace, Extent, Extents, Pinned, Request, Span};
/// # fn device<A: AddressSpace>(space: &A, span: Span, request: Request) {
/// let mut buffer = [Extent::EMPTY; 8];
/// let pinned = Pinned::all(space.map(), space, span, request, Extents::new(&mut buffer));
/// buffer[0] = Extent::EMPTY; // what is pinned cannot be forgotten behind its back
/// drop(pinned);
/// # }
/// ```
#[must_use = "dropping it gives the pages back"]
pub struct Pinned<'m, M: MemMap<Counts: Mapcounts>, S: Keeper> {
    map: &'m M,
    sink: S,
    hold: Hold,
}

impl<'m, M: MemMap<Counts: Mapcounts>, S: Keeper> Pinned<'m, M, S> {
    /// Holds the pages of `span` as far as that goes and `sink` has room, and tells how far. `map` is that of the address
    /// space, borrowed for as long as the pages are to be held.
    ///
    /// # Errors
    ///
    /// [`Refusal`], if not a single page is held; [`Refusal::OtherMap`] where `map` is not the address space's;
    /// [`Refusal::UsedSink`] where the sink has something already, which may not be held.
    pub fn some<A: AddressSpace<Map = M>>(
        map: &'m M,
        space: &A,
        span: Span,
        request: Request,
        sink: S,
    ) -> Result<(Self, Held), Refusal> {
        if !core::ptr::eq(map, space.map()) {
            return Err(Refusal::OtherMap);
        }
        if !sink.is_fresh() {
            return Err(Refusal::UsedSink);
        }
        let kind = if request.is_pin() { Hold::Pin } else { Hold::Get };
        // Before the walk: what it holds is given back also if it panics.
        let mut pinned = Self { map, sink, hold: kind };
        // In this map, whatever the address space says when it is asked again.
        let held = hold_in((space, map), span, request, &mut pinned.sink)?;
        Ok((pinned, held))
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
        sink: S,
    ) -> Result<Self, Refusal> {
        let (pinned, held) = Self::some(map, space, span, request, sink)?;
        match held.stopped {
            None => Ok(pinned),
            Some(why) => Err(why),
        }
    }

    /// What is held.
    #[must_use]
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Gives the pages back after they were written: has each folio marked as dirty that is not. Linux:
    /// `unpin_user_pages_dirty_lock`.
    pub fn release_dirty(self, dirty: impl Dirty<M>) -> Released {
        let this = ManuallyDrop::new(self);
        // SAFETY: as in `drop`, which does not come any more.
        unsafe { this.sink.give_back(&Release::of(this.map, this.hold).dirty(dirty)) }
    }

    /// The sink, with pages that stay held. They are given back by [`Release`].
    #[must_use = "the pages stay held"]
    pub fn into_sink(self) -> S {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and not dropped.
        unsafe { core::ptr::read(&this.sink) }
    }
}

impl<M: MemMap<Counts: Mapcounts>, S: Keeper> Drop for Pinned<'_, M, S> {
    fn drop(&mut self) {
        // SAFETY: the sink was fresh, then one walk over this memory map put its holds there, and nobody could change it
        // since. This is the only place where they are given back.
        unsafe { self.sink.give_back(&Release::of(self.map, self.hold)) };
    }
}

impl<M: MemMap<Counts: Mapcounts>, S: Keeper + fmt::Debug> fmt::Debug for Pinned<'_, M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("hold", &self.hold).field("sink", &self.sink).finish()
    }
}
