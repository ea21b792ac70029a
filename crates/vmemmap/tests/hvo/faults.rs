// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising, restoring, batches and demotion with a failure at every place: the k-th frame, the k-th entry, and both.

use mmkit_addr::Geometry;
use mmkit_page::Place;
use mmkit_vmemmap::{HvoError, VmemmapError};

use crate::common::{balance, order};
use crate::world::{Map, Pool, World, assert_compound};

/// Compounds of a geometry: their order and how many.
#[derive(Clone, Copy)]
struct Case {
    geometry: Geometry,
    frames: u64,
    size: u8,
    count: u64,
    huge: bool,
}

/// Four compounds in a small table; with and without huge leaves; with tables of their own; two in a subsection.
fn cases() -> Vec<Case> {
    let x86 = Geometry::X86_64;
    vec![
        Case { geometry: x86, frames: 1 << 11, size: 9, count: 3, huge: false },
        Case { geometry: x86, frames: 1 << 15, size: 9, count: 2, huge: true },
        Case { geometry: Geometry::S390X, frames: 1 << 10, size: 8, count: 3, huge: false },
        Case { geometry: x86, frames: 1 << 16, size: 16, count: 1, huge: false },
        Case { geometry: x86, frames: 1 << 16, size: 16, count: 1, huge: true },
    ]
}

/// Runs `test` on the compounds of a case, and checks that nothing is left afterwards.
fn on_case(case: Case, test: impl FnOnce(&World, &Map<'_>, &mut Pool<'_, '_>)) {
    let world = World::new(case.geometry, case.frames);
    let map = if case.huge { world.map_huge() } else { world.map() };
    let mut pool = world.pool(&map, case.size, 0..case.count);
    test(&world, &map, &mut pool);
    world.heal();
    assert_eq!(map.restore_batch(&mut pool).failed, 0);
    assert_eq!(map.partial_compounds(), 0);
    for folio in &pool {
        assert_compound(&map, folio.pfn(), order(case.size), Place::default());
    }
    balance(&map, &world.frames);
    world.put_back(pool);
    drop(map);
    world.frames.assert_no_leaks();
    assert_eq!(world.log.take(), [], "something was reported");
}

fn is_refused(error: HvoError) -> bool {
    matches!(
        error,
        HvoError::Map(VmemmapError::NoFrame(_) | VmemmapError::Map(_))
            | HvoError::Partial { error: VmemmapError::NoFrame(_) | VmemmapError::Map(_), .. }
    )
}

/// Runs a batch that fails as `arm(k)` says, for each k until nothing fails any more; in a large compound for some of them. After
/// each failure the state is the one before, or compounds are optimised in part, as the report says.
fn sweep(case: Case, arm: impl Fn(&World, u64), optimise: bool, may_be_partial: bool) {
    on_case(case, |world, map, pool| {
        // Once there and back: leaves are split then.
        assert_eq!(map.optimise_batch(pool).failed, 0);
        assert_eq!(map.restore_batch(pool).failed, 0);
        if !optimise {
            assert_eq!(map.optimise_batch(pool).failed, 0);
        }
        let all = map.usage();
        let large = case.size > 12;
        let some = [1, 2, 3, 17, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1026];
        let (mut missed, mut struck) = (0, 0);
        for k in (1..).filter(|k| !large || some.contains(k)).take(if large { some.len() } else { 80 }) {
            let before = world.state(map);
            arm(world, k);
            let report = if optimise { map.optimise_batch(pool) } else { map.restore_batch(pool) };
            let left = world.machine.heal();
            world.heal();
            missed = if left || report.error.is_none() { missed + 1 } else { 0 };
            balance(map, &world.frames);
            assert_eq!(report.done + report.failed, pool.len(), "{k}");
            if let Some((_, error)) = report.error {
                struck += 1;
                for folio in &*pool {
                    assert_compound(map, folio.pfn(), order(case.size), Place::default());
                    map.hvo_state(folio).unwrap();
                }
                assert!(is_refused(error), "{k}: {error}");
                let partial = map.partial_compounds() > 0;
                assert!(!partial || may_be_partial, "{k}: {error}");
                assert!(partial || !matches!(error, HvoError::Partial { .. }), "{k}: {error}");
                if report.done == 0 && !partial {
                    assert_eq!(world.state(map), before, "{k}: {error}");
                }
            }
            // Back to where it was.
            assert_eq!(map.restore_batch(pool).failed, 0, "{k}");
            if !optimise {
                assert_eq!(map.optimise_batch(pool).failed, 0, "{k}");
            }
            assert_eq!(map.usage(), all, "{k}");
            // Two that failed nothing: there are no more. (The k-th frame may be one that can be done without.)
            if missed == 2 {
                assert!(struck > 0);
                return;
            }
        }
        panic!("it fails for ever");
    });
}

#[test]
fn the_kth_frame_to_optimise() {
    for case in cases() {
        // A frame for a head can be done without, so not every failure is seen.
        let arm = |world: &World, k| {
            world.frames.fail_nth(k);
        };
        on_case(case, |world, map, pool| {
            for k in 1..=2 * case.count + 4 {
                let before = map.usage();
                arm(world, k);
                let report = map.optimise_batch(pool);
                world.heal();
                assert_eq!(report.done + report.failed, pool.len());
                balance(map, &world.frames);
                for folio in &*pool {
                    assert_compound(map, folio.pfn(), order(case.size), Place::default());
                }
                assert_eq!(map.restore_batch(pool).failed, 0);
                assert_eq!(map.usage().own, before.own);
            }
        });
    }
}

#[test]
fn the_kth_frame_to_restore() {
    for case in &cases()[..3] {
        sweep(*case, |world, k| world.frames.fail_nth(k), false, false);
    }
}

#[test]
fn the_kth_entry_to_optimise() {
    for case in cases() {
        sweep(case, |world, k| world.machine.refuse(k, 1), true, false);
    }
}

#[test]
fn the_kth_entry_to_restore() {
    for case in cases() {
        sweep(case, |world, k| world.machine.refuse(k, 1), false, true);
    }
}

#[test]
fn the_kth_entry_and_the_one_after() {
    for case in cases() {
        sweep(case, |world, k| world.machine.refuse(k, 2), true, true);
    }
}

#[test]
fn an_entry_and_a_frame() {
    for case in &cases()[..3] {
        for frame in [1, 2, 5] {
            let arm = move |world: &World, k| {
                world.frames.fail_nth(frame);
                world.machine.refuse(k, 2);
            };
            sweep(*case, arm, true, true);
            sweep(*case, arm, false, true);
        }
    }
}

/// Splits one optimised compound, with a failure as `arm(k)` says, for each k until nothing fails any more.
fn sweep_demotion(geometry: Geometry, frames: u64, huge: bool, from: u8, to: u8, arm: impl Fn(&World, u64)) {
    let (mut missed, mut struck) = (0, 0);
    for k in 1..200 {
        let world = World::new(geometry, frames);
        let map = if huge { world.map_huge() } else { world.map() };
        let mut pool = world.pool(&map, from, 0..2);
        assert_eq!(map.optimise_batch(&mut pool).failed, 0);
        let before = world.state(&map);
        arm(&world, k);
        let mut small = vec![];
        let result = map.demote(pool.remove(0), order(to), |folio| small.push(folio));
        let left = world.machine.heal();
        world.heal();
        balance(&map, &world.frames);
        missed = if left || matches!(&result, Ok(report) if report.failed == 0) { missed + 1 } else { 0 };
        match result {
            Err((frozen, error)) => {
                struck += 1;
                assert!(is_refused(error), "{k}: {error}");
                assert!(small.is_empty() && frozen.has_shared_tails());
                assert_compound(&map, frozen.pfn(), order(from), Place::default());
                match error {
                    HvoError::Partial { .. } => assert_eq!(map.partial_compounds(), 1),
                    _ => assert_eq!(world.state(&map), before, "{k}: {error}"),
                }
                // It can be tried again.
                let report = map.demote(frozen, order(to), |folio| small.push(folio)).unwrap();
                assert_eq!((report.done, report.failed), (small.len(), 0), "{k}");
            }
            Ok(report) => {
                struck += report.failed;
                assert_eq!(report.done + report.failed, small.len(), "{k}");
                let shared = small.iter().filter(|folio| folio.has_shared_tails()).count();
                assert_eq!(shared, report.done + map.partial_compounds() as usize, "{k}");
            }
        }
        assert_eq!(small.len(), 1 << (from - to));
        for folio in &small {
            assert_compound(&map, folio.pfn(), order(to), Place::default());
        }
        small.append(&mut pool);
        assert_eq!(map.restore_batch(&mut small).failed, 0, "{k}");
        assert_eq!((map.partial_compounds(), map.usage().tails), (0, 0), "{k}");
        balance(&map, &world.frames);
        world.put_back(small);
        assert_eq!(map.verify(), Ok(()), "{k}");
        drop(map);
        world.frames.assert_no_leaks();
        assert_eq!(world.log.take(), [], "{k}: something was reported");
        if missed == 2 {
            assert!(struck > 0);
            return;
        }
    }
    panic!("it fails for ever");
}

#[test]
fn demotion_with_a_failure_at_every_place() {
    for (geometry, frames, from, to) in [(Geometry::X86_64, 1 << 11, 9, 7), (Geometry::S390X, 1 << 9, 8, 7)] {
        sweep_demotion(geometry, frames, false, from, to, |world, k| {
            world.frames.fail_nth(k);
        });
        // One in the middle, and then one on the way back.
        for refusals in [1, 2] {
            sweep_demotion(geometry, frames, false, from, to, |world, k| world.machine.refuse(k, refusals));
        }
        for frame in [8, 9] {
            sweep_demotion(geometry, frames, false, from, to, |world, k| {
                world.frames.fail_nth(frame);
                world.machine.refuse(k, 2);
            });
        }
    }
}
