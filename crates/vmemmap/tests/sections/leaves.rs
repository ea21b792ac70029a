// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors behind huge leaves.

use crate::common::{
    Device, EpochEnv, Soft, assert_absent, assert_content, assert_empty, digest::digest, frames, order, pfn,
    place, range, verified,
};
use mmkit_addr::{Geometry, NodeId, Order};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::MemMap;
use mmkit_vmemmap::{MapError, Populate, SpaceUsage, Vmemmap, VmemmapError};

const X86: Geometry = Geometry::X86_64;
const SECTION: u64 = 1 << 15;
const SUBSECTION: u64 = 1 << 9;

type LeafMap<'a> = Vmemmap<Soft<'a>, &'a EpochEnv<'a>>;

fn with_map(test: impl FnOnce(&LeafMap<'_>, &TestFrames)) {
    let frames = frames(&X86);
    let env = EpochEnv::new(&frames);
    let space = Soft::with_leaf_order(&frames, 12, order(9));
    let map = Vmemmap::new(X86, space, &env).unwrap();
    test(&map, &frames);
    assert_eq!(env.log.take(), []);
    drop(map);
    drop(env);
    frames.assert_no_leaks();
}

/// One leaf for a section's 512 pages, where the range has all of the section.
#[test]
fn a_leaf_for_every_whole_section() {
    with_map(|map, frames| {
        let all = range(SECTION - SUBSECTION, 2 * SECTION);
        map.populate_with(Populate::new(all).huge_leaves().at(place(0, 2))).unwrap();
        assert_eq!(map.space().leaves(), [512]);
        assert_eq!(verified(map, frames).own, 1024);
        assert_content(map, all, Order::ZERO, place(0, 2));
        // Shared tails and leaves exclude one another.
        map.populate_with(Populate::new(range(8 * SECTION, SECTION)).compounds(order(9)).huge_leaves())
            .unwrap();
        assert_eq!((map.space().leaves(), verified(map, frames).own), (vec![512], 1024 + 64));
        map.remove(range(SECTION, SECTION)).unwrap();
        assert_eq!((map.space().leaves(), map.space().splits()), (vec![], 0));
        map.remove(range(SECTION - SUBSECTION, SUBSECTION)).unwrap();
        map.remove(range(2 * SECTION, SECTION - SUBSECTION)).unwrap();
        map.remove(range(8 * SECTION, SECTION)).unwrap();
        assert_empty(map, frames, SpaceUsage::default());
    });
}

/// A part is removed: the leaf is split first, and every frame goes back by itself.
#[test]
fn a_leaf_is_split_where_a_part_goes() {
    with_map(|map, frames| {
        let all = range(SECTION, SECTION);
        map.populate_with(Populate::new(all).huge_leaves()).unwrap();
        let middle = range(SECTION + 5 * SUBSECTION, 3 * SUBSECTION);
        let before = digest(map, frames, &[all]);
        map.space().fail_split(1);
        assert_eq!(map.remove(middle), Err(VmemmapError::Map(MapError::TryAgain)));
        assert_eq!((digest(map, frames, &[all]), map.space().leaves()), (before, vec![512]));
        // A leaf that was split before something else failed stays split; nothing else shows.
        let before = digest(map, frames, &[all]);
        map.space().fail_unmap(1);
        assert_eq!(map.remove(middle), Err(VmemmapError::Map(MapError::TryAgain)));
        assert_eq!((digest(map, frames, &[all]), map.space().leaves()), (before, vec![]));
        map.remove(middle).unwrap();
        assert_eq!((verified(map, frames).own, map.space().splits()), (512 - 24, 1));
        assert_absent(map, middle);
        assert_content(map, range(SECTION, 5 * SUBSECTION), Order::ZERO, place(0, 0));
        // What comes again comes in pages.
        map.populate_with(Populate::new(middle).huge_leaves()).unwrap();
        assert_eq!(map.space().leaves(), []);
        map.remove(all).unwrap();
        assert_empty(map, frames, SpaceUsage::default());
    });
}

/// No block to be had: base pages, for that leaf alone.
#[test]
fn without_a_block_there_are_base_pages() {
    with_map(|map, frames| {
        let all = range(SECTION, 3 * SECTION);
        // The first allocation is a node of the section table, the second a block, the third the next one.
        frames.fail_nth(3);
        map.populate_with(Populate::new(all).huge_leaves()).unwrap();
        frames.heal();
        assert_eq!(map.space().leaves(), [512, 3 * 512]);
        assert_eq!(verified(map, frames).own, 3 * 512);
        assert_content(map, all, Order::ZERO, place(0, 0));
        map.remove(all).unwrap();
        // Nothing but single frames left.
        frames.set_budget(700);
        map.populate_with(Populate::new(range(SECTION, SECTION)).huge_leaves()).unwrap();
        let refused = map.populate_with(Populate::new(range(2 * SECTION, SECTION)).huge_leaves());
        assert!(matches!(refused, Err(VmemmapError::NoFrame(_))), "{refused:?}");
        assert_eq!(verified(map, frames).own, 512);
        frames.heal();
        map.remove(range(SECTION, SECTION)).unwrap();
        assert_empty(map, frames, SpaceUsage::default());
    });
}

/// The k-th allocation, the k-th map, and both: what was there before is there after.
#[test]
fn leaves_are_all_or_nothing_whatever_fails() {
    with_map(|map, frames| {
        let all = range(SECTION - SUBSECTION, 2 * SECTION + SUBSECTION);
        let before = digest(map, frames, &[all]);
        for k in 1.. {
            map.space().fail_map(k);
            let result = map.populate_with(Populate::new(all).huge_leaves());
            if map.space().heal() {
                assert_eq!((result, k), (Ok(()), 4), "one run, two leaves");
                break;
            }
            assert!(matches!(result, Err(VmemmapError::Map(_))), "{result:?}");
            assert_eq!(digest(map, frames, &[all]), before, "{k}");
        }
        map.remove(all).unwrap();
        let (mut refused, mut survived) = (0, 0);
        for k in 1.. {
            frames.fail_nth(k);
            map.space().fail_map(3);
            let injected = frames.stats().injected;
            let result = map.populate_with(Populate::new(all).huge_leaves());
            let (reached, map_left) = (frames.stats().injected > injected, map.space().heal());
            frames.heal();
            match result {
                // Pages instead of a block are one run with those before them: one map fewer.
                Ok(()) => {
                    assert!(reached && map_left, "{k}");
                    survived += 1;
                    map.remove(all).unwrap();
                }
                Err(VmemmapError::NoFrame(_)) => refused += 1,
                Err(error) => assert!(matches!(error, VmemmapError::Map(_)), "{error}"),
            }
            assert_eq!(digest(map, frames, &[all]), before, "{k}");
            if !reached {
                break;
            }
        }
        // The node and the eight pages before the leaves; without a block there are pages.
        assert_eq!((refused, survived), (1 + 8, 1));
    });
}

/// A device's own memory, in blocks: too small by one is refused, and nothing comes instead.
#[test]
fn altmap_leaves_do_not_fall_back() {
    with_map(|map, frames| {
        let device = Device::new(frames);
        let all = range(device.start(), 2 * SECTION);
        let mut altmap = device.altmap(1, 512 + 1024 - 2);
        let (before, taken) = ((map.usage(), frames.snapshot()), frames.stats().calls);
        let error = map.populate_with(Populate::new(range(device.start(), SECTION * 2)).altmap(&mut altmap));
        assert!(matches!(error, Err(VmemmapError::Misaligned { .. })), "{error:?}");
        let mut altmap = device.altmap(1, 512 + 1024 - 1 - 512);
        let error = map.populate_with(Populate::new(all).huge_leaves().altmap(&mut altmap)).unwrap_err();
        assert_eq!(error, VmemmapError::AltmapFull { base: device.1, needed: 512, free: 1023 });
        assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
        assert_eq!((map.usage(), frames.snapshot()), before);
        // The way down to a section that is far up: nodes of the section table.
        assert_eq!(frames.stats().calls - taken, 2);
        let mut altmap = device.altmap(1, 512 + 1024 - 1);
        map.populate_with(Populate::new(all).huge_leaves().altmap(&mut altmap)).unwrap();
        assert_eq!((altmap.alloc(), altmap.align(), map.space().leaves().len()), (1024, 511, 2));
        assert_eq!(verified(map, frames).hosted, 1024);
        map.space().fail_unmap(1);
        assert_eq!(map.remove_altmap(all, &mut altmap), Err(VmemmapError::Map(MapError::TryAgain)));
        assert_eq!((altmap.alloc(), verified(map, frames).hosted), (1024, 1024));
        map.remove_altmap(all, &mut altmap).unwrap();
        assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
        assert_eq!(map.usage().total(), 0);
    });
}

/// In page tables: one entry of the level above, and a table for it when a part goes.
#[cfg(feature = "pgtable")]
#[test]
fn in_page_tables() {
    use crate::common::{Fixture, InTables};
    use mmkit_vmemmap::VmemmapSpace;

    let frames = frames(&X86);
    let env = EpochEnv::new(&frames);
    let map = Vmemmap::new(X86, InTables::space(&frames, X86), &env).unwrap();
    let new = map.space().usage();
    let all = range(SECTION, 2 * SECTION);
    map.populate_with(Populate::new(all).huge_leaves().at(place(1, 0))).unwrap();
    let usage = verified(&map, &frames);
    assert_eq!((usage.own, usage.space.leaf_tables), (1024, 0));
    assert_content(&map, all, Order::ZERO, place(1, 0));
    map.remove(range(SECTION, SUBSECTION)).unwrap();
    let usage = verified(&map, &frames);
    assert_eq!((usage.own, usage.space.leaf_tables), (1024 - 8, 1));
    assert!(frames.outstanding_on(NodeId::new(1).unwrap()) > 1024 - 8);
    assert_content(&map, range(SECTION + SUBSECTION, 2 * SECTION - SUBSECTION), Order::ZERO, place(1, 0));
    map.remove(range(2 * SECTION, SECTION)).unwrap();
    map.remove(range(SECTION + SUBSECTION, SECTION - SUBSECTION)).unwrap();
    assert_empty(&map, &frames, new);
    assert!(map.claim(pfn(SECTION)).is_err());
}
