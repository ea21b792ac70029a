// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that a test allocator pretends to be.

use std::vec::Vec;

use mmkit_addr::{NodeId, Pfn, PfnRange, ZoneId};

/// Frames `pfns` of one node and zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRange {
    /// The frames.
    pub pfns: PfnRange,
    /// Their node.
    pub node: NodeId,
    /// Their zone.
    pub zone: ZoneId,
}

/// Base page size and frames of a [`TestFrames`](super::TestFrames).
///
/// Ranges cost nothing until their frames are used, so frame numbers may be as far apart as a test likes.
#[derive(Clone, Debug)]
pub struct TestConfig {
    pub(super) base_shift: u32,
    pub(super) ranges: Vec<TestRange>,
    pub(super) panic_at_once: bool,
}

impl TestConfig {
    /// A machine of 4 KiB pages and no frames.
    #[must_use]
    pub const fn new() -> Self {
        Self { base_shift: 12, ranges: Vec::new(), panic_at_once: false }
    }

    /// The same machine with frames of `1 << shift` bytes.
    ///
    /// # Panics
    ///
    /// Unless `shift` is 12, 14 or 16.
    #[must_use]
    pub fn base_shift(mut self, shift: u32) -> Self {
        assert!(matches!(shift, 12 | 14 | 16), "base shift {shift} is none of 12, 14, 16");
        self.base_shift = shift;
        self
    }

    /// The same machine with `frames` more frames from frame number `start`, on node 0 in zone 0.
    ///
    /// # Panics
    ///
    /// As [`range_of`](Self::range_of).
    #[must_use]
    pub fn range(self, start: u64, frames: u64) -> Self {
        self.range_of(start, frames, 0, 0)
    }

    /// The same machine with `frames` more frames from frame number `start`, on `node` in `zone`.
    ///
    /// # Panics
    ///
    /// Where the range is empty, passes [`Pfn::MAX`], overlaps another one, or node or zone are out of bounds.
    #[must_use]
    pub fn range_of(mut self, start: u64, frames: u64, node: u16, zone: u8) -> Self {
        let pfns = Pfn::new(start).and_then(|start| PfnRange::new(start, frames));
        let pfns =
            pfns.unwrap_or_else(|| panic!("{frames:#x} frames from {start:#x} pass the last frame number"));
        assert!(frames > 0, "an empty range at {pfns:?}");
        for other in &self.ranges {
            let apart = pfns.end() <= other.pfns.start().get() || other.pfns.end() <= start;
            assert!(apart, "{pfns:?} overlaps {:?}", other.pfns);
        }
        let node = NodeId::new(node).unwrap_or_else(|| panic!("no such node: {node}"));
        let zone = ZoneId::new(zone).unwrap_or_else(|| panic!("no such zone: {zone}"));
        self.ranges.push(TestRange { pfns, node, zone });
        self
    }

    /// The same machine, panicking inside the call that breaks a promise instead of recording it: for a backtrace of
    /// the culprit. (The default only records, because frames are often given back by destructors.)
    #[must_use]
    pub const fn panic_at_once(mut self) -> Self {
        self.panic_at_once = true;
        self
    }
}

impl Default for TestConfig {
    fn default() -> Self {
        Self::new()
    }
}
