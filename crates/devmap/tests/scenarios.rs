// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbered scenarios of device memory: registering and taking away.
#![cfg(not(mmkit_loom))]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    DEVICE, SECTION, SUBSECTION, X86, digest, generic, looks, machine, memory, order, pfn, private, range,
    refused, spans, until,
};
use mmkit_addr::{NodeId, Order, PfnRange, ZoneId};
use mmkit_devmap::{DevPagemap, DevmapError, FolioError, Kind, Span, UnregisterError};
use mmkit_frame::Request;
use mmkit_page::{GetError, MemMap, Place};
use mmkit_vmemmap::{Altmap, Serial, VmemmapError};

#[test]
fn scenario_43_an_overlap_at_any_frame_is_refused() {
    let memory = memory(4096);
    let device = machine(&memory);
    let there = range(DEVICE + 64 * SUBSECTION, 8 * SUBSECTION);
    let registration = device.register(generic(&[there], 0), &Serial).unwrap();
    let (low, high) = (there.start().get(), there.end());
    let overlapping = [
        range(low, 8 * SUBSECTION),
        // With the first frames, the last, some in between, and all.
        range(low - SUBSECTION, 2 * SUBSECTION),
        range(high - SUBSECTION, 3 * SUBSECTION),
        range(low + SUBSECTION, SUBSECTION),
        range(low - SUBSECTION, 10 * SUBSECTION),
    ];
    for other in overlapping {
        let error = refused(&device, &memory, &[there, other], generic(&[other], 0));
        assert_eq!(error, DevmapError::Overlap { range: other, with: there });
        assert_eq!(error.errno(), 12);
        // As the second range of two, after one that would do.
        let first = range(DEVICE, SUBSECTION);
        let error = refused(&device, &memory, &[there, first, other], generic(&[first, other], 0));
        assert_eq!(error, DevmapError::Overlap { range: other, with: there });
    }
    // Neighbours do not overlap.
    let below = device.register(generic(&[range(low - SUBSECTION, SUBSECTION)], 0), &Serial).unwrap();
    let above = device.register(generic(&[range(high, SUBSECTION)], 9), &Serial).unwrap();
    for registration in [registration, below, above] {
        registration.unregister(&(), looks(0)).unwrap();
    }
    assert!(device.registry().is_empty());
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn scenario_43_memory_of_the_machine_is_refused() {
    let memory = memory(4096);
    let device = machine(&memory);
    let ram = range(SECTION + SUBSECTION, SUBSECTION);
    device.memory().populate(ram, Order::ZERO, Default::default()).unwrap();
    for other in [range(SECTION, SECTION), ram, range(ram.start().get() - SUBSECTION, 2 * SUBSECTION)] {
        for o in [0, 9] {
            let error = refused(&device, &memory, &[ram, other], generic(&[other], o));
            let cause = VmemmapError::Present { pfn: ram.start() };
            assert_eq!(error, DevmapError::Ram { range: other, cause });
            assert_eq!(error.errno(), 6);
        }
        // The range before it is undone.
        let first = range(0, SECTION);
        let error = refused(&device, &memory, &[ram, first, other], generic(&[first, other], 0));
        assert!(matches!(error, DevmapError::Ram { range, .. } if range == other));
    }
    device.memory().remove(ram).unwrap();
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn scenario_43_what_cannot_be_meant_is_refused_before_anything_is_done() {
    let whole = range(DEVICE, 1 << 19);
    let huge = Order::new(19).unwrap();
    let error = DevPagemap::builder(Kind::Generic).range(whole).order(huge).build(&X86).unwrap_err();
    assert_eq!(error.error, DevmapError::OrderTooLarge { order: huge, max: order(18) });
    assert_eq!(error.error.errno(), 22);

    // SAFETY: nobody has memory there, and no descriptors are written to it.
    let altmap = unsafe { Altmap::new(whole.start(), 0, 1 << 13) }.unwrap();
    let second = range(DEVICE + (1 << 20), SECTION);
    let builder = DevPagemap::builder(Kind::Generic).range(whole).range(second).altmap(altmap);
    let error = builder.build(&X86).unwrap_err();
    assert_eq!(error.error, DevmapError::AltmapOfMany { range: second });
    assert_eq!(error.error.errno(), 22);
    assert_eq!(error.altmap.unwrap().free(), 1 << 13, "the altmap comes back");
}

#[test]
fn scenario_46_a_folio_that_is_held_keeps_the_memory() {
    let memory = memory(4096);
    let device = machine(&memory);
    let before = digest(&device, &memory, &[]);
    for (pagemap, o) in [
        (generic(&[range(DEVICE, 2 * SECTION)], 9), 9),
        (generic(&[range(DEVICE, SECTION)], 0), 0),
        (private(&[range(DEVICE, SECTION)]), 3),
    ] {
        let registration = device.register(pagemap, &Serial).unwrap();
        let first = pfn(DEVICE + 512);
        let folio = device.take(first, order(o)).unwrap();
        let references = 1 << (o - registration.pagemap().order().get());
        assert_eq!(folio.pagemap().references_of(folio.order()), references);

        // A time-out, and another one.
        let error = registration.unregister(&(), looks(3)).unwrap_err();
        let all = error.registration.pagemap().ranges()[0];
        let held = DevmapError::Held { range: all, held: references.into() };
        assert_eq!(error.error, held);
        assert_eq!(error.error.errno(), 16);
        // Nobody finds it; who has the folio has the pagemap and the descriptors, and may share them.
        assert!(device.registry().get(first).is_none());
        assert!(device.registry().enter().find(first).is_none());
        assert_eq!(
            device.take(pfn(DEVICE), order(o)).unwrap_err(),
            FolioError::NoPagemap { pfn: pfn(DEVICE) }
        );
        assert!(folio.pagemap().is_dead());
        let second = device.try_get(first).unwrap();
        assert!(device.memory().is_present(first));
        let error = error.registration.unregister(&(), looks(0)).unwrap_err();
        assert_eq!(error.error, held);

        // A thread waits until the last reference is put.
        let (put, gave_up) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let pagemap = error.registration.unregister(&(), until(&gave_up)).unwrap();
                assert!(put.load(Ordering::Relaxed), "it did not wait");
                pagemap
            });
            drop(folio);
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(!waiter.is_finished(), "one reference is left");
            put.store(true, Ordering::Relaxed);
            drop(second);
            assert_eq!(waiter.join().unwrap().ranges(), [all]);
        });
        assert_eq!(device.try_get(first).unwrap_err(), GetError::Absent { pfn: first });
        assert_eq!(digest(&device, &memory, &[]), before);
    }
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn scenario_46_a_reference_on_the_pagemap_keeps_it_too() {
    let memory = memory(4096);
    let device = machine(&memory);
    let registration = device.register(generic(&[range(DEVICE, SECTION)], 0), &Serial).unwrap();
    let reference = device.registry().get(pfn(DEVICE)).unwrap();
    let UnregisterError { error, registration } = registration.unregister(&(), looks(1)).unwrap_err();
    assert!(matches!(error, DevmapError::Held { held: 1, .. }));
    assert_eq!(reference.ranges(), [range(DEVICE, SECTION)]);
    drop(reference);
    registration.unregister(&(), looks(0)).unwrap();
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn scenario_47_references_of_128_gib() {
    let all = range(DEVICE, 1 << 25);
    assert_eq!(generic(&[all], 9).bulk_references(), 65536);
    assert_eq!(generic(&[all], 18).bulk_references(), 128);
    assert_eq!(generic(&[all], 0).bulk_references(), 1 << 25);
    assert_eq!(private(&[all]).bulk_references(), 0, "each folio brings its own");
    // Two gigabytes of descriptors of single frames, in the device.
    for (o, references) in [(9, 65536 - 1024), (0, (1 << 25) - (1 << 19))] {
        // SAFETY: nobody has memory there, and no descriptors are written to it.
        let altmap = unsafe { Altmap::new(all.start(), 0, 1 << 19) }.unwrap();
        let builder = DevPagemap::builder(Kind::Generic).range(all).order(order(o)).altmap(altmap);
        assert_eq!(builder.build(&X86).unwrap().bulk_references(), references);
    }

    // Registered, they are held.
    let memory = memory(1 << 12);
    let device = machine(&memory);
    let ranges = [range(DEVICE, 1 << 18), range(DEVICE + (1 << 30), 1 << 18)];
    for (pagemap, references) in
        [(generic(&ranges, 18), 2), (generic(&ranges, 9), 1024), (private(&[range(DEVICE, SECTION)]), 0)]
    {
        let registration = device.register(pagemap, &Serial).unwrap();
        assert_eq!(registration.pagemap().references(), references);
        registration.unregister(&(), looks(0)).unwrap();
    }
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn scenario_52_devices_that_go_leave_their_spans() {
    let memory = memory(4096);
    let device = machine(&memory);
    let [low, high] = [range(DEVICE, SECTION), range(DEVICE + 4 * SECTION, 2 * SECTION)];
    assert_eq!(spans(&device), [None; 2]);
    let first = device.register(generic(&[low], 9), &Serial).unwrap();
    let alone = Span { range: low, present: SECTION };
    assert_eq!(spans(&device), [Some(alone); 2]);
    assert!(alone.is_contiguous());
    let second = device.register(private(&[high]), &Serial).unwrap();
    let both = Span { range: range(DEVICE, 6 * SECTION), present: 3 * SECTION };
    assert_eq!(spans(&device), [Some(both); 2]);
    first.unregister(&(), looks(0)).unwrap();
    let left = Span { present: 2 * SECTION, ..both };
    assert_eq!(spans(&device), [Some(left); 2], "no shrink");
    // Whoever is refused changes nothing of it, and a device that fills the hole makes it contiguous.
    let error = refused(&device, &memory, &[high], generic(&[low, high], 0));
    assert_eq!(error, DevmapError::Overlap { range: high, with: high });
    let hole = generic(&[range(DEVICE, 4 * SECTION)], 0);
    let third = device.register(hole, &Serial).unwrap();
    assert!(spans(&device).iter().all(|span| span.unwrap().is_contiguous()));
    second.unregister(&(), looks(0)).unwrap();
    third.unregister(&(), looks(0)).unwrap();
    assert_eq!(spans(&device), [Some(Span { present: 0, ..both }); 2]);

    // Another zone of another node is another matter. What an altmap sets aside has no descriptors.
    let place = Place::new(NodeId::new(2).unwrap(), ZoneId::new(1).unwrap());
    let section = memory.frames().allocate(Request::new(order(11))).unwrap();
    let lent = PfnRange::block(section, order(11));
    // SAFETY: the frames are the test's, until the device is gone.
    let altmap = unsafe { Altmap::new(section, 0, SUBSECTION) }.unwrap();
    let builder = DevPagemap::builder(Kind::Generic).range(lent).at(place).altmap(altmap);
    let registration = device.register(builder.build(&X86).unwrap(), &Serial).unwrap();
    let described = Span {
        range: range(section.get() + SUBSECTION, lent.frames() - SUBSECTION),
        present: lent.frames() - SUBSECTION,
    };
    assert_eq!(device.zone_span(place), Some(described));
    assert_eq!(device.node_span(NodeId::new(1).unwrap()), None);
    registration.unregister(&(), looks(0)).unwrap();
    assert_eq!(device.node_span(place.node), Some(Span { present: 0, ..described }));
    // SAFETY: taken above, at this order, and nothing is in it any more.
    unsafe { memory.frames().deallocate(section, order(11)) };
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn a_pagemap_is_killed_while_a_reader_keeps_another_registration_waiting() {
    let memory = memory(4096);
    let device = machine(&memory);
    let all = range(DEVICE, SECTION);
    let registration = device.register(generic(&[all], 9), &Serial).unwrap();
    let reader = device.registry().enter();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let pagemap = generic(&[range(DEVICE + SECTION, SECTION)], 9);
            device.register(pagemap, &Serial).unwrap()
        });
        // It has replaced the table, and waits for the reader of the old one.
        while device.registry().len() < 2 {
            std::thread::yield_now();
        }
        let killer = scope.spawn(|| registration.kill());
        let begun = std::time::Instant::now();
        while !killer.is_finished() && begun.elapsed() < std::time::Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let done = killer.is_finished();
        assert!(!other.is_finished(), "it waits for the reader");
        drop(reader);
        assert!(done, "it waited for who waits for the reader");
        let other = other.join().unwrap();
        assert!(
            device.registry().get(all.start()).is_none()
                && device.registry().enter().find(all.start()).is_none()
        );
        other.unregister(&(), looks(0)).unwrap();
    });
    registration.unregister(&(), looks(0)).unwrap();
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn generic_folios_that_passed_their_pagemap_by_are_found_at_the_second_try() {
    let memory = memory(4096);
    let device = machine(&memory);
    for o in [0, 9] {
        let all = range(DEVICE, SECTION);
        let registration = device.register(generic(&[all], o), &Serial).unwrap();
        let nth = |n: u64| pfn(DEVICE + (n << o));
        let take = |n| device.take(nth(n), order(o)).unwrap().into_folio();
        // Before the kill: free by hand.
        drop(take(0).put().unwrap().into_free().unwrap());
        let (by_hand, machines, right, held) = (take(1), take(2), take(3), take(4));
        let through_memory = device.memory().try_get(nth(2)).unwrap();
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        assert_eq!(error, DevmapError::Held { range: all, held: 5 });
        // And after it: by hand, and as memory of the machine.
        drop(by_hand.put().unwrap().into_free().unwrap());
        drop(machines);
        drop(through_memory);
        drop(right);
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        assert_eq!(error, DevmapError::Held { range: all, held: 1 }, "the one that is held");
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        assert_eq!(error, DevmapError::Held { range: all, held: 1 }, "nothing is put twice");
        drop(held);
        registration.unregister(&(), looks(0)).unwrap();
    }
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn a_registration_that_is_dropped_frees_nothing() {
    let memory = memory(4096);
    let device = machine(&memory);
    let all = range(DEVICE, SECTION);
    let registration = device.register(generic(&[all], 9), &Serial).unwrap();
    let out = memory.outstanding();
    let folio = device.take(all.start(), order(9)).unwrap();
    drop(registration);
    assert!(folio.pagemap().is_dead() && device.registry().get(all.start()).is_none());
    assert!(device.memory().is_present(all.start()));
    drop(folio);
    // The frames are taken still, though nobody has them.
    assert_eq!(memory.outstanding(), out);
    let other = device.register(generic(&[all], 9), &Serial).unwrap_err();
    assert_eq!(other.error, DevmapError::Overlap { range: all, with: all });
    drop(device);
    memory.assert_no_leaks();
}
