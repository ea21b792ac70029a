// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs on the test allocator against a model that counts on its fingers.
#![cfg(not(mmkit_loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{NodeId, Order, Pfn, ZoneId};
use mmkit_frame::test_util::{TestConfig, TestFrames, Violation, ViolationKind};
use mmkit_frame::{FrameAllocator, Request};
use proptest::prelude::*;

/// First frame, frames, node, zone: ragged, with holes, and not in the order in which they are searched.
const RANGES: [(u64, u64, u16, u8); 4] =
    [(1 << 40, 48, 1, 0), (5, 59, 0, 0), (0x1000, 37, 0, 1), (64, 8, 1, 1)];

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        order: u8,
        node: u16,
        strict: bool,
        zone: Option<u8>,
        zeroed: bool,
    },
    /// Frees the block that is out at this position of the list.
    Free(usize),
    Split(usize, u8),
    /// Frees any frames at all.
    Wild {
        range: usize,
        offset: u64,
        order: u8,
    },
    /// Splits any frames at all.
    WildSplit {
        range: usize,
        offset: u64,
        from: u8,
        to: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let zone = proptest::option::weighted(0.3, 0..3u8);
    let wild = (0..RANGES.len(), 0..64u64, 0..4u8);
    prop_oneof![
        6 => (0..6u8, 0..3u16, any::<bool>(), zone, any::<bool>())
            .prop_map(|(order, node, strict, zone, zeroed)| Step::Allocate { order, node, strict, zone, zeroed }),
        4 => any::<usize>().prop_map(Step::Free),
        2 => (any::<usize>(), 0..6u8).prop_map(|(index, to)| Step::Split(index, to)),
        2 => wild.clone().prop_map(|(range, offset, order)| Step::Wild { range, offset, order }),
        1 => (wild, 0..4u8)
            .prop_map(|((range, offset, from), to)| Step::WildSplit { range, offset, from, to }),
    ]
}

#[derive(Default)]
struct Model {
    /// First frame to order and stamp.
    out: BTreeMap<u64, (u8, u64)>,
    ever: BTreeSet<u64>,
}

impl Model {
    fn holder(&self, pfn: u64) -> Option<(u64, u8)> {
        let held = |(&start, &(order, _)): (&u64, &(u8, u64))| {
            (start..start + (1 << order)).contains(&pfn).then_some((start, order))
        };
        self.out.iter().find_map(held)
    }

    /// Where a request must be satisfied: every aligned place is tried, ranges in the documented order.
    fn place(&self, order: u8, node: u16, strict: bool, zone: Option<u8>) -> Option<u64> {
        let mut ranges: Vec<_> =
            RANGES.iter().filter(|range| zone.is_none_or(|zone| zone == range.3)).collect();
        ranges.sort_by_key(|range| (range.2 != node, range.2, range.0));
        ranges.retain(|range| !strict || range.2 == node);
        let places = ranges.iter().flat_map(|range| (range.0..range.0 + range.1).map(move |at| (at, range)));
        places
            .filter(|(at, range)| at % (1 << order) == 0 && at + (1 << order) <= range.0 + range.1)
            .map(|(at, _)| at)
            .find(|&at| (at..at + (1 << order)).all(|pfn| self.holder(pfn).is_none()))
    }

    /// What a free breaks, if anything.
    fn breach(&self, pfn: u64, order: u8) -> Option<ViolationKind> {
        if self.out.get(&pfn).is_some_and(|block| block.0 == order) {
            return None;
        }
        // The holder of the first frame, else the last block that begins inside.
        let other =
            self.holder(pfn).or_else(|| (pfn..pfn + (1 << order)).rev().find_map(|at| self.holder(at)));
        Some(match other {
            Some((start, order)) => ViolationKind::WrongOrder {
                owned_pfn: Pfn::new(start).unwrap(),
                owned_order: Order::new(order).unwrap(),
            },
            None if self.ever.contains(&pfn) => ViolationKind::DoubleFree,
            None => ViolationKind::NeverAllocated,
        })
    }
}

/// The words of a frame; this test has one thread.
fn words(t: &TestFrames, pfn: u64) -> &[core::sync::atomic::AtomicU64] {
    let start = mmkit_frame::DirectMap::frame(t, Pfn::new(pfn).unwrap()).unwrap();
    // SAFETY: a frame of 512 aligned, initialised words that lives as long as `t`; one thread, atomics only.
    unsafe { core::slice::from_raw_parts(start.cast().as_ptr(), 512) }
}

fn run(steps: &[Step]) {
    let config = RANGES.iter().fold(TestConfig::new(), |c, &(s, f, n, z)| c.range_of(s, f, n, z));
    let t = TestFrames::new(config);
    let mut model = Model::default();
    let order = |k| Order::new(k).unwrap();
    let pfn = |pfn| Pfn::new(pfn).unwrap();
    for (number, step) in steps.iter().enumerate() {
        let mut expected = None;
        match *step {
            Step::Allocate { order: k, node, strict, zone, zeroed } => {
                let mut request = Request::new(order(k)).on_node(NodeId::new(node).unwrap());
                request.strict = strict;
                request.zone = zone.map(|zone| ZoneId::new(zone).unwrap());
                request.zeroed = zeroed;
                let place = model.place(k, node, strict, zone);
                assert_eq!(t.allocate(request).ok().map(Pfn::get), place);
                if let Some(at) = place {
                    let stamp = number as u64 + 1;
                    for frame in at..at + (1 << k) {
                        let words = words(&t, frame);
                        assert!(!zeroed || words.iter().all(|word| word.load(Relaxed) == 0));
                        words[frame as usize % 512].store(stamp, Relaxed);
                        model.ever.insert(frame);
                    }
                    model.out.insert(at, (k, stamp));
                }
            }
            Step::Free(index) => {
                let Some((&at, &(k, stamp))) = model.out.iter().nth(index % model.out.len().max(1)) else {
                    continue;
                };
                for frame in at..at + (1 << k) {
                    assert_eq!(words(&t, frame)[frame as usize % 512].load(Relaxed), stamp, "kept while out");
                }
                model.out.remove(&at);
                // SAFETY: the model says that the block is out, and nothing uses it.
                unsafe { t.deallocate(pfn(at), order(k)) };
            }
            Step::Split(index, to) => {
                let Some((&at, &(k, stamp))) = model.out.iter().nth(index % model.out.len().max(1)) else {
                    continue;
                };
                if to <= k {
                    model.out.extend((0..1 << (k - to)).map(|part| (at + (part << to), (to, stamp))));
                } else {
                    expected = Some((at, k, ViolationKind::SplitUpwards { to: order(to) }));
                }
                // SAFETY: the block is out; a wrong order is refused.
                unsafe { t.split(pfn(at), order(k), order(to)) };
            }
            Step::Wild { range, offset, order: k } => {
                let at = RANGES[range].0 + offset;
                match model.breach(at, k) {
                    Some(kind) => expected = Some((at, k, kind)),
                    None => drop(model.out.remove(&at)),
                }
                // SAFETY: nothing uses the frames; what is wrong with it is refused.
                unsafe { t.deallocate(pfn(at), order(k)) };
            }
            Step::WildSplit { range, offset, from, to } => {
                let at = RANGES[range].0 + offset;
                match model.out.get(&at).copied() {
                    _ if to > from => {
                        expected = Some((at, from, ViolationKind::SplitUpwards { to: order(to) }))
                    }
                    Some((k, stamp)) if k == from => {
                        model.out.extend((0..1 << (k - to)).map(|part| (at + (part << to), (to, stamp))));
                    }
                    _ => expected = Some((at, from, ViolationKind::SplitNotOwned)),
                }
                // SAFETY: a split touches no memory; what is wrong with it is refused.
                unsafe { t.split(pfn(at), order(from), order(to)) };
            }
        }
        let expected: Vec<_> = expected
            .map(|(at, k, kind)| Violation { pfn: pfn(at), order: order(k), kind })
            .into_iter()
            .collect();
        assert_eq!(t.take_violations(), expected, "step {number}: {step:?}");
        let out: Vec<_> = model.out.iter().map(|(&at, &(k, _))| (pfn(at), order(k))).collect();
        assert_eq!(t.snapshot().blocks().collect::<Vec<_>>(), out, "step {number}: {step:?}");
        assert_eq!(t.outstanding(), model.out.values().map(|&(k, _)| 1 << k).sum::<u64>());
    }
    for (&at, &(k, _)) in &model.out {
        // SAFETY: the model says that the block is out, and nothing uses it.
        unsafe { t.deallocate(pfn(at), order(k)) };
    }
    t.assert_no_leaks();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(96), ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_the_model_says(steps in proptest::collection::vec(step(), 1..80)) {
        run(&steps);
    }
}
