// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator itself.

use core::fmt;
use core::ptr::NonNull;
use std::string::String;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use mmkit_addr::{NodeId, Order, Pfn};

use super::memory::{self, Memory};
use super::state::{Block, State};
use super::{Contents, Snapshot, Stats, TestConfig, TestRange, Violation, ViolationKind};
use crate::{AllocError, DirectMap, FrameAllocator, Frames, Request};

/// Every byte of a frame that is free.
pub const POISON_FREE: u8 = 0xdb;
/// Every byte of a frame that was handed out without `zeroed` and not written since.
pub const POISON_FRESH: u8 = 0xa5;

/// A frame allocator and direct map over real memory that checks what its users promise.
///
/// It takes the lowest block that fits, from the preferred node's ranges by address, then (unless the request is
/// strict) from the other nodes' by number: a test that repeats itself sees the same frames. Each frame's memory is an
/// allocation of its own, made when somebody first asks for the pointer; it stays until the allocator is dropped.
///
/// **A broken promise is recorded**, and the call has no other effect: a bad free frees nothing. It fails the test when
/// the test asks ([`assert_clean`](Self::assert_clean), [`assert_no_leaks`](Self::assert_no_leaks)), and at the latest
/// when the allocator is dropped, so it cannot be overlooked. A test that breaks promises on purpose takes them away
/// with [`take_violations`](Self::take_violations). To panic in the call that breaks the promise, see
/// [`TestConfig::panic_at_once`]. Frames that are still out at drop are no violation (a flush token that is dropped
/// leaks by design); `assert_no_leaks` is for that.
///
/// It may be shared between threads, and used in loom models: its lock is std's, never held across anything that loom
/// schedules, so loom sees each call as one step.
pub struct TestFrames {
    base_shift: u32,
    panic_at_once: bool,
    state: Mutex<State>,
    memory: Memory,
}

/// A block that is out, and how it came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// First frame.
    pub pfn: Pfn,
    /// The order at which it must be given back.
    pub order: Order,
    /// The request that it came from, as it was made (before any split).
    pub request: Request,
    /// Which call of `allocate` that was, from 1: [`TestFrames::fail_nth`] on a new allocator can stop there.
    pub call: u64,
}

impl TestFrames {
    /// The machine of `config`, every frame free.
    #[must_use]
    pub fn new(config: TestConfig) -> Self {
        let TestConfig { base_shift, ranges, panic_at_once } = config;
        Self {
            base_shift,
            panic_at_once,
            state: Mutex::new(State::new(ranges)),
            memory: Memory::new(base_shift),
        }
    }

    /// A machine of `frames` 4 KiB frames from frame 0, one node and zone.
    ///
    /// # Panics
    ///
    /// As [`TestConfig::range`].
    #[must_use]
    pub fn with_frames(frames: u64) -> Self {
        Self::new(TestConfig::new().range(0, frames))
    }

    /// This allocator and direct map, bundled.
    #[must_use]
    pub fn frames(&self) -> Frames<&Self, &Self> {
        // SAFETY: both halves are this value: `frame` has a pointer for every frame of every range, blocks are only
        // taken from ranges, and it touches the memory of frames that are free or change hands, no other.
        unsafe { Frames::new(self, self) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range that `pfn` belongs to: its node and zone.
    #[must_use]
    pub fn range_of(&self, pfn: Pfn) -> Option<TestRange> {
        self.lock().range_of(pfn)
    }

    // Failures on demand.

    /// Makes the `k`-th call of `allocate` from now on fail, once.
    ///
    /// # Panics
    ///
    /// Where `k` is 0.
    pub fn fail_nth(&self, k: u64) {
        assert!(k > 0, "calls count from 1");
        self.lock().faults.nth = Some(k);
    }

    /// Makes every `k`-th call of `allocate` from now on fail.
    ///
    /// # Panics
    ///
    /// Where `k` is 0.
    pub fn fail_every(&self, k: u64) {
        assert!(k > 0, "calls count from 1");
        self.lock().faults.every = Some((k, 0));
    }

    /// Lets at most `frames` more frames be out than are now; what is given back may be taken again.
    pub fn set_budget(&self, frames: u64) {
        let mut state = self.lock();
        state.faults.limit = Some(state.stats.frames_out.saturating_add(frames));
    }

    /// The same for `node` alone. A request that is not strict goes to other nodes.
    pub fn set_node_budget(&self, node: NodeId, frames: u64) {
        let mut state = self.lock();
        let limit = state.frames_out_on(node).saturating_add(frames);
        state.faults.node_limits.insert(node, limit);
    }

    /// Ends all failures on demand.
    pub fn heal(&self) {
        self.lock().faults.heal();
    }

    // What happened so far.

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.lock();
        Stats { injected: state.faults.injected, backed_frames: self.memory.len(), ..state.stats }
    }

    /// Frames out now.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.lock().stats.frames_out
    }

    /// Frames of `node` out now.
    #[must_use]
    pub fn outstanding_on(&self, node: NodeId) -> u64 {
        self.lock().frames_out_on(node)
    }

    /// The blocks out now, ascending.
    #[must_use]
    pub fn outstanding_blocks(&self) -> Vec<Outstanding> {
        let outstanding = |(&pfn, &Block { order, request, call, .. }): (&Pfn, &Block)| Outstanding {
            pfn,
            order,
            request,
            call,
        };
        self.lock().owned.iter().map(outstanding).collect()
    }

    /// Which blocks are out, to compare with later.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { blocks: self.lock().owned.iter().map(|(&pfn, block)| (pfn, block.order)).collect() }
    }

    /// What the frames that are out contain, to compare with later.
    ///
    /// # Safety
    ///
    /// During the call nobody writes a frame that is out.
    #[must_use]
    pub unsafe fn contents(&self) -> Contents {
        let state = self.lock();
        let mut contents = Contents { filled: state.filled(), written: Default::default() };
        for (&pfn, &(order, byte)) in &contents.filled {
            for frame in self.memory.present(pfn.get(), pfn.get() + order.frames()) {
                // SAFETY: the caller promises that nobody writes it.
                let bytes = unsafe { self.memory.bytes(frame) };
                if let Some(bytes) = bytes
                    && memory::first_change(bytes, byte).is_some()
                {
                    contents.written.insert(frame, memory::digest(bytes));
                }
            }
        }
        contents
    }

    // What went wrong.

    /// Every promise found broken so far, oldest first; looks at the memory of all free frames for that.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut state = self.lock();
        self.check_free_frames(&mut state);
        state.violations.clone()
    }

    /// [`violations`](Self::violations), and forgets them.
    #[must_use]
    pub fn take_violations(&self) -> Vec<Violation> {
        let mut state = self.lock();
        self.check_free_frames(&mut state);
        core::mem::take(&mut state.violations)
    }

    /// The blocks out now, as [`ViolationKind::Leaked`].
    #[must_use]
    pub fn leaks(&self) -> Vec<Violation> {
        let leaked = |(&pfn, block): (&Pfn, &Block)| Violation {
            pfn,
            order: block.order,
            kind: ViolationKind::Leaked,
        };
        self.lock().owned.iter().map(leaked).collect()
    }

    /// Panics, listing them, where promises were broken.
    ///
    /// # Panics
    ///
    /// Where [`violations`](Self::violations) is not empty. They are forgotten then.
    #[track_caller]
    pub fn assert_clean(&self) {
        let violations = self.take_violations();
        assert!(violations.is_empty(), "frames were misused:{}", list(&violations));
    }

    /// Panics where promises were broken or frames are still out.
    ///
    /// # Panics
    ///
    /// As [`assert_clean`](Self::assert_clean), and where a block is out; the message lists them with the number of
    /// the call that took each.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        self.assert_clean();
        let out = self.outstanding_blocks();
        assert!(out.is_empty(), "frames are still out: {out:#?}");
    }

    /// Records, or raises, a broken promise.
    fn report(&self, mut state: MutexGuard<'_, State>, violation: Violation) {
        if self.panic_at_once && !std::thread::panicking() {
            drop(state);
            panic!("frames were misused: {violation}");
        }
        state.violations.push(violation);
    }

    /// Records every free frame whose poison is broken, and mends it.
    fn check_free_frames(&self, state: &mut State) {
        for pfn in self.memory.present(0, u64::MAX) {
            if state.owner(pfn).is_none() {
                state.violations.extend(self.refill_free(pfn, POISON_FREE));
            }
        }
    }

    /// Checks the poison of a free frame that has memory, and fills it with `byte`.
    fn refill_free(&self, pfn: Pfn, byte: u8) -> Option<Violation> {
        // SAFETY: the frame is free, so it is the allocator's: nobody else may access it.
        let bytes = unsafe { self.memory.bytes(pfn) }?;
        let change = memory::first_change(bytes, POISON_FREE);
        if byte != POISON_FREE || change.is_some() {
            // SAFETY: as above, and `bytes` is used no more.
            unsafe { self.memory.fill(pfn, byte) };
        }
        let (offset, found) = change?;
        Some(Violation { pfn, order: Order::ZERO, kind: ViolationKind::WrittenWhileFree { offset, found } })
    }
}

fn list(violations: &[Violation]) -> String {
    use fmt::Write;
    let mut text = String::new();
    for violation in violations {
        let _ = write!(text, "\n  {violation}");
    }
    text
}

// SAFETY: blocks are aligned, cut out of what is free under the lock, and stay out until given back at the order they
// are owned at (anything else is refused); a failed call changes counters only; `zeroed` frames are filled with zeros,
// now or when their memory is made; `split` touches the books only. Clones do not exist, moving moves no frame.
unsafe impl FrameAllocator for TestFrames {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let mut state = self.lock();
        let pfn = state.take(request).ok_or(AllocError { request })?;
        let mut found = None;
        for frame in self.memory.present(pfn.get(), pfn.get() + request.order.frames()) {
            // One at a time: what is reported first must not keep the other frames from being filled.
            if let Some(violation) = self.refill_free(frame, fill_byte(request))
                && let Some(earlier) = found.replace(violation)
            {
                state.violations.push(earlier);
            }
        }
        if let Some(violation) = found {
            self.report(state, violation);
        }
        Ok(pfn)
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        let mut state = self.lock();
        match state.give_back(pfn, order) {
            Ok(()) => {
                for frame in self.memory.present(pfn.get(), pfn.get() + order.frames()) {
                    // SAFETY: the books say that the block was out, and the caller that nothing uses it any more.
                    unsafe { self.memory.fill(frame, POISON_FREE) };
                }
            }
            Err(violation) => self.report(state, violation),
        }
    }

    unsafe fn split(&self, pfn: Pfn, from: Order, to: Order) {
        let mut state = self.lock();
        if let Err(violation) = state.split(pfn, from, to) {
            self.report(state, violation);
        }
    }

    fn node_of(&self, pfn: Pfn) -> Option<NodeId> {
        self.range_of(pfn).map(|range| range.node)
    }
}

// SAFETY: a frame's memory is one allocation of that size and alignment, made and filled once, kept until drop, and
// found again by its number.
unsafe impl DirectMap for TestFrames {
    fn base_shift(&self) -> u32 {
        self.base_shift
    }

    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        if let Some(start) = self.memory.get(pfn) {
            return Some(start);
        }
        // The lock is held while the memory is made: its contents follow from who owns the frame.
        let state = self.lock();
        state.range_of(pfn)?;
        let byte = state.owner(pfn).map_or(POISON_FREE, |block| fill_byte(block.request));
        Some(self.memory.get_or_fill(pfn, byte))
    }
}

/// What a block is filled with when handed out.
pub(super) const fn fill_byte(request: Request) -> u8 {
    if request.zeroed { 0 } else { POISON_FRESH }
}

impl fmt::Debug for TestFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("TestFrames").field("base_shift", &self.base_shift).field("stats", &stats).finish()
    }
}

impl Drop for TestFrames {
    fn drop(&mut self) {
        // A test that is failing already has its message; a second panic would abort it.
        if !std::thread::panicking() {
            self.assert_clean();
        }
    }
}
