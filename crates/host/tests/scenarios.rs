// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scenarios that need tails which are read-only for real.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::{DirectMap, FrameAllocator, Frames, Request};
use mmkit_host::{HostFrames, HostSpace, mapping_budget};
use mmkit_page::{GetError, MemMap, PageFlags, Place, State, Template};
use mmkit_vmemmap::{Backing, TailRun, Vmemmap, VmemmapSpace};

/// Every word of every frame of a run.
fn contents(frames: &HostFrames, run: TailRun) -> Vec<u64> {
    // SAFETY: clones are the same frames, and only this test touches them.
    let frames = unsafe { Frames::new(frames.clone(), frames.clone()) };
    let mut found = vec![];
    for frame in PfnRange::block(run.first, run.order).iter() {
        // SAFETY: the test's own frame; whoever maps it only reads.
        let words = unsafe { frames.words(frame) }.unwrap();
        found.extend(words.iter().map(|word| word.load(Ordering::Relaxed)));
    }
    found
}

/// A space with the compounds `0..count` in place, heads at rest, all tails shared.
fn compounds(count: u64) -> Option<(HostFrames, HostSpace, TailRun, Order)> {
    let (frames, _) = host(1, 0)?;
    let size = compound_order(&frames);
    let (frames, space) = host(count * size.frames(), 3)?;
    let run = tails(&frames, order(3), size);
    for compound in 0..count {
        let first = tails(&frames, Order::ZERO, size).first;
        // SAFETY: the test's own frame.
        unsafe { Template::head_of_shared(size, Place::default()).fill(frames.frame(first).unwrap(), 1) };
        map(&space, compound * 8..compound * 8 + 1, Backing::Own { first }).unwrap();
        map(&space, compound * 8 + 1..compound * 8 + 8, Backing::Tails(run)).unwrap();
    }
    Some((frames, space, run, size))
}

/// A4: in a process whose tails are really read-only, `try_get` on a shared tail of a folio without references is
/// refused, without a fault; with references it is the head that is written.
#[test]
fn scenario_a4_try_get_on_a_shared_tail() {
    let Some((frames, space, run, size)) = compounds(2) else { return };
    let before = contents(&frames, run);
    {
        let map = Map(&space);
        let head = pfn(size.frames());
        for index in 1..size.frames() {
            let tail = pfn(head.get() + index);
            assert_eq!(map.enter().page(tail).unwrap().state(), State::Tail { order: size });
            assert_eq!(map.try_get(tail).err(), Some(GetError::Unreferenced { pfn: head }));
            assert!(map.claim(tail).is_err(), "{tail:?} can be claimed");
        }
        let folio = map.claim(head).unwrap().allocate().into_folio();
        for index in 1..size.frames() {
            let second = map.try_get(pfn(head.get() + index)).unwrap();
            assert_eq!((second.pfn(), second.count()), (head, 2));
            second.insert(PageFlags::DIRTY);
        }
        assert_eq!(folio.count(), 1);
        drop(folio);
        // The other compound has the same tails, and nothing of that.
        assert_eq!(map.try_get(pfn(5)).err(), Some(GetError::Unreferenced { pfn: Pfn::ZERO }));
    }
    assert_eq!(contents(&frames, run), before);
}

/// A4, with the memory map that users have.
#[test]
fn scenario_a4_through_a_vmemmap() {
    let Some((frames, _)) = host(1, 0) else { return };
    let size = compound_order(&frames);
    let geometry = geometry(&frames);
    let range = PfnRange::new(Pfn::ZERO, 2 * geometry.frames_per_section()).unwrap();
    let space = HostSpace::new(&frames, range.end(), order(3), mapping_budget().unwrap()).unwrap();
    let vmemmap = Vmemmap::new(geometry, space, HostEnv::new(&frames)).unwrap();
    vmemmap.populate(range, size, Place::default()).unwrap();
    for pfn in range.iter() {
        let head = pfn.align_down(size);
        assert_eq!(vmemmap.head(pfn), Some(head));
        assert_eq!(vmemmap.try_get(pfn).err(), Some(GetError::Unreferenced { pfn: head }));
    }
    let held = vmemmap.claim(Pfn::ZERO).unwrap().allocate().into_folio();
    assert_eq!(vmemmap.try_get(pfn(size.frames() - 1)).unwrap().pfn(), held.pfn());
    drop(held);
    drop(vmemmap);
    assert_eq!((frames.allocated(), frames.resident_bytes()), (0, 0), "all of it was given back");
}

/// A3: somebody looks at the descriptor of a single frame while another merges the frame into a huge page and shares
/// its tails. No write can reach the shared tail, by type; the view still reads.
#[test]
fn scenario_a3_a_view_across_merge_and_optimise() {
    let Some((frames, _)) = host(1, 0) else { return };
    let size = compound_order(&frames);
    let Some((frames, space)) = host(size.frames(), 3) else { return };
    // Single frames at first, all descriptors their own.
    let own = frames.allocate(Request::new(order(3))).unwrap();
    let per_page = 1 << (space.base_shift() - 6);
    for frame in PfnRange::block(own, order(3)).iter() {
        // SAFETY: the test's own frame.
        unsafe { Template::base(Place::default()).fill(frames.frame(frame).unwrap(), per_page) };
    }
    map(&space, 0..8, Backing::Own { first: own }).unwrap();
    let run = tails(&frames, order(3), size);
    let before = contents(&frames, run);
    let map = Map(&space);
    let watched = pfn(size.frames() - 1);

    let reader = map.enter();
    let view = reader.page(watched).unwrap();
    assert_eq!(view.state(), State::Free { order: Order::ZERO, parked: true });
    assert_eq!(view.head(), watched);
    // A single frame can be had, and given back.
    drop(map.claim(watched).unwrap().allocate().into_folio());

    // Another merges all frames, two and two, and makes them one compound.
    let mut blocks: Vec<_> = (0..size.frames()).map(|frame| map.claim(pfn(frame)).unwrap()).collect();
    while blocks.len() > 1 {
        let mut halves = blocks.into_iter();
        blocks = vec![];
        while let (Some(lower), Some(upper)) = (halves.next(), halves.next()) {
            blocks.push(lower.merge(upper).unwrap());
        }
    }
    let frozen = blocks.pop().unwrap().allocate().prep().unwrap();
    assert_eq!(frozen.order(), size);
    assert_eq!(view.state(), State::Tail { order: size });

    // It shares the tails, and gives the frames behind them back, while a third keeps looking.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let map = Map(&space);
            while !stop.load(Ordering::Relaxed) {
                for frame in (1..size.frames()).rev() {
                    assert_eq!(map.head(pfn(frame)), Some(Pfn::ZERO));
                    assert_eq!(
                        map.try_get(pfn(frame)).err(),
                        Some(GetError::Unreferenced { pfn: Pfn::ZERO })
                    );
                }
            }
        });
        let resident = frames.resident_bytes();
        for _ in 0..50 {
            // SAFETY: the folio is frozen, so nobody has a handle to one of its frames; views read the same words in
            // the shared tails, and `try_get` writes no tail.
            let was = unsafe { space.put_over(1..8, Backing::Tails(run)) }.unwrap();
            assert_eq!(flushed(was), [(7, Backing::Own { first: pfn(own.get() + 1) })]);
            // SAFETY: as before: these are the tails that were there, unchanged.
            let was = unsafe { space.put_over(1..8, Backing::Own { first: pfn(own.get() + 1) }) }.unwrap();
            assert_eq!(flushed(was), [(7, Backing::Tails(run))]);
        }
        // SAFETY: as before.
        let was = unsafe { space.put_over(1..8, Backing::Tails(run)) }.unwrap();
        flushed(was);
        // SAFETY: a block that the test allocated, whose frames are given back one by one.
        unsafe { frames.split(own, order(3), Order::ZERO) };
        for frame in 1..8 {
            // SAFETY: part of that block, and no page maps it any more.
            unsafe { frames.deallocate(pfn(own.get() + frame), Order::ZERO) };
        }
        assert_eq!(resident - frames.resident_bytes(), 7 << frames.base_shift());
        stop.store(true, Ordering::Relaxed);
    });

    // The view that was there before all that reads a tail, from memory that cannot be written.
    assert_eq!(view.state(), State::Tail { order: size });
    assert_eq!(view.head(), Pfn::ZERO);
    assert_eq!(view.try_get().err(), Some(GetError::Unreferenced { pfn: Pfn::ZERO }));
    let kernel = kernel_view(&space);
    assert!(kernel[1..].iter().all(|(_, access, _)| access == "r--s"), "{kernel:?}");
    // Once the folio is out, a reference from the same view counts in the head.
    let folio = frozen.into_folio();
    assert_eq!(view.try_get().unwrap().count(), 2);
    assert_eq!(folio.count(), 1);
    assert_eq!(contents(&frames, run), before);
}

/// A write to a tail past all types ends the process, at that address and not before.
#[test]
fn scenario_23_a_stray_write_to_a_tail_is_a_fault() {
    const NAME: &str = "scenario_23_a_stray_write_to_a_tail_is_a_fault";
    let Some((_, space, _, size)) = compounds(1) else { return };
    if !is_child(NAME) {
        let output = child(NAME);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("the head was written"), "{output:?}");
        assert!(text.contains("next the tail"), "{output:?}");
        assert!(!text.contains("survived"), "{output:?}");
        assert_eq!(output.status.signal(), Some(11), "{output:?}");
        return;
    }
    let stray = |frame: u64| {
        let word = descriptor(&space, frame).unwrap().cast::<u64>();
        // SAFETY: deliberately none: no type would allow it, which is why the pages are read-only. The first one is the
        // page that the compound owns.
        unsafe { word.write_volatile(word.as_ptr().addr() as u64) };
    };
    // SAFETY: a core dump of a sparse file serves nobody. Only this child is concerned.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    );
    stray(1);
    println!("the head was written");
    println!("next the tail");
    stray(size.frames() - 1);
    println!("it survived");
}
