// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the machine inside the intervals of a pagemap that is not there yet, or not there any more: whatever its owner
//! keeps in its words, it is not taken for the device's.
#![cfg(not(mmkit_loom))]
// Errors give back what was handed in.
#![allow(clippy::result_large_err)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};

use common::{
    DEVICE, Device, MEET, SECTION, SUBSECTION, digest, fsdax, generic, looks, machine, memory, pfn, private,
    range,
};
use mmkit_addr::{Order, Pfn};
use mmkit_devmap::{DevPagemap, DevmapError, PagemapIndex, UnregisterError};
use mmkit_page::{Folio, MemMap, PinPolicy, PinUse, PinVerdict};
use mmkit_sync::atomic::Ordering;
use mmkit_vmemmap::{Serial, VmemmapError};

/// A folio of the machine's memory, whose owner keeps in word 0 what would name a pagemap.
fn machines<'d, 'f>(device: &'d Device<'f>, at: Pfn, index: PagemapIndex) -> Folio<'d, Device<'f>> {
    let folio = device.claim(at).unwrap().allocate().into_folio();
    // SAFETY: the frame was just claimed: its memory is this test's.
    let words = unsafe { folio.owner_words() };
    words[PagemapIndex::HEAD_WORD].store(index.slot() as u64 + 1, Ordering::Relaxed);
    folio
}

/// It is nobody's, whoever asks, and goes where memory of the machine goes.
fn is_nobodys<'d, 'f>(device: &'d Device<'f>, folio: Folio<'d, Device<'f>>) {
    let at = folio.pfn();
    assert_eq!(device.kind_of(&folio), None);
    assert_eq!(device.verdict(&folio, PinUse::LONGTERM), PinVerdict::Allow);
    let folio = device.device_folio(folio).unwrap_err();
    drop(folio);
    assert!(device.claim(at).is_ok(), "its last put freed it");
}

#[test]
fn where_part_of_a_pagemap_was_removed() {
    // The last range goes first; then somebody's claim is in the way.
    let ranges = [range(DEVICE, SUBSECTION), range(DEVICE + SECTION, SUBSECTION)];
    let removed = ranges[1];
    let kinds: [fn(&[mmkit_addr::PfnRange]) -> DevPagemap; 3] = [fsdax, private, |ranges| generic(ranges, 0)];
    for pagemap in kinds {
        let memory = memory(4096);
        let device = machine(&memory);
        let before = digest(&device, &memory, &[]);
        let registration = device.register(pagemap(&ranges), &Serial).unwrap();
        let index = registration.pagemap().index();

        // While it lives, and while it is torn down, last puts find it.
        let first = device.take(ranges[0].start(), Order::ZERO).unwrap();
        let last = device.take(removed.start(), Order::ZERO).unwrap();
        drop(first);
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        assert_eq!(error, DevmapError::Held { range: ranges[0], held: 1 });
        assert_eq!(device.kind_of(&last), Some(registration.pagemap().kind()));
        drop(last);
        assert_eq!(registration.pagemap().references(), 0, "put by the last put");

        let claimed = device.claim(pfn(DEVICE + 7)).unwrap();
        let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
        let cause = VmemmapError::Busy { pfn: claimed.pfn() };
        assert_eq!(error, DevmapError::Memory { range: ranges[0], cause });

        // The machine gets memory where the second range was.
        device.memory().populate(removed, Order::ZERO, Default::default()).unwrap();
        for at in [removed.start(), removed.last().unwrap()] {
            is_nobodys(&device, machines(&device, at, index));
            assert_eq!(registration.pagemap().references(), 0);
        }
        device.memory().remove(removed).unwrap();

        drop(claimed);
        registration.unregister(&(), looks(0)).unwrap();
        assert_eq!(digest(&device, &memory, &[]), before);
        drop(device);
        memory.assert_no_leaks();
    }
}

#[test]
fn where_a_pagemap_is_only_reserved() {
    let memory = memory(4096);
    let device = machine(&memory);
    let ranges = [range(DEVICE, SUBSECTION), range(DEVICE + SECTION, SUBSECTION)];
    device.memory().populate(ranges[1], Order::ZERO, Default::default()).unwrap();
    let before = digest(&device, &memory, &ranges);
    // The first pagemap of an empty registry has the first index.
    let other = device.register(generic(&[range(DEVICE - SECTION, SUBSECTION)], 0), &Serial).unwrap();
    let index = other.pagemap().index();
    other.unregister(&(), looks(0)).unwrap();

    let folio = machines(&device, ranges[1].start(), index);
    let meet = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        let registering = scope.spawn(|| {
            MEET.set(Some(Arc::clone(&meet)));
            device.register(private(&ranges), &Serial).unwrap_err()
        });
        // The first range has descriptors, the second one is about to be refused.
        meet.wait();
        assert_eq!(device.registry().enter().of_index(index).unwrap().ranges(), ranges);
        let looked = catch_unwind(AssertUnwindSafe(|| is_nobodys(&device, folio)));
        meet.wait();
        let error = registering.join().unwrap();
        looked.unwrap_or_else(|panic| resume_unwind(panic));
        let cause = VmemmapError::Present { pfn: ranges[1].start() };
        assert_eq!(error.error, DevmapError::Ram { range: ranges[1], cause });
    });
    assert_eq!(digest(&device, &memory, &ranges), before);
    device.memory().remove(ranges[1]).unwrap();
    drop(device);
    memory.assert_no_leaks();
}
