// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages with bad frames.

use mmkit_addr::Pfn;
use mmkit_page::{ClaimError, MemMap, PageFlags};
use mmkit_sync::Event;
use mmkit_vmemmap::{Failure, HugePool, HvoError, PoolCounts, PoolError};

use crate::common::*;
use crate::{NODE_0, counts, map_of, recount, world};

fn is_marked<M: MemMap>(map: &M, pfn: Pfn) -> bool {
    map.enter().page(pfn).unwrap().flags().contains(PageFlags::HWPOISON)
}

/// 38: frame 300 of an optimised page in use is bad.
#[test]
fn s38_a_page_with_a_bad_frame_leaves_in_parts() {
    for bad in [300, 0, 511] {
        let world = world();
        let map = map_of(&world);
        let class = [(NODE_0, order(9))];
        let pool = HugePool::new(&map, class).unwrap();
        let _ = pool.resize(NODE_0, order(9), 2).unwrap();
        let page = pool.allocate(NODE_0, order(9)).unwrap();
        let head = page.pfn();
        let frame = head.checked_add(bad).unwrap();
        assert_eq!(map.report_failure(&page, frame), Ok(Failure::Recorded));
        page.free().unwrap();
        let poisoned = PoolCounts { free: 1, poisoned: 1, ..PoolCounts::default() };
        assert_eq!(pool.counts(NODE_0, order(9)), Ok(poisoned));
        // It is not handed out, and not given back.
        let other = pool.allocate(NODE_0, order(9)).unwrap();
        assert_ne!(other.pfn(), head);
        drop(other);
        let report = pool.resize(NODE_0, order(9), 0).unwrap().ok().unwrap();
        assert_eq!((report.done, report.counts.poisoned, report.counts.surplus), (1, 1, 1));
        recount(&pool, &map, &world, &class);
        // Without memory it stays, and the record with it.
        world.frames.set_budget(0);
        assert!(matches!(pool.dissolve(frame), Err(PoolError::Hvo(error)) if error.is_no_memory()));
        assert!(map.is_recorded_failure(frame));
        world.frames.heal();
        recount(&pool, &map, &world, &class);
        pool.dissolve(head).unwrap();
        assert_eq!(pool.counts(NODE_0, order(9)), Ok(PoolCounts::default()));
        assert_eq!(pool.bad_frames(), 1);
        assert!(!map.is_recorded_failure(frame));
        for index in 0..512 {
            let pfn = head.checked_add(index).unwrap();
            assert_eq!(is_marked(&map, pfn), index == bad, "{index}");
        }
        assert_eq!(map.claim(frame).unwrap_err(), ClaimError::Taken { pfn: frame });
        let out: Vec<_> =
            world.frames.outstanding_blocks().iter().filter(|block| block.pfn == frame).copied().collect();
        assert_eq!((out.len(), out[0].order.get()), (1, 0));
        recount(&pool, &map, &world, &class);
    }
}

/// 38, second half: no room for the record.
#[test]
fn s38_a_page_with_an_unknown_bad_frame_is_never_given_back() {
    let world = world();
    let map = map_of(&world);
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    let _ = pool.resize(NODE_0, order(9), 3).unwrap();
    let pages: Vec<_> = (0..3).map(|_| pool.allocate(NODE_0, order(9)).unwrap()).collect();
    let heads: Vec<_> = pages.iter().map(|page| page.pfn()).collect();
    // There is room for two.
    for (page, expected) in pages.iter().zip([Failure::Recorded, Failure::Recorded, Failure::Unreliable]) {
        assert_eq!(map.report_failure(page, page.pfn().checked_add(300).unwrap()), Ok(expected));
    }
    drop(pages);
    let unreliable = PoolError::Hvo(HvoError::Unreliable { pfn: heads[2] });
    for _ in 0..2 {
        assert_eq!(pool.dissolve(heads[2]), Err(unreliable));
    }
    assert_eq!(pool.dissolve(heads[0]), Ok(()));
    assert_eq!(pool.dissolve(heads[1]), Ok(()));
    assert_eq!(pool.dissolve(heads[2]), Err(unreliable));
    assert_eq!(pool.bad_frames(), 2);
    let kept = PoolCounts { poisoned: 1, ..PoolCounts::default() };
    assert_eq!(pool.counts(NODE_0, order(9)), Ok(kept));
    recount(&pool, &map, &world, &class);
    let report = pool.resize(NODE_0, order(9), 0).unwrap();
    assert_eq!((report.done, report.counts), (0, PoolCounts { surplus: 1, ..kept }));
    // Not even by a pool that ends.
    world.log.take();
    drop(pool);
    assert_eq!(world.log.take(), [Event::Leaked { pfn: heads[2].get(), frames: 512 }]);
}

/// The same for a page that keeps all its descriptors.
#[test]
fn s38_a_full_page_is_as_unreliable() {
    let world = world();
    let map = map_of(&world);
    let pool = HugePool::new(&map, [(NODE_0, order(9))]).unwrap();
    map.set_optimising(false);
    let _ = pool.resize(NODE_0, order(9), 1).unwrap();
    let head = pfn(512);
    for index in [7, 8] {
        assert_eq!(pool.report_failure(pfn(512 + index)), Ok(Failure::Recorded));
    }
    assert_eq!(pool.report_failure(pfn(512 + 9)), Ok(Failure::Unreliable));
    assert_eq!(pool.dissolve(head), Err(PoolError::Hvo(HvoError::Unreliable { pfn: head })));
}

#[test]
fn a_failure_of_a_free_page_takes_it_out_of_circulation() {
    let world = world();
    let map = map_of(&world);
    let class = [(NODE_0, order(9))];
    let pool = HugePool::new(&map, class).unwrap();
    let _ = pool.resize(NODE_0, order(9), 2).unwrap();
    assert_eq!(pool.report_failure(pfn(512 + 3)), Ok(Failure::Recorded));
    assert_eq!(pool.report_failure(pfn(512 + 3)), Ok(Failure::Known));
    assert_eq!(pool.report_failure(pfn(512 + 4)), Ok(Failure::Recorded));
    let nowhere = pfn(5 * 512);
    assert_eq!(pool.report_failure(nowhere), Err(PoolError::NotHere { pfn: nowhere }));
    let report = pool.resize(NODE_0, order(9), 0).unwrap();
    assert_eq!((report.done, report.counts.poisoned, report.counts.surplus), (1, 1, 1));
    recount(&pool, &map, &world, &class);
    pool.dissolve(pfn(512)).unwrap();
    assert_eq!((pool.bad_frames(), pool.counts(NODE_0, order(9))), (2, Ok(counts(0, 0, 0))));
    recount(&pool, &map, &world, &class);
}
