// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every transition, and every refusal with nothing changed.
#![cfg(not(mmkit_loom))]

mod common;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use common::{all_words, head, order, pages, pfn, place, state};
use mmkit_addr::{Order, PfnRange};
use mmkit_page::{
    ClaimError, Free, GetError, MemMap, Page, PageFlags, Place, Reason, Refused, SliceMap, State, Template,
};
use mmkit_sync::RefCount;

const FREE: State = State::Free { order: Order::ZERO, parked: false };
const AT_REST: State = State::Free { order: Order::ZERO, parked: true };
const FROZEN: State = State::Frozen { order: Order::ZERO };

/// Runs `body` on a map of `frames` initialised frames, from `first` up.
fn on_map(first: u64, frames: usize, body: impl FnOnce(&SliceMap<'_>)) {
    let mut pages = pages(frames);
    let map = SliceMap::new(&mut pages, pfn(first)).unwrap();
    map.initialise(map.range(), place(3, 2)).unwrap();
    body(&map);
}

/// The free block of `order` at `first`, joined from single frames.
fn block<'m>(map: &'m SliceMap<'m>, first: u64, k: u8) -> Free<'m, SliceMap<'m>> {
    match k.checked_sub(1) {
        None => map.claim(pfn(first)).unwrap(),
        Some(half) => block(map, first, half).merge(block(map, first + (1 << half), half)).unwrap(),
    }
}

/// Asserts that `refuse` is refused for `reason`, and that not a byte of any descriptor changed. Returns the handle.
fn refused<H, T>(map: &SliceMap<'_>, reason: Reason, refuse: impl FnOnce() -> Result<T, Refused<H>>) -> H {
    let before = all_words(map);
    let Err(refused) = refuse() else { panic!("not refused: {reason:?}") };
    assert_eq!(refused.reason, reason);
    assert_eq!(refused.to_string(), reason.to_string());
    assert_eq!(all_words(map), before);
    refused.handle
}

/// A map over descriptors written with templates: a head, and its tails.
fn from_templates<'a>(pages: &'a mut [Page], first: u64, head: Template, tail: Template) -> SliceMap<'a> {
    let count = pages.len();
    let base = NonNull::from(pages).cast::<Page>();
    let range = PfnRange::new(pfn(first), count as u64).unwrap();
    // SAFETY: the first element of a slice of `count`, which is borrowed for `'a` and not used otherwise.
    unsafe { head.fill(base.cast(), 1) };
    // SAFETY: there is a first element, so the second is at most one past the end.
    let rest = unsafe { base.add(1) };
    // SAFETY: the remaining `count - 1` elements.
    unsafe { tail.fill(rest.cast(), count - 1) };
    // SAFETY: borrowed for `'a`, and written with the templates of one compound that is the whole slice.
    unsafe { SliceMap::from_raw_parts(base, range) }
}

#[test]
fn zero_bytes_are_a_descriptor_that_was_not_initialised() {
    let mut pages = pages(4);
    let map = SliceMap::new(&mut pages, pfn(4)).unwrap();
    let frame = pfn(6);
    assert_eq!(all_words(&map), [[0; 8]; 4]);
    assert_eq!(state(&map, 6), State::Uninitialised);
    assert_eq!(map.head(frame), Some(frame));
    assert_eq!(map.try_get(frame).unwrap_err(), GetError::Uninitialised { pfn: frame });
    assert_eq!(map.claim(frame).unwrap_err(), ClaimError::Uninitialised { pfn: frame });
    let reader = map.enter();
    let view = reader.page(frame).unwrap();
    assert_eq!((view.pfn(), view.flags(), view.place()), (frame, PageFlags::empty(), Place::default()));
    assert_eq!(view.dump().to_string(), "pfn 0x6: not initialised");
    assert_eq!(format!("{view:?}"), "PageView(pfn 0x6, Uninitialised)");
    assert_eq!(all_words(&map), [[0; 8]; 4], "looking changed something");
}

#[test]
fn initialise_makes_frames_at_rest_and_only_once() {
    let mut pages = pages(4);
    let map = SliceMap::new(&mut pages, pfn(4)).unwrap();
    map.initialise(PfnRange::new(pfn(5), 2).unwrap(), place(9, 1)).unwrap();
    let states = [State::Uninitialised, AT_REST, AT_REST, State::Uninitialised];
    assert_eq!([4, 5, 6, 7].map(|n| state(&map, n)), states);
    assert_eq!(map.enter().page(pfn(5)).unwrap().place(), place(9, 1));
    let before = all_words(&map);
    let again = map.initialise(PfnRange::new(pfn(5), 1).unwrap(), place(0, 0));
    assert_eq!(again, Err(ClaimError::Initialised { pfn: pfn(5) }));
    assert_eq!(all_words(&map), before);
    // The frames before the first that is refused stay initialised.
    assert_eq!(map.initialise(map.range(), place(9, 1)), Err(ClaimError::Initialised { pfn: pfn(5) }));
    assert_eq!(state(&map, 4), AT_REST);
    let past = map.initialise(PfnRange::new(pfn(7), 2).unwrap(), place(9, 1));
    assert_eq!(past, Err(ClaimError::Absent { pfn: pfn(8) }));
    assert_eq!(state(&map, 7), AT_REST);
}

#[test]
fn what_is_absent_answers_so() {
    on_map(4, 4, |map| {
        for n in [0, 3, 8, u64::from(u32::MAX)] {
            let pfn = pfn(n);
            assert!(map.enter().page(pfn).is_none());
            assert_eq!(map.head(pfn), None);
            assert_eq!(map.try_get(pfn).unwrap_err(), GetError::Absent { pfn });
            assert_eq!(map.claim(pfn).unwrap_err(), ClaimError::Absent { pfn });
        }
    });
}

#[test]
fn one_frame_through_all_states() {
    on_map(0x10, 1, |map| {
        let n = 0x10;
        let free = map.claim(pfn(n)).unwrap();
        assert_eq!((free.pfn(), free.order(), free.place()), (pfn(n), Order::ZERO, place(3, 2)));
        assert!(core::ptr::eq(free.map(), map) && !free.is_compound());
        assert_eq!(state(map, n), FREE);
        let frozen = free.allocate();
        assert_eq!((frozen.pfn(), frozen.order(), frozen.place()), (pfn(n), Order::ZERO, place(3, 2)));
        assert!(core::ptr::eq(frozen.map(), map) && !frozen.is_compound() && !frozen.has_shared_tails());
        assert_eq!(state(map, n), FROZEN);
        let folio = frozen.into_folio();
        assert_eq!((folio.pfn(), folio.order(), folio.place()), (pfn(n), Order::ZERO, place(3, 2)));
        assert!(core::ptr::eq(folio.map(), map) && !folio.has_shared_tails());
        assert_eq!(state(map, n), State::Held { order: Order::ZERO, count: 1 });
        let second = folio.try_clone().unwrap();
        assert_eq!((folio.count(), second.count()), (2, 2));
        let before = all_words(map);
        let folio = folio.freeze().unwrap_err();
        assert_eq!(all_words(map), before);
        assert!(second.put().is_none());
        assert_eq!(folio.count(), 1);
        let frozen = folio.freeze().unwrap();
        assert_eq!(state(map, n), FROZEN);
        let folio = frozen.into_folio();
        let frozen = folio.put().unwrap();
        assert_eq!(state(map, n), FROZEN);
        let free = frozen.into_free().unwrap();
        assert_eq!(state(map, n), FREE);
        drop(free);
        assert_eq!(state(map, n), AT_REST);
        assert_eq!(map.claim(pfn(n)).unwrap().pfn(), pfn(n));
    });
}

#[test]
fn only_rest_can_be_claimed_and_only_references_be_multiplied() {
    on_map(0, 4, |map| {
        let unclaimable = |n| {
            let before = all_words(map);
            assert_eq!(map.claim(pfn(n)).unwrap_err(), ClaimError::Taken { pfn: pfn(n) });
            assert_eq!(all_words(map), before);
        };
        let unreferenced = |n, head| {
            let before = all_words(map);
            assert_eq!(map.try_get(pfn(n)).unwrap_err(), GetError::Unreferenced { pfn: pfn(head) });
            assert_eq!(all_words(map), before);
        };
        unreferenced(0, 0); // at rest
        let free = block(map, 0, 1);
        for n in [0, 1] {
            unclaimable(n);
            unreferenced(n, n);
        }
        let frozen = free.allocate();
        for n in [0, 1] {
            unclaimable(n);
            unreferenced(n, n);
        }
        let frozen = frozen.prep().unwrap();
        for n in [0, 1] {
            unclaimable(n);
            unreferenced(n, 0);
        }
        let folio = frozen.into_folio();
        for n in [0, 1] {
            unclaimable(n);
            assert_eq!(map.try_get(pfn(n)).unwrap().pfn(), pfn(0));
        }
        // A block that is no compound is referenced by its first frame only.
        let plain = folio.freeze().unwrap().unprep().unwrap().into_folio();
        assert_eq!(map.try_get(pfn(0)).unwrap().order(), order(1));
        unreferenced(1, 1);
        unclaimable(1);
        drop(plain);
        assert_eq!(map.claim(pfn(0)).unwrap().order(), order(1));
        unclaimable(1);
    });
}

#[test]
fn prep_makes_equal_tails_and_unprep_undoes_it() {
    on_map(8, 8, |map| {
        for n in 8..16 {
            let single = map.claim(pfn(n)).unwrap();
            single.words()[1].store(n, Ordering::Relaxed);
            single.halves()[2].store(7, Ordering::Relaxed);
        }
        let free = block(map, 8, 3);
        assert_eq!(state(map, 8), State::Free { order: order(3), parked: false });
        assert!((9..16).all(|n| state(map, n) == State::Inside && head(map, n) == n));
        let frozen = free.allocate().prep().unwrap();
        assert!(frozen.is_compound() && !frozen.has_shared_tails());
        assert!((9..16).all(|n| state(map, n) == State::Tail { order: order(3) } && head(map, n) == 8));
        let words = all_words(map);
        assert!(words[1..].iter().all(|tail| *tail == words[1]));
        assert_eq!(words[1], Template::tail(order(3), place(3, 2)).words());
        assert_eq!(words[1][1], 3, "a tail is its order");
        let frozen = frozen.unprep().unwrap();
        assert!((9..16).all(|n| state(map, n) == State::Inside && head(map, n) == n));
        assert!((9..16).all(|n| map.enter().page(pfn(n)).unwrap().place() == place(3, 2)));
        let (low, high) = frozen.into_free().unwrap().split().unwrap();
        assert_eq!((low.pfn(), low.order(), high.pfn(), high.order()), (pfn(8), order(2), pfn(12), order(2)));
        assert_eq!(state(map, 12), State::Free { order: order(2), parked: false });
        assert_eq!(high.place(), place(3, 2));
        let whole = high.merge(low).unwrap();
        assert_eq!((whole.pfn(), whole.order()), (pfn(8), order(3)));
        assert_eq!(state(map, 12), State::Inside);
    });
}

#[test]
fn refusals_name_their_reason_and_change_nothing() {
    on_map(0, 8, |map| {
        let single = map.claim(pfn(0)).unwrap();
        let single = refused(map, Reason::SingleFrame, || single.split());
        let frozen = single.allocate();
        let frozen = refused(map, Reason::SingleFrame, || frozen.prep());
        let frozen = refused(map, Reason::NotCompound, || frozen.unprep());
        drop(frozen.into_free().unwrap());

        let pair = block(map, 0, 1).allocate();
        let pair = refused(map, Reason::NotCompound, || pair.unprep()).prep().unwrap();
        let pair = refused(map, Reason::Compound { order: order(1) }, || pair.prep()).into_free().unwrap();
        assert!(pair.is_compound());
        let pair = refused(map, Reason::Compound { order: order(1) }, || pair.split());
        let other = block(map, 2, 1);
        let reason = Reason::Compound { order: order(1) };
        let (pair, other) = refused(map, reason, || pair.merge(other));
        let (other, pair) = refused(map, reason, || other.merge(pair));
        assert_eq!((pair.pfn(), other.pfn()), (pfn(0), pfn(2)), "handles come back in the order of the call");
        let pair = pair.allocate().unprep().unwrap().into_free().unwrap();

        let not_buddies = |a: u64, b: u64| Reason::NotBuddies { pfn: pfn(a), other: pfn(b) };
        let single = map.claim(pfn(4)).unwrap();
        let (single, pair) = refused(map, not_buddies(4, 0), || single.merge(pair)); // orders differ
        let five = map.claim(pfn(5)).unwrap();
        let six = map.claim(pfn(6)).unwrap();
        let (five, six) = refused(map, not_buddies(5, 6), || five.merge(six)); // neighbours, not aligned
        let (six, single) = refused(map, not_buddies(6, 4), || six.merge(single)); // not neighbours
        drop((pair, other, single, five, six));
    });
}

#[test]
fn blocks_of_different_maps_or_places_do_not_join() {
    let (mut here, mut there) = (pages(2), pages(2));
    let here = SliceMap::new(&mut here, pfn(0)).unwrap();
    let there = SliceMap::new(&mut there, pfn(0)).unwrap();
    here.initialise(PfnRange::new(pfn(0), 1).unwrap(), place(0, 1)).unwrap();
    here.initialise(PfnRange::new(pfn(1), 1).unwrap(), place(0, 2)).unwrap();
    there.initialise(there.range(), place(0, 1)).unwrap();

    let low = here.claim(pfn(0)).unwrap();
    let high = here.claim(pfn(1)).unwrap();
    let reason = Reason::OtherPlace { pfn: pfn(0), other: pfn(1) };
    let (low, _high) = refused(&here, reason, || low.merge(high));
    let foreign = there.claim(pfn(1)).unwrap();
    let reason = Reason::NotBuddies { pfn: pfn(0), other: pfn(1) };
    let (low, _foreign) = refused(&here, reason, || low.merge(foreign));
    let same = there.claim(pfn(0)).unwrap();
    let reason = Reason::NotBuddies { pfn: pfn(0), other: pfn(0) };
    let _both = refused(&here, reason, || low.merge(same));
}

#[test]
fn handles_made_through_different_references_to_one_map_join() {
    on_map(0, 2, |map| {
        fn claim<M: MemMap>(map: &M, n: u64) -> Free<'_, M> {
            map.claim(pfn(n)).unwrap()
        }
        let (one, two) = (map, map);
        let whole = claim::<&SliceMap<'_>>(&one, 0).merge(claim::<&SliceMap<'_>>(&two, 1)).unwrap();
        assert_eq!(whole.order(), order(1));
    });
}

#[test]
fn shared_tails_are_not_taken_apart() {
    let mut pages = pages(128);
    let head = Template::head_of_shared(order(7), place(1, 1));
    let map = from_templates(&mut pages, 128, head, Template::tail(order(7), place(1, 1)));
    let free = map.claim(pfn(128)).unwrap();
    assert!(free.is_compound());
    let free = refused(&map, Reason::Compound { order: order(7) }, || free.split());
    let frozen = free.allocate();
    assert!(frozen.has_shared_tails());
    let frozen = refused(&map, Reason::SharedTails { order: order(7) }, || frozen.unprep());
    let frozen = refused(&map, Reason::Compound { order: order(7) }, || frozen.prep());
    let tails = all_words(&map)[1..].to_vec();
    let folio = frozen.into_folio();
    assert!(folio.has_shared_tails());
    for n in 128..256 {
        let got = map.try_get(pfn(n)).unwrap();
        assert_eq!((got.pfn(), got.order()), (pfn(128), order(7)));
        got.insert(PageFlags::DIRTY);
    }
    drop(folio.freeze().unwrap().into_free().unwrap());
    assert_eq!(all_words(&map)[1..], tails, "a tail was written");
    let at_rest = map.claim(pfn(128)).unwrap().allocate();
    assert!(at_rest.has_shared_tails(), "giving it back forgot that its tails are shared");
}

#[test]
fn templates_say_the_same_as_the_transitions() {
    on_map(16, 16, |map| {
        assert_eq!(all_words(map), [Template::base(place(3, 2)).words(); 16]);
        drop(block(map, 16, 4).allocate().prep().unwrap().into_free().unwrap());
        let mut others = pages(16);
        let (head, tail) = (Template::head(order(4), place(3, 2)), Template::tail(order(4), place(3, 2)));
        let same = from_templates(&mut others, 16, head, tail);
        assert_eq!(all_words(map), all_words(&same));
        let frozen = same.claim(pfn(16)).unwrap().allocate();
        assert!(!frozen.has_shared_tails());
        let (low, high) = frozen.unprep().unwrap().into_free().unwrap().split().unwrap();
        assert_eq!((low.order(), high.pfn()), (order(3), pfn(24)));
    });
}

#[test]
fn words_are_the_allocators_while_free_and_cleared_on_the_way_out_and_back() {
    on_map(0, 2, |map| {
        let free = block(map, 0, 1);
        for (n, word) in (1..).zip(free.words()) {
            word.store(n, Ordering::Relaxed);
        }
        for (n, half) in (5..).zip(free.halves()) {
            half.store(n, Ordering::Relaxed);
        }
        let expected = [5 | 6 << 32, 7 | 8 << 32, 1, 2, 3, 4];
        let native = |words: [u64; 8]| {
            let half = |word: u64| if cfg!(target_endian = "big") { word.rotate_left(32) } else { word };
            [half(words[2]), half(words[3]), words[4], words[5], words[6], words[7]]
        };
        let now = || native(all_words(map)[0]);
        assert_eq!(now(), expected);
        drop(free);
        assert_eq!(now(), expected, "resting lost the words");
        let raw = map.claim(pfn(0)).unwrap().into_raw();
        assert_eq!(map.claim(pfn(0)).unwrap_err(), ClaimError::Taken { pfn: pfn(0) });
        // SAFETY: `into_raw` of this map just returned it.
        let free = unsafe { Free::from_raw(map, raw) }.unwrap();
        assert_eq!(now(), expected);
        let frozen = free.allocate();
        assert_eq!(now(), [0; 6]);
        let folio = frozen.into_folio();
        folio.insert(PageFlags::DIRTY | PageFlags::ANON);
        let free = folio.put().unwrap().into_free().unwrap();
        assert_eq!(now(), [0; 6]);
        assert_eq!(map.enter().page(pfn(0)).unwrap().flags(), PageFlags::empty());
        assert_eq!(free.place(), place(3, 2));
    });
}

#[test]
fn flags_come_and_go_and_never_reach_node_or_zone() {
    on_map(0, 1, |map| {
        let folio = map.claim(pfn(0)).unwrap().allocate().into_folio();
        assert_eq!(folio.insert(PageFlags::DIRTY | PageFlags::LRU), PageFlags::empty());
        assert_eq!(folio.insert(PageFlags::LRU | PageFlags::LOCKED), PageFlags::DIRTY | PageFlags::LRU);
        assert_eq!(folio.remove(PageFlags::DIRTY), PageFlags::DIRTY | PageFlags::LRU | PageFlags::LOCKED);
        assert_eq!(folio.flags(), PageFlags::LRU | PageFlags::LOCKED);
        let everything = PageFlags::from_bits_retain(u64::MAX);
        folio.insert(everything);
        let all = PageFlags::all().difference(PageFlags::ZERO);
        assert_eq!((folio.flags(), folio.place()), (all, place(3, 2)));
        folio.remove(everything);
        assert_eq!((folio.flags(), folio.place()), (PageFlags::empty(), place(3, 2)));
        assert!(folio.insert_at(0..1, everything));
        assert_eq!((folio.flags(), folio.place()), (all, place(3, 2)));
        assert!(folio.remove_at(0..1, everything));
        folio.remove(PageFlags::from_bits_retain(0));
        assert_eq!(all_words(map)[0][0], place(3, 2).bits());
        // Nor does a page of zeroes become another one, or the other way round.
        let mut frozen = folio.freeze().unwrap();
        assert!(frozen.insert_at(0..1, PageFlags::ZERO));
        assert_eq!(frozen.flags(), PageFlags::empty());
        let zeroes = frozen.into_zeroes();
        zeroes.remove(PageFlags::ZERO);
        assert!(zeroes.remove_at(0..1, PageFlags::ZERO));
        assert_eq!((zeroes.flags(), zeroes.count()), (PageFlags::ZERO, 2));
        assert!(zeroes.freeze().is_err());
    });
}

#[test]
fn the_last_reference_that_may_be_had_is_the_limit() {
    const LIMIT: u32 = i32::MAX as u32;
    on_map(0, 2, |map| {
        let folio = block(map, 0, 1).allocate().prep().unwrap().into_folio();
        // SAFETY: a slice map is read without a guard.
        let info = unsafe { map.descriptor(pfn(0)) }.unwrap().cast::<AtomicU64>();
        // SAFETY: the second word of the descriptor's eight.
        let info = unsafe { info.add(1) };
        // SAFETY: the descriptor stays in place, and this word is always accessed as an `AtomicU64`.
        let info = unsafe { info.as_ref() };
        let tag = info.load(Ordering::Relaxed) & u64::from(u32::MAX);
        let set = |count: u32| info.store(u64::from(count) << 32 | tag, Ordering::Relaxed);

        set(LIMIT - 1);
        let last = map.try_get(pfn(1)).unwrap();
        assert_eq!(last.count(), LIMIT);
        let before = all_words(map);
        let overflow = GetError::Overflow { pfn: pfn(0), count: LIMIT };
        assert_eq!(map.try_get(pfn(1)).unwrap_err(), overflow);
        assert_eq!(map.try_get(pfn(0)).unwrap_err(), overflow);
        assert_eq!(folio.try_clone().unwrap_err(), overflow);
        assert_eq!(all_words(map), before);
        assert!(last.put().is_none());
        assert_eq!(folio.try_clone().unwrap().count(), LIMIT);
        assert_eq!(folio.count(), LIMIT - 1);

        // A saturated count (more puts than gets) is neither raised nor ever freed.
        set(RefCount::SATURATED);
        let overflow = GetError::Overflow { pfn: pfn(0), count: RefCount::SATURATED };
        assert_eq!(map.try_get(pfn(1)).unwrap_err(), overflow);
        assert_eq!(folio.try_clone().unwrap_err(), overflow);
        assert!(folio.put().is_none());
        assert_eq!(state(map, 0), State::Held { order: order(1), count: RefCount::SATURATED });
    });
}

#[test]
fn references_kept_as_numbers_come_back() {
    on_map(2, 2, |map| {
        let folio = block(map, 2, 1).allocate().prep().unwrap().into_folio();
        let kept = folio.try_clone().unwrap().into_raw();
        assert_eq!((kept, folio.count()), (pfn(2), 2));
        let folio = folio.freeze().unwrap_err();
        drop(folio);
        assert_eq!(state(map, 2), State::Held { order: order(1), count: 1 });
        // SAFETY: `into_raw` of this map returned it, once.
        let folio = unsafe { mmkit_page::Folio::from_raw(map, kept) }.unwrap();
        assert_eq!((folio.count(), folio.order()), (1, order(1)));
        drop(folio);
        assert_eq!(state(map, 2), State::Free { order: order(1), parked: true });
    });
}

#[test]
fn a_dropped_frozen_block_is_lost_and_nothing_else() {
    on_map(0, 2, |map| {
        drop(map.claim(pfn(0)).unwrap().allocate());
        assert_eq!(state(map, 0), FROZEN);
        assert_eq!(map.claim(pfn(0)).unwrap_err(), ClaimError::Taken { pfn: pfn(0) });
        assert_eq!(map.try_get(pfn(0)).unwrap_err(), GetError::Unreferenced { pfn: pfn(0) });
        assert_eq!(state(map, 1), AT_REST);
    });
}

#[test]
fn a_new_map_forgets_what_an_old_one_left() {
    let mut pages = pages(4);
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(map.range(), place(3, 2)).unwrap();
    block(&map, 0, 2).words()[0].store(7, Ordering::Relaxed);
    // Two frames of four, out of order, under other numbers: nothing of the old blocks must show.
    pages.swap(0, 3);
    let map = SliceMap::new(&mut pages[2..], pfn(9)).unwrap();
    assert_eq!(all_words(&map), [[0; 8]; 2]);
    assert_eq!(state(&map, 9), State::Uninitialised);
}

#[test]
fn the_map_at_the_end_of_the_number_line() {
    let mut pages = pages(2);
    assert!(SliceMap::new(&mut pages, mmkit_addr::Pfn::MAX).is_none());
    let last = mmkit_addr::Pfn::MAX.checked_sub(1).unwrap();
    let map = SliceMap::new(&mut pages, last).unwrap();
    map.initialise(map.range(), place(0, 0)).unwrap();
    let pair = map.claim(last).unwrap().merge(map.claim(mmkit_addr::Pfn::MAX).unwrap()).unwrap();
    let folio = pair.allocate().prep().unwrap().into_folio();
    assert_eq!(map.try_get(mmkit_addr::Pfn::MAX).unwrap().pfn(), folio.pfn());
    assert!(SliceMap::new(&mut [], pfn(0)).unwrap().enter().page(pfn(0)).is_none());
}

#[test]
fn dumps_read_like_this() {
    on_map(0x100, 4, |map| {
        let dump = |n: u64| map.enter().page(pfn(n)).unwrap().dump().to_string();
        assert_eq!(dump(0x100), "pfn 0x100: free, order 0, at rest, node 3, zone 2");
        let free = block(map, 0x100, 2);
        free.halves()[1].store(0x21, Ordering::Relaxed);
        free.words()[3].store(0xabc, Ordering::Relaxed);
        let own = "free, order 2, in its allocator's hands, node 3, zone 2, half 1 0x21, word 3 0xabc";
        assert_eq!(dump(0x100), format!("pfn 0x100: {own}"));
        assert_eq!(dump(0x101), "pfn 0x101: inside a block, node 3, zone 2");
        let frozen = free.allocate();
        assert_eq!(dump(0x100), "pfn 0x100: frozen, order 2, node 3, zone 2");
        let folio = frozen.prep().unwrap().into_folio();
        folio.insert(PageFlags::DIRTY | PageFlags::HWPOISON);
        assert_eq!(dump(0x100), "pfn 0x100: order 2, count 1, node 3, zone 2, DIRTY | HWPOISON");
        assert_eq!(dump(0x103), "pfn 0x103: tail of pfn 0x100, order 2, node 3, zone 2");
        assert_eq!(format!("{folio:?}"), "Folio(pfn 0x100, order 2, count 1)");
        let mut frozen = folio.freeze().unwrap();
        assert_eq!(format!("{frozen:?}"), "Frozen(pfn 0x100, head of order 2 compound)");
        frozen.remove_at(0..1, PageFlags::HWPOISON);
        let free = frozen.into_free().unwrap();
        assert_eq!(format!("{free:?}"), "Free(pfn 0x100, head of order 2 free compound)");
        assert_eq!(format!("{:?}", free.split().unwrap_err()), "Refused(Compound { order: order 2 })");
    });
}

#[test]
fn errors_name_the_frame() {
    let frame = pfn(0x2a);
    for (error, text) in [
        (GetError::Absent { pfn: frame }, "pfn 0x2a is not in the memory map"),
        (GetError::Uninitialised { pfn: frame }, "pfn 0x2a has a descriptor that was not initialised"),
        (GetError::Unreferenced { pfn: frame }, "pfn 0x2a has no references"),
        (GetError::Overflow { pfn: frame, count: 9 }, "pfn 0x2a has 9 references, and cannot have more"),
    ] {
        assert_eq!(error.to_string(), text);
    }
    for (error, text) in [
        (ClaimError::Absent { pfn: frame }, "pfn 0x2a is not in the memory map"),
        (ClaimError::Uninitialised { pfn: frame }, "pfn 0x2a has a descriptor that was not initialised"),
        (ClaimError::Initialised { pfn: frame }, "pfn 0x2a has a descriptor that was initialised before"),
        (ClaimError::Taken { pfn: frame }, "pfn 0x2a is not the first frame of a free block at rest"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn blocks_are_joined_on_demand() {
    let mut pages: Vec<Page> = (0..16).map(|_| Page::new()).collect();
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    let order = |k| Order::new(k).unwrap();

    // Out of single frames, out of what was joined before, and as it is.
    assert_eq!(map.claim_joined(pfn(4), order(2)).unwrap().order(), order(2));
    let all = map.claim_joined(pfn(0), order(3)).unwrap();
    assert_eq!((all.pfn(), all.order()), (pfn(0), order(3)));
    drop(all);
    assert_eq!(map.claim_joined(pfn(0), order(3)).unwrap().order(), order(3));

    // Not a part of a larger block, and not over a frame in use; then all that is free rests again.
    assert_eq!(map.claim_joined(pfn(0), order(2)).unwrap_err(), ClaimError::Taken { pfn: pfn(0) });
    let used = map.claim(pfn(11)).unwrap().allocate();
    assert_eq!(map.claim_joined(pfn(8), order(2)).unwrap_err(), ClaimError::Taken { pfn: pfn(11) });
    drop(used.into_free().unwrap());
    assert_eq!(map.claim_joined(pfn(8), order(2)).unwrap().order(), order(2));

    // Past the map: what could be joined rests, joined.
    assert_eq!(map.claim_joined(pfn(0), order(5)).unwrap_err(), ClaimError::Absent { pfn: pfn(16) });
    assert_eq!(map.claim(pfn(0)).unwrap().order(), order(4));
}
