// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising and restoring: all sizes, gigabytes, reserves of them, demotion, removal.

use mmkit_addr::{Geometry, NodeId};
use mmkit_page::Place;
use mmkit_vmemmap::{HvoError, HvoState, VmemmapEnv, VmemmapError};

use crate::common::*;
use crate::world::*;

const X86: Geometry = Geometry::X86_64;

/// 1G: whole tables of tails are shared; at least 4094 frames are freed, tables and copies counted.
#[test]
fn a_gigabyte_frees_4094_frames_at_least() {
    for huge in [false, true] {
        let world = World::new(X86, 2 << 18);
        let (map, mut pool);
        if huge {
            map = world.map_huge();
            pool = world.pool(&map, 18, 0..2);
        } else {
            map = world.empty();
            pool = world.restored(&map, 18, 2);
        }
        // The shared page and the shared table come with the first.
        map.optimise(&mut pool[0]).unwrap();
        let before = world.frames.outstanding();
        map.optimise(&mut pool[1]).unwrap();
        let net = before - world.frames.outstanding();
        assert_eq!(net, if huge { 4094 } else { 4095 + 7 });
        assert_eq!(map.usage().space.shared_tables, 1);
        balance(&map, &world.frames);
        for folio in &pool {
            assert_compound(&map, folio.pfn(), order(18), Place::default());
        }
        assert_eq!(map.restore_batch(&mut pool).done, 2);
        assert_eq!((map.usage().tails, map.usage().space.shared_tables), (0, 0));
        assert_compound(&map, pool[1].pfn(), order(18), Place::default());
        balance(&map, &world.frames);
        drop(pool);
        drop(map);
        world.frames.assert_no_leaks();
    }
}

/// The reserve of a 1G page has tables too.
#[test]
fn a_reserve_restores_a_gigabyte_without_memory() {
    let world = World::new(X86, 1 << 18);
    let map = world.empty();
    let mut pool = world.restored(&map, 18, 1);
    let node = NodeId::ZERO;
    map.set_reserve(node, order(18), true).unwrap();
    assert_eq!(map.usage().reserve, 4095);
    map.optimise(&mut pool[0]).unwrap();
    balance(&map, &world.frames);
    world.fail_from(1);
    assert_eq!(map.restore(&mut pool[0]), Ok(()));
    // The page and the table of tails, and the list of shared tables, were the first that came back.
    assert_eq!(map.usage().reserve, 3);
    world.frames.heal();
    assert_compound(&map, pfn(0), order(18), Place::default());
    balance(&map, &world.frames);
    // The next batch refills it.
    map.optimise(&mut pool[0]).unwrap();
    assert_eq!(map.usage().reserve, 4095);
    map.set_reserve(node, order(18), false).unwrap();
    assert_eq!(map.usage().reserve, 0);
    balance(&map, &world.frames);
    assert_eq!(
        map.set_reserve(node, order(19), true),
        Err(VmemmapError::OrderTooLarge { order: order(19), max: order(18) })
    );
    for n in 7..11 {
        map.set_reserve(node, order(n), true).unwrap();
    }
    assert_eq!(map.set_reserve(node, order(11), true), Err(VmemmapError::NoReserveSlot { slots: 4 }));
    // The k-th frame of a reserve cannot be had: nothing has changed.
    for n in 7..11 {
        map.set_reserve(node, order(n), false).unwrap();
    }
    let usage = map.usage();
    for k in 1..=7 {
        world.frames.fail_nth(k);
        assert!(matches!(map.set_reserve(node, order(9), true), Err(VmemmapError::NoFrame(_))));
        world.frames.heal();
        assert_eq!(map.usage(), usage);
    }
    let _ = world.env().reserves();
}

/// Demotion of 1G to 2M: takes what it needs first, or changes nothing.
#[test]
fn demotion() {
    let world = World::new(X86, 1 << 18);
    let map = world.empty();
    let mut pool = world.restored(&map, 18, 1);
    map.optimise(&mut pool[0]).unwrap();
    let frozen = pool.pop().unwrap();
    let before = world.state(&map);
    let (frozen, error) = map.demote(frozen, order(18), drop).unwrap_err();
    assert_eq!(error, HvoError::BadOrder { from: order(18), to: order(18) });
    let mut frozen = frozen;
    for k in [1, 2, 16, 17, 4095, 4096, 4102] {
        world.frames.fail_nth(k);
        let (back, error) = map.demote(frozen, order(9), |_| panic!("nothing was split")).unwrap_err();
        world.frames.heal();
        frozen = back;
        match error {
            HvoError::Map(VmemmapError::NoFrame(_)) => assert_eq!(world.state(&map), before, "{k}: {error}"),
            // A table could not be had after others were in place.
            HvoError::Partial { .. } => {
                assert!(k > 4095, "{k}");
                map.restore(&mut frozen).unwrap();
                map.optimise(&mut frozen).unwrap();
                assert_eq!(map.usage(), before.0);
            }
            other => panic!("{k}: {other}"),
        }
    }
    let (flushes, waits) = world.flushes_and_waits();
    let mut small = vec![];
    let report = map.demote(frozen, order(9), |folio| small.push(folio)).unwrap();
    assert_eq!((report.done, report.failed), (512, 0));
    // One flush to restore, and two for each batch of 64.
    assert_eq!(world.flushes_and_waits(), (flushes + 1 + 16, waits + 1 + 8));
    assert_eq!(map.usage().own, 512);
    balance(&map, &world.frames);
    for (n, folio) in small.iter().enumerate() {
        assert_eq!((folio.pfn(), folio.order()), (pfn(n as u64 * 512), order(9)));
        assert!(folio.has_shared_tails());
    }
    for folio in &small[..3] {
        assert_compound(&map, folio.pfn(), order(9), Place::default());
    }
    assert_eq!(map.restore_batch(&mut small).failed, 0);
    world.put_back(small);
}

/// Ranges with optimised compounds at rest are removed like others; those in use are not.
#[test]
fn removal_of_optimised_compounds() {
    let world = World::new(X86, 3 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..128);
    let mut small = world.pool(&map, 7, 512..514);
    assert_eq!(map.optimise_batch(&mut pool).done, 128);
    assert_eq!(map.optimise_batch(&mut small).done, 2);
    assert_eq!(map.usage().tails, 2);
    let low = range(0, 1 << 15);
    assert_eq!(map.remove(low), Err(VmemmapError::Busy { pfn: pfn(0) }));
    let (low_half, high_half): (Vec<_>, Vec<_>) =
        pool.into_iter().partition(|folio| folio.pfn() < pfn(1 << 15));
    low_half.into_iter().for_each(|folio| drop(folio.into_free().unwrap()));
    let usage = map.usage();
    map.remove(low).unwrap();
    assert_eq!(usage.own - map.usage().own, 64);
    assert_eq!(map.usage().tails, 2, "the others use them");
    balance(&map, &world.frames);
    high_half.into_iter().for_each(|folio| drop(folio.into_free().unwrap()));
    // Refused in the middle, it is all as before.
    map.remove(range(1 << 15, 1 << 15)).unwrap();
    assert_eq!(map.usage().tails, 1, "and these users are gone");
    balance(&map, &world.frames);
    small.into_iter().for_each(|folio| drop(folio.into_free().unwrap()));
    drop(map);
    world.frames.assert_no_leaks();
}

/// A huge page size: geometry, order, frames saved (0: it cannot be optimised), last-level tables that hold nothing but tails.
type Size = (&'static str, u8, u64, u64);

/// Frames: what is left of `order.frames() * 64 / P` pages when one is kept. Tables: those of `entries` pages each but the first;
/// only where a section has whole tables are there any before (4096 pages at 512 a table, 8192 at 256).
const SIZES: &[Size] = &[
    ("x86-64", 9, 7, 0),
    ("x86-64", 18, 4095, 7),
    ("x86-64-la57", 9, 7, 0),
    ("x86-64-la57", 18, 4095, 7),
    ("arm64-4k", 4, 0, 0),
    ("arm64-4k", 9, 7, 0),
    ("arm64-4k", 13, 127, 0),
    ("arm64-4k", 18, 4095, 7),
    ("arm64-16k", 7, 0, 0),
    ("arm64-16k", 11, 7, 0),
    ("arm64-16k", 16, 255, 0),
    ("arm64-64k", 5, 0, 0),
    ("arm64-64k", 13, 7, 0),
    ("arm64-64k", 18, 255, 0),
    ("riscv64-sv39", 4, 0, 0),
    ("riscv64-sv39", 9, 7, 0),
    ("riscv64-sv39", 18, 4095, 7),
    ("riscv64-sv48", 4, 0, 0),
    ("riscv64-sv48", 9, 7, 0),
    ("riscv64-sv48", 18, 4095, 7),
    ("ppc64-radix-4k", 9, 7, 0),
    ("ppc64-radix-4k", 18, 4095, 7),
    ("ppc64-radix-64k", 5, 0, 0),
    ("ppc64-radix-64k", 14, 15, 0),
    ("loongarch64-4k", 9, 7, 0),
    ("loongarch64-16k", 11, 7, 0),
    ("loongarch64-64k", 13, 7, 0),
    ("s390x", 8, 3, 0),
    ("s390x", 19, 8191, 31),
];

/// Every size of every geometry that can be optimised, by itself. (A hashed page table has no tables to change.) Of sizes above
/// 65536 frames with the same base page, the same last-level tables and sections with whole ones or not, one is looked at: all that
/// happens follows from these numbers.
#[test]
fn every_size_that_can_be_optimised_is() {
    let (mut rows, mut seen) = (0, vec![]);
    for geometry in Geometry::ALL.iter().filter(|geometry| geometry.root().is_some()) {
        for huge in geometry.huge_pages() {
            let size = huge.order();
            let row = SIZES.iter().find(|row| (row.0, row.1) == (geometry.name(), size.get()));
            let &(name, _, saved, tables) = row.unwrap_or_else(|| panic!("{} {size:?}", geometry.name()));
            rows += 1;
            let large = size.get() > 16;
            let entries = geometry.last_table().unwrap().entries();
            let whole = geometry.section_vmemmap_bytes() >= entries << geometry.base_shift();
            let key = (geometry.base_shift(), entries, whole, size);
            if large && seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let world = World::new(*geometry, size.frames().max(geometry.frames_per_subsection()));
            let map = if large { world.empty() } else { world.map() };
            let mut pool = match large {
                true => world.restored(&map, size.get(), 1),
                false => world.pool(&map, size.get(), 0..1),
            };
            let before = map.usage();
            if saved == 0 {
                assert!(matches!(map.optimise(&mut pool[0]), Err(HvoError::TooSmall { .. })), "{name}");
                continue;
            }
            map.optimise(&mut pool[0]).unwrap();
            let after = map.usage();
            assert_eq!(before.own - after.own, saved, "{name} {size:?}");
            assert_eq!(before.space.leaf_tables - after.space.leaf_tables, tables, "{name} {size:?}");
            assert_eq!(after.space.shared_tables, u64::from(tables > 0), "{name} {size:?}");
            balance(&map, &world.frames);
            assert_eq!(map.hvo_state(&pool[0]), Ok(HvoState::Optimised));
            assert_compound(&map, pfn(0), size, Place::default());
            map.restore(&mut pool[0]).unwrap();
            assert_eq!(map.usage(), before, "{name} {size:?}");
            assert_compound(&map, pfn(0), size, Place::default());
            // Optimised and at rest, it is removed like others.
            map.optimise(&mut pool[0]).unwrap();
            drop(pool.pop().unwrap().into_free());
            map.remove(range(0, world.size)).unwrap();
            let left = map.usage();
            assert_eq!((left.own, left.tails, left.space.shared_tables), (0, 0, 0), "{name} {size:?}");
            balance(&map, &world.frames);
            drop(map);
            world.frames.assert_no_leaks();
        }
    }
    assert_eq!(rows, SIZES.len());
}
