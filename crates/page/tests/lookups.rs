// SPDX-License-Identifier: MIT OR Apache-2.0
//! A map is asked for a descriptor inside its read side only, also by those who hold the frame.
#![cfg(not(mmkit_loom))]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Folio, Free, MemMap, Page, PageFlags, Place, SliceMap, Uncounted};
use mmkit_sync::{InsideReader, ReadSide};

/// How many guards there are.
#[derive(Default)]
struct Inside(AtomicUsize);

struct Guard<'a>(&'a AtomicUsize);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: `synchronize` never returns `Ok`.
unsafe impl ReadSide for Inside {
    type Guard<'a> = Guard<'a>;

    fn enter(&self) -> Guard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Guard(&self.0)
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        Err(InsideReader)
    }
}

struct Strict<'a> {
    map: SliceMap<'a>,
    inside: Inside,
    lookups: AtomicUsize,
}

// SAFETY: the descriptors are those of the slice map, which nobody else has.
unsafe impl MemMap for Strict<'_> {
    type Read = Inside;
    type Counts = Uncounted;

    fn read_side(&self) -> &Inside {
        &self.inside
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        assert!(self.inside.0.load(Ordering::Relaxed) > 0, "{pfn:?} is looked up outside of the read side");
        self.lookups.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on to the caller.
        unsafe { self.map.descriptor(pfn) }
    }
}

#[test]
fn every_lookup_is_inside_the_read_side() {
    let mut pages = [const { Page::new() }; 16];
    let map = SliceMap::new(&mut pages, Pfn::ZERO).unwrap();
    let map = Strict { map, inside: Inside::default(), lookups: AtomicUsize::new(0) };
    let pfn = |number| Pfn::new(number).unwrap();
    map.initialise(PfnRange::new(Pfn::ZERO, 16).unwrap(), Place::default()).unwrap();

    let pair = |first| map.claim(pfn(first)).unwrap().merge(map.claim(pfn(first + 1)).unwrap()).unwrap();
    let (low, high) = pair(0).merge(pair(2)).unwrap().split().unwrap();
    let raw = low.into_raw();
    // SAFETY: the block that was made raw just now.
    let low = unsafe { Free::from_raw(&map, raw) }.unwrap();
    let frozen = low.merge(high).unwrap().allocate().prep().unwrap().unprep().unwrap().prep().unwrap();

    let folio = frozen.into_folio();
    assert_eq!(map.head(pfn(3)), Some(Pfn::ZERO));
    assert!(folio.insert_at(3..4, PageFlags::HWPOISON));
    assert_eq!(folio.flags_at(3), Some(PageFlags::HWPOISON));
    assert!(folio.remove_at(3..4, PageFlags::HWPOISON));
    let raw = map.try_get(pfn(2)).unwrap().into_raw();
    // SAFETY: the reference that was made raw just now.
    let second = unsafe { Folio::from_raw(&map, raw) }.unwrap();
    drop(folio);
    let frozen = second.freeze().unwrap();
    assert_eq!(frozen.order(), Order::new(2).unwrap());
    drop(frozen.into_free().unwrap());

    assert!(map.lookups.load(Ordering::Relaxed) > 16);
    assert_eq!(map.inside.0.load(Ordering::Relaxed), 0);
}
