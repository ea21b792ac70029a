// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbered scenarios.

use mmkit_addr::{Order, PfnRange, VirtAddr, VirtRange};
use mmkit_devmap::{
    DaxMapping, DaxRegion, DevPagemap, Failed, Failure, FailureError, FolioError, Kind, Report, Sigbus,
    unused_references,
};
use mmkit_folio::{MmIds, Rmap};
use mmkit_frame::Request;
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{Folio, MemMap, PageFlags, State};
use mmkit_sync::atomic::AtomicU64;
use mmkit_vmemmap::{Altmap, Serial};

use crate::common::*;
use crate::failure::Mappers;

/// References of the folio at frame `number`; 0 while nobody has it.
fn count(machine: &Machine<'_>, number: u64) -> u32 {
    match state(machine, number) {
        State::Held { count, .. } => count,
        _ => 0,
    }
}

#[test]
fn scenario_45_initial_references() {
    for (kind, o) in [
        (Kind::Generic, 0),
        (Kind::Generic, 9),
        (Kind::FsDax, 0),
        (Kind::Private, 0),
        (Kind::Coherent, 0),
        (Kind::PciP2pdma, 0),
        (Kind::PciP2pdma, 9),
    ] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let registration = machine.register(description(kind, 2 * HUGE, o, &Driver::new()), &Serial).unwrap();
        for number in 0..2 * HUGE {
            if number % order(o).frames() == 0 {
                let expected = if kind == Kind::Generic { 1 } else { 0 };
                assert_eq!(count(&machine, number), expected, "{kind} of order {o}, frame {number}");
                assert_eq!(unused_references(kind), expected);
            } else {
                assert_eq!(state(&machine, number), State::Tail { order: order(o) });
                assert_eq!(words(&machine, number)[1] >> 32, 0, "tails have none");
            }
        }
        remove(registration);
        assert!(machine.registry().is_empty());
    }
}

#[test]
fn scenario_45_generic_is_ready_again() {
    for o in [0, 9] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let registration =
            machine.register(description(Kind::Generic, HUGE, o, &Driver::new()), &Serial).unwrap();
        let references = registration.pagemap().references();
        let before = image(&machine, HUGE);
        for _ in 0..3 {
            let folio = machine.hand_out(at(0)).unwrap();
            assert_eq!((folio.count(), folio.order()), (1, order(o)));
            let second = folio.try_clone().unwrap();
            assert_eq!(machine.hand_out(at(0)).unwrap_err(), FolioError::Busy { pfn: at(0) });
            drop(folio);
            assert_eq!(count(&machine, 0), 1);
            drop(second);
            assert_eq!(count(&machine, 0), 1, "reset, not freed");
            assert_eq!(image(&machine, HUGE), before);
            assert_eq!(registration.pagemap().references(), references);
        }
        // Another user beside the pagemap's reference.
        let user = machine.try_get(at(o.into())).unwrap();
        assert_eq!(user.count(), 2);
        drop(user);
        assert_eq!(image(&machine, HUGE), before);
        remove(registration);
    }
}

#[test]
fn scenario_45_fs_dax_wakes_the_waiter() {
    use std::ops::ControlFlow;
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let driver = Driver::new();
    let registration = device(&machine, Kind::FsDax, &driver);
    let before = image(&machine, HUGE);
    let folio = machine.associate(at(0), order(9), file(1, 0)).unwrap().folio;
    assert_eq!(folio.count(), 1);
    let mut held = Some(folio);
    let mut looked = Vec::new();
    let waited = machine.wait_idle(frames(0, HUGE), |wait| {
        looked.push((wait.pfn, wait.references, wait.tries, wait.is_over()));
        drop(held.take());
        assert!(wait.is_over(), "the last put was seen");
        ControlFlow::Continue(())
    });
    assert_eq!(waited, Ok(Ok(())));
    assert_eq!(looked, [(at(0), 1, 0, false)]);
    assert_eq!(driver.calls(), [Call::Idle(frames(0, HUGE))]);
    assert_eq!(image(&machine, HUGE), before, "no head, no order, no mapping is left");
    remove(registration);
}

#[test]
fn scenario_45_drivers_hear_of_the_last_put_once() {
    for kind in [Kind::Private, Kind::Coherent, Kind::PciP2pdma] {
        for o in [0, 3, 9] {
            if kind == Kind::PciP2pdma && o > 0 {
                continue;
            }
            let memory = TestFrames::with_frames(4096);
            let machine = machine(&memory);
            let driver = Driver::new();
            let registration = device(&machine, kind, &driver);
            let pagemap = registration.pagemap();
            let (references, before) = (pagemap.references(), image(&machine, HUGE));
            let folio = machine.allocate(at(0), order(o), 0xd1).unwrap();
            assert_eq!((folio.count(), machine.data_of(&folio)), (1, Some(0xd1)));
            assert_eq!(pagemap.references(), references + (1 << o), "one for each frame");
            let second = machine.try_get(at((1 << o) - 1)).unwrap();
            drop(folio);
            assert_eq!(driver.calls(), []);
            drop(second);
            assert_eq!(driver.calls(), [Call::Free(frames(0, 1 << o))]);
            assert_eq!(pagemap.references(), references);
            assert_eq!(image(&machine, HUGE), before);
            remove(registration);
        }
    }
}

#[test]
fn scenario_51_the_index_is_that_of_the_page_rounded_down() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let mut region = DaxRegion::fixed(frames(0, 4 * HUGE), place());
    let device = region.create(&machine, 4 * HUGE, order(9), id(5), &Serial).unwrap();
    let start = VirtAddr::new(0x4000_0000);
    let mapping = DaxMapping { range: VirtRange::new(start, 4 << 21).unwrap(), first: 0, shared: true };
    device.check(&mapping).unwrap();
    let addr = start.checked_add((2 << 20) + (12 << 10)).unwrap();
    let fault = device.fault(&mapping, addr, order(9)).unwrap();
    assert_eq!(fault.place, file(5, HUGE), "2M and 12K: the page at 2M, not the one at 4M");
    assert_eq!(fault.addr, start.checked_add(2 << 20).unwrap());
    assert_eq!((fault.folio.pfn(), fault.folio.count()), (at(HUGE), 2));
    assert_eq!(machine.place_in_file(&fault.folio), Some(file(5, HUGE)));
    // Only the head says so.
    for number in HUGE + 1..2 * HUGE {
        assert_eq!(words(&machine, number)[2..], [0; 6]);
    }
    // A second fault, by a mapping that begins elsewhere, finds the same and writes nothing.
    let before = image(&machine, 4 * HUGE);
    let other = DaxMapping { first: HUGE, ..mapping };
    let again = device.fault(&other, start.checked_add(5).unwrap(), order(9)).unwrap();
    assert_eq!(again.place, fault.place);
    drop(again);
    assert_eq!(image(&machine, 4 * HUGE), before);
    drop(fault);
    region.destroy(device, &(), |_| core::ops::ControlFlow::Break(())).unwrap();
}

#[test]
fn scenario_51_a_mapping_that_is_there_is_not_overwritten() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let mut region = DaxRegion::dynamic(frames(0, 2 * HUGE), place());
    let device = region.create(&machine, 2 * HUGE, order(9), id(5), &Serial).unwrap();
    let range = VirtRange::new(VirtAddr::new(1 << 30), 1 << 21).unwrap();
    let mapping = DaxMapping { range, first: HUGE, shared: true };
    drop(device.fault(&mapping, range.start(), order(9)).unwrap());
    let folio = machine.try_get(at(HUGE)).unwrap();
    assert_eq!(machine.place_in_file(&folio), Some(file(5, HUGE)));
    drop(folio);
    // Ready again is a new life: nobody has named it.
    drop(machine.hand_out(at(HUGE)).unwrap());
    let folio = machine.try_get(at(HUGE)).unwrap();
    assert_eq!(machine.place_in_file(&folio), None);
    drop(folio);
    region.destroy(device, &(), |_| core::ops::ControlFlow::Break(())).unwrap();
}

#[test]
fn scenario_53_a_tail_marks_the_head_and_one_report_has_the_largest_size() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let driver = Driver::new();
    let registration = device(&machine, Kind::FsDax, &driver);
    let mut bits = [const { AtomicU64::new(0) }; MmIds::words(8)];
    let ids = MmIds::new(&mut bits);
    let folio = machine.associate(at(0), order(9), file(1, 0)).unwrap().folio;
    let (one, two) = (ids.take().unwrap(), ids.take().unwrap());
    let _ = folio.add_mappings(one.id(), mmkit_folio::Mapping::pte(300)).unwrap();
    let _ = folio.add_mappings(two.id(), mmkit_folio::Mapping::Pmd).unwrap();
    let mappers = Mappers::new(&[0, 9, 0]);
    let report = Report { pfn: at(300), order: order(9) };
    assert_eq!(machine.memory_failure(at(300), &mappers), Ok(Failure::Reported(report)));
    assert_eq!(mappers.reports(), [report]);
    assert_eq!(report.frames(), frames(0, HUGE));
    assert_eq!(driver.calls(), [Call::Failure(frames(300, 1))], "the driver was asked, and had nothing");
    assert!(folio.flags().contains(PageFlags::HWPOISON), "the head");
    assert!(folio.flags_at(300).unwrap().contains(PageFlags::HWPOISON));
    assert!(!folio.flags_at(299).unwrap().contains(PageFlags::HWPOISON));
    assert_eq!(machine.memory_failure(at(300), &mappers), Ok(Failure::Known));
    assert_eq!(mappers.reports(), []);
    assert_eq!(
        machine.associate(at(0), order(9), file(2, 0)).unwrap_err(),
        FolioError::Poisoned { pfn: at(0) }
    );
    drop(folio.remove_mappings(one.id(), mmkit_folio::Mapping::pte(300)).unwrap());
    drop(folio.remove_mappings(two.id(), mmkit_folio::Mapping::Pmd).unwrap());
    drop(folio);
    // The good frames are free, the head's too; the bad one is kept.
    for number in 0..HUGE {
        assert_eq!(state(&machine, number) == REST, number != 300, "frame {number}");
    }
    remove(registration);
}

#[test]
fn scenario_53_the_altmap_area_and_foreign_frames() {
    let memory = TestFrames::with_frames(1 << 17);
    let machine = machine(&memory);
    let mappers = Mappers::new(&[0]);
    let foreign = |pfn| Err(FailureError::Foreign { pfn });
    assert_eq!(machine.memory_failure(at(0), &mappers), foreign(at(0)));
    // A section that the allocator lends, whose first subsection has room for the descriptors of all.
    let section = memory.frames().allocate(Request::new(order(15))).unwrap();
    let range = PfnRange::block(section, order(15));
    let set_aside = PfnRange::block(section, order(9));
    // SAFETY: the frames are the test's, until the device is gone.
    let altmap = unsafe { Altmap::new(section, 0, HUGE) }.unwrap();
    let builder = DevPagemap::builder(Kind::Generic).range(range).at(place()).altmap(altmap);
    let registration = machine.register(builder.build(&X86).unwrap(), &Serial).unwrap();
    for number in [0, HUGE - 1] {
        let pfn = section.checked_add(number).unwrap();
        let error = machine.memory_failure(pfn, &mappers).unwrap_err();
        assert_eq!(error, FailureError::Metadata { pfn, set_aside });
    }
    assert_eq!(mappers.reports(), []);
    let first = section.checked_add(HUGE).unwrap();
    assert!(matches!(machine.memory_failure(first, &mappers), Ok(Failure::Reported(_))));
    let behind = section.checked_add(1 << 15).unwrap();
    assert_eq!(machine.memory_failure(behind, &mappers), foreign(behind));
    // The same while it is going.
    registration.kill();
    assert_eq!(
        machine.memory_failure(section, &mappers),
        Err(FailureError::Metadata { pfn: section, set_aside })
    );
    assert_eq!(machine.memory_failure(behind, &mappers), foreign(behind));
    drop(remove(registration));
    // SAFETY: taken above, at this order, and nothing is in it any more.
    unsafe { memory.frames().deallocate(section, order(15)) };
}

#[test]
fn scenario_53_what_the_driver_says() {
    let memory = TestFrames::with_frames(4096);
    let mappers = Mappers::new(&[0]);
    for (says, kind, expected) in [
        (Ok(()), Kind::Private, Ok(Failure::Driver)),
        (
            Err(Failed::Device(5)),
            Kind::Generic,
            Err(FailureError::Device { pfn: at(7), error: Failed::Device(5) }),
        ),
        (
            Err(Failed::Unsupported),
            Kind::Private,
            Err(FailureError::OnlyDriver { pfn: at(7), kind: Kind::Private }),
        ),
        (
            Err(Failed::Unsupported),
            Kind::Coherent,
            Err(FailureError::OnlyDriver { pfn: at(7), kind: Kind::Coherent }),
        ),
    ] {
        let machine = machine(&memory);
        let driver = Driver::saying(says);
        let registration = device(&machine, kind, &driver);
        let before = image(&machine, HUGE);
        assert_eq!(machine.memory_failure(at(7), &mappers), expected);
        assert_eq!(driver.calls(), [Call::Failure(frames(7, 1))]);
        assert_eq!(image(&machine, HUGE), before, "nothing is marked");
        remove(registration);
    }
    assert_eq!(mappers.reports(), []);
}

#[test]
fn scenario_a7_destroyed_and_made_again_with_other_pages() {
    let memory = TestFrames::with_frames(1 << 14);
    let machine = machine(&memory);
    let mut region = DaxRegion::dynamic(frames(0, GIGANTIC), place());
    for (mapping, o) in [(1, 9), (2, 18), (3, 0), (4, 18)] {
        assert!(machine.registry().enter().find(at(0)).is_none());
        assert!(machine.enter().page(at(0)).is_none(), "no descriptor between the two");
        assert_eq!(machine.try_get(at(9)).unwrap_err(), mmkit_page::GetError::Absent { pfn: at(9) });
        let device = region.create(&machine, GIGANTIC, order(o), id(mapping), &Serial).unwrap();
        for number in [0, 1, HUGE - 1, HUGE, HUGE + 1, GIGANTIC / 2, GIGANTIC - 1] {
            let head = number & !order(o).mask();
            let folio = machine.try_get(at(number)).unwrap();
            assert_eq!((folio.pfn(), folio.order()), (at(head), order(o)), "frame {number}");
            assert_eq!((folio.count(), machine.place_in_file(&folio)), (2, None));
            drop(folio);
            if number != head {
                assert_eq!(state(&machine, number), State::Tail { order: order(o) });
            }
        }
        let range = VirtRange::new(VirtAddr::new(1 << 40), 1 << 30).unwrap();
        let mapping_of = DaxMapping { range, first: 0, shared: true };
        let fault = device.fault(&mapping_of, range.start(), order(o)).unwrap();
        assert_eq!(machine.place_in_file(&fault.folio), Some(file(mapping, 0)));
        drop(fault);
        region.destroy(device, &(), |_| core::ops::ControlFlow::Break(())).unwrap();
        assert_eq!((region.taken(), region.left()), (&[][..], GIGANTIC));
        assert_eq!(machine.memory().usage().own, 0);
    }
    drop(machine);
    memory.assert_no_leaks();
}

#[test]
fn scenario_a7_a_fault_of_a_device_that_is_going() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let mut region = DaxRegion::dynamic(frames(0, HUGE), place());
    let device = region.create(&machine, HUGE, Order::ZERO, id(1), &Serial).unwrap();
    let range = VirtRange::new(VirtAddr::new(1 << 40), 1 << 21).unwrap();
    let mapping = DaxMapping { range, first: 0, shared: true };
    let held = device.fault(&mapping, range.start(), Order::ZERO).unwrap();
    device.kill();
    let gone = mmkit_devmap::FaultError::Sigbus(Sigbus::Gone { index: 0 });
    assert_eq!(device.fault(&mapping, range.start(), Order::ZERO).unwrap_err(), gone);
    let (device, error) = region.destroy(device, &(), |_| core::ops::ControlFlow::Break(())).unwrap_err();
    assert_eq!(error, mmkit_devmap::DevmapError::Held { range: frames(0, HUGE), held: 1 });
    assert_eq!(region.left(), 0, "the device has its frames still");
    let folio: Folio<'_, Machine<'_>> = held.folio;
    assert_eq!(folio.count(), 1, "the pagemap's own reference is gone");
    drop(folio);
    region.destroy(device, &(), |_| core::ops::ControlFlow::Break(())).unwrap();
    assert_eq!(region.left(), HUGE);
}
