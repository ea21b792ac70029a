// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes of it: every byte, every count, every pageblock.

use mmkit_addr::{Geometry, Order, PfnRange};
use mmkit_page::{Folio, MemMap, Place, State};
use mmkit_sync::Counter;
use mmkit_vmemmap::{Populate, Serial, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

use super::common::{self, Device, Fixture, order, place, range, verified};
use super::{Crowd, SECTION, SUBSECTION, with_map, words};

over_spaces! {
    scenario_48_descriptors_written_for_each_compound;
    scenario_48_every_pageblock_is_set;
    scenario_54_parallel_is_serial_is_the_slow_path;
    all_at_once_is_in_steps;
    held_from_the_beginning_is_handed_out_by_hand;
    an_altmap_is_written_apart;
    blocks_behind_huge_leaves;
    poison_is_written_over;
}

/// What may be populated; geometry, range, order, whether offline.
fn requests() -> Vec<(Geometry, PfnRange, u8, bool)> {
    let x86 = Geometry::X86_64;
    vec![
        (x86, range(SECTION, 3 * SECTION), 0, false),
        (x86, range(SECTION + 7 * SUBSECTION, 2 * SECTION), 0, true),
        (x86, range(0, 2 * SECTION), 9, false),
        (x86, range(5 * SUBSECTION, 2 * SECTION), 9, true),
        (x86, range(1 << 18, 2 << 18), 18, false),
        // A compound of which the head is not asked for.
        (x86, range((1 << 18) + 3 * SECTION, 2 * SECTION), 18, false),
        (x86, range(SECTION, SECTION), 3, false),
        // Pages of descriptors that are larger than those of a subsection.
        (Geometry::ARM64_16K, range(128 * 3, 128 * 70), 0, false),
        (Geometry::ARM64_64K, range(32 * 5, 32 * 500), 2, true),
        (Geometry::PPC64_RADIX_64K, range(1 << 14, 1 << 14), 14, false),
        (Geometry::PPC64_RADIX_64K, range(256, 1024), 0, false),
    ]
}

fn all_at_once_is_in_steps<F: Fixture>() {
    for (geometry, range, o, offline) in requests() {
        if F::TABLES && geometry.name() != Geometry::X86_64.name() {
            continue;
        }
        let request = || {
            let request = Populate::new(range).compounds(order(o)).at(place(1, 2));
            if offline { request.offline() } else { request }
        };
        let mut expected = None;
        with_map::<F>(geometry, |map, frames, _| {
            map.populate_with(request()).unwrap();
            expected = Some((words(map, range), verified(map, frames)));
        });
        let (expected, usage) = expected.unwrap();
        with_map::<F>(geometry, |map, frames, env| {
            let staged = map.stage(request()).unwrap();
            assert_eq!(staged.range(), range);
            assert!(words(map, range).iter().all(Option::is_none), "{geometry}, {range:?}");
            assert_eq!(verified(map, frames), usage, "taken before it is written");
            staged.write(&Serial);
            let parts = staged.progress().parts;
            assert_eq!(staged.progress().done, parts);
            assert!(words(map, range).iter().all(Option::is_none));
            staged.publish();
            assert!(words(map, range) == expected, "{geometry}, {range:?}, {o}");
            assert_eq!(verified(map, frames), usage);
            // After a part is reserved, when it is written, and when it is shown.
            assert_eq!(env.log.pauses.load(std::sync::atomic::Ordering::Relaxed), 3 * parts);
            if offline {
                let section = geometry.frames_per_section();
                let start = range.start().get() / section * section;
                let whole = common::range(start, range.end().next_multiple_of(section) - start);
                map.online(whole).unwrap();
            }
            map.remove(range).unwrap();
            assert_eq!(verified(map, frames).own, 0);
        });
    }
}

/// Frames that are in use from the beginning: byte by byte what it is to claim each block, to write its owner's words, and to
/// keep its one reference by number.
fn held_from_the_beginning_is_handed_out_by_hand<F: Fixture>() {
    const WORDS: [u64; 4] = [7, 0, u64::MAX, 1 << 61];
    for (geometry, range, o, offline) in requests() {
        if F::TABLES && geometry.name() != Geometry::X86_64.name() {
            continue;
        }
        let request = || {
            let request = Populate::new(range).compounds(order(o)).at(place(1, 2));
            if offline { request.offline() } else { request }
        };
        // A compound that begins before the range has its head elsewhere.
        let first = range.start().get().next_multiple_of(order(o).frames());
        let heads: Vec<_> = (first..range.end()).step_by(1 << o).map(common::pfn).collect();
        let mut expected = None;
        with_map::<F>(geometry, |map, frames, _| {
            map.populate_with(request()).unwrap();
            // Nobody gets at what is offline, so nobody has it.
            for &head in heads.iter().filter(|_| !offline) {
                let folio = map.claim(head).unwrap().allocate().into_folio();
                // SAFETY: the frames were just claimed: their memory is this test's.
                let words = unsafe { folio.owner_words() };
                for (word, value) in words.iter().zip(WORDS) {
                    word.store(value, mmkit_sync::atomic::Ordering::Relaxed);
                }
                let _ = folio.into_raw();
            }
            expected = Some((words(map, range), verified(map, frames)));
        });
        with_map::<F>(geometry, |map, frames, _| {
            // SAFETY: the memory is this test's.
            let staged = map.stage(unsafe { request().held(WORDS) }).unwrap();
            staged.write(&Serial);
            staged.publish();
            let made = (words(map, range), verified(map, frames));
            assert!(Some(made) == expected, "{geometry}, {range:?}, {o}, offline: {offline}");
            if offline {
                return;
            }
            // Each has the one reference that was kept, and keeps the memory.
            let reader = map.enter();
            for &head in &heads {
                let state = reader.page(head).unwrap().state();
                assert_eq!(state, State::Held { order: order(o), count: 1 });
            }
            drop(reader);
            assert!(heads.is_empty() || matches!(map.remove(range), Err(VmemmapError::Busy { .. })));
            for &head in &heads {
                assert!(map.claim(head).is_err());
                // SAFETY: the one that is kept, taken once.
                drop(unsafe { Folio::from_raw(map, head) }.unwrap());
            }
            map.remove(range).unwrap();
            assert_eq!(verified(map, frames).own, 0);
        });
    }
}

/// Makes the compounds of `range` by hand: single frames joined, one by one, prepared, and optimised where they are large
/// enough for that.
fn slow<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, range: PfnRange, order: Order, place: Place) {
    map.populate(range, Order::ZERO, place).unwrap();
    for head in range.iter().step_by(order.frames() as usize).filter(|_| order > Order::ZERO) {
        let mut frozen = map.claim_joined(head, order).unwrap().allocate().prep().unwrap();
        if order >= map.geometry().min_dedup_order() {
            map.optimise(&mut frozen).unwrap();
        }
        drop(frozen.into_free().unwrap());
    }
}

fn scenario_54_parallel_is_serial_is_the_slow_path<F: Fixture>() {
    let x86 = Geometry::X86_64;
    for (range, o) in [
        (range(SECTION, 2 * SECTION + 3 * SUBSECTION), 0),
        (range(SECTION, SECTION), 4),
        (range(SECTION, 2 * SECTION), 9),
        (range(1 << 18, 1 << 18), 18),
    ] {
        let place = place(1, 3);
        let mut expected = None;
        // Only an address space that can exchange what stands behind pages has shared tails the slow way.
        with_map::<F>(x86, |map, _, _| {
            if o < 9 || map.space().replaces() {
                slow(map, range, order(o), place);
                expected = Some(words(map, range));
            }
        });
        for threads in 0..4 {
            with_map::<F>(x86, |map, frames, _| {
                let staged = map.stage(Populate::new(range).compounds(order(o)).at(place)).unwrap();
                match threads {
                    0 => staged.write(&Serial),
                    threads => staged.write(&Crowd(threads)),
                }
                staged.publish();
                let found = words(map, range);
                assert!(found.iter().all(Option::is_some));
                assert!(*expected.get_or_insert_with(|| found.clone()) == found, "{range:?}, {o}, {threads}");
                verified(map, frames);
            });
        }
    }
}

fn scenario_48_descriptors_written_for_each_compound<F: Fixture>() {
    let written = |request: &dyn Fn() -> Populate<'static>, before: Option<PfnRange>| {
        let mut counts = [0; 2];
        for (at_once, count) in counts.iter_mut().enumerate() {
            with_map::<F>(Geometry::X86_64, |map, _, env| {
                if let Some(boot) = before {
                    map.populate_with(Populate::new(boot).early()).unwrap();
                }
                let before = env.log.get(Counter::DescriptorWritten);
                if at_once == 1 {
                    map.populate_with(request()).unwrap();
                } else {
                    map.stage(request()).unwrap().publish();
                }
                *count = env.log.get(Counter::DescriptorWritten) - before;
            });
        }
        counts
    };
    // 64 compounds of 2M: of each the one page that is its own.
    let compounds = || Populate::new(range(SECTION, SECTION)).compounds(order(9));
    assert_eq!(written(&compounds, None), [64 * 64; 2]);
    // 1G: the same, however many sections it has.
    let large = || Populate::new(range(1 << 18, 1 << 18)).compounds(order(18));
    assert_eq!(written(&large, None), [64; 2]);
    // In what is left of a section from boot, all of them.
    let hole = || Populate::new(range(SECTION + SUBSECTION, SECTION - SUBSECTION)).compounds(order(9));
    assert_eq!(written(&hole, Some(range(SECTION, SUBSECTION))), [63 * 512; 2]);
    let single = || Populate::new(range(SECTION, SECTION));
    assert_eq!(written(&single, None), [SECTION; 2]);
    // In an altmap, all of them; the frames that it sets aside have none.
    with_map::<F>(Geometry::X86_64, |map, frames, env| {
        let device = Device::new(frames);
        let mut altmap = device.altmap(0, SUBSECTION);
        let all = range(device.start(), SECTION);
        let staged = map.stage(Populate::new(all).compounds(order(9)).altmap(&mut altmap)).unwrap();
        staged.publish();
        assert_eq!(env.log.get(Counter::DescriptorWritten), 63 * 512);
        map.remove_altmap(all, &mut altmap).unwrap();
    });
}

fn scenario_48_every_pageblock_is_set<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, _, env| {
        let said = || {
            let mut said = std::mem::take(&mut *env.pageblocks.lock().unwrap());
            said.sort_unstable();
            said
        };
        let gib = range(1 << 18, 2 << 18);
        let staged = map.stage(Populate::new(gib).compounds(order(18)).pageblocks(3)).unwrap();
        assert_eq!(said(), [], "what may still be given up is not told");
        staged.write(&Crowd(2));
        let all: Vec<_> = (512..3 * 512).map(|block| (block * 512, 9, 3)).collect();
        assert_eq!(said(), all);
        staged.publish();
        assert_eq!(said(), []);
    });
}

/// Its frames have no descriptors; those that they would have are what those of absent frames are, poison or not.
fn an_altmap_is_written_apart<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let device = Device::new(frames);
        let all = range(device.start(), 2 * SECTION);
        for give_up in [true, false] {
            let mut altmap = device.altmap(16, 3 * SUBSECTION - 16);
            let request = Populate::new(all).compounds(order(9)).at(place(1, 3)).altmap(&mut altmap);
            let staged = map.stage(request).unwrap();
            assert_eq!(staged.range().start().get(), device.start() + 3 * SUBSECTION);
            staged.write(&Crowd(2));
            if give_up {
                drop(staged);
                assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
                assert_eq!(verified(map, frames).hosted, 0);
                continue;
            }
            staged.publish();
            assert_eq!((altmap.alloc(), verified(map, frames).hosted), (2 * 64 * 8, 2 * 64 * 8));
            common::assert_absent(map, altmap.set_aside());
            map.remove_altmap(all, &mut altmap).unwrap();
            assert_eq!(altmap.alloc(), 0);
        }
    });
}

fn blocks_behind_huge_leaves<F: Fixture>() {
    with_map::<F>(Geometry::X86_64, |map, frames, _| {
        let all = range(SECTION, 2 * SECTION + 3 * SUBSECTION);
        let leaf = map.space().leaf_order().is_some();
        let staged = map.stage(Populate::new(all).huge_leaves()).unwrap();
        staged.write(&Crowd(2));
        staged.publish();
        common::assert_content(map, all, Order::ZERO, place(0, 0));
        // The second page of the first section lies in the same leaf as the first.
        assert_eq!(map.space().is_leaf(SECTION / 64 + 1), leaf);
        verified(map, frames);
        map.remove(all).unwrap();
        assert_eq!(verified(map, frames).own, 0);
    });
}

/// Pages are filled with a pattern first, as far as they are the range's; afterwards it is where no frame is.
fn poison_is_written_over<F: Fixture>() {
    for (geometry, mine) in [
        (Geometry::X86_64, range(SECTION + SUBSECTION, SECTION)),
        (Geometry::ARM64_16K, range(3 * 128, 70 * 128)),
    ] {
        if F::TABLES && geometry.name() != Geometry::X86_64.name() {
            continue;
        }
        let frames = common::frames(&geometry);
        let env = common::TestEnv::<mmkit_sync::Readers>::new(&frames);
        let map = common::map::<F, _>(geometry, &frames, &env).poisoned(0xdead_dead_dead_dead);
        let device = Device::new(&frames);
        for o in [0, 3, 9] {
            let whole = mine.is_aligned(order(o));
            if !whole {
                continue;
            }
            let staged = map.stage(Populate::new(mine).compounds(order(o))).unwrap();
            verified(&map, &frames);
            staged.write(&Crowd(2));
            staged.publish();
            verified(&map, &frames);
            map.remove(mine).unwrap();
        }
        if geometry.name() == Geometry::X86_64.name() {
            let mut altmap = device.altmap(0, SUBSECTION);
            let all = range(device.start(), SECTION);
            map.stage(Populate::new(all).altmap(&mut altmap)).unwrap().publish();
            verified(&map, &frames);
            map.remove_altmap(all, &mut altmap).unwrap();
        }
        verified(&map, &frames);
    }
}
