// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused changes nothing; who owns what, step by step; memory that runs out.

mod common;

use common::{PAGE, at, order, pages};
use mmkit_addr::VirtAddr;
use mmkit_folio::{Mapcounts, NoPageMapcount, PageMapcount, PowerSums, TwoSlots};
use mmkit_sim::{Area, Error, PMD_ORDER, World};
use mmkit_sync::atomic::AtomicU64;

type Exact = NoPageMapcount<PowerSums>;

/// Three share a folio, the first two leave, the third writes: copies that it makes.
fn copies_of_the_third<C: Mapcounts>() -> u64 {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<C>::new(256, &mut ids).unwrap();
    let first = world.spawn().unwrap();
    first.mmap(pages(0, 16), Area::anonymous(order(4))).unwrap();
    first.write(at(0), b"x").unwrap();
    let second = first.fork().unwrap();
    let third = first.fork().unwrap();
    drop((first, second));
    (0..16).for_each(|page| third.write(at(page), b"y").unwrap());
    let statistics = world.statistics();
    assert_eq!(statistics.copied + statistics.reused, 16);
    statistics.copied
}

#[test]
fn two_slots_lose_the_third_and_power_sums_do_not() {
    // Two slots say "shared" until the last page, which is copied because it is the last mapping of a larger folio.
    assert_eq!(copies_of_the_third::<NoPageMapcount<TwoSlots>>(), 16);
    assert_eq!(copies_of_the_third::<Exact>(), 0);
    assert_eq!(copies_of_the_third::<PageMapcount<PowerSums>>(), 0);
}

#[test]
fn bad_arguments_are_errors() {
    assert!(matches!(World::<Exact>::new(0, &mut []), Err(Error::TooMuch { frames: 0 })));
    assert!(matches!(World::<Exact>::new(u64::MAX, &mut []), Err(Error::TooMuch { .. })));
    let mut ids = [AtomicU64::new(0)];
    let world = World::<Exact>::new(64, &mut ids).unwrap();
    let space = world.spawn().unwrap();
    let area = Area::anonymous(order(0));
    let large = Area::anonymous(order(10));
    assert_eq!(space.mmap(pages(0, 1), large), Err(Error::BadOrder { order: order(10), max: PMD_ORDER }));
    assert!(matches!(space.mmap(pages(0, 0), area), Err(Error::BadRange { .. })));
    assert!(matches!(world.create_file(b"x", order(10)), Err(Error::BadOrder { .. })));
    let file = world.create_file(b"contents", order(1)).unwrap();
    let past = Error::PastEnd { file, end: 3 * PAGE, bytes: 2 * PAGE };
    assert_eq!(space.mmap(pages(0, 2), Area::file(file, 1, true)), Err(past));
    assert!(space.mmap(pages(0, 2), Area::file(file, u64::MAX, true)).is_err());
    assert!(world.read_file(file, u64::MAX, &mut [0; 2]).is_err());
    let other = World::<Exact>::new(64, &mut []).unwrap();
    assert!(matches!(other.spawn(), Err(Error::Ids(_))));
    assert_eq!(other.read_file(file, 0, &mut [0]), Err(Error::NoFile { file }));

    space.mmap(pages(0, 2), Area::file(file, 0, false).read_only()).unwrap();
    assert_eq!(space.mmap(pages(1, 9), area), Err(Error::Occupied { va: at(1) }));
    assert_eq!(space.write(at(1), b"x"), Err(Error::ReadOnly { va: at(1) }));
    assert_eq!(space.read(at(2), &mut [0]), Err(Error::NoArea { va: at(2) }));
    assert!(space.read(VirtAddr::MAX, &mut [0; 2]).is_err());
    assert_eq!(space.split_pmd(at(0)), Err(Error::NotHuge { va: at(0) }));
    assert_eq!(space.mremap(pages(0, 3), at(9)), Err(Error::NoArea { va: at(2) }));
    assert_eq!(space.mremap(pages(0, 2), at(1)), Err(Error::Occupied { va: at(1) }));
    assert!(space.mremap(pages(0, 2), VirtAddr::MAX).is_err());
    assert_eq!(space.collapse(VirtAddr::MAX), Err(Error::NoArea { va: VirtAddr::MAX }));
    assert_eq!(space.split_pmd(VirtAddr::MAX), Err(Error::NoArea { va: VirtAddr::MAX }));
    assert_eq!(space.collapse(at(0)), Err(Error::NoArea { va: at(2) }));
}

#[test]
fn pins_keep_their_page_through_a_fork() {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<Exact>::new(64, &mut ids).unwrap();
    let parent = world.spawn().unwrap();
    parent.mmap(pages(0, 4), Area::anonymous(order(2))).unwrap();
    parent.write(at(1), b"before the fork").unwrap();
    let pin = parent.pin(at(1)).unwrap();
    let child = parent.fork().unwrap();
    parent.write(at(1), b"seen by the pin").unwrap();
    let mut seen = [0; 15];
    pin.read(0, &mut seen);
    assert_eq!(&seen, b"seen by the pin");
    child.read(at(1), &mut seen).unwrap();
    assert_eq!(&seen, b"before the fork");
    // The pin outlives everything but the world.
    drop((parent, child));
    assert!(world.free_frames() < world.frames());
    drop(pin);
    assert_eq!(world.free_frames(), world.frames());
}

#[test]
fn memory_that_runs_out_leaves_contents_alone() {
    // With each number of frames something else fails: a page, a table, a child, a move.
    let mut failed = [0; 4];
    for frames in 8..60 {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<Exact>::new(frames, &mut ids).unwrap();
        let Ok(space) = world.spawn() else { continue };
        space.mmap(pages(0, 32), Area::anonymous(order(2))).unwrap();
        let full = (0..32).find(|&page| space.write(at(page), &[page as u8 + 1]).is_err()).unwrap_or(32);
        failed[0] += u32::from(full < 32);
        let child = space.fork();
        failed[1] += u32::from(child.is_err());
        for page in 0..full {
            // Copies, in the parent, until there is no memory left.
            failed[2] += u32::from(space.write(at(page), &[page as u8 + 1]).is_err());
        }
        let to = VirtAddr::new(1 << 40);
        let moved = space.mremap(pages(0, 32), to).is_ok();
        failed[3] += u32::from(!moved);
        for (space, moved) in child.ok().map(|child| (child, false)).into_iter().chain([(space, moved)]) {
            for page in 0..full {
                let va = if moved { VirtAddr::new(to.get() + page as u64 * PAGE) } else { at(page) };
                let mut seen = [0];
                space.read(va, &mut seen).unwrap();
                assert_eq!(seen, [page as u8 + 1], "{frames} frames");
            }
        }
        assert_eq!(world.free_frames(), frames, "frames leaked");
        assert_eq!(world.statistics().anon, 0);
    }
    assert!(failed.iter().all(|&n| n > 0), "{failed:?}");
}

#[test]
fn collapse_keeps_contents_whether_there_is_memory_or_not() {
    let mut collapsed = [0, 0];
    for left in 0..6 {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<Exact>::new(1024, &mut ids).unwrap();
        let (space, other) = (world.spawn().unwrap(), world.spawn().unwrap());
        space.mmap(pages(0, 512), Area::anonymous(order(0))).unwrap();
        for page in (0..100).step_by(7) {
            space.write(at(page), &[page as u8 + 1]).unwrap();
        }
        // All but one block of 512 frames, and `left` frames more.
        other.mmap(pages(0, 512), Area::anonymous(order(0))).unwrap();
        let mut free = 0..512;
        while world.free_frames() > 512 + left {
            other.write(at(free.next().unwrap()), &[1]).unwrap();
        }
        match space.collapse(at(0)) {
            Ok(()) => collapsed[1] += 1,
            Err(Error::Alloc(_)) => collapsed[0] += 1,
            Err(error) => panic!("{error}"),
        }
        for page in 0..100 {
            let mut seen = [9];
            if page % 7 == 0 || world.statistics().anon_pmd > 0 {
                space.read(at(page), &mut seen).unwrap();
                assert_eq!(seen, [if page % 7 == 0 { page as u8 + 1 } else { 0 }]);
            }
        }
        drop((space, other));
        assert_eq!(world.free_frames(), 1024, "frames leaked");
    }
    assert!(collapsed.iter().all(|&n| n > 0), "{collapsed:?}");
}
