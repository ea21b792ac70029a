// SPDX-License-Identifier: MIT OR Apache-2.0
//! Usable part by part.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mmkit_addr::Geometry;
use mmkit_page::{MemMap, PageFlags};
use mmkit_sync::Event;
use mmkit_vmemmap::{Executor, Populate, VmemmapError, VmemmapSpace};

use super::common::{
    self, Fixture, Map, TestEnv, assert_absent, assert_content, frames, map, order, place, range, verified,
};
use super::{Crowd, SECTION, with_map};

over_spaces! {
    what_is_shown_is_used_and_removed_while_the_rest_is_written;
    dropped_in_the_middle_what_was_shown_stays;
    a_hook_that_panics_costs_no_more_than_its_part;
}

fn what_is_shown_is_used_and_removed_while_the_rest_is_written<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        for o in [0, 9] {
            let all = range(SECTION, 4 * SECTION);
            let staged = map.stage(Populate::new(all).compounds(order(o))).unwrap().deferred();
            let first = staged.step().unwrap();
            assert_eq!((first, staged.progress().done), (range(SECTION, SECTION), 1));
            assert_content(map, first, order(o), place(0, 0));
            assert_absent(map, range(2 * SECTION, 3 * SECTION));
            let folio = map.claim(first.start()).unwrap().allocate().into_folio();
            folio.insert(PageFlags::DIRTY);
            assert_eq!(map.remove(first), Err(VmemmapError::Busy { pfn: first.start() }));
            drop(folio);
            verified(map, frames);
            // It is the memory map's: it goes, and comes again, as anything else.
            map.remove(first).unwrap();
            map.populate(first, order(o), place(0, 0)).unwrap();
            let second = staged.step().unwrap();
            assert_content(map, second, order(o), place(0, 0));
            staged.publish();
            assert_content(map, all, order(o), place(0, 0));
            verified(map, frames);
            map.remove(all).unwrap();
            assert_eq!(verified(map, frames).own, 0);
        }
    });
}

fn dropped_in_the_middle_what_was_shown_stays<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let all = range(0, 5 * SECTION);
        for steps in 0..5 {
            let staged =
                map.stage(Populate::new(all).compounds(order(9)).at(place(0, 1))).unwrap().deferred();
            (0..steps).for_each(|_| assert!(staged.step().is_some()));
            drop(staged);
            let (shown, rest) = all.split_at(steps * SECTION).unwrap();
            assert_content(map, shown, order(9), place(0, 1));
            assert_absent(map, rest);
            assert_eq!(verified(map, frames).own, steps * 64);
            if steps > 0 {
                map.remove(shown).unwrap();
            }
            assert_eq!(verified(map, frames).total(), map.space().usage().upper_tables);
        }
    });
}

/// A job that panics after so many parts.
struct Failing(u64);

impl Executor for Failing {
    fn run(&self, _: u64, job: &(dyn Fn(u64) + Sync)) {
        (0..self.0).for_each(job);
        panic!("no more");
    }
}

fn a_hook_that_panics_costs_no_more_than_its_part<F: Fixture>() {
    // An executor that gives up: the caller does the rest, or nothing is left.
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let all = range(0, 3 * SECTION);
        for keep in [true, false] {
            let staged = map.stage(Populate::new(all)).unwrap();
            catch_unwind(AssertUnwindSafe(|| staged.write(&Failing(1)))).unwrap_err();
            assert_eq!(staged.progress().done, 1);
            if keep {
                staged.publish();
                assert_content(map, all, order(0), place(0, 0));
                map.remove(all).unwrap();
            } else {
                drop(staged);
            }
            assert_eq!(verified(map, frames).own, 0);
        }
    });
    // A hook that panics in the middle of a part.
    let frames = frames(&Geometry::X86_64);
    let env = TestEnv::<mmkit_sync::Readers>::new(&frames);
    let map: Map<'_, F> = map::<F, _>(Geometry::X86_64, &frames, &env);
    let all = range(0, 3 * SECTION);
    let poison = || {
        drop(catch_unwind(AssertUnwindSafe(|| {
            let _guard = env.pageblocks.lock();
            panic!("poisoned");
        })))
    };
    for deferred in [false, true] {
        let staged = map.stage(Populate::new(all).pageblocks(1)).unwrap();
        let staged = if deferred { staged.deferred() } else { staged };
        staged.step().unwrap();
        poison();
        catch_unwind(AssertUnwindSafe(|| staged.step())).unwrap_err();
        env.pageblocks.clear_poison();
        assert_eq!(staged.progress().done, 1);
        staged.publish();
        let lost = range(SECTION, if deferred { SECTION } else { 0 });
        for part in [range(0, SECTION), range(2 * SECTION, SECTION)] {
            assert_content(&map, part, order(0), place(0, 0));
        }
        assert_absent(&map, lost);
        verified(&map, &frames);
        if deferred {
            let leaked = Event::Leaked { pfn: 0, frames: SECTION };
            assert_eq!(env.log.take(), [leaked]);
            let refused = map.populate(lost, order(0), place(0, 0));
            assert_eq!(refused, Err(VmemmapError::Staged { pfn: lost.start() }));
        } else {
            assert_eq!(env.log.take(), []);
            map.remove(all).unwrap();
        }
    }
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// Several threads write and show, others look and use what they find: it is always whole.
fn shown_parts_are_whole<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        for round in 0..6 {
            let all = range(0, 16 * SECTION);
            let o = order(if round % 2 == 0 { 9 } else { 0 });
            let staged = map.stage(Populate::new(all).compounds(o).at(place(1, 1))).unwrap().deferred();
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                let look = |mut seed: u64| {
                    while !done.load(Ordering::Relaxed) {
                        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let pfn = common::pfn((seed >> 33) % all.frames());
                        let reader = map.enter();
                        if let Some(page) = reader.page(pfn) {
                            let expected = common::expected(map.geometry(), pfn.get(), o, place(1, 1));
                            assert_eq!(page.words(), expected, "{pfn:?}");
                        }
                    }
                };
                let readers = [scope.spawn(move || look(1)), scope.spawn(move || look(2))];
                staged.write(&Crowd(3));
                done.store(true, Ordering::Relaxed);
                readers.into_iter().for_each(|reader| reader.join().unwrap());
            });
            staged.publish();
            assert_content(map, all, o, place(1, 1));
            verified(map, frames);
            map.remove(all).unwrap();
        }
    });
}

#[test]
fn shown_parts_are_whole_in_software() {
    shown_parts_are_whole::<common::InSoftware>();
}

#[cfg(feature = "pgtable")]
#[test]
fn shown_parts_are_whole_in_tables() {
    shown_parts_are_whole::<common::InTables>();
}
