// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbered scenarios of sparse memory maps, over software pages and over page tables.
//!
//! Gaps in the numbers are intended. Number 6 is in `sections/hotplug.rs`, 14 to 16 are in `sections/altmap.rs`,
//! 24 and on in `hvo/scenarios.rs`; 22 and 37, races, are models: see `loom_tails.rs`, `loom_hvo.rs`.
#![cfg(not(mmkit_loom))]

mod common;

use common::{
    Fixture, Map, NODE_1, SoftMap, TestEnv, assert_absent, assert_content, assert_empty, balance, behind,
    expected, frames, map, order, own_and_shared, pfn, place, range, verified,
};
use mmkit_addr::{Geometry, NodeId, Order, PfnRange};
use mmkit_frame::FrameAllocator;
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{ClaimError, GetError, MemMap, PageFlags, State, Template};
use mmkit_sync::{Event, Readers};
use mmkit_vmemmap::{SpaceUsage, Usage, VmemmapError, VmemmapSpace};

const X86: Geometry = Geometry::X86_64;
/// Frames of an x86-64 section.
const SECTION: u64 = 1 << 15;
/// Frames of an x86-64 subsection.
const SUBSECTION: u64 = 1 << 9;

over_spaces! {
    scenario_01_one_section_of_single_frames;
    scenario_02_one_subsection;
    scenario_03_ranges_that_are_no_subsections;
    scenario_04_removing_what_is_not_there;
    scenario_07_every_allocation_failure_is_undone;
    scenario_08_a_section_of_2m_compounds;
    scenario_09_a_1g_compound_across_eight_sections;
    scenario_11_the_second_range_starts_in_the_middle_of_a_section;
    scenario_12_sections_of_a_compound_in_any_order;
    scenario_13_no_section_leaves_a_compound;
    scenario_18_the_smallest_order_worth_it;
    scenario_20_one_kind_of_tails_in_a_section;
    scenario_20_no_part_is_added_to_a_section_that_was_added_whole;
    scenario_21_an_off_node_frame_is_reported_once;
    scenario_23_what_is_in_a_shared_tail;
    scenario_a2_each_node_has_its_own_tails;
}

/// Runs `test` with a memory map of x86-64, then drops it and checks that nothing is left.
fn with_map<F: Fixture>(test: impl FnOnce(&Map<'_, F>, &TestFrames, &TestEnv<'_>)) {
    let frames = frames(&X86);
    let env = TestEnv::new(&frames);
    let map = map::<F, Readers>(X86, &frames, &env);
    test(&map, &frames, &env);
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// What a refused call leaves: the allocator's books, what is in the frames, and the counters.
#[track_caller]
fn unchanged<F: Fixture>(
    map: &Map<'_, F>,
    frames: &TestFrames,
    call: impl FnOnce() -> Result<(), VmemmapError>,
) -> VmemmapError {
    // SAFETY: nobody writes frames while these tests look.
    let before = (map.usage(), frames.snapshot(), unsafe { frames.contents() });
    let error = call().expect_err("this must be refused");
    // SAFETY: as above.
    let after = (map.usage(), frames.snapshot(), unsafe { frames.contents() });
    assert_eq!(before, after, "{error}");
    error
}

fn scenario_01_one_section_of_single_frames<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(3 * SECTION, SECTION);
        map.populate(all, Order::ZERO, place(0, 1)).unwrap();

        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails, usage.sections), (512, 0, 1));
        assert_eq!(usage.space.leaf_tables, u64::from(F::TABLES));
        assert_eq!(own_and_shared(map, all), (512, 0));
        assert_content(map, all, Order::ZERO, place(0, 1));
        // Each of the 32768 is a block that an allocator can have; here one in 61 is taken, used and given back.
        for pfn in all.iter().step_by(61) {
            let folio = map.claim(pfn).unwrap().allocate().into_folio();
            folio.insert(PageFlags::DIRTY);
            drop(folio);
        }
        assert_content(map, all, Order::ZERO, place(0, 1));
        assert_absent(map, range(3 * SECTION - 64, 64));
        assert_absent(map, range(4 * SECTION, 64));

        map.remove(all).unwrap();
        assert_absent(map, all);
        assert_empty(map, frames, new);
    });
}

fn scenario_02_one_subsection<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let third = range(3 * SUBSECTION, SUBSECTION);
        map.populate(third, Order::ZERO, place(0, 0)).unwrap();

        assert_eq!(balance(map, frames).own, 8);
        let present: Vec<bool> = (0..64).map(|i| map.is_present(pfn(i * SUBSECTION))).collect();
        assert_eq!(present, (0..64).map(|i| i == 3).collect::<Vec<_>>());
        assert_content(map, third, Order::ZERO, place(0, 0));

        let again = || map.populate(third, Order::ZERO, place(0, 0));
        assert_eq!(unchanged::<F>(map, frames, again), VmemmapError::Present { pfn: third.start() });
        let around = || map.populate(range(0, SECTION), Order::ZERO, place(0, 0));
        assert_eq!(unchanged::<F>(map, frames, around), VmemmapError::Present { pfn: third.start() });
        assert_content(map, third, Order::ZERO, place(0, 0));
    });
}

fn scenario_03_ranges_that_are_no_subsections<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let populate = |range| unchanged::<F>(map, frames, || map.populate(range, Order::ZERO, place(0, 0)));
        let remove = |range| unchanged::<F>(map, frames, || map.remove(range));
        let unit = order(9);
        for bad in [range(1, SUBSECTION), range(0, 511), range(0, 1), range(256, 256), range(511, 2)] {
            assert_eq!(populate(bad), VmemmapError::Misaligned { range: bad, unit });
            assert_eq!(remove(bad), VmemmapError::Misaligned { range: bad, unit });
        }
        for empty in [range(0, 0), range(SUBSECTION, 0), range(7, 0)] {
            assert_eq!(populate(empty), VmemmapError::Empty);
            assert_eq!(remove(empty), VmemmapError::Empty);
        }
        // Whole compounds, as far as a section goes.
        let half = range(0, SUBSECTION);
        let large = || map.populate(half, order(10), place(0, 0));
        let misaligned = VmemmapError::Misaligned { range: half, unit: order(10) };
        assert_eq!(unchanged::<F>(map, frames, large), misaligned);
        let huge = || map.populate(range(SUBSECTION, SECTION), order(18), place(0, 0));
        let misaligned = VmemmapError::Misaligned { range: range(SUBSECTION, SECTION), unit: order(15) };
        assert_eq!(unchanged::<F>(map, frames, huge), misaligned);
        let above = || map.populate(range(0, 1 << 19), order(19), place(0, 0));
        let too_large = VmemmapError::OrderTooLarge { order: order(19), max: order(18) };
        assert_eq!(unchanged::<F>(map, frames, above), too_large);
        // The last subsection of all is there to be had; the next one is not.
        let end = X86.max_frames();
        let beyond = range(end - SUBSECTION, 2 * SUBSECTION);
        assert_eq!(populate(beyond), VmemmapError::TooHigh { range: beyond, frames: end });
        let last = range(end - SUBSECTION, SUBSECTION);
        map.populate(last, Order::ZERO, place(0, 0)).unwrap();
        assert_content(map, last, Order::ZERO, place(0, 0));
        map.remove(last).unwrap();
        assert_eq!(balance(map, frames).sections, 0);
    });
}

fn scenario_04_removing_what_is_not_there<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let nothing = || map.remove(range(0, SUBSECTION));
        assert_eq!(unchanged::<F>(map, frames, nothing), VmemmapError::Absent { pfn: pfn(0) });

        let (lower, upper) = (range(0, SECTION / 2), range(SECTION / 2, SECTION / 2));
        map.populate(range(0, SECTION), Order::ZERO, place(0, 0)).unwrap();
        map.remove(lower).unwrap();
        assert_eq!(balance(map, frames).own, 256);
        let again = || map.remove(lower);
        assert_eq!(unchanged::<F>(map, frames, again), VmemmapError::Absent { pfn: pfn(0) });
        let all = || map.remove(range(0, SECTION));
        assert_eq!(unchanged::<F>(map, frames, all), VmemmapError::Absent { pfn: pfn(0) });
        let more = || map.remove(range(SECTION - SUBSECTION, 2 * SUBSECTION));
        assert_eq!(unchanged::<F>(map, frames, more), VmemmapError::Absent { pfn: pfn(SECTION) });
        assert_content(map, upper, Order::ZERO, place(0, 0));
        map.remove(upper).unwrap();
        assert_empty(map, frames, new);
    });
}

/// Every one of the allocations of four sections of 2M compounds fails once; `faults.rs` looks closer.
fn scenario_07_every_allocation_failure_is_undone<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let all = range(8 * SECTION, 4 * SECTION);
        let new = map.usage();
        let sweep = frames.for_each_failure(|_| {
            let result = map.populate(all, order(9), place(0, 0));
            match result {
                Ok(()) => map.remove(all).unwrap(),
                Err(error) => assert!(matches!(error, VmemmapError::NoFrame(_)), "{error}"),
            }
            assert_eq!(map.usage(), new);
            assert_absent(map, range(8 * SECTION, 1));
            result
        });
        // One node of the section table, the tail page, 64 pages in each section; tables: one in each, two above.
        let tables = if F::TABLES { 4 + 2 } else { 0 };
        assert_eq!((sweep.refused, sweep.survived), (1 + 1 + 4 * 64 + tables, 0));
    });
}

/// Keep one: entry 0 of each eight is the compound's own, the other seven are the tail page.
fn scenario_08_a_section_of_2m_compounds<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(5 * SECTION, SECTION);
        map.populate(all, order(9), place(0, 0)).unwrap();

        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails, usage.sections), (64, 1, 1));
        assert_eq!((usage.space.leaf_tables, usage.space.shared_tables), (u64::from(F::TABLES), 0));
        assert_eq!(own_and_shared(map, all), (64, 448));
        let tail = behind(map, pfn(5 * SECTION + 64));
        for page in 0..512 {
            let shared = behind(map, pfn(5 * SECTION + page * 64)) == tail;
            assert_eq!(shared, page % 8 != 0, "entry {page}");
        }
        assert_content(map, all, order(9), place(0, 0));

        map.remove(all).unwrap();
        assert_empty(map, frames, new);
    });
}

/// 36864 bytes with eight tables, 8192 with one of its own and one that all such compounds share.
fn scenario_09_a_1g_compound_across_eight_sections<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(1 << 18, 1 << 18);
        map.populate(all, order(18), place(0, 0)).unwrap();

        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails, usage.sections), (1, 1, 1));
        let tail = behind(map, pfn((1 << 18) + 64));
        for section in 0..8 {
            let part = range((1 << 18) + section * SECTION, SECTION);
            let pages = part.iter().step_by(64).map(|pfn| behind(map, pfn));
            let private = pages.filter(|&page| page != tail).count();
            assert_eq!(private, usize::from(section == 0), "section {section}");
        }
        if F::TABLES {
            assert_eq!((usage.space.leaf_tables, usage.space.shared_tables), (1, 1));
            assert_eq!((usage.own + usage.space.leaf_tables) * 4096, 8192);
            assert_eq!((usage.own + X86.section_vmemmap_bytes() * 8 / 4096 / 512) * 4096, 36864);
        }
        assert_content(map, all, order(18), place(0, 0));

        // The next one costs two pages, and takes from what is shared.
        map.populate(range(2 << 18, 1 << 18), order(18), place(0, 0)).unwrap();
        let two = balance(map, frames);
        assert_eq!((two.own, two.tails), (2, 1));
        let tables = u64::from(F::TABLES);
        assert_eq!((two.space.leaf_tables, two.space.shared_tables), (2 * tables, tables));

        map.remove(range(1 << 18, 2 << 18)).unwrap();
        assert_empty(map, frames, new);
    });
}

/// The phase of compounds follows from frame numbers alone (they are naturally aligned), so neither where a range
/// starts nor what was populated before it matters.
fn scenario_11_the_second_range_starts_in_the_middle_of_a_section<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let first = range(0, SECTION + 16 * SUBSECTION);
        let second = range(SECTION + 40 * SUBSECTION, 40 * SUBSECTION);
        map.populate(first, order(10), place(0, 0)).unwrap();
        map.populate(second, order(10), place(0, 0)).unwrap();
        assert_content(map, first, order(10), place(0, 0));
        assert_content(map, second, order(10), place(0, 0));
        assert_absent(map, range(SECTION + 16 * SUBSECTION, 24 * SUBSECTION));
        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails), ((64 + 16 + 40) / 2, 1));
        assert_eq!(own_and_shared(map, second), (20, 300));
        // A range that starts inside a compound would have to start with its second half.
        let odd = range(4 * SECTION + SUBSECTION, 2 * SUBSECTION);
        let call = || map.populate(odd, order(10), place(0, 0));
        let misaligned = VmemmapError::Misaligned { range: odd, unit: order(10) };
        assert_eq!(unchanged::<F>(map, frames, call), misaligned);
    });
}

fn scenario_12_sections_of_a_compound_in_any_order<F: Fixture>() {
    let orders: [[u64; 8]; 4] = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [7, 6, 5, 4, 3, 2, 1, 0],
        [3, 7, 1, 0, 6, 2, 5, 4],
        [5, 0, 3, 4, 1, 7, 2, 6],
    ];
    let at_once = std::cell::Cell::new(None::<Usage>);
    with_map::<F>(|map, frames, _| {
        map.populate(range(0, 1 << 18), order(18), place(0, 0)).unwrap();
        at_once.set(Some(balance(map, frames)));
    });
    for sections in orders {
        with_map::<F>(|map, frames, _| {
            let new = map.space().usage();
            for (done, section) in sections.into_iter().enumerate() {
                map.populate(range(section * SECTION, SECTION), order(18), place(0, 0)).unwrap();
                let head = sections[..=done].contains(&0);
                assert_eq!(balance(map, frames).own, u64::from(head), "{:?}", &sections[..=done]);
                // A tail whose head is not there belongs to nobody.
                let found = map.try_get(pfn(section * SECTION + 77)).map(drop);
                let absent = GetError::Absent { pfn: pfn(0) };
                let free = GetError::Unreferenced { pfn: pfn(0) };
                assert_eq!(found, Err(if head { free } else { absent }));
            }
            assert_eq!(Some(map.usage()), at_once.get());
            for section in 0..8 {
                assert_content(map, range(section * SECTION, 130), order(18), place(0, 0));
                assert_content(map, range(section * SECTION + SECTION - 65, 65), order(18), place(0, 0));
            }
            assert_eq!(own_and_shared(map, range(0, 1 << 18)), (1, 4095));
            map.remove(range(0, 1 << 18)).unwrap();
            assert_empty(map, frames, new);
        });
    }
}

fn scenario_13_no_section_leaves_a_compound<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(1 << 18, 1 << 18);
        map.populate(all, order(18), place(0, 0)).unwrap();
        let section = |n: u64, count: u64| range((1 << 18) + n * SECTION, count * SECTION);
        let cut = VmemmapError::CutsCompound { head: all.start(), order: order(18) };
        for part in [section(5, 1), section(0, 1), section(1, 7), section(0, 7), section(7, 1)] {
            assert_eq!(unchanged::<F>(map, frames, || map.remove(part)), cut, "{part:?}");
        }
        let small = range((1 << 18) + SUBSECTION, SUBSECTION);
        assert_eq!(unchanged::<F>(map, frames, || map.remove(small)), cut);
        assert_eq!(own_and_shared(map, all), (1, 4095));

        // In use, it stays as a whole.
        let folio = map.claim(all.start()).unwrap().allocate().into_folio();
        let busy = VmemmapError::Busy { pfn: all.start() };
        assert_eq!(unchanged::<F>(map, frames, || map.remove(all)), busy);
        drop(folio);
        map.remove(all).unwrap();
        assert_empty(map, frames, new);
    });
}

/// Order 7 with 4K pages: two vmemmap pages, of which one is saved. (Linux's device-dax wanted more than two.)
fn scenario_18_the_smallest_order_worth_it<F: Fixture>() {
    assert_eq!(X86.min_dedup_order(), order(7));
    with_map::<F>(|map, frames, _| {
        let all = range(0, SUBSECTION);
        map.populate(all, order(7), place(0, 0)).unwrap();
        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails), (4, 1));
        assert_eq!(own_and_shared(map, all), (4, 4));
        assert_content(map, all, order(7), place(0, 0));

        // One order less has nothing to share.
        let other = range(SUBSECTION, SUBSECTION);
        map.populate(other, order(6), place(0, 0)).unwrap();
        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails), (12, 1));
        assert_content(map, other, order(6), place(0, 0));
    });
}

/// Larger base pages: what a 2M compound describes is less than a page; what a 32M, a 512M or a 16G one does is saved but
/// for one page. Over software pages: no processor has these sizes in x86-64's format.
#[test]
fn scenario_19_larger_base_pages() {
    for (geometry, order_of, own, shared) in [
        (Geometry::ARM64_16K, 7, 8, 0),
        (Geometry::ARM64_16K, 11, 1, 7),
        (Geometry::ARM64_64K, 5, 8, 0),
        (Geometry::ARM64_64K, 13, 1, 7),
        (Geometry::ARM64_64K, 18, 1, 255),
    ] {
        let frames = frames(&geometry);
        let env = TestEnv::<Readers>::new(&frames);
        let map: SoftMap<'_> = map::<common::InSoftware, _>(geometry, &frames, &env);
        let pages = (own + shared) * geometry.descriptors_per_page();
        let all = range(1 << 18, pages.max(order(order_of).frames()));
        map.populate(all, order(order_of), place(0, 0)).unwrap();
        let usage = balance(&map, &frames);
        assert_eq!((usage.own, usage.tails), (own, u64::from(shared > 0)), "{geometry}, {order_of}");
        assert_eq!(own_and_shared(&map, all), (own, shared), "{geometry}, {order_of}");
        assert_content(&map, all, order(order_of), place(0, 0));
        map.space().check_tails();
        map.remove(all).unwrap();
        assert_empty(&map, &frames, SpaceUsage::default());
    }
}

/// Sharing goes by subsection here (Linux tags whole sections, and refuses any partial addition to a tagged one): more of
/// the same kind, and single frames, may be added; another kind of tails may not, until the first is gone.
fn scenario_20_one_kind_of_tails_in_a_section<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let sub = |n: u64, count: u64| range(SECTION + n * SUBSECTION, count * SUBSECTION);
        map.populate(sub(0, 1), order(9), place(0, 0)).unwrap();
        let other = VmemmapError::OtherTails { pfn: pfn(SECTION), order: order(9), place: place(0, 0) };
        let refused =
            |range: PfnRange, o: u8, at| unchanged::<F>(map, frames, || map.populate(range, order(o), at));
        assert_eq!(refused(sub(2, 2), 10, place(0, 0)), other);
        assert_eq!(refused(sub(2, 2), 9, place(0, 1)), other);
        assert_eq!(refused(sub(2, 2), 9, place(1, 0)), other);
        assert_eq!(
            refused(range(0, 2 * SECTION), 18, place(0, 0)),
            VmemmapError::Present { pfn: pfn(SECTION) }
        );
        // The compound would reach into this section, though its first section is free.
        assert_eq!(refused(range(0, SECTION), 18, place(0, 0)), other);

        map.populate(sub(5, 1), Order::ZERO, place(0, 1)).unwrap();
        map.populate(sub(7, 2), order(9), place(0, 0)).unwrap();
        map.populate(sub(9, 1), order(6), place(1, 0)).unwrap();
        assert_content(map, sub(0, 1), order(9), place(0, 0));
        assert_content(map, sub(5, 1), Order::ZERO, place(0, 1));
        assert_content(map, sub(7, 2), order(9), place(0, 0));
        assert_content(map, sub(9, 1), order(6), place(1, 0));
        assert_eq!((balance(map, frames).own, map.usage().tails), (1 + 8 + 2 + 8, 1));

        map.remove(sub(0, 1)).unwrap();
        assert_eq!(refused(sub(2, 2), 10, place(0, 0)), other);
        map.remove(sub(7, 2)).unwrap();
        assert_eq!(balance(map, frames).tails, 0);
        map.populate(sub(2, 2), order(10), place(0, 1)).unwrap();
        assert_content(map, sub(2, 2), order(10), place(0, 1));

        // Single frames bar a compound that has them; tails without a head bar single frames.
        map.remove(sub(2, 2)).unwrap();
        let single = VmemmapError::Present { pfn: sub(5, 1).start() };
        assert_eq!(refused(range(0, SECTION), 18, place(0, 0)), single);
        map.remove(sub(5, 1)).unwrap();
        map.remove(sub(9, 1)).unwrap();
        map.populate(range(SECTION, SECTION), order(18), place(0, 0)).unwrap();
        let tails = VmemmapError::OtherTails { pfn: pfn(SECTION), order: order(18), place: place(0, 0) };
        assert_eq!(refused(range(0, SUBSECTION), 0, place(0, 0)), tails);
        assert_eq!(refused(range(2 * SECTION, SUBSECTION), 9, place(0, 0)), tails);
        assert_eq!(refused(range(0, SECTION), 18, place(0, 1)), tails);
        map.populate(range(1 << 18, SUBSECTION), Order::ZERO, place(0, 0)).unwrap();
        map.remove(range(1 << 18, SUBSECTION)).unwrap();
        map.remove(range(SECTION, SECTION)).unwrap();
        assert_empty(map, frames, new);
    });
}

/// What was optimised as a section is not completed in parts: Linux's rule, for what it is about.
fn scenario_20_no_part_is_added_to_a_section_that_was_added_whole<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let (whole, sub) = (range(SECTION, SECTION), |n: u64| range(SECTION + n * SUBSECTION, SUBSECTION));
        map.populate(whole, order(9), place(0, 0)).unwrap();
        map.remove(sub(7)).unwrap();
        for o in [0, 6, 9] {
            let error = unchanged::<F>(map, frames, || map.populate(sub(7), order(o), place(0, 0)));
            let piecewise = VmemmapError::Piecewise { pfn: pfn(SECTION), order: order(9) };
            assert_eq!((error, error.errno()), (piecewise, 95));
        }
        let other = unchanged::<F>(map, frames, || map.populate(sub(7), order(15), place(0, 0)));
        assert!(matches!(other, VmemmapError::Misaligned { .. }), "{other}");
        let tag = unchanged::<F>(map, frames, || map.populate(sub(7), order(8), place(0, 0)));
        let tails = VmemmapError::OtherTails { pfn: pfn(SECTION), order: order(9), place: place(0, 0) };
        assert_eq!((tag, tag.errno()), (tails, 95));
        map.remove(range(SECTION, 7 * SUBSECTION)).unwrap();
        map.remove(range(SECTION + 8 * SUBSECTION, SECTION - 8 * SUBSECTION)).unwrap();
        assert_empty(map, frames, new);
        // Nothing of it is left: anything may come.
        map.populate(sub(7), order(8), place(0, 1)).unwrap();
        map.populate(sub(6), order(8), place(0, 1)).unwrap();
        assert_eq!(verified(map, frames).own, 4);
    });
}

fn scenario_21_an_off_node_frame_is_reported_once<F: Fixture>() {
    with_map::<F>(|map, frames, env| {
        frames.set_node_budget(NodeId::new(1).unwrap(), 3);
        map.populate(range(0, SECTION), Order::ZERO, place(1, 0)).unwrap();
        let events = env.log.take();
        let [Event::OffNode { wanted: 1, got: 0, pfn }] = events[..] else { panic!("{events:?}") };
        assert_eq!(frames.node_of(common::pfn(pfn)), NodeId::new(0));
        map.populate(range(SECTION, SECTION), Order::ZERO, place(1, 0)).unwrap();
        assert_eq!(env.log.take(), []);
        // The descriptors say what they were told, wherever they are.
        assert_content(map, range(0, SECTION), Order::ZERO, place(1, 0));
        balance(map, frames);
    });
}

/// A tail's map count is not there to be -1: a shared tail has no per-frame state, and its words are zero. That nothing
/// writes it is by type; what a stray write does is tested where a real MMU watches.
fn scenario_23_what_is_in_a_shared_tail<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let at = place(0, 5);
        let all = range(0, SUBSECTION);
        map.populate(all, order(9), at).unwrap();
        let reader = map.enter();
        let words: Vec<_> = (64..128).map(|tail| reader.page(pfn(tail)).unwrap().words()).collect();
        for words in &words {
            let info = 9; // its order
            assert_eq!(words, &[at.bits(), info, 0, 0, 0, 0, 0, 0]);
            assert_eq!(words, &Template::tail(order(9), at).words());
        }
        let page = reader.page(pfn(300)).unwrap();
        assert_eq!((page.state(), page.place()), (State::Tail { order: order(9) }, at));
        assert_eq!((page.head(), page.flags()), (pfn(0), PageFlags::empty()));
        drop(reader);

        // All that can be asked of it goes to the head, or is refused.
        let tail = behind(map, pfn(64));
        assert_eq!(map.try_get(pfn(300)).map(drop), Err(GetError::Unreferenced { pfn: pfn(0) }));
        assert_eq!(map.claim(pfn(300)).map(drop), Err(ClaimError::Taken { pfn: pfn(300) }));
        let folio = map.claim(pfn(0)).unwrap().allocate().into_folio();
        let again = map.try_get(pfn(300)).unwrap();
        again.insert(PageFlags::DIRTY | PageFlags::HWPOISON);
        assert_eq!((again.pfn(), again.order()), (pfn(0), order(9)));
        let frozen = again.put().map_or_else(|| folio.put(), Some).unwrap();
        assert!(frozen.has_shared_tails());
        let frozen = frozen.unprep().unwrap_err().handle;
        // A frame that the hardware reported is not free again before somebody says so.
        let mut frozen = frozen.into_free().unwrap_err().handle;
        assert!(frozen.remove_at(0..1, PageFlags::HWPOISON));
        let free = frozen.into_free().unwrap().split().unwrap_err().handle;
        drop(free);
        let reader = map.enter();
        let later: Vec<_> = (64..128).map(|tail| reader.page(pfn(tail)).unwrap().words()).collect();
        drop(reader);
        assert_eq!((later, behind(map, pfn(64))), (words, tail));
        assert_eq!(expected(&X86, 64, order(9), at), Template::tail(order(9), at).words());
        balance(map, frames);
    });
}

/// A page of descriptors is larger than what a subsection needs: it stays while any of its subsections does.
#[test]
fn scenario_a1_subsections_smaller_than_a_vmemmap_page() {
    for (geometry, sharers) in [(Geometry::ARM64_16K, 2), (Geometry::ARM64_64K, 32)] {
        let frames = frames(&geometry);
        let env = TestEnv::<Readers>::new(&frames);
        let map: SoftMap<'_> = map::<common::InSoftware, _>(geometry, &frames, &env);
        let size = geometry.frames_per_subsection();
        assert_eq!(size * sharers, geometry.descriptors_per_page());
        let sub = |n: u64| range((1 << 16) + n * size, size);
        let at = |n: u64| place((n % 3) as u16, (n % 2) as u8);

        for n in 0..sharers {
            map.populate(sub(n), Order::ZERO, at(n)).unwrap();
            let usage = balance(&map, &frames);
            assert_eq!((usage.own, usage.sections), (1, 1), "{geometry}, {n}");
            for m in 0..sharers {
                let present = m <= n;
                assert_eq!(map.is_present(sub(m).start()), present);
                if present {
                    assert_content(&map, sub(m), Order::ZERO, at(m));
                }
            }
        }
        // The neighbour of a subsection in use, from the middle outwards and back in.
        let held = map.claim(sub(1).start()).unwrap();
        map.remove(sub(0)).unwrap();
        assert_eq!(map.remove(sub(1)), Err(VmemmapError::Busy { pfn: sub(1).start() }));
        assert_eq!(balance(&map, &frames).own, 1);
        assert_absent(&map, sub(0));
        map.populate(sub(0), order(3), at(1)).unwrap();
        assert_content(&map, sub(0), order(3), at(1));
        drop(held);
        for n in 0..sharers {
            assert_eq!(balance(&map, &frames).own, 1, "{geometry}, {n}");
            map.remove(sub(n)).unwrap();
            assert_absent(&map, sub(n));
            for m in n + 1..sharers {
                assert_content(&map, sub(m), Order::ZERO, at(m));
            }
        }
        assert_empty(&map, &frames, SpaceUsage::default());
        // One unmap for all of it: when the last one went.
        assert_eq!((map.space().unmaps(), map.space().flushes()), (1, 1));
    }
}

/// The same zone and order on two nodes.
fn scenario_a2_each_node_has_its_own_tails<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let (first, second) = (range(0, SECTION), range(SECTION, SECTION));
        map.populate(first, order(9), place(0, 1)).unwrap();
        map.populate(second, order(9), place(1, 1)).unwrap();
        let usage = balance(map, frames);
        assert_eq!((usage.own, usage.tails), (128, 2));
        let tails = [behind(map, pfn(64)), behind(map, pfn(SECTION + 64))];
        assert_ne!(tails[0], tails[1]);
        for (part, own, other) in [(first, tails[0], tails[1]), (second, tails[1], tails[0])] {
            let pages: Vec<_> = part.iter().step_by(64).map(|pfn| behind(map, pfn)).collect();
            assert_eq!(pages.iter().filter(|&&page| page == own).count(), 448);
            assert!(!pages.contains(&other));
        }
        assert_content(map, first, order(9), place(0, 1));
        assert_content(map, second, order(9), place(1, 1));
        // Each is on its node, and goes with its own last user.
        let out = frames.outstanding_on(NodeId::new(1).unwrap());
        assert!(out >= 65, "{out}");
        map.remove(first).unwrap();
        assert_eq!(balance(map, frames).tails, 1);
        assert_content(map, second, order(9), place(1, 1));
        map.remove(second).unwrap();
        assert_empty(map, frames, new);
        assert!(frames.outstanding_blocks().iter().all(|block| block.pfn.get() < NODE_1));
    });
}
