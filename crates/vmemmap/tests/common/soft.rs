// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address space that holds its callers to the contract.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mmkit_addr::{DESCRIPTOR_BYTES, NodeId, Order, Pfn};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::Page;
use mmkit_vmemmap::{Backing, Behind, MapError, SpaceUsage, TailRun, Unmapped, VmemmapSpace};

/// What stands behind one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    Own(Pfn),
    /// Frame of the run, run.
    Tail(Pfn, TailRun),
}

impl Stand {
    fn frame(self) -> Pfn {
        match self {
            Self::Own(frame) | Self::Tail(frame, _) => frame,
        }
    }
}

#[derive(Default)]
struct State {
    pages: BTreeMap<u64, Stand>,
    /// Frames that were unmapped and wait for their flush.
    stale: BTreeSet<Pfn>,
    /// Frames behind pages of their own.
    own: BTreeSet<Pfn>,
    /// The bytes of each tail frame when it was first mapped, and how many pages have it.
    tails: BTreeMap<Pfn, (Vec<u64>, u64)>,
    /// Calls of `behind`.
    looks: u64,
    flushes: u64,
    maps: u64,
    unmaps: u64,
    fail_map: Option<u64>,
    fail_unmap: Option<u64>,
    tolerant: bool,
    /// First pages of huge leaves.
    leaves: BTreeSet<u64>,
    splits: u64,
    fail_split: Option<u64>,
}

/// An address space in a map of the standard library. Its pages are frames of a test allocator.
///
/// It panics where a caller maps a page twice, unmaps one that is not mapped, maps a frame that waits for a flush, stands
/// behind two pages of their own, or holds no tails where it should; and when it finds that a shared tail was written.
pub struct Soft<'a> {
    frames: &'a TestFrames,
    base_shift: u32,
    tail_order: Order,
    leaf_order: Option<Order>,
    state: Mutex<State>,
}

impl<'a> Soft<'a> {
    pub fn new(frames: &'a TestFrames, base_shift: u32) -> Self {
        Self::with_tail_order(frames, base_shift, Order::ZERO)
    }

    /// A space that maps tails in runs of frames.
    pub fn with_tail_order(frames: &'a TestFrames, base_shift: u32, tail_order: Order) -> Self {
        Self { frames, base_shift, tail_order, leaf_order: None, state: Mutex::default() }
    }

    /// A space that has huge leaves.
    pub fn with_leaf_order(frames: &'a TestFrames, base_shift: u32, leaf_order: Order) -> Self {
        Self { leaf_order: Some(leaf_order), ..Self::new(frames, base_shift) }
    }

    /// How often somebody asked what stands behind a page.
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// Puts something else behind a page, unnoticed: to seed violations.
    pub fn tamper(&self, page: u64, stand: Option<Stand>) {
        let mut state = self.lock();
        match stand {
            Some(stand) => state.pages.insert(page, stand),
            None => state.pages.remove(&page),
        };
    }

    /// The pages that huge leaves begin at.
    pub fn leaves(&self) -> Vec<u64> {
        self.lock().leaves.iter().copied().collect()
    }

    pub fn splits(&self) -> u64 {
        self.lock().splits
    }

    /// Makes the `k`-th split from now on fail, once.
    pub fn fail_split(&self, k: u64) {
        self.lock().fail_split = Some(k);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the `k`-th map from now on fail, once.
    pub fn fail_map(&self, k: u64) {
        self.lock().fail_map = Some(k);
    }

    /// Makes the `k`-th unmap from now on fail, once.
    pub fn fail_unmap(&self, k: u64) {
        self.lock().fail_unmap = Some(k);
    }

    /// Answers a second map of a page with an error from now on, instead of a panic.
    pub fn tolerate_occupied(&self) {
        self.lock().tolerant = true;
    }

    /// Ends failures; says whether one is still to come.
    pub fn heal(&self) -> bool {
        let mut state = self.lock();
        let State { fail_map, fail_unmap, fail_split, .. } = &mut *state;
        [fail_map, fail_unmap, fail_split].into_iter().filter_map(Option::take).count() > 0
    }

    pub fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    pub fn maps(&self) -> u64 {
        self.lock().maps
    }

    pub fn unmaps(&self) -> u64 {
        self.lock().unmaps
    }

    /// All pages, to compare with later.
    pub fn pages(&self) -> BTreeMap<u64, Stand> {
        self.lock().pages.clone()
    }

    /// Frames that were unmapped and not flushed.
    pub fn stale(&self) -> usize {
        self.lock().stale.len()
    }

    /// Panics where a tail that is mapped is not what it was when it was mapped.
    #[track_caller]
    pub fn check_tails(&self) {
        let state = self.lock();
        for (&frame, (words, _)) in &state.tails {
            assert_eq!(&self.words(frame), words, "the shared tail in {frame:?} was written");
        }
    }

    fn words(&self, frame: Pfn) -> Vec<u64> {
        let frames = self.frames.frames();
        // SAFETY: the frame holds tails, is out, and is only read since.
        let words = unsafe { frames.words(frame) }.unwrap_or_else(|| panic!("no memory behind {frame:?}"));
        words.iter().map(|word| word.load(core::sync::atomic::Ordering::Relaxed)).collect()
    }

    fn behind(&self, backing: Backing, start: u64, page: u64) -> Stand {
        match backing {
            Backing::Own { first } => Stand::Own(first.checked_add(page - start).unwrap()),
            Backing::Tails(run) => {
                let index = page % run.order.frames();
                Stand::Tail(run.first.checked_add(index).unwrap(), run)
            }
        }
    }
}

/// Counts down; whether this call is the one.
fn strikes(left: &mut Option<u64>) -> bool {
    if let Some(k) = left {
        *k -= 1;
        if *k == 0 {
            *left = None;
            return true;
        }
    }
    false
}

// SAFETY: a page leads to the frame that it was mapped to and to nothing else, until it is flushed; tails are not
// written; errors are decided before anything changes; frames are given out by `flush`, after their pages are gone.
unsafe impl VmemmapSpace for Soft<'_> {
    type Unmapped<'s>
        = SoftUnmapped<'s>
    where
        Self: 's;

    fn base_shift(&self) -> u32 {
        self.base_shift
    }

    fn tail_frames_order(&self) -> Order {
        self.tail_order
    }

    fn leaf_order(&self) -> Option<Order> {
        self.leaf_order
    }

    unsafe fn map_leaf(&self, page: u64, first: Pfn, node: NodeId) -> Result<(), MapError> {
        let order = self.leaf_order.ok_or(MapError::Unsupported)?;
        assert!(page.is_multiple_of(order.frames()) && first.is_aligned(order), "{page:#x}, {first:?}");
        // SAFETY: passed on to the caller.
        unsafe { self.map(page..page + order.frames(), Backing::Own { first }, node) }?;
        self.lock().leaves.insert(page);
        Ok(())
    }

    unsafe fn split(&self, page: u64, _: NodeId) -> Result<bool, MapError> {
        let Some(order) = self.leaf_order else { return Ok(false) };
        let mut state = self.lock();
        let start = page / order.frames() * order.frames();
        if start == page || !state.leaves.contains(&start) {
            return Ok(false);
        }
        if strikes(&mut state.fail_split) {
            return Err(MapError::TryAgain);
        }
        state.leaves.remove(&start);
        state.splits += 1;
        Ok(true)
    }

    fn behind(&self, page: u64) -> Behind {
        let mut state = self.lock();
        state.looks += 1;
        match state.pages.get(&page) {
            None => Behind::Nothing,
            Some(&Stand::Own(frame)) => Behind::Own(frame),
            Some(&Stand::Tail(frame, _)) => Behind::Tails(frame),
        }
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        let byte = pfn.get() * DESCRIPTOR_BYTES;
        let state = self.lock();
        let frame = state.pages.get(&(byte >> self.base_shift))?.frame();
        let memory = self.frames.frames().frame(frame)?;
        let offset = byte & ((1 << self.base_shift) - 1);
        // SAFETY: the offset lies inside the frame.
        Some(unsafe { memory.byte_add(offset as usize) }.cast())
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, _: NodeId) -> Result<(), MapError> {
        assert!(pages.start < pages.end, "{pages:?} is empty");
        let mut state = self.lock();
        state.maps += 1;
        if strikes(&mut state.fail_map) {
            return Err(MapError::TooManyMappings { needed: 2, limit: 1 });
        }
        if let Some(&page) = state.pages.range(pages.clone()).next().map(|(page, _)| page) {
            assert!(state.tolerant, "page {page:#x} is mapped twice");
            return Err(MapError::Occupied { page });
        }
        for page in pages.clone() {
            let behind = self.behind(backing, pages.start, page);
            let frame = behind.frame();
            assert!(!state.stale.contains(&frame), "{frame:?} is mapped again before its flush");
            if let Stand::Tail(..) = behind {
                let words = self.words(frame);
                let (first, rest) = words.split_at(8);
                assert!(rest.chunks(8).all(|other| other == first), "{frame:?} holds no identical tails");
                let known = state.tails.entry(frame).or_insert_with(|| (words.clone(), 0));
                assert_eq!(known.0, words, "the shared tail in {frame:?} was written");
                known.1 += 1;
            } else {
                assert!(state.own.insert(frame), "{frame:?} stands behind two pages");
            }
            state.pages.insert(page, behind);
        }
        Ok(())
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<SoftUnmapped<'_>, MapError> {
        assert!(pages.start < pages.end, "{pages:?} is empty");
        let mut state = self.lock();
        state.unmaps += 1;
        if strikes(&mut state.fail_unmap) {
            return Err(MapError::TryAgain);
        }
        if let Some(order) = self.leaf_order {
            let cut = |page: u64| {
                let start = page / order.frames() * order.frames();
                start != page && state.leaves.contains(&start)
            };
            assert!(!cut(pages.start) && !cut(pages.end), "{pages:?} cuts a huge leaf");
            state.leaves.retain(|leaf| !pages.contains(leaf));
        }
        let mut taken = Vec::new();
        for page in pages {
            let Some(behind) = state.pages.remove(&page) else { panic!("page {page:#x} is not mapped") };
            let frame = behind.frame();
            if let Stand::Tail(..) = behind {
                let words = self.words(frame);
                let known = state.tails.get_mut(&frame).unwrap();
                assert_eq!(known.0, words, "the shared tail in {frame:?} was written");
                known.1 -= 1;
                if known.1 == 0 {
                    state.tails.remove(&frame);
                }
            } else {
                state.own.remove(&frame);
                state.stale.insert(frame);
            }
            taken.push((page, behind));
        }
        Ok(SoftUnmapped { space: self, taken })
    }

    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
    }
}

/// Pages that wait for a flush.
pub struct SoftUnmapped<'s> {
    space: &'s Soft<'s>,
    taken: Vec<(u64, Stand)>,
}

impl Unmapped for SoftUnmapped<'_> {
    fn flush(self, release: &mut dyn FnMut(u64, Backing)) {
        {
            let mut state = self.space.lock();
            state.flushes += 1;
            for (_, behind) in &self.taken {
                state.stale.remove(&behind.frame());
            }
        }
        // The lock is not held any more: the callback gives frames back.
        for &(_, behind) in &self.taken {
            match behind {
                Stand::Own(first) => release(1, Backing::Own { first }),
                Stand::Tail(_, run) => release(1, Backing::Tails(run)),
            }
        }
    }
}
