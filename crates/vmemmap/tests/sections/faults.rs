// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation, every map and every unmap fails once, and nothing shows it afterwards.

use crate::common::digest::Digest;
use crate::common::soft::Soft;
use crate::common::{
    EpochEnv, InSoftware, SoftMap, assert_absent, assert_content, assert_empty, balance, frames, map, order,
    pfn, place, range,
};
use mmkit_addr::{Geometry, Order, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{MemMap, Place};
use mmkit_sync::{Epoch, Event};
use mmkit_vmemmap::{MapError, Populate, SpaceUsage, Vmemmap, VmemmapError};

type EpochMap<'a> = SoftMap<'a, Epoch>;

/// Frames to populate.
#[derive(Clone, Copy, Debug)]
struct Part {
    range: PfnRange,
    order: Order,
    place: Place,
    early: bool,
}

fn part(start: u64, frames: u64, o: u8, place: Place) -> Part {
    Part { range: range(start, frames), order: order(o), place, early: false }
}

impl Part {
    fn populate(&self, map: &EpochMap<'_>) -> Result<(), VmemmapError> {
        let request = Populate::new(self.range).compounds(self.order).at(self.place);
        map.populate_with(if self.early { request.early() } else { request })
    }

    fn early(self) -> Self {
        Self { early: true, ..self }
    }

    #[track_caller]
    fn check(&self, map: &EpochMap<'_>) {
        assert_content(map, self.range, self.order, self.place);
    }
}

/// What is there before, and what comes then.
struct Case {
    geometry: Geometry,
    before: Vec<Part>,
    then: Part,
    /// Allocations and maps that the populate makes.
    allocations: u64,
    maps: u64,
}

fn digest(map: &EpochMap<'_>, frames: &TestFrames, case: &Case) -> Digest {
    assert_eq!(map.space().stale(), 0);
    let parts = case.before.iter().chain([&case.then]);
    let ranges: Vec<_> = parts.map(|part| part.range).collect();
    crate::common::digest::digest(map, frames, &ranges)
}

/// Runs `test` on a memory map that has what the case says is there before.
fn on_map(case: &Case, test: impl FnOnce(&EpochMap<'_>, &TestFrames)) {
    let frames = frames(&case.geometry);
    let env = EpochEnv::new(&frames);
    let map = map::<InSoftware, _>(case.geometry, &frames, &env);
    for part in &case.before {
        part.populate(&map).unwrap();
        balance(&map, &frames);
    }
    test(&map, &frames);
    assert_eq!(env.log.take(), [], "something was reported");
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// Populates with failures that `arm(k)` arranges, k = 1, 2, .. until none strikes; answers how many did.
fn populate_failures(
    case: &Case,
    map: &EpochMap<'_>,
    frames: &TestFrames,
    mut arm: impl FnMut(u64),
    expected: impl Fn(VmemmapError) -> bool,
) -> u64 {
    crate::common::verified(map, frames);
    let before = digest(map, frames, case);
    for k in 1.. {
        arm(k);
        let result = case.then.populate(map);
        frames.heal();
        map.space().heal();
        match result {
            Ok(()) => {
                case.then.check(map);
                case.before.iter().for_each(|part| part.check(map));
                map.space().check_tails();
                crate::common::verified(map, frames);
                map.remove(case.then.range).unwrap();
                assert_eq!(digest(map, frames, case), before, "after the removal");
                return k - 1;
            }
            Err(error) => {
                assert!(expected(error), "{k}: {error}");
                assert_eq!(digest(map, frames, case), before, "{k}: {error}");
                case.before.iter().for_each(|part| part.check(map));
                map.space().check_tails();
            }
        }
    }
    unreachable!()
}

fn is_no_frame(error: VmemmapError) -> bool {
    matches!(error, VmemmapError::NoFrame(_))
}

fn is_map(error: VmemmapError) -> bool {
    matches!(error, VmemmapError::Map(MapError::TooManyMappings { .. }))
}

fn populate_case(case: &Case) {
    on_map(case, |map, frames| {
        let count = populate_failures(case, map, frames, |k| frames.fail_nth(k), is_no_frame);
        assert_eq!(count, case.allocations, "{:?}", case.then);
        let count = populate_failures(case, map, frames, |k| map.space().fail_map(k), is_map);
        assert_eq!(count, case.maps, "{:?}", case.then);
        // Both in one call: whichever comes first.
        for first in [1, case.maps / 2 + 1, case.maps] {
            let arm = |k| {
                frames.fail_nth(k);
                if k <= case.allocations {
                    map.space().fail_map(first);
                }
            };
            populate_failures(case, map, frames, arm, |error| is_no_frame(error) || is_map(error));
        }
    });
}

/// Sections of two subsections: the same code, with fewer pages to fail at.
fn small() -> Geometry {
    crate::common::small(12, 22, &[21, 23])
}

fn cases() -> Vec<Case> {
    let x86 = Geometry::X86_64;
    let (section, sub) = (1 << 15, 1 << 9);
    let single = |start, frames, node| part(start, frames, 0, place(node, 0));
    vec![
        // Four sections of 2M compounds: a node, the tails, two pages in each; each page is a run, and so are its tails.
        Case {
            geometry: small(),
            before: vec![],
            then: part(0, 4 * 1024, 9, place(0, 1)),
            allocations: 1 + 1 + 8,
            maps: 16,
        },
        // The same beside compounds that have the tails already, and single frames.
        Case {
            geometry: small(),
            before: vec![part(1024, 512, 9, place(0, 1)), single(1024 + 512, 512, 0)],
            then: part(2048, 4 * 1024, 9, place(0, 1)),
            allocations: 8,
            maps: 16,
        },
        // Of a real section.
        Case {
            geometry: x86,
            before: vec![part(section, sub, 9, place(0, 1))],
            then: part(section + 8 * sub, 16 * sub, 9, place(0, 1)),
            allocations: 16,
            maps: 32,
        },
        // 1G across eight sections, and without its head.
        Case {
            geometry: x86,
            before: vec![single(0, sub, 1)],
            then: part(1 << 18, 1 << 18, 18, place(0, 0)),
            allocations: 2,
            maps: 2,
        },
        Case {
            geometry: x86,
            before: vec![part((1 << 18) + 3 * section, section, 18, place(1, 2))],
            then: part((1 << 18) + 4 * section, 4 * section, 18, place(1, 2)),
            allocations: 0,
            maps: 1,
        },
        // Single frames; frames that follow one another are mapped as one run.
        Case {
            geometry: x86,
            before: vec![],
            then: single(section, 4 * sub, 0),
            allocations: 1 + 32,
            maps: 1,
        },
        // Far up: two levels of the section table above the one that there is, and the way down.
        Case {
            geometry: x86,
            before: vec![single(0, sub, 0)],
            then: single(1 << 38, sub, 0),
            allocations: 2 + 2 + 8,
            maps: 1,
        },
        // Pages that neighbours have a part in.
        Case {
            geometry: Geometry::ARM64_16K,
            before: vec![single(0, 128, 0), part(128 * 6, 128, 3, place(0, 0))],
            then: single(128, 128 * 5, 0),
            allocations: 2,
            maps: 1,
        },
        Case {
            geometry: Geometry::ARM64_64K,
            before: vec![single(32 * 5, 32, 0), single(32 * 40, 32, 1)],
            then: part(32 * 6, 32 * 34, 2, place(0, 3)),
            allocations: 0,
            maps: 0,
        },
        Case {
            geometry: Geometry::ARM64_64K,
            before: vec![single(32 * 5, 32, 0)],
            then: single(32 * 6, 32 * 60, 0),
            allocations: 2,
            maps: 1,
        },
        // Memory from boot: sections whole, and what is in them in part; then the hole in one, for which nothing is taken.
        Case {
            geometry: small(),
            before: vec![single(0, 512, 0)],
            then: single(1024 + 512, 1024, 0).early(),
            allocations: 32,
            maps: 1,
        },
        Case {
            geometry: small(),
            before: vec![single(1024 + 512, 1024, 0).early()],
            then: part(1024, 512, 3, place(0, 2)),
            allocations: 0,
            maps: 0,
        },
        Case {
            geometry: small(),
            before: vec![single(1024 + 512, 1024, 0).early()],
            then: single(2048 + 512, 512 + 1024, 1).early(),
            allocations: 16,
            maps: 1,
        },
        // A page of descriptors for four sections.
        Case {
            geometry: Geometry::PPC64_RADIX_64K,
            before: vec![single(0, 32, 0)],
            then: part(1 << 14, 1 << 14, 14, place(0, 0)),
            allocations: 2,
            maps: 2,
        },
    ]
}

#[test]
fn populate_is_all_or_nothing_whatever_fails() {
    cases().iter().for_each(populate_case);
}

#[test]
fn remove_is_all_or_nothing_whatever_fails() {
    for case in &cases() {
        on_map(case, |map, frames| {
            case.then.populate(map).unwrap();
            crate::common::verified(map, frames);
            let before = digest(map, frames, case);
            let unchanged = || {
                assert_eq!(digest(map, frames, case), before);
                case.then.check(map);
                case.before.iter().for_each(|part| part.check(map));
                // Every block that was claimed rests again.
                let heads = case.then.range.iter().step_by(case.then.order.frames() as usize);
                for head in heads.filter(|head| head.is_aligned(case.then.order)) {
                    assert_eq!(map.claim(head).unwrap().order(), case.then.order);
                }
            };
            let reader = map.enter();
            assert_eq!(map.remove(case.then.range), Err(VmemmapError::InsideReader));
            drop(reader);
            unchanged();
            for k in 1.. {
                map.space().fail_unmap(k);
                match map.remove(case.then.range) {
                    Err(error) => assert_eq!(error, VmemmapError::Map(MapError::TryAgain)),
                    // Nothing more to unmap; or nothing at all, where neighbours keep every page.
                    Ok(()) => {
                        assert!(map.space().heal());
                        case.then.populate(map).unwrap();
                        unchanged();
                        break;
                    }
                }
                unchanged();
            }
            // In use, at the start, in the middle and at the end.
            let blocks = case.then.range.frames() >> case.then.order.get();
            for block in [0, blocks / 2, blocks.saturating_sub(1)] {
                let at = case.then.range.start().get() + (block << case.then.order.get());
                let head = pfn(at);
                if !head.is_aligned(case.then.order) {
                    continue;
                }
                let held = map.claim(head).unwrap().allocate().into_folio();
                assert_eq!(map.remove(case.then.range), Err(VmemmapError::Busy { pfn: head }));
                drop(held);
                unchanged();
            }
            // It needs no memory.
            frames.set_budget(0);
            map.remove(case.then.range).unwrap();
            frames.heal();
            assert_absent(map, case.then.range);
            balance(map, frames);
            for part in &case.before {
                map.remove(part.range).unwrap();
                balance(map, frames);
            }
            assert_empty(map, frames, SpaceUsage::default());
        });
    }
}

/// Where the way back fails too, what is mapped leaks, and is said to; nothing that is mapped is given back.
#[test]
fn what_cannot_be_undone_leaks() {
    let geometry = small();
    let frames = frames(&geometry);
    let env = EpochEnv::new(&frames);
    let map = map::<InSoftware, _>(geometry, &frames, &env);
    let all = range(2048, 2048);
    // The second compound's own page cannot be mapped, and the first one's pages cannot be unmapped.
    map.space().fail_map(3);
    map.space().fail_unmap(1);
    let error = map.populate(all, order(9), place(0, 0)).unwrap_err();
    assert!(is_map(error), "{error}");
    assert!(!map.space().heal());
    assert_eq!(env.log.take(), [Event::Leaked { pfn: 2048, frames: 8 }]);
    let usage = balance(&map, &frames);
    assert_eq!((usage.own, usage.tails, usage.sections), (1, 1, 0));
    assert_absent(&map, all);
    map.space().check_tails();
    // The range is lost, and says so; others are not.
    map.space().tolerate_occupied();
    let occupied = VmemmapError::Map(MapError::Occupied { page: 2048 / 64 });
    assert_eq!(map.populate(all, order(9), place(0, 0)), Err(occupied));
    let rest = range(2048 + 512, 512);
    map.populate(rest, order(9), place(0, 0)).unwrap();
    assert_content(&map, rest, order(9), place(0, 0));
    assert_eq!(balance(&map, &frames).own, 2);
    map.remove(rest).unwrap();
    assert_eq!(balance(&map, &frames).total(), 2);
    drop(map);
    assert_eq!(frames.outstanding(), 2);
}

/// Pages that could not be unmapped keep what stands behind them, tails too.
#[test]
fn drop_leaks_what_it_cannot_unmap() {
    let geometry = small();
    let frames = frames(&geometry);
    let env = EpochEnv::new(&frames);
    let map = map::<InSoftware, _>(geometry, &frames, &env);
    map.populate(range(2048, 2048), order(9), place(0, 0)).unwrap();
    map.populate(range(8192, 1024), Order::ZERO, place(0, 0)).unwrap();
    assert_eq!(map.usage().total(), 4 + 1 + 16 + 1);
    map.space().fail_unmap(1);
    drop(map);
    assert!(matches!(env.log.take()[..], [Event::Leaked { pfn: 2048, .. }]));
    let section = small().frames_per_section();
    let lost = 2048u64.min(section) / 512;
    assert_eq!(frames.outstanding(), lost + 1, "own pages of a section, and the tails");
}

/// No more tail slots than the environment has; a slot without tails is anybody's.
#[test]
fn tail_slots_run_out() {
    let geometry = Geometry::X86_64;
    let frames = frames(&geometry);
    let env = EpochEnv::with_slots(&frames, 2);
    let map = map::<InSoftware, _>(geometry, &frames, &env);
    let sub = |n: u64| range(n << 15, 512);
    map.populate(sub(0), order(9), place(0, 0)).unwrap();
    // A call that fails keeps no slot, wherever it fails: at the tails, at the page of the first compound, at a map.
    for k in 1..=2 {
        frames.fail_nth(k);
        assert!(is_no_frame(map.populate(sub(1), order(8), place(0, 0)).unwrap_err()));
        frames.heal();
    }
    map.space().fail_map(1);
    assert!(is_map(map.populate(sub(1), order(8), place(0, 0)).unwrap_err()));
    map.populate(sub(1), order(7), place(0, 0)).unwrap();
    let before = balance(&map, &frames);
    let full = VmemmapError::NoTailSlot { slots: 2 };
    assert_eq!(full.errno(), 12);
    assert_eq!(map.populate(sub(2), order(8), place(0, 0)), Err(full));
    assert_eq!(map.populate(sub(2), order(9), place(1, 0)), Err(full));
    assert_eq!(balance(&map, &frames), before);
    map.populate(sub(2), order(6), place(1, 0)).unwrap();
    // When the last compound goes, so does its claim to the slot.
    map.remove(sub(0)).unwrap();
    map.populate(sub(0), order(8), place(0, 0)).unwrap();
    assert_eq!(map.populate(sub(3), order(9), place(0, 0)), Err(full));
    assert_eq!(balance(&map, &frames).tails, 2);
}

/// A space that pays for mappings asks for tails in runs: they are made, counted and given back as one block.
#[test]
fn runs_of_tails_are_one_block() {
    let geometry = Geometry::X86_64;
    let frames = frames(&geometry);
    let env = EpochEnv::new(&frames);
    let space = Soft::with_tail_order(&frames, 12, order(3));
    let map = Vmemmap::new(geometry, space, &env).unwrap();
    let all = range(0, 4 * 512);
    for k in 1..=2 {
        frames.fail_nth(k);
        assert!(is_no_frame(map.populate(all, order(9), place(0, 0)).unwrap_err()));
        assert_eq!(balance(&map, &frames).total(), 0);
    }
    map.space().fail_map(8);
    assert!(is_map(map.populate(all, order(9), place(0, 0)).unwrap_err()));
    assert_eq!(balance(&map, &frames).total(), 0);
    map.populate(all, order(9), place(0, 0)).unwrap();
    let usage = balance(&map, &frames);
    assert_eq!((usage.own, usage.tails, usage.sections), (4, 8, 1));
    let blocks = frames.outstanding_blocks();
    assert_eq!(blocks.iter().filter(|block| block.order == order(3)).count(), 1);
    assert_content(&map, all, order(9), place(0, 0));
    map.space().check_tails();
    let tails = crate::common::own_and_shared(&map, all);
    assert_eq!(tails, (4, 28), "pages 1..=7 of each compound stand in the frames 1..=7 of the run");
    map.remove(range(0, 512)).unwrap();
    assert_eq!(balance(&map, &frames).tails, 8);
    map.remove(range(512, 3 * 512)).unwrap();
    assert_empty(&map, &frames, SpaceUsage::default());
    drop(map);
    frames.assert_no_leaks();
}

/// Geometry, space and frames of different page sizes do not go together.
#[test]
fn page_sizes_must_agree() {
    let frames = frames(&Geometry::X86_64);
    let env = EpochEnv::new(&frames);
    let made = Vmemmap::new(Geometry::ARM64_64K, Soft::new(&frames, 12), &env);
    let error = VmemmapError::PageSize { geometry: 16, space: 12, frames: 12 };
    assert_eq!(made.map(drop), Err(error));
    let made = Vmemmap::new(Geometry::X86_64, Soft::new(&frames, 14), &env);
    assert_eq!(made.map(drop), Err(VmemmapError::PageSize { geometry: 12, space: 14, frames: 12 }));
}

/// A dropped memory map gives everything back, shared pages and all, whatever is in it.
#[test]
fn drop_gives_everything_back() {
    for case in &cases() {
        // `on_map` drops it, and looks.
        on_map(case, |map, frames| {
            case.then.populate(map).unwrap();
            balance(map, frames);
        });
    }
}
