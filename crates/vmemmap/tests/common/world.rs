// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of optimised compounds share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mmkit_addr::{Geometry, NodeId, Order, Pfn, VirtRange};
use mmkit_frame::test_util::{Contents, Snapshot, TestFrames};
use mmkit_frame::{Env, FrameAllocator, Frames, Request};
use mmkit_page::{Frozen, MemMap, PageFlags, Place, Template};
use mmkit_pgtable::{Change, Entry, Mmu, Software, TableEnv, TryAgain};
use mmkit_sync::{Counter, ReadSide, Readers, SpinLock};
use mmkit_vmemmap::{FailureSlot, Populate, ReserveSlot, TableSpace, TailSlot, Usage, Vmemmap, VmemmapEnv};

use crate::common::{Log, frames, order, pfn, range};

/// A machine that refuses the `k`-th change from now on, and as many after it as it is told to.
#[derive(Default)]
pub struct Machine {
    until: AtomicU64,
    refusals: AtomicU64,
    /// What comes after those: changes that are made, and then refusals.
    later: AtomicU64,
    last: AtomicU64,
    pub changes: AtomicU64,
    /// Whether an entry is broken before it is made, and found broken by those who are refused.
    pub breaks: AtomicBool,
}

impl Machine {
    /// Refuses `refusals` changes from the `k`-th on, counted from 1.
    pub fn refuse(&self, k: u64, refusals: u64) {
        self.until.store(k, Ordering::Relaxed);
        self.refusals.store(refusals, Ordering::Relaxed);
    }

    /// Makes `made` changes after those that are to be refused, and then refuses as many as it is told to.
    pub fn refuse_later(&self, made: u64, refusals: u64) {
        self.later.store(made + 1, Ordering::Relaxed);
        self.last.store(refusals, Ordering::Relaxed);
    }

    /// Refuses nothing any more. Whether something was still to be refused.
    pub fn heal(&self) -> bool {
        self.later.store(0, Ordering::Relaxed);
        self.until.swap(0, Ordering::Relaxed) > 0
    }
}

impl<R> Mmu for World<R> {
    fn flush(&self, _: &[VirtRange]) {
        if self.marks.load(Ordering::Relaxed) {
            self.early_marks.fetch_add(self.marked_tails(), Ordering::Relaxed);
        }
        if self.watched.load(Ordering::Relaxed) > 0 && self.flushed.fetch_add(1, Ordering::Relaxed) == 1 {
            let frees = self.frames.stats().frees + 1 - self.watched.load(Ordering::Relaxed);
            self.early.store(frees, Ordering::Relaxed);
        }
    }

    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        self.machine.replace(change)
    }
}

impl Machine {
    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        if !self.breaks.load(Ordering::Relaxed) {
            return self.may_replace();
        }
        change.clear();
        self.may_replace()?;
        change.write();
        Ok(())
    }

    fn may_replace(&self) -> Result<(), TryAgain> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let until = self.until.load(Ordering::Relaxed);
        match until {
            0 => Ok(()),
            1 => {
                let left = self.refusals.load(Ordering::Relaxed);
                if left <= 1 {
                    self.until.store(self.later.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                    self.refusals.store(self.last.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                } else {
                    self.refusals.store(left - 1, Ordering::Relaxed);
                }
                Err(TryAgain)
            }
            more => {
                self.until.store(more - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// Everything that a memory map is made of.
pub struct World<R = Readers> {
    pub geometry: Geometry,
    pub frames: TestFrames,
    pub machine: Machine,
    pub log: Log,
    /// Frames that the memory map has.
    pub size: u64,
    pub readers: R,
    slots: Vec<TailSlot>,
    reserves: Vec<ReserveSlot>,
    failures: Vec<FailureSlot>,
    /// Frames from here on are boot memory.
    pub boot: AtomicU64,
    pub booted: AtomicU64,
    /// Frees counted when watching began, plus one.
    watched: AtomicU64,
    flushed: AtomicU64,
    early: AtomicU64,
    /// Whether every flush looks for marks in tails, and what it has found.
    marks: AtomicBool,
    early_marks: AtomicU64,
}

/// What a memory map is, and what it has taken.
pub type State = (Usage, Snapshot, Contents);

pub struct Of<'a, R = Readers>(pub &'a World<R>, Frames<&'a TestFrames, &'a TestFrames>);

// SAFETY: the fields never change, and the bundle came from `TestFrames::frames`.
unsafe impl<'a, R: ReadSide> Env for Of<'a, R> {
    type Allocator = &'a TestFrames;
    type Map = &'a TestFrames;
    type Lock = SpinLock;
    type Read = R;
    type Events = Log;

    fn frames(&self) -> &Frames<&'a TestFrames, &'a TestFrames> {
        &self.1
    }

    fn read_side(&self) -> &R {
        &self.0.readers
    }

    fn events(&self) -> &Log {
        &self.0.log
    }
}

// SAFETY: a world has one machine.
unsafe impl<R: ReadSide> TableEnv for Of<'_, R> {
    type Mmu = World<R>;

    fn mmu(&self) -> &World<R> {
        self.0
    }
}

// SAFETY: the slots are the world's own, and no test makes a second memory map of one while there is one.
unsafe impl<R: ReadSide> VmemmapEnv for Of<'_, R> {
    type Counts = mmkit_page::Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.0.slots
    }

    fn reserves(&self) -> &[ReserveSlot] {
        &self.0.reserves
    }

    fn failures(&self) -> &[FailureSlot] {
        &self.0.failures
    }

    unsafe fn give_boot(&self, pfn: Pfn) -> bool {
        let boot = pfn.get() < self.0.boot.load(Ordering::Relaxed);
        self.0.booted.fetch_add(boot.into(), Ordering::Relaxed);
        boot
    }
}

pub type Space<'a, R = Readers, N = Software> = TableSpace<N, Of<'a, R>>;
pub type Map<'a, R = Readers, N = Software> = Vmemmap<Space<'a, R, N>, Of<'a, R>>;
pub type Pool<'m, 'a, R = Readers, N = Software> = Vec<Frozen<'m, Map<'a, R, N>>>;

impl World {
    /// A memory map without frames.
    pub fn empty(&self) -> Map<'_> {
        self.empty_as(PhantomData)
    }

    /// A memory map of single frames.
    pub fn map(&self) -> Map<'_> {
        self.map_as(PhantomData)
    }

    /// A memory map of single frames, whose descriptors are mapped by huge leaves.
    pub fn map_huge(&self) -> Map<'_> {
        let map = self.empty();
        map.populate_with(Populate::new(range(0, self.size)).huge_leaves()).unwrap();
        map
    }
}

impl<R> World<R> {
    /// Bad frames that are marked in descriptors other than the first of a page.
    fn marked_tails(&self) -> u64 {
        let frames = self.frames.frames();
        let blocks = self.frames.outstanding_blocks();
        let mut marked = 0;
        for block in blocks {
            // SAFETY: the frame is out, and all that is in it is read and written by atomics.
            let words = unsafe { frames.words(block.pfn) }.unwrap();
            let flags = words.iter().step_by(8).skip(1).map(|word| word.load(Ordering::Relaxed));
            marked += flags.filter(|&flags| flags == PageFlags::HWPOISON.bits()).count() as u64;
        }
        marked
    }
}

impl<R: ReadSide + Default> World<R> {
    /// A machine with memory for descriptors, and room for four reserves and two bad frames.
    pub fn new(geometry: Geometry, size: u64) -> Self {
        Self {
            geometry,
            frames: frames(&geometry),
            machine: Machine::default(),
            log: Log::default(),
            size,
            readers: R::default(),
            slots: (0..16).map(|_| TailSlot::new()).collect(),
            reserves: (0..4).map(|_| ReserveSlot::new()).collect(),
            failures: (0..2).map(|_| FailureSlot::new()).collect(),
            boot: AtomicU64::new(0),
            booted: AtomicU64::new(0),
            watched: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            early: AtomicU64::new(0),
            marks: AtomicBool::new(false),
            early_marks: AtomicU64::new(0),
        }
    }

    /// Looks, at the second flush from now on, how many frames were given back before it.
    pub fn watch_frees(&self) {
        self.flushed.store(0, Ordering::Relaxed);
        self.early.store(u64::MAX, Ordering::Relaxed);
        self.watched.store(self.frames.stats().frees + 1, Ordering::Relaxed);
    }

    /// Has every flush from now on look for marks of bad frames in tails.
    pub fn watch_marks(&self) {
        self.marks.store(true, Ordering::Relaxed);
    }

    /// Marks that were there before a flush.
    pub fn early_marks(&self) -> u64 {
        self.early_marks.load(Ordering::Relaxed)
    }

    pub fn early_frees(&self) -> u64 {
        self.early.load(Ordering::Relaxed)
    }

    /// The `k`-th frame from now on, and all after it, cannot be had, unless others come back.
    pub fn fail_from(&self, k: u64) {
        self.frames.set_budget(k - 1);
    }

    pub fn heal(&self) {
        self.frames.heal();
        self.machine.heal();
    }

    /// Takes every frame that is left.
    pub fn starve(&self) {
        for size in (0..=20).rev() {
            while self.frames.allocate(Request::new(order(size))).is_ok() {}
        }
    }

    /// Everything that could tell that something happened.
    pub fn state<N: Entry>(&self, map: &Map<'_, R, N>) -> State {
        // SAFETY: no thread but this one has the frames.
        (map.usage(), self.frames.snapshot(), unsafe { self.frames.contents() })
    }

    pub fn env(&self) -> Of<'_, R> {
        Of(self, self.frames.frames())
    }

    /// A memory map without frames, in tables of a format.
    pub fn empty_as<N: Entry>(&self, _: PhantomData<N>) -> Map<'_, R, N> {
        let space = TableSpace::new(self.env(), self.geometry, NodeId::ZERO).unwrap();
        Vmemmap::new(self.geometry, space, self.env()).unwrap()
    }

    /// A memory map of single frames, in tables of a format.
    pub fn map_as<N: Entry>(&self, format: PhantomData<N>) -> Map<'_, R, N> {
        let map = self.empty_as(format);
        map.populate(range(0, self.size), Order::ZERO, Place::default()).unwrap();
        map
    }

    /// Compounds made of single frames.
    pub fn pool<'m, 'a, N: Entry>(
        &self,
        map: &'m Map<'a, R, N>,
        size: u8,
        numbers: Range<u64>,
    ) -> Pool<'m, 'a, R, N> {
        numbers.map(|number| compound(map, pfn(number << size), order(size))).collect()
    }

    /// Compounds of a size, from frame 0 on, all of whose descriptors are their own.
    pub fn restored<'m, 'a, N: Entry>(
        &self,
        map: &'m Map<'a, R, N>,
        size: u8,
        count: u64,
    ) -> Pool<'m, 'a, R, N> {
        map.populate(range(0, count << size), order(size), Place::default()).unwrap();
        let mut pool: Vec<_> = (0..count).map(|n| map.claim(pfn(n << size)).unwrap().allocate()).collect();
        assert_eq!(map.restore_batch(&mut pool).done as u64, count);
        pool
    }

    /// Takes compounds apart.
    pub fn put_back<N: Entry>(&self, pool: Pool<'_, '_, R, N>) {
        pool.into_iter().for_each(take_apart);
    }

    /// What was counted since the last call.
    pub fn flushes_and_waits(&self) -> (u64, u64) {
        (self.log.get(Counter::TlbFlush), self.log.get(Counter::Synchronize))
    }
}

pub fn compound<M: MemMap>(map: &M, head: Pfn, order: Order) -> Frozen<'_, M> {
    map.claim_joined(head, order).unwrap().allocate().prep().unwrap()
}

pub fn take_apart<M: MemMap>(folio: Frozen<'_, M>) {
    drop(folio.unprep().unwrap().into_free().unwrap());
}

/// The page of descriptors that `pfn` has its descriptor in, word by word.
pub fn words_of_page<M: MemMap>(map: &M, pfn: Pfn) -> Vec<u64> {
    let reader = map.enter();
    (0..64).flat_map(|nth| reader.page(pfn.checked_add(nth).unwrap()).unwrap().words()).collect()
}

/// Checks the descriptors of a compound whose head is frozen: of a large one those in the first page, and some of all others.
#[track_caller]
pub fn assert_compound<M: MemMap>(map: &M, head: Pfn, order: Order, place: Place) {
    let reader = map.enter();
    let (near, step) = if order.get() > 12 { (64, 61) } else { (order.frames(), 64) };
    for nth in (0..near).chain((near..order.frames()).step_by(step)).chain([order.frames() - 1]) {
        let pfn = head.checked_add(nth).unwrap();
        let page = reader.page(pfn).unwrap();
        assert_eq!(page.head(), head);
        assert_eq!(page.place(), place);
        if pfn != head {
            assert_eq!(page.words(), Template::tail(order, place).words(), "{pfn:?}");
        }
    }
}
