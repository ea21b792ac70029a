// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers of spans against those who change them.
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Pfn, PfnRange, ZoneId};
use mmkit_devmap::models::{Spans, add_span};
use mmkit_devmap::{NodeSpans, Span};
use mmkit_sync::mutant::must_fail;

fn range(start: u64, frames: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start).unwrap(), frames).unwrap()
}

fn zone() -> ZoneId {
    ZoneId::new(3).unwrap()
}

/// What the zone may be: before, and after.
const BEFORE: (u64, u64, u64) = (8, 4, 4);
const AFTER: (u64, u64, u64) = (2, 10, 8);

fn is(span: Span, (start, frames, present): (u64, u64, u64)) -> bool {
    span == Span { range: range(start, frames), present }
}

fn grow(spans: &NodeSpans) {
    spans.add(zone(), range(2, 4)).unwrap();
}

/// The zone and the node, which is the same here: both as before, or both as after.
fn look(spans: &NodeSpans) {
    let (of_zone, of_node) = spans.zone_and_node(zone()).unwrap();
    assert_eq!(of_zone, of_node, "the zone and the node of different moments");
    assert!(is(of_zone, BEFORE) || is(of_zone, AFTER), "{of_zone:?} is a half of a change");
}

fn new() -> Arc<NodeSpans> {
    let spans = NodeSpans::new();
    spans.add(zone(), range(8, 4)).unwrap();
    Arc::new(spans)
}

/// Runs `first` beside `second`, and both ways round: a spawned thread does not overtake in all ways that there are.
fn beside(first: fn(&NodeSpans), second: fn(&NodeSpans), check: fn(&NodeSpans)) {
    for swap in [false, true] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let (first, second) = if swap { (second, first) } else { (first, second) };
            let spans = new();
            let other = Arc::clone(&spans);
            let thread = thread::spawn(move || second(&other));
            first(&spans);
            thread.join().unwrap();
            check(&spans);
        });
    }
}

fn reader_and_grower() {
    beside(grow, look, |spans| assert!(is(spans.zone(zone()).unwrap(), AFTER)));
}

#[test]
fn a_reader_sees_all_of_a_growth_or_nothing_2_threads_3_preemptions() {
    reader_and_grower();
}

#[test]
fn torn_reads_are_caught_2_threads_3_preemptions() {
    must_fail("spans-read-torn", reader_and_grower);
    must_fail("spans-no-writer", reader_and_grower);
    must_fail("seq-no-acquire-fence", reader_and_grower);
    must_fail("seq-relaxed-end", reader_and_grower);
}

/// Two that change a node at once: both changes are there at the end.
fn two_growers() {
    let other = |spans: &NodeSpans| spans.add(zone(), range(16, 2)).unwrap();
    beside(grow, other, |spans| assert!(is(spans.zone(zone()).unwrap(), (2, 16, 10))));
}

#[test]
fn no_growth_is_lost_2_threads_3_preemptions() {
    two_growers();
}

#[test]
fn lost_growths_are_caught_2_threads_3_preemptions() {
    must_fail("spans-no-writer", two_growers);
    must_fail("seq-writers-together", two_growers);
}

/// Two devices of a node that had none: its spans are made once, and have both.
fn node_list() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let spans = Arc::new(Spans::new());
        let other = Arc::clone(&spans);
        let thread = thread::spawn(move || add_span(&other, range(8, 4)));
        add_span(&spans, range(2, 4));
        thread.join().unwrap();
        assert!(is(spans.node().unwrap(), AFTER));
    });
}

#[test]
fn a_nodes_spans_are_made_once_2_threads_3_preemptions() {
    node_list();
}

#[test]
fn spans_that_are_made_twice_are_caught() {
    must_fail("spans-list-no-recheck", node_list);
}
