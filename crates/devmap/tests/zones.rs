// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spans of zones and nodes.
#![cfg(not(mmkit_loom))]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mmkit_addr::{Pfn, PfnRange, ZoneId};
use mmkit_devmap::{NodeSpans, Span, SpanError};
use proptest::prelude::*;

fn range(start: u64, frames: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start).unwrap(), frames).unwrap()
}

fn zone(zone: u8) -> ZoneId {
    ZoneId::new(zone).unwrap()
}

/// [A, B) and [C, D) come, [A, B) goes: the spans are as they were.
#[test]
fn scenario_52_a_span_of_device_memory_does_not_shrink() {
    let (spans, device) = (NodeSpans::new(), zone(3));
    assert_eq!((spans.zone(device), spans.node(), spans.zone_and_node(device)), (None, None, None));
    spans.add(zone(1), range(0, 0x100)).unwrap();
    spans.add(device, range(0x1000, 0x1000)).unwrap();
    let first = Span { range: range(0x1000, 0x1000), present: 0x1000 };
    assert_eq!(spans.zone(device), Some(first));
    assert!(first.is_contiguous());
    spans.add(device, range(0x4000, 0x1000)).unwrap();
    let both = Span { range: range(0x1000, 0x4000), present: 0x2000 };
    let node = Span { range: range(0, 0x5000), present: 0x2100 };
    assert_eq!(spans.zone_and_node(device), Some((both, node)));
    assert!(!both.is_contiguous());

    spans.remove(device, range(0x1000, 0x1000)).unwrap();
    let left = Span { present: 0x1000, ..both };
    assert_eq!(spans.zone_and_node(device), Some((left, Span { present: 0x1100, ..node })));
    spans.remove(device, range(0x4000, 0x1000)).unwrap();
    assert_eq!(spans.zone(device), Some(Span { present: 0, ..both }));
    // All of it comes back, and what was between: contiguous.
    spans.add(device, range(0x2000, 0x3000)).unwrap();
    spans.add(device, range(0x1000, 0x1000)).unwrap();
    assert!(spans.zone(device).unwrap().is_contiguous());
    assert_eq!(spans.zone(zone(1)), Some(Span { range: range(0, 0x100), present: 0x100 }));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (spans, device) = (NodeSpans::new(), zone(3));
    spans.add(device, range(0x1000, 0x1000)).unwrap();
    let before = spans.zone_and_node(device);
    let span = spans.zone(device);
    let overlap =
        SpanError::Overlap { range: range(0x1800, 0x1000), span: range(0x1000, 0x1800), present: 0x2000 };
    assert_eq!(spans.add(device, range(0x1800, 0x1000)), Err(overlap));
    // Room in the zone, which has nothing yet, and none in the node.
    assert!(matches!(spans.add(zone(2), range(0x1000, 0x1000)), Err(SpanError::Overlap { .. })));
    assert_eq!(spans.zone(zone(2)), None);
    for range in [range(0x800, 0x1000), range(0x1800, 0x1000), range(0x3000, 1)] {
        assert_eq!(spans.remove(device, range), Err(SpanError::NotThere { range, span }));
    }
    let other = SpanError::NotThere { range: range(0x1000, 1), span: None };
    assert_eq!(spans.remove(zone(2), range(0x1000, 1)), Err(other));
    assert_eq!(spans.add(device, range(0x3000, 0)), Err(SpanError::Empty));
    assert_eq!(spans.zone_and_node(device), before);
    spans.remove(device, range(0x1000, 0x1000)).unwrap();
    assert!(spans.remove(device, range(0x1000, 0x1000)).is_err());
    assert!(overlap.to_string().contains("8192 frames"), "{overlap}");
}

proptest! {
    /// Against a set of frames: what was ever there gives the span, what is there the count.
    #[test]
    fn spans_are_those_of_a_set(ops in prop::collection::vec((any::<bool>(), 0_u8..2, 0_u64..24, 1_u64..6), 1..60)) {
        let spans = NodeSpans::new();
        let mut now = [BTreeSet::new(), BTreeSet::new()];
        let mut ever = now.clone();
        for (add, which, start, frames) in ops {
            let (part, index) = (range(start, frames), usize::from(which));
            let frames: BTreeSet<u64> = (start..start + frames).collect();
            // As a registry would: no frame comes that is there, and none goes that is not.
            let fits = match add {
                true => now.iter().all(|now| now.is_disjoint(&frames)),
                false => now[index].is_superset(&frames),
            };
            if !fits {
                continue;
            }
            if add {
                spans.add(zone(which), part).unwrap();
                now[index].extend(&frames);
                ever[index].extend(&frames);
            } else {
                spans.remove(zone(which), part).unwrap();
                now[index].retain(|frame| !frames.contains(frame));
            }
            let model = |now: &BTreeSet<u64>, ever: &BTreeSet<u64>| {
                let (first, last) = (*ever.first()?, *ever.last()?);
                Some(Span { range: range(first, last + 1 - first), present: now.len() as u64 })
            };
            for which in 0..2 {
                let expected = model(&now[which], &ever[which]);
                prop_assert_eq!(spans.zone(zone(which as u8)), expected);
                let holes = expected.is_some_and(|span| span.range.iter().any(|pfn| !now[which].contains(&pfn.get())));
                prop_assert_eq!(expected.is_some_and(|span| !span.is_contiguous()), holes);
            }
            let all = |sets: &[BTreeSet<u64>; 2]| sets[0].union(&sets[1]).copied().collect();
            prop_assert_eq!(spans.node(), model(&all(&now), &all(&ever)));
        }
    }
}

/// Two threads add to a zone each while a third looks.
#[test]
fn readers_of_growing_spans_see_whole_ones() {
    for _ in 0..20 {
        let (spans, done) = (NodeSpans::new(), AtomicBool::new(false));
        thread::scope(|scope| {
            // Zone 0 grows upwards in pieces of 7 frames, zone 1 downwards in pieces of 5.
            let up = scope
                .spawn(|| (0..2000).for_each(|n| spans.add(zone(0), range(100_000 + 7 * n, 7)).unwrap()));
            let down = scope
                .spawn(|| (1..=2000).for_each(|n| spans.add(zone(1), range(100_000 - 5 * n, 5)).unwrap()));
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for zone in [zone(0), zone(1)] {
                        let Some((span, node)) = spans.zone_and_node(zone) else { continue };
                        assert!(span.is_contiguous() && node.is_contiguous(), "{span:?}, {node:?}");
                        assert!(node.range.contains_range(span.range), "{span:?}, {node:?}");
                    }
                }
            });
            up.join().unwrap();
            down.join().unwrap();
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(spans.node(), Some(Span { range: range(90_000, 24_000), present: 24_000 }));
    }
}
