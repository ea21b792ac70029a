// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of the last level that are filled aside, before anything leads to them.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Geometry, GeometrySpec, Order, Pfn};
use mmkit_frame::test_util::TestFrames;
use mmkit_frame::{FrameAllocator, Request};
use mmkit_pgtable::{Backing, Error, Prot, Software, Tables, Walk, X86_64};

const PAGE: u64 = 4096;
const SPAN: u64 = 2 << 20;
const BASE: u64 = 0xffff_ea00_0000_0000;

fn x86(frames: &TestFrames) -> Tables<X86_64, TestEnv<'_>> {
    tables(frames, Geometry::X86_64)
}

/// A table whose first 300 entries are a run of frames, and the rest one frame again and again.
fn filled(tables: &Tables<X86_64, TestEnv<'_>>) -> Pfn {
    let table = tables.take_table(NODE).unwrap();
    // SAFETY: taken above, nothing leads to it, and it has 512 entries.
    unsafe { tables.fill_table(table, 0, 300, Backing::Run(pfn(1000)), RW) }.unwrap();
    // SAFETY: as above.
    unsafe { tables.fill_table(table, 300, 212, Backing::Repeat(pfn(7)), RO) }.unwrap();
    table
}

fn expected(nth: u64) -> (u64, Prot) {
    if nth < 300 { (1000 + nth, RW) } else { (7, RO) }
}

#[test]
fn a_filled_table_appears_at_once() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let table = filled(&tables);
    assert_eq!([0, 1, 2, 3].map(|at| tables.tables_at(level(at))), [1, 0, 0, 1], "it counts already");
    assert_accounted(&frames, &tables);
    assert_eq!(entries(&tables), []);
    let mut read = Vec::new();
    // SAFETY: it is this test's.
    unsafe { tables.read_table(table, |nth, pfn, prot| read.push((nth, (pfn.get(), prot)))) };
    assert_eq!(read, (0..512).map(|nth| (nth, expected(nth))).collect::<Vec<_>>());

    // Nothing is there, at any level: the tables above come with it.
    assert!(tables.lacks_table(va(BASE)) && tables.lacks_table(va(BASE + SPAN - 1)));
    // SAFETY: it came from `take_table`, was filled, and nothing leads to it.
    unsafe { tables.link_table(va(BASE), table, NODE) }.unwrap();
    assert_eq!([0, 1, 2, 3].map(|at| tables.tables_at(level(at))), [1, 1, 1, 1]);
    assert_accounted(&frames, &tables);
    for nth in 0..512 {
        let leaf = match tables.walk(va(BASE + nth * PAGE)).unwrap() {
            Walk::Mapped(leaf) => leaf,
            other => panic!("{other:?}"),
        };
        assert_eq!((leaf.pfn.get(), leaf.prot), expected(nth));
    }
    // It is a table like any other from now on.
    assert!(!tables.lacks_table(va(BASE + 5 * PAGE)));
    assert!(tables.lacks_table(va(BASE + SPAN)), "the next one");
    assert_eq!(flush(tables.unmap(range(BASE, SPAN)).unwrap()).len(), 512);
    assert_eq!(tables.table_frames(), 1);
    drop(tables);
    frames.assert_no_leaks();
}

/// A table is lacking only where there is no entry for it; and only there one can be linked.
#[test]
fn what_is_in_the_way_is_told() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.map(range(BASE, PAGE), run(1, RW)).unwrap();
    tables.map(range(BASE + SPAN, SPAN), run(512, RW).at_level(level(1))).unwrap();
    tables.attach(range(BASE + 2 * SPAN, SPAN), share, NODE).unwrap();
    tables.map(range(BASE + (1 << 30), 1 << 30), run(1 << 18, RO).at_level(level(2))).unwrap();
    tables.map(range(BASE + 3 * SPAN, SPAN), run(1024, RW).at_level(level(1))).unwrap();
    let pending = tables.unmap(range(BASE + 3 * SPAN, SPAN)).unwrap();
    let table = filled(&tables);
    let before = (frames.snapshot(), entries(&tables));
    let link = |at: u64| {
        // SAFETY: it came from `take_table`, was filled, and nothing leads to it, or to any that was refused.
        unsafe { tables.link_table(va(at), table, NODE) }
    };
    let occupied = |at: u64, of: u8| Err(Error::Occupied { va: va(at), level: level(of) });
    let refused = [
        (BASE, occupied(BASE, 1)),
        (BASE + SPAN, occupied(BASE + SPAN, 1)),
        (BASE + 2 * SPAN, occupied(BASE + 2 * SPAN, 1)),
        (BASE + 3 * SPAN, Err(Error::Pending { va: va(BASE + 3 * SPAN) })),
        (BASE + (1 << 30), occupied(BASE + (1 << 30), 2)),
        (1 << 47, Err(Error::NotCanonical { va: va(1 << 47) })),
    ];
    for (at, error) in refused {
        assert!(!tables.lacks_table(va(at)), "{at:#x}");
        assert_eq!(link(at), error);
    }
    let misaligned = BASE + 4 * SPAN + PAGE;
    assert!(tables.lacks_table(va(misaligned)), "a table around it");
    assert_eq!(link(misaligned), Err(Error::Misaligned { value: misaligned, align: SPAN }));
    assert_eq!((frames.snapshot(), entries(&tables)), before);
    flush(pending);
    assert!(tables.lacks_table(va(BASE + 3 * SPAN)));
    assert_eq!(link(BASE + 3 * SPAN), Ok(()));
    assert_accounted(&frames, &tables);
}

/// Every table above it that cannot be had: nothing has changed, and the table is the caller's still.
#[test]
fn linking_survives_every_failure() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let table = filled(&tables);
    for k in 1..=2 {
        let before = (frames.snapshot(), entries(&tables), tables.table_frames());
        frames.fail_nth(k);
        // SAFETY: it came from `take_table`, was filled, and nothing leads to it.
        let refused = unsafe { tables.link_table(va(BASE), table, NODE) };
        frames.heal();
        assert!(matches!(refused, Err(Error::Alloc(_))), "{k}: {refused:?}");
        assert_eq!((frames.snapshot(), entries(&tables), tables.table_frames()), before);
    }
    // SAFETY: it is this test's, nothing ever led to it.
    unsafe { tables.give_table(table) };
    assert_accounted(&frames, &tables);
}

#[test]
fn what_does_not_fit_into_entries_is_not_written() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let table = tables.take_table(NODE).unwrap();
    // SAFETY: taken above, nothing leads to it, and it has 512 entries.
    let fill = |backing| unsafe { tables.fill_table(table, 0, 2, backing, RW) };
    assert!(matches!(fill(Backing::Run(pfn(1 << 40))), Err(Error::Encode(_))));
    assert!(matches!(fill(Backing::Run(pfn((1 << 40) - 1))), Err(Error::Encode(_))));
    let last = Pfn::MAX;
    assert!(matches!(fill(Backing::Run(last)), Err(Error::Encode(_) | Error::BadFrames { .. })));
    // SAFETY: as above.
    unsafe { tables.read_table(table, |nth, pfn, _| panic!("{nth}: {pfn:?}")) };
    // SAFETY: as above.
    unsafe { tables.give_table(table) };
}

/// A frame of the caller's becomes a table that is empty whatever was in it, and goes back as one.
#[test]
fn a_frame_of_the_callers_becomes_a_table() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let frame = frames.allocate(Request::new(Order::ZERO)).unwrap();
    let words = frames.frames();
    // SAFETY: allocated above.
    for word in unsafe { words.words(frame) }.unwrap() {
        word.store(!0, std::sync::atomic::Ordering::Relaxed);
    }
    // SAFETY: allocated above from the allocator of the tables, and nobody uses it.
    assert_eq!(unsafe { tables.adopt_table(frame) }, Ok(()));
    assert_eq!(tables.tables_at(LAST), 1);
    assert_accounted(&frames, &tables);
    // SAFETY: adopted above, and nothing leads to it.
    unsafe { tables.read_table(frame, |nth, pfn, _| panic!("{nth}: {pfn:?}")) };
    // SAFETY: as above, and it has 512 entries.
    unsafe { tables.fill_table(frame, 0, 512, Backing::Run(pfn(512)), RW) }.unwrap();
    // SAFETY: as above.
    unsafe { tables.link_table(va(BASE), frame, NODE) }.unwrap();
    assert_eq!(flush(tables.unmap(range(BASE, SPAN)).unwrap()).len(), 512);
    assert_accounted(&frames, &tables);
    // No memory behind it: nothing is counted.
    // SAFETY: refused before anything is done with it.
    let refused = unsafe { tables.adopt_table(pfn(1 << 30)) };
    assert_eq!(refused, Err(Error::Unreachable { pfn: pfn(1 << 30) }));
    assert_accounted(&frames, &tables);
    drop(tables);
    frames.assert_no_leaks();
}

/// Where a table is no single frame, a single frame is none.
#[test]
fn a_frame_is_refused_where_tables_are_larger() {
    let geometry = Geometry::new(GeometrySpec {
        name: "wide",
        aliases: &[],
        base_shift: 12,
        index_bits: &[11, 9, 9],
        huge_pages: &[],
        section_shift: 27,
        physical_bits: 52,
    })
    .unwrap();
    let frames = TestFrames::with_frames(64);
    let tables: Tables<Software, _> = tables(&frames, geometry);
    let frame = frames.allocate(Request::new(Order::ZERO)).unwrap();
    // SAFETY: allocated above from the allocator of the tables, and nobody uses it.
    let refused = unsafe { tables.adopt_table(frame) };
    assert_eq!(refused, Err(Error::BadFrames { pfn: frame, frames: 4 }));
    assert_eq!((tables.tables_at(LAST), tables.table_frames() + 1), (0, frames.outstanding()));
}
