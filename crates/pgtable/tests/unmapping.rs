// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: what is unmapped, given back, cancelled and leaked, on x86-64 tables.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Geometry, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Error, Leaf, Leaves, Released, Tables, Walk, X86_64};
use mmkit_sync::Counter;

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;
const BASE: u64 = 0xffff_ea00_0000_0000;

fn x86(frames: &TestFrames) -> Tables<X86_64, TestEnv<'_>> {
    tables(frames, Geometry::X86_64)
}

fn mapped(walk: Result<Walk, Error>) -> Leaf {
    match walk.unwrap() {
        Walk::Mapped(leaf) => leaf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unmap_gives_back_after_one_flush() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 3 * PAGE), run(40, RW)).unwrap();
    let batch = tables.unmap(range(BASE, 3 * PAGE)).unwrap();
    assert_eq!(tables.walk(va(BASE)), Ok(Walk::Pending { level: LAST }));
    assert_eq!(tables.map(range(BASE, PAGE), run(1, RW)), Err(Error::Pending { va: va(BASE) }));
    assert_eq!(tables.unmap(range(BASE, PAGE)).unwrap_err(), Error::Pending { va: va(BASE) });
    assert_eq!(tables.table_frames(), 4, "nothing is given back before the flush");
    let released = flush(batch);
    let leaf = |at: u64| {
        let frames = PfnRange::new(pfn(40 + at), 1).unwrap();
        Released::Leaves(Leaves { va: va(BASE + at * PAGE), level: LAST, frames, prot: RW })
    };
    assert_eq!(released, [leaf(0), leaf(1), leaf(2)]);
    assert_eq!(tables.table_frames(), 1);
    assert_accounted(&frames, &tables);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
    assert_eq!(tables.env().tally.get(Counter::Synchronize), 1);
    assert_eq!(*tables.env().mmu.flushed.lock().unwrap(), [vec![range(BASE, 3 * PAGE)]]);
    tables.map(range(BASE, PAGE), run(1, RW)).unwrap();
}

#[test]
fn a_batch_of_many_ranges_flushes_once() {
    let frames = TestFrames::with_frames(256);
    let tables = x86(&frames);
    let mut batch = tables.batch().unwrap();
    // Twenty ranges, most in the same tables, some far apart; neighbours stay mapped.
    for at in 0..20 {
        tables.map(range(BASE + at * (HUGE / 2), 4 * PAGE), run(100 * at, RW)).unwrap();
    }
    tables.map(range(BASE + (3 << 39), HUGE), run(0, RW).at_level(level(1))).unwrap();
    for at in 0..20 {
        batch.unmap(range(BASE + at * (HUGE / 2) + PAGE, 3 * PAGE)).unwrap();
    }
    batch.unmap(range(BASE + (3 << 39), HUGE)).unwrap();
    let released = flush(batch);
    assert_eq!(released.len(), 61);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
    assert_eq!(entries(&tables).len(), 20);
    assert_eq!(tables.table_frames(), 3 + 10);
    assert_accounted(&frames, &tables);
}

#[test]
fn two_batches_in_one_table_leave_none_behind() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 8 * PAGE), run(0, RW)).unwrap();
    let first = tables.unmap(range(BASE, 4 * PAGE)).unwrap();
    let second = tables.unmap(range(BASE + 4 * PAGE, 4 * PAGE)).unwrap();
    assert_eq!(flush(first).len(), 4);
    assert_eq!(tables.table_frames(), 4, "the second batch's entries are in the table");
    assert_eq!(flush(second).len(), 4);
    assert_eq!(tables.table_frames(), 1);
}

#[test]
fn cancel_puts_everything_back() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 8 * PAGE), run(0, RW)).unwrap();
    let before = entries(&tables);
    let mut batch = tables.unmap(range(BASE, 2 * PAGE)).unwrap();
    batch.unmap(range(BASE + 4 * PAGE, PAGE)).unwrap();
    assert_eq!(
        batch.unmap(range(BASE + 7 * PAGE, 2 * PAGE)),
        Err(Error::NotMapped { va: va(BASE + 8 * PAGE) })
    );
    batch.cancel();
    assert_eq!(entries(&tables), before);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 0);
}

#[test]
fn unmap_refuses_holes_and_parts() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, HUGE), run(0, RW).at_level(level(1))).unwrap();
    tables.map(range(BASE + HUGE, PAGE), run(0, RW)).unwrap();
    let before = entries(&tables);
    let part = tables.unmap(range(BASE, PAGE)).unwrap_err();
    assert_eq!(part, Error::Partial { va: va(BASE), level: level(1) });
    let hole = tables.unmap(range(BASE, HUGE + 2 * PAGE)).unwrap_err();
    assert_eq!(hole, Error::NotMapped { va: va(BASE + HUGE + PAGE) });
    assert_eq!(entries(&tables), before);
    // The tags of the refused batches were given back.
    for _ in 0..300 {
        assert!(tables.unmap(range(0, PAGE)).is_err());
    }
}

#[test]
fn zap_takes_what_is_there() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    // A huge leaf, a hole, pages on both sides of a table's end, and neighbours that stay.
    tables.map(range(BASE, HUGE), run(512, RW).at_level(level(1))).unwrap();
    tables.map(range(BASE + 2 * HUGE - 3 * PAGE, 6 * PAGE), run(10, RW)).unwrap();
    tables.map(range(BASE + 3 * HUGE - PAGE, PAGE), run(77, RW)).unwrap();
    let mut batch = tables.batch().unwrap();
    let cut = Error::Partial { va: va(BASE + PAGE), level: level(1) };
    assert_eq!(batch.zap(range(BASE + PAGE, HUGE)), Err(cut));
    batch.zap(range(BASE, 3 * HUGE - PAGE)).unwrap();
    assert_eq!(tables.walk(va(BASE)), Ok(Walk::Pending { level: level(1) }));
    // The table between was emptied by the batch alone, so it goes as a whole; the one behind it has a neighbour.
    assert_eq!(tables.walk(va(BASE + 2 * HUGE - PAGE)), Ok(Walk::Pending { level: level(1) }));
    assert_eq!(tables.walk(va(BASE + 2 * HUGE)), Ok(Walk::Pending { level: LAST }));
    assert_eq!(mapped(tables.walk(va(BASE + 3 * HUGE - PAGE))).pfn, pfn(77));
    let hole = range(BASE + HUGE, PAGE);
    assert_eq!(tables.map(hole, run(0, RW)), Err(Error::Pending { va: va(BASE + HUGE) }));
    // Somebody else's zap of the same range finds nothing more.
    let mut other = tables.batch().unwrap();
    other.zap(range(BASE, 3 * HUGE - PAGE)).unwrap();
    assert_eq!(flush_runs(other), []);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 0, "nothing was mapped, so nothing is cached");
    let leaves = |at, level, first, count| {
        let frames = PfnRange::new(pfn(first), count).unwrap();
        Released::Leaves(Leaves { va: va(at), level, frames, prot: RW })
    };
    let back = flush_runs(batch);
    // The six pages come as one, although they are in two tables.
    let six = leaves(BASE + 2 * HUGE - 3 * PAGE, LAST, 10, 6);
    assert_eq!(back, [leaves(BASE, level(1), 512, 512), six]);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
    assert_eq!(entries(&tables).len(), 1);
    assert_eq!(tables.table_frames(), 4);
    tables.map(hole, run(0, RW)).unwrap();
    assert_accounted(&frames, &tables);
}

#[test]
fn a_cancelled_zap_leaves_everything_as_it_was() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 700 * PAGE), run(0, RW)).unwrap();
    tables.map(range(BASE + 2 * HUGE, HUGE), run(512, RO).at_level(level(1))).unwrap();
    let first = tables.unmap(range(BASE + 5 * PAGE, PAGE)).unwrap();
    let (before, out) = (entries(&tables), frames.snapshot());
    let mut batch = tables.batch().unwrap();
    batch.zap(range(BASE, 512 * HUGE)).unwrap();
    assert_ne!(entries(&tables), before);
    batch.cancel();
    assert_eq!(entries(&tables), before);
    first.cancel();
    let mut whole = tables.batch().unwrap();
    whole.zap(range(BASE, 512 * HUGE)).unwrap();
    assert_eq!(frames.snapshot(), out);
    assert_eq!(flush(whole).len(), 701);
    assert_eq!(tables.table_frames(), 1);
}

#[test]
fn what_is_released_is_told_in_runs() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    // More runs than are collected at once, in one table and over three.
    for nth in 0..100 {
        tables.map(range(BASE + nth * 8 * PAGE, 8 * PAGE), run(nth * 16, RW)).unwrap();
    }
    tables.map(range(BASE + 800 * PAGE, 600 * PAGE), run(1 << 20, RW)).unwrap();
    tables.map(range(BASE + 1400 * PAGE, 10 * PAGE), repeat(5)).unwrap();
    let all = range(BASE, 1410 * PAGE);
    let mut seen = Vec::new();
    tables.read().leaves(all, |leaves| seen.push(Released::Leaves(leaves))).unwrap();
    let back = flush_runs(tables.unmap(all).unwrap());
    assert_eq!(back, seen);
    let lengths: Vec<_> = back
        .iter()
        .map(|item| match item {
            Released::Leaves(leaves) => leaves.frames.frames(),
            Released::Shared { .. } => panic!("nothing is shared"),
        })
        .collect();
    let mut expected = vec![8; 100];
    expected.push(600);
    expected.extend([1; 10]);
    assert_eq!(lengths, expected);
    assert_eq!(tables.table_frames(), 1);
}

#[test]
fn a_dropped_batch_leaks_and_does_not_free() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 300 * PAGE), run(0, RW)).unwrap();
    for at in 0..255 {
        let _leaked = tables.unmap(range(BASE + at * PAGE, PAGE)).unwrap();
    }
    assert_eq!(tables.unmap(range(BASE + 255 * PAGE, PAGE)).unwrap_err(), Error::TooManyBatches);
    assert_eq!(entries(&tables).len(), 300);
    assert_eq!(tables.walk(va(BASE)), Ok(Walk::Pending { level: LAST }));
    drop(tables);
    frames.assert_no_leaks();
}
