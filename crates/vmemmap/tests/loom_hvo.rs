// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising and restoring against those who look: pages become read-only, and frames are given back, only when everybody
//! has left who may have found them otherwise, and after the flush; and two batches change one table one after the other.
//!
//! Reporting a bad frame and optimising its compound cannot meet: the one needs a reference, the other that there is none.
#![cfg(mmkit_loom)]

use core::ops::Range;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_frame::{Env, Frames};
use mmkit_page::{Folio, Frozen, MemMap, Page, PageFlags, Place};
use mmkit_sync::atomic::UnsafeCell;
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Readers, SpinLock};
use mmkit_vmemmap::{
    Backing, Behind, Exchange, HvoError, MapError, Removed, SpaceUsage, Taken, Unmapped, Vmemmap,
    VmemmapError, VmemmapSpace, WithTailSlots,
};

/// Frames of a compound: two pages of descriptors.
const COUNT: u64 = 128;
/// Frames of the memory map, most of which nobody looks at.
const SECTION: u64 = 512;

/// Pages of descriptors, which are the model checker's, and one table of what stands behind them.
struct Table {
    descriptors: Vec<Page>,
    backing: Mutex<Vec<Option<Backing>>>,
    /// Read by whoever may look at a page, and written when pages change: the model checker fails where the two meet.
    table: UnsafeCell<u64>,
    /// The same where addresses are not translated: written when frames are given back.
    memory: UnsafeCell<u64>,
    translates: bool,
    /// Pages that were changed and not flushed.
    stale: Mutex<BTreeSet<u64>>,
    /// Pages that can still be replaced.
    left: AtomicU64,
}

// SAFETY: the cell is accessed in order, or the model checker fails.
unsafe impl Sync for Table {}

impl Table {
    fn new(frames: u64, translates: bool) -> Self {
        Self {
            descriptors: (0..frames).map(|_| Page::new()).collect(),
            backing: Mutex::new(vec![None; (SECTION / 64) as usize]),
            table: UnsafeCell::new(0),
            memory: UnsafeCell::new(0),
            translates,
            stale: Mutex::default(),
            left: AtomicU64::new(u64::MAX),
        }
    }

    /// Puts something behind a page that is mapped, and says what stood there.
    fn put(&self, page: u64, new: Backing) -> Backing {
        // SAFETY: one batch at a time, and no reader that knew the page, or the model checker fails.
        self.table.with_mut(|changes| unsafe { *changes += 1 });
        self.stale.lock().unwrap().insert(page);
        let own = page * 64..page * 64 + 64;
        for descriptor in &self.descriptors[own.start as usize..own.end as usize] {
            match new {
                Backing::Own { .. } => descriptor.write_unprotect(),
                Backing::Tails(_) => descriptor.write_protect(),
            }
        }
        self.backing.lock().unwrap()[page as usize].replace(new).unwrap()
    }

    /// Reads what changes when a reader's page does: the page itself, or the frame behind it.
    fn look(&self) {
        let cell = if self.translates { &self.table } else { &self.memory };
        // SAFETY: the caller is inside a reader that found the pages as they were, or the model checker fails.
        cell.with(|changes| unsafe { changes.read() });
    }
}

// SAFETY: descriptors are in a vector that lives as long as the space; pages that become tails are only read afterwards.
unsafe impl VmemmapSpace for Table {
    type Unmapped<'a> = Gone;

    fn base_shift(&self) -> u32 {
        12
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.descriptors.get(pfn.get() as usize).map(NonNull::from)
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, _: NodeId) -> Result<(), MapError> {
        let mut table = self.backing.lock().unwrap();
        let Backing::Own { first } = backing else { panic!("no tails here") };
        for (nth, page) in pages.enumerate() {
            table[page as usize] = Some(Backing::Own { first: first.checked_add(nth as u64).unwrap() });
        }
        Ok(())
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<Gone, MapError> {
        let mut table = self.backing.lock().unwrap();
        Ok(Gone(pages.map(|page| table[page as usize].take().unwrap()).collect()))
    }

    fn translates(&self) -> bool {
        self.translates
    }

    fn replaces(&self) -> bool {
        true
    }

    fn behind(&self, page: u64) -> Behind {
        match self.backing.lock().unwrap()[page as usize] {
            None => Behind::Nothing,
            Some(Backing::Own { first }) => Behind::Own(first),
            Some(Backing::Tails(run)) => Behind::Tails(run.first),
        }
    }

    unsafe fn replace(
        &self,
        pages: Range<u64>,
        _: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), MapError> {
        let (mut have, mut new) = exchange.next();
        for page in pages {
            if self.left.load(Relaxed) == 0 {
                if let Backing::Own { first } = new {
                    exchange.unused(first, have);
                }
                return Err(MapError::TryAgain);
            }
            self.left.fetch_sub(1, Relaxed);
            if have == 0 {
                (have, new) = exchange.next();
            }
            let what = match self.put(page, new) {
                Backing::Own { first } => Taken::Own { first },
                Backing::Tails(_) => Taken::Tails,
            };
            have -= 1;
            if let Backing::Own { first } = &mut new {
                *first = first.checked_add(1).unwrap();
            }
            exchange.removed(Removed { page, pages: 1, what });
        }
        Ok(())
    }

    unsafe fn put_back(&self, removed: Removed) -> Result<(), (Removed, MapError)> {
        let Taken::Own { first } = removed.what else { panic!("nothing of the compound's") };
        self.put(removed.page, Backing::Own { first });
        Ok(())
    }

    unsafe fn discard(&self, removed: Removed, give: &mut dyn FnMut(Pfn, u64)) {
        assert!(!self.stale.lock().unwrap().contains(&removed.page), "given back before the flush");
        if !self.translates {
            // SAFETY: nobody has a pointer into the frame any more, or the model checker fails.
            self.memory.with_mut(|given| unsafe { *given += 1 });
        }
        if let Taken::Own { first } = removed.what {
            give(first, removed.pages);
        }
    }

    fn flush(&self, pages: Range<u64>) {
        self.stale.lock().unwrap().retain(|page| !pages.contains(page));
    }

    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
    }
}

struct Gone(Vec<Backing>);

impl Unmapped for Gone {
    fn flush(self, release: &mut dyn FnMut(u64, Backing)) {
        self.0.into_iter().for_each(|backing| release(1, backing));
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

type Map = Vmemmap<Table, WithTailSlots<Around, 1>>;

fn size() -> Order {
    Order::new(7).unwrap()
}

fn head(nth: u64) -> Pfn {
    Pfn::new(nth * COUNT).unwrap()
}

fn empty(frames: &'static TestFrames, table: Table) -> Map {
    let around = Around { frames: frames.frames(), readers: Readers::new() };
    let map = Vmemmap::new(Geometry::X86_64, table, WithTailSlots::new(around)).unwrap();
    let all = PfnRange::new(Pfn::ZERO, SECTION).unwrap();
    map.populate(all, Order::ZERO, Place::default()).unwrap();
    map
}

/// A memory map whose first frames are compounds with one reference each, kept without handles.
fn map(frames: &'static TestFrames, compounds: u64, translates: bool) -> Arc<Map> {
    let map = empty(frames, Table::new(compounds * COUNT, translates));
    for nth in 0..compounds {
        map.initialise(PfnRange::block(head(nth), size()), Place::default()).unwrap();
        let free = map.claim_joined(head(nth), size()).unwrap();
        let _ = free.allocate().prep().unwrap().into_folio().into_raw();
    }
    Arc::new(map)
}

fn folio(map: &Map, nth: u64) -> Folio<'_, Map> {
    // SAFETY: `map` made it raw, and each thread takes its own back, once.
    unsafe { Folio::from_raw(map, head(nth)) }.unwrap()
}

/// Two threads on `compounds` compounds, after `before`.
#[derive(Clone, Copy)]
struct Model {
    compounds: u64,
    translates: bool,
    before: fn(&Map),
    check: fn(&Map),
}

impl Model {
    fn run(self, first: fn(&Map), second: fn(&Map)) {
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 200_000;
        builder.preemption_bound = Some(2);
        let frames: &TestFrames = Box::leak(Box::new(TestFrames::with_frames(1024)));
        builder.check(move || {
            let map = map(frames, self.compounds, self.translates);
            (self.before)(&map);
            let other = Arc::clone(&map);
            let thread = thread::spawn(move || second(&other));
            first(&map);
            thread.join().unwrap();
            (self.check)(&map);
        });
    }

    fn both(self, first: fn(&Map), second: fn(&Map)) {
        self.run(first, second);
        self.run(second, first);
    }
}

const ONE: Model = Model { compounds: 1, translates: true, before: |_| {}, check: |_| {} };

/// Optimises compound `nth` if nobody else holds it.
fn optimise(map: &Map, nth: u64) {
    if let Ok(mut frozen) = folio(map, nth).freeze() {
        map.optimise(&mut frozen).unwrap();
        leave(frozen);
    }
}

fn leave(frozen: Frozen<'_, Map>) {
    let _ = frozen.into_folio().into_raw();
}

/// Takes a reference through a tail, gives it back, and goes on looking at the table.
fn get(map: &Map) {
    let reader = map.enter();
    let tail = reader.page(Pfn::new(100).unwrap()).unwrap();
    if let Ok(folio) = tail.try_get() {
        assert_eq!(folio.pfn(), head(0));
        let _ = folio.put().map(|frozen| leave(frozen));
        // Nobody could freeze it before, so the page cannot have changed while this reader is inside.
        map.space().look();
    }
}

fn get_against_optimise() {
    ONE.both(|map| optimise(map, 0), get);
}

#[test]
fn s37_a_reference_through_a_tail_against_optimise_2_threads_2_preemptions() {
    get_against_optimise();
}

#[test]
fn optimising_without_a_wait_is_caught_2_threads_2_preemptions() {
    must_fail("hvo-no-wait", get_against_optimise);
}

/// Finds the frame behind a descriptor, and looks at it for a while.
fn view(map: &Map) {
    let reader = map.enter();
    let found = map.space().behind(1);
    let tail = reader.page(Pfn::new(100).unwrap()).unwrap();
    assert_eq!(tail.head(), head(0));
    if let Behind::Own(_) = found {
        map.space().look();
    }
}

/// Pointers lead to memory, not through a translation: frames are given back when those who have one are gone.
fn view_against_optimise() {
    Model { translates: false, ..ONE }.both(|map| optimise(map, 0), view);
}

#[test]
fn a_pointer_into_a_frame_against_optimise_2_threads_2_preemptions() {
    view_against_optimise();
}

#[test]
fn giving_back_without_a_wait_is_caught_2_threads_2_preemptions() {
    must_fail("hvo-no-wait", view_against_optimise);
}

/// Restores the compound if nobody else holds it, and writes a descriptor that was shared.
fn restore(map: &Map) {
    if let Ok(mut frozen) = folio(map, 0).freeze() {
        map.restore(&mut frozen).unwrap();
        frozen.insert_at(100..101, PageFlags::HWPOISON);
        leave(frozen);
    }
}

fn get_through_shared(map: &Map) {
    let reader = map.enter();
    if let Ok(folio) = reader.page(Pfn::new(100).unwrap()).unwrap().try_get() {
        let _ = folio.put().map(|frozen| leave(frozen));
    }
}

const SHARED: Model = Model { before: |map| optimise(map, 0), ..ONE };

#[test]
fn s37_a_reference_through_a_tail_against_restore_2_threads_2_preemptions() {
    SHARED.both(restore, get_through_shared);
}

#[test]
fn a_write_to_a_shared_tail_is_caught_2_threads_2_preemptions() {
    must_fail("page-get-writes-tail", || SHARED.run(restore, get_through_shared));
}

fn neighbours() {
    let check = |map: &Map| assert!((0..2).all(|nth| folio(map, nth).has_shared_tails()));
    Model { compounds: 2, check, ..ONE }.run(|map| optimise(map, 0), |map| optimise(map, 1));
}

#[test]
fn two_batches_on_one_table_2_threads_2_preemptions() {
    neighbours();
}

#[test]
fn batches_without_the_lock_are_caught_2_threads_2_preemptions() {
    must_fail("hvo-no-lock", neighbours);
}

/// One thread: a compound of four pages there and back, and with a table that gives up after `left` pages.
fn alone() {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 200_000;
    builder.check(|| {
        let frames: &TestFrames = Box::leak(Box::new(TestFrames::with_frames(1024)));
        let map = empty(frames, Table::new(256, true));
        let size = Order::new(8).unwrap();
        map.initialise(PfnRange::block(Pfn::ZERO, size), Place::default()).unwrap();
        let mut frozen = map.claim_joined(Pfn::ZERO, size).unwrap().allocate().prep().unwrap();
        let before = map.usage();
        for left in [0, 1, 2] {
            map.space().left.store(left, Relaxed);
            let refused = HvoError::Map(VmemmapError::Map(MapError::TryAgain));
            assert_eq!(map.optimise(&mut frozen), Err(refused));
            assert!(!frozen.has_shared_tails());
            assert_eq!((map.usage(), map.partial_compounds()), (before, 0));
        }
        map.space().left.store(u64::MAX, Relaxed);
        map.optimise(&mut frozen).unwrap();
        assert_eq!(before.own - map.usage().own, 3);
        map.restore(&mut frozen).unwrap();
        assert_eq!(map.usage(), before);
        drop(frozen.unprep().unwrap().into_free());
    });
}

#[test]
fn frames_go_after_the_flush_and_failures_are_undone_1_thread() {
    alone();
}

#[test]
fn giving_back_without_a_flush_is_caught_1_thread() {
    must_fail("hvo-no-flush", alone);
}

#[test]
fn failing_without_undoing_is_caught_1_thread() {
    must_fail("hvo-no-undo", alone);
}
