// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be pinned.

use mmkit_devmap::Kind;
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{MemMap, PinPolicy, PinRefusal, PinUse, PinVerdict, Place};

use crate::common::*;

const WRITE: PinUse = PinUse::WRITE;
const LONG: PinUse = PinUse::LONGTERM;
const PEER: PinUse = PinUse::PEER;

#[test]
fn scenario_a6_of_each_kind() {
    let refuse = PinVerdict::Refuse;
    for (kind, usage, expected) in [
        (Kind::Generic, LONG | WRITE, PinVerdict::Allow),
        (Kind::Generic, PinUse::empty(), PinVerdict::Allow),
        (Kind::FsDax, WRITE, PinVerdict::Allow),
        (Kind::FsDax, LONG, refuse(PinRefusal::FileSystemDax)),
        (Kind::FsDax, LONG | PEER, refuse(PinRefusal::FileSystemDax)),
        (Kind::Private, PinUse::empty(), refuse(PinRefusal::Private)),
        (Kind::Private, LONG | PEER, refuse(PinRefusal::Private)),
        (Kind::Coherent, WRITE, PinVerdict::Allow),
        (Kind::Coherent, LONG, PinVerdict::Migrate),
        (Kind::PciP2pdma, WRITE, refuse(PinRefusal::Peer)),
        (Kind::PciP2pdma, PEER, PinVerdict::Allow),
        (Kind::PciP2pdma, PEER | LONG, refuse(PinRefusal::Peer)),
    ] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let registration = device(&machine, kind, &Driver::new());
        let folio = machine.take(at(3), order(0)).unwrap();
        assert_eq!(machine.verdict(&folio, usage), expected, "{kind}, {usage:?}");
        let both = (&machine, ()).verdict(&folio, usage);
        assert_eq!(both, expected);
        registration.kill();
        assert_eq!(machine.verdict(&folio, usage), refuse(PinRefusal::Gone), "{kind} that is going");
        drop(folio);
        remove(registration);
    }
}

#[test]
fn memory_of_the_machine_is_nobodys_affair_here() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let ram = mmkit_addr::PfnRange::new(pfn(0), HUGE).unwrap();
    machine.memory().populate(ram, order(0), Place::default()).unwrap();
    let registration = device(&machine, Kind::Private, &Driver::new());
    let folio = machine.claim(pfn(5)).unwrap().allocate().into_folio();
    assert_eq!(machine.verdict(&folio, LONG), PinVerdict::Allow);
    assert_eq!((machine.kind_of(&folio), machine.data_of(&folio)), (None, None));
    let folio = machine.device_folio(folio).unwrap_err();
    drop(folio);
    // A device's frame that somebody claimed past its pagemap is nobody's folio either.
    let past = machine.claim(at(5)).unwrap().allocate().into_folio();
    assert_eq!((machine.kind_of(&past), machine.verdict(&past, LONG)), (None, PinVerdict::Allow));
    drop(past);
    remove(registration);
}

#[test]
fn a_folio_of_another_machine_is_not_taken_for_ones_own() {
    let memory = TestFrames::with_frames(4096);
    let (one, two) = (machine(&memory), machine(&memory));
    let here = device(&one, Kind::FsDax, &Driver::new());
    let there = device(&two, Kind::Private, &Driver::new());
    let folio = two.allocate(at(0), order(0), 1).unwrap();
    assert_eq!((one.kind_of(&folio), two.kind_of(&folio)), (None, Some(Kind::Private)));
    assert_eq!(one.verdict(&folio, LONG), PinVerdict::Allow);
    assert!(one.disassociate(&folio, file(1, 0)).is_err());
    let held = there.pagemap().references();
    let references = here.pagemap().references();
    // Asked of the wrong machine, it still finds its own way back.
    one.release(folio.put().unwrap());
    assert_eq!(there.pagemap().references(), held - 1);
    assert_eq!(here.pagemap().references(), references);
    remove(here);
    remove(there);
}
