// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups against everything an owner does to the frame, down to making its descriptor read-only.
//!
//! Each model is two threads. The names of the tests say how many frames there are, and how many preemptions at most.
#![cfg(mmkit_loom)]

use core::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{NodeId, Order, Pfn, PfnRange, ZoneId};
use mmkit_page::{ClaimError, Folio, Free, GetError, MemMap, Page, PageFlags, Place, State};
use mmkit_sync::atomic::{AtomicU32, Ordering, fence};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Immovable, InsideReader, ReadSide, mutant};

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
struct Map<R> {
    pages: Vec<Page>,
    read: R,
}

// SAFETY: the descriptors are in a vector that is never changed while the map exists, each frame has its own, and the
// models make one read-only only as a tail, after `synchronize` returned `Ok` (or else they are meant to fail).
unsafe impl<R: ReadSide> MemMap for Map<R> {
    type Read = R;
    type Counts = mmkit_page::Uncounted;

    fn read_side(&self) -> &R {
        &self.read
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.pages.get(usize::try_from(pfn.get()).ok()?).map(NonNull::from)
    }
}

impl<R: ReadSide> Map<R> {
    fn uninitialised(frames: u64, read: R) -> Self {
        Self { pages: (0..frames).map(|_| Page::new()).collect(), read }
    }

    /// A map of `frames` frames, all at rest.
    fn new(frames: u64, read: R) -> Self {
        let map = Self::uninitialised(frames, read);
        map.initialise(frames_from(0, frames), Place::default()).unwrap();
        map
    }

    /// Takes frame `n` and keeps it as a number.
    fn keep(self, n: u64) -> Self {
        let _ = self.claim(pfn(n)).unwrap().into_raw();
        self
    }

    /// Takes back the block that `keep` kept.
    fn kept(&self, n: u64) -> Free<'_, Self> {
        // SAFETY: each model takes back what `keep` kept, once, and starting its threads orders the two.
        unsafe { Free::from_raw(self, pfn(n)) }.unwrap()
    }

    /// Takes a reference on frame `n`, alone, and keeps it as a number.
    fn hold(self, n: u64) -> Self {
        let _ = self.claim(pfn(n)).unwrap().allocate().into_folio().into_raw();
        self
    }

    /// The same on frames 0 and 1, as a compound.
    fn hold_pair(self) -> Self {
        let pair = self.claim(pfn(0)).unwrap().merge(self.claim(pfn(1)).unwrap()).unwrap();
        let _ = pair.allocate().prep().unwrap().into_folio().into_raw();
        self
    }

    /// Takes back the reference that `hold` kept.
    fn held(&self, n: u64) -> Folio<'_, Self> {
        // SAFETY: each model takes back what `hold` or `hold_pair` kept, once.
        unsafe { Folio::from_raw(self, pfn(n)) }.unwrap()
    }

    /// Claims frame `n` for good; whether it could.
    fn claims(&self, n: u64) -> bool {
        match self.claim(pfn(n)) {
            Ok(free) => {
                let _ = free.into_raw();
                true
            }
            Err(error) => {
                assert_eq!(error, ClaimError::Taken { pfn: pfn(n) });
                false
            }
        }
    }

    /// Takes a reference on frame `n` and gives it back; if it can be had it is on a folio with that frame.
    fn looks_up(&self, n: u64) {
        match self.try_get(pfn(n)) {
            Ok(folio) => {
                let frames = frames_from(folio.pfn().get(), folio.order().frames());
                assert!(frames.contains(pfn(n)), "a reference on {folio:?}, which does not have frame {n}");
                assert!(folio.count() > 0);
                folio.insert(PageFlags::DIRTY);
            }
            Err(error) => assert!(matches!(error, GetError::Unreferenced { .. }), "{error}"),
        }
    }
}

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

fn frames_from(first: u64, frames: u64) -> PfnRange {
    PfnRange::new(pfn(first), frames).unwrap()
}

/// Runs `one` and `two` at once, with at most so many preemptions, on what `new` makes, and then `after`.
///
/// Loom lets the first thread run as far as it can, and goes back where it sees two accesses that might change places.
/// It remembers only the last access to each word, and so misses some, others than with the threads exchanged: so each
/// model runs both ways.
fn check<M: 'static, A: 'static, B: 'static>(
    preemptions: impl Into<Option<usize>>,
    new: fn() -> M,
    one: fn(&M) -> A,
    two: fn(&M) -> B,
    after: fn(&M, A, B),
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.check(move || {
        let map = Arc::new(new());
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || two(&other));
        let a = one(&map);
        after(&map, a, thread.join().unwrap());
    });
    builder.check(move || {
        let map = Arc::new(new());
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || one(&other));
        let b = two(&map);
        after(&map, thread.join().unwrap(), b);
    });
}

/// The last reference is given back and the frame claimed, while another looks it up: whoever claims it is alone.
fn try_get_against_last_put_and_claim() {
    check(
        3,
        || Map::new(1, Immovable).hold(0),
        |map| {
            drop(map.held(0));
            // At rest, or else the other still has it and lets it rest when it is done.
            let Ok(free) = map.claim(pfn(0)) else { return };
            let state = map.enter().page(free.pfn()).unwrap().state();
            let alone = State::Free { order: Order::ZERO, parked: false };
            assert_eq!(state, alone, "somebody has a reference on a claimed frame");
        },
        |map| match map.try_get(pfn(0)) {
            Ok(folio) => assert_eq!(folio.pfn(), pfn(0)),
            Err(error) => assert_eq!(error, GetError::Unreferenced { pfn: pfn(0) }),
        },
        |map, (), ()| {
            let free = map.claim(pfn(0)).unwrap();
            assert_eq!(map.enter().page(free.pfn()).unwrap().flags(), PageFlags::empty());
        },
    );
}

#[test]
fn try_get_against_last_put_and_claim_2_threads_1_frame_3_preemptions() {
    try_get_against_last_put_and_claim();
}

#[test]
fn try_get_against_last_put_and_claim_mutants_fail() {
    must_fail("refcount-look-then-add", try_get_against_last_put_and_claim);
}

/// A lookup through a tail, while the compound is frozen, taken apart, and its halves are handed out anew.
fn try_get_through_a_tail_against_split() {
    check(
        3,
        || Map::new(2, Immovable).hold_pair(),
        |map| {
            let Ok(frozen) = map.held(0).freeze() else { return };
            let (low, high) = frozen.unprep().unwrap().into_free().unwrap().split().unwrap();
            let (low, high) = (low.allocate().into_folio(), high.allocate().into_folio());
            assert_eq!(low.count(), 1, "the lookup of frame 1 took a reference on frame 0");
            let _ = (low.into_raw(), high.into_raw());
        },
        |map| map.looks_up(1),
        |_, (), ()| {},
    );
}

#[test]
fn try_get_through_a_tail_against_split_2_threads_2_frames_3_preemptions() {
    try_get_through_a_tail_against_split();
}

#[test]
fn try_get_through_a_tail_against_split_mutants_fail() {
    must_fail("page-get-any-head", try_get_through_a_tail_against_split);
    must_fail("page-get-look-then-add", try_get_through_a_tail_against_split);
    must_fail("page-freeze-look-only", try_get_through_a_tail_against_split);
}

/// A lookup of a single frame, while it is frozen, joined with its neighbour, both made a compound and, if no reader
/// is inside, its tail read-only.
fn try_get_against_merge_and_write_protect() {
    check(
        3,
        || Map::new(2, Inside(AtomicU32::new(0))).keep(0).hold(1),
        |map| {
            let Ok(frozen) = map.held(1).freeze() else { return };
            let pair = map.kept(0).merge(frozen.into_free().unwrap()).unwrap().allocate().prep().unwrap();
            if mutant!("model-no-synchronize", map.read.synchronize(), Ok(())).is_ok() {
                map.pages[1].write_protect();
            }
            let _ = pair.into_folio().into_raw();
        },
        |map| map.looks_up(1),
        |_, (), ()| {},
    );
}

#[test]
fn try_get_against_merge_and_write_protect_2_threads_2_frames_3_preemptions() {
    try_get_against_merge_and_write_protect();
}

#[test]
fn try_get_against_merge_and_write_protect_mutants_fail() {
    must_fail("model-no-synchronize", try_get_against_merge_and_write_protect);
    must_fail("page-get-writes-tail", try_get_against_merge_and_write_protect);
    must_fail("page-freeze-look-only", try_get_against_merge_and_write_protect);
}

/// A claim of a frame at rest, while another claims it first, perhaps, joins it with its neighbour, and makes the tail
/// read-only.
fn claim_against_merge_and_write_protect() {
    check(
        None,
        || Map::new(2, Inside(AtomicU32::new(0))).keep(0),
        |map| {
            let Ok(high) = map.claim(pfn(1)) else { return false };
            let pair = map.kept(0).merge(high).unwrap().allocate().prep().unwrap();
            if mutant!("model-no-synchronize", map.read.synchronize(), Ok(())).is_ok() {
                map.pages[1].write_protect();
            }
            let _ = pair.into_folio().into_raw();
            true
        },
        |map| map.claims(1),
        |_, one, two| assert!(one ^ two, "claimed by both or by neither"),
    );
}

#[test]
fn claim_against_merge_and_write_protect_2_threads_2_frames() {
    claim_against_merge_and_write_protect();
}

#[test]
fn claim_against_merge_and_write_protect_mutants_fail() {
    must_fail("model-no-synchronize", claim_against_merge_and_write_protect);
    must_fail("page-claim-look-then-store", claim_against_merge_and_write_protect);
}

/// Two claims of one block: one has it.
fn two_claims_of_one_block() {
    check(
        None,
        || Map::new(1, Immovable),
        |map| map.claims(0),
        |map| map.claims(0),
        |_, one, two| assert!(one ^ two, "claimed by both or by neither"),
    );
}

#[test]
fn two_claims_of_one_block_2_threads_1_frame() {
    two_claims_of_one_block();
}

#[test]
fn two_claims_of_one_block_mutants_fail() {
    must_fail("page-claim-look-then-store", two_claims_of_one_block);
}

/// A block that was claimed, split, joined and let rest again between the look and the exchange of another claim.
fn claim_against_a_block_that_came_back() {
    check(
        None,
        || {
            let map = Map::new(2, Immovable);
            drop(map.claim(pfn(0)).unwrap().merge(map.claim(pfn(1)).unwrap()).unwrap());
            map
        },
        |map| {
            let Ok(free) = map.claim(pfn(0)) else { return };
            let (low, high) = free.split().unwrap();
            low.words()[0].store(9, Ordering::Relaxed);
            drop(low.merge(high).unwrap());
        },
        |map| {
            let Ok(free) = map.claim(pfn(0)) else { return };
            assert_eq!(free.order(), Order::new(1).unwrap(), "claimed half a block");
            let _ = free.into_raw();
        },
        |map, (), ()| assert_eq!(map.enter().page(pfn(1)).unwrap().state(), State::Inside),
    );
}

#[test]
fn claim_against_a_block_that_came_back_2_threads_2_frames() {
    claim_against_a_block_that_came_back();
}

#[test]
fn claim_against_a_block_that_came_back_mutants_fail() {
    must_fail("page-claim-look-then-store", claim_against_a_block_that_came_back);
}

/// What an allocator wrote into the words is seen by whoever claims the block after it.
fn words_reach_the_claimer() {
    check(
        None,
        || Map::new(1, Immovable).keep(0),
        |map| map.kept(0).words()[3].store(7, Ordering::Relaxed),
        |map| {
            let Ok(free) = map.claim(pfn(0)) else { return };
            assert_eq!(free.words()[3].load(Ordering::Relaxed), 7, "claimed before the words were written");
        },
        |_, (), ()| {},
    );
}

#[test]
fn words_reach_the_claimer_2_threads_1_frame() {
    words_reach_the_claimer();
}

#[test]
fn words_reach_the_claimer_mutants_fail() {
    must_fail("refcount-store-unique-relaxed", words_reach_the_claimer);
}

/// What an allocator wrote into the words and cleared is not seen by whoever gets a reference after it.
fn cleared_words_reach_the_getter() {
    check(
        None,
        || Map::new(1, Immovable).keep(0),
        |map| {
            let free = map.kept(0);
            free.words()[0].store(7, Ordering::Relaxed);
            let _ = free.allocate().into_folio().into_raw();
        },
        |map| {
            let Ok(folio) = map.try_get(pfn(0)) else { return };
            let words = map.enter().page(folio.pfn()).unwrap().words();
            assert_eq!(words[4], 0, "an allocator's word is seen through a reference");
        },
        |_, (), ()| {},
    );
}

#[test]
fn cleared_words_reach_the_getter_2_threads_1_frame() {
    cleared_words_reach_the_getter();
}

#[test]
fn cleared_words_reach_the_getter_mutants_fail() {
    must_fail("refcount-store-unique-relaxed", cleared_words_reach_the_getter);
}

/// Whoever sees a frame at rest, or claims it, sees its place.
fn initialise_publishes_the_place() {
    const PLACE: Place = match (NodeId::new(5), ZoneId::new(3)) {
        (Some(node), Some(zone)) => Place::new(node, zone),
        _ => unreachable!(),
    };
    check(
        None,
        || Map::uninitialised(1, Immovable),
        |map| map.initialise(frames_from(0, 1), PLACE).unwrap(),
        |map| {
            let reader = map.enter();
            let view = reader.page(pfn(0)).unwrap();
            if let State::Free { parked: true, .. } = view.state() {
                assert_eq!(view.place(), PLACE, "seen before it was written");
            }
            match map.claim(pfn(0)) {
                Ok(free) => assert_eq!(free.place(), PLACE, "claimed before its place was written"),
                Err(error) => assert!(
                    matches!(error, ClaimError::Uninitialised { .. } | ClaimError::Taken { .. }),
                    "{error}"
                ),
            }
        },
        |map, (), ()| assert_eq!(map.claim(pfn(0)).unwrap().place(), PLACE),
    );
}

#[test]
fn initialise_publishes_the_place_2_threads_1_frame() {
    initialise_publishes_the_place();
}

#[test]
fn initialise_publishes_the_place_mutants_fail() {
    must_fail("page-initialise-parked", initialise_publishes_the_place);
    must_fail("page-snapshot-no-fence", initialise_publishes_the_place);
    must_fail("refcount-store-unique-relaxed", initialise_publishes_the_place);
}

/// Two threads initialise one frame: one does.
#[test]
fn initialise_against_initialise_2_threads_1_frame() {
    fn initialise(map: &Map<Immovable>) -> Result<(), ClaimError> {
        map.initialise(frames_from(0, 1), Place::default())
    }
    check(
        None,
        || Map::uninitialised(1, Immovable),
        initialise,
        initialise,
        |map, one, two| {
            let refused = Err(ClaimError::Initialised { pfn: Pfn::ZERO });
            assert!([(Ok(()), refused), (refused, Ok(()))].contains(&(one, two)), "{one:?} {two:?}");
            assert!(map.claims(0));
        },
    );
}
