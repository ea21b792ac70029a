// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared tables: attached, counted, opaque, unshared.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Geometry, VirtAddr};
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Backing, Error, Released, Tables, Walk, X86_64};
use mmkit_sync::Counter;

const PAGE: u64 = 4096;
const SPAN: u64 = 2 << 20;
const BASE: u64 = 0xffff_ea00_0000_0000;
const TAIL: u64 = 0x77;

fn x86(frames: &TestFrames) -> Tables<X86_64, TestEnv<'_>> {
    tables(frames, Geometry::X86_64)
}

fn frame_at<V: mmkit_pgtable::TableEnv>(tables: &Tables<X86_64, V>, at: VirtAddr) -> Option<(u64, bool)> {
    match tables.walk(at).unwrap() {
        Walk::Mapped(leaf) => Some((leaf.pfn.get(), leaf.shared)),
        _ => None,
    }
}

#[test]
fn one_table_serves_a_whole_compound() {
    // The vmemmap of a 1G page: one private page, 511 shared ones in a private table, seven shared tables.
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE).unwrap();
    assert_eq!((tables.table_frames(), tables.attachments(share)), (3, Ok(0)));
    for compound in 0..4 {
        let base = BASE + compound * 8 * SPAN;
        tables.map(range(base, PAGE), run(compound, RW)).unwrap();
        tables.map(range(base + PAGE, SPAN - PAGE), repeat(TAIL)).unwrap();
        tables.attach(range(base + SPAN, 7 * SPAN), share, NODE).unwrap();
    }
    // Root, two above, one private last-level table per compound, the shared one, and the registry.
    assert_eq!(tables.table_frames(), 3 + 4 + 1 + 1);
    assert_accounted(&frames, &tables);
    assert_eq!(tables.attachments(share), Ok(28));
    assert_eq!(frame_at(&tables, va(BASE + 8 * SPAN)), Some((1, false)));
    assert_eq!(frame_at(&tables, va(BASE + 9 * SPAN - PAGE)), Some((TAIL, false)));
    assert_eq!(frame_at(&tables, va(BASE + 32 * SPAN - 1)), Some((TAIL, true)));

    // One compound goes: eight tables' worth of addresses, its own frame, its own table.
    let released = flush(tables.unmap(range(BASE, 8 * SPAN)).unwrap());
    assert_eq!(released.len(), 512 + 7);
    let shared =
        released.iter().filter(|item| matches!(item, Released::Shared { share: of, .. } if *of == share));
    assert_eq!(shared.count(), 7);
    assert_eq!(tables.attachments(share), Ok(21));
    assert_eq!(tables.free_share(share), Err(Error::ShareInUse { attachments: 21 }));
    assert_eq!(frame_at(&tables, va(BASE + 9 * SPAN)), Some((TAIL, true)));

    assert_eq!(flush(tables.unmap(range(BASE + 8 * SPAN, 24 * SPAN)).unwrap()).len(), 3 * 519);
    tables.free_share(share).unwrap();
    assert_eq!(tables.free_share(share), Err(Error::NoShare { share }));
    assert_eq!((tables.table_frames(), frames.outstanding()), (1, 1));
}

#[test]
fn a_count_waits_for_the_flush() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Run(pfn(512)), RO, NODE).unwrap();
    tables.attach(range(BASE, SPAN), share, NODE).unwrap();
    let batch = tables.unmap(range(BASE, SPAN)).unwrap();
    assert_eq!(tables.free_share(share), Err(Error::ShareInUse { attachments: 1 }));
    assert_eq!(tables.walk(va(BASE)), Ok(Walk::Pending { level: level(1) }));
    batch.cancel();
    assert_eq!(frame_at(&tables, va(BASE + 3 * PAGE)), Some((515, true)));
    assert_eq!(flush(tables.unmap(range(BASE, SPAN)).unwrap()), [Released::Shared { va: va(BASE), share }]);
    tables.free_share(share).unwrap();
}

#[test]
fn nothing_inside_can_be_changed() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE).unwrap();
    tables.map(range(BASE, SPAN), run(512, RW)).unwrap();
    tables.attach(range(BASE + SPAN, 2 * SPAN), share, NODE).unwrap();
    let (before, out) = (entries(&tables), frames.snapshot());
    let inside = va(BASE + SPAN + PAGE);
    let part = tables.unmap(range(BASE, SPAN + PAGE)).unwrap_err();
    assert_eq!(part, Error::Partial { va: va(BASE + SPAN), level: level(1) });
    let part = tables.unmap(range(BASE + 2 * SPAN + PAGE, SPAN - PAGE)).unwrap_err();
    assert_eq!(part, Error::Partial { va: va(BASE + 2 * SPAN + PAGE), level: level(1) });
    let shared = Error::Shared { va: va(BASE + SPAN) };
    assert_eq!(tables.protect(range(BASE, 2 * SPAN), RW).unwrap_err(), shared);
    assert_eq!(tables.replace(inside, pfn(TAIL), pfn(1), RW).unwrap_err(), Error::Shared { va: inside });
    assert_eq!(tables.split(inside, NODE).unwrap_err(), Error::Shared { va: inside });
    let occupied = Error::Occupied { va: inside, level: level(1) };
    assert_eq!(tables.map(range(inside.get(), PAGE), repeat(1)), Err(occupied));
    let occupied = Error::Occupied { va: va(BASE), level: level(1) };
    assert_eq!(tables.attach(range(BASE, SPAN), share, NODE), Err(occupied));
    assert_eq!(
        tables.attach(range(BASE + PAGE, SPAN), share, NODE),
        Err(Error::Misaligned { value: BASE + PAGE, align: SPAN })
    );
    assert_eq!(tables.unshare(va(BASE), NODE).unwrap_err(), Error::NotShared { va: va(BASE) });
    assert_eq!(tables.unshare(va(0), NODE).unwrap_err(), Error::NotMapped { va: va(0) });
    assert_eq!(entries(&tables), before);
    assert_eq!(frames.snapshot(), out);
    assert_eq!(tables.attachments(share), Ok(2));
}

#[test]
fn unshare_makes_a_private_copy() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE).unwrap();
    tables.attach(range(BASE, 2 * SPAN), share, NODE).unwrap();
    let token = tables.unshare(va(BASE + SPAN + 9 * PAGE), NODE).unwrap();
    assert_eq!(tables.attachments(share), Ok(2), "until the flush");
    assert_eq!(frame_at(&tables, va(BASE + SPAN)), Some((TAIL, false)));
    assert_eq!(token.flush().unwrap(), Released::Shared { va: va(BASE + SPAN), share });
    assert_eq!(tables.attachments(share), Ok(1));
    let replaced = tables.replace(va(BASE + SPAN), pfn(TAIL), pfn(5), RW).unwrap();
    assert!(replaced.flush().is_ok());
    assert_eq!(frame_at(&tables, va(BASE + SPAN)), Some((5, false)));
    assert_eq!(frame_at(&tables, va(BASE)), Some((TAIL, true)));
    assert_eq!(tables.env().tally.get(Counter::TlbFlush), 2);
    assert_accounted(&frames, &tables);
}

#[test]
fn shares_are_limited_by_the_registry_and_found_by_name() {
    let frames = TestFrames::with_frames(512);
    let tables = x86(&frames);
    let share = || tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE);
    let all: Vec<_> = (0..256).map(|_| share().unwrap()).collect();
    let out = frames.outstanding();
    assert_eq!(share(), Err(Error::TooManyShares { shares: 256 }));
    assert_eq!(frames.outstanding(), out);
    tables.free_share(all[100]).unwrap();
    let again = share().unwrap();
    assert_ne!(again, all[100]);
    assert_eq!(tables.attach(range(BASE, SPAN), all[100], NODE), Err(Error::NoShare { share: all[100] }));
    tables.attach(range(BASE, SPAN), again, NODE).unwrap();
    assert_accounted(&frames, &tables);
    // Dropping the tables gives back attached and unattached shared tables.
    drop(tables);
    frames.assert_no_leaks();
}

#[test]
fn share_refuses_levels_without_a_parent_or_leaves() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    for at in [3, 4] {
        let refused = tables.share(level(at), Backing::Repeat(pfn(0)), RO, NODE);
        assert_eq!(refused, Err(Error::BadLevel { level: level(at) }));
    }
    let misaligned = tables.share(level(1), Backing::Run(pfn(1)), RO, NODE);
    assert_eq!(misaligned, Err(Error::Misaligned { value: 1, align: 512 }));
    // A shared table of huge leaves.
    let share = tables.share(level(1), Backing::Run(pfn(0)), RO, NODE).unwrap();
    tables.attach(range(BASE, 1 << 30), share, NODE).unwrap();
    assert_eq!(frame_at(&tables, va(BASE + 3 * SPAN)), Some((3 * 512, true)));
    assert_accounted(&frames, &tables);
}

#[test]
fn a_failed_attach_takes_its_counts_back() {
    let frames = TestFrames::with_frames(64);
    let tables = x86(&frames);
    let share = tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE).unwrap();
    tables.map(range(BASE + 2 * SPAN, PAGE), run(0, RW)).unwrap();
    assert!(tables.attach(range(BASE, 3 * SPAN), share, NODE).is_err());
    assert_eq!(tables.attachments(share), Ok(0));
    tables.free_share(share).unwrap();
}

#[test]
fn counts_that_would_overflow_are_refused() {
    let frames = TestFrames::with_frames(64);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64_LA57);
    let share = tables.share(LAST, Backing::Repeat(pfn(TAIL)), RO, NODE).unwrap();
    tables.attach(range(0, SPAN), share, NODE).unwrap();
    let out = frames.snapshot();
    // 2^32 entries, and as many as fit beside the one.
    let (limit, far) = (Err(Error::ShareLimit { attachments: 1 }), 1 << 55);
    assert_eq!(tables.attach(range(far, SPAN << 32), share, NODE), limit);
    assert_eq!(tables.attach(range(far, SPAN * u64::from(u32::MAX)), share, NODE), limit);
    assert_eq!((tables.attachments(share), frames.snapshot()), (Ok(1), out));
}
