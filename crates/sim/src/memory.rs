// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical memory: frames with contents, their descriptors, and who hands them out.

use std::fmt;
use std::ptr::NonNull;

use mmkit_addr::{NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_folio::Mapcounts;
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Request};
use mmkit_page::{Folio, Frozen, MemMap, Page, Place, SliceMap};
use mmkit_sync::Immovable;
use mmkit_sync::atomic::{AtomicU64, Ordering::Relaxed};
use parking_lot::Mutex;

use crate::arena::{Arena, BYTES, FIRST, SHIFT};
use crate::buddy::{Lists, ORDERS};

/// The zone of frames that are kept free of what cannot be moved. Linux: `ZONE_MOVABLE`.
pub(crate) const MOVABLE: ZoneId = match ZoneId::new(1) {
    Some(zone) => zone,
    None => unreachable!(),
};

/// What frames are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// It can be moved: out of [`MOVABLE`] if possible, or else from anywhere.
    Any,
    /// It stays where it is: never out of [`MOVABLE`].
    Fixed,
}

/// A memory map that is also the allocator of its frames, and reaches their bytes.
///
/// A folio whose last reference goes ends in [`MemMap::release`], and there on the free lists. So nothing that uses
/// folios ever gives memory back by hand. Blocks that are handed out through [`FrameAllocator`] (page tables) are
/// folios with one reference that is kept as a number; they are no compounds.
///
/// # Invariant
///
/// The type does not leave this crate, and no handle of the kind `Free` leaves this module and `buddy`, which make them under
/// the lock alone: the rest of the crate maps a `Frozen` or releases it. So while the lists of a zone are locked, a block of it in
/// the state free is on a list, but for the one in hand. (Zones begin with a block of the largest order, so that no block has
/// its other half in another zone.)
pub(crate) struct Memory<C> {
    // Before the arena, whose descriptors it uses.
    map: SliceMap<'static, C>,
    /// Free blocks of frames that may be used for anything, and of those of [`MOVABLE`].
    lists: [Mutex<Lists>; 2],
    /// The number of the first frame of [`MOVABLE`].
    first_movable: u64,
    /// How many allocations there are until one fails, that one included; 0 where none is to fail.
    until_failure: AtomicU64,
    arena: Arena,
}

impl<C: Mapcounts> Memory<C> {
    /// `frames` frames, all free and zero, the last `movable` of them in [`MOVABLE`], or fewer where that zone cannot begin there;
    /// `None` where this process cannot have as many.
    pub(crate) fn new(frames: u64, movable: u64) -> Option<Self> {
        let arena = Arena::new(frames)?;
        let range = PfnRange::new(Pfn::new(FIRST)?, frames)?;
        // SAFETY: the arena has a zeroed descriptor for each frame, in one allocation that nobody else accesses and that
        // outlives the map: both are fields of one value, and the map, which cannot be copied, is never lent for longer
        // than that value lives.
        let map = unsafe { SliceMap::from_raw_parts(arena.pages(), range) };
        let end = range.end();
        let first_movable = end.saturating_sub(movable).next_multiple_of(1 << (ORDERS - 1)).clamp(FIRST, end);
        let memory =
            Self { map, lists: Default::default(), first_movable, until_failure: AtomicU64::new(0), arena };
        let zones = [(FIRST..first_movable, ZoneId::ZERO), (first_movable..end, MOVABLE)];
        for (numbers, zone) in zones {
            let range = PfnRange::new(Pfn::new(numbers.start)?, numbers.end - numbers.start)?;
            memory.initialise(range, Place::new(NodeId::ZERO, zone)).ok()?;
            for pfn in numbers.filter_map(Pfn::new) {
                memory.lists_of(pfn).lock().give_back(&memory, memory.claim(pfn).ok()?);
            }
        }
        Some(memory)
    }

    /// The free blocks of the zone of a frame.
    fn lists_of(&self, pfn: Pfn) -> &Mutex<Lists> {
        &self.lists[usize::from(self.is_movable(pfn))]
    }

    /// The free blocks of the zones that may serve, the best first.
    fn homes(&self, home: Home) -> impl Iterator<Item = &Mutex<Lists>> {
        let movable = if home == Home::Any { self.lists.last() } else { None };
        movable.into_iter().chain(self.lists.first())
    }

    pub(crate) fn frames(&self) -> u64 {
        self.arena.frames()
    }

    pub(crate) fn free_frames(&self) -> u64 {
        self.lists.iter().map(|lists| lists.lock().frames()).sum()
    }

    /// Frames of [`MOVABLE`].
    pub(crate) fn movable_frames(&self) -> u64 {
        FIRST + self.frames() - self.first_movable
    }

    pub(crate) fn is_movable(&self, pfn: Pfn) -> bool {
        (self.first_movable..FIRST + self.frames()).contains(&pfn.get())
    }

    /// See [`World::fail_allocation`](crate::World::fail_allocation).
    pub(crate) fn fail_nth(&self, nth: u64) -> u64 {
        self.until_failure.swap(nth, Relaxed)
    }

    /// Whether this allocation is the one that was to fail.
    fn fails(&self) -> bool {
        let step = |left: u64| left.checked_sub(1);
        self.until_failure.load(Relaxed) > 0
            && self.until_failure.fetch_update(Relaxed, Relaxed, step) == Ok(1)
    }

    /// A block off the lists, not a compound, which stays where it is.
    fn block(&self, order: Order) -> Option<Frozen<'_, Self>> {
        if self.fails() {
            return None;
        }
        self.homes(Home::Fixed).find_map(|lists| lists.lock().take(self, order))
    }

    /// A compound that was one before, or else a block off the lists.
    fn compound(&self, order: Order, home: Home) -> Option<Frozen<'_, Self>> {
        if self.fails() {
            return None;
        }
        self.homes(home).find_map(|lists| {
            let mut lists = lists.lock();
            lists.take_whole(self, order).or_else(|| lists.take(self, order))
        })
    }

    /// A block of `order` in the caller's hands, a compound if it has several frames; contents arbitrary.
    pub(crate) fn take(&self, order: Order, home: Home) -> Result<Frozen<'_, Self>, AllocError> {
        let error = AllocError { request: Request::new(order) };
        let frozen = self.compound(order, home).ok_or(error)?;
        // Not under the lock: it writes a descriptor for each frame. Single frames and compounds stay what they are.
        Ok(frozen.prep().unwrap_or_else(|other| other.handle))
    }

    /// As [`take`](Self::take), and zero.
    pub(crate) fn take_zeroed(&self, order: Order, home: Home) -> Result<Frozen<'_, Self>, AllocError> {
        let frozen = self.take(order, home)?;
        // SAFETY: nobody else has seen the block.
        unsafe { self.zero(frozen.pfn(), order.frames()) };
        Ok(frozen)
    }

    /// Writes zeroes over `frames` frames from `pfn` on.
    ///
    /// # Safety
    ///
    /// The caller owns them, and nobody else accesses them.
    pub(crate) unsafe fn zero(&self, pfn: Pfn, frames: u64) {
        let Some(start) = self.arena.frame(pfn) else { return };
        // SAFETY: frames of a block lie side by side in the arena, and by the caller's promise are its own.
        unsafe { start.write_bytes(0, (frames * BYTES) as usize) };
    }
}

// SAFETY: descriptors are those of the slice map, which is never replaced, so each clause holds because it holds there. What
// `release` does with a block is its new owner's affair.
unsafe impl<C: Mapcounts> MemMap for Memory<C> {
    type Read = Immovable;
    type Counts = C;

    fn read_side(&self) -> &Immovable {
        self.map.read_side()
    }

    #[inline]
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: the caller is inside the read side of the slice map, which is that of this map.
        unsafe { self.map.descriptor(pfn) }
    }

    #[inline]
    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: as above, and the frames are those of the slice map.
        unsafe { self.map.run(pfn, most) }
    }

    fn release(&self, frozen: Frozen<'_, Self>) {
        let home = frozen.map();
        // Before the block is free: see the invariant.
        let mut lists = home.lists_of(frozen.pfn()).lock();
        // A block with a frame that the hardware reported is lost.
        if let Ok(free) = frozen.into_free() {
            lists.give_back(home, free);
        }
    }
}

// SAFETY:
// * Exclusive: a block is taken off the lists under their lock, and comes back only by `deallocate`; blocks are naturally
//   aligned by the rules of `Free`.
// * Ordered: by the lock.
// * All or nothing: `take` changes nothing where it finds no block.
// * As asked: `zeroed` is done below; there is one node and one zone, requests for others fail.
// * Splits change descriptors only. One allocator: it is not `Clone`, and frames lie behind a pointer.
unsafe impl<C: Mapcounts> FrameAllocator for Memory<C> {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let elsewhere = request.strict && request.node != Place::default().node;
        if elsewhere || request.zone.is_some_and(|zone| zone != Place::default().zone) {
            return Err(AllocError { request });
        }
        let frozen = self.block(request.order).ok_or(AllocError { request })?;
        if request.zeroed {
            // SAFETY: just taken, and nobody else has seen it.
            unsafe { self.zero(frozen.pfn(), request.order.frames()) };
        }
        Ok(frozen.into_folio().into_raw())
    }

    unsafe fn deallocate(&self, pfn: Pfn, _: Order) {
        // SAFETY: `allocate` or `split` kept one reference of the block with `into_raw`, and the caller gives it back once.
        drop(unsafe { Folio::from_raw(self, pfn) });
    }

    unsafe fn split(&self, pfn: Pfn, _: Order, to: Order) {
        // SAFETY: as for `deallocate`; the caller owns the block.
        let Some(mut folio) = (unsafe { Folio::from_raw(self, pfn) }) else { return };
        // Nobody keeps a second reference on such a block; somebody may be looking at it.
        let frozen = loop {
            match folio.freeze() {
                Ok(frozen) => break frozen,
                Err(held) => folio = held,
            }
            std::thread::yield_now();
        };
        let _lists = self.lists_of(pfn).lock();
        let mut parts: Vec<_> = frozen.into_free().into_iter().collect();
        while let Some(free) = parts.pop() {
            if free.order() <= to {
                let _kept = free.allocate().into_folio().into_raw();
                continue;
            }
            match free.split() {
                Ok((low, high)) => parts.extend([low, high]),
                // Not a compound and not a single frame: it can be split.
                Err(refused) => drop(refused.handle.allocate().into_folio().into_raw()),
            }
        }
    }
}

// SAFETY: frames are disjoint, aligned pieces of an allocation that lives as long as the memory, does not move with it, and
// was zeroed, so is initialised.
unsafe impl<C: Mapcounts> DirectMap for Memory<C> {
    fn base_shift(&self) -> u32 {
        SHIFT
    }

    #[inline]
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        self.arena.frame(pfn)
    }
}

impl<C: Mapcounts> fmt::Debug for Memory<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("frames", &self.frames()).field("free", &self.free_frames()).finish()
    }
}
