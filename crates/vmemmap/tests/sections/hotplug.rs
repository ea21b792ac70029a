// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boot memory, memory that comes online and goes offline, and what else a request can say.

use crate::common::{
    Fixture, InSoftware, Map, TestEnv, assert_absent, assert_content, assert_empty, frames, map, order, pfn,
    place, range, verified,
};
use mmkit_addr::{Geometry, NodeId, Order, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{ClaimError, MemMap};
use mmkit_sync::Readers;
use mmkit_vmemmap::{Behind, Populate, SpaceUsage, VmemmapError, VmemmapSpace};

const X86: Geometry = Geometry::X86_64;
/// Frames of an x86-64 section.
const SECTION: u64 = 1 << 15;
/// Frames of an x86-64 subsection.
const SUBSECTION: u64 = 1 << 9;

over_spaces! {
    scenario_06_an_early_section_goes_as_a_whole;
    a_hole_in_boot_memory_is_filled_and_never_shares;
    boot_memory_in_whole_sections_shares;
    early_ranges_that_meet_in_a_section;
    what_is_no_boot_memory_does_not_become_it;
    offline_frames_cannot_be_claimed;
    offline_refuses_what_is_in_use;
    removing_offline_memory;
    compounds_go_offline_as_a_whole;
    every_pageblock_is_set;
    strict_requests_stay_on_their_node;
    a_compound_with_a_hole_goes_piece_by_piece;
    a_compound_with_a_hole_is_online_or_offline;
    strict_requests_take_tails_from_their_node;
}

fn with_map<F: Fixture>(test: impl FnOnce(&Map<'_, F>, &TestFrames, &TestEnv<'_>)) {
    let frames = frames(&X86);
    let env = TestEnv::new(&frames);
    let map = map::<F, Readers>(X86, &frames, &env).poisoned(0x5afe_0000_dead_beef);
    test(&map, &frames, &env);
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// Part `n` of section 1, `count` subsections.
fn sub(n: u64, count: u64) -> PfnRange {
    range(SECTION + n * SUBSECTION, count * SUBSECTION)
}

/// Boot memory with a hole: descriptor memory for all of the section, until the last subsection goes. (The section table
/// keeps nothing of a section that is gone, so there is no usage to be reused.)
fn scenario_06_an_early_section_goes_as_a_whole<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let hole = sub(10, 5);
        map.populate_with(Populate::new(sub(0, 10)).early()).unwrap();
        map.populate_with(Populate::new(sub(15, 49)).early()).unwrap();
        let state = map.section(pfn(SECTION)).unwrap();
        assert!(state.early && state.is_partial() && state.online);
        assert_eq!(verified(map, frames).own, 512);
        assert_absent(map, hole);
        assert!(hole.iter().all(|pfn| map.is_covered(pfn)));
        assert!(!map.is_covered(pfn(SECTION - 1)) && !map.is_covered(pfn(2 * SECTION)));

        // All but one: the memory stays.
        let mut left: Vec<u64> = (0..64).filter(|n| !(10..15).contains(n)).collect();
        while left.len() > 1 {
            let n = left.remove(left.len() * 5 / 7);
            map.remove(sub(n, 1)).unwrap();
            assert_absent(map, sub(n, 1));
            let again = || map.remove(sub(n, 1));
            let absent = VmemmapError::Absent { pfn: sub(n, 1).start() };
            assert_eq!((again().unwrap_err(), absent.errno()), (absent, 22));
        }
        assert_eq!(verified(map, frames).own, 512);
        map.remove(sub(left[0], 1)).unwrap();
        assert_empty(map, frames, new);
        assert_eq!(map.section(pfn(SECTION)), None);

        // Added again it is like any other: of a part, a part is taken.
        map.populate(sub(3, 2), Order::ZERO, place(0, 0)).unwrap();
        assert_eq!(map.section(pfn(SECTION)).map(|state| (state.early, state.present)), Some((false, 2)));
        assert_eq!(verified(map, frames).own, 16);
        map.remove(sub(3, 2)).unwrap();
        assert_empty(map, frames, new);
    });
}

/// A device's memory hot-added into the hole of an early section: the memory from boot is reused, every descriptor of it
/// is written, tails too, and nothing is shared. (A kernel once left the tails as they were.)
fn a_hole_in_boot_memory_is_filled_and_never_shares<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        map.populate_with(Populate::new(sub(0, 32)).early()).unwrap();
        let before = verified(map, frames);
        let hole = sub(40, 8);
        map.populate(hole, order(9), place(1, 3)).unwrap();
        // `verify` would find a descriptor that still holds the poison.
        assert_eq!(verified(map, frames), before);
        let reader = map.enter();
        for pfn in hole {
            let page = reader.page(pfn).unwrap();
            assert_eq!((page.head(), page.place()), (pfn.align_down(order(9)), place(1, 3)));
            let template = if pfn.is_aligned(order(9)) {
                mmkit_page::Template::head(order(9), place(1, 3))
            } else {
                mmkit_page::Template::tail(order(9), place(1, 3))
            };
            assert_eq!(page.words(), template.words(), "{pfn:?}");
        }
        drop(reader);
        // Its descriptors are its own, so it can be broken up.
        let free = map.claim(hole.start()).unwrap().allocate().unprep().unwrap().into_free().unwrap();
        drop(free);
        map.remove(sub(0, 32)).unwrap();
        assert_eq!(verified(map, frames).own, 512);
        map.remove(hole).unwrap();
        assert_empty(map, frames, new);
    });
}

/// Gigantic pages set aside at boot: whole sections share, and are not completed in parts.
fn boot_memory_in_whole_sections_shares<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(SECTION, SECTION);
        map.populate_with(Populate::new(all).compounds(order(9)).early()).unwrap();
        let usage = verified(map, frames);
        assert_eq!((usage.own, usage.tails), (64, 1));
        assert_content(map, all, order(9), place(0, 0));
        map.remove(sub(3, 2)).unwrap();
        assert_absent(map, sub(3, 2));
        let usage = verified(map, frames);
        assert_eq!((usage.own, usage.tails), (64, 1));
        for o in [0, 9] {
            let refused = map.populate(sub(3, 1), order(o), place(0, 0));
            assert_eq!(refused, Err(VmemmapError::Piecewise { pfn: pfn(SECTION), order: order(9) }));
        }
        map.remove(sub(0, 3)).unwrap();
        map.remove(sub(5, 59)).unwrap();
        assert_empty(map, frames, new);
    });
}

fn early_ranges_that_meet_in_a_section<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        // From the middle of section 1 to the middle of section 3, then up to the middle of section 4.
        let (low, high) = (range(SECTION + 8192, 2 * SECTION), range(3 * SECTION + 16384, SECTION));
        map.populate_with(Populate::new(low).early().at(place(0, 1))).unwrap();
        assert_eq!(verified(map, frames).own, 3 * 512);
        map.populate_with(Populate::new(high).early().at(place(1, 0))).unwrap();
        assert_eq!(verified(map, frames).own, 4 * 512);
        assert_content(map, low, Order::ZERO, place(0, 1));
        assert_content(map, high, Order::ZERO, place(1, 0));
        for hole in [range(SECTION, 8192), range(3 * SECTION + 8192, 8192)] {
            assert_absent(map, hole);
            assert!(map.is_covered(hole.start()));
        }
        // A removal over all kinds of sections: 1 keeps others, 2 goes, 3 keeps others.
        map.remove(range(SECTION + 16384, SECTION + 16384 + 4096)).unwrap();
        assert_eq!(verified(map, frames).own, 3 * 512);
        assert!(!map.is_covered(pfn(2 * SECTION)) && map.is_covered(pfn(3 * SECTION)));
        map.remove(range(SECTION + 8192, 8192)).unwrap();
        map.remove(range(3 * SECTION + 4096, 4096)).unwrap();
        assert_eq!(verified(map, frames).own, 2 * 512);
        map.remove(high).unwrap();
        assert_empty(map, frames, new);
    });
}

fn what_is_no_boot_memory_does_not_become_it<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        map.populate(sub(5, 1), Order::ZERO, place(0, 0)).unwrap();
        let refused = map.populate_with(Populate::new(sub(0, 2)).early());
        assert_eq!(refused, Err(VmemmapError::Present { pfn: sub(5, 1).start() }));
        let device = crate::common::Device::new(frames);
        let part = range(device.start() + 4 * SUBSECTION, SUBSECTION);
        map.populate_with(Populate::new(part).early()).unwrap();
        let mut altmap = device.altmap(0, 512);
        let whole = range(device.start(), 3 * SUBSECTION);
        let refused = map.populate_with(Populate::new(whole).altmap(&mut altmap)).unwrap_err();
        assert_eq!((refused, refused.errno()), (VmemmapError::Early { pfn: device.1 }, 22));
        map.remove(part).unwrap();
        map.remove(sub(5, 1)).unwrap();
        assert_eq!(verified(map, frames).own, 0);
    });
}

fn offline_frames_cannot_be_claimed<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let (lower, upper) = (range(SECTION, SECTION), range(2 * SECTION, 4 * SUBSECTION));
        let sections = range(SECTION, 2 * SECTION);
        map.populate_with(Populate::new(lower).compounds(order(9)).offline()).unwrap();
        map.populate_with(Populate::new(upper).compounds(order(3)).offline()).unwrap();
        assert_eq!(map.section(upper.start()).map(|state| state.online), Some(false));
        let taken = |at: u64| map.claim(pfn(at)).map(drop) == Err(ClaimError::Taken { pfn: pfn(at) });
        assert!(taken(SECTION) && taken(2 * SECTION) && taken(2 * SECTION + 8));
        assert_eq!(map.offline(sections), Err(VmemmapError::Offline { pfn: pfn(SECTION) }));
        // A section is the one or the other.
        let more = map.populate(range(2 * SECTION + 8 * SUBSECTION, SUBSECTION), Order::ZERO, place(0, 0));
        assert_eq!(more, Err(VmemmapError::Offline { pfn: pfn(2 * SECTION) }));
        verified(map, frames);

        map.online(sections).unwrap();
        verified(map, frames);
        assert_content(map, lower, order(9), place(0, 0));
        assert_content(map, upper, order(3), place(0, 0));
        assert_eq!(map.online(sections), Err(VmemmapError::Online { pfn: pfn(SECTION) }));
        let hidden = Populate::new(range(2 * SECTION + 8 * SUBSECTION, SUBSECTION)).offline();
        assert_eq!(map.populate_with(hidden), Err(VmemmapError::Online { pfn: pfn(2 * SECTION) }));
        drop(map.claim(pfn(SECTION)).unwrap().allocate().into_folio());

        map.offline(sections).unwrap();
        assert!(taken(SECTION) && taken(2 * SECTION));
        let absent = map.offline(range(0, SECTION));
        assert_eq!(absent, Err(VmemmapError::Absent { pfn: pfn(0) }));
        map.online(sections).unwrap();
        map.remove(lower).unwrap();
        map.remove(upper).unwrap();
        assert_empty(map, frames, new);
    });
}

fn offline_refuses_what_is_in_use<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let all = range(SECTION, SECTION);
        map.populate(all, order(9), place(0, 0)).unwrap();
        let ranges = [all];
        let before = crate::common::digest::digest(map, frames, &ranges);
        for at in [0, 31, 63] {
            let head = pfn(SECTION + at * SUBSECTION);
            let held = map.claim(head).unwrap().allocate().into_folio();
            let busy = map.offline(all).unwrap_err();
            assert_eq!((busy, busy.errno()), (VmemmapError::Busy { pfn: head }, 16));
            drop(held);
            assert_eq!(crate::common::digest::digest(map, frames, &ranges), before);
        }
        map.offline(all).unwrap();
        map.online(all).unwrap();
        assert_eq!(crate::common::digest::digest(map, frames, &ranges), before);
    });
}

fn removing_offline_memory<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let all = range(SECTION, SECTION);
        map.populate_with(Populate::new(all)).unwrap();
        // A free block over two subsections goes offline as it is, and is not cut.
        map.claim_joined(pfn(SECTION), order(10)).map(drop).unwrap();
        map.offline(all).unwrap();
        assert_eq!(map.remove(sub(0, 1)), Err(VmemmapError::Busy { pfn: pfn(SECTION) }));
        assert_eq!(map.remove(sub(1, 1)), Err(VmemmapError::Busy { pfn: sub(1, 1).start() }));
        map.remove(sub(0, 2)).unwrap();
        map.remove(sub(10, 1)).unwrap();
        verified(map, frames);
        map.online(all).unwrap();
        assert_content(map, sub(11, 53), Order::ZERO, place(0, 0));
        map.offline(all).unwrap();
        map.remove(sub(2, 8)).unwrap();
        map.remove(sub(11, 53)).unwrap();
        assert_empty(map, frames, new);
        // The state went with the section.
        map.populate(all, order(9), place(0, 0)).unwrap();
        assert!(map.section(all.start()).unwrap().online);
        map.remove(all).unwrap();
    });
}

fn compounds_go_offline_as_a_whole<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let all = range(1 << 18, 1 << 18);
        map.populate(all, order(18), place(0, 0)).unwrap();
        let before = map.usage();
        let part = range((1 << 18) + SECTION, 2 * SECTION);
        let cut = VmemmapError::CutsCompound { head: all.start(), order: order(18) };
        assert_eq!(map.offline(part), Err(cut));
        let held = map.claim(all.start()).unwrap();
        assert_eq!(map.offline(all), Err(VmemmapError::Busy { pfn: all.start() }));
        drop(held);
        map.offline(all).unwrap();
        assert_eq!(map.online(part), Err(cut));
        assert_eq!((verified(map, frames), map.claim(all.start()).is_err()), (before, true));
        map.remove(all).unwrap();
        assert_eq!(verified(map, frames).own, 0);
    });
}

/// Every pageblock comes, in the middle of a 1G compound too. (A kernel once set those of heads only.)
fn every_pageblock_is_set<F: Fixture>() {
    with_map::<F>(|map, _, env| {
        let said = || std::mem::take(&mut *env.pageblocks.lock().unwrap());
        map.populate_with(Populate::new(range(1 << 18, 1 << 18)).compounds(order(18)).pageblocks(3)).unwrap();
        let all: Vec<_> = (512..1024).map(|block| (block * 512, 9, 3)).collect();
        assert_eq!(said(), all);
        map.populate_with(Populate::new(sub(3, 2)).pageblocks(1)).unwrap();
        assert_eq!(said(), [(SECTION + 3 * 512, 9, 1), (SECTION + 4 * 512, 9, 1)]);
        // Nothing is said of what is refused, or was not asked.
        let refused = map.populate_with(Populate::new(sub(3, 2)).pageblocks(1));
        assert_eq!(refused, Err(VmemmapError::Present { pfn: sub(3, 1).start() }));
        map.populate(sub(0, 1), Order::ZERO, place(0, 0)).unwrap();
        assert_eq!(said(), []);
    });
}

/// Where a pageblock is larger than a subsection, the one that a range has a part in is said.
#[test]
fn pageblocks_of_larger_base_pages() {
    for (geometry, o) in [(Geometry::ARM64_16K, 11), (Geometry::ARM64_64K, 13)] {
        let frames = frames(&geometry);
        let env = TestEnv::<Readers>::new(&frames);
        let map = map::<InSoftware, _>(geometry, &frames, &env);
        let size = 1u64 << o;
        let start = 4 * size + geometry.frames_per_subsection();
        map.populate_with(Populate::new(range(start, size)).pageblocks(5)).unwrap();
        let said = env.pageblocks.lock().unwrap().clone();
        assert_eq!(said, [(4 * size, o, 5), (5 * size, o, 5)], "{geometry}");
    }
}

fn strict_requests_stay_on_their_node<F: Fixture>() {
    with_map::<F>(|map, frames, env| {
        let node = NodeId::new(1).unwrap();
        frames.set_node_budget(node, 3);
        let new = map.usage();
        let error = map.populate_with(Populate::new(range(SECTION, SECTION)).at(place(1, 0)).strict());
        let Err(VmemmapError::NoFrame(refused)) = error else { panic!("{error:?}") };
        assert!(refused.request.strict && refused.request.node == node);
        assert_eq!((verified(map, frames), env.log.take()), (new, vec![]));
        frames.heal();
        map.populate_with(Populate::new(range(SECTION, SECTION)).at(place(1, 0)).strict()).unwrap();
        assert!(frames.outstanding_on(node) >= 512);
    });
}

/// Sections of a 1G compound that never came: what did come can go again, unless somebody has the compound.
fn a_compound_with_a_hole_goes_piece_by_piece<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let section = |n: u64, count: u64| range((1 << 18) + n * SECTION, count * SECTION);
        map.populate(section(0, 3), order(18), place(0, 0)).unwrap();
        map.populate(section(5, 3), order(18), place(0, 0)).unwrap();
        let head = section(0, 1).start();
        let held = map.claim(head).unwrap();
        for part in [section(1, 2), section(5, 1), section(7, 1), section(0, 3)] {
            assert_eq!(map.remove(part), Err(VmemmapError::Busy { pfn: head }), "{part:?}");
        }
        drop(held);
        map.remove(section(6, 2)).unwrap();
        verified(map, frames);
        assert_eq!(map.claim(head).unwrap().order(), order(18));
        map.remove(section(0, 1)).unwrap();
        assert_absent(map, section(0, 1));
        assert_eq!(verified(map, frames).own, 0);
        map.remove(section(1, 2)).unwrap();
        map.remove(section(5, 1)).unwrap();
        assert_empty(map, frames, new);
    });
}

/// The sections of a compound are online together or offline together, holes or not: else its head could be claimed while
/// a part of it is offline, and once it is complete it could be neither.
fn a_compound_with_a_hole_is_online_or_offline<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let new = map.space().usage();
        let section = |n: u64, count: u64| range((1 << 18) + n * SECTION, count * SECTION);
        let add = |part, offline: bool| {
            let request = Populate::new(part).compounds(order(18));
            map.populate_with(if offline { request.offline() } else { request })
        };
        let head = section(0, 1).start();
        add(section(0, 2), false).unwrap();
        add(section(4, 1), false).unwrap();
        let cut = Err(VmemmapError::CutsCompound { head, order: order(18) });
        for part in [section(0, 1), section(1, 1), section(4, 1), section(0, 2)] {
            assert_eq!(map.offline(part), cut, "{part:?}");
        }
        for part in [section(2, 1), section(5, 3)] {
            assert_eq!(add(part, true), Err(VmemmapError::Online { pfn: head }), "{part:?}");
        }
        map.remove(section(4, 1)).unwrap();
        map.offline(section(0, 2)).unwrap();
        assert_eq!(map.claim(head).map(drop), Err(ClaimError::Taken { pfn: head }));
        assert_eq!(map.online(section(1, 1)), cut);
        for part in [section(2, 1), section(5, 3)] {
            assert_eq!(add(part, false), Err(VmemmapError::Offline { pfn: head }), "{part:?}");
        }
        add(section(2, 6), true).unwrap();
        verified(map, frames);
        map.online(section(0, 8)).unwrap();
        assert_content(map, section(0, 8), order(18), place(0, 0));
        // The next compound has nothing to do with it.
        add(section(8, 1), true).unwrap();
        map.remove(section(0, 9)).unwrap();
        assert_empty(map, frames, new);
    });
}

fn strict_requests_take_tails_from_their_node<F: Fixture>() {
    with_map::<F>(|map, frames, env| {
        frames.set_node_budget(NodeId::new(1).unwrap(), 0);
        let request = || Populate::new(range(SECTION, SECTION)).compounds(order(9)).at(place(1, 0));
        assert!(matches!(map.populate_with(request().strict()), Err(VmemmapError::NoFrame(_))));
        // An event would say that a frame came from elsewhere.
        assert_eq!(env.log.take(), vec![]);
        map.populate_with(request()).unwrap();
        assert_eq!(env.log.take().len(), 1);
        frames.heal();
    });
}

/// Once all of its compounds were restored a section is like any other, and completed in parts.
#[cfg(feature = "pgtable")]
#[test]
fn a_section_that_was_restored_is_completed_in_parts() {
    with_map::<crate::common::InTables>(|map, frames, _| {
        map.populate(range(SECTION, SECTION), order(9), place(0, 0)).unwrap();
        map.remove(sub(3, 1)).unwrap();
        for n in (0..64).filter(|&n| n != 3) {
            let mut frozen = map.claim(sub(n, 1).start()).unwrap().allocate();
            map.restore(&mut frozen).unwrap();
            drop(frozen.into_free().unwrap());
        }
        verified(map, frames);
        map.populate(sub(3, 1), order(9), place(0, 0)).unwrap();
        map.remove(sub(5, 1)).unwrap();
        map.populate(sub(5, 1), order(9), place(0, 0)).unwrap();
        verified(map, frames);
    });
}

/// Early sections where a page of descriptors belongs to several subsections, or several sections.
#[test]
fn early_sections_of_larger_base_pages() {
    for geometry in [Geometry::ARM64_16K, Geometry::ARM64_64K, Geometry::PPC64_RADIX_64K] {
        let frames = frames(&geometry);
        let env = TestEnv::<Readers>::new(&frames);
        let map = map::<InSoftware, _>(geometry, &frames, &env).poisoned(7);
        let (section, size) = (geometry.frames_per_section(), geometry.frames_per_subsection());
        let first = 8 * section;
        let sub = |n: u64, count: u64| range(first + n * size, count * size);
        map.populate_with(Populate::new(sub(1, 2)).early()).unwrap();
        verified(&map, &frames);
        assert!(map.is_covered(pfn(first)) && !map.is_present(pfn(first)));
        // A neighbour section, which may be in the same page.
        let beside = range(first + section, section);
        map.populate(beside, Order::ZERO, place(0, 0)).unwrap();
        verified(&map, &frames);
        map.populate(sub(0, 1), order(2), place(1, 1)).unwrap();
        assert_content(&map, sub(0, 1), order(2), place(1, 1));
        map.remove(sub(1, 2)).unwrap();
        verified(&map, &frames);
        map.remove(sub(0, 1)).unwrap();
        verified(&map, &frames);
        assert!(!map.is_covered(pfn(first)));
        assert_content(&map, beside, Order::ZERO, place(0, 0));
        map.remove(beside).unwrap();
        assert_empty(&map, &frames, SpaceUsage::default());
        assert_eq!(map.space().behind(first * 64 / geometry.base_bytes()), Behind::Nothing);
    }
}
