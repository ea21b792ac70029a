// SPDX-License-Identifier: MIT OR Apache-2.0
//! References without handles, and words and flags of several frames.
#![cfg(not(mmkit_loom))]

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{Order, Pfn};
use mmkit_page::{Folio, Frozen, GetError, MemMap, Page, PageFlags, Place, SliceMap, State, Template};

/// Runs `body` with a map of 4 frames at rest.
fn with_map(body: impl FnOnce(&SliceMap<'_>)) {
    let mut pages: Vec<Page> = (0..4).map(|_| Page::new()).collect();
    let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    body(&map);
}

fn pair<M: MemMap>(map: &M) -> Frozen<'_, M> {
    let block = |n| map.claim(Pfn::new(n).unwrap()).unwrap();
    block(0).merge(block(1)).unwrap().allocate().prep().unwrap()
}

#[test]
fn references_are_taken_and_given_back_by_number() {
    with_map(|map| {
        let folio = map.claim(Pfn::ZERO).unwrap().allocate().into_folio();
        folio.take_raw(0).unwrap();
        folio.take_raw(9).unwrap();
        assert_eq!(folio.count(), 10);
        let over = GetError::Overflow { pfn: Pfn::ZERO, count: 10 };
        assert_eq!(folio.take_raw(i32::MAX as u32 - 9), Err(over));
        assert_eq!(folio.count(), 10);
        drop(folio);
        // SAFETY: taken above, as are the others below.
        assert!(unsafe { Folio::put_raw(map, Pfn::ZERO, 0) }.is_none());
        // SAFETY: see above.
        assert!(unsafe { Folio::put_raw(map, Pfn::ZERO, 6) }.is_none());
        // SAFETY: see above.
        let last = unsafe { Folio::put_raw(map, Pfn::ZERO, 3) };
        assert_eq!(last.unwrap().pfn(), Pfn::ZERO);
    });
}

#[test]
fn a_block_is_handed_out_with_references_of_nobody() {
    with_map(|map| {
        let frozen = pair(map).into_raw(0).unwrap_err().into_raw(1 << 31).unwrap_err();
        assert_eq!(frozen.into_raw(5).unwrap(), Pfn::ZERO);
        let state = map.enter().page(Pfn::ZERO).unwrap().state();
        assert!(matches!(state, State::Held { count: 5, .. }));
    });
}

#[test]
fn a_block_with_a_bad_frame_is_set_apart_and_recalled() {
    with_map(|map| {
        let mut frozen = pair(map);
        assert!(frozen.insert_at(1..2, PageFlags::HWPOISON));
        let pfn = frozen.into_free().unwrap_err().handle.set_apart(77);
        let look = |n| map.enter().page(Pfn::new(n).unwrap()).map(|page| (page.state(), page.flags()));
        let (state, flags) = look(0).unwrap();
        assert!(matches!(state, State::Frozen { .. }), "{state:?}");
        assert_eq!((flags, look(1).unwrap().1), (PageFlags::empty(), PageFlags::HWPOISON));
        assert!(map.claim(pfn).is_err() && map.try_get(pfn).is_err());
        // SAFETY: it was set apart above, and is recalled once.
        let (mut frozen, word) = unsafe { Frozen::recall(map, pfn) }.unwrap();
        assert_eq!(word, 77);
        // SAFETY: nothing is counted in this map.
        assert_eq!(unsafe { frozen.descriptors() }.words(0).unwrap().word[0].load(Relaxed), 0);
        assert!(frozen.remove_at(1..2, PageFlags::HWPOISON));
        drop(frozen.into_free().unwrap());
    });
}

#[test]
fn flags_and_words_of_frames_are_those_of_their_descriptors() {
    with_map(|map| {
        let mut frozen = pair(map);
        assert!(!frozen.insert_at(0..3, PageFlags::DIRTY), "past the block");
        assert!(frozen.insert_at(0..0, PageFlags::DIRTY));
        assert!(frozen.insert_at(1..2, PageFlags::DIRTY));
        // SAFETY: nothing is counted in this map.
        assert!(unsafe { frozen.descriptors() }.words_of(0..3).is_none());
        // SAFETY: see above.
        for (n, words) in unsafe { frozen.descriptors() }.words_of(0..2).unwrap().enumerate() {
            words.word[3].store(n as u64 + 1, Relaxed);
        }
        let folio = frozen.into_folio();
        assert_eq!(folio.flags_at(0), Some(PageFlags::empty()));
        assert_eq!(folio.flags_at(1), Some(PageFlags::DIRTY));
        // SAFETY: see above.
        let words = unsafe { folio.descriptors() }.words_of(0..2).unwrap();
        assert_eq!(words.map(|words| words.word[3].load(Relaxed)).collect::<Vec<_>>(), [1, 2]);
        // SAFETY: see above.
        assert!(unsafe { folio.descriptors() }.words_of(1..3).is_none());
    });
}

#[test]
fn a_template_of_what_is_held_is_what_handing_out_leaves() {
    let held = [7, 8, 9, u64::MAX];
    with_map(|map| {
        let place = Place::default();
        let single = map.claim(Pfn::new(3).unwrap()).unwrap().allocate();
        let two = Order::new(1).unwrap();
        for (frozen, template) in [(single, Template::base(place)), (pair(map), Template::head(two, place))] {
            // SAFETY: the frames are this test's.
            let words = unsafe { frozen.owner_words() };
            words.iter().zip(held).for_each(|(word, value)| word.store(value, Relaxed));
            let pfn = frozen.into_raw(1).unwrap();
            // SAFETY: as above; it is only looked at.
            let template = unsafe { template.held(held) };
            assert_eq!(map.enter().page(pfn).unwrap().words(), template.words());
        }
        let tail = Template::tail(two, place);
        // SAFETY: as above.
        assert_eq!(unsafe { tail.held(held) }, tail, "tails are the same for all");
    });
}
