// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens beside a stage, and what is refused meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mmkit_addr::{Geometry, Order};
use mmkit_page::MemMap;
use mmkit_vmemmap::{Populate, VmemmapError, VmemmapSpace};

use super::common::{
    self, Fixture, InSoftware, assert_absent, assert_content, order, pfn, place, range, verified,
};
use super::{Crowd, SECTION, SUBSECTION, with_map};

over_spaces! {
    staged_frames_are_nobody_elses;
    neighbours_in_a_section_come_and_go;
    a_hole_in_boot_memory_stays_while_it_is_staged;
    compounds_across_sections_are_not_cut;
    early_memory_is_not_staged;
}

fn staged_frames_are_nobody_elses<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let all = range(SECTION, 2 * SECTION);
        let staged = map.stage(Populate::new(all).compounds(order(9))).unwrap();
        let taken = |pfn| VmemmapError::Staged { pfn };
        let usage = verified(map, frames);
        let part = range(2 * SECTION + 5 * SUBSECTION, SUBSECTION);
        for o in [Order::ZERO, order(9)] {
            assert_eq!(map.populate(part, o, place(0, 0)), Err(taken(part.start())));
        }
        assert_eq!(map.populate(range(0, 4 * SECTION), order(9), place(0, 0)), Err(taken(all.start())));
        assert_eq!(map.remove(part), Err(taken(part.start())));
        assert_eq!(map.stage(Populate::new(part)).map(drop), Err(taken(part.start())));
        assert_eq!(map.offline(all), Err(VmemmapError::Absent { pfn: all.start() }));
        assert_eq!(taken(part.start()).errno(), 16);
        assert!(map.is_covered(part.start()) && !map.is_present(part.start()));
        // Two that overlap: the later one is refused and leaves nothing, in the parts that it had as well.
        assert_eq!(map.stage(Populate::new(range(0, 2 * SECTION))).map(drop), Err(taken(all.start())));
        assert_eq!(verified(map, frames), usage);
        assert_absent(map, range(0, SUBSECTION));
        staged.publish();
        assert_content(map, all, order(9), place(0, 0));
    });
}

/// Others in the same section, in the same page of descriptors where those are large, come and go meanwhile.
fn neighbours_in_a_section_come_and_go<F: Fixture>() {
    for (geometry, o) in
        [(Geometry::X86_64, 9), (Geometry::X86_64, 0), (Geometry::ARM64_16K, 0), (Geometry::ARM64_64K, 2)]
    {
        if F::TABLES && geometry.name() != Geometry::X86_64.name() {
            continue;
        }
        for (there_before, publish) in [(true, true), (true, false), (false, true), (false, false)] {
            with_map::<F>(geometry, |map, frames, _| {
                let sub = geometry.frames_per_subsection();
                let (low, mine, high) = (range(sub, sub), range(2 * sub, 3 * sub), range(5 * sub, sub));
                let sides = [(low, Order::ZERO), (high, order(o))];
                let come = || sides.map(|(side, o)| map.populate(side, o, place(0, 0)).unwrap());
                let go = || sides.map(|(side, _)| map.remove(side).unwrap());
                if there_before {
                    come();
                }
                let before = verified(map, frames);
                let staged = map.stage(Populate::new(mine).compounds(order(o))).unwrap();
                if there_before {
                    go();
                    verified(map, frames);
                    staged.write(&Crowd(2));
                    come();
                } else {
                    come();
                    staged.write(&Crowd(2));
                    verified(map, frames);
                    go();
                }
                verified(map, frames);
                if publish {
                    staged.publish();
                    assert_content(map, mine, order(o), place(0, 0));
                    verified(map, frames);
                    map.remove(mine).unwrap();
                } else {
                    drop(staged);
                    assert_absent(map, mine);
                }
                assert_eq!(verified(map, frames), before, "{geometry}");
                if there_before {
                    assert_content(map, low, Order::ZERO, place(0, 0));
                    assert_content(map, high, order(o), place(0, 0));
                }
            });
        }
    }
}

fn a_hole_in_boot_memory_stays_while_it_is_staged<F: Fixture>() {
    for publish in [true, false] {
        with_map::<F>(Geometry::X86_64, |map, frames, _| {
            let (boot, hole) = (range(SECTION, 8 * SUBSECTION), range(SECTION + 8 * SUBSECTION, SECTION));
            map.populate_with(Populate::new(boot).early()).unwrap();
            let staged = map.stage(Populate::new(hole).compounds(order(9))).unwrap();
            // The section is still in use when its last frame from boot goes.
            map.remove(boot).unwrap();
            verified(map, frames);
            staged.write(&Crowd(2));
            if publish {
                staged.publish();
                for pfn in [hole.start(), hole.last().unwrap()] {
                    assert_eq!(map.head(pfn), Some(pfn.align_down(order(9))));
                }
                verified(map, frames);
                map.remove(hole).unwrap();
            } else {
                drop(staged);
            }
            assert_eq!(verified(map, frames).own, 0);
            assert_eq!(map.section(pfn(SECTION)), None);
        });
    }
}

fn compounds_across_sections_are_not_cut<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        // Two sections of a 1G compound.
        let mine = range((1 << 18) + 2 * SECTION, 2 * SECTION);
        let staged = map.stage(Populate::new(mine).compounds(order(18))).unwrap();
        let other = range((1 << 18) + 4 * SECTION, SECTION);
        assert_eq!(
            map.populate(other, order(9), place(0, 0)),
            Err(VmemmapError::OtherTails { pfn: mine.start(), order: order(18), place: place(0, 0) })
        );
        let alien = VmemmapError::OtherTails { pfn: mine.start(), order: order(18), place: place(0, 0) };
        assert_eq!(map.populate(other, Order::ZERO, place(0, 0)), Err(alien));
        // The rest of it goes together with that.
        map.populate(other, order(18), place(0, 0)).unwrap();
        verified(map, frames);
        drop(staged);
        verified(map, frames);
        map.remove(other).unwrap();
        map.populate(other, Order::ZERO, place(0, 0)).unwrap();
        let present = VmemmapError::Present { pfn: other.start() };
        assert_eq!(map.stage(Populate::new(mine).compounds(order(18))).map(drop), Err(present));
    });
}

fn early_memory_is_not_staged<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let all = range(SECTION, SECTION);
        let early = map.stage(Populate::new(all).early()).map(drop);
        assert_eq!(early, Err(VmemmapError::Early { pfn: all.start() }));
        let order = map.stage(Populate::new(all).compounds(order(40))).map(drop);
        assert!(matches!(order, Err(VmemmapError::OrderTooLarge { .. })));
        assert_eq!(verified(map, frames).total(), map.space().usage().upper_tables);
        // Offline, and claimed by nobody before it is online.
        map.stage(Populate::new(all).offline()).unwrap().publish();
        assert!(map.claim(all.start()).is_err());
        let other = map.stage(Populate::new(range(2 * SECTION, SECTION))).unwrap();
        assert_eq!(map.online(range(SECTION, SECTION)), Ok(()));
        assert!(map.claim(all.start()).is_ok());
        assert_eq!(
            map.offline(range(2 * SECTION, SECTION)),
            Err(VmemmapError::Absent { pfn: pfn(2 * SECTION) })
        );
        drop(other);
        // Beside what is staged the section keeps its state.
        map.remove(range(SECTION + SUBSECTION, SUBSECTION)).unwrap();
        let again = map.stage(Populate::new(range(SECTION + SUBSECTION, SUBSECTION))).unwrap();
        let staged = VmemmapError::Staged { pfn: pfn(SECTION + SUBSECTION) };
        assert_eq!(map.offline(all), Err(staged));
        drop(again);
        map.offline(all).unwrap();
        map.online(all).unwrap();
    });
}

/// One thread stages, writes, and publishes or gives up; another populates and removes in the same sections.
#[test]
fn stages_beside_populates() {
    fn run<F: Fixture>() {
        with_map::<F>(Geometry::X86_64, |map, frames, _| {
            let done = AtomicBool::new(false);
            let mine = range(SUBSECTION, 4 * SECTION);
            let side = range(4 * SECTION + SUBSECTION, SUBSECTION);
            thread::scope(|scope| {
                let other = scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        map.populate(side, order(9), place(0, 0)).unwrap();
                        map.populate(range(0, SUBSECTION), Order::ZERO, place(0, 0)).unwrap();
                        map.remove(side).unwrap();
                        map.remove(range(0, SUBSECTION)).unwrap();
                    }
                });
                for round in 0..40 {
                    let staged = map.stage(Populate::new(mine).compounds(order(9))).unwrap();
                    if round % 3 == 0 {
                        drop(staged);
                        continue;
                    }
                    let staged = if round % 3 == 1 { staged } else { staged.deferred() };
                    staged.write(&Crowd(2));
                    staged.publish();
                    map.remove(mine).unwrap();
                }
                done.store(true, Ordering::Relaxed);
                other.join().unwrap();
            });
            assert_eq!(verified(map, frames).own, 0);
        });
    }
    run::<InSoftware>();
    #[cfg(feature = "pgtable")]
    run::<common::InTables>();
}
