// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever frame went bad, and whoever lost what: in the end the device goes.
#![cfg(not(mmkit_loom))]

mod common;

use common::{DEVICE, SECTION, generic, looks, machine, memory, pfn, private, range};
use mmkit_addr::{Order, Pfn};
use mmkit_devmap::{DevmapError, Failure, Registration, Report, Victims};
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::Ordering;
use mmkit_vmemmap::{Serial, VmemmapEnv, VmemmapSpace};

/// Nobody maps anything.
struct Nobody;

impl<M: MemMap> Victims<M> for Nobody {
    fn largest_mapping(&self, _: &Folio<'_, M>, _: Pfn) -> Option<Order> {
        None
    }

    fn report(&self, _: &Folio<'_, M>, _: Report) -> bool {
        true
    }
}

/// At the second try, at the latest.
fn goes<S: VmemmapSpace, E: VmemmapEnv>(registration: Registration<'_, S, E>) -> Result<(), DevmapError> {
    match registration.unregister(&(), looks(2)) {
        Ok(_) => Ok(()),
        Err(again) => again.registration.unregister(&(), looks(2)).map(drop).map_err(|error| error.error),
    }
}

#[test]
fn whichever_frame_is_bad_the_device_goes() {
    // The first descriptors of a folio are its own, the others shared.
    for index in [0, 1, 2, 3, 4, 63, 64, 511] {
        let memory = memory(4096);
        let device = machine(&memory);
        let registration = device.register(generic(&[range(DEVICE, SECTION)], 9), &Serial).unwrap();
        device.memory_failure(pfn(DEVICE + index), &Nobody).unwrap();
        assert_eq!(goes(registration), Ok(()), "frame {index}");
    }
}

#[test]
fn a_folio_that_was_lost_and_is_bad_is_found() {
    let memory = memory(4096);
    let device = machine(&memory);
    let registration = device.register(generic(&[range(DEVICE, SECTION)], 0), &Serial).unwrap();
    let folio = device.take(pfn(DEVICE), Order::ZERO).unwrap().into_folio();
    // It rests past its pagemap.
    drop(folio.put().unwrap().into_free().unwrap());
    assert_eq!(device.memory_failure(pfn(DEVICE), &Nobody), Ok(Failure::Unused));
    assert_eq!(goes(registration), Ok(()));
}

#[test]
fn a_bad_folio_does_not_hide_one_that_was_lost() {
    for index in [0, 3, 40] {
        let memory = memory(4096);
        let device = machine(&memory);
        let registration = device.register(generic(&[range(DEVICE, SECTION)], 9), &Serial).unwrap();
        let huge = Order::new(9).unwrap();
        let bad = device.take(pfn(DEVICE), huge).unwrap().into_folio();
        let lost = device.take(pfn(DEVICE + 512), huge).unwrap().into_folio();
        device.memory_failure(pfn(DEVICE + index), &Nobody).unwrap();
        drop(bad);
        drop(lost.put().unwrap().into_free().unwrap());
        assert_eq!(goes(registration), Ok(()), "frame {index}");
    }
}

#[test]
fn words_of_a_block_that_was_merged_are_not_a_new_folios() {
    let memory = memory(4096);
    let device = machine(&memory);
    let registration = device.register(private(&[range(DEVICE, SECTION)]), &Serial).unwrap();
    let (lower, upper) = (device.claim(pfn(DEVICE)).unwrap(), device.claim(pfn(DEVICE + 1)).unwrap());
    // What would name the pagemap.
    upper.words()[0].store(registration.pagemap().index().slot() as u64 + 1, Ordering::Relaxed);
    let (lower, upper) = lower.merge(upper).unwrap().allocate().split().unwrap();
    drop(lower.into_free().unwrap());
    let held = device.registry().get(pfn(DEVICE)).unwrap();
    let before = held.references();
    let folio = upper.into_folio();
    assert_eq!(device.kind_of(&folio), None, "it has no reference on the pagemap");
    drop(folio);
    assert_eq!(held.references(), before, "and puts none");
    drop(held);
    assert_eq!(goes(registration), Ok(()));
}
