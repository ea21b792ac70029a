// SPDX-License-Identifier: MIT OR Apache-2.0
//! Growing, shrinking, surplus, demotion.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{Geometry, Order};
use mmkit_frame::{FrameAllocator, Request};
use mmkit_page::{ClaimError, Frozen, MemMap, Page, PageFlags, Place};
use mmkit_sync::Event;
use mmkit_vmemmap::{HugePool, HvoError, PoolCounts, PoolError, PoolMap, Vmemmap};

use crate::common::*;
use crate::world::{Map, Of, Space, World, compound};
use crate::{NODE_0, ROOM, SIZE, counts, map_of, node_1, recount, trace, warm_up, world};

#[test]
fn a_pool_refuses_what_is_no_class_of_it() {
    let world = world();
    let map = map_of(&world);
    let (node, size) = (NODE_0, order(9));
    assert_eq!(HugePool::new(&map, [(node, Order::ZERO)]).unwrap_err(), PoolError::SingleFrame);
    let twice = HugePool::new(&map, [(node, size), (node_1(), size), (node, size)]);
    assert_eq!(twice.unwrap_err(), PoolError::Twice { node, order: size });
    let pool = HugePool::new(&map, [(node, size)]).unwrap();
    let none = PoolError::NoClass { node: node_1(), order: size };
    assert_eq!(pool.counts(node_1(), size), Err(none));
    assert_eq!(pool.grow(node_1(), size, 1), Err(none));
    assert_eq!(pool.shrink(node_1(), size, 1), Err(none));
    assert_eq!(pool.resize(node_1(), size, 1), Err(none));
    assert_eq!(pool.retry(node_1(), size), Err(none));
    assert_eq!(pool.set_overcommit(node_1(), size, 1), Err(none));
    assert_eq!(pool.allocate(node_1(), size).unwrap_err(), none);
    let bad = PoolError::Hvo(HvoError::BadOrder { from: size, to: size });
    assert_eq!(pool.demote(node, size, size, 1), Err(bad));
    let none = PoolError::NoClass { node, order: order(8) };
    assert_eq!(pool.demote(node, size, order(8), 1), Err(none));
    assert_eq!(none.to_string(), "the pool has no pages of order 8 on node 0");
    assert_eq!(pool.allocate(node, size).unwrap_err(), PoolError::Empty { node, order: size });
}

#[test]
fn pages_come_from_their_node_and_cost_one_page_of_descriptors() {
    let world = world();
    let map = map_of(&world);
    let classes = [(NODE_0, order(9)), (node_1(), order(9))];
    let pool = HugePool::new(&map, classes).unwrap();
    let before = map.usage();
    let report = pool.grow(NODE_0, order(9), 3).unwrap();
    assert_eq!((report.done, report.full, report.why_full, report.error), (3, 0, None, None));
    assert_eq!(report.counts, counts(3, 0, 0));
    let report = pool.grow(node_1(), order(9), 5).unwrap().ok().unwrap();
    assert_eq!(report.counts, counts(5, 0, 0));
    let after = map.usage();
    assert_eq!(before.own - after.own, 8 * 7);
    assert_eq!(map.verify(), Ok(()));
    recount(&pool, &map, &world, &classes);
    let page = pool.allocate(node_1(), order(9)).unwrap();
    assert!(page.pfn().get() >= NODE_1 && page.has_shared_tails() && page.flags() == PageFlags::HUGETLB);
    assert_eq!(pool.counts(node_1(), order(9)), Ok(counts(4, 1, 0)));
    recount(&pool, &map, &world, &classes);
    drop(page);
    assert_eq!(pool.resize(node_1(), order(9), 0).unwrap().done, 5);
    assert_eq!(pool.resize(NODE_0, order(9), 0).unwrap().done, 3);
    assert_eq!(map.usage().own, before.own);
    recount(&pool, &map, &world, &classes);
}

/// More than there is: what could be had is kept, and the reason told.
#[test]
fn a_target_out_of_reach_is_reported() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    world.frames.set_budget(5 * 512);
    let report = pool.resize(NODE_0, order(9), 9).unwrap();
    assert!(
        matches!(report.error, Some(PoolError::Alloc(error)) if error.request.order == order(9) && error.request.strict)
    );
    assert_eq!((report.done, report.counts), (5, counts(5, 0, 0)));
    world.frames.heal();
    // The allocator has frames that the memory map has not.
    let report = pool.resize(NODE_0, order(9), ROOM + 9).unwrap();
    let absent = ClaimError::Absent { pfn: pfn(SIZE) };
    assert_eq!(report.error, Some(PoolError::Claim(absent)));
    assert_eq!((report.done, report.counts), (ROOM - 5, counts(ROOM, 0, 0)));
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
}

#[test]
fn pages_in_use_become_surplus_and_go_when_they_are_freed() {
    let world = world();
    let map = map_of(&world);
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    warm_up(&pool, &class);
    let before = trace(&map, &world);
    let _ = pool.resize(NODE_0, order(9), 6).unwrap();
    let mut pages: Vec<_> = (0..4).map(|_| pool.allocate(NODE_0, order(9)).unwrap()).collect();
    let report = pool.resize(NODE_0, order(9), 1).unwrap().ok().unwrap();
    assert_eq!((report.done, report.counts), (2, counts(0, 4, 3)));
    recount(&pool, &map, &world, &class);
    drop(pages.pop());
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(0, 3, 2)));
    // Surplus pages are the first to be counted again.
    let report = pool.resize(NODE_0, order(9), 3).unwrap().ok().unwrap();
    assert_eq!((report.done, report.counts), (2, counts(0, 3, 0)));
    drop(pages);
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(3, 0, 0)));
    recount(&pool, &map, &world, &class);
    let report = pool.shrink(NODE_0, order(9), 99).unwrap().ok().unwrap();
    assert_eq!((report.done, report.counts), (3, counts(0, 0, 0)));
    assert!(trace(&map, &world) == before, "something was left behind");
}

#[test]
fn a_page_may_be_made_for_who_needs_it() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    pool.set_overcommit(NODE_0, order(9), 2).unwrap();
    let one = pool.allocate(NODE_0, order(9)).unwrap();
    let two = pool.allocate(NODE_0, order(9)).unwrap();
    assert!(one.has_shared_tails());
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(0, 2, 2)));
    let empty = PoolError::Empty { node: NODE_0, order: order(9) };
    assert_eq!(pool.allocate(NODE_0, order(9)).unwrap_err(), empty);
    drop(two);
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(0, 1, 1)));
    world.frames.fail_nth(1);
    assert!(matches!(pool.allocate(NODE_0, order(9)), Err(PoolError::Alloc(_))));
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(0, 1, 1)));
    drop(one);
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
}

/// 34: descriptors in boot memory go to the boot allocator, those that came later to the allocator.
#[test]
fn s34_boot_memory_goes_its_own_way() {
    let world = world();
    let map = world.map();
    let boot = world.frames.outstanding();
    world.boot.store(boot, Relaxed);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    let _ = pool.resize(NODE_0, order(9), 3).unwrap().ok().unwrap();
    assert_eq!(world.booted.load(Relaxed), 3 * 8);
    // Restored, their descriptors are the allocator's.
    let _ = pool.resize(NODE_0, order(9), 0).unwrap().ok().unwrap();
    let _ = pool.resize(NODE_0, order(9), 4).unwrap().ok().unwrap();
    assert_eq!(world.booted.load(Relaxed), 4 * 8);
    let boot_frames_out = world.booted.load(Relaxed);
    assert_eq!(world.frames.outstanding(), map.usage().total() + 4 * 512 + boot_frames_out);
}

/// 39: the switch leaves pages alone that are there, and has new ones keep their descriptors.
#[test]
fn s39_the_switch_is_for_new_pages() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    let before = map.usage().own;
    let _ = pool.resize(NODE_0, order(9), 2).unwrap();
    map.set_optimising(false);
    let report = pool.resize(NODE_0, order(9), 5).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full, report.why_full), (3, 3, Some(HvoError::Off)));
    assert_eq!(before - map.usage().own, 2 * 7);
    map.set_optimising(true);
    let report = pool.resize(NODE_0, order(9), 6).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full), (1, 0));
    let report = pool.resize(NODE_0, order(9), 0).unwrap().ok().unwrap();
    assert_eq!(report.done, 6);
    assert_eq!(map.usage().own, before);
}

/// A9: all huge pages freed under a starved allocator.
#[test]
fn a9_a_pool_with_a_reserve_comes_back_whole() {
    const ROOM: u64 = (1 << 15) / 512 - 2;
    let world = World::new(Geometry::X86_64, 1 << 15);
    let map = world.map();
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    map.set_reserve(NODE_0, order(9), true).unwrap();
    let report = pool.resize(NODE_0, order(9), ROOM).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full), (ROOM, 0));
    world.frames.set_budget(0);
    let report = pool.resize(NODE_0, order(9), 0).unwrap();
    assert_eq!((report.done, report.error, report.counts), (ROOM, None, PoolCounts::default()));
    assert_eq!(map.usage().reserve, 7);
    // Whole blocks, of order 9: 7 frames for each page came out of those that were freed first.
    let at_least = ROOM - (7 * ROOM).div_ceil(512);
    world.frames.heal();
    let request = Request::new(order(9)).strict();
    let all =
        std::iter::from_fn(|| world.frames.allocate(request).ok().filter(|block| block.get() < world.size));
    let blocks: Vec<_> = all.collect();
    assert!(blocks.len() as u64 >= at_least, "{} of at least {at_least}", blocks.len());
    let beyond = world.frames.outstanding_blocks().last().unwrap().pfn;
    for block in blocks.into_iter().chain([beyond]) {
        // SAFETY: taken above, at this order.
        unsafe { world.frames.deallocate(block, order(9)) };
    }
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
}

/// A9, while somebody else takes every frame as soon as it is free.
#[test]
fn a9_a_pool_with_a_reserve_comes_back_whatever_others_take() {
    const ROOM: u64 = (1 << 16) / 512 - 3;
    let world = World::new(Geometry::X86_64, 1 << 16);
    let map = world.map();
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    map.set_reserve(NODE_0, order(9), true).unwrap();
    let report = pool.resize(NODE_0, order(9), ROOM).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full), (ROOM, 0));
    world.frames.fail_every(1);
    let report = pool.resize(NODE_0, order(9), 0).unwrap();
    assert_eq!((report.done, report.error, report.counts), (ROOM, None, PoolCounts::default()));
    assert_eq!(map.usage().reserve, 7, "and nothing more");
    world.frames.heal();
    recount(&pool, &map, &world, &class);
    // One page is enough for 73 others.
    let request = Request::new(order(9)).strict();
    let blocks = std::iter::from_fn(|| world.frames.allocate(request).ok());
    let blocks: Vec<_> = blocks.take_while(|block| block.get() < world.size).collect();
    assert!(blocks.len() as u64 >= ROOM - (7 * ROOM).div_ceil(512), "{} of {ROOM}", blocks.len());
    let left = world.frames.outstanding_blocks().into_iter().filter(|block| block.order == order(9));
    for block in left {
        // SAFETY: taken above, at this order.
        unsafe { world.frames.deallocate(block.pfn, order(9)) };
    }
    assert_eq!(map.verify(), Ok(()));
}

/// The same without a reserve: nothing comes back, and everything does once there are frames for one page.
#[test]
fn without_a_reserve_the_pages_stay_as_surplus_until_there_is_memory() {
    let world = world();
    let map = map_of(&world);
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    let _ = pool.resize(NODE_0, order(9), ROOM).unwrap();
    for few in 0..7 {
        world.frames.set_budget(few);
        let report = pool.resize(NODE_0, order(9), 0).unwrap();
        assert!(matches!(report.error, Some(PoolError::Hvo(error)) if error.is_no_memory()), "{report:?}");
        assert_eq!((report.done, report.counts), (0, counts(ROOM, 0, ROOM)));
        recount(&pool, &map, &world, &class);
        // They are as usable as ever.
        let page = pool.allocate(NODE_0, order(9)).unwrap();
        assert!(page.has_shared_tails());
        page.free().unwrap();
        world.frames.heal();
    }
    world.frames.set_budget(7);
    let report = pool.retry(NODE_0, order(9)).unwrap().ok().unwrap();
    assert_eq!((report.done, report.counts), (ROOM, PoolCounts::default()));
    recount(&pool, &map, &world, &class);
}

/// A5, the pool's part: a page that somebody else refers to is not freed, and is once they let go.
#[test]
fn a5_a_page_is_freed_after_the_last_reference() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    let _ = pool.resize(NODE_0, order(9), 1).unwrap();
    let page = pool.allocate(NODE_0, order(9)).unwrap();
    let frame = page.pfn().checked_add(5).unwrap();
    let pin = map.try_get(frame).unwrap();
    assert_eq!((pin.pfn(), page.count()), (page.pfn(), 2));
    let page = page.free().unwrap_err();
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(0, 1, 0)));
    drop(pin);
    page.free().unwrap();
    assert_eq!(pool.resize(NODE_0, order(9), 0).unwrap().done, 1);
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
}

/// 1G to 2M, as 512 optimised pages that go back one by one.
#[test]
fn a_gigantic_page_becomes_512_huge_ones() {
    let world = World::new(Geometry::X86_64, 1 << 19);
    let map = world.map();
    let classes = [(NODE_0, order(18)), (NODE_0, order(9))];
    let pool = HugePool::new(&map, classes).unwrap();
    let before = map.usage();
    let report = pool.resize(NODE_0, order(18), 1).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full), (1, 0));
    assert_eq!(before.own - map.usage().own, 4095);
    let report = pool.demote(NODE_0, order(18), order(9), 2).unwrap();
    assert_eq!(report.error, Some(PoolError::Empty { node: NODE_0, order: order(18) }));
    assert_eq!((report.done, report.full, report.counts), (512, 0, counts(512, 0, 0)));
    assert_eq!(pool.counts(NODE_0, order(18)), Ok(PoolCounts::default()));
    assert_eq!(before.own - map.usage().own, 512 * 7);
    recount(&pool, &map, &world, &classes);
    let report = pool.resize(NODE_0, order(9), 0).unwrap().ok().unwrap();
    assert_eq!(report.done, 512);
    assert_eq!(map.usage().own, before.own);
    recount(&pool, &map, &world, &classes);
}

#[test]
fn a_dissolved_page_leaves_the_pool_and_its_surplus() {
    let world = world();
    let map = map_of(&world);
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    let _ = pool.resize(NODE_0, order(9), 4).unwrap();
    let page = pool.allocate(NODE_0, order(9)).unwrap();
    let used = page.pfn().checked_add(17).unwrap();
    assert_eq!(pool.dissolve(used), Err(PoolError::NotHere { pfn: used }));
    let other = map.enter().page(pfn(2 * 512 + 300)).unwrap().head();
    assert_ne!(other, page.pfn());
    let inside = other.checked_add(300).unwrap();
    world.frames.set_budget(0);
    assert!(matches!(pool.dissolve(inside), Err(PoolError::Hvo(error)) if error.is_no_memory()));
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(3, 1, 0)));
    // A surplus that cannot be restored either.
    let report = pool.resize(NODE_0, order(9), 3).unwrap();
    assert_eq!(report.counts, counts(3, 1, 1));
    recount(&pool, &map, &world, &class);
    world.frames.heal();
    pool.dissolve(inside).unwrap();
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(2, 1, 0)));
    assert!(map.claim(other).is_ok());
    recount(&pool, &map, &world, &class);
    assert_eq!(pool.dissolve(inside), Err(PoolError::NotHere { pfn: inside }));
}

#[test]
fn a_pool_that_ends_gives_its_pages_back() {
    let world = world();
    let map = map_of(&world);
    let before = map.usage().own;
    let pool = HugePool::new(&map, [(NODE_0, order(9)), (node_1(), order(10))]).unwrap();
    let _ = pool.resize(NODE_0, order(9), 7).unwrap();
    let _ = pool.resize(node_1(), order(10), 3).unwrap();
    drop(pool);
    assert_eq!(map.usage().own, before);
    balance(&map, &world.frames);
    // What cannot be restored is lost, and said so.
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    let _ = pool.resize(NODE_0, order(9), 2).unwrap();
    world.frames.set_budget(0);
    world.log.take();
    drop(pool);
    let lost = world.log.take();
    assert_eq!(lost.len(), 2);
    assert!(lost.iter().all(|event| matches!(event, Event::Leaked { frames: 512, .. })), "{lost:?}");
    assert_eq!(world.frames.outstanding(), map.usage().total() + 2 * 512);
    world.frames.heal();
}

/// A kernel's memory map: what loses its last reference goes back to the pool.
struct Kernel<'a> {
    vmemmap: Map<'a>,
    pool: OnceLock<&'a HugePool<'a, Kernel<'a>, 1>>,
}

// SAFETY: every call is passed on to one memory map.
unsafe impl<'a> MemMap for Kernel<'a> {
    type Read = <Map<'a> as MemMap>::Read;
    type Counts = <Map<'a> as MemMap>::Counts;

    fn read_side(&self) -> &Self::Read {
        self.vmemmap.read_side()
    }

    unsafe fn descriptor(&self, pfn: mmkit_addr::Pfn) -> Option<std::ptr::NonNull<Page>> {
        // SAFETY: passed on to the caller.
        unsafe { self.vmemmap.descriptor(pfn) }
    }

    fn release(&self, frozen: Frozen<'_, Self>) {
        let Some(pool) = self.pool.get() else { return drop(frozen.into_free()) };
        assert!(frozen.flags().contains(PageFlags::HUGETLB));
        // SAFETY: in this test only the pool's pages are marked, and whoever drops the last reference does so once.
        unsafe { pool.take_back(NODE_0, frozen) }.unwrap();
    }
}

impl<'a> PoolMap for Kernel<'a> {
    type Space = Space<'a>;
    type Env = Of<'a>;

    fn vmemmap(&self) -> &Vmemmap<Space<'a>, Of<'a>> {
        &self.vmemmap
    }
}

#[test]
fn the_last_reference_brings_a_page_back() {
    // The map refers to the pool, which refers to the map: both live as long as the program.
    let world: &'static World = Box::leak(Box::new(world()));
    let kernel: &'static Kernel<'static> =
        Box::leak(Box::new(Kernel { vmemmap: map_of(world), pool: OnceLock::new() }));
    let pool: &'static HugePool<'static, Kernel<'static>, 1> =
        Box::leak(Box::new(HugePool::new(kernel, [(NODE_0, order(9))]).unwrap()));
    kernel.pool.set(pool).ok().unwrap();
    let _ = pool.resize(NODE_0, order(9), 2).unwrap();
    let page = pool.allocate(NODE_0, order(9)).unwrap();
    let pin = page.try_clone().unwrap();
    drop(page);
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(1, 1, 0)));
    drop(pin);
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(2, 0, 0)));
    let folio = pool.allocate(NODE_0, order(9)).unwrap().into_folio();
    drop(folio);
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(2, 0, 0)));
    assert_eq!(pool.resize(NODE_0, order(9), 0).unwrap().done, 2);
    recount(pool, kernel, world, &[(NODE_0, order(9))]);
}

#[test]
fn a_compound_of_boot_time_joins_the_pool() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    let block = world.frames.allocate(Request::new(order(9)).strict()).unwrap();
    let frozen = compound(&map, block, order(9));
    // SAFETY: the block is the allocator's, and nobody else's.
    let (frozen, error) = unsafe { pool.adopt(node_1(), frozen) }.unwrap_err();
    assert_eq!(error, PoolError::NoClass { node: node_1(), order: order(9) });
    // SAFETY: as above.
    unsafe { pool.adopt(NODE_0, frozen) }.unwrap();
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(counts(1, 0, 0)));
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
    let page = pool.allocate(NODE_0, order(9)).unwrap();
    assert!(page.has_shared_tails());
    drop(page);
    assert_eq!(pool.resize(NODE_0, order(9), 0).unwrap().done, 1);
    recount(&pool, &map, &world, &[(NODE_0, order(9))]);
}

/// Compounds that were populated with shared tails are pages of a pool like others.
#[test]
fn populated_compounds_can_be_pooled() {
    let world = world();
    let map = world.empty();
    map.populate(range(0, 512), Order::ZERO, Place::default()).unwrap();
    map.populate(range(512, SIZE - 512), order(9), Place::default()).unwrap();
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    let before = map.usage().own;
    let report = pool.resize(NODE_0, order(9), 5).unwrap().ok().unwrap();
    assert_eq!((report.done, report.full), (5, 0));
    assert_eq!(map.usage().own, before);
    recount(&pool, &map, &world, &class);
    let report = pool.resize(NODE_0, order(9), 0).unwrap().ok().unwrap();
    assert_eq!(report.done, 5);
    assert_eq!(map.usage().own, before + 5 * 7);
    assert_eq!(map.verify(), Ok(()));
}
