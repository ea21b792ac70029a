// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each operation does, on x86-64 tables.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::Geometry;
use mmkit_frame::Bare;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Backing, Error, Leaf, Leaves, Mapping, Prot, Released, Slot, Tables, Walk, X86_64};
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
fn restrict_takes_what_is_not_kept_and_skips_holes() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let (all, exec) = (Prot::WRITE | Prot::EXEC | Prot::USER, Prot::EXEC | Prot::USER);
    tables.map(range(BASE, PAGE), run(1, all)).unwrap();
    tables.map(range(BASE + 5 * PAGE, PAGE), run(2, exec)).unwrap();
    tables.map(range(BASE + 4 * HUGE, HUGE), run(512, RW).at_level(level(1))).unwrap();
    let pending = tables.unmap(range(BASE + 5 * PAGE, PAGE)).unwrap();
    let written = tables.env().tally.get(Counter::EntryWritten);
    tables.restrict(range(BASE, 8 * HUGE), exec).unwrap().flush();
    assert_eq!(tables.env().tally.get(Counter::EntryWritten) - written, 2, "those that change");
    assert_eq!(mapped(tables.walk(va(BASE))).prot, exec);
    assert_eq!(mapped(tables.walk(va(BASE + 4 * HUGE))).prot, RO);
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 1);
    pending.cancel();
    assert_eq!(mapped(tables.walk(va(BASE + 5 * PAGE))).prot, exec);
    let cut = Error::Partial { va: va(BASE + 4 * HUGE), level: level(1) };
    assert_eq!(tables.restrict(range(BASE, 4 * HUGE + PAGE), RO).unwrap_err(), cut);
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.attach(range(BASE + HUGE, HUGE), share, NODE).unwrap();
    let shared = Error::Shared { va: va(BASE + HUGE) };
    assert_eq!(tables.restrict(range(BASE, 8 * HUGE), RO).unwrap_err(), shared);
    assert_eq!(mapped(tables.walk(va(BASE))).prot, exec, "a refusal changes nothing");
}

#[test]
fn what_is_global_stays_so() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let two = range(BASE, 2 * PAGE);
    tables.map(range(BASE, PAGE), run(1, RW | Prot::GLOBAL)).unwrap();
    tables.map(range(BASE + PAGE, PAGE), run(2, RW)).unwrap();
    let prots = || [BASE, BASE + PAGE].map(|at| mapped(tables.walk(va(at))).prot);
    tables.restrict(two, RO).unwrap().flush();
    assert_eq!(prots(), [Prot::GLOBAL, RO]);
    tables.restrict(two, Prot::GLOBAL).unwrap().flush();
    assert_eq!(prots(), [Prot::GLOBAL, RO]);
    for (at, frame) in [(BASE, 1), (BASE + PAGE, 2)] {
        tables.upgrade(va(at), pfn(frame), RW | Prot::GLOBAL).unwrap();
    }
    assert_eq!(prots(), [RW | Prot::GLOBAL, RW]);
    tables.protect(two, Prot::EXEC | Prot::GLOBAL).unwrap().flush();
    assert_eq!(prots(), [Prot::EXEC | Prot::GLOBAL, Prot::EXEC]);
}

#[test]
fn map_all_is_all_or_nothing() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE + 9 * PAGE, PAGE), run(9, RW)).unwrap();
    let (before, out) = (entries(&tables), frames.snapshot());
    let small = |page: u64, pages: u64| (range(BASE + page * PAGE, pages * PAGE), run(100 + page, RW));
    let huge = (range(BASE + 2 * HUGE, HUGE), run(512, RO).at_level(level(1)));
    let refused = |parts: &[_], error| {
        assert_eq!(tables.map_all(parts), Err(error));
        assert!(entries(&tables) == before && frames.snapshot() == out);
    };
    let occupied = Error::Occupied { va: va(BASE + 9 * PAGE), level: LAST };
    refused(&[small(0, 4), small(8, 4), huge], occupied);
    for second in [small(3, 1), small(0, 1), small(0, 9)] {
        refused(&[small(0, 4), second], Error::BadRange { range: second.0 });
    }
    refused(&[huge, small(1100, 1)], Error::BadRange { range: small(1100, 1).0 });
    refused(&[small(0, 4), small(4, 0)], Error::BadRange { range: small(4, 0).0 });
    tables.map_all(&[]).unwrap();
    tables.map_all(&[small(0, 4), small(4, 1), small(500, 300), huge, small(2048, 1)]).unwrap();
    for (page, frame) in [(0, 100), (3, 103), (4, 104), (799, 899), (1025, 512), (2048, 2148)] {
        assert_eq!(mapped(tables.walk(va(BASE + page * PAGE))).pfn, pfn(frame), "page {page}");
    }
    // Two more last-level tables beside the one that was there.
    assert_eq!(tables.table_frames(), 3 + 3);
    assert_accounted(&frames, &tables);
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
    let Released::Leaves(Leaves { frames: old, prot, .. }) = token.flush().unwrap() else { panic!("a leaf") };
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
        let Released::Leaves(Leaves { frames, .. }) = released else { panic!("a leaf") };
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
fn upgrade_adds_to_one_private_leaf_and_needs_no_flush() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, HUGE), run(0, RO).at_level(level(1))).unwrap();
    tables.map(range(BASE + HUGE, 3 * PAGE), run(10, Prot::EXEC)).unwrap();
    let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
    tables.attach(range(BASE + 2 * HUGE, HUGE), share, NODE).unwrap();
    let before = entries(&tables);
    let refused = |at: u64, expected, error| {
        assert_eq!(tables.upgrade(va(at), pfn(expected), RW), Err(error));
        assert!(entries(&tables) == before, "it was refused");
    };
    let at = BASE + HUGE + PAGE;
    refused(at, 12, Error::Changed { va: va(at), found: pfn(11) });
    refused(BASE + 2 * HUGE, 7, Error::Shared { va: va(BASE + 2 * HUGE) });
    refused(BASE + 3 * HUGE, 0, Error::NotMapped { va: va(BASE + 3 * HUGE) });
    refused(1 << 47, 0, Error::NotCanonical { va: va(1 << 47) });

    let written = || tables.env().tally.get(Counter::EntryWritten);
    let (entries_written, out) = (written(), frames.snapshot());
    // Anywhere in the leaf, whose first frame is what is expected.
    tables.upgrade(va(at + 12), pfn(11), RW).unwrap();
    tables.upgrade(va(BASE + 5 * PAGE), pfn(0), RW).unwrap();
    assert_eq!(written(), entries_written + 2);
    tables.upgrade(va(at), pfn(11), Prot::EXEC).unwrap();
    assert_eq!(written(), entries_written + 2, "it allowed that before");
    let leaf = |at| mapped(tables.walk(va(at)));
    assert_eq!((leaf(at).pfn, leaf(at).prot), (pfn(11), RW | Prot::EXEC));
    assert_eq!((leaf(BASE).prot, leaf(BASE).level), (RW, level(1)));
    assert_eq!([at - PAGE, at + PAGE].map(|at| leaf(at).prot), [Prot::EXEC; 2], "neighbours stay");
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 0);
    assert!(frames.snapshot() == out, "no memory was needed");

    let batch = tables.unmap(range(at, PAGE)).unwrap();
    assert_eq!(tables.upgrade(va(at), pfn(11), RW), Err(Error::Pending { va: va(at) }));
    flush(batch);
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

/// Every step finds what a walk finds, with holes, huge leaves and shared tables on the way.
#[test]
fn every_page_of_a_step_is_what_a_walk_finds() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    tables.map(range(BASE, 700 * PAGE), run(0x1000, RW)).unwrap();
    tables.map(range(BASE + 2 * HUGE, HUGE), run(512 * 7, RO).at_level(level(1))).unwrap();
    tables.map(range(BASE + 3 * HUGE + 3 * PAGE, 20 * PAGE), repeat(5)).unwrap();
    let share = tables.share(LAST, Backing::Repeat(pfn(6)), RO, NODE).unwrap();
    tables.attach(range(BASE + 5 * HUGE, HUGE), share, NODE).unwrap();
    tables.map(range(BASE + (1 << 30), 1 << 30), run(1 << 18, RW).at_level(level(2))).unwrap();
    for (start, bytes) in
        [(0, 6 * HUGE), (3 * PAGE, 6 * HUGE), (2 * HUGE - PAGE, HUGE), ((1 << 30) - HUGE, 2 * HUGE)]
    {
        for step in [1, 3, 8, 511, 512, 513, 5000] {
            let (part, mut found) = (range(BASE + start, bytes), Vec::new());
            tables
                .read()
                .every(part, step.try_into().unwrap(), |at, frame, prot| found.push((at, frame, prot)))
                .unwrap();
            let walked = (0..bytes).step_by((step * PAGE) as usize).map(|offset| va(BASE + start + offset));
            let expected: Vec<_> = walked
                .filter_map(|at| match tables.walk(at).unwrap() {
                    Walk::Mapped(leaf) => {
                        let offset = at.offset_from(leaf.range.start()).unwrap() / PAGE;
                        Some((at, leaf.pfn.checked_add(offset).unwrap(), leaf.prot))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(found, expected, "{part:?}, {step}");
        }
    }
    let nothing = tables.read().every(range(BASE, 0), 1.try_into().unwrap(), |at, _, _| panic!("{at:?}"));
    assert_eq!(nothing, Err(Error::BadRange { range: range(BASE, 0) }));
}
