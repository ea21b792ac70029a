// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that are used while their descriptors are being written.
#![cfg(not(mmkit_loom))]
// Errors give back what was handed in.
#![allow(clippy::result_large_err)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{
    DEVICE, SECTION, SUBSECTION, X86, digest, fsdax, generic, looks, machine, memory, order, pfn, private,
    range, spans,
};
use mmkit_addr::{Order, PfnRange};
use mmkit_devmap::{DevPagemap, DevmapError, FolioError, Kind, UnregisterError};
use mmkit_frame::Request;
use mmkit_page::MemMap;
use mmkit_vmemmap::{Altmap, Executor, Progress, Serial, VmemmapError};

/// All of this thread's work by two others.
struct Two;

impl Executor for Two {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= jobs {
                            break;
                        }
                        job(number);
                    }
                });
            }
        });
    }
}

type Describe = fn(&[PfnRange]) -> DevPagemap;

const RANGES: [(u64, u64); 2] = [(DEVICE, 3 * SECTION), (DEVICE + 8 * SECTION, SECTION)];

fn ranges() -> [PfnRange; 2] {
    RANGES.map(|(start, frames)| range(start, frames))
}

#[test]
fn each_part_is_usable_when_it_is_written() {
    let kinds: [(Describe, u8); 4] =
        [(|ranges| generic(ranges, 9), 9), (|ranges| generic(ranges, 0), 0), (fsdax, 3), (private, 4)];
    for (pagemap, o) in kinds {
        let memory = memory(4096);
        let device = machine(&memory);
        let deferred = device.register_deferred(pagemap(&ranges())).unwrap();
        let bulk = deferred.pagemap().bulk_references();
        assert_eq!(deferred.pagemap().references(), bulk);
        assert_eq!(deferred.progress(), Progress { parts: 4, done: 0 });
        let firsts =
            RANGES.iter().flat_map(|&(start, frames)| (start..start + frames).step_by(SECTION as usize));
        let firsts: Vec<u64> = firsts.collect();
        let mut held = Vec::new();
        for done in 0..4 {
            // What is there can be used, what is not is no device's yet, for whoever asks.
            for (number, &first) in firsts.iter().enumerate() {
                let got = device.take(pfn(first + 512 * done), order(o));
                assert_eq!(got.is_ok(), (number as u64) < done, "part {number} after {done}");
                match got {
                    Ok(folio) => held.push(folio),
                    Err(error) => {
                        let pfn = pfn(first + 512 * done);
                        assert_eq!(error, FolioError::NoPagemap { pfn });
                        assert!(device.try_get(pfn).is_err());
                    }
                }
            }
            let part = deferred.step().unwrap();
            assert_eq!(part, range(firsts[done as usize], SECTION));
            assert_eq!(deferred.progress(), Progress { parts: 4, done: done + 1 });
        }
        assert_eq!((deferred.step(), held.len()), (None, 6));
        assert_eq!(spans(&device)[0].unwrap().present, 4 * SECTION);
        let registration = deferred.finish();
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        assert!(matches!(error, DevmapError::Held { .. }));
        drop(held);
        registration.unregister(&(), looks(0)).unwrap();
        drop(device);
        memory.assert_no_leaks();
    }
}

#[test]
fn it_becomes_what_registering_at_once_makes() {
    let image = |deferred: Option<bool>| {
        let memory = memory(4096);
        let device = machine(&memory);
        let registration = match deferred {
            None => device.register(generic(&ranges(), 9), &Serial).unwrap(),
            Some(threads) => {
                let deferred = device.register_deferred(generic(&ranges(), 9)).unwrap();
                let _ = deferred.step();
                if threads {
                    deferred.write(&Two);
                    assert_eq!(deferred.progress(), Progress { parts: 4, done: 4 });
                }
                deferred.finish()
            }
        };
        let words: Vec<[u64; 8]> = ranges()
            .iter()
            .flat_map(|range| range.iter())
            .map(|pfn| device.enter().page(pfn).unwrap().words())
            .collect();
        let seen = (words, registration.pagemap().references(), spans(&device), device.memory().usage());
        registration.unregister(&(), looks(0)).unwrap();
        drop(device);
        memory.assert_no_leaks();
        seen
    };
    let at_once = image(None);
    assert_eq!(image(Some(false)), at_once);
    assert_eq!(image(Some(true)), at_once);
}

#[test]
fn one_that_is_dropped_is_killed_and_nobody_elses() {
    let memory = memory(4096);
    let device = machine(&memory);
    let deferred = device.register_deferred(private(&ranges())).unwrap();
    let _ = deferred.step();
    let folio = device.take(pfn(DEVICE), order(2)).unwrap();
    drop(deferred);
    // Who has something keeps it, and its kind; nothing new is had; the machine gets none of it.
    assert!(folio.pagemap().is_dead() && device.registry().get(pfn(DEVICE)).is_none());
    assert_eq!(device.kind_of(&folio), Some(Kind::Private));
    for range in ranges() {
        assert!(
            device.memory().is_present(range.start()) && device.memory().is_present(range.last().unwrap())
        );
        let refused = device.memory().populate(range, Order::ZERO, Default::default()).unwrap_err();
        assert_eq!(refused, VmemmapError::Present { pfn: range.start() });
    }
    drop(folio);
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn what_fails_gives_all_of_it_back() {
    let memory = memory(4096);
    let device = machine(&memory);
    let there = device.register(generic(&[range(DEVICE + SECTION, SUBSECTION)], 0), &Serial).unwrap();
    let before = (digest(&device, &memory, &ranges()), spans(&device));
    // SAFETY: nobody has memory there, and no descriptors are written to it.
    let altmap = unsafe { Altmap::new(pfn(DEVICE - SECTION), 0, SECTION) }.unwrap();
    let builder = DevPagemap::builder(Kind::Generic).range(ranges()[0]).altmap(altmap);
    let error = device.register_deferred(builder.build(&X86).unwrap()).unwrap_err();
    assert!(matches!(error.error, DevmapError::Overlap { .. }));
    assert_eq!(error.pagemap.unwrap().into_altmap().unwrap().free(), SECTION, "it comes back");
    assert_eq!((digest(&device, &memory, &ranges()), spans(&device)), before);
    there.unregister(&(), looks(0)).unwrap();

    let before = (digest(&device, &memory, &ranges()), spans(&device));
    let mut pagemap = generic(&ranges(), 9);
    for k in 1.. {
        memory.fail_nth(k);
        let result = device.register_deferred(pagemap);
        memory.heal();
        match result {
            Ok(deferred) => {
                deferred.finish().unregister(&(), looks(0)).unwrap();
                break;
            }
            Err(error) => {
                assert!(matches!(error.error, DevmapError::Memory { .. }), "{error}");
                assert_eq!((digest(&device, &memory, &ranges()), spans(&device)), before, "failure {k}");
                pagemap = error.pagemap.unwrap();
            }
        }
    }
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn descriptors_in_the_device_itself() {
    let memory = memory(1 << 17);
    let device = machine(&memory);
    // Two sections that the allocator lends, of which the beginning has room for the descriptors of all.
    let first = memory.frames().allocate(Request::new(order(16))).unwrap();
    let all = PfnRange::block(first, order(16));
    let before = device.memory().usage();
    for finished in [true, false] {
        // SAFETY: the frames are the test's, until the device is gone.
        let altmap = unsafe { Altmap::new(first, 0, 2 * SUBSECTION) }.unwrap();
        let builder = DevPagemap::builder(Kind::Generic).range(all).at(common::place()).altmap(altmap);
        let deferred = device.register_deferred(builder.build(&X86).unwrap()).unwrap();
        let part = deferred.step().unwrap();
        assert_eq!(part, range(first.get() + 2 * SUBSECTION, SECTION - 2 * SUBSECTION));
        drop(device.take(part.start(), Order::ZERO).unwrap());
        assert!(device.take(all.last().unwrap(), Order::ZERO).is_err());
        if !finished {
            drop(deferred);
            break;
        }
        let registration = deferred.finish();
        drop(device.take(all.last().unwrap(), Order::ZERO).unwrap());
        let altmap = registration.unregister(&(), looks(0)).unwrap().into_altmap().unwrap();
        assert_eq!((altmap.alloc(), altmap.free()), (0, 2 * SUBSECTION));
        assert_eq!(device.memory().usage(), before);
        assert!(device.registry().is_empty() && !device.memory().is_present(all.last().unwrap()));
    }
    drop(device);
    // SAFETY: taken above, at this order, and the memory map is gone.
    unsafe { memory.frames().deallocate(first, order(16)) };
    memory.assert_no_leaks();
}
