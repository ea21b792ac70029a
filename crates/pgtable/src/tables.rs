// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tree of page tables: its parts, and the frames that it owns.

use core::fmt;
use core::marker::PhantomData;
// A statistic orders nothing, so it does not go through the facade.
use core::sync::atomic::{AtomicU64 as Statistic, Ordering};

use mmkit_addr::{Geometry, Level, NodeId, Order, Pfn, VirtAddr, VirtRange};
use mmkit_frame::{DirectMap, FrameAllocator, Request};
use mmkit_sync::{Counter, Events, Lock, LockGuard};

use crate::node::{Node, Span};
use crate::shape::{MAX_LEVELS, Shape, named};
use crate::{Entry, Error, Slot, TableEnv, Target};

/// Tables by level, then registry frames.
type Counts = [Statistic; REGISTRY + 1];

const REGISTRY: usize = MAX_LEVELS;

/// Page tables of format `E` in the environment `V`.
///
/// Every method takes `&self`. Changes are serialised by one lock; readers ([`read`](Self::read)) take none.
///
/// Dropping the tables gives back every table frame, shared ones included, and no other frame: what is mapped belongs
/// to whoever mapped it. A processor must not use the [`root`](Self::root) any more by then, nor cache anything of it.
pub struct Tables<E: Entry, V: TableEnv> {
    env: V,
    shape: Shape,
    root: Pfn,
    pub(crate) state: Lock<V::Lock, State>,
    /// Tables owned, by level, shared ones included.
    counts: Counts,
    format: PhantomData<fn() -> E>,
}

/// What the lock protects beside the entries.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// One bit for each tag of a batch that is open or was leaked.
    pub(crate) tags: [u64; 4],
    /// The frame of the registry of shared tables, while there are any.
    pub(crate) registry: Option<Pfn>,
    /// Shared tables.
    pub(crate) shares: u32,
    /// How many shared tables there have ever been.
    pub(crate) generation: u32,
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Empty tables of the shape of `geometry`: one root, on `node` if possible.
    ///
    /// # Errors
    ///
    /// [`Error::FrameSize`] where geometry and direct map disagree on the size of a frame, [`Error::Geometry`] where the
    /// geometry has no tables or the entry format does not fit it, [`Error::Alloc`], [`Error::Encode`] where the root's
    /// frame number does not fit.
    pub fn new(env: V, geometry: Geometry, node: NodeId) -> Result<Self, Error> {
        let refused = Error::Geometry { geometry: geometry.name(), format: E::NAME };
        let shape = Shape::new(geometry).filter(|_| E::supports(&geometry)).ok_or(refused)?;
        let (geometry, frames) = (shape.base_shift(), env.frames().map().base_shift());
        if geometry != frames {
            return Err(Error::FrameSize { geometry, frames });
        }
        let counts = [const { Statistic::new(0) }; REGISTRY + 1];
        let root = take_table::<E, V>(&env, &shape, &counts, shape.root(), node)?;
        let state = Lock::new(State::default());
        Ok(Self { env, shape, root, state, counts, format: PhantomData })
    }

    /// The geometry.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        self.shape.geometry()
    }

    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The environment.
    #[must_use]
    pub const fn env(&self) -> &V {
        &self.env
    }

    /// The root table's first frame: what a processor's root register takes. A processor that uses it must stop before
    /// the tables are dropped, and the environment's [`Mmu`](crate::Mmu) must reach it.
    #[must_use]
    pub const fn root(&self) -> Pfn {
        self.root
    }

    /// The tables of `level` that are owned now: linked, pending or shared. Readable at any time.
    #[must_use]
    pub fn tables_at(&self, level: Level) -> u64 {
        self.counts[usize::from(level.get())].load(Ordering::Relaxed)
    }

    /// All frames that the tables own: those of the tables of every level, and one for the registry while there are shared
    /// tables. Readable at any time, without the lock.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        let frames = |level| self.tables_at(named(level)) * self.shape.table_order(level).frames();
        let registry = self.counts[REGISTRY].load(Ordering::Relaxed);
        (0..=self.shape.root()).map(frames).sum::<u64>() + registry
    }

    /// Takes an empty table of `level`.
    pub(crate) fn alloc_table(&self, level: u8, node: NodeId) -> Result<Pfn, Error> {
        take_table::<E, V>(&self.env, &self.shape, &self.counts, level, node)
    }

    /// Counts a table of `level` that did not come from `alloc_table`.
    pub(crate) fn count_table(&self, level: u8, pfn: Pfn) -> Result<(), Error> {
        count_table::<E, V>(&self.env, &self.shape, &self.counts, level, pfn)
    }

    /// Gives a table of `level` back.
    ///
    /// # Safety
    ///
    /// `alloc_table` returned it for this level, nothing leads to it any more, no walker is in it, and it is given back
    /// once.
    pub(crate) unsafe fn free_table(&self, pfn: Pfn, level: u8) {
        let order = self.shape.table_order(level);
        self.counts[usize::from(level)].fetch_sub(1, Ordering::Relaxed);
        self.env.events().count(Counter::TableGiven, order.frames());
        // SAFETY: it came from `allocate` at this order, and the caller promises the rest.
        unsafe { self.env.frames().allocator().deallocate(pfn, order) };
    }

    pub(crate) fn lock(&self) -> Locked<'_, E, V> {
        Locked { tables: self, state: self.state.lock() }
    }

    /// The positions of `range`, which must consist of whole frames.
    pub(crate) fn span(&self, range: VirtRange) -> Result<Span, Error> {
        let bad = Error::BadRange { range };
        let last = range.last().ok_or(bad)?;
        let span = Span { from: self.position(range.start())?, last: self.position(last)? };
        for value in [range.start().get(), range.bytes()] {
            aligned(value, self.shape.span(0))?;
        }
        // Both ends may be canonical with a hole in between.
        if span.last.wrapping_sub(span.from) == range.bytes() - 1 { Ok(span) } else { Err(bad) }
    }

    pub(crate) fn position(&self, va: VirtAddr) -> Result<u64, Error> {
        self.shape.position(va.get()).ok_or(Error::NotCanonical { va })
    }
}

pub(crate) const fn aligned(value: u64, align: u64) -> Result<(), Error> {
    if value & (align - 1) == 0 { Ok(()) } else { Err(Error::Misaligned { value, align }) }
}

/// Takes a zeroed table whose frame fits into an entry and can be reached.
fn take_table<E: Entry, V: TableEnv>(
    env: &V,
    shape: &Shape,
    counts: &Counts,
    level: u8,
    node: NodeId,
) -> Result<Pfn, Error> {
    let order = shape.table_order(level);
    let pfn = take_frames(env, order, node)?;
    count_table::<E, V>(env, shape, counts, level, pfn).inspect_err(|_| {
        // SAFETY: it was taken above at this order, and nobody has seen it.
        unsafe { env.frames().allocator().deallocate(pfn, order) };
    })?;
    Ok(pfn)
}

/// Counts a table, where its frame fits into an entry.
fn count_table<E: Entry, V: TableEnv>(
    env: &V,
    shape: &Shape,
    counts: &Counts,
    level: u8,
    pfn: Pfn,
) -> Result<(), Error> {
    // Nothing leads to the root, but its frame must fit where those of other tables do.
    let parent = if level < shape.root() { level + 1 } else { level.max(1) };
    E::encode(Slot::Present(Target::Table { pfn }), named(parent))?;
    counts[usize::from(level)].fetch_add(1, Ordering::Relaxed);
    env.events().count(Counter::TableTaken, shape.table_order(level).frames());
    Ok(())
}

/// Takes a zeroed block all of whose frames can be reached.
pub(crate) fn take_frames<V: TableEnv>(env: &V, order: Order, node: NodeId) -> Result<Pfn, Error> {
    let pfn = env.frames().allocator().allocate(Request::new(order).on_node(node).zeroed())?;
    let reachable = |nth| {
        let frame: Option<Pfn> = pfn.checked_add(nth);
        frame.is_some_and(|frame| env.frames().map().frame(frame).is_some())
    };
    if !(0..order.frames()).all(reachable) {
        // SAFETY: it was taken above at this order, and nobody has seen it.
        unsafe { env.frames().allocator().deallocate(pfn, order) };
        return Err(Error::Unreachable { pfn });
    }
    Ok(pfn)
}

/// The tables while their lock is held: who may change entries.
pub(crate) struct Locked<'t, E: Entry, V: TableEnv> {
    pub(crate) tables: &'t Tables<E, V>,
    pub(crate) state: LockGuard<'t, V::Lock, State>,
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    pub(crate) fn root(&self) -> Node<'t, E, V> {
        let tables = self.tables;
        // SAFETY: the root came from `alloc_table` for the top level, and is given back by `drop` alone.
        unsafe { Node::new(tables, tables.root, tables.shape.root(), 0) }
    }

    /// The entry that translates `position`: the first on the way down that is not a private table.
    pub(crate) fn find(&self, position: u64) -> (Node<'t, E, V>, u64, Slot) {
        let mut node = self.root();
        loop {
            let index = node.index(position);
            let slot = node.slot(index);
            let Slot::Present(Target::Table { pfn }) = slot else { return (node, index, slot) };
            // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under the lock.
            node = unsafe { node.child(index, pfn) };
        }
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    pub(crate) fn count_registry(&self, there: bool) {
        self.counts[REGISTRY].store(there.into(), Ordering::Relaxed);
    }

    /// Gives back a table and all private tables below it.
    ///
    /// # Safety
    ///
    /// As [`free_table`](Self::free_table), for each of them.
    unsafe fn free_tree(&self, node: Node<'_, E, V>) {
        if node.level > 0 {
            for index in 0..self.shape.entries(node.level) {
                let slot = node.slot(index);
                if let Slot::Present(Target::Table { pfn }) | Slot::Pending(Target::Table { pfn }, _) = slot {
                    // SAFETY: the entry leads to a table that only it leads to, and which is given back below.
                    let child = unsafe { node.child(index, pfn) };
                    // SAFETY: the caller's promise is about it as well.
                    unsafe { self.free_tree(child) };
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_table(node.pfn, node.level) };
    }
}

impl<E: Entry, V: TableEnv> Drop for Tables<E, V> {
    fn drop(&mut self) {
        self.drop_shares();
        // SAFETY: the root came from `alloc_table` for its level.
        let root = unsafe { Node::new(self, self.root, self.shape.root(), 0) };
        // SAFETY: readers, batches and tokens borrow the tables, so none is left; nothing leads to the root, and the tables
        // are not used after this.
        unsafe { self.free_tree(root) };
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Tables<E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (geometry, frames) = (self.geometry(), self.table_frames());
        f.debug_struct("Tables")
            .field("geometry", geometry)
            .field("table_frames", &frames)
            .finish_non_exhaustive()
    }
}
