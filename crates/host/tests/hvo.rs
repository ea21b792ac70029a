// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compounds that give their descriptor memory back and get it again, on this machine's own memory.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod common;

use std::os::unix::process::ExitStatusExt;

use common::*;
use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::DirectMap;
use mmkit_host::{HostFrames, HostSpace, MappingBudget, Threads, mapping_budget};
use mmkit_page::{Frozen, MemMap, PageFlags, Place};
use mmkit_vmemmap::{HvoError, HvoState, MapError, Populate, Vmemmap, VmemmapError};

type Map = Vmemmap<HostSpace, HostEnv>;

const COMPOUNDS: u64 = 32;

/// A memory map of single frames, and the order whose descriptors fill eight pages.
fn world(budget: MappingBudget) -> Option<(HostFrames, Map, Order)> {
    let (frames, _) = host(1, 0)?;
    let (size, geometry) = (compound_order(&frames), geometry(&frames));
    let frames = HostFrames::new(1 << 20).unwrap();
    let section = geometry.frames_per_section().max(COMPOUNDS * size.frames());
    let space = HostSpace::new(&frames, section, order(3), budget).unwrap();
    let map = Vmemmap::new(geometry, space, HostEnv::new(&frames)).unwrap();
    let range = PfnRange::new(Pfn::ZERO, COMPOUNDS * size.frames()).unwrap();
    map.populate(range, Order::ZERO, Place::default()).unwrap();
    Some((frames, map, size))
}

fn compounds(map: &Map, size: Order) -> Vec<Frozen<'_, Map>> {
    let one = |n| map.claim_joined(pfn(n * size.frames()), size).unwrap().allocate().prep().unwrap();
    (0..COMPOUNDS).map(one).collect()
}

/// Every word of the first page of descriptors of a compound.
fn first_page(map: &Map, head: Pfn) -> Vec<u64> {
    let reader = map.enter();
    let count = map.geometry().descriptors_per_page();
    (0..count).flat_map(|n| reader.page(pfn(head.get() + n)).unwrap().words()).collect()
}

#[test]
fn optimising_gives_memory_back_to_the_system_and_restoring_takes_it_again() {
    let Some((frames, map, size)) = world(mapping_budget().unwrap()) else { return };
    let page = 1_u64 << frames.base_shift();
    let mut pool = compounds(&map, size);
    for (n, folio) in pool.iter_mut().enumerate() {
        folio.insert_at(0..1, if n % 2 == 0 { PageFlags::DIRTY } else { PageFlags::UPTODATE });
    }
    let heads: Vec<_> = pool.iter().map(|folio| first_page(&map, folio.pfn())).collect();
    let resident = frames.resident_bytes();

    let report = map.optimise_batch(&mut pool);
    assert_eq!((report.done, report.failed), (COMPOUNDS as usize, 0), "{report:?}");
    // Seven pages each are gone, and one run of eight identical tails came.
    assert_eq!(frames.resident_bytes(), resident - (7 * COMPOUNDS - 8) * page);
    assert_eq!(map.usage().total() * page, frames.resident_bytes());
    for (folio, before) in pool.iter().zip(&heads) {
        let mut after = first_page(&map, folio.pfn());
        assert_ne!(after[1], before[1], "the mark");
        after[1] = before[1];
        assert_eq!(&after, before);
        assert_eq!(map.hvo_state(folio), Ok(HvoState::Optimised));
        for n in 0..size.frames() {
            assert_eq!(map.head(pfn(folio.pfn().get() + n)), Some(folio.pfn()));
        }
    }

    let report = map.restore_batch(&mut pool);
    assert_eq!((report.done, report.failed), (COMPOUNDS as usize, 0), "{report:?}");
    assert_eq!(frames.resident_bytes(), resident);
    for (folio, before) in pool.iter().zip(&heads) {
        assert_eq!(&first_page(&map, folio.pfn()), before);
    }
    // All descriptors are its own again, and can be written.
    for folio in pool {
        drop(folio.unprep().unwrap().into_free().unwrap());
    }
    drop(map);
    assert_eq!((frames.allocated(), frames.resident_bytes(), frames.bad_frees()), (0, 0, 0));
}

#[test]
fn a_write_to_a_tail_of_an_optimised_compound_is_a_fault() {
    const NAME: &str = "a_write_to_a_tail_of_an_optimised_compound_is_a_fault";
    if !is_child(NAME) {
        if host(1, 0).is_none() {
            return;
        }
        let output = child(NAME);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("restored, it was written"), "{output:?}");
        assert!(text.contains("next the tail"), "{output:?}");
        assert!(!text.contains("survived"), "{output:?}");
        assert_eq!(output.status.signal(), Some(11), "{output:?}");
        return;
    }
    let Some((_frames, map, size)) = world(mapping_budget().unwrap()) else { return };
    // SAFETY: a core dump of a sparse file serves nobody. Only this child is concerned.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    );
    let mut pool = compounds(&map, size);
    let stray = || {
        let word = descriptor(map.space(), size.frames() - 1).unwrap().cast::<u64>();
        // SAFETY: deliberately none: no type would allow it, which is why the pages are read-only.
        unsafe { word.write_volatile(1) };
    };
    map.optimise(&mut pool[0]).unwrap();
    map.restore(&mut pool[0]).unwrap();
    stray();
    println!("restored, it was written");
    map.optimise(&mut pool[0]).unwrap();
    println!("next the tail");
    stray();
    println!("it survived");
}

#[test]
fn a_budget_that_runs_out_stops_the_batch_cleanly() {
    // One mapping for all, then two for each compound and one for the rest.
    let Some((frames, map, size)) = world(MappingBudget { limit: 13, others: 0 }) else { return };
    let mut pool = compounds(&map, size);
    let resident = frames.resident_bytes();
    let report = map.optimise_batch(&mut pool);
    assert!(report.done > 2 && report.failed > 2, "{report:?}");
    assert!(matches!(
        report.error,
        Some((_, HvoError::Map(VmemmapError::Map(MapError::TooManyMappings { limit: 13, .. }))))
    ));
    assert_eq!(map.partial_compounds(), 0);
    let page = 1_u64 << frames.base_shift();
    assert_eq!(frames.resident_bytes(), resident - (7 * report.done as u64 - 8) * page);
    for (n, folio) in pool.iter().enumerate() {
        assert_eq!(folio.has_shared_tails(), n < report.done);
        for n in 0..size.frames() {
            assert_eq!(map.head(pfn(folio.pfn().get() + n)), Some(folio.pfn()));
        }
    }
    // Frames that do not follow each other take more mappings than tails, so this may be refused too: in the middle of a
    // compound as well, which is usable then like any other.
    let report = map.restore_batch(&mut pool);
    assert!(report.failed == 0 || report.error.is_some(), "{report:?}");
    assert_eq!(map.usage().total() * page, frames.resident_bytes());
    for n in 0..COMPOUNDS * size.frames() {
        assert_eq!(map.head(pfn(n)), Some(pfn(n / size.frames() * size.frames())));
    }
    drop(pool);
    drop(map);
    assert_eq!((frames.allocated(), frames.resident_bytes(), frames.bad_frees()), (0, 0, 0));
}

#[test]
fn readers_never_notice() {
    let Some((frames, map, size)) = world(mapping_budget().unwrap()) else { return };
    let mut pool = compounds(&map, size);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for n in 0..COMPOUNDS * size.frames() {
                    let head = n / size.frames() * size.frames();
                    assert_eq!(map.head(pfn(n)), Some(pfn(head)));
                    assert!(map.try_get(pfn(n)).is_err());
                }
            }
        });
        for _ in 0..20 {
            assert_eq!(map.optimise_batch(&mut pool).failed, 0);
            assert_eq!(map.restore_batch(&mut pool).failed, 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    pool.into_iter().for_each(|folio| drop(folio.unprep().unwrap().into_free().unwrap()));
    drop(map);
    assert_eq!((frames.allocated(), frames.resident_bytes(), frames.bad_frees()), (0, 0, 0));
}

/// Two gigabytes of a device, staged and written by all processors; given up once before.
#[test]
fn staged_memory_is_real_and_comes_back() {
    let Some((frames, _)) = host(1, 0) else { return };
    let size = compound_order(&frames);
    let all = 1024 * size.frames();
    let Some((frames, space)) = host(all, 3) else { return };
    let map = Vmemmap::new(geometry(&frames), space, HostEnv::new(&frames)).unwrap();
    let (range, page) = (PfnRange::new(pfn(0), all).unwrap(), 1u64 << frames.base_shift());
    for order in [Order::ZERO, size] {
        for publish in [false, true] {
            let staged = map.stage(Populate::new(range).compounds(order)).unwrap();
            staged.write(&Threads::all());
            if !publish {
                drop(staged);
                assert_eq!(
                    (frames.allocated(), frames.resident_bytes()),
                    (map.usage().sections, map.usage().sections * page)
                );
                continue;
            }
            staged.publish();
            assert_eq!(map.usage().total() * page, frames.resident_bytes());
            for n in (0..all).step_by(61) {
                assert_eq!(map.head(pfn(n)), Some(pfn(n).align_down(order)));
            }
            map.remove(range).unwrap();
        }
    }
    drop(map);
    assert_eq!((frames.allocated(), frames.resident_bytes(), frames.bad_frees()), (0, 0, 0));
}
