// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a frame goes that lost its last reference.
#![cfg(not(mmkit_loom))]

mod common;

use core::ptr::NonNull;
use std::sync::Mutex;

use common::{order, pages, pfn, place, state};
use mmkit_addr::{Order, Pfn};
use mmkit_page::{ClaimError, Folio, Frozen, MemMap, Page, PageFlags, SliceMap, State};
use mmkit_sync::Immovable;

/// A map with a pool: freed frames are kept by number instead of coming to rest.
struct Pool<'a> {
    map: SliceMap<'a>,
    freed: Mutex<Vec<Pfn>>,
}

// SAFETY: the descriptors are those of a map that nobody else can reach.
unsafe impl MemMap for Pool<'_> {
    type Read = Immovable;
    type Counts = mmkit_page::Uncounted;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: passed on to the caller.
        unsafe { self.map.descriptor(pfn) }
    }

    fn release(&self, frozen: Frozen<'_, Self>) {
        assert!(core::ptr::eq(frozen.map(), self));
        self.freed.lock().unwrap().push(frozen.into_free().unwrap().into_raw());
    }
}

fn folio<M: MemMap>(map: &M, n: u64) -> Folio<'_, M> {
    map.claim(pfn(n)).unwrap().allocate().into_folio()
}

#[test]
fn by_default_it_comes_to_rest_without_its_flags() {
    let mut pages = pages(1);
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(map.range(), place(1, 1)).unwrap();
    let folio = folio(&map, 0);
    folio.insert(PageFlags::DIRTY);
    let second = map.try_get(pfn(0)).unwrap();
    drop(folio);
    assert_eq!(state(&map, 0), State::Held { order: Order::ZERO, count: 1 });
    drop(second);
    assert_eq!(state(&map, 0), State::Free { order: Order::ZERO, parked: true });
    assert_eq!(map.enter().page(pfn(0)).unwrap().flags(), PageFlags::empty());
}

#[test]
fn a_map_may_take_it_also_through_references() {
    let mut pages = pages(4);
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(map.range(), place(1, 1)).unwrap();
    let pool = Pool { map, freed: Mutex::default() };
    drop(folio(&pool, 3));
    let reference = &pool;
    drop(folio::<&Pool<'_>>(&reference, 1));
    let twice = &reference;
    let pair = twice.claim(pfn(0)).unwrap();
    drop(pair.allocate().into_folio());
    drop(folio::<&&Pool<'_>>(&twice, 2));
    assert_eq!(*pool.freed.lock().unwrap(), [3, 1, 0, 2].map(pfn));
    for n in 0..4 {
        assert_eq!(pool.claim(pfn(n)).unwrap_err(), ClaimError::Taken { pfn: pfn(n) });
    }
}

#[test]
fn whoever_puts_the_last_reference_may_keep_the_frame() {
    let mut pages = pages(2);
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(map.range(), place(1, 1)).unwrap();
    let pool = Pool { map, freed: Mutex::default() };
    let pair = pool.claim(pfn(0)).unwrap().merge(pool.claim(pfn(1)).unwrap()).unwrap();
    let folio = pair.allocate().prep().unwrap().into_folio();
    let frozen = folio.put().unwrap();
    assert_eq!((frozen.order(), frozen.is_compound()), (order(1), true));
    assert!(pool.freed.lock().unwrap().is_empty());
    pool.release(frozen);
    assert_eq!(*pool.freed.lock().unwrap(), [pfn(0)]);
}
