// SPDX-License-Identifier: MIT OR Apache-2.0
//! Forks, pins, exclusive pages and the copy-on-write decision.
#![cfg(not(mmkit_loom))]

mod common;

use common::{everything, mm, play, ptes, unpin, with_frozen, with_shared_tails};
use mmkit_addr::Pfn;
use mmkit_folio::{
    Checked, Cow, MapError, Mapcounts, Mapping, NoPageMapcount, PageMapcount, PowerSums, Rmap, TwoSlots,
    Untracked, Why, map_new_anon,
};
use mmkit_page::{Folio, MemMap, PageFlags, SliceMap};

/// A folio of 16 pages that A has mapped since it was new.
fn with_owner<C: Mapcounts>(body: impl for<'m, 'a> FnOnce(&'m SliceMap<'a, C>, Folio<'m, SliceMap<'a, C>>)) {
    with_frozen::<C>(4, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
        body(map, map.try_get(Pfn::ZERO).unwrap());
    });
}

#[test]
fn an_exclusive_page_is_written_whatever_other_references_there_are() {
    with_owner::<NoPageMapcount<PowerSums>>(|_, folio| {
        folio.pin(3).unwrap();
        let _other = folio.try_clone().unwrap();
        assert_eq!(folio.write_fault(5, 1), Ok(Cow::Exclusive));
    });
}

#[test]
fn after_the_child_exits_every_page_is_reused_one_by_one() {
    fn check<C: Mapcounts>() {
        with_owner::<C>(|_, folio| {
            let _ = folio.fork(mm(2), ptes(0, 16)).unwrap();
            assert!((0..16).all(|index| !folio.is_exclusive(index)));
            assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(Why::Shared)));
            drop(folio.remove_mappings(mm(2), ptes(0, 16)).unwrap());
            for index in 0..16 {
                assert!(!folio.is_exclusive(index), "neighbours take faults of their own");
                assert_eq!(folio.write_fault(index, 1), Ok(Cow::Reused), "{index}");
                assert_eq!(folio.write_fault(index, 1), Ok(Cow::Exclusive));
            }
        });
    }
    check::<NoPageMapcount<TwoSlots>>();
    check::<NoPageMapcount<PowerSums>>();
    check::<NoPageMapcount<Checked>>();
    check::<PageMapcount<TwoSlots>>();
    check::<PageMapcount<PowerSums>>();
    check::<PageMapcount<Checked>>();
}

#[test]
fn a_third_that_survives_two_copies_with_two_slots_and_reuses_with_power_sums() {
    fn survivor<C: Mapcounts>() -> Cow {
        let mut decision = None;
        with_frozen::<C>(4, |_, frozen| {
            let folio = frozen.into_folio();
            folio.insert(PageFlags::ANON);
            play(&folio, "A+4 B+4 C+5 A-4 B-4");
            decision = Some(folio.write_fault(0, 1).unwrap());
        });
        decision.unwrap()
    }
    assert_eq!(survivor::<NoPageMapcount<TwoSlots>>(), Cow::Copy(Why::Shared));
    assert_eq!(survivor::<NoPageMapcount<Untracked>>(), Cow::Copy(Why::Shared));
    assert_eq!(survivor::<NoPageMapcount<PowerSums>>(), Cow::Reused);
    assert_eq!(survivor::<NoPageMapcount<Checked>>(), Cow::Reused);
}

#[test]
fn one_reference_more_blocks_reuse_of_all_pages_until_it_is_dropped() {
    with_owner::<NoPageMapcount<TwoSlots>>(|_, folio| {
        play(&folio, "B+16 B-16");
        folio.try_share(ptes(0, 16)).unwrap();
        let other = folio.try_clone().unwrap();
        let why = Why::References { mappings: 16, held: 1, references: 18 };
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(why)));
        drop(other);
        // The caller's own count is part of the sum, too few of them as well as too many.
        let why = Why::References { mappings: 16, held: 0, references: 17 };
        assert_eq!(folio.write_fault(0, 0), Ok(Cow::Copy(why)));
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Reused));
    });
}

#[test]
fn the_last_mapping_of_a_large_folio_is_copied_that_of_a_small_one_is_reused() {
    with_frozen::<NoPageMapcount<PowerSums>>(4, |_, frozen| {
        let folio = frozen.into_folio();
        folio.insert(PageFlags::ANON);
        play(&folio, "A+1");
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(Why::LastMapping)));
    });
    with_frozen::<NoPageMapcount<PowerSums>>(0, |_, frozen| {
        let folio = frozen.into_folio();
        folio.insert(PageFlags::ANON);
        play(&folio, "A+1 B+1");
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(Why::Shared)));
        play(&folio, "A-1");
        let other = folio.try_clone().unwrap();
        let why = Why::References { mappings: 1, held: 1, references: 3 };
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(why)));
        drop(other);
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Reused));
        assert!(folio.is_exclusive(0) && !folio.is_exclusive(1));
    });
}

#[test]
fn pages_of_a_file_are_copied() {
    with_frozen::<NoPageMapcount<PowerSums>>(4, |_, frozen| {
        let folio = frozen.into_folio();
        play(&folio, "A+4");
        assert_eq!(folio.write_fault(0, 1), Ok(Cow::Copy(Why::File)));
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Copy(Why::File)));
    });
}

#[test]
fn an_entry_for_the_whole_folio_is_reused_alone_and_else_replaced_by_ptes() {
    with_frozen::<PageMapcount<PowerSums>>(4, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), Mapping::Pmd).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Exclusive));
        let _ = folio.fork(mm(2), Mapping::Pmd).unwrap();
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Copy(Why::Shared)));
        drop(folio.remove_mappings(mm(2), Mapping::Pmd).unwrap());
        let why = Why::References { mappings: 1, held: 0, references: 2 };
        assert_eq!(folio.write_fault_entire(0), Ok(Cow::Copy(why)));
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Reused));
        // What the entry was, its pages are.
        let account = folio.remap(mm(1)).unwrap();
        assert_eq!((account.mapped, account.pmd_mapped, account.mappings), (0, -16, 16));
        assert!((0..16).all(|index| folio.is_exclusive(index)));
    });
}

#[test]
fn a_fork_of_pinned_exclusive_pages_is_refused_and_nothing_is_changed() {
    fn check<C: Mapcounts>() {
        with_owner::<C>(|_, folio| {
            let _ = folio.fork(mm(2), ptes(0, 4)).unwrap();
            folio.pin(1).unwrap();
            let before = everything(&folio);
            let error = MapError::PinnedExclusive { index: 4, pins: 1 };
            assert_eq!(folio.fork(mm(3), ptes(2, 8)), Err(error));
            assert_eq!(everything(&folio), before);
            // Pages that are shared already, and pages after the unpin.
            let _ = folio.fork(mm(3), ptes(0, 4)).unwrap();
            assert_eq!(folio.pins(), 1);
            drop(unpin(&folio, 1).unwrap());
            let _ = folio.fork(mm(3), ptes(4, 8)).unwrap();
        });
    }
    check::<NoPageMapcount<TwoSlots>>();
    check::<NoPageMapcount<PowerSums>>();
    check::<PageMapcount<PowerSums>>();
    check::<NoPageMapcount<Checked>>();
}

#[test]
fn one_pin_keeps_all_pages_exclusive_where_descriptors_are_shared() {
    with_shared_tails::<NoPageMapcount<PowerSums>>(|map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        folio.pin(2).unwrap();
        let error = MapError::PinnedExclusive { index: 90, pins: 2 };
        assert_eq!(folio.fork(mm(2), ptes(90, 2)), Err(error));
        drop(unpin(&folio, 2).unwrap());
        let _ = folio.fork(mm(2), ptes(90, 2)).unwrap();
        drop(folio.remove_mappings(mm(2), ptes(90, 2)).unwrap());
        assert_eq!(folio.write_fault(127, 1), Ok(Cow::Reused));
        assert_eq!(folio.write_fault(3, 1), Ok(Cow::Exclusive), "one flag for all");
    });
}

#[test]
fn pages_read_from_swap_may_be_made_exclusive() {
    with_frozen::<NoPageMapcount<TwoSlots>>(4, |_, frozen| {
        let folio = frozen.into_folio();
        folio.insert(PageFlags::ANON);
        play(&folio, "A+16");
        folio.set_exclusive(ptes(3, 2)).unwrap();
        let exclusive: Vec<_> = (0..16).filter(|&index| folio.is_exclusive(index)).collect();
        assert_eq!(exclusive, [3, 4]);
    });
}

/// To swap and back: what was exclusive is not while an entry for swap stands for it, and is again when it returns.
#[test]
fn pages_are_shared_before_they_are_unmapped_for_swap_and_exclusive_again_when_they_return() {
    fn check<C: Mapcounts>() {
        with_owner::<C>(|_, folio| {
            let exclusive = |folio: &Folio<'_, _>| (0..16).filter(|&page| folio.is_exclusive(page)).count();
            let _ = folio.fork(mm(2), ptes(0, 2)).unwrap();
            drop(folio.remove_mappings(mm(2), ptes(0, 2)).unwrap());
            // Whether a page was exclusive is noted first; pages that were not are shared like the others.
            let marks: Vec<bool> = (0..8).map(|page| folio.is_exclusive(page)).collect();
            assert_eq!(marks, [false, false, true, true, true, true, true, true]);
            folio.try_share(ptes(0, 8)).unwrap();
            assert_eq!(exclusive(&folio), 8);
            let gone = folio.remove_mappings(mm(1), ptes(0, 8)).unwrap();
            // A fork copies the entries for swap, and whoever reads the page back maps what it may share.
            let _ = folio.fork(mm(2), ptes(8, 8)).unwrap();
            let _ = folio.add_mappings(mm(2), ptes(3, 1)).unwrap();
            assert_eq!(folio.write_fault(3, 1 + 8), Ok(Cow::Copy(Why::Shared)));
            drop(folio.remove_mappings(mm(2), ptes(3, 1)).unwrap());
            drop(gone.references);
            // One whose entry still has the mark is its owner's when it returns.
            let _ = folio.add_mappings(mm(1), ptes(5, 1)).unwrap();
            folio.set_exclusive(ptes(5, 1)).unwrap();
            assert_eq!(folio.write_fault(5, 1), Ok(Cow::Exclusive));
        });
    }
    check::<NoPageMapcount<TwoSlots>>();
    check::<NoPageMapcount<PowerSums>>();
    check::<PageMapcount<PowerSums>>();
    check::<PageMapcount<Checked>>();
}

#[test]
fn pages_that_may_be_pinned_are_not_shared_and_stay() {
    with_owner::<NoPageMapcount<PowerSums>>(|_, folio| {
        folio.try_share(ptes(0, 4)).unwrap();
        folio.pin(1).unwrap();
        let before = everything(&folio);
        assert_eq!(folio.try_share(ptes(2, 4)), Err(MapError::PinnedExclusive { index: 4, pins: 1 }));
        assert_eq!(everything(&folio), before);
        // Pages that are not exclusive cannot have been pinned by who relies on that.
        folio.try_share(ptes(0, 4)).unwrap();
        drop(unpin(&folio, 1).unwrap());
        folio.try_share(ptes(0, 16)).unwrap();
        assert!((0..16).all(|page| !folio.is_exclusive(page)));
        let past = MapError::PastEnd { first: 9, count: 8, pages: 16 };
        assert_eq!(folio.try_share(ptes(9, 8)), Err(past));
    });
    // By an entry for the whole folio: all of its pages.
    with_frozen::<NoPageMapcount<PowerSums>>(4, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), Mapping::Pmd).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        folio.pin(1).unwrap();
        assert_eq!(folio.try_share(Mapping::Pmd), Err(MapError::PinnedExclusive { index: 0, pins: 1 }));
        drop(unpin(&folio, 1).unwrap());
        folio.try_share(Mapping::Pmd).unwrap();
        assert!(!folio.is_exclusive(0));
    });
    // Where descriptors are shared, one flag stands for all, too.
    with_shared_tails::<NoPageMapcount<PowerSums>>(|map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        folio.pin(3).unwrap();
        assert_eq!(folio.try_share(ptes(77, 1)), Err(MapError::PinnedExclusive { index: 77, pins: 3 }));
        drop(unpin(&folio, 3).unwrap());
        folio.try_share(ptes(77, 1)).unwrap();
        assert!(!folio.is_exclusive(0));
        drop(folio.remove_mappings(mm(1), ptes(0, 128)).unwrap());
    });
    with_frozen::<NoPageMapcount<PowerSums>>(4, |_, frozen| {
        assert_eq!(frozen.into_folio().try_share(ptes(0, 1)), Err(MapError::NotAnon));
    });
}

/// A caller whose entry is not counted is told so, and not that it is alone.
#[test]
fn nobody_writes_to_what_nobody_maps() {
    for order in [0, 4] {
        with_frozen::<NoPageMapcount<PowerSums>>(order, |_, frozen| {
            let folio = frozen.into_folio();
            folio.insert(PageFlags::ANON | PageFlags::ANON_EXCLUSIVE_WHOLE);
            for held in [0, 1] {
                assert_eq!(folio.write_fault(0, held), Err(MapError::PageNotMapped { index: 0 }));
            }
        });
    }
    with_frozen::<NoPageMapcount<PowerSums>>(4, |_, frozen| {
        let folio = frozen.into_folio();
        folio.insert(PageFlags::ANON);
        assert_eq!(folio.write_fault_entire(1), Err(MapError::EntireNotMapped));
        play(&folio, "A+1");
        assert_eq!(folio.write_fault_entire(1), Err(MapError::EntireNotMapped));
        play(&folio, "A-1");
    });
}

/// A folio is freed with its pages exclusive; its next owner has it for a file.
#[test]
fn exclusive_pages_of_a_former_life_are_not_found_in_the_next() {
    with_owner::<NoPageMapcount<PowerSums>>(|map, folio| {
        drop(folio.remove_mappings(mm(1), ptes(0, 16)).unwrap());
        drop(folio);
        let folio = map.claim(Pfn::ZERO).unwrap().allocate().into_folio();
        assert!((0..16).all(|page| !folio.is_exclusive(page)));
        assert_eq!(folio.flags(), PageFlags::empty());
    });
}

#[test]
fn pins_hold_references_and_are_given_back_in_any_portions() {
    with_owner::<NoPageMapcount<TwoSlots>>(|_, folio| {
        folio.pin(10).unwrap();
        folio.pin(5).unwrap();
        assert_eq!((folio.pins(), folio.count()), (15, 32));
        drop(unpin(&folio, 12).unwrap());
        assert_eq!(unpin(&folio, 4).unwrap_err(), MapError::TooFewPins { pins: 3, removing: 4 });
        assert_eq!((folio.pins(), folio.count()), (3, 20));
        drop(unpin(&folio, 3).unwrap());
        assert_eq!((folio.pins(), folio.count()), (0, 17));
    });
}

/// One PMD takes the place of the owner's PTEs, whose pages are exclusive, and is forked: none of them is any more.
#[test]
fn pages_that_were_exclusive_before_a_forked_pmd_are_not_when_it_is_replaced() {
    fn check<C: Mapcounts>() {
        with_owner::<C>(|_, folio| {
            play(&folio, "A+P A-16");
            let _ = folio.fork(mm(2), Mapping::Pmd).unwrap();
            let _ = folio.remap(mm(2)).unwrap();
            for index in 0..16 {
                assert_eq!(folio.write_fault(index, 1), Ok(Cow::Copy(Why::Shared)), "{index}");
            }
        });
    }
    check::<NoPageMapcount<TwoSlots>>();
    check::<NoPageMapcount<PowerSums>>();
    check::<PageMapcount<PowerSums>>();
}

/// The last holder uses the block for something else at once, or by way of its allocator, which keeps it a compound.
#[test]
fn a_block_that_is_mapped_anew_has_forgotten_its_former_life() {
    fn check<C: Mapcounts>(through_the_allocator: bool) {
        with_frozen::<C>(4, |map, frozen| {
            let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
            let folio = map.try_get(Pfn::ZERO).unwrap();
            let mut first = folio.remove_mappings(mm(1), ptes(0, 8)).unwrap();
            assert!(first.account.became_partially_mapped);
            first.references.merge(folio.remove_mappings(mm(1), ptes(8, 8)).unwrap().references).unwrap();
            drop(folio);
            let mut frozen = first.references.put().unwrap();
            if through_the_allocator {
                frozen = frozen.into_free().unwrap().allocate();
            }
            let _ = map_new_anon(frozen, mm(2), ptes(4, 4)).unwrap();
            let folio = map.try_get(Pfn::ZERO).unwrap();
            let exclusive: Vec<_> = (0..16).filter(|&index| folio.is_exclusive(index)).collect();
            assert_eq!(exclusive, [4, 5, 6, 7]);
            let account = folio.remove_mappings(mm(2), ptes(4, 1)).unwrap().account;
            assert!(account.became_partially_mapped, "once in each life");
            drop(folio.remove_mappings(mm(2), ptes(5, 3)).unwrap());
        });
    }
    for through_the_allocator in [false, true] {
        check::<NoPageMapcount<TwoSlots>>(through_the_allocator);
        check::<NoPageMapcount<PowerSums>>(through_the_allocator);
        check::<PageMapcount<PowerSums>>(through_the_allocator);
    }
}

/// A PMD counted, a PTE uncounted: without counts of pages nothing shows it, and the folio is freed with its PMD.
#[test]
fn a_pmd_that_was_unmapped_as_a_pte_is_not_found_in_the_next_life() {
    with_frozen::<NoPageMapcount<PowerSums>>(4, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), Mapping::Pmd).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        let wrong = folio.remove_mappings(mm(1), Mapping::pte(0)).unwrap();
        assert_eq!((wrong.account.mappings, folio.entire_mappings()), (0, 1));
        drop(folio);
        let frozen = wrong.references.put().unwrap();
        let _ = map_new_anon(frozen, mm(2), ptes(0, 16)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        assert_eq!((folio.entire_mappings(), folio.page_mappings(3)), (0, Some(1)));
        drop(folio.remove_mappings(mm(2), ptes(0, 16)).unwrap());
    });
}
