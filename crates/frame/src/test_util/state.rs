// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books of the test allocator: what is free, what is out, what went wrong.

use std::collections::BTreeMap;
use std::vec::Vec;

use mmkit_addr::{NodeId, Order, Pfn};

use super::faults::Faults;
use super::frames::fill_byte;
use super::intervals::Intervals;
use super::{TestRange, Violation, ViolationKind};
use crate::Request;

/// The free frames of one configured range.
#[derive(Debug)]
struct Region {
    range: TestRange,
    free: Intervals,
}

/// A block that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) order: Order,
    pub(super) request: Request,
    pub(super) call: u64,
    region: usize,
}

/// Counters of a [`TestFrames`](super::TestFrames).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls of `allocate`, failed ones included; a bulk call counts each of its blocks.
    pub calls: u64,
    /// Calls of `allocate` that failed, for whatever reason.
    pub failed: u64,
    /// Calls of `allocate` that failed because the plan said so (among `failed`).
    pub injected: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Blocks split.
    pub splits: u64,
    /// Frames out now.
    pub frames_out: u64,
    /// The most frames that were ever out at once.
    pub peak_frames: u64,
    /// Frames that have memory because somebody asked for their pointer.
    pub backed_frames: u64,
}

/// Everything behind the allocator's lock.
#[derive(Debug)]
pub(super) struct State {
    regions: Vec<Region>,
    pub(super) owned: BTreeMap<Pfn, Block>,
    /// Frames handed out at least once.
    seen: Intervals,
    node_out: BTreeMap<NodeId, u64>,
    pub(super) faults: Faults,
    pub(super) stats: Stats,
    pub(super) violations: Vec<Violation>,
}

impl State {
    pub(super) fn new(mut ranges: Vec<TestRange>) -> Self {
        ranges.sort_by_key(|range| (range.node, range.pfns.start()));
        let regions = ranges.into_iter().map(|range| {
            let mut free = Intervals::default();
            free.insert(range.pfns.start().get(), range.pfns.end());
            Region { range, free }
        });
        Self {
            regions: regions.collect(),
            owned: BTreeMap::new(),
            seen: Intervals::default(),
            node_out: BTreeMap::new(),
            faults: Faults::default(),
            stats: Stats::default(),
            violations: Vec::new(),
        }
    }

    pub(super) fn range_of(&self, pfn: Pfn) -> Option<TestRange> {
        self.regions.iter().map(|region| region.range).find(|range| range.pfns.contains(pfn))
    }

    /// Takes a block, or says that there is none.
    pub(super) fn take(&mut self, request: Request) -> Option<Pfn> {
        self.stats.calls += 1;
        let planned =
            self.faults.strikes() || !self.faults.allows(self.stats.frames_out + request.order.frames());
        let found = if planned { Err(true) } else { self.find(request) };
        match found {
            Ok((region, pfn)) => {
                self.hand_out(request, region, pfn);
                Some(pfn)
            }
            Err(planned) => {
                self.stats.failed += 1;
                self.faults.injected += u64::from(planned);
                None
            }
        }
    }

    /// The lowest fitting block of the preferred node, then of the others by number. The error says whether a node's
    /// budget stood in the way.
    fn find(&self, request: Request) -> Result<(usize, Pfn), bool> {
        let mut planned = false;
        let fits = |(index, region): (usize, &Region), planned: &mut bool| {
            let pfn = region.free.first_fit(request.order).and_then(Pfn::new)?;
            let node = region.range.node;
            if self.faults.allows_on(node, self.frames_out_on(node) + request.order.frames()) {
                return Some((index, pfn));
            }
            *planned = true;
            None
        };
        let in_zone = |region: &Region| request.zone.is_none_or(|zone| zone == region.range.zone);
        let candidates = || self.regions.iter().enumerate().filter(|(_, region)| in_zone(region));
        let mut preferred = candidates().filter(|(_, region)| region.range.node == request.node);
        if let Some(found) = preferred.find_map(|region| fits(region, &mut planned)) {
            return Ok(found);
        }
        if !request.strict {
            let mut others = candidates().filter(|(_, region)| region.range.node != request.node);
            if let Some(found) = others.find_map(|region| fits(region, &mut planned)) {
                return Ok(found);
            }
        }
        Err(planned)
    }

    fn hand_out(&mut self, request: Request, index: usize, pfn: Pfn) {
        let (order, start) = (request.order, pfn.get());
        let region = &mut self.regions[index];
        region.free.remove(start, start + order.frames());
        *self.node_out.entry(region.range.node).or_default() += order.frames();
        self.seen.insert(start, start + order.frames());
        self.owned.insert(pfn, Block { order, request, call: self.stats.calls, region: index });
        self.stats.frames_out += order.frames();
        self.stats.peak_frames = self.stats.peak_frames.max(self.stats.frames_out);
    }

    /// Puts a block back, or says what is wrong with that.
    pub(super) fn give_back(&mut self, pfn: Pfn, order: Order) -> Result<(), Violation> {
        let block = match self.owned.get(&pfn) {
            Some(block) if block.order == order => *block,
            _ => return Err(Violation { pfn, order, kind: self.why_not_freeable(pfn, order) }),
        };
        self.owned.remove(&pfn);
        let region = &mut self.regions[block.region];
        region.free.insert(pfn.get(), pfn.get() + order.frames());
        if let Some(out) = self.node_out.get_mut(&region.range.node) {
            *out -= order.frames();
        }
        self.stats.frames_out -= order.frames();
        self.stats.frees += 1;
        Ok(())
    }

    fn why_not_freeable(&self, pfn: Pfn, order: Order) -> ViolationKind {
        match self.overlapping(pfn, order) {
            Some((owned_pfn, owned_order)) => ViolationKind::WrongOrder { owned_pfn, owned_order },
            None if self.seen.contains(pfn.get()) => ViolationKind::DoubleFree,
            None => ViolationKind::NeverAllocated,
        }
    }

    /// The block that holds `pfn`, else any that meets the block `(pfn, order)`.
    fn overlapping(&self, pfn: Pfn, order: Order) -> Option<(Pfn, Order)> {
        let below = |end: u64| {
            let (&start, block) = self.owned.range(..Pfn::new(end).unwrap_or(Pfn::MAX)).next_back()?;
            (start.get() + block.order.frames() > pfn.get()).then_some((start, block.order))
        };
        below(pfn.get() + 1).or_else(|| below(pfn.get() + order.frames()))
    }

    /// Splits a block, or says what is wrong with that.
    pub(super) fn split(&mut self, pfn: Pfn, from: Order, to: Order) -> Result<(), Violation> {
        let block = match self.owned.get(&pfn) {
            _ if to > from => {
                return Err(Violation { pfn, order: from, kind: ViolationKind::SplitUpwards { to } });
            }
            Some(block) if block.order == from => Block { order: to, ..*block },
            _ => return Err(Violation { pfn, order: from, kind: ViolationKind::SplitNotOwned }),
        };
        let parts = (0..from.frames()).step_by(1 << to.get()).filter_map(|offset| pfn.checked_add(offset));
        self.owned.extend(parts.map(|part| (part, block)));
        self.stats.splits += 1;
        Ok(())
    }

    /// Per block its order and the byte that it was filled with.
    pub(super) fn filled(&self) -> BTreeMap<Pfn, (Order, u8)> {
        self.owned.iter().map(|(&pfn, block)| (pfn, (block.order, fill_byte(block.request)))).collect()
    }

    pub(super) fn frames_out_on(&self, node: NodeId) -> u64 {
        self.node_out.get(&node).copied().unwrap_or(0)
    }

    /// The block that holds `pfn`.
    pub(super) fn owner(&self, pfn: Pfn) -> Option<Block> {
        let (start, block) = self.owned.range(..=pfn).next_back()?;
        (pfn.get() < start.get() + block.order.frames()).then_some(*block)
    }
}
