// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share.
#![allow(dead_code, reason = "each test program uses its own part")]

use mmkit_addr::{NodeId, Order, Pfn, ZoneId};
use mmkit_page::{MemMap, Page, Place, SliceMap, State};

pub(crate) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn place(node: u16, zone: u8) -> Place {
    Place::new(NodeId::new(node).unwrap(), ZoneId::new(zone).unwrap())
}

pub(crate) fn pages(frames: usize) -> Vec<Page> {
    (0..frames).map(|_| Page::new()).collect()
}

/// All 64 bytes of every descriptor.
pub(crate) fn all_words(map: &SliceMap<'_>) -> Vec<[u64; 8]> {
    let reader = map.enter();
    (map.range().start().get()..map.range().end()).map(|n| reader.page(pfn(n)).unwrap().words()).collect()
}

pub(crate) fn state<M: MemMap>(map: &M, number: u64) -> State {
    map.enter().page(pfn(number)).unwrap().state()
}

pub(crate) fn head<M: MemMap>(map: &M, number: u64) -> u64 {
    map.head(pfn(number)).unwrap().get()
}
