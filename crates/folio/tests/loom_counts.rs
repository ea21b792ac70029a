// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios: map counts, pins and the copy-on-write decision with two threads, each model with the threads in both roles.
#![cfg(mmkit_loom)]

mod loom_common;

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use loom_common::{mm, race};
use mmkit_addr::{Pfn, PfnRange};
use mmkit_folio::{
    Cow, MapError, Mapcounts, Mapping, NoPageMapcount, PageMapcount, PowerSums, Rmap, TwoSlots, Why,
    map_new_anon,
};
use mmkit_page::{Folio, Frozen, MemMap, Page, PageFlags, Place};
use mmkit_sync::atomic::{AtomicU32, Ordering, UnsafeCell, fence};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Immovable, SeqCount, mutant};

const BOTH: Mapping = Mapping::Ptes { first: 0, count: 2 };

/// Two frames.
struct Map<C> {
    pages: [Page; 2],
    counts: core::marker::PhantomData<fn() -> C>,
}

// SAFETY: the descriptors are part of the map, which is never changed while it is borrowed; each frame has its own, and
// none becomes read-only.
unsafe impl<C: Mapcounts> MemMap for Map<C> {
    type Read = Immovable;
    type Counts = C;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.pages.get(pfn.get() as usize).map(NonNull::from)
    }
}

/// A folio of two pages and what it contains, and how often it was freed.
struct World<C> {
    map: Map<C>,
    contents: UnsafeCell<u32>,
    freed: AtomicU32,
    /// What came out otherwise than expected. To be looked at in the end: who fails while another has a lock cannot be
    /// unwound.
    surprises: AtomicU32,
}

// SAFETY: everything is atomic but the contents, and loom checks who accesses those.
unsafe impl<C> Sync for World<C> {}

/// The type of [`World`] with a strategy, for functions that are generic over it.
trait Counted: Mapcounts + Sized {
    /// A folio that MM 1 has mapped since it was new, with one more mapping of it by each of `forked`.
    fn world(forked: &[u32]) -> World<Self> {
        let pages = [Page::new(), Page::new()];
        let map = Map::<Self> { pages, counts: core::marker::PhantomData };
        let [freed, surprises] = core::array::from_fn(|_| AtomicU32::new(0));
        let world = World { map, contents: UnsafeCell::new(0), freed, surprises };
        let range = PfnRange::new(Pfn::ZERO, 2).unwrap();
        world.map.initialise(range, Place::default()).unwrap();
        let claim = |n| world.map.claim(Pfn::new(n).unwrap()).unwrap();
        let pair = claim(0).merge(claim(1)).unwrap().allocate().prep().unwrap();
        let _ = map_new_anon(pair, mm(1), BOTH).unwrap();
        for &child in forked {
            let _ = world.folio().fork(mm(child), BOTH).unwrap();
        }
        world.folio().remove(PageFlags::ANON_EXCLUSIVE_WHOLE);
        world
    }

    /// The same, of whose pages MM 1 has unmapped the first.
    fn partly_mapped() -> World<Self> {
        let world = Self::world(&[]);
        drop(world.folio().remove_mappings(mm(1), Mapping::pte(0)).unwrap());
        world
    }

    /// The same, mapped by one entry for both pages.
    fn mapped_whole() -> World<Self> {
        let world = Self::world(&[]);
        // So that it is not freed in between, nor later.
        world.folio().take_raw(2).unwrap();
        let _ = world.folio().add_mappings(mm(1), Mapping::Pmd).unwrap();
        drop(world.folio().remove_mappings(mm(1), BOTH).unwrap());
        world
    }
}

impl<C: Mapcounts> Counted for C {}

impl<C: Mapcounts> World<C> {
    /// The folio, by the reference of a mapping that the caller's thread has.
    fn folio(&self) -> ManuallyDrop<Folio<'_, Map<C>>> {
        // SAFETY: a mapping's reference is there for as long as the caller's thread uses this, and `ManuallyDrop` keeps
        // it from being given back.
        ManuallyDrop::new(unsafe { Folio::from_raw(&self.map, Pfn::ZERO) }.unwrap())
    }

    fn expect(&self, as_expected: bool) {
        self.surprises.fetch_add(u32::from(!as_expected), Ordering::Relaxed);
    }

    fn check(&self) {
        assert_eq!(self.surprises.load(Ordering::Relaxed), 0);
    }

    /// Unmaps for `who`, and counts if that freed the folio.
    fn unmap(&self, who: u32) {
        let references = self.folio().remove_mappings(mm(who), BOTH).unwrap().references;
        self.gave_back(references.put());
    }

    fn gave_back(&self, last: Option<Frozen<'_, Map<C>>>) {
        if last.is_some() {
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) {
        // SAFETY: the models check that nobody writes at the same time.
        self.contents.with(|contents| unsafe { assert!(*contents < 2) });
    }

    /// Writes to page 0 as MM 1 does after a fault; whether the page was its own.
    fn write_fault(&self) -> Cow {
        let decided = self.folio().write_fault(0, 0).unwrap();
        if decided == Cow::Reused {
            // SAFETY: the models check that nobody else accesses it at the same time.
            self.contents.with_mut(|contents| unsafe { *contents += 1 });
        }
        decided
    }
}

/// A child reads and unmaps; its parent writes, if it may.
fn write_while_the_child_leaves<C: Mapcounts>() {
    race(
        || C::world(&[2]),
        |world| {
            let _ = world.write_fault();
        },
        |world| {
            // Until the flush, and so until the references are given back, the child's processors may still read.
            let references = world.folio().remove_mappings(mm(2), BOTH).unwrap().references;
            world.read();
            world.gave_back(references.put());
        },
        |world| {
            assert_eq!(world.folio().mappings(), 2);
            assert_eq!(world.folio().count(), 2);
            assert_ne!(world.write_fault(), Cow::Copy(Why::Shared), "one owner is left");
        },
    );
}

#[test]
fn a_write_fault_while_the_child_unmaps_2_threads_3_preemptions() {
    write_while_the_child_leaves::<NoPageMapcount<TwoSlots>>();
    write_while_the_child_leaves::<NoPageMapcount<PowerSums>>();
    must_fail("refcount-put-relaxed", write_while_the_child_leaves::<NoPageMapcount<TwoSlots>>);
    must_fail("refcount-put-relaxed", write_while_the_child_leaves::<NoPageMapcount<PowerSums>>);
}

/// A reader with a reference of its own reads and gives it back; the owner writes, if it may.
fn write_while_a_reader_leaves<C: Mapcounts>() {
    race(
        || {
            let world = C::world(&[]);
            world.folio().take_raw(1).unwrap();
            world
        },
        |world| {
            let _ = world.write_fault();
        },
        |world| {
            world.read();
            // SAFETY: taken at the start, and given back once.
            world.gave_back(unsafe { Folio::put_raw(&world.map, Pfn::ZERO, 1) });
        },
        |world| assert_eq!(world.freed.load(Ordering::Relaxed), 0),
    );
}

/// A reference of somebody else's stays all the time, while the owner maps and unmaps elsewhere.
fn write_while_a_reader_stays<C: Mapcounts>() {
    race(
        || {
            let world = C::world(&[]);
            world.folio().take_raw(1).unwrap();
            world
        },
        |world| assert!(matches!(world.write_fault(), Cow::Copy(Why::References { .. }))),
        |world| {
            let folio = world.folio();
            let _ = folio.add_mappings(mm(1), Mapping::pte(1)).unwrap();
            drop(folio.remove_mappings(mm(1), Mapping::pte(1)).unwrap());
        },
        |_| {},
    );
}

#[test]
fn a_write_fault_while_a_reference_goes_2_threads_3_preemptions() {
    write_while_a_reader_leaves::<NoPageMapcount<TwoSlots>>();
    write_while_a_reader_leaves::<NoPageMapcount<PowerSums>>();
    must_fail("refcount-put-relaxed", write_while_a_reader_leaves::<NoPageMapcount<TwoSlots>>);
    must_fail("refcount-put-relaxed", write_while_a_reader_leaves::<NoPageMapcount<PowerSums>>);
}

#[test]
fn a_write_fault_while_a_reference_stays_two_slots_2_threads_3_preemptions() {
    write_while_a_reader_stays::<NoPageMapcount<TwoSlots>>();
    for mutant in ["cow-no-lock", "rmap-references-last"] {
        must_fail(mutant, write_while_a_reader_stays::<NoPageMapcount<TwoSlots>>);
    }
}

#[test]
fn a_write_fault_while_a_reference_stays_power_sums_2_threads_3_preemptions() {
    write_while_a_reader_stays::<NoPageMapcount<PowerSums>>();
    for mutant in ["cow-no-lock", "rmap-references-last"] {
        must_fail(mutant, write_while_a_reader_stays::<NoPageMapcount<PowerSums>>);
    }
}

/// A parent forks again while its first child leaves.
fn fork_while_a_child_leaves<C: Mapcounts>() {
    race(
        || C::world(&[2]),
        |world| {
            let _ = world.folio().fork(mm(3), BOTH).unwrap();
        },
        |world| world.unmap(2),
        |world| {
            let folio = world.folio();
            assert_eq!((folio.mappings(), folio.count()), (4, 4));
            assert!(folio.maybe_mapped_shared());
            assert_eq!(world.freed.load(Ordering::Relaxed), 0);
            if C::PER_PAGE {
                assert_eq!((folio.page_mappings(0), folio.page_mappings(1)), (Some(2), Some(2)));
                assert_eq!(folio.pages_mapped(), (2, false));
            }
        },
    );
}

#[test]
fn a_fork_while_a_child_unmaps_2_threads_3_preemptions() {
    fork_while_a_child_leaves::<NoPageMapcount<TwoSlots>>();
    fork_while_a_child_leaves::<NoPageMapcount<PowerSums>>();
    fork_while_a_child_leaves::<PageMapcount<PowerSums>>();
    must_fail("bitlock-load-then-store", fork_while_a_child_leaves::<NoPageMapcount<TwoSlots>>);
    must_fail("bitlock-relaxed-lock", fork_while_a_child_leaves::<NoPageMapcount<PowerSums>>);
}

/// One unmaps a page that nobody maps, and is refused, while another maps its neighbour.
fn refused_while_another_maps() {
    race(
        PageMapcount::<PowerSums>::partly_mapped,
        |world| {
            let error = world.folio().remove_mappings(mm(1), Mapping::pte(0)).map(drop);
            world.expect(error == Err(MapError::PageNotMapped { index: 0 }));
        },
        |world| {
            let _ = world.folio().add_mappings(mm(2), Mapping::pte(1)).unwrap();
        },
        |world| {
            let folio = world.folio();
            assert_eq!((folio.page_mappings(0), folio.page_mappings(1)), (Some(0), Some(2)));
            assert_eq!((folio.pages_mapped(), folio.mappings()), ((1, false), 2));
            world.check();
        },
    );
}

#[test]
fn a_refused_unmap_while_another_maps_2_threads_3_preemptions() {
    refused_while_another_maps();
    must_fail("pages-no-look", refused_while_another_maps);
}

/// One unmaps what is another's, and is refused, while that one unmaps it: the right one finds what it looks for.
fn a_right_unmap_beside_a_wrong_one<C: Mapcounts>(start: fn() -> World<C>, what: Mapping) {
    race(
        move || {
            let world = start();
            world.folio().take_raw(1).unwrap();
            world
        },
        move |world| world.expect(world.folio().remove_mappings(mm(2), what).is_err()),
        move |world| world.expect(world.folio().remove_mappings(mm(1), what).is_ok()),
        |world| {
            world.check();
            let folio = world.folio();
            assert_eq!((folio.mappings(), folio.entire_mappings(), folio.pages_mapped()), (0, 0, (0, false)));
        },
    );
}

fn a_right_pmd_beside_a_wrong_one<C: Mapcounts>() {
    a_right_unmap_beside_a_wrong_one::<C>(C::mapped_whole, Mapping::Pmd);
}

fn right_ptes_beside_wrong_ones() {
    type Counts = PageMapcount<PowerSums>;
    a_right_unmap_beside_a_wrong_one::<Counts>(|| Counts::world(&[]), BOTH);
}

#[test]
fn a_right_unmap_beside_a_wrong_one_2_threads_3_preemptions() {
    right_ptes_beside_wrong_ones();
    must_fail("pages-before-owners", right_ptes_beside_wrong_ones);
    a_right_pmd_beside_a_wrong_one::<NoPageMapcount<TwoSlots>>();
    a_right_pmd_beside_a_wrong_one::<NoPageMapcount<PowerSums>>();
    a_right_pmd_beside_a_wrong_one::<PageMapcount<PowerSums>>();
    must_fail("entire-outside-the-lock", a_right_pmd_beside_a_wrong_one::<NoPageMapcount<TwoSlots>>);
    must_fail("entire-outside-the-lock", a_right_pmd_beside_a_wrong_one::<NoPageMapcount<PowerSums>>);
}

/// Two unmap the same page at the same time, as no page table lock would let them, and both find it mapped.
fn a_page_unmapped_twice() {
    race(
        || {
            let world = PageMapcount::<TwoSlots>::world(&[]);
            world.folio().take_raw(1).unwrap();
            world
        },
        |world| drop(world.folio().remove_mappings(mm(1), Mapping::pte(0))),
        |world| drop(world.folio().remove_mappings(mm(1), Mapping::pte(0))),
        |world| {
            let folio = world.folio();
            assert!(folio.mappings() < 2);
            assert_eq!((folio.page_mappings(0), folio.page_mappings(1)), (Some(0), Some(1)));
            assert_eq!(folio.pages_mapped(), (1, false));
        },
    );
}

#[test]
fn counts_of_pages_do_not_pass_below_zero_2_threads_3_preemptions() {
    a_page_unmapped_twice();
    must_fail("pages-below-zero", a_page_unmapped_twice);
}

/// A folio that MM 1 has for itself, an entry for it, and what came of the race.
struct Pinned {
    world: World<NoPageMapcount<PowerSums>>,
    /// Of the address space: a fork is at work while it is odd.
    seq: SeqCount,
    /// 1 while the entry is there.
    entry: AtomicU32,
    pinned: AtomicU32,
    other: AtomicU32,
}

impl Pinned {
    fn new() -> Self {
        let world = NoPageMapcount::<PowerSums>::world(&[]);
        world.folio().set_exclusive(BOTH).unwrap();
        let [pinned, other] = core::array::from_fn(|_| AtomicU32::new(0));
        Self { world, seq: SeqCount::new(), entry: AtomicU32::new(1), pinned, other }
    }

    /// Pins without the page table lock, if what led here holds afterwards and the page is exclusive.
    fn pin(&self, holds: impl Fn(&Self) -> bool) {
        let folio = self.world.folio();
        folio.pin(1).unwrap();
        // SeqCst: pairs with the fence of `fork`, and with that of `try_share`.
        mutant!("model-pin-no-fence", fence(Ordering::SeqCst), ());
        if holds(self) && folio.is_exclusive(0) {
            self.pinned.store(1, Ordering::Relaxed);
        } else {
            // SAFETY: pinned above.
            drop(unsafe { folio.unpin(1) }.unwrap());
        }
    }

    fn pin_under_seq(&self) {
        if let Some(sample) = self.seq.sample() {
            self.pin(|world| world.seq.unchanged(sample));
        }
    }

    fn pin_by_entry(&self) {
        let is_there = |world: &Self| world.entry.load(Ordering::Relaxed) == 1;
        if is_there(self) {
            self.pin(is_there);
        }
    }

    fn fork(&self) {
        let writer = self.seq.try_write().unwrap();
        // SeqCst: pairs with the fence of `pin`.
        mutant!("model-fork-no-fence", fence(Ordering::SeqCst), ());
        let forked = self.world.folio().fork(mm(2), BOTH);
        drop(writer);
        match forked {
            Ok(_) => self.other.store(1, Ordering::Relaxed),
            Err(error) => assert_eq!(error, MapError::PinnedExclusive { index: 0, pins: 1 }),
        }
    }

    fn share(&self) {
        self.entry.store(0, Ordering::Relaxed);
        match self.world.folio().try_share(BOTH) {
            Ok(()) => self.other.store(1, Ordering::Relaxed),
            Err(error) => {
                assert_eq!(error, MapError::PinnedExclusive { index: 0, pins: 1 });
                self.entry.store(1, Ordering::Relaxed);
            }
        }
    }

    /// A pin and what takes exclusiveness away never both succeed, and what is pinned is exclusive.
    fn check(&self) {
        let [pinned, other] = [&self.pinned, &self.other].map(|it| it.load(Ordering::Relaxed));
        assert!(pinned + other < 2, "pinned, and no longer exclusive");
        assert_eq!(self.world.folio().is_exclusive(0), other == 0);
        assert_eq!(self.world.folio().pins(), pinned);
    }
}

fn fork_against_pin() {
    race(Pinned::new, Pinned::fork, Pinned::pin_under_seq, Pinned::check);
}

fn share_against_pin() {
    race(Pinned::new, Pinned::share, Pinned::pin_by_entry, Pinned::check);
}

/// Page 0 goes to swap while page 1 is pinned: the mark that stands for both is written out, and page 1 is exclusive all the
/// time.
fn share_of_a_page_beside_a_pin_of_another() {
    race(
        Pinned::new,
        |pinned| match pinned.world.folio().try_share(Mapping::pte(0)) {
            Ok(()) => pinned.other.store(1, Ordering::Relaxed),
            // Pins are the folio's, not a page's.
            Err(error) => pinned.world.expect(error == MapError::PinnedExclusive { index: 0, pins: 1 }),
        },
        |pinned| {
            let folio = pinned.world.folio();
            folio.pin(1).unwrap();
            // SeqCst: pairs with the fence of `try_share`.
            fence(Ordering::SeqCst);
            pinned.world.expect(folio.is_exclusive(1));
        },
        |pinned| {
            pinned.world.check();
            let folio = pinned.world.folio();
            assert_eq!(folio.is_exclusive(0), pinned.other.load(Ordering::Relaxed) == 0);
            assert!(folio.is_exclusive(1));
        },
    );
}

#[test]
fn a_pin_beside_a_page_that_is_shared_2_threads_3_preemptions() {
    share_of_a_page_beside_a_pin_of_another();
    must_fail("exclusive-mark-first", share_of_a_page_beside_a_pin_of_another);
    must_fail("exclusive-page-before-mark", share_of_a_page_beside_a_pin_of_another);
}

#[test]
fn a_fork_against_a_pin_2_threads_3_preemptions() {
    fork_against_pin();
    must_fail("model-fork-no-fence", fork_against_pin);
    must_fail("model-pin-no-fence", fork_against_pin);
}

#[test]
fn exclusive_against_a_pin_2_threads_3_preemptions() {
    share_against_pin();
    must_fail("share-no-fence", share_against_pin);
    must_fail("model-pin-no-fence", share_against_pin);
}

/// The last two leave at the same time: one of them frees.
fn two_leave<C: Mapcounts>() {
    race(
        || C::world(&[2]),
        |world| world.unmap(1),
        |world| world.unmap(2),
        |world| assert_eq!(world.freed.load(Ordering::Relaxed), 1),
    );
}

#[test]
fn the_last_two_unmap_2_threads_3_preemptions() {
    two_leave::<NoPageMapcount<TwoSlots>>();
    two_leave::<NoPageMapcount<PowerSums>>();
    must_fail("bitlock-load-then-store", two_leave::<NoPageMapcount<TwoSlots>>);
    must_fail("bitlock-relaxed-lock", two_leave::<NoPageMapcount<PowerSums>>);
}
