// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory map: lookups, and what it is made of.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mmkit_addr::{Geometry, Level, Order, Pfn, PfnRange};
use mmkit_frame::{FrameAllocator, Frames, Request};
use mmkit_page::{MemMap, OWN_DESCRIPTORS, Page, Place, Template};
use mmkit_sync::{Counter, Event, Events, RawLock};

use crate::section::Shape;
use crate::sections::Sections;
use crate::{ReserveSlot, SpaceUsage, TailSlot, VmemmapEnv, VmemmapError, VmemmapSpace};

/// A sparse virtual memory map: the descriptor of frame `pfn` is at byte `pfn * 64` of an address space in which only
/// those pages exist whose frames do. Linux: `SPARSEMEM_VMEMMAP`.
///
/// See the [crate's documentation](crate) for how it is built, and [`populate`](Self::populate) and
/// [`remove`](Self::remove) for how it changes.
///
/// Dropping it gives everything back that it took from the allocator.
pub struct Vmemmap<S: VmemmapSpace, E: VmemmapEnv> {
    pub(crate) space: S,
    pub(crate) env: E,
    pub(crate) geometry: Geometry,
    pub(crate) shape: Shape,
    pub(crate) sections: Sections,
    pub(crate) lock: E::Lock,
    pub(crate) counts: Counts,
    pub(crate) hvo: crate::hvo::State<E::Lock>,
    /// What stands in descriptors of absent frames.
    pub(crate) poison: Option<u64>,
    off_node: AtomicBool,
}

/// What was taken from the allocator, in frames. Changed under the lock, read by anyone.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) own: AtomicU64,
    pub(crate) hosted: AtomicU64,
    pub(crate) sections: AtomicU64,
}

/// What a memory map has taken from its frame allocator, in frames of the base page size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frames of descriptors that belong to one part of the memory map alone.
    pub own: u64,
    /// Frames of descriptors that lie in altmaps. They never came from the allocator, and are not in the
    /// [`total`](Self::total).
    pub hosted: u64,
    /// Frames of tails, shared by all compounds of their order in their zone: those in the environment's slots.
    pub tails: u64,
    /// Frames of the section table.
    pub sections: u64,
    /// Frames that are set aside to restore optimised compounds with. (Tables that are set aside are the space's.)
    pub reserve: u64,
    /// What the address space has taken.
    pub space: SpaceUsage,
}

impl Usage {
    /// All of it. Equal to what the allocator has handed out to the memory map and not got back.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let tables = self.space.leaf_tables + self.space.shared_tables + self.space.upper_tables;
        self.own + self.tails + self.sections + self.reserve + tables
    }
}

/// The guard of the memory map's lock.
pub(crate) struct Locked<'a, L: RawLock>(&'a L);

impl<'a, L: RawLock> Locked<'a, L> {
    /// For a lock that was just taken, on this thread.
    pub(crate) fn new(lock: &'a L) -> Self {
        Self(lock)
    }
}

impl<L: RawLock> Drop for Locked<'_, L> {
    fn drop(&mut self) {
        // SAFETY: made only where the lock was just taken on this thread: the guard is neither sent, since
        // nothing sends it, nor kept beyond the call that made it.
        unsafe { self.0.unlock() };
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// An empty memory map. Takes nothing from the allocator.
    ///
    /// # Errors
    ///
    /// [`VmemmapError::PageSize`] where geometry, space and frames do not agree on the base page size.
    pub fn new(geometry: Geometry, space: S, env: E) -> Result<Self, VmemmapError> {
        let (own, frames) = (geometry.base_shift(), env.frames().base_shift());
        if space.base_shift() != own || frames != own {
            return Err(VmemmapError::PageSize { geometry: own, space: space.base_shift(), frames });
        }
        let shape = Shape::of(&geometry);
        let hvo = crate::hvo::State::new(env.optimises());
        Ok(Self {
            hvo,
            space,
            env,
            geometry,
            shape,
            sections: Sections::new(shape),
            lock: E::Lock::unlocked(),
            counts: Counts::default(),
            poison: None,
            off_node: AtomicBool::new(false),
        })
    }

    /// The same memory map, to be called before it is populated, with `pattern` in every word of descriptors that have
    /// memory and no frame: those of holes, and those of frames that were removed and whose pages stay. Linux:
    /// `page_init_poison`.
    ///
    /// New pages are filled with it before their descriptors are written, so one that was forgotten can be told, and so
    /// can one that is written after its frame is gone: [`verify`](Self::verify) does. Pages of shared tails are never
    /// filled. Without a pattern those words are 0.
    ///
    /// Cost: every page of descriptors is written twice.
    #[must_use]
    pub const fn poisoned(mut self, pattern: u64) -> Self {
        self.poison = Some(pattern);
        self
    }

    /// The geometry.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The address space that holds the descriptors.
    #[must_use]
    pub const fn space(&self) -> &S {
        &self.space
    }

    /// What has been taken from the allocator. Exact while nothing is being populated or removed.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            own: self.counts.own.load(Ordering::Relaxed),
            hosted: self.counts.hosted.load(Ordering::Relaxed),
            tails: self.env.tail_slots().iter().map(TailSlot::frames).sum(),
            sections: self.counts.sections.load(Ordering::Relaxed),
            reserve: self.env.reserves().iter().map(ReserveSlot::have).sum(),
            space: self.space.usage(),
        }
    }

    /// Whether `pfn` has a descriptor that can be looked up.
    ///
    /// A snapshot, unless the caller is inside the read side or holds the frame.
    #[inline]
    #[must_use]
    pub fn is_present(&self, pfn: Pfn) -> bool {
        let _guard = mmkit_sync::ReadSide::enter(self.env.read_side());
        self.has(pfn)
    }

    /// As `is_present`, for callers inside the read side or under the lock.
    #[inline]
    pub(crate) fn has(&self, pfn: Pfn) -> bool {
        self.sections.is_present(self.frames(), pfn)
    }

    #[inline]
    pub(crate) fn frames(&self) -> &Frames<E::Allocator, E::Map> {
        self.env.frames()
    }

    pub(crate) fn locked(&self) -> Locked<'_, E::Lock> {
        self.lock.lock();
        Locked(&self.lock)
    }

    /// Frames whose descriptors fill a page, log2.
    pub(crate) fn page_order(&self) -> Order {
        self.geometry.vmemmap_page_order()
    }

    /// The vmemmap pages with descriptors of `range`, whole or in part.
    pub(crate) fn pages_of(&self, range: PfnRange) -> Range<u64> {
        let shift = self.page_order().get();
        range.start().get() >> shift..range.end().div_ceil(self.page_order().frames())
    }

    /// The frames whose descriptors lie in vmemmap page `page`.
    pub(crate) fn frames_of(&self, page: u64) -> PfnRange {
        let first = Pfn::new(page << self.page_order().get()).unwrap_or(Pfn::MAX);
        PfnRange::block(first, self.page_order())
    }

    /// Takes a block near `place`, for pages of the space. The first one that comes from another node is reported.
    pub(crate) fn take(&self, request: Request, place: Place) -> Result<Pfn, VmemmapError> {
        let pfn = self.frames().allocate(request.on_node(place.node))?;
        self.check_reached(PfnRange::block(pfn, request.order)).inspect_err(|_| {
            // SAFETY: taken just above at this order, and nobody else knows of it.
            unsafe { self.frames().deallocate(pfn, request.order) };
        })?;
        self.env.events().count(Counter::FrameTaken, request.order.frames());
        self.note_node(pfn, place);
        Ok(pfn)
    }

    /// Takes single frames near `place`, for pages of the space: all or none. Otherwise as [`take`](Self::take).
    pub(crate) fn take_all(
        &self,
        request: Request,
        place: Place,
        out: &mut [Pfn],
    ) -> Result<(), VmemmapError> {
        self.frames().allocator().allocate_bulk(request.on_node(place.node), out)?;
        self.env.events().count(Counter::FrameTaken, out.len() as u64);
        let reached = |&pfn: &Pfn| self.check_reached(PfnRange::block(pfn, Order::ZERO));
        if let Err(error) = out.iter().try_for_each(reached) {
            for &pfn in out.iter() {
                // SAFETY: taken just above at this order, and nobody else knows of it.
                unsafe { self.give(pfn, Order::ZERO) };
            }
            return Err(error);
        }
        for &pfn in out.iter() {
            self.note_node(pfn, place);
        }
        Ok(())
    }

    /// Reports the first frame that comes from another node than it should.
    fn note_node(&self, pfn: Pfn, place: Place) {
        let node = self.frames().allocator().node_of(pfn);
        if let Some(got) = node.filter(|&node| node != place.node)
            && !self.off_node.swap(true, Ordering::Relaxed)
        {
            let (wanted, got) = (place.node.get(), got.get());
            self.env.events().report(&Event::OffNode { wanted, got, pfn: pfn.get() });
        }
    }

    /// Makes sure that the space would map the very memory of these frames.
    pub(crate) fn check_reached(&self, block: PfnRange) -> Result<(), VmemmapError> {
        let reached = |pfn| self.frames().frame(pfn).is_some_and(|bytes| self.space.reaches(pfn, bytes));
        match block.iter().find(|&pfn| !reached(pfn)) {
            Some(pfn) => Err(VmemmapError::OtherMemory { pfn }),
            None => Ok(()),
        }
    }

    /// The frames of a pageblock, log2: those of the smallest huge leaf, or of a section where that is larger; of a
    /// subsection where there are no leaves. Linux: `pageblock_order`.
    pub(crate) fn pageblock_order(&self) -> Order {
        let leaf = Level::LAST.up().and_then(|level| self.geometry.table(level)).filter(|t| t.may_be_leaf());
        let order =
            leaf.and_then(|table| Order::new((table.entry_shift() - self.geometry.base_shift()) as u8));
        order.unwrap_or(self.geometry.subsection_order()).min(self.geometry.section_order())
    }

    /// Fills descriptors that have no frames.
    ///
    /// # Safety
    ///
    /// `to` is aligned to a descriptor and valid for writes of so many, and nobody else accesses those.
    pub(crate) unsafe fn fill_absent(&self, to: NonNull<u8>, descriptors: u64) {
        let to = to.cast::<[u64; Template::WORDS]>();
        for index in 0..descriptors as usize {
            // SAFETY: below the number of descriptors, which lie in one piece of memory.
            let descriptor = unsafe { to.add(index) };
            // SAFETY: aligned, writable and unshared by the caller's promise.
            unsafe { descriptor.write([self.poison.unwrap_or(0); Template::WORDS]) };
        }
    }

    /// Gives a block back.
    ///
    /// # Safety
    ///
    /// [`take`](Self::take) returned it at `order`, or the memory map otherwise took it at that order; it is given back
    /// once, and nobody can reach it any more.
    pub(crate) unsafe fn give(&self, pfn: Pfn, order: Order) {
        self.env.events().count(Counter::FrameGiven, order.frames());
        // SAFETY: the caller gives the block to whoever it belongs to.
        if order == Order::ZERO && unsafe { self.env.give_boot(pfn) } {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe { self.frames().deallocate(pfn, order) };
    }
}

// SAFETY:
// * A present bit is set after the page of its descriptor was mapped and filled, and the space keeps it readable until
//   it is unmapped and flushed. That happens only after the bit was cleared, and then a grace period of `read_side`
//   passed, and while no handle to any frame of it exists: `remove` claims every block first.
// * The space promises that the descriptor of a frame is where `pfn * 64` is: different frames, different addresses.
//   Frames are shared behind pages of tails only, which are filled with tails of one order before they are mapped.
// * Four descriptors that are to be adjacent lie in one page. A run is longer only where the space says that all are
//   adjacent.
// * Descriptors that are not tails lie in pages that the space mapped for writing.
// * All descriptors are written from templates before their bits are set, and by `mmkit-page` afterwards.
// * `Env` promises that the read side is always the same.
unsafe impl<S: VmemmapSpace, E: VmemmapEnv> MemMap for Vmemmap<S, E> {
    type Read = E::Read;
    type Counts = E::Counts;

    fn read_side(&self) -> &E::Read {
        self.env.read_side()
    }

    #[inline]
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        if !self.has(pfn) {
            return None;
        }
        // SAFETY: the caller is inside the read side, and a page that was present then is unmapped only after its bit
        // was cleared and a grace period passed.
        unsafe { self.space.descriptor(pfn) }
    }

    #[inline]
    unsafe fn run(&self, pfn: Pfn, most: u64) -> Option<(NonNull<Page>, u64)> {
        // SAFETY: passed on to the caller.
        let page = unsafe { self.descriptor(pfn) }?;
        let adjacent = OWN_DESCRIPTORS - pfn.get() % OWN_DESCRIPTORS;
        Some((page, if self.space.is_contiguous() { most } else { most.min(adjacent) }))
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> fmt::Debug for Vmemmap<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmemmap")
            .field("geometry", &self.geometry.name())
            .field("usage", &self.usage())
            .finish()
    }
}

/// What may go to other threads, and what may be asked from them.
#[cfg(not(mmkit_loom))]
mod auto_traits {
    use static_assertions::assert_impl_all;

    use crate::{TailSlot, Usage, VmemmapError};

    assert_impl_all!(TailSlot: Send, Sync);
    assert_impl_all!(VmemmapError: Send, Sync, Copy);
    assert_impl_all!(Usage: Send, Sync, Copy);
}
