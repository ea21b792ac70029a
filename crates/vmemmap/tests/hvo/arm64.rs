// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising and restoring in tables of arm64, where a live entry is broken before another is made, and a machine may not get
//! that done.

use std::marker::PhantomData;
use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::Geometry;
use mmkit_page::{MemMap, Place};
use mmkit_pgtable::{Arm64_4K, Arm64_16K, Arm64_64K, Entry};
use mmkit_sync::Readers;
use mmkit_vmemmap::{HvoError, HvoState, MapError, VmemmapError};

use crate::common::*;
use crate::world::*;

/// The pages of a compound's descriptors: eight with every base page.
const PAGES: u64 = 8;

fn world(geometry: Geometry, size: u8) -> World {
    let world = World::new(geometry, 2 << size);
    world.machine.breaks.store(true, Relaxed);
    world
}

/// What must hold of a compound that was optimised, in whole or in part, or not.
#[track_caller]
fn check<N: Entry>(world: &World, map: &crate::world::Map<'_, Readers, N>, size: u8) {
    for nth in 0..2 {
        assert_compound(map, pfn(nth << size), order(size), Place::default());
    }
    balance(map, &world.frames);
}

fn over<N: Entry>(geometry: Geometry, size: u8) {
    let refused = VmemmapError::Map(MapError::TryAgain);
    let format = PhantomData::<N>;
    // Every entry is broken and made; nothing else is.
    let all = world(geometry, size);
    let map = all.map_as(format);
    let mut pool = all.pool(&map, size, 0..2);
    let before = map.usage();
    assert_eq!(map.optimise_batch(&mut pool).done, 2);
    assert_eq!(all.machine.changes.swap(0, Relaxed), 2 * PAGES);
    check(&all, &map, size);
    assert_eq!(map.restore_batch(&mut pool).done, 2);
    assert_eq!(all.machine.changes.swap(0, Relaxed), 2 * (PAGES - 1));
    check(&all, &map, size);
    assert_eq!(map.usage(), before);

    // The k-th entry of the first compound cannot be replaced: optimising undoes what it did.
    for k in 1..=PAGES {
        all.machine.refuse(k, 1);
        assert_eq!(map.optimise(&mut pool[0]), Err(HvoError::Map(refused)), "{k}");
        assert!(!all.machine.heal(), "{k}");
        assert_eq!((map.usage(), map.hvo_state(&pool[0])), (before, Ok(HvoState::Split)), "{k}");
        check(&all, &map, size);
    }
    // Nor can one be put back, when `back` of them have been.
    for k in 2..=PAGES {
        for back in (0..k - 1).filter(|&back| size < 10 || back == k / 2) {
            all.machine.refuse(k, 1);
            all.machine.refuse_later(back, 1);
            let error = map.optimise(&mut pool[0]).unwrap_err();
            assert!(!all.machine.heal(), "{k}, {back}");
            assert_eq!(error, HvoError::Partial { pfn: pfn(0), error: refused });
            let Ok(HvoState::Partial { own, shared }) = map.hvo_state(&pool[0]) else {
                panic!("{k}, {back}: {:?}", map.hvo_state(&pool[0]))
            };
            assert!(own > 1 && own + shared == PAGES && shared <= k - 2);
            assert_eq!(map.partial_compounds(), 1);
            check(&all, &map, size);
            // It looks at every descriptor.
            if size < 10 && back == 0 {
                assert_eq!(map.verify(), Ok(()));
            }
            // It is used like an optimised one.
            let folio = pool.remove(0).into_folio();
            assert_eq!(map.try_get(pfn((1 << size) - 1)).unwrap().pfn(), pfn(0));
            pool.insert(0, folio.freeze().unwrap());
            // Only what is shared is replaced, and that may be refused as well.
            all.machine.changes.store(0, Relaxed);
            for k in 1..=shared {
                all.machine.refuse(k, 1);
                let error = map.restore(&mut pool[0]).unwrap_err();
                let expected = match k {
                    1 => HvoError::Map(refused),
                    _ => HvoError::Partial { pfn: pfn(0), error: refused },
                };
                assert_eq!(error, expected, "{k}");
                all.machine.heal();
                check(&all, &map, size);
                if k > 1 {
                    break;
                }
            }
            map.restore(&mut pool[0]).unwrap();
            assert_eq!((map.usage(), map.partial_compounds()), (before, 0));
            check(&all, &map, size);
        }
    }
    // Restoring has no way back: what it did stays.
    for k in 1..=PAGES - 1 {
        map.optimise(&mut pool[0]).unwrap();
        all.machine.refuse(k, 1);
        let error = map.restore(&mut pool[0]).unwrap_err();
        assert!(!all.machine.heal(), "{k}");
        match k {
            1 => assert_eq!(error, HvoError::Map(refused)),
            _ => assert_eq!(error, HvoError::Partial { pfn: pfn(0), error: refused }),
        }
        let state = match k {
            1 => HvoState::Optimised,
            _ => HvoState::Partial { own: k, shared: PAGES - k },
        };
        assert_eq!(map.hvo_state(&pool[0]), Ok(state), "{k}");
        check(&all, &map, size);
        let calls = all.frames.stats().calls;
        map.restore(&mut pool[0]).unwrap();
        assert!(all.frames.stats().calls - calls <= PAGES - k, "only the frames that it lacks");
        assert_eq!(map.usage(), before);
    }
    all.put_back(pool);
    assert_eq!(map.verify(), Ok(()));
    drop(map);
    all.frames.assert_no_leaks();
}

#[test]
fn arm64_with_4k_pages() {
    over::<Arm64_4K>(Geometry::ARM64_4K, 9);
}

#[test]
fn arm64_with_16k_pages() {
    over::<Arm64_16K>(Geometry::ARM64_16K, 11);
}

#[test]
fn arm64_with_64k_pages() {
    over::<Arm64_64K>(Geometry::ARM64_64K, 13);
}
