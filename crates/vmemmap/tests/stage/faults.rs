// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation and every map fails once, and every stage is given up at every point: nothing shows it afterwards.

use mmkit_addr::{Geometry, Order, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::Place;
use mmkit_sync::Epoch;
use mmkit_vmemmap::{MapError, Populate, VmemmapError};

use super::common::digest::{Digest, digest};
use super::common::{
    EpochEnv, InSoftware, SoftMap, assert_content, frames, map, order, place, range, small, verified,
};
use super::{SECTION, SUBSECTION};

/// What is there before, what is staged then, and how many allocations and maps that takes.
struct Case {
    geometry: Geometry,
    before: Vec<(PfnRange, u8, Place)>,
    then: (PfnRange, u8, Place),
    allocations: u64,
    maps: u64,
}

fn cases() -> Vec<Case> {
    let x86 = Geometry::X86_64;
    vec![
        // Four sections of two 2M compounds: a node, the tails, two pages in each; each page is a run, and so are its tails.
        Case {
            geometry: small(12, 22, &[21, 23]),
            before: vec![],
            then: (range(0, 4 * 1024), 9, place(0, 1)),
            allocations: 1 + 1 + 8,
            maps: 16,
        },
        Case {
            geometry: small(12, 22, &[21, 23]),
            before: vec![(range(1024, 512), 9, place(0, 1)), (range(1024 + 512, 512), 0, place(0, 0))],
            then: (range(2048, 4 * 1024), 9, place(0, 1)),
            allocations: 8,
            maps: 16,
        },
        // Two 1G compounds far up: four nodes of the section table, the tails, and a page for each.
        Case {
            geometry: x86,
            before: vec![(range(0, SUBSECTION), 0, place(1, 0))],
            then: (range(1 << 38, 2 << 18), 18, place(0, 0)),
            allocations: 4 + 1 + 2,
            maps: 4,
        },
        // Single frames across sections, each a run.
        Case {
            geometry: small(12, 22, &[21, 23]),
            before: vec![(range(0, 512), 0, place(0, 0))],
            then: (range(512, 1024 + 512), 0, place(0, 0)),
            allocations: 8 + 16,
            maps: 2,
        },
        // Pages that neighbours have a part in.
        Case {
            geometry: Geometry::ARM64_16K,
            before: vec![(range(0, 128), 0, place(0, 0)), (range(128 * 6, 128), 3, place(0, 0))],
            then: (range(128, 128 * 5), 0, place(0, 0)),
            allocations: 2,
            maps: 1,
        },
        Case {
            geometry: Geometry::ARM64_64K,
            before: vec![(range(32 * 5, 32), 0, place(0, 0))],
            then: (range(32 * 6, 32 * 60), 0, place(0, 0)),
            allocations: 2,
            maps: 1,
        },
    ]
}

impl Case {
    fn request(&self) -> Populate<'static> {
        let (range, o, place) = self.then;
        Populate::new(range).compounds(order(o)).at(place)
    }

    fn digest(&self, map: &SoftMap<'_, Epoch>, frames: &TestFrames) -> Digest {
        assert_eq!(map.space().stale(), 0);
        let ranges: Vec<_> = self.before.iter().chain([&self.then]).map(|part| part.0).collect();
        digest(map, frames, &ranges)
    }

    #[track_caller]
    fn check_before(&self, map: &SoftMap<'_, Epoch>) {
        for &(range, o, place) in &self.before {
            assert_content(map, range, order(o), place);
        }
    }
}

/// Runs `test` for every case, on a memory map that has what is there before.
fn on_maps(test: impl Fn(&Case, &SoftMap<'_, Epoch>, &TestFrames)) {
    for case in cases() {
        let frames = frames(&case.geometry);
        let env = EpochEnv::new(&frames);
        let map = map::<InSoftware, _>(case.geometry, &frames, &env);
        for &(range, o, place) in &case.before {
            map.populate(range, order(o), place).unwrap();
        }
        test(&case, &map, &frames);
        assert_eq!(env.log.take(), [], "something was reported");
        drop(map);
        drop(env);
        frames.assert_no_leaks();
    }
}

#[test]
fn what_cannot_be_staged_leaves_nothing() {
    on_maps(|case, map, frames| {
        let before = case.digest(map, frames);
        let strike = |arm: &dyn Fn(u64), expected: &dyn Fn(VmemmapError) -> bool| {
            for k in 1.. {
                arm(k);
                let result = map.stage(case.request());
                frames.heal();
                map.space().heal();
                match result {
                    Ok(staged) => {
                        staged.publish();
                        verified(map, frames);
                        map.remove(case.then.0).unwrap();
                        assert_eq!(case.digest(map, frames), before, "after the removal");
                        return k - 1;
                    }
                    Err(error) => {
                        assert!(expected(error), "{k}: {error}");
                        assert_eq!(case.digest(map, frames), before, "{k}: {error}");
                        case.check_before(map);
                        map.space().check_tails();
                    }
                }
            }
            unreachable!()
        };
        let no_frame = |error| matches!(error, VmemmapError::NoFrame(_));
        assert_eq!(strike(&|k| frames.fail_nth(k), &no_frame), case.allocations, "{:?}", case.then);
        let no_map = |error| matches!(error, VmemmapError::Map(MapError::TooManyMappings { .. }));
        assert_eq!(strike(&|k| map.space().fail_map(k), &no_map), case.maps, "{:?}", case.then);
    });
}

#[test]
fn what_is_given_up_leaves_nothing_however_far_it_was() {
    on_maps(|case, map, frames| {
        let before = case.digest(map, frames);
        let parts = map.stage(case.request()).unwrap().progress().parts;
        assert_eq!(case.digest(map, frames), before);
        for steps in 0..=parts {
            let staged = map.stage(case.request()).unwrap();
            (0..steps).for_each(|_| assert!(staged.step().is_some()));
            assert_eq!(staged.step().is_none(), steps == parts);
            verified(map, frames);
            drop(staged);
            assert_eq!(case.digest(map, frames), before, "after {steps} of {parts}");
            case.check_before(map);
            verified(map, frames);
        }
    });
}

/// Where the space does not take pages back, they stay reserved, are reported, and go with the memory map.
#[test]
fn what_cannot_be_undone_stays_reserved() {
    let frames = frames(&Geometry::X86_64);
    let env = EpochEnv::new(&frames);
    let map = map::<InSoftware, _>(Geometry::X86_64, &frames, &env);
    let all = range(0, 2 * SECTION);
    let staged = map.stage(Populate::new(all)).unwrap();
    map.space().fail_unmap(1);
    drop(staged);
    let leaked = mmkit_sync::Event::Leaked { pfn: SECTION, frames: SECTION };
    assert_eq!(env.log.take(), [leaked]);
    verified(&map, &frames);
    let refused = map.populate(range(SECTION, SUBSECTION), Order::ZERO, place(0, 0));
    assert_eq!(refused, Err(VmemmapError::Staged { pfn: super::common::pfn(SECTION) }));
    map.populate(range(0, SECTION), Order::ZERO, place(0, 0)).unwrap();
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// A stage that is forgotten keeps its frames for good: they are nobody's, and go with the memory map.
#[test]
fn what_is_forgotten_goes_with_the_memory_map() {
    for o in [0, 9] {
        let frames = frames(&Geometry::X86_64);
        let env = EpochEnv::new(&frames);
        let map = map::<InSoftware, _>(Geometry::X86_64, &frames, &env);
        let all = range(0, 2 * SECTION);
        let staged = map.stage(Populate::new(all).compounds(order(o))).unwrap();
        assert!(staged.step().is_some());
        core::mem::forget(staged);
        verified(&map, &frames);
        assert_eq!(map.remove(all), Err(VmemmapError::Staged { pfn: all.start() }));
        drop(map);
        assert_eq!(env.log.take(), []);
        drop(env);
        frames.assert_no_leaks();
    }
}
