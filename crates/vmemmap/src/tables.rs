// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map's address space in page tables.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use mmkit_addr::{DESCRIPTOR_BYTES, Geometry, Level, NodeId, Order, Pfn, VirtAddr, VirtRange};
use mmkit_frame::{DirectMap, Env, Frames};
use mmkit_page::Page;
use mmkit_pgtable::{
    Backing as Leaves, Batch, Entry, Error, Mapping, Prot, Released, Share, TableEnv, Tables, Walk,
};
use mmkit_sync::{Event, Events, InsideReader, Lock, ReadSide};

use crate::{
    Backing, Behind, Exchange, MapError, Removed, SpaceUsage, TailRun, Taken, Unmapped, VmemmapSpace,
};

mod aside;
mod remap;

use remap::Spare;

/// The descriptors in page tables of format `E`: a kernel's own address space, or software tables that no processor
/// walks, which cost the same and can be counted.
///
/// Tails are mapped read-only, again and again to one frame. A last-level table that would hold nothing but tails is
/// not filled a second time: there is one for each node, zone and order, and it is attached wherever it is needed. So
/// a compound whose descriptors span eight tables costs one table of its own, not eight. Source: ours. (Where a table
/// reaches over several sections, as on ppc64 with a 4K base, each compound has its own: sections come and go singly.)
///
/// The space begins at address 0 of the tables; page `i` of it is at `i` times the base page size.
pub struct TableSpace<E: Entry, V: TableEnv> {
    tables: Tables<E, Covered<V>>,
    /// Pages of a last-level table.
    span: u64,
    /// Whether tables of tails are shared: only where one lies within a section, so that a removal never cuts one.
    shares: bool,
    /// Pages of the space.
    pages: u64,
    /// Whether there may be a shared table that nothing leads to.
    loose: AtomicBool,
    /// Empty tables, for when there is no memory.
    spare: Lock<V::Lock, Spare>,
}

impl<E: Entry, V: TableEnv> TableSpace<E, V> {
    const OWN: Prot = Prot::WRITE.union(Prot::GLOBAL);
    const TAILS: Prot = Prot::READ.union(Prot::GLOBAL);

    /// An empty space in new tables, whose root is on `node` if possible.
    ///
    /// # Errors
    ///
    /// Those of [`Tables::new`].
    pub fn new(env: V, geometry: Geometry, node: NodeId) -> Result<Self, Error> {
        let tables = Tables::new(Covered(env), geometry, node)?;
        let shift = geometry.base_shift();
        // The lower half of the addresses: above it they are not consecutive.
        let pages = geometry.virtual_bits().map_or(0, |bits| 1 << (bits - 1 - shift));
        let span = geometry.last_table().map_or(0, |table| table.entries());
        let shares = geometry.section_vmemmap_bytes() >> shift >= span;
        Ok(Self {
            tables,
            span,
            shares,
            pages,
            loose: AtomicBool::new(false),
            spare: Lock::new(Spare::default()),
        })
    }

    /// The table that a processor starts at.
    #[must_use]
    pub const fn root(&self) -> Pfn {
        self.tables.root()
    }

    fn shift(&self) -> u32 {
        self.tables.geometry().base_shift()
    }

    fn address(&self, page: u64) -> Option<VirtAddr> {
        (page < self.pages).then(|| VirtAddr::new(page << self.shift()))
    }

    fn range(&self, pages: &Range<u64>) -> Result<VirtRange, MapError> {
        let bytes = pages.end.saturating_sub(pages.start) << self.shift();
        let range = self.address(pages.start).filter(|_| pages.end <= self.pages);
        let out = MapError::OutOfSpace { page: pages.end, pages: self.pages };
        range.and_then(|start| VirtRange::new(start, bytes)).ok_or(out)
    }

    fn error(&self, error: Error) -> MapError {
        let page = |va: VirtAddr| va.get() >> self.shift();
        match error {
            Error::Alloc(error) => MapError::NoFrame(error),
            Error::Occupied { va, .. } => MapError::Occupied { page: page(va) },
            Error::NotMapped { va } | Error::Partial { va, .. } | Error::Pending { va } => {
                MapError::Missing { page: page(va) }
            }
            _ => MapError::TryAgain,
        }
    }

    fn map_leaves(
        &self,
        pages: Range<u64>,
        leaves: Leaves,
        prot: Prot,
        node: NodeId,
    ) -> Result<(), MapError> {
        if pages.is_empty() {
            return Ok(());
        }
        let mapping = Mapping::new(leaves, prot).on_node(node);
        self.tables.map(self.range(&pages)?, mapping).map_err(|error| self.error(error))
    }

    /// What a walk to `va` has found.
    fn found(&self, va: VirtAddr, walk: Walk) -> Behind {
        let Walk::Mapped(leaf) = walk else { return Behind::Nothing };
        let offset = va.offset_from(leaf.range.start()).map_or(0, |bytes| bytes >> self.shift());
        let Some(frame) = leaf.pfn.checked_add(offset) else { return Behind::Nothing };
        if leaf.prot.contains(Prot::WRITE) { Behind::Own(frame) } else { Behind::Tails(frame) }
    }

    /// The level of huge leaves: the one above the last.
    fn leaf(&self) -> Option<(Level, Order)> {
        let level = Level::LAST.up()?;
        let table = self.tables.geometry().table(level).filter(|table| table.may_be_leaf())?;
        let order = Order::new((table.entry_shift() - self.shift()) as u8)?;
        Some((level, order))
    }

    /// Maps one frame of tails behind every page of `pages`.
    fn map_tails(&self, pages: Range<u64>, tail: Pfn, node: NodeId) -> Result<(), MapError> {
        if !self.shares {
            return self.map_leaves(pages, Leaves::Repeat(tail), Self::TAILS, node);
        }
        // Whole tables in the middle, leaves around them.
        let first = pages.start.next_multiple_of(self.span).min(pages.end);
        let last = (pages.end - pages.end % self.span).max(first);
        let leaves = |pages| self.map_leaves(pages, Leaves::Repeat(tail), Self::TAILS, node);

        leaves(pages.start..first)?;
        self.attach(first..last, tail, node).inspect_err(|_| self.undo(pages.start..first))?;
        leaves(last..pages.end).inspect_err(|_| self.undo(pages.start..last))
    }

    /// Attaches the shared table of `tail` to `pages`, which are whole tables.
    fn attach(&self, pages: Range<u64>, tail: Pfn, node: NodeId) -> Result<(), MapError> {
        if pages.is_empty() {
            return Ok(());
        }
        let range = self.range(&pages)?;
        let leaves = Leaves::Repeat(tail);
        let share = match self.tables.share_of(Level::LAST, leaves, Self::TAILS) {
            Some(share) => share,
            None => self
                .tables
                .share(Level::LAST, leaves, Self::TAILS, node)
                .map_err(|error| self.error(error))?,
        };
        self.tables.attach(range, share, node).map_err(|error| {
            self.free_unused(share);
            self.error(error)
        })
    }

    /// Gives a shared table back if nothing leads to it.
    fn free_unused(&self, share: Share) {
        // In use, or already gone: then it is not this call's to give back.
        let _ = self.tables.free_share(share);
    }

    /// Takes away what was mapped by a call that failed later on.
    fn undo(&self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        match self.range(&pages).map(|range| self.tables.unmap(range)) {
            Ok(Ok(batch)) => TableUnmapped { space: self, batch }.flush(&mut |_, _| {}),
            _ => {
                self.tables.env().events().report(&Event::Leaked { pfn: 0, frames: pages.end - pages.start })
            }
        }
    }
}

// SAFETY:
// * Tables map what they are told, where they are told, and change it only when they are told.
// * Their walkers are the calls of `descriptor`, which find a leaf of a page that nobody unmaps meanwhile, and go from
//   its frame to memory by the direct map that belongs to the tables' allocator: `reaches` compares with that one.
// * Own pages are mapped frame by frame from `first`; tails to one frame, from `run`. Nothing writes either here.
// * `map`, `attach`, `share` and `unmap` change nothing where they fail, and `map_tails` undoes its first steps.
// * Released pages were unmapped, and flushed from the processors that the environment knows.
unsafe impl<E: Entry, V: TableEnv> VmemmapSpace for TableSpace<E, V> {
    type Unmapped<'a>
        = TableUnmapped<'a, E, V>
    where
        Self: 'a;

    fn base_shift(&self) -> u32 {
        self.shift()
    }

    fn reaches(&self, pfn: Pfn, bytes: NonNull<u8>) -> bool {
        self.tables.env().frames().frame(pfn) == Some(bytes)
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        let byte = pfn.get() * DESCRIPTOR_BYTES;
        let va = self.address(byte >> self.shift())?;
        // The guard of `Covered` is nothing; the caller's promise stands for it.
        let Ok(Walk::Mapped(leaf)) = self.tables.walk(va) else { return None };
        let frame = leaf.pfn.checked_add(va.offset_from(leaf.range.start())? >> self.shift())?;
        let bytes = self.tables.env().frames().map().frame(frame)?;
        // SAFETY: the offset lies within the frame, all of whose bytes are behind the pointer.
        Some(unsafe { bytes.byte_add((byte & ((1 << self.shift()) - 1)) as usize) }.cast())
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, node: NodeId) -> Result<(), MapError> {
        self.range(&pages)?;
        match backing {
            Backing::Own { first } => self.map_leaves(pages, Leaves::Run(first), Self::OWN, node),
            Backing::Tails(run) => self.map_tails(pages, run.first, node),
        }
    }

    unsafe fn map_from(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), (u64, MapError)> {
        self.map_all_from(pages, node, exchange)
    }

    fn leaf_order(&self) -> Option<Order> {
        self.leaf().map(|(_, order)| order)
    }

    unsafe fn map_leaf(&self, page: u64, first: Pfn, node: NodeId) -> Result<(), MapError> {
        let (level, order) = self.leaf().ok_or(MapError::Unsupported)?;
        let range = self.range(&(page..page.saturating_add(order.frames())))?;
        let mapping = Mapping::new(Leaves::Run(first), Self::OWN).at_level(level).on_node(node);
        self.tables.map(range, mapping).map_err(|error| self.error(error))
    }

    unsafe fn split(&self, page: u64, node: NodeId) -> Result<bool, MapError> {
        if !self.is_leaf(page) {
            return Ok(false);
        }
        let Some(va) = self.address(page) else { return Ok(false) };
        // The caller flushes, once for many.
        let _stale = self.tables.split(va, node).map_err(|error| self.error(error))?;
        Ok(true)
    }

    fn is_leaf(&self, page: u64) -> bool {
        let Some(va) = self.address(page) else { return false };
        matches!(self.tables.walk(va), Ok(Walk::Mapped(leaf)) if leaf.range.start() != va)
    }

    fn behind(&self, page: u64) -> Behind {
        let Some(va) = self.address(page) else { return Behind::Nothing };
        self.tables.walk(va).map_or(Behind::Nothing, |walk| self.found(va, walk))
    }

    fn runs(&self, pages: Range<u64>, each: &mut dyn FnMut(u64, u64, Behind)) {
        let Ok(range) = self.range(&pages) else { return };
        // Whole pages of the space, whose addresses are canonical: the walk refuses nothing.
        let _ = self.tables.read().leaves(range, |leaves| {
            let first = leaves.va.get() >> self.shift();
            let start = first.max(pages.start);
            let end = (first + leaves.frames.frames()).min(pages.end);
            let Some(frame) = leaves.frames.start().checked_add(start - first) else { return };
            let own = leaves.prot.contains(Prot::WRITE);
            each(start, end - start, if own { Behind::Own(frame) } else { Behind::Tails(frame) });
        });
    }

    fn every(&self, pages: Range<u64>, step: NonZeroU64, each: &mut dyn FnMut(u64, Behind)) {
        let Ok(range) = self.range(&pages) else { return };
        // Whole pages of the space, whose addresses are canonical: the walk refuses nothing.
        let _ = self.tables.read().every(range, step, |va, frame, prot| {
            let own = prot.contains(Prot::WRITE);
            each(va.get() >> self.shift(), if own { Behind::Own(frame) } else { Behind::Tails(frame) });
        });
    }

    fn translates(&self) -> bool {
        false
    }

    fn replaces(&self) -> bool {
        true
    }

    unsafe fn replace(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), MapError> {
        self.replace_all(pages, node, exchange)
    }

    unsafe fn put_back(&self, removed: Removed) -> Result<(), (Removed, MapError)> {
        self.put_back_all(removed)
    }

    unsafe fn discard(&self, removed: Removed, give: &mut dyn FnMut(Pfn, u64)) {
        match removed.what {
            Taken::Own { first } => give(first, removed.pages),
            // SAFETY: the caller's promise: a table that `replace` took out, and nobody can reach any more.
            Taken::Table { table, .. } => unsafe { self.discard_table(table, give) },
            Taken::Tails => {}
        }
    }

    fn flush(&self, pages: Range<u64>) {
        if let Ok(range) = self.range(&pages) {
            // The range lies in the space, whose addresses are canonical and whole pages.
            let _ = self.tables.flush(range);
        }
    }

    unsafe fn reclaim(&self) {
        if self.loose.swap(false, Ordering::Relaxed) {
            // SAFETY: the caller's promise.
            unsafe { self.tables.free_unused_shares() };
        }
    }

    fn set_aside(&self, pages: u64, node: NodeId) -> Result<(), MapError> {
        self.fill_spare(pages / self.span.max(1), node)
    }

    fn lacks_aside(&self) -> bool {
        self.lacks_spare()
    }

    unsafe fn keep_aside(&self, frame: Pfn) -> bool {
        // SAFETY: the caller's promises.
        let kept = self.lacks_spare() && unsafe { self.tables.adopt_table(frame) }.is_ok();
        if kept {
            self.push_spare(frame);
        }
        kept
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<TableUnmapped<'_, E, V>, MapError> {
        let range = self.range(&pages)?;
        let batch = self.tables.unmap(range).map_err(|error| self.error(error))?;
        Ok(TableUnmapped { space: self, batch })
    }

    fn usage(&self) -> SpaceUsage {
        let last = self.tables.tables_at(Level::LAST);
        let shared = u64::from(self.tables.shares());
        SpaceUsage {
            leaf_tables: last - shared,
            shared_tables: shared,
            upper_tables: self.tables.table_frames() - last,
        }
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for TableSpace<E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSpace").field("root", &self.root()).field("usage", &self.usage()).finish()
    }
}

/// Pages of a [`TableSpace`] that were unmapped and wait for a flush.
#[must_use = "what was unmapped is leaked unless it is flushed"]
pub struct TableUnmapped<'a, E: Entry, V: TableEnv> {
    space: &'a TableSpace<E, V>,
    batch: Batch<'a, E, Covered<V>>,
}

impl<E: Entry, V: TableEnv> Unmapped for TableUnmapped<'_, E, V> {
    fn flush(self, release: &mut dyn FnMut(u64, Backing)) {
        let space = self.space;
        let flushed = self.batch.flush(|released| match released {
            Released::Leaves(leaves) if leaves.prot.contains(Prot::WRITE) => {
                release(leaves.frames.frames(), Backing::Own { first: leaves.frames.start() });
            }
            // Tails of neighbouring frames are not one run of tails: each has users of its own.
            Released::Leaves(leaves) => leaves.frames.iter().for_each(|first| {
                release(1, Backing::Tails(TailRun { first, order: Order::ZERO }));
            }),
            Released::Shared { share, .. } => {
                if let Ok(first) = space.tables.share_target(share) {
                    release(space.span, Backing::Tails(TailRun { first, order: Order::ZERO }));
                }
                space.free_unused(share);
            }
        });
        // The read side of `Covered` never refuses to wait.
        if let Err(refused) = flushed {
            drop(refused);
        }
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for TableUnmapped<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TableUnmapped").field(&self.space.root()).finish()
    }
}

/// An environment whose table walkers are covered by the callers of [`TableSpace`].
///
/// The only walks are those of `descriptor`, whose caller promises that the page is not unmapped meanwhile; a table
/// with a mapped page in it is not given back. So nobody has to be waited for.
struct Covered<V>(V);

// SAFETY: everything is passed on to one value, but for the read side, which is always `Unwaited`.
unsafe impl<V: Env> Env for Covered<V> {
    type Allocator = V::Allocator;
    type Map = V::Map;
    type Lock = V::Lock;
    type Read = Unwaited;
    type Events = V::Events;

    fn frames(&self) -> &Frames<V::Allocator, V::Map> {
        self.0.frames()
    }

    fn read_side(&self) -> &Unwaited {
        &Unwaited
    }

    fn events(&self) -> &V::Events {
        self.0.events()
    }
}

// SAFETY: passed on to one value.
unsafe impl<V: TableEnv> TableEnv for Covered<V> {
    type Mmu = V::Mmu;

    fn mmu(&self) -> &V::Mmu {
        self.0.mmu()
    }
}

/// See [`Covered`].
struct Unwaited;

// SAFETY: only `TableSpace` uses it, whose walks need no waiting: see `Covered`.
unsafe impl ReadSide for Unwaited {
    type Guard<'a> = ();

    fn enter(&self) {}

    fn synchronize(&self) -> Result<(), InsideReader> {
        Ok(())
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use mmkit_addr::PfnRange;
    use mmkit_frame::Bare;
    use mmkit_frame::test_util::TestFrames;
    use mmkit_page::Place;
    use mmkit_pgtable::X86_64;

    use super::*;
    use crate::{Vmemmap, VmemmapError, WithTailSlots};

    /// Both number their frames from 0, and mean other memory.
    #[test]
    fn frames_of_another_allocator_are_refused() {
        let (ours, theirs) = (TestFrames::with_frames(64), TestFrames::with_frames(64));
        let geometry = Geometry::X86_64;
        let space = TableSpace::<X86_64, _>::new(Bare::new(ours.frames()), geometry, NodeId::ZERO).unwrap();
        let env = WithTailSlots::<_, 1>::new(Bare::new(theirs.frames()));
        let map = Vmemmap::new(geometry, space, env).unwrap();
        let before = ours.outstanding();
        for order in [0, 9] {
            let order = Order::new(order).unwrap();
            let refused =
                map.populate(PfnRange::block(Pfn::ZERO, Order::new(15).unwrap()), order, Place::default());
            assert!(matches!(refused, Err(VmemmapError::OtherMemory { .. })), "{refused:?}");
            assert_eq!((ours.outstanding(), theirs.outstanding()), (before, 0));
        }
    }
}
