// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbered scenarios of descriptors that lie in the memory that they describe.

use crate::common::{
    Device, Fixture, Map, TestEnv, assert_absent, assert_content, assert_empty, frames, map, order,
    own_and_shared, pfn, place, range, verified,
};
use mmkit_addr::{Geometry, Order};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{ClaimError, MemMap, Template};
use mmkit_sync::Readers;
use mmkit_vmemmap::{Altmap, Populate, VmemmapError, VmemmapSpace};

const X86: Geometry = Geometry::X86_64;
/// Frames of an x86-64 section.
const SECTION: u64 = 1 << 15;
/// Frames of an x86-64 subsection.
const SUBSECTION: u64 = 1 << 9;

over_spaces! {
    scenario_14_descriptors_in_the_memory_that_they_describe;
    scenario_15_an_altmap_too_small_by_one_page;
    scenario_16_a_block_of_an_altmap_is_aligned;
    pools_with_one_base_are_not_mixed_up;
    boot_memory_does_not_lie_in_an_altmap;
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

fn scenario_14_descriptors_in_the_memory_that_they_describe<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let (new, device) = (map.space().usage(), Device::new(frames));
        // Two sections of 2M compounds: 8 pages each, however many tails are alike.
        let all = range(device.start(), 2 * SECTION);
        let mut altmap = device.altmap(16, 3 * SUBSECTION - 16);
        let compounds = |altmap| Populate::new(all).compounds(order(9)).at(place(1, 3)).altmap(altmap);
        map.populate_with(compounds(&mut altmap)).unwrap();
        assert_eq!((altmap.alloc(), altmap.align()), (2 * 64 * 8, 0));
        let usage = verified(map, frames);
        assert_eq!((usage.own, usage.hosted, usage.tails), (0, 1024, 0));
        let usable = range(device.start() + 3 * SUBSECTION, 2 * SECTION - 3 * SUBSECTION);
        assert_eq!(own_and_shared(map, usable), (1024 - 24, 0));
        // What the pool is made of can be had by nobody.
        assert_absent(map, altmap.set_aside());
        assert!(map.is_covered(pfn(device.start())));
        let found = map.claim(pfn(device.start() + 20)).map(drop);
        assert_eq!(found, Err(ClaimError::Absent { pfn: pfn(device.start() + 20) }));
        {
            let reader = map.enter();
            for pfn in usable {
                let page = reader.page(pfn).unwrap();
                let head = pfn.get() % 512 == 0;
                let words = if head { Template::head } else { Template::tail }(order(9), place(1, 3)).words();
                assert_eq!(page.words(), words, "{pfn:?}");
            }
        }
        assert_eq!(map.section(pfn(device.start())).unwrap().altmap, Some(pfn(device.start() + 16)));

        // Twice, without the pool, with another, and the pool before the rest: refused.
        let again = || map.populate(all, Order::ZERO, place(0, 0));
        let present = VmemmapError::Present { pfn: pfn(device.start()) };
        assert_eq!(unchanged::<F>(map, frames, again), present);
        let part = range(device.start() + 8 * SUBSECTION, SUBSECTION);
        let hosted = VmemmapError::OtherAltmap { pfn: part.start(), pool: pfn(device.start() + 16) };
        assert_eq!(unchanged::<F>(map, frames, || map.remove(part)), hosted);
        // SAFETY: nothing is populated with it.
        let mut elsewhere = unsafe { Altmap::new(pfn(0), 0, 8) }.unwrap();
        assert_eq!(unchanged::<F>(map, frames, || map.remove_altmap(part, &mut elsewhere)), hosted);
        let early = range(device.start(), 4 * SUBSECTION);
        let pool = |error: VmemmapError| (error, error.errno());
        let busy = unchanged::<F>(map, frames, || map.remove_altmap(early, &mut altmap));
        assert_eq!(pool(busy), (VmemmapError::Busy { pfn: pfn(device.start()) }, 16));
        let cut =
            unchanged::<F>(map, frames, || map.remove_altmap(range(device.start(), SUBSECTION), &mut altmap));
        assert!(matches!(cut, VmemmapError::AltmapCut { .. }), "{cut}");
        map.remove_altmap(part, &mut altmap).unwrap();
        assert_eq!((altmap.alloc(), verified(map, frames).hosted), (1024 - 8, 1024 - 8));
        // What went can come again, out of what the pool still has.
        map.populate_with(Populate::new(part).compounds(order(9)).at(place(1, 3)).altmap(&mut altmap))
            .unwrap();
        assert_eq!(altmap.alloc(), 1024);
        map.remove_altmap(part, &mut altmap).unwrap();
        let upper = range(device.start() + 9 * SUBSECTION, 2 * SECTION - 9 * SUBSECTION);
        map.remove_altmap(upper, &mut altmap).unwrap();
        map.remove_altmap(range(device.start(), 8 * SUBSECTION), &mut altmap).unwrap();
        assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
        assert_empty(map, frames, new);
        // Not one frame of the pool passed through the allocator: the block is out as it was.
        let block = frames.outstanding_blocks().into_iter().find(|block| block.pfn == device.1).unwrap();
        assert_eq!(block.order, crate::common::DEVICE_ORDER);
    });
}

fn scenario_15_an_altmap_too_small_by_one_page<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let device = Device::new(frames);
        let all = range(device.start(), SECTION);
        let mut small = device.altmap(1, 511);
        for huge in [false, true] {
            let before = (map.usage(), frames.snapshot());
            let request = Populate::new(all).altmap(&mut small);
            let error = map.populate_with(if huge { request.huge_leaves() } else { request }).unwrap_err();
            assert_eq!((map.usage(), frames.snapshot()), before);
            let needed = if huge && map.space().leaf_order().is_some() { 512 } else { 1 };
            assert_eq!(error, VmemmapError::AltmapFull { base: pfn(device.start()), needed, free: 511 });
            assert_eq!(error.errno(), 12);
            assert_eq!((small.alloc(), small.align()), (0, 0));
            assert_eq!(map.section(pfn(device.start())), None);
        }
        let mut enough = device.altmap(512, 512);
        map.populate_with(Populate::new(all).altmap(&mut enough)).unwrap();
        assert_eq!((enough.alloc(), verified(map, frames).hosted), (512, 512));
        map.remove_altmap(all, &mut enough).unwrap();
        assert_eq!((enough.alloc(), verified(map, frames).hosted), (0, 0));
    });
}

/// 512 pages asked for one frame above the base: 511 are skipped.
fn scenario_16_a_block_of_an_altmap_is_aligned<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let device = Device::new(frames);
        let all = range(device.start(), SECTION);
        let mut altmap = device.altmap(1, 1023);
        map.populate_with(Populate::new(all).altmap(&mut altmap).huge_leaves()).unwrap();
        let align = if map.space().leaf_order().is_some() { 511 } else { 0 };
        assert_eq!((altmap.alloc(), altmap.align()), (512, align));
        assert_eq!(verified(map, frames).hosted, 512);
        assert_content(map, range(device.start() + 1024, SECTION - 1024), Order::ZERO, place(0, 0));
        map.remove_altmap(all, &mut altmap).unwrap();
        assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
    });
}

/// Two pools of one device that say the same base: what came from one is not counted off the other, which would hand out
/// pages again that are in use.
fn pools_with_one_base_are_not_mixed_up<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let device = Device::new(frames);
        let (mut low, mut high) = (device.altmap(0, 16), device.altmap(16, 16));
        let part = |n: u64| range(100 * SECTION + n * SUBSECTION, SUBSECTION);
        map.populate_with(Populate::new(part(0)).altmap(&mut low)).unwrap();
        map.populate_with(Populate::new(part(64)).altmap(&mut high)).unwrap();
        assert_eq!(map.section(part(64).start()).unwrap().altmap, Some(pfn(device.start() + 16)));
        for (n, pool, other) in [(0, 0, &mut high), (64, 16, &mut low)] {
            let hosted = VmemmapError::OtherAltmap { pfn: part(n).start(), pool: pfn(device.start() + pool) };
            assert_eq!(unchanged::<F>(map, frames, || map.remove_altmap(part(n), other)), hosted);
            let beside = part(n + 1);
            let section = pfn((100 + n / 64) * SECTION);
            let hosted = VmemmapError::OtherAltmap { pfn: section, pool: pfn(device.start() + pool) };
            let add = || map.populate_with(Populate::new(beside).altmap(other));
            assert_eq!(unchanged::<F>(map, frames, add).to_string(), hosted.to_string());
            assert_eq!(other.alloc(), 8);
        }
        assert_eq!(verified(map, frames).hosted, 16);
        map.remove_altmap(part(0), &mut low).unwrap();
        map.remove_altmap(part(64), &mut high).unwrap();
        assert_eq!((low.alloc(), high.alloc(), verified(map, frames).hosted), (0, 0, 0));
    });
}

/// The holes of an early section have descriptor memory that no removal would count off an altmap.
fn boot_memory_does_not_lie_in_an_altmap<F: Fixture>() {
    with_map::<F>(|map, frames, _| {
        let device = Device::new(frames);
        let mut altmap = device.altmap(0, SECTION / 64);
        for start in [device.start(), 100 * SECTION] {
            let part = range(start, 2 * SUBSECTION);
            let refused = unchanged::<F>(map, frames, || {
                map.populate_with(Populate::new(part).early().altmap(&mut altmap))
            });
            assert_eq!((refused, refused.errno()), (VmemmapError::Early { pfn: part.start() }, 22));
            assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
        }
    });
}
