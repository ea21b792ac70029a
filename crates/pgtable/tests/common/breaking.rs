// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine of arm64 processors that remember translations, and notice when a live entry was changed under them.
//!
//! DDI 0487, D8 "Using break-before-make when updating translation table entries": while a processor may hold a
//! descriptor, another valid one in its place must not differ in output address, size, memory type, shareability, global
//! or contiguous bit. Between them there is an invalid one, and a flush.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, OnceLock};

use mmkit_addr::{Pfn, VirtRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_frame::{Env, Frames};
use mmkit_pgtable::{Change, ChangeKind, Mmu, TableEnv, TryAgain};
use mmkit_sync::{Readers, SpinLock, Tally};

use super::arm::{Cached, Processor};
use super::va;

/// What of a descriptor must not change while it is live: type, attributes, shareability, nG, output address, contiguous.
pub(crate) const FIXED: u64 = 0b10 | 0b1111 << 2 | 0b11 << 8 | 1 << 11 | 0x0000_ffff_ffff_f000 | 1 << 52;

/// How the machine replaces an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Break, flush, make.
    Properly,
    /// One store, which the tables do.
    WithoutBreak,
    /// Break, make.
    WithoutFlush,
    /// Flush, break, make.
    FlushFirst,
    /// Break and flush, and leave the rest to the tables.
    LeavesMaking,
    /// Break, flush, make, and break again, and then say that it failed.
    BreaksAgain,
}

/// At which point an update that fails does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivesUp {
    BeforeBreak,
    AfterBreak,
    AfterFlush,
}

pub(crate) struct State {
    pub(crate) how: How,
    /// Updates left until one fails, and where it does. 0: none does.
    pub(crate) fail: (u64, GivesUp),
    /// Everything that processors remember.
    pub(crate) tlb: Vec<Cached>,
    /// Addresses that they use all the time.
    pub(crate) used: Vec<u64>,
    pub(crate) changes: Vec<ChangeKind>,
    pub(crate) conflicts: Vec<String>,
}

pub(crate) struct Machine<'a> {
    pub(crate) processor: Processor<'a>,
    pub(crate) root: OnceLock<Pfn>,
    pub(crate) state: Mutex<State>,
    /// Tells that an entry is broken, and waits before it is made.
    pub(crate) window: Mutex<Option<(Sender<VirtRange>, Receiver<()>)>>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(frames: &'a TestFrames, granule: u32) -> Self {
        let state = State {
            how: How::Properly,
            fail: (0, GivesUp::BeforeBreak),
            tlb: Vec::new(),
            used: Vec::new(),
            changes: Vec::new(),
            conflicts: Vec::new(),
        };
        Self {
            processor: Processor { frames, granule },
            root: OnceLock::new(),
            state: Mutex::new(state),
            window: Mutex::new(None),
        }
    }

    /// Processors use their addresses, and look at everything that they remember. Called after every step.
    fn run(&self, state: &mut State) {
        let root = *self.root.get().expect("the root is loaded");
        let mut found = Vec::new();
        for &va in &state.used {
            // A processor is free to walk again although it remembers.
            self.processor.translate(root, va, |cached| found.push(cached));
        }
        for held in &state.tlb {
            let now = self.processor.word(held.table, held.index);
            if now & 1 != 0 && (now ^ held.raw) & FIXED != 0 {
                state.conflicts.push(format!("{held:x?} became {now:#x}"));
            }
        }
        for cached in found {
            if !state.tlb.contains(&cached) {
                state.tlb.push(cached);
            }
        }
    }

    fn forget(&self, state: &mut State, ranges: &[VirtRange]) {
        state.tlb.retain(|held| {
            !ranges.iter().any(|range| {
                let (first, last) = (range.start().get(), range.last().unwrap().get());
                held.first <= last && first <= held.last
            })
        });
    }

    /// Lets processors run once more, and fails if one ever found a live entry changed.
    pub(crate) fn check(&self) {
        let mut state = self.state.lock().unwrap();
        self.run(&mut state);
        assert_eq!(state.conflicts, [""; 0]);
    }
}

impl Mmu for Machine<'_> {
    fn flush(&self, ranges: &[VirtRange]) {
        let mut state = self.state.lock().unwrap();
        self.run(&mut state);
        self.forget(&mut state, ranges);
        self.run(&mut state);
    }

    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let range = [change.range()];
        self.run(state);
        let left = state.fail.0;
        state.fail.0 = left.saturating_sub(1);
        let gives_up = (left == 1).then_some(state.fail.1);
        if gives_up == Some(GivesUp::BeforeBreak) {
            return Err(TryAgain);
        }
        if state.how == How::FlushFirst {
            self.forget(state, &range);
            self.run(state);
        }
        if state.how == How::WithoutBreak {
            return Ok(());
        }
        change.clear();
        self.run(state);
        if gives_up == Some(GivesUp::AfterBreak) {
            return Err(TryAgain);
        }
        if matches!(state.how, How::Properly | How::LeavesMaking | How::BreaksAgain) {
            self.forget(state, &range);
            self.run(state);
            let inside = |held: &&Cached| {
                change.range().contains(va(held.first)) && change.range().contains(va(held.last))
            };
            assert_eq!(state.tlb.iter().find(inside), None, "{change:?} was not broken");
            for &at in state.used.iter().filter(|&&at| change.range().contains(va(at))) {
                let found = self.processor.translate(*self.root.get().unwrap(), at, |_| {});
                assert_eq!(found, None, "{at:#x} does not fault");
            }
        }
        if let Some((broken, make)) = &*self.window.lock().unwrap() {
            broken.send(change.range()).unwrap();
            make.recv().unwrap();
        }
        if gives_up == Some(GivesUp::AfterFlush) {
            return Err(TryAgain);
        }
        state.changes.push(change.kind());
        if state.how != How::LeavesMaking {
            change.write();
            self.run(state);
        }
        if state.how == How::BreaksAgain {
            change.clear();
            return Err(TryAgain);
        }
        Ok(())
    }
}

pub(crate) struct ArmEnv<'a> {
    frames: Frames<&'a TestFrames, &'a TestFrames>,
    readers: Readers,
    pub(crate) machine: Machine<'a>,
    pub(crate) tally: Tally,
}

impl<'a> ArmEnv<'a> {
    pub(crate) fn new(frames: &'a TestFrames, granule: u32) -> Self {
        let machine = Machine::new(frames, granule);
        Self { frames: frames.frames(), readers: Readers::new(), machine, tally: Tally::new() }
    }
}

// SAFETY: the fields are never exchanged, and `TestFrames::frames` bundles what belongs together.
unsafe impl<'a> Env for ArmEnv<'a> {
    type Allocator = &'a TestFrames;
    type Map = &'a TestFrames;
    type Lock = SpinLock;
    type Read = Readers;
    type Events = Tally;

    fn frames(&self) -> &Frames<&'a TestFrames, &'a TestFrames> {
        &self.frames
    }
    fn read_side(&self) -> &Readers {
        &self.readers
    }
    fn events(&self) -> &Tally {
        &self.tally
    }
}

// SAFETY: the field is never exchanged.
unsafe impl<'a> TableEnv for ArmEnv<'a> {
    type Mmu = Machine<'a>;

    fn mmu(&self) -> &Machine<'a> {
        &self.machine
    }
}
