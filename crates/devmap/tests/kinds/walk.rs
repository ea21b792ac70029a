// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices, held through the walkers, which ask the registry.

use mmkit_addr::VirtAddr;
use mmkit_devmap::Kind;
use mmkit_folio::Rmap;
use mmkit_frame::test_util::TestFrames;
use mmkit_gup::{
    AddressSpace, Area, Extent, Extents, FaultError, FaultFlags, Faulted, FileKind, Flags, Flat, FlatRows,
    Format, Held, MigrateError, Pinned, Refusal, Request, Slot, Span,
};
use mmkit_page::{Folio, PinRefusal};
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::AtomicU64;

use crate::common::*;

/// An address space of one page of a device.
struct Mapped<'a, 'f> {
    flat: Flat<'a, Machine<'f>>,
    machine: &'a Machine<'f>,
}

impl<'a, 'f> AddressSpace for Mapped<'a, 'f> {
    type Map = Machine<'f>;
    type Policy = Machine<'f>;
    type Migrate = ();
    type Reader<'r>
        = FlatRows<'r>
    where
        Self: 'r;
    type Locked<'r>
        = ()
    where
        Self: 'r;
    type Table<'r>
        = FlatRows<'r>
    where
        Self: 'r;

    fn map(&self) -> &Machine<'f> {
        self.machine
    }

    fn policy(&self) -> &Machine<'f> {
        self.machine
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn format(&self) -> Format {
        self.flat.format()
    }

    fn decode(&self, raw: u64, order: mmkit_addr::Order) -> Slot {
        self.flat.decode(raw, order)
    }

    fn write_protect_seq(&self) -> &SeqCount {
        self.flat.write_protect_seq()
    }

    fn read(&self) -> FlatRows<'_> {
        self.flat.read()
    }

    fn lock(&self) {}

    fn area(&self, locked: &(), va: VirtAddr) -> Option<Area> {
        self.flat.area(locked, va)
    }

    fn table(&self, locked: &(), va: VirtAddr) -> FlatRows<'_> {
        self.flat.table(locked, va)
    }

    fn fault_in(&self, (): (), va: VirtAddr, flags: FaultFlags) -> Result<Faulted<()>, FaultError> {
        self.flat.fault_in((), va, flags)
    }

    fn file(&self, _: &Folio<'_, Machine<'f>>) -> FileKind {
        FileKind::Memory
    }
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
        let space = Mapped { flat: Flat::new(&machine, &entries), machine: &machine };
        space.flat.set(0, at(3), true);
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
