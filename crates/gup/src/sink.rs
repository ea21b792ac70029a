// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the pages go that a walk holds.

mod bytes;
mod extents;
mod folios;
mod pages;

use mmkit_addr::{Order, Pfn};
use mmkit_folio::Mapcounts;
use mmkit_page::MemMap;

use crate::{Dirty, Release, Released};

pub use bytes::{BioVec, Bytes, Segment, Stretch};
pub use extents::{Extent, Extents};
pub use folios::{FolioHolds, Folios};
pub(crate) use pages::leading_in;
pub use pages::{PageRef, Pages};

/// Consecutive frames of one folio that a walk holds: mapped at consecutive addresses, with one permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first frame.
    pub pfn: Pfn,
    /// Frames, at least 1; each is held once.
    pub frames: u32,
    /// The folio's first frame.
    pub head: Pfn,
    /// log2 of the folio's frames.
    pub order: Order,
    /// Whether the entries allow to write.
    pub writable: bool,
}

/// Takes what a walk holds. What it does not take is given back, and the walk stops there, to go on later.
///
/// It is called inside readers and possibly with a table locked, so it neither waits nor changes what is mapped.
pub trait Sink {
    /// The most frames that it can take, whatever they are: the walker holds no more than that at a time. 0 if there is no
    /// room at all.
    fn room(&self) -> u64;

    /// Takes the first frames of `run`, which continues the last one at the next address; how many. Fewer than all mean that
    /// it is full.
    fn push(&mut self, run: Run) -> u32;
}

pub(crate) mod sealed {
    /// Only this crate's sinks are known to have all that they took.
    pub trait Sealed {}
}

/// A sink that has all that it took, to be given back from there. Sealed.
pub trait Keeper: Sink + sealed::Sealed {
    /// Whether it never took anything.
    fn is_fresh(&self) -> bool;

    /// Gives back what it has.
    ///
    /// # Safety
    ///
    /// It was fresh before walks over an address space with the memory map of `release`, for its kind of hold, put there what it
    /// has; and that is given back at most once.
    unsafe fn give_back<M: MemMap<Counts: Mapcounts>, D: Dirty<M>>(
        &self,
        release: &Release<'_, M, D>,
    ) -> Released;
}

impl<S: Sink + ?Sized> Sink for &mut S {
    #[inline]
    fn room(&self) -> u64 {
        (**self).room()
    }

    #[inline]
    fn push(&mut self, run: Run) -> u32 {
        (**self).push(run)
    }
}
