// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins in corner cases that were looked at on a running kernel.

mod common;

use common::{PAGE, at, order, pages};
use mmkit_folio::{NoPageMapcount, PowerSums};
use mmkit_gup::{Flags, Refusal};
use mmkit_sim::{AddressSpace, Area, Error, PMD_ORDER, World};
use mmkit_sync::atomic::AtomicU64;

type Counts = NoPageMapcount<PowerSums>;

const FORCE: Flags = Flags::PIN.union(Flags::WRITE).union(Flags::FORCE);

fn with(then: impl FnOnce(&World<'_, Counts>, &AddressSpace<'_, Counts>)) {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<Counts>::new(1 << 13, &mut ids).unwrap();
    let space = world.spawn().unwrap();
    then(&world, &space);
    drop(space);
    // A file keeps its folio of four pages.
    let kept = world.frames() - world.free_frames();
    assert!(kept == 0 || kept == 4, "{kept}");
}

#[test]
fn what_is_forced_is_the_writers_own_and_stays_read_only() {
    with(|world, space| {
        let file = world.create_file(b"bytes of a file", order(2)).unwrap();
        space.mmap(pages(0, 4), Area::file(file, 0, false).read_only()).unwrap();
        space.mmap(pages(8, 4), Area::anonymous(order(2)).read_only()).unwrap();
        space.mmap(pages(16, 4), Area::file(file, 0, true).read_only()).unwrap();
        let mut seen = [0; 5];
        space.read(at(0), &mut seen).unwrap();
        space.read(at(8), &mut seen).unwrap();
        // Untouched; shared with a child; a file's, and private.
        let child = space.fork().unwrap();
        for page in [0, 3, 8, 9] {
            assert!(matches!(
                space.pin_range(at(page), PAGE, FORCE - Flags::FORCE),
                Err(Error::ReadOnly { .. })
            ));
            let pin = space.pin_range(at(page), PAGE, FORCE).unwrap();
            pin.write(0, b"debug").unwrap();
            space.read(at(page), &mut seen).unwrap();
            assert_eq!(&seen, b"debug", "page {page}");
            child.read(at(page), &mut seen).unwrap();
            assert_ne!(&seen, b"debug", "page {page}");
            let info = space.page(at(page)).unwrap().unwrap();
            assert_eq!((info.write, info.exclusive), (false, true), "page {page}");
            assert!(matches!(space.write(at(page), b"x"), Err(Error::ReadOnly { .. })));
        }
        world.read_file(file, 0, &mut seen).unwrap();
        assert_eq!(&seen, b"bytes");
        assert!(matches!(space.pin_range(at(16), PAGE, FORCE), Err(Error::ReadOnly { .. })));
    });
}

#[test]
fn a_pinned_page_that_its_owner_drops_lives_until_the_device_is_done() {
    with(|world, space| {
        space.mmap(pages(0, 1), Area::anonymous(order(0))).unwrap();
        space.write(at(0), b"first").unwrap();
        let pin = space.pin(at(0)).unwrap();
        let before = space.page(at(0)).unwrap().unwrap().pfn;
        space.dont_need(pages(0, 1)).unwrap();
        let mut seen = [1; 5];
        space.read(at(0), &mut seen).unwrap();
        assert_eq!(seen, [0; 5]);
        assert_ne!(space.page(at(0)).unwrap().unwrap().pfn, before);
        pin.read(0, &mut seen);
        assert_eq!(&seen, b"first");
        let free = world.free_frames();
        drop(pin);
        assert_eq!(world.free_frames(), free + 1);
    });
}

#[test]
fn a_hole_ends_a_request_with_what_is_before_it() {
    with(|_, space| {
        space.mmap(pages(0, 8), Area::anonymous(order(3))).unwrap();
        space.write(at(0), b"x").unwrap();
        space.munmap(pages(3, 1)).unwrap();
        for flags in [Flags::GET, Flags::PIN | Flags::WRITE, Flags::PIN | Flags::WRITE | Flags::LONGTERM] {
            let pin = space.pin_range(at(0), 8 * PAGE, flags).unwrap();
            assert_eq!((pin.bytes(), pin.stopped()), (3 * PAGE, Some(Refusal::NoArea { va: at(3) })));
            assert_eq!(space.pin_range(at(3), PAGE, flags).err(), Some(Error::NoArea { va: at(3) }));
        }
    });
}

#[test]
fn huge_leaves_are_split_for_those_who_want_pages_and_nobody_else() {
    with(|_, space| {
        let first = 512;
        space.mmap(pages(first, 512), Area::anonymous(PMD_ORDER)).unwrap();
        space.write(at(first), b"x").unwrap();
        let by_pmd = || space.page(at(first)).unwrap().unwrap().by_pmd;
        drop(space.pin_range(at(first), 512 * PAGE, Flags::PIN | Flags::WRITE).unwrap());
        assert!(by_pmd());
        let pin = space.pin_range(at(first + 7), 9 * PAGE, Flags::PIN | Flags::WRITE | Flags::SPLIT).unwrap();
        assert_eq!((pin.bytes(), by_pmd()), (9 * PAGE, false));
    });
}
