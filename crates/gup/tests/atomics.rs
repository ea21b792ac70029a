// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomic read-modify-writes of holding and giving back, counted.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_gup::*;
use mmkit_sync::atomic::read_modify_writes;

fn of<R>(op: impl FnOnce() -> R) -> (R, u64) {
    let before = read_modify_writes();
    let result = op();
    (result, read_modify_writes() - before)
}

/// The atomics of holding pages `0..pages` and of giving them back, from each kind of sink.
fn cost(space: &Space<'_>, pages: u64, flags: Flags) -> [(u64, u64); 3] {
    let (span, request) = (space.span(0, pages), Request::new(flags | Flags::FAST_ONLY).unwrap());
    let release = if request.is_pin() { Release::pins(space.map) } else { Release::references(space.map) };
    let mut extents = [Extent::EMPTY; 64];
    let mut array = [None; 64];
    let mut folios = [FolioHolds::EMPTY; 64];
    let mut extents = Extents::new(&mut extents);
    let mut array = Pages::new(&mut array);
    let mut folios = Folios::new(&mut folios);
    let complete = |held: Held| assert!(held.is_complete(), "{held:?}");
    let ((), held) = of(|| complete(hold(space, span, request, &mut extents).unwrap()));
    // SAFETY: the walk held these.
    let (_, released) = of(|| unsafe { release.extents(extents.extents()) });
    let by_extents = (held, released);
    let ((), held) = of(|| complete(hold(space, span, request, &mut array).unwrap()));
    // SAFETY: the walk held these.
    let (_, released) = of(|| unsafe { release.pages(array.pages()) });
    let by_pages = (held, released);
    let ((), held) = of(|| complete(hold(space, span, request, &mut folios).unwrap()));
    // SAFETY: the walk held these.
    let (_, released) = of(|| unsafe { release.folios(folios.folios()) });
    [by_extents, by_pages, (held, released)]
}

#[test]
fn a_folio_costs_two_atomics_to_pin_and_two_to_unpin_however_it_is_mapped() {
    let mut pages = descriptors(128);
    let map = map(&mut pages);
    let space = Space::new(&map, 4, 4).anonymous();
    // By one entry; by one for each page; folios of a quarter of a table.
    space.map_huge(0, 16, WRITE);
    space.map_anon(16, 32, 4, WRITE);
    for n in 0..4 {
        space.map_anon(32 + n * 4, 48 + n * 4, 2, WRITE);
    }
    assert_eq!(cost(&space, 16, Flags::PIN | Flags::WRITE), [(2, 2); 3]);
    assert_eq!(cost(&space, 32, Flags::PIN | Flags::WRITE), [(4, 4); 3]);
    assert_eq!(cost(&space, 48, Flags::PIN | Flags::WRITE), [(12, 12); 3]);
    assert_eq!(cost(&space, 48, Flags::PIN), [(12, 12); 3]);
    assert_eq!(cost(&space, 48, Flags::GET), [(6, 6); 3]);
    // Folios of one page: one atomic each.
    for n in 0..16 {
        space.map_anon(48 + n, 64 + n, 0, WRITE);
    }
    assert_eq!(cost(&space, 64, Flags::PIN | Flags::WRITE), [(12 + 16, 12 + 16); 3]);
}
