// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks without locks against everything that is done to what they find, each model with the threads in both roles.
#![cfg(mmkit_loom)]

mod loom_world;

use loom_world::*;
use mmkit_addr::{Order, Pfn};
use mmkit_folio::{Cow, Hold, Rmap, RunHold, map_new_anon};
use mmkit_gup::*;
use mmkit_page::{Folio, MemMap, PageFlags};
use mmkit_sync::atomic::{Ordering, fence};
use mmkit_sync::mutant;
use mmkit_sync::mutant::must_fail;

/// The page is unmapped, freed, and somebody else's by the time that it is pinned.
fn pin_against_zap_and_reuse() {
    race_bounded(
        2,
        || World::new(2, false, WRITE),
        World::pin_one,
        |world| {
            world.zap(0, 0, 0);
            if let Ok(free) = world.map.claim(Pfn::ZERO) {
                let _ = free.allocate().into_folio().into_raw();
                world.done.store(1, Ordering::Relaxed);
            }
        },
        |world| {
            let (held, reused) = (world.held(), world.done.load(Ordering::Relaxed));
            assert!(held + reused < 2, "a pin of what is somebody else's");
            if let Ok(folio) = world.map.try_get(Pfn::ZERO) {
                assert_eq!((folio.pins(), folio.count() % 1024), (held, reused + 1));
            }
        },
    );
}

#[test]
fn pin_against_zap_and_reuse_2_threads_2_preemptions() {
    pin_against_zap_and_reuse();
    must_fail("gup-no-recheck", pin_against_zap_and_reuse);
    must_fail("refcount-look-then-add", pin_against_zap_and_reuse);
}

/// A fork shares the page, which was exclusive, while it is pinned to be read. Its entry stays as it is.
fn pin_against_fork() {
    race(
        || World::new(2, false, 0),
        World::pin_to_read,
        |world| {
            let writer = world.seq.try_write().unwrap();
            // SeqCst: pairs with the fence of the walk.
            mutant!("model-fork-no-fence", fence(Ordering::SeqCst), ());
            let forked = world.folio(0).fork(mm(2), ptes(0, 1)).is_ok();
            drop(writer);
            world.done.store(forked.into(), Ordering::Relaxed);
        },
        |world| {
            let (pinned, shared) = (world.held(), world.done.load(Ordering::Relaxed));
            assert!(pinned + shared < 2, "pinned, and no longer its own");
            assert_eq!(world.folio(0).pins(), pinned);
            assert_eq!(world.folio(0).is_exclusive(0), shared == 0);
        },
    );
}

#[test]
fn pin_against_fork_2_threads_3_preemptions() {
    pin_against_fork();
    for mutant in ["gup-no-sequence", "gup-no-fence", "model-fork-no-fence"] {
        must_fail(mutant, pin_against_fork);
    }
}

/// A folio of two pages is unmapped and taken apart; its pages are mapped again, as folios of their own.
fn pin_against_split() {
    race_bounded(
        2,
        || {
            let world = World::new(2, true, WRITE);
            // The splitter's.
            let _ = world.map.try_get(Pfn::ZERO).unwrap().into_raw();
            world
        },
        World::pin_two,
        |world| {
            let entries = [0, 1].map(|n| world.entries[n].swap(0, Ordering::Relaxed));
            // SeqCst: pairs with the fence of the walk.
            fence(Ordering::SeqCst);
            drop(world.folio(0).remove_mappings(mm(1), ptes(0, 2)).unwrap());
            // SAFETY: the reference that was kept above.
            let folio = unsafe { Folio::from_raw(&world.map, Pfn::ZERO) }.unwrap();
            match folio.freeze() {
                Ok(frozen) => {
                    let (low, high) = frozen.unprep().unwrap().split().unwrap();
                    for (half, n) in [low, high].into_iter().zip(0..) {
                        let _ = map_new_anon(half, mm(1), ptes(0, 1)).unwrap();
                        // Release: pairs with the acquire fence of the walk.
                        world.entries[n].store(entries[n], Ordering::Release);
                    }
                    world.done.store(1, Ordering::Relaxed);
                }
                Err(folio) => {
                    let _ = folio.into_raw();
                }
            }
        },
        |world| {
            let held = world.held();
            if world.done.load(Ordering::Relaxed) == 0 {
                let folio = world.folio(0);
                assert_eq!((folio.pins(), folio.count()), (held, held + 1));
                return;
            }
            for n in 0..2 {
                let folio = world.folio(n);
                assert_eq!(folio.order(), Order::ZERO);
                let pins = u32::from(u64::from(held) > n);
                assert_eq!((folio.pins(), folio.count() % 1024), (pins, 1), "page {n}");
            }
        },
    );
}

#[test]
fn pin_against_split_2_threads_2_preemptions() {
    pin_against_split();
    must_fail("refcount-look-then-add", pin_against_split);
}

/// Two folios of one page are unmapped and freed, and their frames come back as one folio of two, which is not mapped here.
fn pin_against_reuse_at_another_order() {
    race_bounded(
        1,
        World::of_a_file,
        World::pin_two,
        |world| {
            let (Some(low), Some(high)) = (world.unmap(0), world.unmap(1)) else { return };
            let pair = low.into_free().unwrap().merge(high.into_free().unwrap()).unwrap();
            let _ = pair.allocate().prep().unwrap().into_folio().into_raw();
            world.done.store(1, Ordering::Relaxed);
        },
        |world| {
            if world.done.load(Ordering::Relaxed) == 1 {
                let folio = world.folio(0);
                assert_eq!((world.held(), folio.count(), folio.pins()), (0, 1, 0));
            }
        },
    );
}

#[test]
fn pin_against_reuse_at_another_order_2_threads_1_preemption() {
    pin_against_reuse_at_another_order();
    must_fail("gup-no-recheck", pin_against_reuse_at_another_order);
}

/// The table is unlinked, and its memory used for something else, that looks like entries.
fn pin_against_the_freeing_of_a_table() {
    race(
        || World::new(2, false, WRITE),
        World::pin_one,
        |world| {
            world.upper.store(0, Ordering::Relaxed);
            if mutant!("model-no-synchronize", world.readers.synchronize().is_ok(), true) {
                world.entries[0].store(1 << SHIFT | PRESENT | WRITE, Ordering::Relaxed);
            }
        },
        |world| assert!(!world.folio(1).maybe_pinned(), "a pin of what a freed table had in it"),
    );
}

#[test]
fn pin_against_the_freeing_of_a_table_2_threads_3_preemptions() {
    pin_against_the_freeing_of_a_table();
    must_fail("model-no-synchronize", pin_against_the_freeing_of_a_table);
}

/// A page is unmapped, and whoever did so takes its folio for himself if nobody else has it.
fn get_against_freeze() {
    race(
        || {
            let world = World::new(2, false, 0);
            let _ = world.map.try_get(Pfn::ZERO).unwrap().into_raw();
            world
        },
        |world| world.walk(1, Flags::GET),
        |world| {
            world.zap(0, 0, 0);
            // SAFETY: the reference that was kept above.
            let folio = unsafe { Folio::from_raw(&world.map, Pfn::ZERO) }.unwrap();
            match folio.freeze() {
                Ok(frozen) => {
                    world.done.store(1, Ordering::Relaxed);
                    world.expect(!frozen.flags().contains(PageFlags::REFERENCED));
                    let _ = frozen.into_folio().into_raw();
                }
                Err(folio) => {
                    let _ = folio.into_raw();
                }
            }
        },
        |world| {
            let (held, frozen) = (world.held(), world.done.load(Ordering::Relaxed));
            assert!(held + frozen < 2, "held, and somebody's alone");
            assert_eq!(world.folio(0).count(), 1 + held);
        },
    );
}

#[test]
fn get_against_freeze_2_threads_3_preemptions() {
    get_against_freeze();
    must_fail("refcount-freeze-by-store", get_against_freeze);
    must_fail("gup-no-recheck", get_against_freeze);
}

/// A page that was shared with a child, which is gone, is written by its owner: who keeps it if nobody else has a
/// reference, and otherwise gets a copy.
fn pin_against_reuse_by_a_writer() {
    race(
        || {
            let world = World::new(3, false, 0);
            let folio = world.map.try_get(Pfn::ZERO).unwrap();
            let _ = folio.fork(mm(2), ptes(0, 1)).unwrap();
            drop(folio.remove_mappings(mm(2), ptes(0, 1)).unwrap());
            drop(folio);
            world
        },
        World::pin_to_read,
        |world| {
            let folio = world.map.try_get(Pfn::ZERO).unwrap();
            match folio.write_fault(0, 1).unwrap() {
                Cow::Reused | Cow::Exclusive => {
                    world.entries[0].store(PRESENT | WRITE, Ordering::Relaxed);
                }
                Cow::Copy(_) => {
                    world.entries[0].store(2 << SHIFT | PRESENT | WRITE, Ordering::Relaxed);
                    world.done.store(1, Ordering::Relaxed);
                    drop(folio.remove_mappings(mm(1), ptes(0, 1)).unwrap());
                }
            }
        },
        |world| {
            let (pinned, copied) = (world.held(), world.done.load(Ordering::Relaxed));
            assert!(pinned + copied < 2, "a pin of a page that its owner no longer has");
        },
    );
}

#[test]
fn pin_against_reuse_by_a_writer_2_threads_3_preemptions() {
    pin_against_reuse_by_a_writer();
    must_fail("gup-pins-shared", pin_against_reuse_by_a_writer);
}

/// The last pin of a folio goes while its owner takes it for himself: no pins are left behind in it.
fn unpin_against_freeze() {
    race(
        || {
            let world = World::new(2, true, WRITE);
            let _ = world.map.try_get(Pfn::ZERO).unwrap().into_raw();
            world.pin_one();
            world.entries.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
            drop(world.folio(0).remove_mappings(mm(1), ptes(0, 2)).unwrap());
            world
        },
        |world| {
            // SAFETY: pinned above.
            let released = unsafe { Release::pins(&world.map).range(Pfn::ZERO, 1) };
            world.expect(released == Released { frames: 1, refused: None });
        },
        |world| {
            // SAFETY: the reference that was kept above.
            let folio = unsafe { Folio::from_raw(&world.map, Pfn::ZERO) }.unwrap();
            match folio.freeze() {
                Ok(frozen) => {
                    let folio = frozen.into_folio();
                    world.expect(folio.pins() == 0);
                    let _ = folio.into_raw();
                }
                Err(folio) => {
                    let _ = folio.into_raw();
                }
            }
        },
        |world| assert_eq!((world.folio(0).pins(), world.folio(0).count()), (0, 1)),
    );
}

#[test]
fn unpin_against_freeze_2_threads_3_preemptions() {
    unpin_against_freeze();
    must_fail("refcount-put-relaxed", unpin_against_freeze);
}

/// A walker gives back what it held, while the folio's owner takes it for himself.
fn give_back_against_freeze() {
    race(
        || {
            let world = World::new(2, true, WRITE);
            let _ = world.map.try_get(Pfn::ZERO).unwrap().into_raw();
            drop(world.folio(0).remove_mappings(mm(1), ptes(0, 2)).unwrap());
            world
        },
        |world| {
            let reader = world.map.enter();
            // At once, as where an entry has changed.
            drop(RunHold::try_new(reader.page(Pfn::ZERO).unwrap(), 2, Hold::Pin));
        },
        |world| {
            // SAFETY: the reference that was kept above.
            let folio = unsafe { Folio::from_raw(&world.map, Pfn::ZERO) }.unwrap();
            match folio.freeze() {
                Ok(frozen) => {
                    // SAFETY: the model only looks.
                    let words = unsafe { frozen.descriptors() }.words(1).unwrap();
                    // The pins, as the table of `CountWords` says.
                    world.expect(words.half[2].load(Ordering::Relaxed) == 0);
                    let _ = frozen.into_folio().into_raw();
                }
                Err(folio) => {
                    let _ = folio.into_raw();
                }
            }
        },
        |world| assert_eq!((world.folio(0).pins(), world.folio(0).count()), (0, 1)),
    );
}

#[test]
fn give_back_against_freeze_2_threads_3_preemptions() {
    give_back_against_freeze();
    must_fail("pins-references-first", give_back_against_freeze);
}
