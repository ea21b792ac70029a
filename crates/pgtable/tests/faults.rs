// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation of every operation fails once, and nothing shows it.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::Geometry;
use mmkit_frame::test_util::{Contents, Snapshot, TestFrames};
use mmkit_pgtable::{Backing, Error, Share, Tables, Visited, X86_64};

const PAGE: u64 = 4096;
const SPAN: u64 = 2 << 20;
const BASE: u64 = 0xffff_ea00_0000_0000;

type Digest = (Snapshot, Contents, Vec<Visited>, [u64; 4], u64, u32);

/// Everything that a failure must leave alone: what is out, every byte of it, every entry, every count.
fn digest(frames: &TestFrames, tables: &Tables<X86_64, TestEnv<'_>>, share: Share) -> Digest {
    // SAFETY: one thread, which is here.
    let contents = unsafe { frames.contents() };
    let counts = [0, 1, 2, 3].map(|at| tables.tables_at(level(at)));
    let attachments = tables.attachments(share).unwrap();
    (frames.snapshot(), contents, entries(tables), counts, tables.table_frames(), attachments)
}

/// Fails the k-th allocation of `operation` for every k; returns how many there are. `undo` runs after a success.
fn sweep(
    operation: impl Fn(&Tables<X86_64, TestEnv<'_>>, Share) -> Result<(), Error>,
    undo: impl Fn(&Tables<X86_64, TestEnv<'_>>),
) -> u64 {
    let frames = TestFrames::with_frames(256);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64);
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.map(range(BASE + 4 * PAGE, PAGE), run(1, RW)).unwrap();
    tables.map(range(BASE + 20 * SPAN, SPAN), run(512, RW).at_level(level(1))).unwrap();
    tables.attach(range(BASE + 30 * SPAN, 2 * SPAN), share, NODE).unwrap();
    let before = digest(&frames, &tables, share);
    let sweep = frames.for_each_failure(|_| {
        match operation(&tables, share) {
            Ok(()) => undo(&tables),
            Err(error) => {
                assert!(matches!(error, Error::Alloc(_)), "{error}");
                let after = digest(&frames, &tables, share);
                assert_eq!(before.1.changed(&after.1), []);
                assert_eq!(before, after);
                return Err(error);
            }
        }
        Ok::<_, Error>(())
    });
    assert_eq!(sweep.survived, 0);
    // Unmapping needs no memory at all.
    frames.set_budget(0);
    for (start, bytes) in [(4 * PAGE, PAGE), (20 * SPAN, SPAN), (30 * SPAN, 2 * SPAN)] {
        flush(tables.unmap(range(BASE + start, bytes)).unwrap());
    }
    drop(tables);
    frames.assert_no_leaks();
    sweep.refused
}

fn unmap(start: u64, bytes: u64) -> impl Fn(&Tables<X86_64, TestEnv<'_>>) {
    move |tables| {
        flush(tables.unmap(range(start, bytes)).unwrap());
    }
}

#[test]
fn map_in_existing_tables() {
    let all = sweep(|tables, _| tables.map(range(BASE, 4 * PAGE), run(2, RW)), unmap(BASE, 4 * PAGE));
    assert_eq!(all, 0);
}

#[test]
fn map_across_many_tables() {
    let far = BASE + (5 << 39) - 3 * SPAN;
    let all = sweep(|tables, _| tables.map(range(far, 6 * SPAN), run(0, RW)), unmap(far, 6 * SPAN));
    // Six last-level tables, and two of each level above, one of which is there at neither.
    assert_eq!(all, 6 + 2 + 2);
}

#[test]
fn map_many() {
    // Eight pieces in three last-level tables, the first of which is there: each table is taken once.
    let piece = |nth: u64| (range(BASE + nth * 96 * 4 * PAGE, 4 * PAGE), run(nth * 100, RW));
    let parts: Vec<_> = (1..9).map(|nth| if nth < 4 { piece(nth) } else { piece(nth + 1) }).collect();
    let last = parts[7].0.start().get();
    assert_eq!((last - BASE) / SPAN, 6);
    let tables: std::collections::BTreeSet<_> = parts.iter().map(|(at, _)| at.start().get() / SPAN).collect();
    let all = sweep(
        |tables, _| tables.map_all(&parts),
        |tables| {
            let mut batch = tables.batch().unwrap();
            for (range, _) in &parts {
                batch.unmap(*range).unwrap();
            }
            flush(batch);
        },
    );
    assert_eq!(all, tables.len() as u64 - 1);
}

#[test]
fn map_next_to_what_is_there() {
    let start = BASE + 5 * PAGE;
    let all = sweep(|tables, _| tables.map(range(start, 2 * SPAN), run(0, RW)), unmap(start, 2 * SPAN));
    assert_eq!(all, 2);
}

#[test]
fn attach() {
    let far = BASE + (7 << 39);
    let all = sweep(|tables, share| tables.attach(range(far, 7 * SPAN), share, NODE), unmap(far, 7 * SPAN));
    assert_eq!(all, 2);
}

#[test]
fn split() {
    let huge = BASE + 20 * SPAN;
    let all = sweep(
        |tables, _| {
            tables.split(va(huge), NODE)?.flush();
            Ok(())
        },
        |tables| {
            flush(tables.unmap(range(huge, SPAN)).unwrap());
            tables.map(range(huge, SPAN), run(512, RW).at_level(level(1))).unwrap();
        },
    );
    assert_eq!(all, 1);
}

#[test]
fn unshare() {
    let shared = BASE + 30 * SPAN;
    let frames = TestFrames::with_frames(64);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64);
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.attach(range(shared, SPAN), share, NODE).unwrap();
    let before = digest(&frames, &tables, share);
    frames.fail_nth(1);
    assert!(matches!(tables.unshare(va(shared), NODE), Err(Error::Alloc(_))));
    assert_eq!(before, digest(&frames, &tables, share));
    assert!(tables.unshare(va(shared), NODE).unwrap().flush().is_ok());
}

#[test]
fn share() {
    // With a registry there, and without: table and registry.
    let frames = TestFrames::with_frames(64);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64);
    for _ in 0..2 {
        let fails = frames.for_each_failure(|_| {
            let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE)?;
            tables.free_share(share)
        });
        assert_eq!(fails.refused, 2);
    }
    let kept = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    let fails = frames.for_each_failure(|_| {
        let share = tables.share(LAST, Backing::Repeat(pfn(8)), RO, NODE)?;
        tables.free_share(share)
    });
    assert_eq!(fails.refused, 1);
    tables.free_share(kept).unwrap();
    assert_eq!(frames.outstanding(), 1);
}

#[test]
fn new() {
    let frames = TestFrames::with_frames(64);
    let fails = frames.for_each_failure(|_| {
        Tables::<X86_64, _>::new(TestEnv::new(&frames), Geometry::X86_64, NODE).map(drop)
    });
    assert_eq!((fails.refused, frames.outstanding()), (1, 0));
}
