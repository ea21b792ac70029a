// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holding pages into any sink, and giving back what safe code has no owner for.

use std::ptr::NonNull;

use mmkit_addr::{Pfn, VirtAddr};
use mmkit_folio::{Hold, Mapcounts};
use mmkit_gup::{BadSpan, Extent, Held, PageRef, Refusal, Release, Released, Request, Segment, Sink, Span};
use mmkit_page::{MemMap, Page};

use crate::arena::SHIFT;
use crate::view::{FORMAT, View};
use crate::{AddressSpace, World};

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// The pages that have a byte of `len` bytes from `start` on, for [`hold`](Self::hold).
    ///
    /// # Errors
    ///
    /// [`BadSpan`].
    pub fn span(&self, start: VirtAddr, len: u64) -> Result<Span, BadSpan> {
        Span::bytes(&FORMAT, start, len)
    }

    /// Holds the pages of `span`, as far as that goes and `sink` has room: [`mmkit_gup::hold`] for this address space. What the
    /// sink has is the caller's, for good, unless it is given back by [`World::release_extents`] and its kin;
    /// [`pin_range`](Self::pin_range) gives it back by itself.
    ///
    /// # Errors
    ///
    /// [`Refusal`], if not a single page is held.
    pub fn hold(&self, span: Span, request: Request, sink: &mut impl Sink) -> Result<Held, Refusal> {
        mmkit_gup::hold(&View(self), span, request, sink)
    }
}

impl<C: Mapcounts> World<'_, C> {
    /// Where a frame's descriptor is: for measurements of what it costs to reach it.
    #[must_use]
    pub fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: this memory map never changes, so there is no reader to be inside.
        unsafe { self.memory.descriptor(pfn) }
    }

    /// Gives back what [`AddressSpace::hold`] put into extents.
    ///
    /// # Safety
    ///
    /// Each frame of `extents` has a hold of this kind, taken in this world, and each hold is given back at most once.
    pub unsafe fn release_extents(&self, hold: Hold, extents: &[Extent]) -> Released {
        // SAFETY: passed on.
        unsafe { Release::of(&self.memory, hold).extents(extents) }
    }

    /// Gives back what [`AddressSpace::hold`] put into a page array.
    ///
    /// # Safety
    ///
    /// As for [`release_extents`](Self::release_extents), of each entry.
    pub unsafe fn release_pages(&self, hold: Hold, pages: &[Option<PageRef>]) -> Released {
        // SAFETY: passed on.
        unsafe { Release::of(&self.memory, hold).pages(pages) }
    }

    /// Gives back what [`AddressSpace::hold`] put into segments.
    ///
    /// # Safety
    ///
    /// As for [`release_extents`](Self::release_extents), of each frame that a segment has a byte of.
    pub unsafe fn release_segments(&self, hold: Hold, segments: &[Segment]) -> Released {
        // SAFETY: passed on.
        unsafe { Release::of(&self.memory, hold).stretches(segments, SHIFT) }
    }
}
