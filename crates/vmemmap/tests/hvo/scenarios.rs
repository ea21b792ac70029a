// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising and restoring: the scenarios, by their numbers.

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::Geometry;
use mmkit_frame::{FrameAllocator, Request};
use mmkit_page::{MemMap, Place};
use mmkit_vmemmap::{Altmap, Behind, HvoError, HvoState, MapError, Populate, VmemmapError, VmemmapSpace};

use crate::common::*;
use crate::world::*;

const X86: Geometry = Geometry::X86_64;

/// 24: 2M: 7 frames net freed, the head page's bytes the same but for the mark.
#[test]
fn s24_optimising_2m_frees_seven_frames_and_keeps_the_head() {
    let world = World::new(Geometry::X86_64, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..64);
    let before = map.usage();
    let head = words_of_page(&map, pool[5].pfn());
    let report = map.optimise_batch(&mut pool);
    assert_eq!((report.done, report.already, report.failed), (64, 0, 0), "{report:?}");
    let after = map.usage();
    // The shared tails are one frame.
    assert_eq!(before.own - after.own, 64 * 7);
    assert_eq!(after.tails, 1);
    assert_eq!(after.space, before.space);
    balance(&map, &world.frames);
    let marked = words_of_page(&map, pool[5].pfn());
    assert_eq!(head.len(), 512);
    for (index, (was, is)) in head.iter().zip(&marked).enumerate() {
        if index != 1 {
            assert_eq!(was, is, "word {index}");
        }
    }
    assert_eq!(marked[1] & !head[1], 1 << 11);
    for folio in &pool {
        assert_eq!(map.hvo_state(folio), Ok(HvoState::Optimised));
    }
    let report = map.restore_batch(&mut pool);
    assert_eq!((report.done, report.failed), (64, 0), "{report:?}");
    assert_eq!(map.usage(), before);
    assert_eq!(words_of_page(&map, pool[5].pfn()), head);
    balance(&map, &world.frames);
    world.put_back(pool);
}

/// 25: twice is once, and what was never optimised is restored at no cost.
#[test]
fn s25_optimising_twice_and_restoring_what_is_full() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..4);
    map.optimise(&mut pool[1]).unwrap();
    let state = world.state(&map);
    let calls = world.frames.stats().calls;
    let report = map.optimise_batch(&mut pool[1..2]);
    assert_eq!((report.done, report.already), (0, 1));
    assert_eq!(map.restore(&mut pool[0]), Ok(()));
    let report = map.restore_batch(&mut pool[2..]);
    assert_eq!((report.done, report.already, report.failed), (0, 2, 0));
    assert_eq!(world.frames.stats().calls, calls, "nothing was taken");
    assert_eq!(world.state(&map), state);
}

/// 26: a compound that somebody refers to cannot be optimised: there is no handle to call it with.
#[test]
fn s26_a_referenced_compound_is_refused() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let folio = world.pool(&map, 9, 0..1).pop().unwrap().into_folio();
    let second = folio.try_clone().unwrap();
    let folio = folio.freeze().unwrap_err();
    drop(folio);
    let mut frozen = second.freeze().unwrap();
    assert_eq!(map.optimise(&mut frozen), Ok(()));
    // What is no compound, too small, or another map's, is refused with everything as it was.
    let state = world.state(&map);
    let mut small = world.pool(&map, 6, 16..17);
    let error = HvoError::TooSmall { order: order(6), min: order(7) };
    assert_eq!(map.optimise(&mut small[0]), Err(error));
    let mut single = map.claim_joined(pfn(2048), order(9)).unwrap().allocate();
    assert_eq!(map.optimise(&mut single), Err(HvoError::NotCompound { pfn: pfn(2048) }));
    let other = World::new(X86, 1 << 15);
    let others = other.map();
    let mut stranger = other.pool(&others, 9, 3..4);
    assert_eq!(map.optimise(&mut stranger[0]), Err(HvoError::OtherMap { pfn: pfn(1536) }));
    assert_eq!(map.restore(&mut stranger[0]), Ok(()), "nothing to do");
    assert_eq!(map.optimise_batch(&mut stranger).error.unwrap().0, 0);
    assert_eq!(state.0, world.state(&map).0);
}

/// 27: where a huge leaf cannot be split, its compounds stay full, and the batch goes on.
#[test]
fn s27_no_memory_for_a_split() {
    let world = World::new(X86, 1 << 15);
    let map = world.map_huge();
    let mut pool = world.pool(&map, 9, 0..64);
    assert_eq!(map.hvo_state(&pool[0]), Ok(HvoState::Full));
    let before = world.state(&map);
    world.fail_from(1);
    let report = map.optimise_batch(&mut pool);
    world.frames.heal();
    assert_eq!((report.done, report.failed), (0, 64));
    assert!(report.error.unwrap().1.is_no_memory());
    assert_eq!(world.state(&map), before);
    // The first attempt to split fails, the next one does not.
    world.frames.fail_nth(1);
    let report = map.optimise_batch(&mut pool);
    world.frames.heal();
    assert_eq!((report.done, report.failed), (64, 0), "{report:?}");
    assert_eq!(before.0.own - map.usage().own, 64 * 7);
    // A table came for the split, and stays.
    assert_eq!(map.usage().space.leaf_tables, before.0.space.leaf_tables + 1);
    assert_eq!(map.restore_batch(&mut pool).done, 64);
    assert_eq!(map.hvo_state(&pool[0]), Ok(HvoState::Split));
    assert_eq!(map.usage().space.leaf_tables, before.0.space.leaf_tables + 1);
    balance(&map, &world.frames);
}

/// 28: where there is no frame for the copy of the first page, the old one stays, and seven are freed still.
#[test]
fn s28_no_memory_for_the_head() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..3);
    map.optimise(&mut pool[0]).unwrap();
    let own = map.usage().own;
    let old = map.space().behind(8);
    world.fail_from(1);
    let report = map.optimise_batch(&mut pool);
    world.frames.heal();
    assert_eq!((report.done, report.already, report.failed), (2, 1, 0), "{report:?}");
    assert_eq!(own - map.usage().own, 14);
    assert_eq!(map.space().behind(8), old);
    balance(&map, &world.frames);
    assert_eq!(map.restore_batch(&mut pool).done, 3);
    for folio in &pool {
        assert_compound(&map, folio.pfn(), order(9), Place::default());
    }
    world.put_back(pool);
}

/// 29: the update of entry `j` fails, for each j: everything is put back.
#[test]
fn s29_an_entry_that_cannot_be_replaced() {
    for j in 1..=8 {
        let world = World::new(X86, 1 << 15);
        let map = world.map();
        let mut pool = world.pool(&map, 9, 0..2);
        let before = world.state(&map);
        world.machine.refuse(j, 1);
        let error = map.optimise(&mut pool[0]).unwrap_err();
        assert!(!world.machine.heal(), "{j}");
        assert_eq!(error, HvoError::Map(VmemmapError::Map(MapError::TryAgain)));
        assert!(!pool[0].has_shared_tails());
        assert_eq!(world.state(&map), before, "{j}");
        assert_compound(&map, pool[0].pfn(), order(9), Place::default());
        // And once more, without failures.
        assert_eq!(map.optimise_batch(&mut pool).done, 2);
        assert_eq!(map.restore_batch(&mut pool).done, 2);
        world.put_back(pool);
    }
}

/// 29, and what the kernel calls incomplete: undoing fails too. The compound stays usable, and is restored with only what it
/// lacks.
#[test]
fn s29_an_entry_that_cannot_be_put_back() {
    for j in 2..=8 {
        let world = World::new(X86, 1 << 15);
        let map = world.map();
        let mut pool = world.pool(&map, 9, 0..2);
        let before = world.state(&map);
        world.machine.refuse(j, 2);
        let error = map.optimise(&mut pool[0]).unwrap_err();
        world.machine.heal();
        assert_eq!(
            error,
            HvoError::Partial { pfn: pool[0].pfn(), error: VmemmapError::Map(MapError::TryAgain) }
        );
        assert!(pool[0].has_shared_tails());
        assert_eq!(map.partial_compounds(), 1);
        balance(&map, &world.frames);
        let (own, shared) = match map.hvo_state(&pool[0]).unwrap() {
            HvoState::Partial { own, shared } => (own, shared),
            // Only the first page had been replaced.
            HvoState::Optimised => (1, 7),
            state => panic!("{state:?}"),
        };
        assert_eq!((own, shared), (8 - (j - 2), j - 2), "{j}");
        assert_compound(&map, pool[0].pfn(), order(9), Place::default());
        let folio = pool.remove(0).into_folio();
        assert_eq!(map.try_get(pfn(300)).unwrap().pfn(), folio.pfn());
        let mut folio = folio.freeze().unwrap();
        let calls = world.frames.stats().calls;
        map.restore(&mut folio).unwrap();
        assert!(world.frames.stats().calls - calls <= shared, "{j}");
        assert_eq!(map.partial_compounds(), 0);
        assert_eq!(map.usage(), before.0);
        assert_compound(&map, folio.pfn(), order(9), Place::default());
        take_apart(folio);
        world.put_back(pool);
    }
}

/// 31: no memory for the k-th of seven: none is kept, the compound is optimised and usable, and later it works.
#[test]
fn s31_no_memory_to_restore() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..2);
    assert_eq!(map.optimise_batch(&mut pool).done, 2);
    let before = world.state(&map);
    for k in 1..=7 {
        world.frames.fail_nth(k);
        let error = map.restore(&mut pool[0]).unwrap_err();
        world.frames.heal();
        assert!(error.is_no_memory(), "{k}: {error}");
        assert_eq!(world.state(&map), before, "{k}");
    }
    let folio = pool.remove(0).into_folio();
    assert_eq!(folio.count(), 1);
    let mut folio = folio.freeze().unwrap();
    assert_eq!(map.restore(&mut folio), Ok(()));
    take_apart(folio);
}

/// 34: frames of boot memory go their own way, and others back to the allocator; a batch may have both.
#[test]
fn s34_boot_memory_goes_its_own_way() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..4);
    // The pages of descriptors of the first two compounds are boot memory.
    let Behind::Own(last) = map.space().behind(15) else { panic!("it is populated") };
    let out = world.frames.outstanding();
    world.boot.store(last.get() + 1, Relaxed);
    let low =
        (0..16).filter(|&page| matches!(map.space().behind(page), Behind::Own(pfn) if pfn <= last)).count();
    assert_eq!(low, 16);
    assert_eq!(map.optimise_batch(&mut pool).done, 4);
    let booted = world.booted.load(Relaxed);
    assert_eq!(booted, 16);
    // Four heads and the tails came, sixteen frames went to the allocator.
    assert_eq!(world.frames.outstanding(), out + 4 + 1 - 16);
    assert_eq!(map.usage().total(), world.frames.outstanding() - booted);
    world.boot.store(0, Relaxed);
}

/// 36: no page but the first shows a head, and the head is found from every frame.
#[test]
fn s36_heads_of_optimised_compounds() {
    for (geometry, size) in [(X86, 9), (X86, 7), (Geometry::S390X, 8), (Geometry::ARM64_16K, 11)] {
        let world = World::new(geometry, 1 << 15);
        let map = world.map();
        let mut pool = world.pool(&map, size, 0..8);
        assert_eq!(map.optimise_batch(&mut pool).done, 8, "{geometry:?}");
        for folio in &pool {
            assert_compound(&map, folio.pfn(), order(size), Place::default());
        }
        // Two neighbours in one subsection are optimised and restored each by itself.
        map.restore(&mut pool[3]).unwrap();
        for folio in &pool {
            assert_compound(&map, folio.pfn(), order(size), Place::default());
            assert_eq!(folio.has_shared_tails(), folio.pfn() != pool[3].pfn());
        }
        balance(&map, &world.frames);
        assert_eq!(map.restore_batch(&mut pool).failed, 0);
        world.put_back(pool);
    }
}

/// 39: switched off, nothing more is optimised; what is stays so, and can be restored.
#[test]
fn s39_the_switch() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    assert!(map.is_optimising());
    let mut pool = world.pool(&map, 9, 0..4);
    assert_eq!(map.optimise_batch(&mut pool[..2]).done, 2);
    map.set_optimising(false);
    let state = world.state(&map);
    let report = map.optimise_batch(&mut pool);
    assert_eq!((report.done, report.already, report.failed), (0, 2, 2));
    assert_eq!(report.error, Some((2, HvoError::Off)));
    assert_eq!(world.state(&map), state);
    assert_eq!(map.restore(&mut pool[0]), Ok(()));
    map.set_optimising(true);
    assert_eq!(map.optimise_batch(&mut pool).done, 3);
}

/// 41: gigantic pages at boot; one that crosses zones is not optimised, and each frame has its own zone.
#[test]
fn s41_boot_pages_and_zones() {
    let world = World::new(X86, 0);
    let map = world.empty();
    let (low, high) = (place(0, 1), place(0, 2));
    // The zones meet in the middle of the second gigabyte.
    let zones = [(range(0, (1 << 18) + (1 << 17)), low), (range((1 << 18) + (1 << 17), 1 << 20), high)];
    let optimised = map.populate_gigantic(range(0, 4 << 18), order(18), &zones);
    assert_eq!(optimised, Ok(3));
    let usage = map.usage();
    // Three pages of heads, and one gigabyte's descriptors of 4096 pages.
    assert_eq!((usage.own, usage.tails), (3 + 4096, 2));
    let reader = map.enter();
    for n in (0..4 << 18).step_by(1021) {
        let page = reader.page(pfn(n)).unwrap();
        assert_eq!(page.place(), if n < (1 << 18) + (1 << 17) { low } else { high }, "{n:#x}");
        let head = if n >> 18 == 1 { n } else { n >> 18 << 18 };
        assert_eq!(page.head(), pfn(head));
    }
    drop(reader);
    // Those that were optimised at boot can be restored like others.
    let mut frozen = map.claim(pfn(0)).unwrap().allocate();
    assert!(frozen.has_shared_tails());
    map.restore(&mut frozen).unwrap();
    assert_eq!(map.usage().own, 3 + 4096 + 4095);
    balance(&map, &world.frames);
    assert_compound(&map, pfn(0), order(18), low);
    map.optimise(&mut frozen).unwrap();
    assert_eq!(map.usage().own, 3 + 4096);
    drop(frozen.into_free().unwrap());
    let gone = range(0, 1 << 18);
    map.remove(gone).unwrap();
    assert_eq!(map.usage().own, 2 + 4096);
    balance(&map, &world.frames);
    drop(map);
    world.frames.assert_no_leaks();
}

/// 42 and A8: all of the tail range is read-only, for 2M and for 1G.
#[test]
fn s42_a8_the_whole_tail_range_is_read_only() {
    let world = World::new(X86, 1 << 18);
    let map = world.empty();
    let mut pool = world.restored(&map, 18, 1);
    assert!((0..4096).all(|page| matches!(map.space().behind(page), Behind::Own(_))));
    assert_eq!(map.optimise_batch(&mut pool).done, 1);
    let own = (0..4096).filter(|&page| matches!(map.space().behind(page), Behind::Own(_))).count();
    let tails = (1..4096).filter(|&page| matches!(map.space().behind(page), Behind::Tails(_))).count();
    assert_eq!((own, tails), (1, 4095));

    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..64);
    assert_eq!(map.optimise_batch(&mut pool).done, 64);
    for page in 0..512 {
        assert_eq!(matches!(map.space().behind(page), Behind::Own(_)), page % 8 == 0, "{page}");
    }
}

/// A5, as far as it is the memory map's: the frame 5 of an optimised page finds its head, a reference taken through it
/// outlives nothing it should not, and after a restore in between it is released as it was taken.
#[test]
fn a5_a_reference_through_a_tail_across_a_restore() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..1);
    map.optimise(&mut pool[0]).unwrap();
    let folio = pool.pop().unwrap().into_folio();
    let taken = map.try_get(pfn(5)).unwrap();
    assert_eq!((taken.pfn(), taken.count()), (pfn(0), 2));
    // As long as the reference is there, nobody can restore: the folio cannot be frozen.
    let folio = folio.freeze().unwrap_err();
    drop(taken);
    let mut frozen = folio.freeze().unwrap();
    map.restore(&mut frozen).unwrap();
    let folio = frozen.into_folio();
    let taken = map.try_get(pfn(5)).unwrap();
    assert_eq!((taken.pfn(), taken.count()), (pfn(0), 2));
    drop(taken);
    assert_eq!(folio.count(), 1);
}

/// 35: descriptors that lie in memory of their own device are not given back page by page.
#[test]
fn s35_self_hosted_descriptors_are_refused() {
    let world = World::new(X86, 1 << 15);
    let map = world.empty();
    // Thirty-two megabytes at half a gigabyte, whose first 2M hold the descriptors. The test allocator gives those frames
    // out to nobody but us.
    let block = world.frames.allocate(Request::new(order(13))).unwrap();
    // SAFETY: the frames are the test's own, and are given to nobody else.
    let mut altmap = unsafe { Altmap::new(block, 0, 512) }.unwrap();
    let device = range(block.get(), 1 << 13);
    map.populate_with(Populate::new(device).altmap(&mut altmap)).unwrap();
    let mut pool = [compound(&map, block.checked_add(1024).unwrap(), order(9))];
    let state = world.state(&map);
    assert_eq!(map.optimise(&mut pool[0]), Err(HvoError::SelfHosted { pfn: pool[0].pfn() }));
    assert!(!pool[0].has_shared_tails());
    assert_eq!(world.state(&map), state);
}
