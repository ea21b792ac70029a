// SPDX-License-Identifier: MIT OR Apache-2.0
//! Restoring where the allocator has nothing left.
#![cfg(all(not(mmkit_loom), feature = "pgtable"))]

mod common;
mod hvo;

use mmkit_addr::{Geometry, NodeId};
use mmkit_frame::{FrameAllocator, Request};

use common::*;
use hvo::*;

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
