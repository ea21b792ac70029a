// SPDX-License-Identifier: MIT OR Apache-2.0
//! A buddy allocator in the private words of free frames: `cargo run -p mmkit-page --example buddy`.

#[cfg(not(mmkit_loom))]
mod allocator;

#[cfg(not(mmkit_loom))]
fn main() {
    use mmkit_addr::{Order, Pfn};
    use mmkit_page::{MemMap, Page, Place, SliceMap};

    let mut pages: Vec<Page> = (0..4096).map(|_| Page::new()).collect();
    let map = SliceMap::new(&mut pages, Pfn::ZERO).expect("4096 frames fit below the highest frame number");
    map.initialise(map.range(), Place::default()).expect("no frame was initialised before");
    let buddy = allocator::Buddy::new(map);
    println!("free blocks by order, at first:    {:?}", buddy.free_blocks());

    let orders = [0, 0, 3, 9, 1].map(|order| Order::new(order).expect("small"));
    let blocks: Vec<Pfn> = orders.iter().filter_map(|&order| buddy.allocate(order)).collect();
    println!("taken:                             {blocks:?}");
    println!("free blocks by order, meanwhile:   {:?}", buddy.free_blocks());

    for pfn in blocks {
        // SAFETY: `allocate` returned each of them, and each is given back once.
        unsafe { buddy.deallocate(pfn) };
    }
    println!("free blocks by order, afterwards:  {:?}", buddy.free_blocks());
}

#[cfg(mmkit_loom)]
fn main() {}
