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
use mmkit_vmemmap::{Populate, VmemmapError, VmemmapSpace};

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

/// Two threads claim, join, split and use blocks while another takes the section offline and lets it go, and removes and
/// adds a part of it: what is offline is claimed by nobody, and no block is lost.
#[test]
fn offline_against_claims() {
    let frames = frames(&Geometry::X86_64);
    let env = TestEnv::<Readers>::new(&frames);
    let map = map::<common::InSoftware, _>(Geometry::X86_64, &frames, &env);
    let (section, low, high) = (range(SECTION, SECTION), range(SECTION, 512), range(SECTION + 512, 512));
    map.populate(low, Order::ZERO, place(0, 0)).unwrap();
    map.populate(high, order(9), place(0, 0)).unwrap();
    // Odd while the section is offline.
    let turns = AtomicU64::new(0);
    let (used, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let busy = |error: VmemmapError| {
        assert!(matches!(error, VmemmapError::Busy { .. }), "{error}");
        thread::yield_now();
    };
    let change = || {
        for round in 0..ROUNDS {
            while map.offline(section).map_err(busy).is_err() {}
            turns.fetch_add(1, Ordering::SeqCst);
            let before = used.load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(map.offline(section), Err(VmemmapError::Offline { pfn: section.start() }));
            if round % 3 == 0 {
                map.remove(high).unwrap();
                map.populate_with(Populate::new(high).compounds(order(9)).offline()).unwrap();
            }
            turns.fetch_add(1, Ordering::SeqCst);
            map.online(section).unwrap();
            while round % 3 == 1 && map.remove(high).map_err(busy).is_err() {}
            if round % 3 == 1 {
                map.populate(high, order(9), place(0, 0)).unwrap();
            }
            while used.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
        }
    };
    let claim = |mut seed: u64| {
        while !done.load(Ordering::Relaxed) {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let frame = pfn(SECTION + (seed >> 40) % 1024);
            let turn = turns.load(Ordering::SeqCst);
            let free =
                map.claim(frame.align_down(order(if frame.get() < high.start().get() { 1 } else { 9 })));
            if let Ok(free) = free {
                let same = turns.load(Ordering::SeqCst) == turn && turn % 2 == 1;
                assert!(!same, "{:?} was claimed while it was offline", free.pfn());
                used.fetch_add(1, Ordering::Relaxed);
                match free.order().get() {
                    // Joined with its neighbour, if that is to be had, and used as one.
                    0 => {
                        let next = free.pfn().checked_add(1).unwrap();
                        match map.claim(next) {
                            Ok(next) => drop(free.merge(next).unwrap().allocate().into_folio()),
                            Err(_) => drop(free.allocate().into_folio()),
                        }
                    }
                    1 => drop(free.split().unwrap()),
                    _ => drop(free.allocate().into_folio()),
                }
            }
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let claimers = [scope.spawn(|| claim(1)), scope.spawn(|| claim(2))];
        let result = scope.spawn(change).join();
        done.store(true, Ordering::Relaxed);
        for claimer in claimers {
            claimer.join().unwrap();
        }
        result.unwrap();
    });
    assert_eq!(map.verify(), Ok(()));
    map.remove(range(SECTION, 1024)).unwrap();
    assert_eq!(map.usage().total(), 0);
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}
