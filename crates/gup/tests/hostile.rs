// SPDX-License-Identifier: MIT OR Apache-2.0
//! Implementors that answer what nobody expects, or not at all: counts stay right whatever they do.
#![cfg(not(mmkit_loom))]

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Map, PAGE, SHIFT, descriptors, map, pfn};
use mmkit_addr::{Order, VirtAddr};
use mmkit_gup::*;
use mmkit_page::{Folio, MemMap, PageFlags, PinPolicy, PinUse, PinVerdict};
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::AtomicU64;

const PIN: Flags = Flags::PIN.union(Flags::WRITE);

fn request(flags: Flags) -> Request {
    Request::new(flags).unwrap()
}

/// A flat address space, with another memory map at hand, and a policy that panics.
struct Hostile<'m> {
    flat: Flat<'m, Map<'m>>,
    maps: [&'m Map<'m>; 2],
    /// From which call on the second map is told.
    other_from: u32,
    asked: Cell<u32>,
    policy: Panics,
}

/// Panics when it is asked so often.
struct Panics {
    at: Cell<u32>,
}

impl<'m> PinPolicy<Map<'m>> for Panics {
    fn verdict(&self, _: &Folio<'_, Map<'m>>, _: PinUse) -> PinVerdict {
        self.at.set(self.at.get().wrapping_sub(1));
        assert_ne!(self.at.get(), 0, "as the test wants it");
        PinVerdict::Allow
    }
}

impl<'m> AddressSpace for Hostile<'m> {
    type Map = Map<'m>;
    type Policy = Panics;
    type Migrate = ();
    type Reader<'a>
        = FlatRows<'a>
    where
        Self: 'a;
    type Locked<'a>
        = ()
    where
        Self: 'a;
    type Table<'a>
        = FlatRows<'a>
    where
        Self: 'a;

    fn map(&self) -> &Map<'m> {
        let asked = self.asked.replace(self.asked.get() + 1);
        self.maps[usize::from(asked >= self.other_from)]
    }

    fn policy(&self) -> &Panics {
        &self.policy
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn format(&self) -> Format {
        self.flat.format()
    }

    fn decode(&self, raw: u64, order: Order) -> Slot {
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

    fn file(&self, folio: &Folio<'_, Map<'m>>) -> FileKind {
        self.flat.file(folio)
    }
}

/// The frame `n`, allocated, with three references.
fn folio<'m>(map: &'m Map<'m>, n: u64) -> [Folio<'m, Map<'m>>; 3] {
    let folio = map.claim(pfn(n)).unwrap().allocate().into_folio();
    [folio.try_clone().unwrap(), folio.try_clone().unwrap(), folio]
}

/// An address space of four pages, in frames 0 to 3.
fn hostile<'m>(maps: [&'m Map<'m>; 2], entries: &'m [AtomicU64]) -> Hostile<'m> {
    let flat = Flat::new(maps[0], entries);
    (0..4).for_each(|page| assert!(flat.set(page, pfn(page as u64), true)));
    let policy = Panics { at: Cell::new(0) };
    Hostile { flat, maps, other_from: u32::MAX, asked: Cell::new(0), policy }
}

#[test]
fn what_a_sink_has_when_a_policy_panics_is_given_back_once() {
    let mut pages = descriptors(8);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 4];
    let folios = [0, 1, 2, 3].map(|n| folio(&map, n));
    let space = hostile([&map; 2], &entries);
    let span = Span::pages(&space.format(), VirtAddr::ZERO, 4).unwrap();
    for kind in [PIN, Flags::GET, PIN | Flags::LONGTERM] {
        for at in 1..=9 {
            space.policy.at.set(at);
            let mut buffer = [Extent::EMPTY; 4];
            let sink = Extents::new(&mut buffer);
            let held = catch_unwind(AssertUnwindSafe(|| {
                drop(Pinned::all(&map, &space, span, request(kind), sink).unwrap());
            }));
            assert_eq!(held.is_err(), at <= 4, "it is asked once for each folio");
            assert!(folios.iter().all(|[folio, ..]| folio.count() == 3), "{kind:?}, {at}: {folios:?}");
        }
    }
}

#[test]
fn pages_go_back_to_the_memory_map_that_they_are_of() {
    let (mut pages, mut others) = (descriptors(8), descriptors(8));
    let (one, other) = (map(&mut pages), map(&mut others));
    let entries = [const { AtomicU64::new(0) }; 4];
    let folios = [&one, &other].map(|map| [0, 1, 2, 3].map(|n| folio(map, n)));
    let span = Span::pages(&hostile([&one; 2], &entries).format(), VirtAddr::ZERO, 4).unwrap();
    for other_from in 0..6 {
        let space = Hostile { other_from, ..hostile([&one, &other], &entries) };
        let mut buffer = [Extent::EMPTY; 4];
        let pinned = Pinned::all(&one, &space, span, request(PIN), Extents::new(&mut buffer));
        assert_eq!(pinned.as_ref().err(), (other_from == 0).then_some(&Refusal::OtherMap));
        drop(pinned);
        let counts = folios.each_ref().map(|map| map.each_ref().map(|[folio, ..]| folio.count()));
        assert_eq!(counts, [[3; 4]; 2], "another map from call {other_from} on");
    }
}

/// A file of two pages, the first of which is another memory map's, and the second of which is not to be had.
struct Stranger<'m> {
    maps: [&'m Map<'m>; 2],
}

impl<'m> MemoryFile for Stranger<'m> {
    type Map = Map<'m>;
    type Policy = ();
    type Migrate = ();

    fn map(&self) -> &Map<'m> {
        self.maps[0]
    }

    fn policy(&self) -> &() {
        &()
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn len(&self) -> u64 {
        2 * PAGE
    }

    fn base_shift(&self) -> u32 {
        SHIFT
    }

    fn find(&self, index: u64) -> Option<(Folio<'_, Map<'m>>, u64)> {
        (index == 0).then(|| (self.maps[1].try_get(pfn(0)).unwrap(), 0))
    }

    fn allocate(&self, _: u64) -> Result<(), AllocateError> {
        Err(AllocateError::NoMemory)
    }
}

#[test]
fn a_file_with_folios_of_another_memory_map_is_refused() {
    let (mut pages, mut others) = (descriptors(8), descriptors(8));
    let (one, other) = (map(&mut pages), map(&mut others));
    let folios = [&one, &other].map(|map| folio(map, 0));
    for folio in folios.iter().flatten() {
        folio.take_raw(3000).unwrap();
    }
    let file = Stranger { maps: [&one, &other] };
    let refused = pin_file(&file, 0, 2 * PAGE - 1, &mut [FolioHolds::EMPTY; 4]);
    assert_eq!(folios.each_ref().map(|[folio, ..]| folio.count()), [3 + 3 * 3000; 2]);
    assert_eq!(refused, Err(FileRefusal::OtherMap));
}

#[test]
fn what_was_pinned_as_zeroes_is_given_back_as_zeroes() {
    let mut pages = descriptors(8);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 1];
    let [folio, ..] = &folio(&map, 0);
    folio.take_raw(3000).unwrap();
    let space = Flat::new(&map, &entries);
    space.set(0, pfn(0), true);
    let span = Span::pages(&space.format(), VirtAddr::ZERO, 1).unwrap();
    let mut buffer = [Extent::EMPTY; 1];
    // An ordinary folio does not become one.
    for then in [PageFlags::empty(), PageFlags::ZERO] {
        folio.insert(PageFlags::ZERO ^ then);
        let pinned = Pinned::all(&map, &space, span, request(PIN), Extents::new(&mut buffer)).unwrap();
        folio.remove(PageFlags::ZERO);
        folio.insert(then);
        drop(pinned);
        assert_eq!((folio.count(), folio.flags()), (3003, PageFlags::empty()));
    }
    // Nor is one ever free, so that its frame could become an ordinary folio.
    let zeroes = map.claim(pfn(1)).unwrap().allocate().into_zeroes();
    space.set(0, pfn(1), true);
    let pinned = Pinned::all(&map, &space, span, request(PIN), Extents::new(&mut buffer)).unwrap();
    zeroes.remove(PageFlags::ZERO);
    assert_eq!((zeroes.count(), zeroes.flags()), (2, PageFlags::ZERO));
    let zeroes = zeroes.freeze().unwrap_err();
    drop(zeroes);
    assert!(map.claim(pfn(1)).is_err());
    drop(pinned);
    assert_eq!(map.try_get(pfn(1)).unwrap().count(), 2);
}

#[test]
fn a_walk_goes_on_at_a_page_whatever_it_is_told() {
    let mut pages = descriptors(8);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 4];
    let space = hostile([&map; 2], &entries);
    let span = Span::bytes(&space.format(), VirtAddr::new(100), 3 * PAGE - 200).unwrap();
    for at in 0..4 * PAGE {
        let rest = span.from(VirtAddr::new(at));
        let first = (at >> SHIFT).min(3);
        assert_eq!((rest.start().get(), rest.page_count()), (first << SHIFT, 3 - first), "{at}");
        assert_eq!(rest.margins(), (if first == 0 { 100 } else { 0 }, 100));
    }
}

#[test]
fn a_range_of_another_address_space_is_refused() {
    let mut pages = descriptors(8);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 4];
    let space = hostile([&map; 2], &entries);
    let formats = [
        // Its pages are smaller, so the walk came to an end of it that is no end of a page; and others' limits are higher.
        Format { base_shift: SHIFT - 3, ..space.format() },
        Format { limit: VirtAddr::new(8 * PAGE), ..space.format() },
    ];
    for (format, pages) in formats.iter().zip([9, 5]) {
        let span = Span::pages(format, VirtAddr::ZERO, pages).unwrap();
        for flags in [PIN, PIN | Flags::FAST_ONLY] {
            let held = hold(&space, span, request(flags), &mut Pages::new(&mut [None; 16]));
            assert_eq!(held, Err(Refusal::OtherSpan));
        }
        let none = Held { pages: 0, next: VirtAddr::ZERO, stopped: None };
        assert_eq!(populate(&space, span, false), Err((none, Refusal::OtherSpan)));
    }
}

#[test]
fn without_locks_a_full_sink_is_no_error() {
    let mut pages = descriptors(8);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 4];
    let space = hostile([&map; 2], &entries);
    let span = Span::pages(&space.format(), VirtAddr::ZERO, 4).unwrap();
    let held = |flags| hold(&space, span, request(flags), &mut Pages::new(&mut []));
    let none = Held { pages: 0, next: VirtAddr::ZERO, stopped: Some(Refusal::NoRoom) };
    assert_eq!(held(PIN | Flags::FAST_ONLY), Ok(none));
    assert_eq!(held(PIN), Err(Refusal::NoRoom));
}

#[test]
fn stretches_of_absurd_pages_give_back_what_they_took() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let entries = [const { AtomicU64::new(0) }; 2];
    let folios = [0, 1, 17].map(|n| folio(&map, n));
    let space = Flat::new(&map, &entries);
    assert!(space.set(0, pfn(0), true) && space.set(1, pfn(17), true));
    let span = Span::pages(&space.format(), VirtAddr::ZERO, 2).unwrap();
    for base_shift in [0, 12, 31, 32, 60, 63, 64, u32::MAX] {
        let format = Format { base_shift, limit: VirtAddr::MAX, ..space.format() };
        let other = Span::bytes(&format, VirtAddr::ZERO, 4 << base_shift.clamp(2, 60));
        assert_eq!(other.is_err(), base_shift > 31, "{base_shift}");
        let Ok(other) = other else { continue };
        let mut buffer = [Segment::EMPTY; 4];
        let pinned = Pinned::some(&map, &space, span, request(Flags::GET), Bytes::new(&mut buffer, &other));
        drop(pinned);
        assert!(folios.iter().all(|[folio, ..]| folio.count() == 3), "{base_shift}: {folios:?}");
    }
}
