// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mark of a folio that is exclusive as a whole, and the flags of pages that it is turned into.
#![cfg(mmkit_loom)]

mod loom_common;

use core::ptr::NonNull;

use loom_common::{mm, race};
use mmkit_addr::{Pfn, PfnRange};
use mmkit_folio::{Mapping, NoPageMapcount, Rmap, Untracked, map_new_anon};
use mmkit_page::{Folio, MemMap, Page, Place};
use mmkit_sync::Immovable;
use mmkit_sync::mutant::must_fail;

/// Two frames, of one folio that is exclusive.
struct Map([Page; 2]);

// SAFETY: the descriptors are part of the map, which is never changed while it is borrowed; each frame has its own, and
// none becomes read-only.
unsafe impl MemMap for Map {
    type Read = Immovable;
    type Counts = NoPageMapcount<Untracked>;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.0.get(pfn.get() as usize).map(NonNull::from)
    }
}

fn exclusive() -> Map {
    let map = Map([Page::new(), Page::new()]);
    map.initialise(PfnRange::new(Pfn::ZERO, 2).unwrap(), Place::default()).unwrap();
    let claim = |n| map.claim(Pfn::new(n).unwrap()).unwrap();
    let pair = claim(0).merge(claim(1)).unwrap().allocate().prep().unwrap();
    let _ = map_new_anon(pair, mm(1), ptes(0, 2)).unwrap();
    map
}

const fn ptes(first: u64, count: u64) -> Mapping {
    Mapping::Ptes { first, count }
}

fn folio(map: &Map) -> Folio<'_, Map> {
    map.try_get(Pfn::ZERO).unwrap()
}

/// Two threads of one address space with different page tables locked, a page each.
fn parts_are_shared_at_once() {
    race(
        exclusive,
        |map| folio(map).try_share(ptes(0, 1)).unwrap(),
        |map| folio(map).try_share(ptes(1, 1)).unwrap(),
        |map| assert!((0..2).all(|page| !folio(map).is_exclusive(page)), "one was forgotten"),
    );
}

/// A page stays exclusive while the mark that said so is written out.
fn looked_at_while_a_part_is_shared() {
    race(
        exclusive,
        |map| folio(map).try_share(ptes(0, 1)).unwrap(),
        |map| assert!(folio(map).is_exclusive(1), "it is all the time"),
        |map| assert!(!folio(map).is_exclusive(0) && folio(map).is_exclusive(1)),
    );
}

/// The whole while a part is: by the entry that maps all of it, and by one that maps a page elsewhere.
fn whole_is_shared_while_a_part_is() {
    race(
        exclusive,
        |map| folio(map).try_share(ptes(0, 1)).unwrap(),
        |map| folio(map).try_share(ptes(0, 2)).unwrap(),
        |map| assert!((0..2).all(|page| !folio(map).is_exclusive(page)), "one came back"),
    );
}

#[test]
fn two_parts_stop_being_exclusive_2_threads_3_preemptions() {
    parts_are_shared_at_once();
    must_fail("exclusive-write-out-unlocked", parts_are_shared_at_once);
}

#[test]
fn a_look_while_the_mark_is_written_out_2_threads_3_preemptions() {
    looked_at_while_a_part_is_shared();
    for mutant in [
        "exclusive-mark-first",
        "exclusive-page-before-mark",
        "exclusive-write-out-relaxed",
        "exclusive-look-relaxed",
    ] {
        must_fail(mutant, looked_at_while_a_part_is_shared);
    }
}

#[test]
fn the_whole_stops_being_exclusive_while_a_part_does_2_threads_3_preemptions() {
    whole_is_shared_while_a_part_is();
    must_fail("exclusive-whole-does-not-wait", whole_is_shared_while_a_part_is);
}
