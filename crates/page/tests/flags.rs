// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags of single frames: what ends with a folio, and what does not.
#![cfg(not(mmkit_loom))]

use mmkit_addr::{Order, Pfn};
use mmkit_page::{
    Frozen, MemMap, OWN_DESCRIPTORS, Page, PageFlags, Place, Reason, SliceMap, State, Template,
};

type Map<'a> = SliceMap<'a>;

fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

/// 64 frames, of which 16 from frame 16 on are a compound.
fn with_compound(body: impl for<'m, 'a> FnOnce(&'m Map<'a>, Frozen<'m, Map<'a>>)) {
    let mut pages: Vec<Page> = (0..64).map(|_| Page::new()).collect();
    let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    let block = map.claim_joined(pfn(16), order(4)).unwrap().allocate().prep().unwrap();
    body(&map, block);
}

#[test]
fn flags_of_frames_are_set_found_and_cleared_in_batches() {
    with_compound(|_, frozen| {
        let folio = frozen.into_folio();
        let dirty = |range| folio.find_at(range, PageFlags::DIRTY);
        assert!(folio.insert_at(3..9, PageFlags::DIRTY | PageFlags::ACTIVE));
        assert_eq!((dirty(0..16), dirty(4..16), dirty(9..16), dirty(0..3)), (Some(3), Some(4), None, None));
        assert!(folio.remove_at(0..7, PageFlags::DIRTY));
        assert_eq!(dirty(0..16), Some(7));
        let both = PageFlags::DIRTY | PageFlags::ACTIVE;
        let expected = |index| match index {
            3..7 => PageFlags::ACTIVE,
            7..9 => both,
            _ => PageFlags::empty(),
        };
        for index in 0..16 {
            assert_eq!(folio.flags_at(index), Some(expected(index)), "{index}");
        }
        // Past the folio nothing is changed, wherever it starts.
        assert!(!folio.insert_at(0..17, PageFlags::LRU) && !folio.remove_at(3..17, both));
        assert!(folio.insert_at(40..40, PageFlags::LRU));
        assert_eq!((folio.find_at(0..16, PageFlags::LRU), folio.find_at(0..17, both)), (None, None));
        assert_eq!(folio.flags_at(16), None);
    });
}

#[test]
fn flags_of_all_frames_end_with_the_folio() {
    let flags = PageFlags::ANON_EXCLUSIVE | PageFlags::DIRTY;
    let none = |map: &SliceMap<'_, _>| {
        let reader = map.enter();
        (16..32).all(|n| reader.page(pfn(n)).unwrap().flags().is_empty())
    };
    with_compound(|map, frozen| {
        let folio = frozen.into_folio();
        assert!(folio.insert_at(0..16, flags));
        drop(folio);
        // The next owner, of the same compound, finds none, with or without a look at the frames behind the first.
        assert!(map.enter().page(pfn(16)).unwrap().flags().is_empty());
        let frozen = map.claim(pfn(16)).unwrap().allocate();
        assert!(none(map));
        let folio = frozen.into_folio();
        assert_eq!(folio.find_at(0..16, PageFlags::all()), None);
        // Nor does one of its parts.
        assert!(folio.insert_at(7..9, flags));
        let frozen = folio.put().unwrap();
        drop(frozen.unprep().unwrap().into_free().unwrap());
        assert!(none(map));
    });
    with_compound(|map, mut frozen| {
        // What the owner set before it handed the block out counts as well.
        assert!(frozen.insert_at(3..4, flags));
        let free = frozen.into_free().unwrap();
        let frozen = free.allocate();
        assert!(none(map));
        drop(frozen.into_free().unwrap());
    });
}

#[test]
fn a_frame_that_the_hardware_reported_is_not_free_again() {
    with_compound(|map, frozen| {
        let folio = frozen.into_folio();
        assert!(folio.insert_at(5..6, PageFlags::HWPOISON));
        assert!(folio.insert_at(11..13, PageFlags::DIRTY));
        // Not by the last put either.
        drop(folio);
        assert_eq!(map.enter().page(pfn(16)).unwrap().state(), State::Frozen { order: order(4) });
        assert!(map.claim(pfn(16)).is_err());
    });
    with_compound(|map, frozen| {
        let folio = frozen.into_folio();
        assert!(folio.insert_at(5..6, PageFlags::HWPOISON));
        assert!(folio.insert_at(11..13, PageFlags::DIRTY));
        let refused = folio.put().unwrap().into_free().unwrap_err();
        assert_eq!(refused.reason, Reason::Poisoned { pfn: pfn(21) });
        assert_eq!(refused.reason.to_string(), "the hardware reported an error in pfn 0x15");
        // Nothing was changed: other flags are there too.
        let flags = |n| map.enter().page(pfn(n)).unwrap().flags();
        assert_eq!((flags(21), flags(27)), (PageFlags::HWPOISON, PageFlags::DIRTY));
        // Taking the compound apart keeps that flag alone.
        let whole = refused.handle.split().unwrap_err();
        assert_eq!(whole.reason, Reason::Compound { order: order(4) });
        let frozen = whole.handle.unprep().unwrap();
        assert_eq!((flags(21), flags(27)), (PageFlags::HWPOISON, PageFlags::empty()));
        let frozen = frozen.prep().unwrap().unprep().unwrap();
        // What is parted from the frame is free; the frame is not.
        let mut left = vec![frozen];
        let mut lost = Vec::new();
        while let Some(frozen) = left.pop() {
            match frozen.into_free() {
                Ok(free) => drop(free),
                Err(refused) => match refused.handle.split() {
                    Ok((low, high)) => left.extend([low, high]),
                    Err(single) => {
                        assert_eq!(single.reason, Reason::SingleFrame);
                        lost.push(single.handle);
                    }
                },
            }
        }
        let [mut lost] = <[_; 1]>::try_from(lost).unwrap_or_else(|_| panic!("one frame is lost"));
        assert_eq!(lost.pfn(), pfn(21));
        let free = |n| matches!(map.enter().page(pfn(n)).unwrap().state(), State::Free { parked: true, .. });
        assert!([16, 20, 22, 24].into_iter().all(free) && !free(21));
        // Until somebody says that it is well.
        assert!(lost.remove_at(0..1, PageFlags::HWPOISON));
        drop(lost.into_free().unwrap());
        assert_eq!(map.claim_joined(pfn(16), order(4)).unwrap().order(), order(4));
    });
}

#[test]
fn of_a_compound_with_shared_descriptors_its_own_are_looked_at() {
    let mut pages: Vec<Page> = (0..128).map(|_| Page::new()).collect();
    let base = core::ptr::NonNull::new(pages.as_mut_ptr()).unwrap();
    // SAFETY: 128 descriptors, which nobody else accesses.
    unsafe { Template::tail(order(7), Place::default()).fill(base.cast(), 128) };
    // SAFETY: the first of them.
    unsafe { Template::head_of_shared(order(7), Place::default()).fill(base.cast(), 1) };
    let range = mmkit_addr::PfnRange::new(Pfn::ZERO, 128).unwrap();
    // SAFETY: written with templates just now, and nobody else has them while `pages` is borrowed here.
    let map = unsafe { SliceMap::<mmkit_page::Uncounted>::from_raw_parts(base, range) };
    let folio = map.claim(Pfn::ZERO).unwrap().allocate().into_folio();
    assert!(folio.insert_at(0..OWN_DESCRIPTORS, PageFlags::DIRTY));
    assert!(!folio.insert_at(3..5, PageFlags::DIRTY) && folio.find_at(3..5, PageFlags::DIRTY).is_none());
    assert_eq!((folio.flags_at(4), folio.flags_at(128)), (Some(PageFlags::empty()), None));
    assert!(folio.insert_at(2..3, PageFlags::HWPOISON));
    let refused = folio.put().unwrap().into_free().unwrap_err();
    assert_eq!(refused.reason, Reason::Poisoned { pfn: pfn(2) });
    let mut frozen = refused.handle;
    assert!(frozen.remove_at(0..OWN_DESCRIPTORS, PageFlags::HWPOISON));
    let free = frozen.into_free().unwrap();
    assert!((0..128).all(|n| map.enter().page(pfn(n)).unwrap().flags().is_empty()));
    drop(free);
    drop(pages);
}
