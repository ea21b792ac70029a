// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restoring where the allocator has nothing left.

use mmkit_addr::{Geometry, NodeId, Order};
use mmkit_frame::{FrameAllocator, Request};

use crate::common::*;
use crate::world::*;

const X86: Geometry = Geometry::X86_64;

/// A9: all huge pages freed under a starved allocator, with a reserve of one.
#[test]
fn a9_all_huge_pages_come_back_from_a_starved_allocator() {
    for count in [1, 2, 73, 74, 200] {
        let world = World::new(X86, 1 << 17);
        let map = world.map();
        map.set_reserve(NodeId::ZERO, order(9), true).unwrap();
        assert_eq!(map.usage().reserve, 7);
        let mut pool: Vec<_> = world.pool(&map, 9, 0..count);
        assert_eq!(map.optimise_batch(&mut pool).done as u64, count);
        balance(&map, &world.frames);
        // Nothing is left: what is freed is all that there is.
        // This allocator takes the lowest free frames, so in this order it goes on with a block that is broken already, as
        // a buddy allocator does.
        let mut blocks: Vec<_> =
            (0..count).map(|_| world.frames.allocate(Request::new(order(9))).unwrap()).collect();
        blocks.sort_unstable_by(|a, b| b.cmp(a));
        world.starve();
        let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
        let report = map.free_batch(&mut slots, |folio| {
            take_apart(folio);
            // The compound's own memory: a block that the allocator gets, of 512 frames.
            // SAFETY: allocated above at this order, and never used.
            unsafe { world.frames.deallocate(blocks.pop().unwrap(), order(9)) };
        });
        assert_eq!((report.done as u64, report.failed), (count, 0), "{report:?}");
        assert!(slots.iter().all(Option::is_none));
        assert_eq!(map.usage().reserve, 7, "refilled");
        let mut whole = 0;
        while world.frames.allocate(Request::new(order(9))).is_ok() {
            whole += 1;
        }
        let least = count - (7 * count).div_ceil(512);
        assert!(whole >= least, "{whole} whole blocks of {count}, not {least}");
    }
}

/// Somebody else takes all that a freed page leaves, at once: the reserve has what it lacks already, tables too.
#[test]
fn a9_others_may_take_whatever_is_freed() {
    for (size, count, reserve) in [(9, 80, 7), (18, 2, 4095)] {
        let world = World::new(X86, count << size);
        let map = world.empty();
        let mut pool = world.restored(&map, size, count);
        map.set_reserve(NodeId::ZERO, order(size), true).unwrap();
        assert_eq!(map.optimise_batch(&mut pool).done as u64, count);
        let mut blocks: Vec<_> =
            (0..count).map(|_| world.frames.allocate(Request::new(order(size))).unwrap()).collect();
        world.starve();
        let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
        let report = map.free_batch(&mut slots, |folio| {
            take_apart(folio);
            // SAFETY: allocated above at this order, and never used.
            unsafe { map.free_block(NodeId::ZERO, blocks.pop().unwrap(), order(size)) };
            world.starve();
        });
        assert_eq!((report.done as u64, report.failed), (count, 0), "{report:?}");
        assert_eq!(map.usage().reserve, reserve);
    }
}

/// What a reserve does not lack, or cannot have, goes to the allocator in one block; what it has too much, at the end.
#[test]
fn a_block_is_broken_only_for_what_is_lacking() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let node = |node: u16| NodeId::new(node).unwrap();
    let block = |at: u16| world.frames.allocate(Request::new(order(9)).on_node(node(at)).strict()).unwrap();
    let (here, there) = (block(0), block(1));
    map.set_reserve(node(0), order(9), true).unwrap();
    let splits = || world.frames.stats().splits;
    // Full: nothing is asked for.
    let before = splits();
    // SAFETY: allocated above at this order, and never used.
    unsafe { map.free_block(node(0), here, order(9)) };
    assert_eq!((splits(), map.usage().reserve), (before, 7));
    let here = block(0);
    let mut pool: Vec<_> = world.pool(&map, 9, 0..1);
    map.optimise(&mut pool[0]).unwrap();
    world.starve();
    map.restore(&mut pool[0]).unwrap();
    assert_eq!(map.usage().reserve, 1, "the page of tails came back");
    world.starve();
    // Of a node without a reserve.
    // SAFETY: as above.
    unsafe { map.free_block(node(1), there, order(9)) };
    assert_eq!((splits(), map.usage().reserve), (before, 1));
    assert!(world.frames.allocate(Request::new(order(9))).is_ok(), "whole");
    // SAFETY: as above.
    unsafe { map.free_block(node(0), here, order(9)) };
    assert_eq!((splits(), map.usage().reserve), (before + 1, 1 + 512));
    assert!(world.frames.allocate(Request::new(Order::ZERO)).is_err(), "not one frame for others");
    // A batch ends, if only one of a page that was restored before.
    let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
    assert_eq!(map.free_batch(&mut slots, take_apart).already, 1);
    assert_eq!(map.usage().reserve, 7);
    assert!(world.frames.allocate(Request::new(order(8))).is_ok());
    assert_eq!(map.verify(), Ok(()));
}

/// Without a reserve the kernel's answer: it stays optimised, is reported, and can be tried again.
#[test]
fn a9_without_a_reserve_they_stay_optimised() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool: Vec<_> = world.pool(&map, 9, 0..3);
    assert_eq!(map.optimise_batch(&mut pool).done, 3);
    let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
    world.fail_from(1);
    let report = map.free_batch(&mut slots, |_| panic!("nothing can be freed"));
    world.frames.heal();
    assert_eq!((report.done, report.failed), (0, 3));
    assert!(report.error.unwrap().1.is_no_memory());
    assert!(slots.iter().flatten().all(|folio| folio.has_shared_tails()));
    let report = map.free_batch(&mut slots, take_apart);
    assert_eq!((report.done, report.failed), (3, 0));
}
