// SPDX-License-Identifier: MIT OR Apache-2.0
//! device-dax, beyond the numbered scenarios.

use std::ops::ControlFlow;

use mmkit_addr::{VirtAddr, VirtRange};
use mmkit_devmap::{
    DaxDevice, DaxError, DaxMapping, DaxRegion, FaultError, FolioError, Kind, MappingError, RegionError,
    Sigbus,
};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::MemMap;
use mmkit_vmemmap::Serial;

use crate::common::*;

/// Where the tests map devices.
const AT: u64 = 1 << 40;

fn mapping(from: u64, bytes: u64, first: u64) -> DaxMapping {
    DaxMapping { range: VirtRange::new(VirtAddr::new(AT + from), bytes).unwrap(), first, shared: true }
}

fn end(device: DaxDevice<'_, Space<'_>, Slots<'_>>) {
    let _ = device.end(&(), |_| ControlFlow::Break(())).unwrap();
}

#[test]
fn of_every_size_of_leaf() {
    let memory = TestFrames::with_frames(1 << 14);
    let machine = machine(&memory);
    let sizes = [0].into_iter().chain(X86.huge_pages().iter().map(|huge| huge.order().get()));
    let sizes: Vec<u8> = sizes.filter(|&o| X86.leaf_level(order(o)).is_some()).collect();
    assert_eq!(sizes, [0, 9, 18]);
    for &o in &sizes {
        let size = 1u64 << o;
        let count = (2 * size).max(2 * HUGE);
        let mut region = DaxRegion::dynamic(frames(0, count), place());
        let device = region.create(&machine, count, order(o), id(1), &Serial).unwrap();
        let whole = mapping(0, count << 12, 0);
        assert_eq!((device.check(&whole), device.alignment(), device.frames()), (Ok(()), order(o), count));
        for nth in [0, 1, count / size - 1] {
            let addr = VirtAddr::new(AT + ((nth * size) << 12) + (size << 11) + 1);
            let fault = device.fault(&whole, addr, order(o)).unwrap();
            assert_eq!((fault.folio.pfn(), fault.folio.order()), (at(nth * size), order(o)));
            assert_eq!(fault.place, file(1, nth * size));
        }
        for &other in &sizes {
            let error = device.fault(&whole, VirtAddr::new(AT), order(other));
            let (order, alignment) = (order(other), order(o));
            match other.cmp(&o) {
                std::cmp::Ordering::Less => {
                    assert_eq!(
                        error.unwrap_err(),
                        FaultError::Sigbus(Sigbus::SmallEntry { order, alignment })
                    );
                }
                std::cmp::Ordering::Greater => {
                    assert_eq!(error.unwrap_err(), FaultError::Fallback { order, alignment });
                }
                std::cmp::Ordering::Equal => drop(error.unwrap()),
            }
        }
        region.destroy(device, &(), |_| ControlFlow::Break(())).unwrap();
    }
}

#[test]
fn faults_at_the_edges() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let pagemap = description(Kind::Generic, 2 * HUGE, 9, &Driver::new());
    let device = DaxDevice::new(&machine, pagemap, id(1), &Serial).unwrap();
    let fault = |mapping: DaxMapping, at: u64| device.fault(&mapping, VirtAddr::new(AT + at), order(9));
    let outside = |at: u64| FaultError::Sigbus(Sigbus::OutsideMapping { addr: VirtAddr::new(AT + at) });
    let two = 2u64 << 20;
    // Outside, below and above; and a page that only partly lies in the mapping (which `check` refuses).
    assert_eq!(fault(mapping(two, two, 0), two - 1).unwrap_err(), outside(two - 1));
    assert_eq!(fault(mapping(0, two, 0), two).unwrap_err(), outside(two));
    assert_eq!(fault(mapping(4096, two, 0), 4096).unwrap_err(), outside(4096));
    assert_eq!(fault(mapping(0, two - 4096, 0), 0).unwrap_err(), outside(0));
    // Past the device, and not at a page of it.
    let nothing = |index| FaultError::Sigbus(Sigbus::OutsideDevice { index });
    assert_eq!(fault(mapping(0, 2 * two, HUGE), two).unwrap_err(), nothing(2 * HUGE));
    assert_eq!(fault(mapping(0, two, 1), 0).unwrap_err(), nothing(1));
    assert_eq!(fault(mapping(0, two, u64::MAX), 0).unwrap_err(), nothing(u64::MAX));
    // The top of the address space.
    let top = VirtRange::new(VirtAddr::new(0u64.wrapping_sub(two)), two).unwrap();
    let top = DaxMapping { range: top, first: 0, shared: true };
    assert_eq!(device.fault(&top, VirtAddr::MAX, order(9)).unwrap().place, file(1, 0));
    end(device);
}

#[test]
fn mappings_that_are_refused() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let pagemap = description(Kind::Generic, 2 * HUGE, 9, &Driver::new());
    let device = DaxDevice::new(&machine, pagemap, id(1), &Serial).unwrap();
    let two = 2u64 << 20;
    let private = DaxMapping { shared: false, ..mapping(0, two, 0) };
    assert_eq!(device.check(&private), Err(MappingError::Private));
    for bad in [mapping(4096, two, 0), mapping(0, two + 4096, 0), mapping(0, two, 1)] {
        let error = MappingError::Misaligned { range: bad.range, first: bad.first, order: order(9) };
        assert_eq!(device.check(&bad), Err(error));
    }
    assert!(device.may_divide_at(VirtAddr::new(AT + two)));
    assert!(!device.may_divide_at(VirtAddr::new(AT + 4096)));
    device.kill();
    assert_eq!(device.check(&mapping(0, two, 0)), Err(MappingError::Gone));
    end(device);
}

#[test]
fn a_page_that_failed_is_not_mapped() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let pagemap = description(Kind::Generic, 2 * HUGE, 9, &Driver::new());
    let device = DaxDevice::new(&machine, pagemap, id(1), &Serial).unwrap();
    let mappers = crate::failure::Mappers::new(&[]);
    machine.memory_failure(at(HUGE + 100), &mappers).unwrap();
    let whole = mapping(0, 4 << 20, 0);
    let bad = device.fault(&whole, VirtAddr::new(AT + (2 << 20)), order(9)).unwrap_err();
    assert_eq!(bad, FaultError::Sigbus(Sigbus::Poisoned { index: HUGE }));
    drop(device.fault(&whole, VirtAddr::new(AT), order(9)).unwrap());
    end(device);
}

#[test]
fn devices_that_are_none() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let private = description(Kind::Private, HUGE, 0, &Driver::new());
    let error = DaxDevice::new(&machine, private, id(1), &Serial).unwrap_err();
    assert!(matches!(error, DaxError::OtherKind { pagemap } if pagemap.kind() == Kind::Private));
    let odd = description(Kind::Generic, HUGE, 3, &Driver::new());
    let error = DaxDevice::new(&machine, odd, id(1), &Serial).unwrap_err();
    assert!(matches!(error, DaxError::Alignment { order: o, .. } if o == order(3)));
    let one = DaxDevice::new(&machine, description(Kind::Generic, HUGE, 0, &Driver::new()), id(1), &Serial)
        .unwrap();
    let twice = description(Kind::Generic, HUGE, 0, &Driver::new());
    assert!(matches!(DaxDevice::new(&machine, twice, id(2), &Serial), Err(DaxError::Register(_))));
    end(one);
    assert!(machine.registry().is_empty());
}

#[test]
fn a_region_is_divided_and_joined() {
    let memory = TestFrames::with_frames(1 << 13);
    let machine = machine(&memory);
    let mut region = DaxRegion::dynamic(frames(0, 8 * HUGE), place());
    #[expect(clippy::result_large_err, reason = "a refused description comes back in it")]
    let create = |region: &mut DaxRegion, count: u64, o: u8, name: u64| {
        region.create(&machine, count * HUGE, order(o), id(name), &Serial)
    };
    let one = create(&mut region, 2, 9, 1).unwrap();
    let two = create(&mut region, 1, 0, 2).unwrap();
    let three = create(&mut region, 2, 9, 3).unwrap();
    assert_eq!(region.left(), 3 * HUGE);
    let refused = create(&mut region, 4, 9, 4).unwrap_err();
    assert!(matches!(refused, RegionError::Full { frames, left } if (frames, left) == (4 * HUGE, 3 * HUGE)));
    region.destroy(two, &(), |_| ControlFlow::Break(())).unwrap();
    // In two pieces, around the third.
    let four = create(&mut region, 4, 9, 4).unwrap();
    assert_eq!(four.pagemap().ranges(), [frames(2 * HUGE, HUGE), frames(5 * HUGE, 3 * HUGE)]);
    assert_eq!(region.left(), 0);
    assert_eq!(four.frame_at(0, order(9)), Some(at(2 * HUGE)));
    assert_eq!(four.frame_at(HUGE, order(9)), Some(at(5 * HUGE)));
    assert_eq!(four.frame_at(HUGE - 1, order(1)), None, "not across pieces");
    assert_eq!(four.frame_at(4 * HUGE, order(0)), None);
    let fault = four.fault(&mapping(0, 8 << 20, 0), VirtAddr::new(AT + (2 << 20)), order(9)).unwrap();
    assert_eq!((fault.folio.pfn(), fault.place), (at(5 * HUGE), file(4, HUGE)));
    drop(fault);
    for device in [one, four, three] {
        region.destroy(device, &(), |_| ControlFlow::Break(())).unwrap();
    }
    assert_eq!((region.left(), region.taken()), (8 * HUGE, &[][..]));
    for (count, o) in [(0, 0), (1, 18)] {
        let refused = create(&mut region, count, o, 1).unwrap_err();
        assert!(matches!(refused, RegionError::Size { .. }), "{refused}");
    }
    let refused = region.create(&machine, HUGE + 1, order(0), id(1), &Serial).unwrap_err();
    assert!(matches!(refused, RegionError::Size { frames, .. } if frames == HUGE + 1));
    let refused = region.create(&machine, HUGE, order(3), id(1), &Serial).unwrap_err();
    assert!(matches!(refused, RegionError::Dax(DaxError::Alignment { .. })));
    assert_eq!(region.left(), 8 * HUGE);
}

#[test]
fn a_fixed_region_is_one_device() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let mut region = DaxRegion::fixed(frames(0, 2 * HUGE), place());
    let refused = region.create(&machine, HUGE, order(9), id(1), &Serial).unwrap_err();
    assert!(matches!(refused, RegionError::Static { .. }));
    let device = region.create(&machine, 2 * HUGE, order(9), id(1), &Serial).unwrap();
    let refused = region.create(&machine, 2 * HUGE, order(9), id(2), &Serial).unwrap_err();
    assert!(matches!(refused, RegionError::Static { .. }));
    region.destroy(device, &(), |_| ControlFlow::Break(())).unwrap();
    let device = region.create(&machine, 2 * HUGE, order(0), id(2), &Serial).unwrap();
    region.destroy(device, &(), |_| ControlFlow::Break(())).unwrap();
}

#[test]
fn generic_memory_that_is_not_there_to_be_handed_out() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let device =
        DaxDevice::new(&machine, description(Kind::Generic, HUGE, 0, &Driver::new()), id(1), &Serial)
            .unwrap();
    assert_eq!(machine.hand_out(at(HUGE)).unwrap_err(), FolioError::NoPagemap { pfn: at(HUGE) });
    let folio = machine.hand_out(at(1)).unwrap();
    device.kill();
    assert_eq!(machine.hand_out(at(2)).unwrap_err(), FolioError::Gone { pfn: at(2) });
    let (device, error) = device.end(&(), |_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(error, mmkit_devmap::DevmapError::Held { range: frames(0, HUGE), held: 1 });
    // Put after the kill, it rests, and is not ready again.
    drop(folio);
    assert_eq!(state(&machine, 1), REST);
    assert!(machine.try_get(at(1)).is_err());
    end(device);
}
