// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory map: from a frame number to its descriptor.

use core::fmt;
use core::ptr::NonNull;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_sync::{ReadSide, mutant};

use crate::block::Block;
use crate::tag::Tag;
use crate::{Counting, Folio, Free, Frozen, GetError, OWN_DESCRIPTORS, Page, Place, Reader};

/// Where the descriptor of a frame is. Linux: `mem_map`, `vmemmap`.
///
/// An implementor says where descriptors are ([`descriptor`](Self::descriptor)), what keeps them there
/// ([`read_side`](Self::read_side)) and where a frame goes that lost its last reference ([`release`](Self::release)).
/// Everything else is provided.
///
/// # Safety
///
/// * *Readable.* A pointer returned for `pfn` is aligned to, and valid for reads of, one [`Page`] while a guard of
///   `read_side()` lives that was entered before the call, and while a [`Folio`], [`Frozen`] or [`Free`] of a block with
///   that frame exists, or is kept as a number by `into_raw`.
/// * *Its own.* The same frame number gives the same descriptor all that time, and different frame numbers give
///   different addresses. Descriptors at different addresses share their bytes only as tails of compounds whose heads
///   say so ([`Template::head_of_shared`](crate::Template::head_of_shared)).
/// * *Adjacent.* The descriptors of four frames whose numbers differ in the lowest two bits only, as far as there are any,
///   lie one behind the other in one piece of memory, and the pointer to one may be moved to the others.
/// * *Writable.* Every other descriptor is valid for writes too. One that becomes a shared tail stays so until
///   `read_side().synchronize()`, called after it had become a tail, returned `Ok`: a reader that saw a head or a
///   parked block may be about to write it. A read side that never returns `Ok` makes nothing read-only.
/// * *Initialised.* A descriptor that appears is all zero bytes or was written with a [`Template`](crate::Template) at
///   a frame number that fits the order, with those of all other frames of the block. What was written happens before
///   the lookup that finds it. Afterwards only this crate writes it.
/// * Two maps have all descriptors in common, each under the same frame number and with the same `Counts`, or none.
/// * `read_side` always returns the same read side.
/// * Of the provided methods at most [`release`](Self::release) and [`run`](Self::run) are replaced. A run is what it says:
///   the descriptors of so many frames, as [`descriptor`](Self::descriptor) finds each.
pub unsafe trait MemMap: Sized {
    /// What keeps descriptors in place while they are looked at.
    type Read: ReadSide;
    /// How its folios' mappings are counted; [`Uncounted`](crate::Uncounted) where they are not.
    type Counts: Counting;

    /// The read side of this map.
    fn read_side(&self) -> &Self::Read;

    /// The descriptor of `pfn`, or `None` where the map has none: the frame is absent.
    ///
    /// Cost: no atomic read-modify-write, no allocation.
    ///
    /// # Safety
    ///
    /// The caller is inside [`read_side`](Self::read_side) during the call: what a map goes through to find a
    /// descriptor may be taken away like the descriptors themselves.
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>>;

    /// The descriptor of `pfn`, and the number of frames, at least 1 and at most `most`, from `pfn` on whose descriptors lie
    /// one behind the other in one piece of memory, to each of which the pointer may be moved. `None` where the map has
    /// none for `pfn`.
    ///
    /// By default up to the end of an aligned group of four. A map that knows more of its memory says more.
    ///
    /// # Safety
    ///
    /// As for [`descriptor`](Self::descriptor), and `most` frames from `pfn` on are in the map.
    #[inline]
    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: passed on to the caller.
        let page = unsafe { self.descriptor(pfn) }?;
        Some((page, most.min(OWN_DESCRIPTORS - pfn.get() % OWN_DESCRIPTORS)))
    }

    /// Takes a frame whose last [`Folio`] was dropped. Linux: `__folio_put`.
    ///
    /// By default the block becomes [`Free`] and rests, for whoever [claims](Self::claim) it; one with a frame that the
    /// hardware reported is kept from everybody, for good. An allocator puts it on its lists instead. Callers who want the frame themselves use [`Folio::put`].
    ///
    /// This is a safe method, so `frozen` may come from another map of the same type. An implementor to whom that
    /// matters compares [`Frozen::map`]. Whoever looks at a folio may turn out to be its last holder, so it may be called
    /// inside a reader, and does not wait for readers.
    fn release(&self, frozen: Frozen<'_, Self>) {
        drop(frozen.into_free());
    }

    /// Enters the read side: descriptors stay in place while the reader lives.
    ///
    /// Cost: that of the read side; nothing for [`Immovable`](mmkit_sync::Immovable).
    fn enter(&self) -> Reader<'_, Self> {
        Reader::new(self)
    }

    /// The head of the compound that `pfn` lies in, or `pfn` itself; `None` where the frame is absent.
    ///
    /// A snapshot: unless the caller holds the frame, it may be merged or split at any time. Linux: `compound_head`.
    ///
    /// Cost: entering the read side, one Relaxed load of the descriptor, and a mask.
    #[inline]
    fn head(&self, pfn: Pfn) -> Option<Pfn> {
        let reader = self.enter();
        Some(reader.page(pfn)?.head())
    }

    /// Takes a reference on the folio that `pfn` lies in. Linux: `folio_try_get` on `page_folio`.
    ///
    /// # Errors
    ///
    /// See [`PageView::try_get`](crate::PageView::try_get); [`GetError::Absent`] where the map has no such frame.
    fn try_get(&self, pfn: Pfn) -> Result<Folio<'_, Self>, GetError> {
        let reader = self.enter();
        reader.page(pfn).ok_or(GetError::Absent { pfn })?.try_get()
    }

    /// Takes the free block whose first frame is `pfn`, if nobody has it. The one handle to it is returned.
    ///
    /// # Errors
    ///
    /// [`ClaimError`], with nothing changed.
    ///
    /// Cost: one load; one compare-exchange where the block can be had.
    fn claim(&self, pfn: Pfn) -> Result<Free<'_, Self>, ClaimError> {
        let reader = self.enter();
        // SAFETY: the descriptor stays while `reader` lives, and from the exchange on because the handle exists.
        let block = unsafe { Block::new(self, pfn) }.ok_or(ClaimError::Absent { pfn })?;
        let (tag, _) = block.page().snapshot();
        if tag == Tag::UNINITIALISED {
            return Err(ClaimError::Uninitialised { pfn });
        }
        if !tag.is_parked() {
            return Err(ClaimError::Taken { pfn });
        }
        // A parked descriptor is a head, so it was writable, and stays so while `reader` lives. A block that was
        // claimed, changed and parked again meanwhile has this tag only if it is of this order again.
        let info = &block.page().info;
        let claimed = tag.with_parked(false).bits();
        let exchanged = mutant!("page-claim-look-then-store", info.set_tag(tag.bits(), claimed), {
            info.store_unique(0, claimed);
            Ok::<(), u32>(())
        });
        match exchanged {
            Ok(()) => {
                block.page().written();
                drop(reader);
                Ok(Free::new(block))
            }
            Err(_) => Err(ClaimError::Taken { pfn }),
        }
    }

    /// Takes the free block of `order` at `pfn`, joined from smaller ones where it has to be.
    ///
    /// For tests, and to set aside large blocks before an allocator runs: an allocator joins what it is given back.
    ///
    /// # Errors
    ///
    /// [`ClaimError`] at a frame that is not the first of a free block of the right size. What was joined so far rests,
    /// joined.
    ///
    /// Cost: one compare-exchange for each block that there was, two words written for each joint.
    fn claim_joined(&self, pfn: Pfn, order: Order) -> Result<Free<'_, Self>, ClaimError> {
        match self.claim(pfn) {
            Ok(free) if free.order() == order => return Ok(free),
            Ok(free) if free.order() > order => return Err(ClaimError::Taken { pfn }),
            Ok(_) | Err(ClaimError::Taken { .. }) if order > Order::ZERO => {}
            Ok(_) => return Err(ClaimError::Taken { pfn }),
            Err(error) => return Err(error),
        }
        let half = order.checked_sub(1).ok_or(ClaimError::Taken { pfn })?;
        let upper = pfn.checked_add(half.frames()).ok_or(ClaimError::Absent { pfn })?;
        let lower = self.claim_joined(pfn, half)?;
        lower.merge(self.claim_joined(upper, half)?).map_err(|_| ClaimError::Taken { pfn })
    }

    /// Makes free blocks of one frame, at rest, of every frame of `range` that was not initialised.
    ///
    /// For maps over memory that was zeroed; maps that write descriptors from templates have no such frames.
    ///
    /// # Errors
    ///
    /// [`ClaimError`] at the first frame that is absent or was initialised before; the frames before it stay
    /// initialised.
    ///
    /// Cost: one compare-exchange and two stores for each frame.
    fn initialise(&self, range: PfnRange, place: Place) -> Result<(), ClaimError> {
        let reader = self.enter();
        for number in range.start().get()..range.end() {
            let pfn = Pfn::new(number).ok_or(ClaimError::Absent { pfn: Pfn::MAX })?;
            let page = reader.page(pfn).ok_or(ClaimError::Absent { pfn })?;
            page.initialise(place)?;
        }
        Ok(())
    }
}

/// Why a block could not be claimed or initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClaimError {
    /// The map has no such frame.
    Absent {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame's descriptor was not initialised yet.
    Uninitialised {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame's descriptor was initialised before.
    Initialised {
        /// The frame.
        pfn: Pfn,
    },
    /// The frame is in use, in somebody's hands, or not the first of a free block.
    Taken {
        /// The frame.
        pfn: Pfn,
    },
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { pfn } => write!(f, "{pfn:?} is not in the memory map"),
            Self::Uninitialised { pfn } => write!(f, "{pfn:?} has a descriptor that was not initialised"),
            Self::Initialised { pfn } => write!(f, "{pfn:?} has a descriptor that was initialised before"),
            Self::Taken { pfn } => write!(f, "{pfn:?} is not the first frame of a free block at rest"),
        }
    }
}

impl core::error::Error for ClaimError {}

// SAFETY: every call is passed on unchanged, so each clause holds for `&T` because it holds for `T`; and the two have
// all descriptors in common.
unsafe impl<T: MemMap> MemMap for &T {
    type Read = T::Read;
    type Counts = T::Counts;

    fn read_side(&self) -> &Self::Read {
        (**self).read_side()
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: the caller is inside the one read side of both.
        unsafe { (**self).descriptor(pfn) }
    }

    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: as above, and the frames are in both.
        unsafe { (**self).run(pfn, most) }
    }

    fn release(&self, frozen: Frozen<'_, Self>) {
        let frozen = Frozen::new(frozen.block.through_reference());
        frozen.map().release(frozen);
    }
}
