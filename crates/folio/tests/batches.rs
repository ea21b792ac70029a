// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches on folios, against a model that knows which entry maps which page.
#![cfg(not(mmkit_loom))]

mod common;

use common::{everything, frozen, mm, order, play, ptes, unpin, with_frozen, with_shared_tails};
use mmkit_addr::Pfn;
use mmkit_folio::{
    Account, Checked, ENTIRELY_MAPPED, Kind, MapError, Mapcounts, Mapping, NoPageMapcount, PageMapcount,
    PowerSums, Rmap, Tracker, TwoSlots, Unmapped, Untracked, average, map_new_anon,
};
use mmkit_page::{Folio, GetError, MemMap, Page, PageFlags, Place, SliceMap};
use proptest::prelude::*;

const ORDER: u8 = 4;
const PAGES: usize = 1 << ORDER;
const MMS: usize = 5;

/// Which entries map the folio.
#[derive(Clone, Default)]
struct Model {
    ptes: [[u32; PAGES]; MMS],
    pmds: [u32; MMS],
}

impl Model {
    fn entire(&self) -> u32 {
        self.pmds.iter().sum()
    }

    fn mappings(&self) -> u32 {
        self.entire() + self.ptes.iter().flatten().sum::<u32>()
    }

    fn of_page(&self, page: usize) -> u32 {
        self.entire() + self.ptes.iter().map(|ptes| ptes[page]).sum::<u32>()
    }

    fn pages_mapped(&self) -> usize {
        (0..PAGES).filter(|&page| self.of_page(page) > 0).count()
    }

    fn owners(&self) -> usize {
        (0..MMS).filter(|&who| self.pmds[who] > 0 || self.ptes[who].iter().any(|&ptes| ptes > 0)).count()
    }

    /// What a mode of counting accounts.
    fn accounted(&self, per_page: bool) -> i64 {
        match per_page {
            true => self.pages_mapped() as i64,
            false if self.mappings() > 0 => PAGES as i64,
            false => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map { who: usize, first: usize, count: usize },
    Unmap { who: usize, first: usize, count: usize },
    MapPmd(usize),
    UnmapPmd(usize),
    Remap(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let batch = || {
        (0..MMS, 0..PAGES, 1..=PAGES).prop_map(|(who, first, count)| (who, first, count.min(PAGES - first)))
    };
    prop_oneof![
        3 => batch().prop_map(|(who, first, count)| Op::Map { who, first, count }),
        6 => batch().prop_map(|(who, first, count)| Op::Unmap { who, first, count }),
        1 => (0..MMS).prop_map(Op::MapPmd),
        2 => (0..MMS).prop_map(Op::UnmapPmd),
        1 => (0..MMS).prop_map(Op::Remap),
    ]
}

/// Sums of what the operations said, as a caller keeps them.
#[derive(Default)]
struct Books {
    mapped: i64,
    pmd_mapped: i64,
    partial: u32,
}

impl Books {
    fn add(&mut self, account: Account, model: &Model) {
        self.mapped += account.mapped;
        self.pmd_mapped += account.pmd_mapped;
        self.partial += u32::from(account.became_partially_mapped);
        assert_eq!(account.mappings, model.mappings());
        assert_eq!(account.is_unmapped(), model.mappings() == 0);
        let other = if account.kind == Kind::Anon { account.file_mapped() } else { account.anon_mapped() };
        assert_eq!((account.anon_mapped() + account.file_mapped(), other), (account.mapped, 0));
    }

    fn remove<M: MemMap>(&mut self, unmapped: Unmapped<'_, M>, mappings: u32, model: &Model) {
        assert_eq!(unmapped.references.count(), mappings);
        self.add(unmapped.account, model);
    }
}

/// Plays `ops`, those that the model allows, and compares everything after each.
fn run<C: Mapcounts>(ops: &[Op], anon: bool, exact: bool) {
    with_frozen::<C>(ORDER, |_, frozen| {
        let folio = frozen.into_folio();
        if anon {
            folio.insert(PageFlags::ANON);
        }
        let mut model = Model::default();
        let mut books = Books::default();
        let mut partial = false;
        for &op in ops {
            let before = model.clone();
            let unmapping = step(&folio, &mut model, &mut books, op);
            compare::<C>(&folio, &model, &books, exact);
            if unmapping && anon {
                partial |= if C::PER_PAGE {
                    (1..before.pages_mapped()).contains(&model.pages_mapped())
                } else {
                    let pmd = matches!(op, Op::UnmapPmd(_));
                    let partly = (1..PAGES as u32).contains(&model.mappings());
                    partly && model.entire() == 0 && (!pmd || before.entire() > 0)
                };
            }
            assert_eq!(books.partial, u32::from(partial), "said once, of anonymous folios");
        }
        assert_eq!(folio.flags().contains(PageFlags::PARTIALLY_MAPPED), books.partial == 1);
    });
}

/// One operation on the model and on the folio, if the model allows it; whether it was a removal.
fn step<'m, M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'m, M>,
    model: &mut Model,
    books: &mut Books,
    op: Op,
) -> bool {
    let id = |who: usize| mm(who as u32 + 1);
    let batch = |first: usize, count: usize| ptes(first as u64, count as u64);
    match op {
        Op::Map { who, first, count } => {
            model.ptes[who][first..first + count].iter_mut().for_each(|ptes| *ptes += 1);
            books.add(folio.add_mappings(id(who), batch(first, count)).unwrap(), model);
        }
        Op::Unmap { who, first, count } => {
            let ptes = &mut model.ptes[who][first..first + count];
            if ptes.contains(&0) {
                return false;
            }
            ptes.iter_mut().for_each(|ptes| *ptes -= 1);
            let unmapped = folio.remove_mappings(id(who), batch(first, count)).unwrap();
            books.remove(unmapped, count as u32, model);
            return true;
        }
        Op::MapPmd(who) => {
            model.pmds[who] += 1;
            books.add(folio.fork(id(who), Mapping::Pmd).unwrap(), model);
        }
        Op::UnmapPmd(who) if model.pmds[who] > 0 => {
            model.pmds[who] -= 1;
            books.remove(folio.remove_mappings(id(who), Mapping::Pmd).unwrap(), 1, model);
            return true;
        }
        Op::Remap(who) if model.pmds[who] > 0 => {
            model.pmds[who] -= 1;
            model.ptes[who].iter_mut().for_each(|ptes| *ptes += 1);
            books.add(folio.remap(id(who)).unwrap(), model);
        }
        Op::UnmapPmd(_) | Op::Remap(_) => {}
    }
    false
}

fn compare<C: Mapcounts>(folio: &Folio<'_, SliceMap<'_, C>>, model: &Model, books: &Books, exact: bool) {
    assert_eq!(folio.mappings(), model.mappings());
    assert_eq!(folio.entire_mappings(), model.entire());
    assert_eq!(folio.count(), model.mappings() + 1, "each mapping has one reference");
    assert_eq!(books.mapped, model.accounted(C::PER_PAGE));
    assert_eq!(books.pmd_mapped, if model.entire() > 0 { PAGES as i64 } else { 0 });
    let mean = average(model.mappings(), model.entire(), order(ORDER));
    assert_eq!(folio.average_mappings(), mean);
    for page in 0..PAGES {
        let expected = if C::PER_PAGE { model.of_page(page) } else { mean };
        assert_eq!(folio.page_mappings(page as u64), Some(expected), "page {page}");
    }
    if C::PER_PAGE {
        let singly = (0..PAGES).filter(|&page| model.of_page(page) > model.entire()).count();
        assert_eq!(folio.pages_mapped(), (singly as u32, model.entire() > 0));
    }
    assert!(folio.maybe_mapped_shared() || model.owners() < 2);
    if exact {
        assert_eq!(folio.maybe_mapped_shared(), model.owners() > 1);
        assert_eq!(folio.sole_owner().is_some(), model.owners() == 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(48)))]

    #[test]
    fn books_counts_and_owners_agree_with_the_model(
        ops in prop::collection::vec(op(), 1..200),
        anon in any::<bool>(),
    ) {
        run::<PageMapcount<Untracked>>(&ops, anon, false);
        run::<PageMapcount<TwoSlots>>(&ops, anon, false);
        run::<PageMapcount<PowerSums>>(&ops, anon, true);
        run::<PageMapcount<Checked>>(&ops, anon, true);
        run::<NoPageMapcount<Untracked>>(&ops, anon, false);
        run::<NoPageMapcount<TwoSlots>>(&ops, anon, false);
        run::<NoPageMapcount<PowerSums>>(&ops, anon, true);
        run::<NoPageMapcount<Checked>>(&ops, anon, true);
    }
}

/// `op` is refused as `error`; no descriptor of the folio changes, references included.
#[track_caller]
fn refused<M: MemMap, R: core::fmt::Debug>(
    folio: &Folio<'_, M>,
    op: impl FnOnce() -> Result<R, MapError>,
    error: MapError,
) {
    let before = everything(folio);
    assert_eq!(op().unwrap_err(), error);
    assert_eq!(everything(folio), before, "{error}");
}

#[test]
fn batches_that_do_not_fit_are_refused_and_nothing_is_changed() {
    fn check<C: Mapcounts>() {
        with_frozen::<C>(ORDER, |_, frozen| {
            let folio = frozen.into_folio();
            play(&folio, "A+3 B+2");
            let pages = PAGES as u64;
            for (first, count) in [(0, pages + 1), (pages, 1), (pages - 1, 2), (u64::MAX, 1), (1, u64::MAX)] {
                let past = MapError::PastEnd { first, count, pages };
                refused(&folio, || folio.add_mappings(mm(1), ptes(first, count)), past);
                refused(&folio, || folio.remove_mappings(mm(1), ptes(first, count)), past);
                refused(&folio, || folio.fork(mm(2), ptes(first, count)), past);
            }
            refused(&folio, || folio.add_mappings(mm(1), ptes(1, 0)), MapError::Empty);
            refused(&folio, || folio.remove_mappings(mm(1), ptes(1, 0)), MapError::Empty);
            refused(&folio, || folio.fork(mm(1), ptes(1, 0)), MapError::Empty);
            refused(&folio, || folio.pin(0), MapError::Empty);
            refused(&folio, || unpin(&folio, 0), MapError::Empty);
            refused(&folio, || unpin(&folio, 1), MapError::TooFewPins { pins: 0, removing: 1 });
            refused(&folio, || folio.set_exclusive(ptes(0, 1)), MapError::NotAnon);
            let past = MapError::PastEnd { first: pages, count: 1, pages };
            refused(&folio, || folio.write_fault(pages, 1), past);
            assert_eq!(folio.page_mappings(pages), None);
        });
    }
    check::<PageMapcount<Untracked>>();
    check::<PageMapcount<TwoSlots>>();
    check::<NoPageMapcount<PowerSums>>();
    check::<NoPageMapcount<Checked>>();
}

#[test]
fn a_folio_of_one_page_is_mapped_by_ptes_and_is_shared_if_mapped_twice() {
    with_frozen::<PageMapcount<PowerSums>>(0, |_, frozen| {
        let folio = frozen.into_folio();
        refused(&folio, || folio.add_mappings(mm(1), Mapping::Pmd), MapError::SinglePage);
        refused(&folio, || folio.remap(mm(1)), MapError::SinglePage);
        refused(&folio, || folio.write_fault_entire(1), MapError::SinglePage);
        let too_few = MapError::TooFew { mappings: 0, removing: 1 };
        refused(&folio, || folio.remove_mappings(mm(1), Mapping::pte(0)), too_few);
        let first = folio.add_mappings(mm(1), Mapping::pte(0)).unwrap();
        let second = folio.add_mappings(mm(1), Mapping::pte(0)).unwrap();
        assert_eq!((first.file_mapped(), second.file_mapped()), (1, 0));
        assert!(folio.maybe_mapped_shared());
        assert_eq!((folio.page_mappings(0), folio.average_mappings(), folio.count()), (Some(2), 2, 3));
        assert_eq!(folio.remove_mappings(mm(1), Mapping::pte(0)).unwrap().account.mapped, 0);
        let last = folio.remove_mappings(mm(1), Mapping::pte(0)).unwrap();
        assert!(last.account.is_unmapped() && last.account.mapped == -1);
    });
    with_frozen::<NoPageMapcount<Checked>>(0, |_, frozen| {
        let folio = frozen.into_folio();
        let _ = folio.add_mappings(mm(1), Mapping::pte(0)).unwrap();
        let error = MapError::NotTheirs { mm: mm(2), removing: 1, mappings: 1 };
        refused(&folio, || folio.remove_mappings(mm(2), Mapping::pte(0)), error);
        drop(folio.remove_mappings(mm(1), Mapping::pte(0)).unwrap());
    });
}

#[test]
fn unmapping_what_is_not_mapped_is_undone() {
    with_frozen::<PageMapcount<TwoSlots>>(ORDER, |_, frozen| {
        let folio = frozen.into_folio();
        play(&folio, "A+4 B+4 C+P");
        // Pages 0..4 lose a mapping before page 4 is found to have none.
        let error = MapError::PageNotMapped { index: 4 };
        refused(&folio, || folio.remove_mappings(mm(1), ptes(0, 6)), error);
        // The first page of the batch has none, where nothing is to be undone: page 0, page 1, and any other.
        play(&folio, "A-4 B-4");
        for (index, count) in [(0, 1), (0, 16), (1, 3), (5, 2)] {
            let error = MapError::PageNotMapped { index };
            refused(&folio, || folio.remove_mappings(mm(1), ptes(index, count)), error);
        }
        play(&folio, "A+4 B+4");
        // The pages are mapped, but not by this one.
        let error = MapError::NotTheirs { mm: mm(4), removing: 4, mappings: 9 };
        refused(&folio, || folio.remove_mappings(mm(4), ptes(0, 4)), error);
        play(&folio, "A-4 C-P");
        let error = MapError::NotTheirs { mm: mm(3), removing: 4, mappings: 4 };
        refused(&folio, || folio.remove_mappings(mm(3), ptes(0, 4)), error);
        refused(&folio, || folio.remove_mappings(mm(2), Mapping::Pmd), MapError::EntireNotMapped);
        refused(&folio, || folio.remap(mm(2)), MapError::EntireNotMapped);
        play(&folio, "B-4 A+P");
        let error = MapError::NotTheirs { mm: mm(2), removing: 1, mappings: 1 };
        refused(&folio, || folio.remove_mappings(mm(2), Mapping::Pmd), error);
        refused(&folio, || folio.remap(mm(2)), error);
        assert_eq!(folio.pages_mapped(), (0, true));
    });
    with_frozen::<NoPageMapcount<PowerSums>>(ORDER, |_, frozen| {
        let folio = frozen.into_folio();
        play(&folio, "B+4 B+P");
        let error = MapError::TooFew { mappings: 5, removing: 6 };
        refused(&folio, || folio.remove_mappings(mm(2), ptes(0, 6)), error);
        let error = MapError::NotTheirs { mm: mm(1), removing: 1, mappings: 5 };
        refused(&folio, || folio.remove_mappings(mm(1), ptes(0, 1)), error);
        refused(&folio, || folio.remove_mappings(mm(1), Mapping::Pmd), error);
        refused(&folio, || folio.remap(mm(1)), error);
    });
}

#[test]
fn references_at_their_limit_refuse_mappings_and_pins() {
    with_frozen::<PageMapcount<PowerSums>>(ORDER, |map, frozen| {
        let folio = frozen.into_folio();
        play(&folio, "A+P");
        folio.take_raw(i32::MAX as u32 - 5).unwrap();
        let error = MapError::References(GetError::Overflow { pfn: Pfn::ZERO, count: i32::MAX as u32 - 3 });
        refused(&folio, || folio.add_mappings(mm(1), ptes(0, 4)), error);
        refused(&folio, || folio.fork(mm(1), ptes(0, 4)), error);
        refused(&folio, || folio.remap(mm(1)), error);
        refused(&folio, || folio.pin(4), error);
        let _ = folio.add_mappings(mm(2), ptes(0, 3)).unwrap();
        // SAFETY: taken above.
        assert!(unsafe { Folio::put_raw(map, Pfn::ZERO, i32::MAX as u32 - 5) }.is_none());
        assert_eq!(folio.count(), 5);
    });
}

#[test]
fn a_block_that_is_no_compound_has_no_counts() {
    let mut pages: Vec<Page> = (0..4).map(|_| Page::new()).collect();
    let map = SliceMap::<NoPageMapcount<PowerSums>>::counted(&mut pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    let folio = frozen(&map, 2).unprep().unwrap().into_folio();
    let error = MapError::NotCompound { order: order(2) };
    refused(&folio, || folio.add_mappings(mm(1), ptes(0, 1)), error);
    refused(&folio, || folio.remove_mappings(mm(1), ptes(0, 1)), error);
    refused(&folio, || folio.pin(1), error);
    assert_eq!((folio.mappings(), folio.pins(), folio.maybe_mapped_shared()), (0, 0, false));
    let refused = map_new_anon(folio.freeze().unwrap(), mm(1), ptes(0, 1)).unwrap_err();
    assert_eq!(refused.error, error);
    assert_eq!(refused.frozen.order(), order(2));
}

#[test]
fn shared_descriptors_are_counted_as_a_whole_or_not_at_all() {
    with_shared_tails::<PageMapcount<TwoSlots>>(|_, frozen| {
        let error = MapError::SharedTails { order: order(7) };
        let back = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap_err();
        assert_eq!(back.error, error);
        let folio = back.frozen.into_folio();
        refused(&folio, || folio.add_mappings(mm(1), ptes(0, 2)), error);
        refused(&folio, || folio.remove_mappings(mm(1), ptes(0, 2)), error);
        refused(&folio, || folio.add_mappings(mm(1), Mapping::Pmd), error);
    });
    with_shared_tails::<NoPageMapcount<PowerSums>>(|map, frozen| {
        let account = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        assert_eq!((account.anon_mapped(), account.mappings), (128, 128));
        let folio = map.try_get(Pfn::new(77).unwrap()).unwrap();
        assert!((0..128).all(|index| folio.is_exclusive(index)), "one flag for all");
        let before = everything(&folio);
        let _ = folio.fork(mm(2), ptes(100, 28)).unwrap();
        assert!(!folio.is_exclusive(0) && folio.maybe_mapped_shared());
        assert_eq!(everything(&folio)[4..], before[4..], "no shared descriptor is written");
        drop(folio.remove_mappings(mm(2), ptes(100, 28)).unwrap());
        assert_eq!(folio.sole_owner(), Some(mm(1)));
    });
}

#[test]
fn the_last_reference_of_a_mapping_gives_the_folio_back() {
    with_frozen::<NoPageMapcount<PowerSums>>(ORDER, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        let mut first = folio.remove_mappings(mm(1), ptes(0, 10)).unwrap();
        assert!(first.account.became_partially_mapped);
        let last = folio.remove_mappings(mm(1), ptes(10, 6)).unwrap();
        assert!(last.account.is_unmapped() && last.account.anon_mapped() == -16);
        drop(folio);
        assert_eq!(first.references.head(), Pfn::ZERO);
        first.references.merge(last.references).unwrap();
        assert!(map.claim(Pfn::ZERO).is_err(), "in use until the flush");
        let frozen = first.references.put().unwrap();
        assert_eq!(frozen.order(), order(ORDER));
        // And with a drop, to where the map puts free folios.
        let _ = map_new_anon(frozen, mm(2), Mapping::Pmd).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        let unmapped = folio.remove_mappings(mm(2), Mapping::Pmd).unwrap();
        drop(folio);
        drop(unmapped);
        assert!(map.claim(Pfn::ZERO).is_ok());
    });
}

#[test]
fn a_pud_is_not_counted_as_a_pmd_nor_ever_found_mapped_in_part() {
    fn check<C: Mapcounts>() {
        with_frozen::<C>(ORDER, |map, frozen| {
            let account = map_new_anon(frozen, mm(1), Mapping::Pud).unwrap();
            assert_eq!((account.anon_mapped(), account.pmd_mapped, account.mappings), (16, 0, 1));
            let folio = map.try_get(Pfn::ZERO).unwrap();
            let _ = folio.add_mappings(mm(2), ptes(0, 4)).unwrap();
            let account = folio.remove_mappings(mm(1), Mapping::Pud).unwrap().account;
            assert_eq!(account.pmd_mapped, 0);
            assert!(!account.became_partially_mapped);
            assert_eq!(account.mapped, if C::PER_PAGE { -12 } else { 0 });
        });
    }
    check::<PageMapcount<PowerSums>>();
    check::<NoPageMapcount<PowerSums>>();
}

#[test]
fn half_of_a_folio_that_two_unmap_is_missed_without_counts_of_pages_until_one_leaves() {
    fn halves<T: Tracker>(per_page: bool) -> Vec<bool> {
        let mut found = Vec::new();
        let mut look = |account: Account| found.push(account.became_partially_mapped);
        let script = [(1, ptes(0, 8)), (2, ptes(0, 8)), (2, ptes(8, 8))];
        if per_page {
            with_frozen::<PageMapcount<T>>(ORDER, |map, frozen| {
                let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
                let folio = map.try_get(Pfn::ZERO).unwrap();
                let _ = folio.fork(mm(2), ptes(0, 16)).unwrap();
                for (who, what) in script {
                    look(folio.remove_mappings(mm(who), what).unwrap().account);
                }
            });
        } else {
            with_frozen::<NoPageMapcount<T>>(ORDER, |map, frozen| {
                let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
                let folio = map.try_get(Pfn::ZERO).unwrap();
                let _ = folio.fork(mm(2), ptes(0, 16)).unwrap();
                for (who, what) in script {
                    look(folio.remove_mappings(mm(who), what).unwrap().account);
                }
            });
        }
        found
    }
    // With counts of pages: when the second unmaps the same half. Without: when it unmaps the rest.
    assert_eq!(halves::<PowerSums>(true), [false, true, false]);
    assert_eq!(halves::<PowerSums>(false), [false, false, true]);
}

/// What users see without counts of pages: the folio is mapped as a whole from its first mapping to its last; what is
/// said to be one address space's own is never more than what is.
#[test]
fn scenario_a10_visible_effects_without_counts_of_pages() {
    fn check<T: Tracker>() {
        with_frozen::<NoPageMapcount<T>>(9, |_, frozen| {
            let folio = frozen.into_folio();
            folio.insert(PageFlags::ANON);
            let mut mapped = 0;
            // One page of 512: all 512 are mapped, each once.
            mapped += folio.add_mappings(mm(1), ptes(3, 1)).unwrap().anon_mapped();
            assert_eq!((mapped, folio.page_mappings(3), folio.page_mappings(400)), (512, Some(1), Some(1)));
            // 767 mappings of 512 pages are 1.498 for each, 768 are 1.5.
            mapped += folio.add_mappings(mm(1), ptes(0, 512)).unwrap().anon_mapped();
            mapped += folio.add_mappings(mm(2), ptes(0, 254)).unwrap().anon_mapped();
            assert_eq!((folio.mappings(), folio.page_mappings(511)), (767, Some(1)));
            mapped += folio.add_mappings(mm(2), ptes(254, 1)).unwrap().anon_mapped();
            assert_eq!((mapped, folio.mappings(), folio.page_mappings(511)), (512, 768, Some(2)));
            // Pages that one has alone count as shared while others map any of the folio.
            assert!(folio.maybe_mapped_shared());
            mapped += folio.remove_mappings(mm(2), ptes(0, 255)).unwrap().account.anon_mapped();
            assert_eq!(folio.maybe_mapped_shared(), T::NAME == "Untracked");
            // 511 are unmapped, and still accounted; the last takes all with it.
            mapped += folio.remove_mappings(mm(1), ptes(0, 512)).unwrap().account.anon_mapped();
            assert_eq!((mapped, folio.mappings(), folio.page_mappings(3)), (512, 1, Some(1)));
            let last = folio.remove_mappings(mm(1), ptes(3, 1)).unwrap().account;
            assert_eq!((mapped + last.anon_mapped(), last.is_unmapped()), (0, true));
            assert_eq!(folio.page_mappings(3), Some(0));
        });
    }
    check::<Untracked>();
    check::<TwoSlots>();
    check::<PowerSums>();
    check::<Checked>();
    // A third that stays where two have left: its memory is not counted as its own, though it is.
    with_frozen::<NoPageMapcount<TwoSlots>>(4, |_, frozen| {
        let folio = frozen.into_folio();
        play(&folio, "A+4 B+4 C+5 A-4 B-4");
        assert!(folio.maybe_mapped_shared(), "under-estimated, never over-estimated");
    });
}

#[test]
fn an_entry_for_the_whole_folio_that_is_another_s_is_refused_and_stays() {
    fn check<C: Mapcounts>() {
        with_frozen::<C>(ORDER, |_, frozen| {
            let folio = frozen.into_folio();
            play(&folio, "A+P B+3");
            refused(
                &folio,
                || folio.remove_mappings(mm(3), Mapping::Pmd),
                MapError::NotTheirs { mm: mm(3), removing: 1, mappings: 4 },
            );
            play(&folio, "A-P");
            refused(&folio, || folio.remove_mappings(mm(1), Mapping::Pmd), MapError::EntireNotMapped);
            assert_eq!((folio.mappings(), folio.entire_mappings()), (3, 0));
        });
    }
    check::<NoPageMapcount<TwoSlots>>();
    check::<PageMapcount<TwoSlots>>();
    check::<NoPageMapcount<Checked>>();
    check::<PageMapcount<Checked>>();
}

#[test]
fn an_entry_for_the_whole_folio_adds_a_fixed_large_number() {
    assert_eq!(ENTIRELY_MAPPED, 0x80_0000);
}
