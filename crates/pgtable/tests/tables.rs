// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each operation does, on x86-64 tables.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Geometry, PfnRange};
use mmkit_frame::Bare;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Backing, Error, Leaf, Mapping, Prot, Released, Slot, Tables, Walk, X86_64};
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
fn maps_a_run_and_takes_exactly_the_missing_tables() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    assert_eq!(tables.table_frames(), 1);
    tables.map(range(BASE + HUGE - PAGE, 2 * PAGE), run(0x100, RW)).unwrap();
    // Across the border of two last-level tables: root, two above, two below.
    assert_eq!([0, 1, 2, 3].map(|at| tables.tables_at(level(at))), [2, 1, 1, 1]);
    assert_accounted(&frames, &tables);
    let leaf = mapped(tables.walk(va(BASE + HUGE + 5)));
    assert_eq!((leaf.pfn, leaf.prot, leaf.level, leaf.shared), (pfn(0x101), RW, LAST, false));
    assert_eq!(leaf.range, range(BASE + HUGE, PAGE));
    assert_eq!(tables.walk(va(BASE + HUGE + PAGE)), Ok(Walk::Unmapped { level: LAST }));
    assert_eq!(tables.walk(va(0)), Ok(Walk::Unmapped { level: level(3) }));
    assert_eq!(tables.walk(va(1 << 47)), Err(Error::NotCanonical { va: va(1 << 47) }));
    drop(tables);
    frames.assert_no_leaks();
}

#[test]
fn maps_huge_leaves_and_repeats() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 4 * HUGE), run(512 * 7, RW).at_level(level(1))).unwrap();
    tables.map(range(BASE + (1 << 30), 1 << 30), run(1 << 18, RO).at_level(level(2))).unwrap();
    tables.map(range(BASE + 4 * HUGE, 512 * PAGE), repeat(3)).unwrap();
    let leaf = mapped(tables.walk(va(BASE + 3 * HUGE + 12345)));
    assert_eq!((leaf.pfn, leaf.level, leaf.range), (pfn(512 * 10), level(1), range(BASE + 3 * HUGE, HUGE)));
    assert_eq!(mapped(tables.walk(va(BASE + (1 << 30)))).level, level(2));
    for at in 0..512 {
        assert_eq!(mapped(tables.walk(va(BASE + 4 * HUGE + at * PAGE))).pfn, pfn(3));
    }
}

#[test]
fn map_refuses_bad_requests() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let huge = |frame| run(frame, RW).at_level(level(1));
    assert_eq!(tables.map(range(BASE, 0), run(0, RW)), Err(Error::BadRange { range: range(BASE, 0) }));
    assert_eq!(tables.map(range(1, PAGE), run(0, RW)), Err(Error::Misaligned { value: 1, align: PAGE }));
    assert_eq!(
        tables.map(range(0, HUGE + PAGE), huge(0)),
        Err(Error::Misaligned { value: HUGE + PAGE, align: HUGE })
    );
    assert_eq!(tables.map(range(0, HUGE), huge(1)), Err(Error::Misaligned { value: 1, align: 512 }));
    assert_eq!(
        tables.map(range(0, 1 << 39), run(0, RW).at_level(level(3))),
        Err(Error::BadLevel { level: level(3) })
    );
    assert_eq!(
        tables.map(range(0, PAGE), run(0, RW).at_level(level(5))),
        Err(Error::BadLevel { level: level(5) })
    );
    let hole = 1 << 47;
    assert_eq!(
        tables.map(range(hole - PAGE, 2 * PAGE), run(0, RW)),
        Err(Error::NotCanonical { va: va(hole + PAGE - 1) })
    );
    let across = range(hole - PAGE, 0xffff_8000_0000_0000 - hole + 2 * PAGE);
    assert_eq!(tables.map(across, run(0, RW)), Err(Error::BadRange { range: across }));
    assert!(matches!(tables.map(range(0, PAGE), run(1 << 40, RW)), Err(Error::Encode(_))));
    assert!(matches!(tables.map(range(0, 2 * PAGE), run((1 << 40) - 1, RW)), Err(Error::Encode(_))));
    assert!(matches!(tables.map(range(0, 2 * PAGE), run((1 << 52) - 1, RW)), Err(Error::BadFrames { .. })));
    tables.map(range(0, PAGE), run((1 << 40) - 1, RW)).unwrap();
    assert_eq!(tables.map(range(0, HUGE), huge(0)), Err(Error::Occupied { va: va(0), level: level(1) }));
    assert_eq!(tables.table_frames(), 4);
}

#[test]
fn the_whole_upper_half_ends_at_the_last_byte() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let top = range(0u64.wrapping_sub(HUGE), HUGE);
    tables.map(top, run(512, RW)).unwrap();
    assert_eq!(mapped(tables.walk(va(u64::MAX))).pfn, pfn(512 + 511));
    assert_eq!(flush(tables.unmap(top).unwrap()).len(), 512);
    assert_eq!(tables.table_frames(), 1);
}

#[test]
fn a_map_that_meets_something_changes_nothing() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE + 5 * HUGE, PAGE), run(9, RW)).unwrap();
    let (before, out) = (entries(&tables), frames.snapshot());
    let error = tables.map(range(BASE, 6 * HUGE), run(0x1000, RW)).unwrap_err();
    assert_eq!(error, Error::Occupied { va: va(BASE + 5 * HUGE), level: LAST });
    assert_eq!(entries(&tables), before);
    assert_eq!(frames.snapshot(), out);
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
    let leaf = |at: u64| Released::Leaf {
        va: va(BASE + at * PAGE),
        level: LAST,
        frames: PfnRange::new(pfn(40 + at), 1).unwrap(),
        prot: RW,
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

#[test]
fn replace_compares_and_waits_for_the_flush() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 2 * PAGE), run(10, RW)).unwrap();
    let changed = tables.replace(va(BASE), pfn(11), pfn(20), RO).unwrap_err();
    assert_eq!(changed, Error::Changed { va: va(BASE), found: pfn(10) });
    let token = tables.replace(va(BASE), pfn(10), pfn(20), RO).unwrap();
    let leaf = mapped(tables.walk(va(BASE)));
    assert_eq!((leaf.pfn, leaf.prot), (pfn(20), RO));
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 0);
    let Released::Leaf { frames: old, prot, .. } = token.flush().unwrap() else { panic!("a leaf") };
    assert_eq!((old.start(), old.frames(), prot), (pfn(10), 1, RW));
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
    assert_eq!(
        tables.replace(va(BASE + 1), pfn(20), pfn(20), RO).unwrap_err(),
        Error::Misaligned { value: BASE + 1, align: PAGE }
    );
    let unmapped = tables.replace(va(BASE + 5 * PAGE), pfn(20), pfn(20), RO).unwrap_err();
    assert_eq!(unmapped, Error::NotMapped { va: va(BASE + 5 * PAGE) });
}

#[test]
fn many_replacements_flush_once() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 8 * PAGE), run(10, RW)).unwrap();
    let replace = |at: u64| tables.replace(va(BASE + at * PAGE), pfn(10 + at), pfn(99), RO).unwrap();
    let mut tokens: Vec<_> = (1..8).map(|at| Some(replace(at))).collect();
    let mut old = Vec::new();
    mmkit_pgtable::Replaced::flush_all(&mut tokens, |released| {
        let Released::Leaf { frames, .. } = released else { panic!("a leaf") };
        old.push(frames.start().get());
    })
    .unwrap();
    assert_eq!(old, [11, 12, 13, 14, 15, 16, 17]);
    assert!(tokens.iter().all(Option::is_none));
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
}

#[test]
fn split_keeps_every_translation() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 1 << 30), run(1 << 18, RW).at_level(level(2))).unwrap();
    tables.split(va(BASE + 77 * HUGE), NODE).unwrap().flush();
    let mut stale = tables.split(va(BASE + 77 * HUGE), NODE).unwrap();
    stale.merge(tables.split(va(BASE), NODE).unwrap()).unwrap();
    stale.flush();
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 2);
    for at in [0, 1, 511, 512, 77 * 512 + 3, (1 << 18) - 1] {
        let leaf = mapped(tables.walk(va(BASE + at * PAGE)));
        let offset = at - (leaf.range.start().get() - BASE) / PAGE;
        assert_eq!(leaf.pfn.get() + offset, (1 << 18) + at);
        assert_eq!(leaf.prot, RW);
        let last = at < 512 || at / 512 == 77;
        assert_eq!(leaf.level, level(u8::from(!last)));
    }
    assert_eq!(tables.split(va(BASE), NODE).unwrap_err(), Error::BadLevel { level: LAST });
    assert_eq!(flush(tables.unmap(range(BASE, 1 << 30)).unwrap()).len(), 510 + 1024);
    assert_eq!(tables.table_frames(), 1);
    assert_accounted(&frames, &tables);
}

#[test]
fn protect_changes_whole_private_leaves_only() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, HUGE), run(0, RW).at_level(level(1))).unwrap();
    tables.map(range(BASE + HUGE, 4 * PAGE), run(0, RW)).unwrap();
    assert_eq!(
        tables.protect(range(BASE, PAGE), RO).unwrap_err(),
        Error::Partial { va: va(BASE), level: level(1) }
    );
    tables.protect(range(BASE, HUGE + 2 * PAGE), Prot::EXEC).unwrap().flush();
    let prots: Vec<_> =
        [0, HUGE, HUGE + PAGE, HUGE + 2 * PAGE].map(|at| mapped(tables.walk(va(BASE + at))).prot).into();
    assert_eq!(prots, [Prot::EXEC, Prot::EXEC, Prot::EXEC, RW]);
}

#[test]
fn updates_that_the_machine_refuses_change_nothing() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, HUGE), run(0, RW).at_level(level(1))).unwrap();
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.attach(range(BASE + HUGE, HUGE), share, NODE).unwrap();
    let (before, out) = (entries(&tables), frames.snapshot());
    let again = |at| Error::TryAgain { va: va(at) };
    for mode in [0, 2] {
        let mmu = &tables.env().mmu;
        mmu.mode.store(mode, std::sync::atomic::Ordering::Relaxed);
        let fail = || mmu.fail_in.store(1, std::sync::atomic::Ordering::Relaxed);
        fail();
        assert_eq!(tables.replace(va(BASE), pfn(0), pfn(512), RO).unwrap_err(), again(BASE));
        fail();
        assert_eq!(tables.split(va(BASE), NODE).unwrap_err(), again(BASE));
        fail();
        assert_eq!(tables.unshare(va(BASE + HUGE), NODE).unwrap_err(), again(BASE + HUGE));
        assert_eq!(entries(&tables), before, "mode {mode}");
        assert_eq!(frames.snapshot(), out);
        assert_eq!(tables.attachments(share), Ok(1));
    }
}

#[test]
fn break_before_make_ends_with_the_new_entry() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, HUGE), run(0, RW).at_level(level(1))).unwrap();
    tables.env().mmu.mode.store(1, std::sync::atomic::Ordering::Relaxed);
    assert!(tables.replace(va(BASE), pfn(0), pfn(512), RW).unwrap().flush().is_ok());
    tables.split(va(BASE), NODE).unwrap().flush();
    assert_eq!(mapped(tables.walk(va(BASE + 3 * PAGE))).pfn, pfn(515));
    assert_eq!(tables.env().mmu.flushed.lock().unwrap().len(), 4);
}

#[test]
fn a_read_side_that_refuses_keeps_the_tokens() {
    use mmkit_sync::{Immovable, InsideReader, SpinLock};
    struct Still<'a>(mmkit_frame::Frames<&'a TestFrames, &'a TestFrames>);
    // SAFETY: the field is never exchanged.
    unsafe impl<'a> mmkit_frame::Env for Still<'a> {
        type Allocator = &'a TestFrames;
        type Map = &'a TestFrames;
        type Lock = SpinLock;
        type Read = Immovable;
        type Events = ();
        fn frames(&self) -> &mmkit_frame::Frames<&'a TestFrames, &'a TestFrames> {
            &self.0
        }
        fn read_side(&self) -> &Immovable {
            &Immovable
        }
        fn events(&self) -> &() {
            &()
        }
    }
    // SAFETY: there is one `()`.
    unsafe impl mmkit_pgtable::TableEnv for Still<'_> {
        type Mmu = ();
        fn mmu(&self) -> &() {
            &()
        }
    }
    let frames = TestFrames::with_frames(64);
    let tables = Tables::<X86_64, _>::new(Still(frames.frames()), Geometry::X86_64, NODE).unwrap();
    tables.map(range(BASE, 4 * PAGE), run(0, RW)).unwrap();
    let before = entries(&tables);
    let refused =
        tables.unmap(range(BASE, 4 * PAGE)).unwrap().flush(|item| panic!("{item:?} came back")).unwrap_err();
    assert_eq!(refused.error, InsideReader);
    assert_eq!(tables.table_frames(), 4);
    refused.batch.cancel();
    assert_eq!(entries(&tables), before);
    let token = tables.replace(va(BASE), pfn(0), pfn(9), RW).unwrap();
    let mut tokens = [Some(token)];
    assert_eq!(mmkit_pgtable::Replaced::flush_all(&mut tokens, |_| panic!("came back")), Err(InsideReader));
    assert!(tokens[0].is_some());
}

#[test]
fn frames_and_geometry_must_agree() {
    let frames = TestFrames::with_frames(64);
    let wrong =
        Tables::<mmkit_pgtable::Software, _>::new(Bare::new(frames.frames()), Geometry::ARM64_64K, NODE);
    assert_eq!(wrong.unwrap_err(), Error::FrameSize { geometry: 16, frames: 12 });
    for geometry in [Geometry::ARM64_64K, Geometry::RISCV64_SV39, Geometry::PPC64_HASH_64K, Geometry::S390X] {
        let wrong = Tables::<X86_64, _>::new(Bare::new(frames.frames()), geometry, NODE);
        assert_eq!(wrong.unwrap_err(), Error::Geometry { geometry: geometry.name(), format: "x86-64" });
    }
    frames.assert_no_leaks();
}

#[test]
fn the_dump_merges_runs() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(0x1000, 3 * PAGE), run(0x10, RW)).unwrap();
    tables.map(range(0x4000, 3 * PAGE), repeat(0x10)).unwrap();
    tables
        .map(
            range(HUGE, HUGE),
            Mapping::new(Backing::Run(pfn(512)), Prot::EXEC | Prot::USER).at_level(level(1)),
        )
        .unwrap();
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.attach(range(BASE, 2 * HUGE), share, NODE).unwrap();
    let mut batch = tables.unmap(range(0x2000, PAGE)).unwrap();
    batch.unmap(range(BASE + HUGE, HUGE)).unwrap();
    let text = tables.dump().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("x86-64 tables of x86-64, root at pfn "), "{text}");
    assert_eq!(lines[1], "0x0000000000001000..=0x0000000000001fff  level 0  pfns 0x10..=0x10  rw-");
    assert_eq!(lines[2], "0x0000000000002000..=0x0000000000002fff  level 0  pfns 0x11..=0x11  rw-  pending");
    assert_eq!(lines[3], "0x0000000000003000..=0x0000000000003fff  level 0  pfns 0x12..=0x12  rw-");
    assert_eq!(lines[4], "0x0000000000004000..=0x0000000000006fff  level 0  pfn 0x10 x 3  r--");
    assert_eq!(lines[5], "0x0000000000200000..=0x00000000003fffff  level 1  pfns 0x200..=0x3ff  r-xu");
    assert_eq!(lines[6], "0xffffea0000000000..=0xffffea00001fffff  level 0  pfn 0x7 x 512  r--  shared");
    assert!(
        lines[7].starts_with("0xffffea0000200000..=0xffffea00003fffff  level 1  shared table at pfn "),
        "{text}"
    );
    assert!(lines[7].ends_with(" x 1  pending"), "{text}");
    assert_eq!(lines[8], "tables by level, from the root: 1 2 2 2; 8 frames");
    assert_eq!(lines.len(), 9);
    batch.cancel();
    assert!(matches!(entries(&tables)[1].slot, Slot::Present(_)));
}
