// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups by several threads while others populate and remove.
#![cfg(not(mmkit_loom))]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{
    Fixture, TestEnv, assert_content, assert_empty, balance, frames, map, order, pfn, place, range,
};
use mmkit_addr::{Geometry, Order};
use mmkit_page::{GetError, MemMap, PageFlags};
use mmkit_sync::{Epoch, ReadSide, Readers};
use mmkit_vmemmap::{VmemmapError, VmemmapSpace};

const SECTION: u64 = 1 << 15;
const ROUNDS: u64 = 60;

/// Two readers look everywhere, take references and write flags; one thread adds and removes sections near them, another
/// far up, where the section table grows and shrinks each time.
fn lookups_against_removals<F: Fixture, R: ReadSide + Default + Sync>()
where
    for<'a> common::Map<'a, F, R>: Sync,
{
    let frames = frames(&Geometry::X86_64);
    let env = TestEnv::<R>::new(&frames);
    let map = map::<F, R>(Geometry::X86_64, &frames, &env);
    let new = map.space().usage();
    let stays = range(0, SECTION);
    map.populate(stays, order(9), place(0, 0)).unwrap();
    let held = map.claim(pfn(0)).unwrap().allocate().into_folio();

    let near = range(SECTION, SECTION);
    let far = range(1 << 38, 512);
    let done = AtomicBool::new(false);
    let (seen_near, seen_far) = (AtomicU64::new(0), AtomicU64::new(0));
    let change = |part, o: Order, seen: &AtomicU64| {
        for round in 0..ROUNDS {
            let before = seen.load(Ordering::Relaxed);
            map.populate(part, o, place((round % 2) as u16, 0)).unwrap();
            while seen.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            // A reader may have a frame for a moment; it lets go of it.
            while let Err(error) = map.remove(part) {
                assert!(matches!(error, VmemmapError::Busy { .. }), "{error}");
                thread::yield_now();
            }
        }
    };
    let look = |seed: u64| {
        let mut seed = seed;
        while !done.load(Ordering::Relaxed) {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let offset = seed >> 40;
            assert_eq!(map.head(pfn(offset % 512)), Some(pfn(0)));
            assert_eq!(map.try_get(pfn(offset % 512)).unwrap().pfn(), pfn(0));
            let frame = pfn(SECTION + offset % SECTION);
            if let Some(head) = map.head(frame) {
                assert_eq!(head, frame.align_down(order(9)));
                seen_near.fetch_add(1, Ordering::Relaxed);
            }
            let error = map.try_get(frame).map(drop).unwrap_err();
            assert!(matches!(error, GetError::Absent { .. } | GetError::Unreferenced { .. }), "{error}");
            // Taken, written, and given back.
            if let Ok(free) = map.claim(frame.align_down(order(9))) {
                free.words()[0].store(seed, Ordering::Relaxed);
                free.allocate().into_folio().insert(PageFlags::DIRTY);
            }
            if let Ok(free) = map.claim(far.start()) {
                free.allocate().into_folio().insert(PageFlags::DIRTY);
                seen_far.fetch_add(1, Ordering::Relaxed);
            }
            assert!(map.head(far.start()).is_none_or(|head| head == far.start()));
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(|| look(1)), scope.spawn(|| look(2))];
        let writers = [
            scope.spawn(|| change(near, order(9), &seen_near)),
            scope.spawn(|| change(far, Order::ZERO, &seen_far)),
        ];
        let results = writers.map(|writer| writer.join());
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        for result in results {
            result.unwrap();
        }
    });
    drop(held);
    assert_content(&map, stays, order(9), place(0, 0));
    balance(&map, &frames);
    map.remove(stays).unwrap();
    assert_empty(&map, &frames, new);
    assert_eq!(env.log.take().iter().filter(|e| matches!(e, mmkit_sync::Event::Leaked { .. })).count(), 0);
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

#[test]
fn lookups_against_removals_with_readers() {
    lookups_against_removals::<common::InSoftware, Readers>();
}

#[test]
fn lookups_against_removals_with_epochs() {
    lookups_against_removals::<common::InSoftware, Epoch>();
}

#[cfg(feature = "pgtable")]
#[test]
fn lookups_against_removals_in_tables() {
    lookups_against_removals::<common::InTables, Readers>();
}
