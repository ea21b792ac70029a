// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad frames in optimised compounds: where the mark is, and that it is never lost.

use mmkit_addr::Geometry;
use mmkit_page::{MemMap, PageFlags};
use mmkit_vmemmap::{Failure, HvoError};

use crate::common::*;
use crate::world::*;

const X86: Geometry = Geometry::X86_64;

/// 38: a bad frame is recorded, its head marked; restoring moves the mark. Without room for the record the compound is
/// never freed.
#[test]
fn s38_bad_frames() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..3);
    assert_eq!(map.optimise_batch(&mut pool).done, 3);
    let folio = pool.remove(0).into_folio();
    assert_eq!(map.report_failure(&folio, pfn(300)), Ok(Failure::Recorded));
    assert_eq!(map.report_failure(&folio, pfn(300)), Ok(Failure::Known));
    assert_eq!(map.report_failure(&folio, pfn(512)), Err(HvoError::Outside { pfn: pfn(512), head: pfn(0) }));
    assert!(folio.flags().contains(PageFlags::HWPOISON));
    assert!(map.is_recorded_failure(pfn(300)));
    assert_eq!(folio.flags_at(300), Some(PageFlags::empty()), "a shared tail");
    let mut frozen = folio.freeze().unwrap();
    // It stays recorded where the restore fails.
    world.frames.fail_nth(3);
    assert!(map.restore(&mut frozen).unwrap_err().is_no_memory());
    world.frames.heal();
    assert!(map.is_recorded_failure(pfn(300)) && frozen.flags().contains(PageFlags::HWPOISON));
    map.restore(&mut frozen).unwrap();
    assert!(!frozen.flags().contains(PageFlags::HWPOISON) && !map.is_recorded_failure(pfn(300)));
    let folio = frozen.into_folio();
    assert_eq!(folio.flags_at(300), Some(PageFlags::HWPOISON));
    assert!((0..512).filter(|&n| n != 300).all(|n| folio.flags_at(n) == Some(PageFlags::empty())));
    let frozen = folio.freeze().unwrap();

    // Room for two: the third is one too many, and then none of the compound's is known.
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(512)), Ok(Failure::Recorded));
    assert_eq!(map.report_failure_of_frozen(&mut pool[1], pfn(1024)), Ok(Failure::Recorded));
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(600)), Ok(Failure::Unreliable));
    assert!(!map.is_recorded_failure(pfn(512)));
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(700)), Ok(Failure::Unreliable));
    let state = world.state(&map);
    assert_eq!(map.restore(&mut pool[0]), Err(HvoError::Unreliable { pfn: pfn(512) }));
    assert_eq!(world.state(&map), state);
    let mut given = 0;
    let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
    let report = map.free_batch(&mut slots, |_| given += 1);
    assert_eq!((given, report.failed), (1, 1), "{report:?}");
    assert!(slots[0].is_some() && slots[1].is_none());
    drop(frozen);
}

/// 38: a compound with a bad frame is taken apart, not optimised.
#[test]
fn s38_a_full_compound_with_a_bad_frame_is_not_optimised() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..1);
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(7)), Ok(Failure::Recorded));
    assert_eq!(map.optimise(&mut pool[0]), Err(HvoError::Poisoned { pfn: pfn(0) }));
    assert_eq!(map.restore(&mut pool[0]), Ok(()));
    assert_eq!(pool.pop().unwrap().into_folio().flags_at(7), Some(PageFlags::HWPOISON));
}

/// The record of a mark that was moved gives way where its slot is needed. The mark is in the tail alone then.
#[test]
fn a_mark_without_a_record_is_not_erased() {
    let world = World::new(X86, 1 << 12);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..4);
    assert_eq!(map.optimise_batch(&mut pool).done, 4);
    // Room for two.
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(300)), Ok(Failure::Recorded));
    map.restore(&mut pool[0]).unwrap();
    for nth in [1, 2] {
        let recorded = map.report_failure_of_frozen(&mut pool[nth], pfn(512 * nth as u64));
        assert_eq!(recorded, Ok(Failure::Recorded));
    }
    assert_eq!(pool[0].flags(), PageFlags::empty());
    assert_eq!(map.optimise(&mut pool[0]), Err(HvoError::Poisoned { pfn: pfn(0) }));
    let (back, error) = map.demote(pool.remove(0), order(7), |_| panic!("it has a bad frame")).unwrap_err();
    assert_eq!(error, HvoError::Poisoned { pfn: pfn(0) });
    assert_eq!(back.into_folio().flags_at(300), Some(PageFlags::HWPOISON));
}

/// A translation that is not flushed yet may be read-only still: marks are moved after the flush.
#[test]
fn marks_move_after_the_flush() {
    let world = World::new(X86, 1 << 11);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..2);
    assert_eq!(map.optimise_batch(&mut pool).done, 2);
    for (nth, folio) in pool.iter_mut().enumerate() {
        assert_eq!(map.report_failure_of_frozen(folio, pfn(300 + 512 * nth as u64)), Ok(Failure::Recorded));
    }
    world.watch_marks();
    map.restore(&mut pool[0]).unwrap();
    assert_eq!(world.early_marks(), 0, "written through a translation that was not flushed");
    let mut slots = [pool.pop().map(Some).unwrap()];
    let mut found = None;
    let report = map.free_batch(&mut slots, |frozen| found = frozen.into_folio().flags_at(300));
    assert_eq!((report.done, found), (1, Some(PageFlags::HWPOISON)));
    // The first one's was there.
    assert_eq!(world.early_marks(), 1);
}

/// The head's mark ends when the block becomes free; the record does not.
#[test]
fn a_record_outlives_the_head_s_mark() {
    let world = World::new(X86, 1 << 11);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..1);
    map.optimise(&mut pool[0]).unwrap();
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(300)), Ok(Failure::Recorded));
    // With its mark the page does not become free; its owner takes the mark off by hand.
    let refused = pool.pop().unwrap().into_free().unwrap_err();
    let mut frozen = refused.handle;
    assert!(frozen.remove_at(0..1, PageFlags::HWPOISON));
    drop(frozen.into_free().unwrap());
    let mut frozen = map.claim(pfn(0)).unwrap().allocate();
    assert_eq!(frozen.flags(), PageFlags::empty());
    let (back, error) = map.demote(frozen, order(7), |_| panic!("it has a bad frame")).unwrap_err();
    assert_eq!(error, HvoError::Poisoned { pfn: pfn(0) });
    frozen = back;
    map.restore(&mut frozen).unwrap();
    assert_eq!(frozen.into_folio().flags_at(300), Some(PageFlags::HWPOISON));
}

/// Optimised again, or demoted, the mark in the frame's own descriptor would be gone.
#[test]
fn a_mark_that_was_moved_is_not_erased() {
    let world = World::new(X86, 1 << 11);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..4);
    assert_eq!(map.optimise_batch(&mut pool).done, 4);
    assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(300)), Ok(Failure::Recorded));
    assert_eq!(map.restore_batch(&mut pool).done, 4);
    assert!(!map.is_recorded_failure(pfn(300)));
    let report = map.optimise_batch(&mut pool);
    assert_eq!((report.done, report.error), (3, Some((0, HvoError::Poisoned { pfn: pfn(0) }))));
    let frozen = pool.remove(0);
    let (frozen, error) = map.demote(frozen, order(7), |_| panic!("it has a bad frame")).unwrap_err();
    assert_eq!(error, HvoError::Poisoned { pfn: pfn(0) });
    let mut folio = frozen.into_folio();
    assert_eq!(folio.flags_at(300), Some(PageFlags::HWPOISON));
    // Found bad once more, it is known; and the mark is moved again.
    assert_eq!(map.report_failure(&folio, pfn(300)), Ok(Failure::Known));
    assert!(map.is_recorded_failure(pfn(300)));
    let mut frozen = folio.freeze().unwrap();
    assert_eq!(map.restore(&mut frozen), Ok(()));
    folio = frozen.into_folio();
    assert_eq!(folio.flags(), PageFlags::empty());
    assert_eq!(folio.flags_at(300), Some(PageFlags::HWPOISON));
    // The record gives way where room is needed: the frame has its mark.
    for (nth, folio) in pool[..2].iter_mut().enumerate() {
        let bad = pfn(512 * (nth as u64 + 1));
        assert_eq!(map.report_failure_of_frozen(folio, bad), Ok(Failure::Recorded));
        assert!(map.is_recorded_failure(bad));
    }
    assert_eq!(map.report_failure_of_frozen(&mut pool[2], pfn(1536)), Ok(Failure::Unreliable));
    // What is unreliable is given to nobody, with all its descriptors or without.
    let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
    for _ in 0..2 {
        let report = map.free_batch(&mut slots, drop);
        assert_eq!(report.error, Some((2, HvoError::Unreliable { pfn: pfn(1536) })));
        assert!(slots[2].is_some());
    }
}

#[test]
fn an_unreliable_compound_with_all_its_descriptors_is_not_given_back() {
    let world = World::new(X86, 1 << 11);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..3);
    for (nth, folio) in pool.iter_mut().enumerate() {
        let expected = if nth < 2 { Failure::Recorded } else { Failure::Unreliable };
        assert_eq!(map.report_failure_of_frozen(folio, pfn(512 * nth as u64 + 1)), Ok(expected));
    }
    let mut slots: Vec<_> = pool.into_iter().map(Some).collect();
    let mut given = 0;
    let report = map.free_batch(&mut slots, |_| given += 1);
    assert_eq!(report.error, Some((2, HvoError::Unreliable { pfn: pfn(1024) })));
    assert_eq!((given, report.failed), (2, 1));
    assert!(slots[2].is_some());
}

/// Other frames may come where those were that were removed.
#[test]
fn a_removed_frame_is_not_on_record() {
    let world = World::new(X86, 1 << 11);
    let map = world.map();
    for optimised in [false, true] {
        let mut pool = world.pool(&map, 9, 0..1);
        if optimised {
            map.optimise(&mut pool[0]).unwrap();
        }
        assert_eq!(map.report_failure_of_frozen(&mut pool[0], pfn(300)), Ok(Failure::Recorded));
        let mut frozen = pool.pop().unwrap().into_free().unwrap_err().handle;
        assert!(frozen.remove_at(0..1, PageFlags::HWPOISON));
        drop(frozen.into_free().unwrap());
        assert!(map.is_recorded_failure(pfn(300)));
        map.remove(range(0, 512)).unwrap();
        assert!(!map.is_recorded_failure(pfn(300)));
        map.populate(range(0, 512), order(0), place(0, 0)).unwrap();
    }
    let mut pool = world.pool(&map, 9, 0..1);
    assert_eq!(map.optimise(&mut pool[0]), Ok(()));
}
