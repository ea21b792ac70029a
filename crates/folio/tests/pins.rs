// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: where they are counted, their limits, and runs of pages that are held.
#![cfg(not(mmkit_loom))]

mod common;

use common::{everything, mm, ptes, unpin, with_frozen, with_shared_tails};
use mmkit_addr::Pfn;
use mmkit_folio::{
    Hold, MapError, Mapcounts, NoPageMapcount, PIN_BIAS, PowerSums, Rmap, RunHold, map_new_anon,
};
use mmkit_page::{Folio, GetError, MemMap};

type Exact = NoPageMapcount<PowerSums>;

const LIMIT: u32 = i32::MAX as u32;

fn hold<'m, M: MemMap<Counts: Mapcounts>>(
    map: &'m M,
    pfn: u64,
    most: u32,
    hold: Hold,
) -> Result<RunHold<'m, M>, MapError> {
    RunHold::try_new(map.enter().page(Pfn::new(pfn).unwrap()).unwrap(), most, hold)
}

#[test]
fn a_pin_of_one_page_is_many_references_and_so_are_many_references() {
    with_frozen::<Exact>(0, |_, frozen| {
        let folio = frozen.into_folio();
        folio.pin(3).unwrap();
        assert_eq!((folio.count(), folio.pins(), folio.maybe_pinned()), (3 * PIN_BIAS + 1, 3, true));
        drop(unpin(&folio, 2).unwrap());
        assert_eq!((folio.count(), folio.pins()), (PIN_BIAS + 1, 1));
        drop(unpin(&folio, 1).unwrap());
        assert_eq!((folio.count(), folio.pins(), folio.maybe_pinned()), (1, 0, false));
        // 1023 of others and this one.
        let others: Vec<_> = (1..PIN_BIAS).map(|_| folio.try_clone().unwrap()).collect();
        assert!(folio.maybe_pinned(), "it cannot be told");
        drop(others);
        assert!(!folio.maybe_pinned());
    });
}

#[test]
fn pins_of_one_page_are_refused_below_the_bias_and_past_the_limit() {
    with_frozen::<Exact>(0, |_, frozen| {
        let folio = frozen.into_folio();
        folio.pin(1).unwrap();
        let before = everything(&folio);
        assert_eq!(unpin(&folio, 2).unwrap_err(), MapError::TooFewPins { pins: 1, removing: 2 });
        assert_eq!(
            unpin(&folio, u32::MAX).unwrap_err(),
            MapError::TooFewPins { pins: 1, removing: u32::MAX }
        );
        let over = MapError::References(GetError::Overflow { pfn: Pfn::ZERO, count: PIN_BIAS + 1 });
        // With the pin and the handle that there are it would be one too many.
        assert_eq!(folio.pin(LIMIT / PIN_BIAS), Err(over));
        assert_eq!(folio.pin(u32::MAX), Err(over));
        assert_eq!(everything(&folio), before);
        folio.pin(LIMIT / PIN_BIAS - 1).unwrap();
        assert_eq!(folio.pins(), LIMIT / PIN_BIAS);
        assert!(folio.pin(1).is_err());
        drop(unpin(&folio, LIMIT / PIN_BIAS).unwrap());
        assert_eq!(folio.count(), 1);
    });
}

#[test]
fn runs_end_where_the_folio_does_and_give_back_what_they_took() {
    with_frozen::<Exact>(4, |map, frozen| {
        let folio = frozen.into_folio();
        for kind in [Hold::Pin, Hold::Get] {
            let pins = |n| if kind == Hold::Pin { n } else { 0 };
            let mut run = hold(map, 5, 100, kind).unwrap();
            assert_eq!((run.pfn(), run.frames(), run.index()), (Pfn::new(5).unwrap(), 11, 5));
            assert_eq!((run.head(), run.order()), (folio.pfn(), folio.order()));
            assert_eq!((folio.count(), folio.pins()), (12, pins(11)));
            assert!(run.split_off(11).is_none() && run.split_off(0).is_none() && run.split_off(12).is_none());
            let rest = run.split_off(4).unwrap();
            assert_eq!((rest.pfn(), rest.frames()), (Pfn::new(9).unwrap(), 7));
            drop(rest);
            assert_eq!((run.frames(), folio.count(), folio.pins()), (4, 5, pins(4)));
            assert!(run.give_back().unwrap().is_none());
            assert_eq!((folio.count(), folio.pins()), (1, 0));
        }
        assert_eq!(hold(map, 0, 0, Hold::Pin).unwrap_err(), MapError::Empty);
    });
}

#[test]
fn runs_of_one_page_weigh_as_pins_do() {
    with_frozen::<Exact>(0, |map, frozen| {
        let folio = frozen.into_folio();
        let run = hold(map, 0, 512, Hold::Pin).unwrap();
        assert_eq!((run.frames(), folio.count(), folio.pins()), (1, PIN_BIAS + 1, 1));
        run.into_raw();
        drop(unpin(&folio, 1).unwrap());
        assert_eq!(folio.count(), 1);
    });
}

#[test]
fn the_last_hold_of_a_folio_frees_it() {
    with_frozen::<Exact>(3, |map, frozen| {
        let folio = frozen.into_folio();
        let run = hold(map, 2, 3, Hold::Pin).unwrap();
        drop(folio);
        assert!(map.claim(Pfn::ZERO).is_err());
        drop(run);
        let free = map.claim(Pfn::ZERO).unwrap();
        assert!(free.halves().iter().all(|word| word.load(core::sync::atomic::Ordering::Relaxed) == 0));
        let error = MapError::References(GetError::Unreferenced { pfn: Pfn::ZERO });
        assert_eq!(hold(map, 2, 3, Hold::Pin).unwrap_err(), error);
    });
}

#[test]
fn a_shared_page_of_zeroes_counts_references_and_no_pins() {
    for order in [0, 4] {
        with_frozen::<Exact>(order, |map, frozen| {
            let folio = frozen.into_zeroes();
            let before = everything(&folio);
            folio.pin(7).unwrap();
            assert!(unpin(&folio, 7).unwrap().is_none());
            let run = hold(map, 0, 9, Hold::Pin).unwrap();
            assert!(run.folio().is_none());
            assert_eq!(u64::from(run.frames()), folio.order().frames().min(9));
            assert_eq!(everything(&folio), before);
            assert!(run.give_back().unwrap().is_none());
            let got = hold(map, 0, 1, Hold::Get).unwrap();
            assert_eq!(folio.count(), 3);
            drop(got);
            assert_eq!(everything(&folio), before);
        });
    }
}

#[test]
fn runs_of_exclusive_pages_are_counted_from_their_start() {
    with_frozen::<Exact>(4, |map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        folio.try_share(ptes(6, 2)).unwrap();
        assert_eq!(folio.exclusive_pages(0, 16), 6);
        assert_eq!(folio.exclusive_pages(2, 3), 3);
        assert_eq!(folio.exclusive_pages(6, 1), 0);
        assert_eq!(folio.exclusive_pages(8, 100), 8);
        assert_eq!(folio.exclusive_pages(16, 1), 0);
        assert_eq!(folio.exclusive_pages(u64::MAX, u64::MAX), 0);
    });
    with_shared_tails::<Exact>(|map, frozen| {
        let _ = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        let folio = map.try_get(Pfn::ZERO).unwrap();
        assert_eq!(folio.exclusive_pages(70, 20), 20);
        folio.try_share(ptes(0, 1)).unwrap();
        assert_eq!(folio.exclusive_pages(70, 20), 0);
        drop(folio.remove_mappings(mm(1), ptes(0, 128)).unwrap());
    });
}

#[test]
fn pins_of_a_compound_reach_to_the_limit_of_references() {
    with_frozen::<Exact>(9, |map, frozen| {
        let folio = frozen.into_folio();
        folio.pin(LIMIT - 100).unwrap();
        let before = everything(&folio);
        let error = MapError::References(GetError::Overflow { pfn: Pfn::ZERO, count: LIMIT - 99 });
        assert_eq!(hold(map, 0, 512, Hold::Pin).unwrap_err(), error);
        assert_eq!(everything(&folio), before);
        drop(hold(map, 0, 99, Hold::Pin).unwrap());
        drop(unpin(&folio, LIMIT - 100).unwrap());
        assert_eq!((folio.count(), folio.pins()), (1, 0));
    });
}

/// Pins are in the count that a handle does not see: the type says who may give them back.
#[test]
fn a_handle_can_be_made_of_a_hold_that_is_kept() {
    with_frozen::<Exact>(2, |map, frozen| {
        let folio = frozen.into_folio();
        hold(map, 1, 2, Hold::Get).unwrap().into_raw();
        assert_eq!(folio.count(), 3);
        // SAFETY: two references were kept just now.
        assert!(unsafe { Folio::put_raw(map, folio.pfn(), 2) }.is_none());
        assert_eq!(folio.count(), 1);
    });
}
