// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pool of huge pages, whose descriptors are optimised while they are in it and while they are used.

mod claim;
mod class;
mod demote;
mod dissolve;
mod list;
mod page;
mod report;
mod resize;

use core::fmt;

use mmkit_addr::{NodeId, Order};
use mmkit_frame::Env;
use mmkit_page::{Frozen, MemMap, PageFlags};
use mmkit_sync::{Lock, LockGuard};

use crate::{Vmemmap, VmemmapEnv, VmemmapSpace};

use class::Class;
pub use class::PoolCounts;
pub use page::HugePage;
pub use report::{PoolError, PoolReport};

/// A memory map that huge pages live in: a [`Vmemmap`], or a kernel's own type around one.
///
/// A kernel wraps the memory map to say in [`MemMap::release`] where a folio goes that lost its last reference: one of the
/// pool's goes back to it, by [`HugePool::take_back`].
pub trait PoolMap: MemMap {
    /// The memory map's address space.
    type Space: VmemmapSpace;
    /// The memory map's environment, whose allocator the pages come from.
    type Env: VmemmapEnv;

    /// The memory map that has the descriptors.
    fn vmemmap(&self) -> &Vmemmap<Self::Space, Self::Env>;
}

impl<S: VmemmapSpace, E: VmemmapEnv> PoolMap for Vmemmap<S, E> {
    type Space = S;
    type Env = E;

    fn vmemmap(&self) -> &Self {
        self
    }
}

/// A pool of huge pages, of up to `N` different kinds: a node and an order each.
///
/// # What a pool is for
///
/// Large blocks become scarce while a machine runs. Whoever needs them sets them aside early, and hands them out from
/// there. Each block is a compound, always used whole, so its descriptors can be [optimised](Vmemmap::optimise_batch): a
/// pool of 2M pages costs one page of descriptors each, not eight. Linux: HugeTLB.
///
/// ```text
///                     grow                          allocate
///   FrameAllocator ──────────▶ free (optimised) ───────────────▶ in use
///        ▲                        │  ▲   ▲                         │ free
///        │        restored        │  │   └─────────────────────────┤
///        ├────────────────────────┘  │ not restored: surplus       │ has a bad frame
///        │       shrink, retry       └───────                      ▼
///        └────────────────────────────────────────────────────  poisoned
///                     dissolve, all but the bad frames
/// ```
///
/// # A size that is asked for, and a size that is reached
///
/// [`resize`](Self::resize) sets how many pages there should be. Two things may stand in the way of fewer: pages are in
/// use, and pages cannot be [restored](Vmemmap::restore_batch) because there is no memory for their descriptors. The
/// number of pages that there are too many is the *surplus*. It is only a number: as long as it is not 0, the next
/// page that becomes free is given back to the allocator, and [`retry`](Self::retry) tries again with those that are free
/// already. With a [reserve](Vmemmap::set_reserve) for the node and order a restore does not fail for want of memory, whatever
/// others take at the same time: when the reserve was used and cannot be filled, the page that it was used for becomes the
/// reserve for the next ones, and what is left of that is given back in the end.
///
/// That a page cannot be *optimised* never stops anything: it keeps all its descriptors, and is as good as the others. So
/// it is with all new pages while [optimising is off](Vmemmap::set_optimising).
///
/// # Where the pool keeps its pages
///
/// In their descriptors. A page in the pool is [`Free`](mmkit_page::Free), but for one with a bad frame, which is [`Frozen`], and the pool, which is the allocator of huge
/// pages, has its private words to link lists with. It needs no other memory, however many pages it has. Pages that are handed out
/// have the flag [`HUGETLB`](PageFlags::HUGETLB).
///
/// Blocks come from the allocator of the memory map's environment, on the node that was asked for and no other. Their
/// descriptors must be there, and at rest: as [`Vmemmap::populate`] leaves them, or as parts of a larger block at rest. The
/// pool gives blocks back joined. (An allocator that keeps its own lists in descriptors lets a block rest before it hands it out, and
/// [claims](MemMap::claim) it when it comes back.)
///
/// # Locks
///
/// One lock, held for the time of a few loads and stores. Whatever takes longer, allocating, optimising and restoring, is done
/// to pages that were taken off the lists first. Dropping the pool gives every page back that can be restored, and leaks
/// the others ([`Event::Leaked`](mmkit_sync::Event::Leaked)).
///
/// # Example
///
#[cfg_attr(feature = "pgtable", doc = "```")]
#[cfg_attr(not(feature = "pgtable"), doc = "```ignore")]
/// use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
/// use mmkit_frame::{Bare, test_util::TestFrames};
/// use mmkit_page::Place;
/// use mmkit_pgtable::X86_64;
/// use mmkit_vmemmap::{HugePool, TableSpace, Vmemmap, WithTailSlots};
///
/// let memory = TestFrames::with_frames(1 << 15);
/// let env = || Bare::new(memory.frames());
/// let space = TableSpace::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO)?;
/// let map = Vmemmap::new(Geometry::X86_64, space, WithTailSlots::<_, 2>::new(env()))?;
/// map.populate(PfnRange::new(Pfn::ZERO, 1 << 15).unwrap(), Order::ZERO, Place::default())?;
///
/// let (node, huge) = (NodeId::ZERO, Order::new(9).unwrap());
/// let pool = HugePool::new(&map, [(node, huge)])?;
/// let before = map.usage().own;
/// let report = pool.resize(node, huge, 20)?.ok()?;
/// assert_eq!((report.done, report.full, report.counts.free), (20, 0, 20));
/// assert_eq!(before - map.usage().own, 20 * 7);
///
/// // Two pages are in use, so only 18 of 20 can go at once. The others go when they are free.
/// let (one, two) = (pool.allocate(node, huge)?, pool.allocate(node, huge)?);
/// let report = pool.resize(node, huge, 0)?.ok()?;
/// assert_eq!((report.done, report.counts.in_use, report.counts.surplus), (18, 2, 2));
/// drop(one);
/// two.free().expect("nobody else has it");
/// assert_eq!(pool.counts(node, huge)?.total(), 0);
/// assert_eq!(map.usage().own, before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HugePool<'m, M: PoolMap, const N: usize> {
    map: &'m M,
    /// As `map` said once: what came from its allocator goes back there.
    vmemmap: &'m Vmemmap<M::Space, M::Env>,
    state: Lock<<M::Env as Env>::Lock, State<N>>,
    /// Held while a size that was asked for is being reached.
    resizing: Lock<<M::Env as Env>::Lock, ()>,
    /// Held while a block is cut out of a larger one.
    claiming: Lock<<M::Env as Env>::Lock, ()>,
}

#[derive(Debug)]
struct State<const N: usize> {
    classes: [Class; N],
    /// Frames set apart because they are bad.
    bad: u64,
}

type StateGuard<'a, M, const N: usize> = LockGuard<'a, <<M as PoolMap>::Env as Env>::Lock, State<N>>;

/// A page that the pool has in its hands.
struct Taken<'m, M: MemMap> {
    frozen: Frozen<'m, M>,
    class: usize,
    poisoned: bool,
}

impl<'m, M: PoolMap, const N: usize> HugePool<'m, M, N> {
    /// Pages that are optimised, restored or given back at once.
    const BATCH: usize = 64;

    /// A pool without pages, for these nodes and orders.
    ///
    /// # Errors
    ///
    /// [`PoolError::Twice`], [`PoolError::SingleFrame`].
    pub fn new(map: &'m M, classes: [(NodeId, Order); N]) -> Result<Self, PoolError> {
        for (index, &(node, order)) in classes.iter().enumerate() {
            if order == Order::ZERO {
                return Err(PoolError::SingleFrame);
            }
            if classes[..index].contains(&(node, order)) {
                return Err(PoolError::Twice { node, order });
            }
        }
        let classes = classes.map(|(node, order)| Class::new(node, order));
        Ok(Self {
            map,
            vmemmap: map.vmemmap(),
            state: Lock::new(State { classes, bad: 0 }),
            resizing: Lock::new(()),
            claiming: Lock::new(()),
        })
    }

    /// How many pages of `order` there are on `node`.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`].
    pub fn counts(&self, node: NodeId, order: Order) -> Result<PoolCounts, PoolError> {
        let state = self.state.lock();
        Ok(state.classes[state.find(node, order)?].counts())
    }

    /// Frames that were set apart when their page was [dissolved](Self::dissolve). They never come back.
    #[must_use]
    pub fn bad_frames(&self) -> u64 {
        self.state.lock().bad
    }

    /// Hands a page out.
    ///
    /// Where none is free, and the surplus is below what [`set_overcommit`](Self::set_overcommit) allows, a page is taken from
    /// the allocator, as surplus. Linux: `alloc_hugetlb_folio`.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`], [`PoolError::Empty`], and those of [`grow`](Self::grow).
    ///
    /// Cost: the pool's lock; 64 bytes written. A page from the allocator costs what growing by one costs.
    pub fn allocate(&self, node: NodeId, order: Order) -> Result<HugePage<'_, M, N>, PoolError> {
        let mut state = self.state.lock();
        let class = state.find(node, order)?;
        let frozen = match self.pop(&mut state, class) {
            Some(frozen) => frozen,
            None => {
                let empty = PoolError::Empty { node, order };
                if state.classes[class].surplus >= state.classes[class].overcommit {
                    return Err(empty);
                }
                drop(state);
                let mut one = [None];
                self.build(node, order, &mut one).error.map_or(Ok(()), Err)?;
                let frozen = one.into_iter().flatten().next().ok_or(empty)?;
                state = self.state.lock();
                state.classes[class].surplus += 1;
                // Others may have been faster.
                if state.classes[class].surplus > state.classes[class].overcommit {
                    state.classes[class].keep(frozen);
                    drop(state);
                    // What cannot be given back is surplus.
                    let _ = self.trim(class);
                    return Err(empty);
                }
                frozen
            }
        };
        state.classes[class].in_use += 1;
        drop(state);
        let mut frozen = frozen;
        frozen.insert_at(0..1, PageFlags::HUGETLB);
        Ok(HugePage::new(self, frozen.into_folio(), class))
    }

    /// How many surplus pages [`allocate`](Self::allocate) may make. 0 at first. Linux: `nr_overcommit_hugepages`.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoClass`].
    pub fn set_overcommit(&self, node: NodeId, order: Order, pages: u64) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        let class = state.find(node, order)?;
        state.classes[class].overcommit = pages;
        Ok(())
    }

    /// Takes a page back whose [`HugePage`] is gone: for a [`MemMap::release`].
    ///
    /// # Errors
    ///
    /// The page, with [`PoolError::NoClass`].
    ///
    /// # Safety
    ///
    /// This pool handed the page out for `node`; it is given back once.
    pub unsafe fn take_back<'f>(
        &self,
        node: NodeId,
        frozen: Frozen<'f, M>,
    ) -> Result<(), (Frozen<'f, M>, PoolError)> {
        let found = self.state.lock().find(node, frozen.order());
        match found {
            Ok(class) => {
                self.put(class, frozen);
                Ok(())
            }
            Err(error) => Err((frozen, error)),
        }
    }

    /// Takes in a compound that was made elsewhere, as one more page: at boot, say, by
    /// [`populate_gigantic`](Vmemmap::populate_gigantic). It is optimised if it can be.
    ///
    /// # Errors
    ///
    /// The compound, with [`PoolError::NoClass`].
    ///
    /// # Safety
    ///
    /// The allocator of the memory map's environment takes the block back at its order, on `node`, and the caller gives it
    /// back to nobody else. The block is one of this pool's map.
    pub unsafe fn adopt<'f>(
        &self,
        node: NodeId,
        frozen: Frozen<'f, M>,
    ) -> Result<(), (Frozen<'f, M>, PoolError)> {
        let found = self.state.lock().find(node, frozen.order());
        let class = match found {
            Ok(class) => class,
            Err(error) => return Err((frozen, error)),
        };
        let mut one = [frozen];
        let _ = self.vmemmap.optimise_batch(&mut one);
        let [frozen] = one;
        self.state.lock().classes[class].in_use += 1;
        self.put(class, frozen);
        Ok(())
    }

    /// A page that was in use, and that nobody refers to any more.
    fn put(&self, class: usize, frozen: Frozen<'_, M>) {
        let mut state = self.state.lock();
        let class_state = &mut state.classes[class];
        class_state.in_use = class_state.in_use.saturating_sub(1);
        let poisoned = class_state.poisoned.len();
        class_state.keep(frozen);
        if class_state.surplus > 0 && class_state.poisoned.len() == poisoned {
            drop(state);
            // What cannot be given back now stays as surplus.
            let _ = self.trim(class);
        }
    }

    /// Takes a page off the free list.
    fn pop(&self, state: &mut StateGuard<'_, M, N>, class: usize) -> Option<Frozen<'m, M>> {
        // SAFETY: all pages of the pool are of its map; the lock is held.
        let free = unsafe { state.classes[class].free.pop(self.map) };
        free.map(mmkit_page::Free::allocate)
    }
}

impl<const N: usize> State<N> {
    fn find(&self, node: NodeId, order: Order) -> Result<usize, PoolError> {
        let found = self.classes.iter().position(|class| class.node == node && class.order == order);
        found.ok_or(PoolError::NoClass { node, order })
    }
}

impl<M: PoolMap, const N: usize> fmt::Debug for HugePool<'_, M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugePool").field("state", &self.state).finish_non_exhaustive()
    }
}
