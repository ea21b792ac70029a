// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads with an address space each, which share folios through forks and a file.

mod common;

use common::{PAGE, Random, at, order, pages};
use mmkit_addr::VirtAddr;
use mmkit_folio::{Checked, Mapcounts, NoPageMapcount, PageMapcount, PowerSums, TwoSlots};
use mmkit_sim::{AddressSpace, Area, World};
use mmkit_sync::atomic::AtomicU64;

const FILE: usize = 32;

/// One thread: writes its own bytes everywhere, and finds its own bytes, or those from before the fork.
fn live<C: Mapcounts>(space: AddressSpace<'_, C>, me: u8, count: usize) {
    let mut random = Random(u64::from(me) * 77);
    let mut wrote = vec![false; count];
    for round in 0..400 {
        let page = random.below(count);
        let mut seen = [0; 3];
        space.read(at(page), &mut seen).unwrap();
        let expected = if wrote[page] { me } else { 0xee };
        assert_eq!(seen, [expected; 3], "page {page} of thread {me}");
        if random.below(2) == 0 {
            space.write(at(page), &[me; 3]).unwrap();
            wrote[page] = true;
        }
        // Everybody writes a byte of its own of the file; those of others come and stay.
        let mine = VirtAddr::new(at(count).get() + random.below(FILE) as u64 * PAGE + u64::from(me));
        space.write(mine, &[me]).unwrap();
        if round % 40 == 0 {
            let child = space.fork().unwrap();
            child.write(at(page), &[0x77]).unwrap();
            child.dont_need(pages(random.below(count / 2), count / 2)).unwrap();
        }
    }
    for page in 0..FILE as u64 {
        space.write(VirtAddr::new(at(count).get() + page * PAGE + u64::from(me)), &[me]).unwrap();
    }
    for (page, wrote) in wrote.into_iter().enumerate() {
        let mut seen = [0; 3];
        space.read(at(page), &mut seen).unwrap();
        assert_eq!(seen, [if wrote { me } else { 0xee }; 3]);
    }
}

fn threads<C: Mapcounts>(order_of_folios: u8, count: usize) {
    let mut ids = [const { AtomicU64::new(0) }; 1];
    let world = World::<C>::new(1 << 14, &mut ids).unwrap();
    let file = world.create_file(&vec![0; FILE * PAGE as usize], order(3)).unwrap();
    let start = world.free_frames();
    let parent = world.spawn().unwrap();
    parent.mmap(pages(0, count), Area::anonymous(order(order_of_folios))).unwrap();
    parent.mmap(pages(count, FILE), Area::file(file, 0, true)).unwrap();
    for page in 0..count {
        parent.write(at(page), &[0xee; 3]).unwrap();
    }
    let children: Vec<_> = (0..4).map(|_| parent.fork().unwrap()).collect();
    std::thread::scope(|scope| {
        for (space, me) in children.into_iter().chain([parent]).zip(1..) {
            scope.spawn(move || live(space, me, count));
        }
    });
    // No write to a shared word was lost.
    let mut word = [0; 6];
    for page in 0..FILE as u64 {
        world.read_file(file, page * PAGE, &mut word).unwrap();
        assert_eq!(word, [0, 1, 2, 3, 4, 5]);
    }
    assert_eq!(world.free_frames(), start, "frames leaked");
    let statistics = world.statistics();
    assert_eq!((statistics.anon, statistics.anon_pmd, statistics.file), (0, 0, 0));
    assert!(statistics.copied > 0);
}

#[test]
fn power_sums() {
    threads::<NoPageMapcount<PowerSums>>(4, 128);
    threads::<PageMapcount<PowerSums>>(2, 128);
}

#[test]
fn two_slots() {
    threads::<NoPageMapcount<TwoSlots>>(4, 128);
    threads::<PageMapcount<TwoSlots>>(2, 128);
}

#[test]
fn pmds_under_checked() {
    threads::<NoPageMapcount<Checked>>(9, 512);
    threads::<PageMapcount<Checked>>(0, 64);
}
