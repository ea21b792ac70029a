// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map, and folios in it.
#![allow(dead_code, reason = "each test uses its part")]

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_folio::{MapError, Mapcounts, Mapping, MmId, Rmap};
use mmkit_page::{Folio, Free, Frozen, MemMap, Page, Place, References, SliceMap, Template, Words};

pub(crate) fn mm(id: u32) -> MmId {
    MmId::new(id).unwrap()
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn ptes(first: u64, count: u64) -> Mapping {
    Mapping::Ptes { first, count }
}

fn free<M: MemMap>(map: &M, first: u64, order: u8) -> Free<'_, M> {
    let first_pfn = Pfn::new(first).unwrap();
    if order == 0 {
        return map.claim(first_pfn).unwrap();
    }
    let half = 1 << (order - 1);
    free(map, first, order - 1).merge(free(map, first + half, order - 1)).unwrap()
}

/// A block of `2^order` frames from frame 0 on.
pub(crate) fn frozen<M: MemMap>(map: &M, order: u8) -> Frozen<'_, M> {
    let block = free(map, 0, order).allocate();
    if order == 0 { block } else { block.prep().unwrap() }
}

/// Runs `body` with a map whose frames from 0 on are one block of `2^order`.
pub(crate) fn with_frozen<C: Mapcounts>(
    order: u8,
    body: impl for<'m, 'a> FnOnce(&'m SliceMap<'a, C>, Frozen<'m, SliceMap<'a, C>>),
) {
    let mut pages: Vec<Page> = (0..1 << order).map(|_| Page::new()).collect();
    let map = SliceMap::<C>::counted(&mut pages, Pfn::ZERO).unwrap();
    map.initialise(map.range(), Place::default()).unwrap();
    let block = frozen(&map, order);
    body(&map, block);
}

/// Takes back pins that the test has, or that the counts show not to be there.
pub(crate) fn unpin<'m, M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'m, M>,
    n: u32,
) -> Result<Option<References<'m, M>>, MapError> {
    // SAFETY: each test takes back what it pinned; where it asks for more, it is refused, having no other references of so
    // many pins.
    unsafe { folio.unpin(n) }
}

/// The words that hold the folio's counts.
pub(crate) fn words<'f, M: MemMap<Counts: Mapcounts>>(folio: &'f Folio<'_, M>) -> Words<'f> {
    // SAFETY: tests only look.
    unsafe { folio.descriptors() }.words(u64::from(folio.order() > Order::ZERO)).unwrap()
}

/// Every word of every descriptor, and the references: what an error must not change.
pub(crate) fn everything<M: MemMap>(folio: &Folio<'_, M>) -> Vec<[u64; 8]> {
    let reader = folio.map().enter();
    let first = folio.pfn().get();
    (first..first + folio.order().frames())
        .map(|pfn| reader.page(Pfn::new(pfn).unwrap()).unwrap().words())
        .collect()
}

/// Maps and unmaps by a script: `A+4` maps pages 0..4 for A, `A-4` unmaps them, `A+P` and `A-P` do so by a PMD, `A/`
/// replaces A's PMD by PTEs.
pub(crate) fn play<'m, M: MemMap<Counts: Mapcounts>>(folio: &Folio<'m, M>, script: &str) {
    for step in script.split_whitespace() {
        let who = mm(u32::from(step.as_bytes()[0] - b'A' + 1));
        let what = match &step[2..] {
            "" => None,
            "P" => Some(Mapping::Pmd),
            count => Some(ptes(0, count.parse().unwrap())),
        };
        match (step.as_bytes()[1], what) {
            (b'+', Some(what)) => {
                let _ = folio.add_mappings(who, what).unwrap();
            }
            (b'-', Some(what)) => drop(folio.remove_mappings(who, what).unwrap()),
            (b'/', None) => {
                let _ = folio.remap(who).unwrap();
            }
            _ => panic!("{step}"),
        }
    }
}

/// Runs `body` with a folio of 128 pages whose descriptors but the first are shared, as a deduplicated memory map has them.
pub(crate) fn with_shared_tails<C: Mapcounts>(
    body: impl for<'m, 'a> FnOnce(&'m SliceMap<'a, C>, Frozen<'m, SliceMap<'a, C>>),
) {
    let mut pages: Vec<Page> = (0..128).map(|_| Page::new()).collect();
    let base = core::ptr::NonNull::new(pages.as_mut_ptr()).unwrap();
    // SAFETY: 128 descriptors, which nobody else accesses.
    unsafe { Template::tail(order(7), Place::default()).fill(base.cast(), 128) };
    // SAFETY: the first of them.
    unsafe { Template::head_of_shared(order(7), Place::default()).fill(base.cast(), 1) };
    let range = PfnRange::new(Pfn::ZERO, 128).unwrap();
    // SAFETY: written with templates just now, and nobody else has them while `pages` is borrowed here.
    let map = unsafe { SliceMap::<C>::from_raw_parts(base, range) };
    body(&map, map.claim(Pfn::ZERO).unwrap().allocate());
    drop(pages);
}
