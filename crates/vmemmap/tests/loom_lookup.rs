// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups against publication and removal: what is found is there, and stays while it is looked at.
//!
//! The section table itself lies in frames, whose words are the hardware's: the model checker runs through it in one
//! step. What it sees here are its bits (as words of its own), the read side, the descriptors and the pages behind them.
#![cfg(mmkit_loom)]

use core::ops::Range;
use core::ptr::NonNull;
use std::sync::Mutex;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_frame::{Env, Frames};
use mmkit_page::{MemMap, Page, Place, State};
use mmkit_sync::atomic::{AtomicU64, Ordering, UnsafeCell};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Readers, SpinLock};
use mmkit_vmemmap::{
    Backing, MapError, SpaceUsage, Unmapped, Vmemmap, VmemmapError, VmemmapSpace, WithTailSlots, models,
};

/// A section's presence word, and a descriptor that it announces.
struct Announced {
    present: [AtomicU64; 1],
    descriptor: UnsafeCell<u64>,
}

// SAFETY: the descriptor is written before it is announced, and read afterwards; the model checker fails where not.
unsafe impl Sync for Announced {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Announced {}

fn announcement() {
    loom::model(|| {
        let shared = Arc::new(Announced { present: [AtomicU64::new(0)], descriptor: UnsafeCell::new(0) });
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            if models::contains(&other.present) {
                // SAFETY: it is announced, and nobody writes it any more.
                assert_eq!(other.descriptor.with(|descriptor| unsafe { descriptor.read() }), 7);
            }
        });
        // SAFETY: not announced yet.
        shared.descriptor.with_mut(|descriptor| unsafe { descriptor.write(7) });
        models::set(&shared.present);
        thread.join().unwrap();
    });
}

#[test]
fn what_is_present_is_written_2_threads() {
    announcement();
}

#[test]
fn unordered_presence_is_caught_2_threads() {
    must_fail("bitmap-set-relaxed", announcement);
    must_fail("bitmap-contains-relaxed", announcement);
}

const GEOMETRY: Geometry = Geometry::ARM64_64K;
/// Frames of a subsection.
const COUNT: u64 = 32;

/// One page of descriptors, which are the model checker's; and whether it is still there.
struct OnePage {
    descriptors: Vec<Page>,
    mapped: Mutex<Option<Pfn>>,
    alive: UnsafeCell<bool>,
    /// Touched by both threads, so that the model checker tries each before the other: it does not see that they meet in
    /// the section table. Relaxed: it orders nothing.
    met: AtomicU64,
}

// SAFETY: `alive` is read by those who may look at the page, and written by its removal; the model checker fails where
// the two meet.
unsafe impl Sync for OnePage {}

impl OnePage {
    fn new() -> Self {
        Self {
            descriptors: (0..COUNT).map(|_| Page::new()).collect(),
            mapped: Mutex::new(None),
            alive: UnsafeCell::new(true),
            met: AtomicU64::new(0),
        }
    }

    fn meet(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }

    fn look(&self) {
        // SAFETY: the caller found a descriptor in the page and is inside the read side, or has a block of it.
        assert!(self.alive.with(|alive| unsafe { alive.read() }), "the page is gone");
    }
}

// SAFETY: descriptors are in a vector that lives as long as the space; the page counts as gone when it is flushed.
unsafe impl VmemmapSpace for OnePage {
    type Unmapped<'a> = Gone<'a>;

    fn base_shift(&self) -> u32 {
        GEOMETRY.base_shift()
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.descriptors.get(pfn.get() as usize).map(NonNull::from)
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, _: NodeId) -> Result<(), MapError> {
        let Backing::Own { first } = backing else { panic!("no tails here") };
        assert_eq!((pages, self.mapped.lock().unwrap().replace(first)), (0..1, None));
        Ok(())
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<Gone<'_>, MapError> {
        assert_eq!(pages, 0..1);
        let frame = self.mapped.lock().unwrap().take().expect("mapped");
        Ok(Gone { space: self, frame })
    }

    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
    }
}

struct Gone<'a> {
    space: &'a OnePage,
    frame: Pfn,
}

impl Unmapped for Gone<'_> {
    fn flush(self, release: &mut dyn FnMut(u64, Backing)) {
        // SAFETY: nobody looks at the page any more, or else the model fails.
        self.space.alive.with_mut(|alive| unsafe { alive.write(false) });
        release(1, Backing::Own { first: self.frame });
    }
}

struct Around {
    frames: Frames<&'static TestFrames, &'static TestFrames>,
    readers: Readers,
}

// SAFETY: the fields are never exchanged, and the bundle came from `TestFrames::frames`.
unsafe impl Env for Around {
    type Allocator = &'static TestFrames;
    type Map = &'static TestFrames;
    type Lock = SpinLock;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<&'static TestFrames, &'static TestFrames> {
        &self.frames
    }

    fn read_side(&self) -> &Readers {
        &self.readers
    }

    fn events(&self) -> &() {
        &()
    }
}

type Map = Vmemmap<OnePage, WithTailSlots<Around, 1>>;

fn all() -> PfnRange {
    PfnRange::new(Pfn::ZERO, COUNT).unwrap()
}

/// A memory map of one subsection, which is one free block at rest.
fn map(frames: &'static TestFrames) -> Arc<Map> {
    let around = Around { frames: frames.frames(), readers: Readers::new() };
    let map = Vmemmap::new(GEOMETRY, OnePage::new(), WithTailSlots::new(around)).unwrap();
    map.populate(all(), Order::ZERO, Place::default()).unwrap();
    map.initialise(all(), Place::default()).unwrap();
    for order in 0..COUNT.trailing_zeros() {
        for lower in all().iter().step_by(2 << order) {
            let upper = lower.checked_add(1 << order).unwrap();
            drop(map.claim(lower).unwrap().merge(map.claim(upper).unwrap()).unwrap());
        }
    }
    Arc::new(map)
}

/// Runs `other` in a second thread while the first removes everything.
fn removal(other: fn(&Map), check: fn(&Map, Result<(), VmemmapError>)) {
    let config = TestConfig::new().base_shift(GEOMETRY.base_shift()).range(0, 64);
    let frames: &TestFrames = Box::leak(Box::new(TestFrames::new(config)));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let map = map(frames);
        let shared = Arc::clone(&map);
        let thread = thread::spawn(move || {
            shared.space().meet();
            other(&shared);
        });
        map.space().meet();
        let removed = map.remove(all());
        thread.join().unwrap();
        check(&map, removed);
    });
    frames.assert_no_leaks();
}

/// A reader that finds a descriptor may look at it until it leaves.
fn reader_and_removal() {
    let look = |map: &Map| {
        let reader = map.enter();
        if let Some(page) = reader.page(Pfn::ZERO) {
            map.space().meet();
            map.space().look();
            assert!(matches!(page.state(), State::Free { .. }));
            map.space().look();
        }
        drop(reader);
    };
    removal(look, |map, removed| {
        assert_eq!(removed, Ok(()));
        assert!(!map.is_present(Pfn::ZERO));
    });
}

#[test]
fn a_reader_keeps_what_it_found_2_threads_3_preemptions() {
    reader_and_removal();
}

#[test]
fn removal_without_a_wait_is_caught_2_threads_3_preemptions() {
    must_fail("vmemmap-remove-no-wait", reader_and_removal);
}

/// Who claims the block keeps its descriptors; the removal has it or has not.
fn owner_and_removal() {
    let own = |map: &Map| {
        if let Ok(free) = map.claim(Pfn::ZERO) {
            map.space().meet();
            map.space().look();
            let folio = free.allocate().into_folio();
            map.space().look();
            drop(folio);
        }
    };
    removal(own, |map, removed| {
        assert_eq!(map.is_present(Pfn::ZERO), removed.is_err());
        assert!(matches!(removed, Ok(()) | Err(VmemmapError::Busy { pfn: Pfn::ZERO })));
        // Refused, it left the block as it was.
        assert_eq!(map.claim(Pfn::ZERO).is_ok(), removed.is_err());
    });
}

#[test]
fn an_owner_keeps_its_descriptors_2_threads_3_preemptions() {
    owner_and_removal();
}

#[test]
fn removal_without_claims_is_caught_2_threads_3_preemptions() {
    must_fail("vmemmap-remove-no-claim", owner_and_removal);
}
