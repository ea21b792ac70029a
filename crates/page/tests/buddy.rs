// SPDX-License-Identifier: MIT OR Apache-2.0
//! While a frame is free its descriptor belongs to the allocator: a buddy allocator that has no other memory.
#![cfg(not(mmkit_loom))]

#[path = "../examples/buddy/allocator.rs"]
mod allocator;
mod common;

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::BTreeMap;

use allocator::Buddy;
use common::{order, pages, pfn, place};
use mmkit_addr::{Pfn, PfnRange};
use mmkit_page::{MemMap, Page, SliceMap};
use proptest::prelude::*;

fn buddy(pages: &mut [Page], first: u64) -> Buddy<'_> {
    let map = SliceMap::new(pages, pfn(first)).unwrap();
    map.initialise(map.range(), place(0, 0)).unwrap();
    Buddy::new(map)
}

/// What a buddy allocator has free: as few naturally aligned blocks of at most order 10 as cover what is not taken.
fn expected(first: u64, frames: u64, taken: &BTreeMap<u64, u8>) -> [usize; 11] {
    let mut free = [0; 11];
    let mut gap = first;
    let ends = taken.iter().map(|(&start, &k)| (start, start + (1 << k)));
    for (start, end) in ends.chain([(first + frames, 0)]) {
        while gap < start {
            let aligned = gap.trailing_zeros().min(10);
            let fits = (start - gap).ilog2();
            let k = aligned.min(fits);
            free[k as usize] += 1;
            gap += 1 << k;
        }
        gap = end;
    }
    free
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(64), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_gives_out_what_is_free_and_joins_what_comes_back(
        frames in 1usize..3000,
        first in 0u64..2000,
        steps in proptest::collection::vec((any::<bool>(), 0u8..12, any::<u16>()), 1..200),
    ) {
        let mut pages = pages(frames);
        let buddy = buddy(&mut pages, first);
        let mut taken = BTreeMap::new();
        for (allocate, k, choice) in steps {
            let free = expected(first, frames as u64, &taken);
            prop_assert_eq!(buddy.free_blocks(), free);
            if allocate {
                let possible = free.iter().skip(k.into()).any(|&blocks| blocks > 0);
                let got = buddy.allocate(order(k)).map(Pfn::get);
                prop_assert_eq!(got.is_some(), possible);
                let Some(start) = got else { continue };
                prop_assert!(start % (1 << k) == 0 && start >= first && start + (1 << k) <= first + frames as u64);
                let before = taken.range(..start + (1 << k)).next_back().map(|(&start, &k)| start + (1 << k));
                prop_assert!(before.is_none_or(|end| end <= start), "given out twice");
                taken.insert(start, k);
            } else if let Some(&start) = taken.keys().nth(usize::from(choice) % taken.len().max(1)) {
                taken.remove(&start);
                // SAFETY: it was allocated, and is given back once.
                unsafe { buddy.deallocate(pfn(start)) };
            }
        }
        for &start in taken.keys() {
            // SAFETY: it was allocated, and is given back once.
            unsafe { buddy.deallocate(pfn(start)) };
        }
        prop_assert_eq!(buddy.free_blocks(), expected(first, frames as u64, &BTreeMap::new()));
    }
}

#[test]
fn four_threads_share_it() {
    const FRAMES: usize = 2048;
    let mut pages = pages(FRAMES);
    let buddy = buddy(&mut pages, 0);
    let owners: Vec<AtomicU32> = (0..FRAMES).map(|_| AtomicU32::new(0)).collect();
    let each = |start: Pfn, k: u8, from: u32, to: u32| {
        for n in start.get()..start.get() + (1 << k) {
            let owner = owners[usize::try_from(n).unwrap()].swap(to, Ordering::Relaxed);
            assert_eq!(owner, from, "frame {n}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..=4u32 {
            let (buddy, each) = (&buddy, &each);
            scope.spawn(move || {
                let mut random = thread;
                let mut mine = Vec::new();
                for _ in 0..if cfg!(miri) { 40 } else { 4000 } {
                    // Xorshift.
                    random ^= random << 13;
                    random ^= random >> 17;
                    random ^= random << 5;
                    let k = (random >> 8) as u8 % 6;
                    if random % 2 == 0 && mine.len() < 24 {
                        let Some(start) = buddy.allocate(order(k)) else { continue };
                        each(start, k, 0, thread);
                        mine.push((start, k));
                    } else if !mine.is_empty() {
                        let (start, k) = mine.swap_remove(random as usize % mine.len());
                        each(start, k, thread, 0);
                        // SAFETY: it was allocated, and is given back once.
                        unsafe { buddy.deallocate(start) };
                    }
                }
                for (start, k) in mine {
                    each(start, k, thread, 0);
                    // SAFETY: it was allocated, and is given back once.
                    unsafe { buddy.deallocate(start) };
                }
            });
        }
    });
    assert_eq!(buddy.free_blocks(), expected(0, FRAMES as u64, &BTreeMap::new()));
}

#[test]
fn blocks_of_different_places_are_not_joined() {
    let mut pages = pages(4);
    let map = SliceMap::new(&mut pages, pfn(0)).unwrap();
    map.initialise(PfnRange::new(pfn(0), 2).unwrap(), place(0, 0)).unwrap();
    map.initialise(PfnRange::new(pfn(2), 2).unwrap(), place(0, 1)).unwrap();
    let buddy = Buddy::new(map);
    assert_eq!(buddy.free_blocks(), [0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
