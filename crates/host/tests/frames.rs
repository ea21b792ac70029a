// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator: what the operating system says of its frames.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod common;

use common::*;
use mmkit_addr::{NodeId, Order, Pfn, ZoneId};
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Request};
use mmkit_host::HostFrames;

fn host_frames(capacity: u64) -> Option<HostFrames> {
    HostFrames::new(capacity).map_err(|error| println!("skipped: {error}")).ok()
}

#[test]
fn memory_comes_with_writing_and_goes_with_freeing() {
    let Some(frames) = host_frames(1 << 20) else { return };
    let page = 1_u64 << frames.base_shift();
    let taken: Vec<Pfn> = (0..64).map(|_| frames.allocate(Request::new(Order::ZERO)).unwrap()).collect();
    assert_eq!(frames.resident_bytes(), 0, "allocating alone takes nothing");
    for (index, &frame) in taken.iter().enumerate() {
        assert_eq!(frame.get(), index as u64, "frames ascend");
        fill(&frames, frame, 1);
        assert_eq!(frames.resident_bytes(), (index as u64 + 1) * page);
    }
    for (index, &frame) in taken.iter().enumerate() {
        // SAFETY: allocated above, unused.
        unsafe { frames.deallocate(frame, Order::ZERO) };
        assert_eq!(frames.resident_bytes(), (63 - index as u64) * page);
    }
    assert_eq!((frames.allocated(), frames.bad_frees()), (0, 0));
}

#[test]
fn what_is_handed_out_again_is_zero() {
    let Some(frames) = host_frames(64) else { return };
    let request = Request::new(order(3)).zeroed();
    let block = frames.allocate(request).unwrap();
    for index in 0..8 {
        fill(&frames, pfn(block.get() + index), u64::MAX);
    }
    // SAFETY: allocated above, unused.
    unsafe { frames.deallocate(block, order(3)) };
    assert_eq!(frames.allocate(request), Ok(block));
    for index in 0..8 {
        let bytes = frames.frame(pfn(block.get() + index)).unwrap().cast::<u64>();
        for word in 0..(1_usize << frames.base_shift()) / 8 {
            // SAFETY: inside the frame.
            let word = unsafe { bytes.add(word) };
            // SAFETY: the test's own frame.
            assert_eq!(unsafe { word.read_volatile() }, 0);
        }
    }
}

#[test]
fn the_budget_and_the_place_are_kept_to() {
    let Ok(frames) = HostFrames::with_budget(1 << 10, 12) else { return };
    let request = Request::new(order(3));
    let block = frames.allocate(request).unwrap();
    assert_eq!(frames.allocate(request), Err(AllocError { request }));
    let mut out = [Pfn::ZERO; 5];
    assert!(frames.allocate_bulk(Request::new(Order::ZERO), &mut out).is_err(), "all or nothing");
    assert_eq!(frames.allocated(), 8);
    assert!(frames.allocate_bulk(Request::new(Order::ZERO), &mut out[..4]).is_ok());
    assert_eq!((frames.allocated(), frames.budget(), frames.capacity()), (12, 12, 1 << 10));
    // SAFETY: allocated above, unused.
    unsafe { frames.split(block, order(3), order(1)) };
    for part in [0, 2, 4, 6] {
        // SAFETY: a part of the block that was split.
        unsafe { frames.deallocate(pfn(block.get() + part), order(1)) };
    }
    assert_eq!(frames.allocated(), 4);

    let other = NodeId::new(1).unwrap();
    assert!(frames.allocate(Request::new(Order::ZERO).on_node(other).strict()).is_err());
    assert!(frames.allocate(Request::new(Order::ZERO).on_node(other)).is_ok());
    assert!(frames.allocate(Request::new(Order::ZERO).in_zone(ZoneId::MAX)).is_err());
    assert!(frames.allocate(Request::new(Order::ZERO).in_zone(ZoneId::ZERO)).is_ok());
    assert!(frames.allocate(Request::new(Order::MAX)).is_err());
}

#[test]
fn a_double_free_frees_nothing() {
    let Some(frames) = host_frames(64) else { return };
    let first = filled(&frames, 1);
    let second = filled(&frames, 2);
    // SAFETY: allocated above, unused.
    unsafe { frames.deallocate(first, Order::ZERO) };
    // SAFETY: deliberately not so: that this implementation notices is what is tested.
    unsafe { frames.deallocate(first, Order::ZERO) };
    // SAFETY: as above: the other half is not out.
    unsafe { frames.deallocate(first, order(1)) };
    assert_eq!((frames.allocated(), frames.bad_frees()), (1, 2));
    let word = frames.frame(second).unwrap().cast::<u64>();
    // SAFETY: the test's own frame.
    assert_eq!(unsafe { word.read_volatile() }, 2);
}

#[test]
fn the_direct_map_has_all_frames_and_no_more() {
    let Some(frames) = host_frames(1000) else { return };
    let page = 1_usize << frames.base_shift();
    assert_eq!(page, rustix::param::page_size());
    let base = frames.frame(Pfn::ZERO).unwrap().as_ptr().addr();
    assert_eq!(frames.frame(pfn(999)).unwrap().as_ptr().addr(), base + 999 * page);
    assert_eq!(frames.frame(pfn(1000)), None);
    assert_eq!(frames.frame(Pfn::MAX), None);
}

#[test]
fn huge_pages_are_kept_out_of_the_direct_map() {
    let Some(frames) = host_frames(4096) else { return };
    let base = frames.frame(Pfn::ZERO).unwrap().as_ptr().addr();
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else {
        println!("skipped: /proc/self/smaps cannot be read");
        return;
    };
    let own = smaps.lines().skip_while(|line| !line.starts_with(&format!("{base:x}-")));
    let flags = own.into_iter().find(|line| line.starts_with("VmFlags:"));
    let without = !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
    assert!(
        without || flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "nh")),
        "{flags:?}"
    );
}

#[test]
fn threads_never_share_a_frame() {
    let Some(frames) = host_frames(1 << 12) else { return };
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let frames = &frames;
            scope.spawn(move || {
                for round in 0..200 {
                    let size = order((round % 4) as u8);
                    let block = frames.allocate(Request::new(size)).unwrap();
                    let each = || (0..size.frames()).map(|index| pfn(block.get() + index));
                    each().for_each(|frame| fill(frames, frame, thread));
                    for frame in each() {
                        let word = frames.frame(frame).unwrap().cast::<u64>();
                        // SAFETY: this thread's own frame.
                        assert_eq!(unsafe { word.read_volatile() }, thread);
                    }
                    // SAFETY: allocated above, unused from here on.
                    unsafe { frames.deallocate(block, size) };
                }
            });
        }
    });
    assert_eq!((frames.allocated(), frames.resident_bytes()), (0, 0));
}
