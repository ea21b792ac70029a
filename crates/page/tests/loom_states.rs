// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups against everything an owner does to the frame, down to making its descriptor read-only.
#![cfg(mmkit_loom)]

use core::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_page::{ClaimError, Folio, Free, GetError, MemMap, Page, PageFlags, Place, State};
use mmkit_sync::atomic::{AtomicU32, Ordering, fence};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{InsideReader, ReadSide, mutant};

/// A read side that counts who is inside, and refuses to wait rather than to spin: the models end.
struct Inside(AtomicU32);

struct Guard<'a>(&'a AtomicU32);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the acquire of `synchronize`.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

// SAFETY: `synchronize` returns `Ok` only when nobody was inside after its fence. A reader whose fence came first has
// been counted by then, and has left; one whose fence comes later sees what came before.
unsafe impl ReadSide for Inside {
    type Guard<'a> = Guard<'a>;

    fn enter(&self) -> Guard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence of `synchronize`.
        fence(Ordering::SeqCst);
        Guard(&self.0)
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        // SeqCst: pairs with the fence of `enter`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the release with which a reader leaves.
        if self.0.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(InsideReader) }
    }
}

/// A few frames from number 0, and a read side.
struct Map {
    pages: Vec<Page>,
    inside: Inside,
}

// SAFETY: the descriptors are in a vector that is never changed while the map exists, each frame has its own, and the
// models make one read-only only as a tail, after `synchronize` returned `Ok` (or else they are meant to fail).
unsafe impl MemMap for Map {
    type Read = Inside;

    fn read_side(&self) -> &Inside {
        &self.inside
    }

    fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.pages.get(usize::try_from(pfn.get()).ok()?).map(NonNull::from)
    }
}

impl Map {
    /// A map of `frames` frames, all at rest.
    fn new(frames: u64) -> Arc<Self> {
        let map = Self::uninitialised(frames);
        map.initialise(PfnRange::new(Pfn::ZERO, frames).unwrap(), Place::default()).unwrap();
        map
    }

    fn uninitialised(frames: u64) -> Arc<Self> {
        Arc::new(Self {
            pages: (0..frames).map(|_| Page::new()).collect(),
            inside: Inside(AtomicU32::new(0)),
        })
    }

    fn claim(&self, n: u64) -> Free<'_, Self> {
        MemMap::claim(self, pfn(n)).unwrap()
    }

    /// A reference on frame `n`, alone, kept as a number.
    fn hold(&self, n: u64) {
        let _ = self.claim(n).allocate().into_folio().into_raw();
    }

    /// A reference on frames 0 and 1 as a compound, kept as a number.
    fn hold_pair(&self) {
        let pair = self.claim(0).merge(self.claim(1)).unwrap();
        let _ = pair.allocate().prep().unwrap().into_folio().into_raw();
    }

    /// Takes back the reference kept on `n`.
    fn take(&self, n: u64) -> Folio<'_, Self> {
        // SAFETY: each model takes back what `hold` or `hold_pair` kept, once.
        unsafe { Folio::from_raw(self, pfn(n)) }.unwrap()
    }
}

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

/// Asserts that `folio` is held, and has frame `n`.
fn holds(folio: &Folio<'_, Map>, n: u64) {
    let frames = PfnRange::new(folio.pfn(), folio.order().frames()).unwrap();
    assert!(frames.contains(pfn(n)), "a reference on {folio:?}, which does not have frame {n}");
    assert!(folio.count() > 0);
}

/// One thread gives back the last reference, and claims the frame; the other looks it up.
///
/// Whatever the last holder wrote is seen by the claimer, and nobody else gets a reference then.
fn try_get_against_last_put_and_claim() {
    loom::model(|| {
        let map = Map::new(1);
        map.hold(0);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || match other.try_get(pfn(0)) {
            Ok(folio) => {
                holds(&folio, 0);
                folio.insert(PageFlags::DIRTY);
            }
            Err(error) => assert_eq!(error, GetError::Unreferenced { pfn: pfn(0) }),
        });
        drop(map.take(0));
        // At rest, or the other still holds it and lets it rest when it is done.
        match MemMap::claim(&*map, pfn(0)) {
            Ok(free) => {
                let frozen = free.allocate();
                assert_eq!(frozen.pfn(), pfn(0));
                // Count 0, as long as it is ours.
                assert_eq!(map.enter().page(pfn(0)).unwrap().state(), State::Frozen { order: Order::ZERO });
                drop(frozen.into_free());
            }
            Err(error) => assert_eq!(error, ClaimError::Taken { pfn: pfn(0) }),
        }
        thread.join().unwrap();
        let free = map.claim(0);
        let reader = map.enter();
        assert_eq!(reader.page(free.pfn()).unwrap().flags(), PageFlags::empty(), "flags outlived the folio");
    });
}

#[test]
fn try_get_against_last_put_and_claim_2_threads_1_frame() {
    try_get_against_last_put_and_claim();
}

#[test]
fn try_get_against_last_put_and_claim_mutants_fail_2_threads_1_frame() {
    must_fail("refcount-look-then-add", try_get_against_last_put_and_claim);
}

/// One thread looks a frame up through a tail; the other freezes the compound, takes it apart, and hands the halves
/// out anew.
fn try_get_through_a_tail_against_split() {
    loom::model(|| {
        let map = Map::new(2);
        map.hold_pair();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || match other.try_get(pfn(1)) {
            Ok(folio) => holds(&folio, 1),
            Err(error) => assert!(matches!(error, GetError::Unreferenced { .. }), "{error}"),
        });
        if let Ok(frozen) = map.take(0).freeze() {
            assert!(
                map.enter().page(pfn(0)).unwrap().state() == State::Frozen { order: Order::new(1).unwrap() }
            );
            let (low, high) = frozen.unprep().unwrap().into_free().split().unwrap();
            let (low, high) = (low.allocate().into_folio(), high.allocate().into_folio());
            assert_eq!((low.order(), high.order()), (Order::ZERO, Order::ZERO));
            assert_eq!(low.count(), 1, "the lookup of frame 1 took a reference on frame 0");
            let _ = (low.into_raw(), high.into_raw());
        }
        thread.join().unwrap();
    });
}

#[test]
fn try_get_through_a_tail_against_split_2_threads_2_frames() {
    try_get_through_a_tail_against_split();
}

#[test]
fn try_get_through_a_tail_against_split_mutants_fail_2_threads_2_frames() {
    must_fail("page-get-any-head", try_get_through_a_tail_against_split);
    must_fail("page-get-look-then-add", try_get_through_a_tail_against_split);
    must_fail("page-freeze-look-only", try_get_through_a_tail_against_split);
}

/// One thread looks up a single frame that is held; the other freezes it, joins it with its neighbour, makes both a
/// compound and, when no reader is inside, its tail read-only.
fn try_get_against_merge_and_write_protect() {
    loom::model(|| {
        let map = Map::new(2);
        map.hold(1);
        let low = map.claim(0).into_raw();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || match other.try_get(pfn(1)) {
            Ok(folio) => holds(&folio, 1),
            Err(error) => assert!(matches!(error, GetError::Unreferenced { .. }), "{error}"),
        });
        if let Ok(frozen) = map.take(1).freeze() {
            // SAFETY: `into_raw` of this map returned it, once.
            let low = unsafe { Free::from_raw(&*map, low) }.unwrap();
            let pair = low.merge(frozen.into_free()).unwrap().allocate().prep().unwrap();
            if mutant!("model-no-synchronize", map.inside.synchronize(), Ok(())).is_ok() {
                map.pages[1].write_protect();
            }
            let folio = pair.into_folio();
            assert_eq!(folio.order(), Order::new(1).unwrap());
            let _ = folio.into_raw();
        }
        thread.join().unwrap();
    });
}

#[test]
fn try_get_against_merge_and_write_protect_2_threads_2_frames() {
    try_get_against_merge_and_write_protect();
}

#[test]
fn try_get_against_merge_and_write_protect_mutants_fail_2_threads_2_frames() {
    must_fail("model-no-synchronize", try_get_against_merge_and_write_protect);
    must_fail("page-get-writes-tail", try_get_against_merge_and_write_protect);
    must_fail("page-freeze-look-only", try_get_against_merge_and_write_protect);
}

/// One thread claims a frame at rest; the other claims it first, perhaps, joins it with its neighbour, and makes the
/// tail read-only.
fn claim_against_merge_and_write_protect() {
    loom::model(|| {
        let map = Map::new(2);
        let low = map.claim(0).into_raw();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || match MemMap::claim(&*other, pfn(1)) {
            Ok(free) => {
                let _ = free.into_raw();
                true
            }
            Err(error) => {
                assert_eq!(error, ClaimError::Taken { pfn: pfn(1) });
                false
            }
        });
        let claimed = MemMap::claim(&*map, pfn(1)).map(|high| {
            // SAFETY: `into_raw` of this map returned it, once.
            let low = unsafe { Free::from_raw(&*map, low) }.unwrap();
            let pair = low.merge(high).unwrap().allocate().prep().unwrap();
            if mutant!("model-no-synchronize", map.inside.synchronize(), Ok(())).is_ok() {
                map.pages[1].write_protect();
            }
            let _ = pair.into_folio().into_raw();
        });
        assert!(thread.join().unwrap() ^ claimed.is_ok(), "claimed by both or by neither");
    });
}

#[test]
fn claim_against_merge_and_write_protect_2_threads_2_frames() {
    claim_against_merge_and_write_protect();
}

#[test]
fn claim_against_merge_and_write_protect_mutants_fail_2_threads_2_frames() {
    must_fail("model-no-synchronize", claim_against_merge_and_write_protect);
    must_fail("page-claim-look-then-store", claim_against_merge_and_write_protect);
}

/// Three threads claim one block: one of them has it, and sees the words with which it was left to rest.
fn claims_of_one_block() {
    loom::model(|| {
        let map = Map::new(1);
        let claim = |map: &Map| match MemMap::claim(map, pfn(0)) {
            Ok(free) => {
                let _ = free.into_raw();
                1
            }
            Err(error) => {
                assert_eq!(error, ClaimError::Taken { pfn: pfn(0) });
                0
            }
        };
        let threads = [Arc::clone(&map), Arc::clone(&map)].map(|map| thread::spawn(move || claim(&map)));
        let won = claim(&map) + threads.map(|thread| thread.join().unwrap()).iter().sum::<u32>();
        assert_eq!(won, 1, "one block, {won} handles");
    });
}

#[test]
fn claims_of_one_block_3_threads_1_frame() {
    claims_of_one_block();
}

#[test]
fn claims_of_one_block_mutants_fail_3_threads_1_frame() {
    must_fail("page-claim-look-then-store", claims_of_one_block);
}

/// What an allocator wrote into the words is seen by whoever claims the block after it.
fn words_reach_the_claimer() {
    loom::model(|| {
        let map = Map::new(1);
        let free = map.claim(0).into_raw();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || {
            // SAFETY: `into_raw` of this map returned it, once; spawning orders the two.
            let free = unsafe { Free::from_raw(&*other, free) }.unwrap();
            free.words()[3].store(7, Ordering::Relaxed);
            drop(free);
        });
        if let Ok(free) = MemMap::claim(&*map, pfn(0)) {
            assert_eq!(free.words()[3].load(Ordering::Relaxed), 7, "claimed before the words were written");
            assert_eq!(free.halves()[0].load(Ordering::Relaxed), 0);
        }
        thread.join().unwrap();
    });
}

#[test]
fn words_reach_the_claimer_2_threads_1_frame() {
    words_reach_the_claimer();
}

#[test]
fn words_reach_the_claimer_mutants_fail_2_threads_1_frame() {
    must_fail("refcount-store-unique-relaxed", words_reach_the_claimer);
}

/// The words that an allocator wrote, and cleared before it handed the frame out, are not seen by whoever gets a
/// reference after it.
fn cleared_words_reach_the_getter() {
    loom::model(|| {
        let map = Map::new(1);
        let free = map.claim(0).into_raw();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || {
            // SAFETY: `into_raw` of this map returned it, once; spawning orders the two.
            let free = unsafe { Free::from_raw(&*other, free) }.unwrap();
            free.words()[0].store(7, Ordering::Relaxed);
            let _ = free.allocate().into_folio().into_raw();
        });
        let got = map.try_get(pfn(0));
        eprintln!("{got:?}");
        if let Ok(folio) = got {
            let words = map.enter().page(folio.pfn()).unwrap().words();
            eprintln!("saw {words:?}");
            assert_eq!(words[4], 0, "an allocator's word is seen through a reference");
        }
        thread.join().unwrap();
    });
}

#[test]
fn cleared_words_reach_the_getter_2_threads_1_frame() {
    cleared_words_reach_the_getter();
}

#[test]
fn cleared_words_reach_the_getter_mutants_fail_2_threads_1_frame() {
    must_fail("refcount-store-unique-relaxed", cleared_words_reach_the_getter);
}

/// One thread initialises a frame; whoever sees it at rest, or claims it, sees its place.
fn initialise_publishes_the_place() {
    loom::model(|| {
        let place = Place::new(NodeId::new(5).unwrap(), ZoneId::new(3).unwrap());
        let map = Map::uninitialised(1);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || {
            let range = PfnRange::new(Pfn::ZERO, 1).unwrap();
            other.initialise(range, place).is_ok()
        });
        {
            let reader = map.enter();
            let view = reader.page(pfn(0)).unwrap();
            match view.state() {
                State::Free { parked: true, .. } => {
                    assert_eq!(view.place(), place, "seen before it was written")
                }
                State::Uninitialised | State::Free { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        match MemMap::claim(&*map, pfn(0)) {
            Ok(free) => assert_eq!(free.place(), place, "claimed before its place was written"),
            Err(ClaimError::Uninitialised { .. } | ClaimError::Taken { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(thread.join().unwrap());
    });
}

#[test]
fn initialise_publishes_the_place_2_threads_1_frame() {
    initialise_publishes_the_place();
}

#[test]
fn initialise_publishes_the_place_mutants_fail_2_threads_1_frame() {
    must_fail("page-initialise-parked", initialise_publishes_the_place);
    must_fail("page-snapshot-no-fence", initialise_publishes_the_place);
    must_fail("refcount-store-unique-relaxed", initialise_publishes_the_place);
}

/// Two threads initialise one frame: one does.
#[test]
fn initialise_against_initialise_2_threads_1_frame() {
    loom::model(|| {
        let map = Map::uninitialised(1);
        let range = PfnRange::new(Pfn::ZERO, 1).unwrap();
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || other.initialise(range, Place::default()));
        let results = [map.initialise(range, Place::default()), thread.join().unwrap()];
        let refused = Err(ClaimError::Initialised { pfn: Pfn::ZERO });
        assert!(results.contains(&Ok(())) && results.contains(&refused), "{results:?}");
        assert_eq!(map.claim(0).order(), Order::ZERO);
    });
}
