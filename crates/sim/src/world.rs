// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: memory, names for address spaces, files.

use std::fmt;

use mmkit_addr::Pfn;
use mmkit_folio::{MapError, Mapcounts, MmIds};
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::AtomicU64;

use crate::files::Files;
use crate::memory::Memory;
use crate::statistics::Counters;
use crate::{AddressSpace, Error, Statistics};

/// Physical memory whose folios are counted as `C` says, with what lives in it. Shared by all threads.
pub struct World<'i, C: Mapcounts> {
    pub(crate) memory: Memory<C>,
    pub(crate) ids: MmIds<'i>,
    pub(crate) counters: Counters,
    pub(crate) files: Files,
}

impl<'i, C: Mapcounts> World<'i, C> {
    /// `frames` frames of 4 KiB, all free, and 64 names of address spaces for each word of `ids`.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuch`].
    pub fn new(frames: u64, ids: &'i mut [AtomicU64]) -> Result<Self, Error> {
        Self::with_movable(frames, 0, ids)
    }

    /// The same, with the last `movable` of the frames kept for memory that can be moved, as far as they begin with a block of
    /// 1024 frames: anonymous memory prefers them, and moves out of them before it is pinned for long. Linux: `ZONE_MOVABLE`.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuch`].
    pub fn with_movable(frames: u64, movable: u64, ids: &'i mut [AtomicU64]) -> Result<Self, Error> {
        let memory = Memory::new(frames, movable).ok_or(Error::TooMuch { frames })?;
        Ok(Self { memory, ids: MmIds::new(ids), counters: Counters::default(), files: Files::default() })
    }

    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::Ids`], [`Error::Tables`].
    pub fn spawn(&self) -> Result<AddressSpace<'_, C>, Error> {
        AddressSpace::new(self)
    }

    /// The folio of a frame, with a reference of the caller's own.
    pub(crate) fn folio(&self, pfn: Pfn) -> Result<Folio<'_, Memory<C>>, Error> {
        self.memory.try_get(pfn).map_err(|error| Error::Counts(MapError::References(error)))
    }

    /// Frames that there are.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.memory.frames()
    }

    /// Frames that are kept for memory that can be moved.
    #[must_use]
    pub fn movable_frames(&self) -> u64 {
        self.memory.movable_frames()
    }

    /// Whether a frame is one of those.
    #[must_use]
    pub fn is_movable(&self, pfn: Pfn) -> bool {
        self.memory.is_movable(pfn)
    }

    /// Frames that nobody uses. A sum at one moment.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.memory.free_frames()
    }

    /// Makes the `nth` allocation of frames from now on fail, counted from 1, and none after it; 0 lets all succeed.
    /// Returns what is left of the last such call: 0, if its failure happened. For tests of what failures leave behind.
    pub fn fail_allocation(&self, nth: u64) -> u64 {
        self.memory.fail_nth(nth)
    }

    /// What is mapped now, and what faults did so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.read()
    }
}

impl<C: Mapcounts> Drop for World<'_, C> {
    fn drop(&mut self) {
        self.files.clear(&self.memory);
    }
}

impl<C: Mapcounts> fmt::Debug for World<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("memory", &self.memory).field("ids", &self.ids).finish_non_exhaustive()
    }
}
