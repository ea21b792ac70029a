// SPDX-License-Identifier: MIT OR Apache-2.0
//! An environment that records and fails on demand, over the test allocator.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod arm;
pub(crate) mod breaking;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::{Geometry, Level, NodeId, Order, Pfn, PfnRange, VirtAddr, VirtRange};
use mmkit_frame::Env;
use mmkit_frame::Frames;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{
    Backing, Batch, Change, Entry, Leaves, Mapping, Mmu, Prot, Released, TableEnv, Tables, TryAgain, Visited,
};
use mmkit_sync::{Readers, SpinLock, Tally};

pub(crate) const RW: Prot = Prot::WRITE;
pub(crate) const RO: Prot = Prot::READ;
pub(crate) const LAST: Level = Level::LAST;
pub(crate) const NODE: NodeId = NodeId::ZERO;

/// A machine that counts flushes, and fails replacements on demand.
#[derive(Default)]
pub(crate) struct TestMmu {
    pub(crate) flushed: Mutex<Vec<Vec<VirtRange>>>,
    /// Replacements left until one fails; 0: none does.
    pub(crate) fail_in: AtomicU64,
    /// 0: plain; 1: break before make; 2: break, then give up.
    pub(crate) mode: AtomicU64,
}

impl Mmu for TestMmu {
    fn flush(&self, ranges: &[VirtRange]) {
        self.flushed.lock().unwrap().push(ranges.to_vec());
    }

    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        match self.mode.load(Ordering::Relaxed) {
            1 => {
                change.clear();
                self.flush(&[change.range()]);
                change.write();
                return Ok(());
            }
            2 => {
                change.clear();
                return Err(TryAgain);
            }
            _ => {}
        }
        let left = self.fail_in.load(Ordering::Relaxed);
        self.fail_in.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 { Err(TryAgain) } else { Ok(()) }
    }
}

pub(crate) struct TestEnv<'a> {
    frames: Frames<&'a TestFrames, &'a TestFrames>,
    readers: Readers,
    pub(crate) mmu: TestMmu,
    pub(crate) tally: Tally,
}

impl<'a> TestEnv<'a> {
    pub(crate) fn new(frames: &'a TestFrames) -> Self {
        Self {
            frames: frames.frames(),
            readers: Readers::new(),
            mmu: TestMmu::default(),
            tally: Tally::new(),
        }
    }
}

// SAFETY: the fields are never exchanged, and `TestFrames::frames` bundles what belongs together.
unsafe impl<'a> Env for TestEnv<'a> {
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
unsafe impl TableEnv for TestEnv<'_> {
    type Mmu = TestMmu;

    fn mmu(&self) -> &TestMmu {
        &self.mmu
    }
}

pub(crate) fn tables<E: Entry>(frames: &TestFrames, geometry: Geometry) -> Tables<E, TestEnv<'_>> {
    Tables::new(TestEnv::new(frames), geometry, NODE).unwrap()
}

pub(crate) fn va(addr: u64) -> VirtAddr {
    VirtAddr::new(addr)
}

pub(crate) fn range(start: u64, bytes: u64) -> VirtRange {
    VirtRange::new(va(start), bytes).unwrap()
}

pub(crate) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

pub(crate) fn level(number: u8) -> Level {
    Level::new(number).unwrap()
}

pub(crate) fn run(start: u64, prot: Prot) -> Mapping {
    Mapping::new(Backing::Run(pfn(start)), prot)
}

pub(crate) fn repeat(frame: u64) -> Mapping {
    Mapping::new(Backing::Repeat(pfn(frame)), RO)
}

/// Flushes, and returns what came back, in order: each leaf by itself.
pub(crate) fn flush<E: Entry, V: TableEnv>(batch: Batch<'_, E, V>) -> Vec<Released> {
    let geometry = *batch.tables().geometry();
    let mut single = Vec::new();
    for item in flush_runs(batch) {
        let Released::Leaves(leaves) = item else {
            single.push(item);
            continue;
        };
        let shift = geometry.table(leaves.level).unwrap().entry_shift();
        let order = Order::new((shift - geometry.base_shift()) as u8).unwrap();
        let mut at = leaves.va.get();
        for first in (leaves.frames.start().get()..leaves.frames.end()).step_by(order.frames() as usize) {
            let frames = PfnRange::block(pfn(first), order);
            single.push(Released::Leaves(Leaves { va: va(at), frames, ..leaves }));
            at = at.wrapping_add(1 << shift);
        }
    }
    single
}

/// Flushes, and returns what came back, in order.
pub(crate) fn flush_runs<E: Entry, V: TableEnv>(batch: Batch<'_, E, V>) -> Vec<Released> {
    let mut released = Vec::new();
    batch.flush(|item| released.push(item)).expect("no reader is open");
    released
}

/// Every entry, as a walker sees it.
pub(crate) fn entries<E: Entry, V: TableEnv>(tables: &Tables<E, V>) -> Vec<Visited> {
    let mut all = Vec::new();
    tables.read().visit_all(|entry| all.push(entry));
    all
}

/// Frames that the allocator says are out: they are all tables here.
pub(crate) fn assert_accounted<E: Entry>(frames: &TestFrames, tables: &Tables<E, TestEnv<'_>>) {
    assert_eq!(tables.table_frames(), frames.outstanding());
}
