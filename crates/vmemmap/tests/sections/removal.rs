// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keeps a range from being removed.

use crate::common::{
    EpochEnv, InSoftware, SoftMap, TestEnv, assert_content, assert_empty, balance, frames, map, order, pfn,
    place, range,
};
use mmkit_addr::{Geometry, Order};
use mmkit_page::MemMap;
use mmkit_sync::Readers;
use mmkit_vmemmap::{SpaceUsage, VmemmapError};

const X86: Geometry = Geometry::X86_64;
/// Frames of an x86-64 section.
const SECTION: u64 = 1 << 15;
/// Frames of an x86-64 subsection.
const SUBSECTION: u64 = 1 << 9;

/// Blocks of an allocator are not made of subsections: what reaches over the edge keeps the range, and all that was
/// claimed before it was met rests again.
#[test]
fn blocks_that_cross_the_edge_keep_the_range() {
    let frames = frames(&X86);
    let env = TestEnv::<Readers>::new(&frames);
    let map: SoftMap<'_> = map::<InSoftware, _>(X86, &frames, &env);
    let sub = |n: u64, count: u64| range(n * SUBSECTION, count * SUBSECTION);
    map.populate(sub(0, 4), Order::ZERO, place(0, 0)).unwrap();
    // Single frames, but for a block of order 4 in subsection 0, and one of order 10 over subsections 2 and 3.
    let merge = |start: u64, to: u8| {
        for o in 0..to {
            for lower in range(start, 1 << to).iter().step_by(2 << o) {
                let upper = lower.checked_add(1 << o).unwrap();
                drop(map.claim(lower).unwrap().merge(map.claim(upper).unwrap()).unwrap());
            }
        }
    };
    merge(16, 4);
    merge(2 * SUBSECTION, 10);
    let head = pfn(2 * SUBSECTION);
    for (part, busy) in [(sub(0, 3), head), (sub(2, 1), head), (sub(3, 1), pfn(3 * SUBSECTION))] {
        assert_eq!(map.remove(part), Err(VmemmapError::Busy { pfn: busy }));
        assert_eq!(map.claim(pfn(0)).unwrap().order(), Order::ZERO);
        assert_eq!(map.claim(pfn(16)).unwrap().order(), order(4));
        assert_eq!(map.claim(head).unwrap().order(), order(10));
        assert_eq!(balance(&map, &frames).own, 32);
    }
    map.remove(sub(2, 2)).unwrap();
    // A compound of the allocator's making, with tails of its own, is a block like any other.
    let frozen = map.claim(pfn(16)).unwrap().allocate().prep().unwrap();
    assert_eq!(map.remove(sub(0, 2)), Err(VmemmapError::Busy { pfn: pfn(16) }));
    drop(frozen.into_free().unwrap());
    map.remove(sub(0, 2)).unwrap();
    assert_empty(&map, &frames, SpaceUsage::default());
}

/// From inside a reader nothing can be removed, and nothing changes.
#[test]
fn removal_is_refused_inside_a_reader() {
    let frames = frames(&X86);
    let env = EpochEnv::new(&frames);
    let map = map::<InSoftware, _>(X86, &frames, &env);
    let all = range(0, SECTION);
    map.populate(all, order(9), place(0, 0)).unwrap();
    let pages = map.space().pages();
    let reader = map.enter();
    assert_eq!(map.remove(all), Err(VmemmapError::InsideReader));
    assert_content(&map, all, order(9), place(0, 0));
    drop(reader);
    assert_eq!((map.space().pages(), map.space().unmaps()), (pages, 0));
    assert_eq!(map.claim(pfn(0)).map(|free| free.order()).ok(), Some(order(9)));
    map.remove(all).unwrap();
    assert_empty(&map, &frames, SpaceUsage::default());
}
