// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices in an address space, and walks that hold its pages: the walker asks this crate what may be pinned.

use std::ops::ControlFlow;

use mmkit_addr::{VirtAddr, VirtRange};
use mmkit_devmap::{DaxDevice, DaxMapping, Kind};
use mmkit_folio::{Hold, Rmap};
use mmkit_frame::test_util::TestFrames;
use mmkit_gup::{
    AddressSpace, Extent, Extents, Flags, Flat, Held, MigrateError, Pinned, Refusal, Release, Request, Span,
    hold,
};
use mmkit_page::PinRefusal;
use mmkit_sync::atomic::AtomicU64;
use mmkit_vmemmap::Serial;

use crate::common::*;

/// Pages of a process from address 0 on, of memory that the machine's devices know.
type Process<'a, 'f> = Flat<'a, Machine<'f>, Machine<'f>>;

/// Maps `count` frames of the device from frame 0 on, to write.
fn process<'a, 'f>(machine: &'a Machine<'f>, entries: &'a [AtomicU64], count: u64) -> Process<'a, 'f> {
    let process = Flat::with_policy(machine, entries, machine);
    assert!((0..count).all(|page| process.set(page as usize, at(page), true)));
    process
}

/// Holds the first `pages` pages; what was got, and the extents.
fn held(process: &Process<'_, '_>, pages: u64, flags: Flags) -> (Result<Held, Refusal>, Vec<(u64, u64)>) {
    let span = Span::pages(&process.format(), VirtAddr::ZERO, pages).unwrap();
    let mut buffer = [Extent::EMPTY; 8];
    let mut sink = Extents::new(&mut buffer);
    let held = hold(process, span, Request::new(flags).unwrap(), &mut sink);
    let extents = sink.extents().iter().map(|it| (it.pfn.get() - DEVICE, it.frames.into())).collect();
    (held, extents)
}

/// Gives back the first `pages` pages of the device, which were pinned.
fn unpin(machine: &Machine<'_>, pages: u64) {
    let extents = [Extent { pfn: at(0), frames: pages as u32 }];
    // SAFETY: the tests pin them before, and give them back once.
    let released = unsafe { Release::of(machine, Hold::Pin).extents(&extents) };
    assert_eq!((released.frames, released.refused), (pages, None));
}

fn entries(count: u64) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

const SHORT: Flags = Flags::PIN.union(Flags::WRITE);
const LONG: Flags = SHORT.union(Flags::LONGTERM);

#[test]
fn scenario_a6_a_walk_pins_device_dax_for_long_without_locks() {
    let memory = TestFrames::with_frames(1 << 14);
    let machine = machine(&memory);
    let device =
        DaxDevice::new(&machine, description(Kind::Generic, 2 * HUGE, 9, &Driver::new()), id(1), &Serial)
            .unwrap();
    let range = VirtRange::new(VirtAddr::ZERO, (2 * HUGE) << 12).unwrap();
    let whole = DaxMapping { range, first: 0, shared: true };
    // What the entries stand for.
    let mapped: Vec<_> = [0, 1]
        .map(|nth| device.fault(&whole, VirtAddr::new(nth << 21), order(9)).unwrap())
        .into_iter()
        .collect();
    let entries = entries(2 * HUGE);
    let process = process(&machine, &entries, 2 * HUGE);
    let counts = || mapped.iter().map(|fault| (fault.folio.count(), fault.folio.pins())).collect::<Vec<_>>();
    let before = counts();
    let (held, extents) = held(&process, HUGE + 3, LONG | Flags::FAST_ONLY);
    assert_eq!((held.unwrap().pages, extents), (HUGE + 3, vec![(0, HUGE + 3)]));
    let pinned = |nth: usize, pins: u32| (before[nth].0 + pins, pins);
    assert_eq!(counts(), [pinned(0, HUGE as u32), pinned(1, 3)]);
    unpin(&machine, HUGE + 3);
    assert_eq!(counts(), before);
    drop(mapped);
    let _ = device.end(&(), |_| ControlFlow::Break(())).unwrap();
}

#[test]
fn scenario_a6_a_walk_pins_fs_dax_for_a_moment_only() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let mapped: Vec<_> =
        (0..4).map(|nth| machine.associate(at(nth), order(0), file(1, nth)).unwrap().folio).collect();
    let entries = entries(4);
    let process = process(&machine, &entries, 4);
    let before: Vec<_> = mapped.iter().map(|folio| folio.count()).collect();
    let counts = || mapped.iter().map(|folio| folio.count()).collect::<Vec<_>>();
    for flags in [SHORT, SHORT | Flags::FAST_ONLY] {
        let (held, extents) = held(&process, 4, flags);
        assert_eq!((held.unwrap().pages, extents), (4, vec![(0, 4)]));
        unpin(&machine, 4);
        assert_eq!(counts(), before);
    }
    let refused = Refusal::Policy { pfn: at(0), reason: PinRefusal::FileSystemDax };
    assert_eq!(held(&process, 4, LONG), (Err(refused), Vec::new()));
    let (held, extents) = held(&process, 4, LONG | Flags::FAST_ONLY);
    assert_eq!((held.unwrap().pages, extents), (0, Vec::new()));
    assert_eq!(counts(), before);
    for (folio, nth) in mapped.iter().zip(0..) {
        assert_eq!(machine.disassociate(folio, file(1, nth)), Ok(0));
    }
    drop(mapped);
    remove(registration);
}

#[test]
fn a_device_that_goes_is_waited_for_by_what_is_pinned_and_pinned_no_more() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::Generic, &Driver::new());
    let entries = entries(8);
    let process = process(&machine, &entries, 8);
    let mapped: Vec<_> = (0..8).map(|nth| machine.hand_out(at(nth)).unwrap()).collect();
    assert_eq!(held(&process, 8, LONG | Flags::FAST_ONLY).0.unwrap().pages, 8);
    registration.kill();
    let refused = Refusal::Policy { pfn: at(0), reason: PinRefusal::Gone };
    assert_eq!(held(&process, 8, SHORT).0, Err(refused));
    assert_eq!(held(&process, 8, SHORT | Flags::FAST_ONLY).0.unwrap().pages, 0);
    // Unmapped; the pins alone keep it.
    assert!((0..8).all(|page| process.clear(page)));
    drop(mapped);
    let registration = registration.unregister(&(), |_| ControlFlow::Break(())).unwrap_err().registration;
    unpin(&machine, 8);
    remove(registration);
}

#[test]
fn scenario_a6_walkers_do_as_the_kind_says() {
    let write = Flags::PIN | Flags::WRITE;
    let long = write | Flags::LONGTERM;
    let refused = |reason| Err(Refusal::Policy { pfn: at(3), reason });
    let stays = Err(Refusal::Migrate(MigrateError::Busy));
    for (kind, flags, expected) in [
        (Kind::Generic, write, Ok(1)),
        (Kind::Generic, long, Ok(1)),
        (Kind::Generic, long | Flags::FAST_ONLY, Ok(1)),
        (Kind::FsDax, write | Flags::FAST_ONLY, Ok(1)),
        (Kind::FsDax, long, refused(PinRefusal::FileSystemDax)),
        (Kind::FsDax, long | Flags::FAST_ONLY, Ok(0)),
        (Kind::Private, Flags::GET, refused(PinRefusal::Private)),
        (Kind::Coherent, Flags::GET, Ok(1)),
        (Kind::Coherent, write | Flags::FAST_ONLY, Ok(1)),
        // Nobody moves it here.
        (Kind::Coherent, long, stays),
        (Kind::PciP2pdma, write, refused(PinRefusal::Peer)),
        (Kind::PciP2pdma, write | Flags::PEER, Ok(1)),
    ] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let registration = device(&machine, kind, &Driver::new());
        let folio = machine.take(at(3), order(0)).unwrap();
        let before = folio.count();
        let entries = [AtomicU64::new(0)];
        let space = Flat::with_policy(&machine, &entries, &machine);
        assert!(space.set(0, at(3), true));
        let span = Span::pages(&space.format(), VirtAddr::ZERO, 1).unwrap();
        let mut buffer = [Extent::EMPTY; 1];
        let request = Request::new(flags).unwrap();
        let got = Pinned::some(&machine, &space, span, request, Extents::new(&mut buffer));
        let pages = got.as_ref().map(|(_, Held { pages, .. })| *pages).map_err(|why| *why);
        assert_eq!(pages, expected, "{kind}, {flags:?}");
        assert_eq!(folio.count() > before, pages == Ok(1));
        drop(got);
        assert_eq!((folio.count(), folio.pins()), (before, 0), "{kind}, {flags:?}");
        drop(folio);
        remove(registration);
    }
}
