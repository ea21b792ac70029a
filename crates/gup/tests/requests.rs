// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may be asked for, what comes of bad input, and how faults are made.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Pfn, VirtAddr};
use mmkit_folio::{MapError, PIN_BIAS, Rmap};
use mmkit_gup::*;
use mmkit_page::{GetError, MemMap, PageFlags};
use mmkit_sync::atomic::Ordering::Relaxed;

const PIN_W: Flags = Flags::PIN.union(Flags::WRITE);

fn request(flags: Flags) -> Request {
    Request::new(flags).unwrap()
}

fn held(space: &Space<'_>, first: u64, pages: u64, flags: Flags) -> Result<Held, Refusal> {
    let mut buffer = [Extent::EMPTY; 16];
    hold(space, space.span(first, pages), request(flags), &mut Extents::new(&mut buffer))
}

#[test]
fn only_flags_that_go_together_make_a_request() {
    for bits in 0..=u16::MAX {
        let flags = Flags::from_bits_retain(bits);
        let has = |flag| flags.contains(flag);
        let rules = [
            (Rule::Known, Flags::from_bits(bits).is_some()),
            (Rule::OneHold, !(has(Flags::GET) && has(Flags::PIN))),
            (Rule::SomeHold, has(Flags::GET) || has(Flags::PIN)),
            (Rule::LongTermIsPinned, !has(Flags::LONGTERM) || has(Flags::PIN)),
            (Rule::PeersAreNotForLong, !(has(Flags::LONGTERM) && has(Flags::PEER))),
            (
                Rule::FastSeesNoAreas,
                !has(Flags::FAST_ONLY)
                    || !flags.intersects(Flags::ANON | Flags::SPLIT | Flags::INTERRUPTIBLE),
            ),
        ];
        let broken = rules.iter().find(|(_, kept)| !kept).map(|&(rule, _)| rule);
        match Request::new(flags) {
            Ok(request) => assert_eq!((broken, request.flags()), (None, flags)),
            Err(error) => assert_eq!(error, BadFlags { flags, rule: broken.unwrap() }),
        }
    }
    let error = Request::new(Flags::GET | Flags::LONGTERM).unwrap_err();
    assert_eq!(error.to_string(), "Flags(GET | LONGTERM): LONGTERM needs PIN");
}

#[test]
fn ranges_are_checked_once() {
    let format = Format { base_shift: 12, limit: VirtAddr::new(1 << 47), ignored: 0, step_shift: 12 };
    let at = VirtAddr::new;
    let bytes = |start, len| Span::bytes(&format, at(start), len);
    let pages = |start, n| Span::pages(&format, at(start), n);
    assert_eq!(pages(0x1001, 1), Err(BadSpan::Unaligned { start: at(0x1001), base_shift: 12 }));
    assert_eq!(pages(0x1000, 1 << 52), Err(BadSpan::Overflow { start: at(0x1000), len: 1 << 52 }));
    assert_eq!(pages(0x1000, u64::MAX), Err(BadSpan::Overflow { start: at(0x1000), len: u64::MAX }));
    assert_eq!(bytes(u64::MAX, 1), Err(BadSpan::Overflow { start: VirtAddr::MAX, len: 1 }));
    assert_eq!(bytes(u64::MAX - 1, 1), Err(BadSpan::Overflow { start: at(u64::MAX - 1), len: 1 }));
    let limit = format.limit;
    assert_eq!(bytes(1 << 47, 1), Err(BadSpan::PastEnd { end: at((1 << 47) + 0x1000), limit }));
    assert_eq!(pages((1 << 47) - 0x1000, 2), Err(BadSpan::PastEnd { end: at((1 << 47) + 0x1000), limit }));
    assert_eq!(pages((1 << 47) - 0x1000, 1).unwrap().page_count(), 1);
    assert_eq!(bytes(0x1fff, 2).unwrap().page_count(), 2);
    let span = bytes(0x1234, 0x2000).unwrap();
    assert_eq!((span.start(), span.end(), span.margins()), (at(0x1000), at(0x4000), (0x234, 0xdcc)));
    assert_eq!(bytes(0x1234, 0).unwrap().page_count(), 0);
    // Parts of it keep the margin of the end that they have.
    assert_eq!(span.after(1).margins(), (0, 0xdcc));
    assert_eq!(span.at_most(2).margins(), (0x234, 0));
    assert_eq!((span.at_most(9), span.after(0)), (span, span));
    assert_eq!(
        (span.after(9).page_count(), span.from(at(0)), span.from(at(0x2000)).page_count()),
        (0, span, 2)
    );
}

#[test]
fn sinks_without_room_are_refused_and_hold_nothing() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    let span = space.span(0, 8);
    let bytes = Span::bytes(&space.format(), va(0), 100).unwrap();
    let refused = |sink: &mut dyn Sink| hold(&space, span, request(PIN_W), &mut &mut *sink).unwrap_err();
    assert_eq!(refused(&mut Extents::new(&mut [])), Refusal::NoRoom);
    assert_eq!(refused(&mut Pages::new(&mut [])), Refusal::NoRoom);
    assert_eq!(refused(&mut Folios::new(&mut [])), Refusal::NoRoom);
    assert_eq!(refused(&mut Bytes::<Segment>::new(&mut [], &bytes)), Refusal::NoRoom);
    assert_eq!(space.counts(8), (8, 0));
    // One that says that it has room, and takes less.
    struct Liar(u32);
    impl Sink for Liar {
        fn room(&self) -> u64 {
            u64::MAX
        }
        fn push(&mut self, _: Run) -> u32 {
            self.0
        }
    }
    assert_eq!(refused(&mut Liar(0)), Refusal::NoRoom);
    let got = hold(&space, span, request(PIN_W), &mut Liar(3)).unwrap();
    assert_eq!((got.pages, got.next, space.counts(8)), (3, va(3), (8 + 3, 3)));
    let got = hold(&space, span, request(PIN_W), &mut Liar(u32::MAX)).unwrap();
    assert_eq!((got.pages, space.counts(8)), (8, (8 + 11, 11)));
}

#[test]
fn what_is_not_pinned_is_refused_where_the_counts_show_it() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    space.map_anon(8, 16, 0, WRITE);
    let pins = Release::pins(&map);
    let refused = |frame, frames| {
        // SAFETY: nothing is pinned, and what is asked for is more than the counts allow.
        unsafe { pins.range(pfn(frame), frames) }
    };
    let too_few = |pins, removing| MapError::TooFewPins { pins, removing };
    assert_eq!(refused(8, 8), Released { frames: 0, refused: Some((pfn(8), too_few(0, 8))) });
    assert_eq!(refused(10, 3).refused, Some((pfn(10), too_few(0, 3))));
    assert_eq!(refused(16, 1).refused, Some((pfn(16), too_few(0, 1))));
    // A frame that nobody has, one that there is not, and more than there are: those that are pinned go back all the same.
    let unreferenced = MapError::References(GetError::Unreferenced { pfn: pfn(17) });
    assert_eq!(refused(17, 1).refused, Some((pfn(17), unreferenced)));
    let absent = MapError::References(GetError::Absent { pfn: pfn(1 << 30) });
    assert_eq!(refused(1 << 30, 1).refused, Some((pfn(1 << 30), absent)));
    let _kept = held(&space, 8, 1, PIN_W).unwrap();
    assert_eq!(refused(16, 2), Released { frames: 1, refused: Some((pfn(17), unreferenced)) });
    assert_eq!((space.counts(8), space.counts(16)), ((8, 0), (1, 0)));
    assert_eq!(refused(Pfn::MAX.get(), 5).frames, 0);
    // Nothing at all.
    // SAFETY: there is nothing in it.
    assert_eq!(unsafe { pins.pages(&[None, None]) }, Released::default());
    // SAFETY: as above.
    assert_eq!(unsafe { pins.extents(&[Extent::EMPTY]) }, Released::default());
    // SAFETY: as above.
    assert_eq!(unsafe { pins.folios(&[FolioHolds::EMPTY]) }, Released::default());
    // SAFETY: as above.
    assert_eq!(unsafe { pins.stretches(&[Segment::EMPTY], SHIFT) }, Released::default());
}

#[test]
fn counts_at_their_limit_refuse_more() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    space.map_anon(8, 16, 0, WRITE);
    for (page, frame, room) in [(0, 8, 7), (8, 16, PIN_BIAS - 1)] {
        let folio = space.folio(frame);
        folio.take_raw(i32::MAX as u32 - folio.count() - room).unwrap();
        let before = (folio.count(), folio.pins());
        let got = held(&space, page, if page == 0 { 8 } else { 1 }, PIN_W);
        let overflow = GetError::Overflow { pfn: pfn(frame), count: before.0 };
        let error = MapError::References(overflow);
        assert_eq!(got, Err(Refusal::Count { pfn: pfn(frame), error }));
        assert_eq!((folio.count(), folio.pins()), before);
    }
    // As many as there is room for are fine.
    assert_eq!(held(&space, 0, 7, PIN_W).unwrap().pages, 7);
}

#[test]
fn a_page_array_may_have_gaps_and_repeat_pages() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    space.map_anon(8, 16, 0, WRITE);
    let mut buffer = [None; 64];
    let mut len = 0;
    for (first, count) in [(0, 8), (8, 1), (8, 1), (3, 2), (0, 1), (3, 2)] {
        let mut sink = Pages::new(&mut buffer[len..]);
        len += hold(&space, space.span(first, count), request(PIN_W), &mut sink).unwrap().pages as usize;
        // A gap.
        len += 1;
    }
    assert_eq!((space.counts(8).1, space.counts(16).1), (13, 2));
    // SAFETY: all of them were pinned.
    let released = unsafe { Release::pins(&map).pages(&buffer) };
    assert_eq!(released, Released { frames: 15, refused: None });
    assert_eq!((space.counts(8), space.counts(16)), ((8, 0), (1, 0)));
}

#[test]
fn nothing_is_faulted_in_for_those_who_do_not_want_it() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    for flags in [Flags::NOFAULT, Flags::FAST_ONLY] {
        let got = held(&space, 0, 4, Flags::GET | flags);
        if flags == Flags::NOFAULT {
            assert_eq!(got, Err(Refusal::NotMapped { va: va(0) }));
        } else {
            assert_eq!(got.unwrap().stopped, Some(Refusal::NotMapped { va: va(0) }));
        }
    }
    assert!(space.faults.borrow().is_empty());
    assert_eq!(space.called("lock"), 1, "only the one who may take it");
    // Read-only, to write.
    space.map_anon(0, 8, 0, 0);
    assert_eq!(held(&space, 0, 1, PIN_W | Flags::NOFAULT), Err(Refusal::NotMapped { va: va(0) }));
    assert_eq!(held(&space, 0, 1, Flags::PIN | Flags::NOFAULT).unwrap().pages, 1);
}

#[test]
fn faults_are_tried_again_after_the_lock_was_let_go() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    for keeps in [false, true] {
        let space = Space::new(&map, 3, 1).anonymous();
        space.keeps_lock.set(keeps);
        assert_eq!(held(&space, 0, 3, PIN_W).unwrap().pages, 3);
        let faults = space.faults.take();
        if keeps {
            assert_eq!(faults, [0, 1, 2].map(|page| (va(page), FaultFlags::WRITE)));
            assert_eq!(space.called("lock"), 1);
        } else {
            let tried = FaultFlags::WRITE | FaultFlags::TRIED;
            let each = |page| [(va(page), FaultFlags::WRITE), (va(page), tried)];
            assert_eq!(faults, [each(0), each(1), each(2)].concat());
            assert_eq!(space.called("lock"), 7);
        }
        assert_eq!(space.locked.get(), 0);
        (0..3).for_each(|page| space.zap(page));
    }
}

#[test]
fn a_signal_ends_the_waiting_of_those_who_say_so() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 0, WRITE);
    let interruptible = PIN_W | Flags::INTERRUPTIBLE;
    space.interruption.set(Some(Interruption::Signal));
    assert_eq!(held(&space, 1, 1, interruptible), Err(Refusal::Interrupted(Interruption::Signal)));
    let got = held(&space, 0, 3, interruptible).unwrap();
    assert_eq!((got.pages, got.stopped), (1, Some(Refusal::Interrupted(Interruption::Signal))));
    assert_eq!(held(&space, 0, 2, PIN_W).unwrap().pages, 2, "not fatal");
    space.interruption.set(Some(Interruption::Fatal));
    for flags in [PIN_W, interruptible] {
        assert_eq!(held(&space, 3, 1, flags), Err(Refusal::Interrupted(Interruption::Fatal)));
    }
    // While it waits in the fault.
    space.interruption.set(None);
    space.fault_error.set(Some(FaultError::Interrupted(Interruption::Signal)));
    assert_eq!(held(&space, 3, 1, interruptible), Err(Refusal::Interrupted(Interruption::Signal)));
    let flags = space.faults.borrow().last().unwrap().1;
    assert!(flags.contains(FaultFlags::INTERRUPTIBLE));
}

#[test]
fn entries_that_are_there_to_be_noticed_fault_for_those_who_honour_it() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 0, WRITE | HINT);
    let got = held(&space, 0, 1, PIN_W | Flags::FAST_ONLY).unwrap();
    assert_eq!(got.pages, 0, "who takes no lock leaves it to the other");
    assert_eq!(held(&space, 0, 1, PIN_W).unwrap().pages, 1);
    assert!(space.faults.borrow().is_empty());
    assert_eq!(held(&space, 0, 1, PIN_W | Flags::HONOR_HINT).unwrap().pages, 1);
    assert!(!space.faults.borrow().is_empty());
    assert_eq!(space.entry(0).load(Relaxed) & HINT, 0);
}

#[test]
fn areas_and_entries_that_cannot_be_held() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4);
    space.area_at(0, 8, ANON_RW | AreaFlags::NO_PAGES);
    space.area_at(8, 8, (ANON_RW - AreaFlags::ANON) | AreaFlags::HUGETLB);
    space.area_at(16, 4, ANON_RW | AreaFlags::SECRET);
    space.area_at(20, 4, ANON_RW | AreaFlags::CLOSED);
    space.area_at(24, 4, ANON_RW | AreaFlags::SHADOW_STACK);
    space.area_at(28, 4, ANON_RW - AreaFlags::READ - AreaFlags::WRITE);
    for (page, flags, why) in [
        (0, Flags::GET, Refusal::NoPages { va: va(0) }),
        (8, Flags::GET | Flags::ANON, Refusal::NotAnonymous { va: va(8) }),
        (8, Flags::GET | Flags::SPLIT, Refusal::CannotSplit { va: va(8) }),
        (16, Flags::GET, Refusal::Secret { va: va(16) }),
        (20, Flags::GET, Refusal::Closed { va: va(20) }),
        (24, PIN_W, Refusal::NotWritable { va: va(24) }),
        (28, Flags::GET, Refusal::NotReadable { va: va(28) }),
        (28, PIN_W, Refusal::NotWritable { va: va(28) }),
    ] {
        assert_eq!(held(&space, page, 1, flags), Err(why));
    }
    // A special entry ends the walk, also where it takes no lock.
    let space = Space::new(&map, 3, 4).anonymous();
    space.map_anon(0, 8, 0, WRITE);
    space.set(1, 9, 1, WRITE | SPECIAL);
    let got = held(&space, 0, 2, PIN_W).unwrap();
    assert_eq!((got.pages, got.stopped), (1, Some(Refusal::NoPages { va: va(1) })));
    // An entry to a frame that the memory map does not have.
    space.set(2, 1 << 30, 1, WRITE);
    let error = MapError::References(GetError::Absent { pfn: pfn(1 << 30) });
    assert_eq!(held(&space, 2, 1, PIN_W), Err(Refusal::Count { pfn: pfn(1 << 30), error }));
}

#[test]
fn leaves_are_split_for_those_who_want_pages() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 2).anonymous();
    space.map_huge(0, 8, WRITE);
    assert_eq!(held(&space, 2, 3, Flags::GET).unwrap().pages, 3);
    assert_eq!(space.upper[0].load(Relaxed) & TABLE, 0);
    assert_eq!(held(&space, 2, 3, Flags::GET | Flags::SPLIT).unwrap().pages, 3);
    assert_ne!(space.upper[0].load(Relaxed) & TABLE, 0);
}

#[test]
fn folios_are_marked_as_referenced_on_demand() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 0, WRITE);
    let _kept = held(&space, 0, 1, PIN_W).unwrap();
    assert!(!space.folio(8).flags().contains(PageFlags::REFERENCED));
    let _kept = held(&space, 0, 1, PIN_W | Flags::TOUCH).unwrap();
    assert!(space.folio(8).flags().contains(PageFlags::REFERENCED));
}

#[test]
fn populating_faults_and_holds_nothing() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 2);
    space.area_at(0, 6, ANON_RW);
    space.area_at(8, 8, ANON_RW - AreaFlags::WRITE);
    space.map_anon(2, 8, 0, 0);
    let held = populate(&space, space.span(0, 6), true).unwrap();
    assert_eq!((held.pages, held.stopped), (6, None));
    assert!((0..6).all(|page| space.entry(page).load(Relaxed) & WRITE != 0));
    assert!((0..6).all(|page| space.counts(space.frame(page)) == (1, 0)));
    space.faults.take();
    let _kept = populate(&space, space.span(0, 6), true).unwrap();
    assert!(space.faults.take().is_empty(), "it is there");
    let (held, why) = populate(&space, space.span(4, 8), false).unwrap_err();
    assert_eq!((held.pages, held.next, why), (2, va(6), Refusal::NoArea { va: va(6) }));
    assert_eq!(populate(&space, space.span(8, 1), true).unwrap_err().1, Refusal::NotWritable { va: va(8) });
    space.map_huge(8, 16, 0);
    assert_eq!(populate(&space, space.span(9, 5), false).unwrap().pages, 5);
    space.fault_error.set(Some(FaultError::NoMemory));
    space.upper[1].store(0, Relaxed);
    let why = Refusal::Fault { va: va(9), error: FaultError::NoMemory };
    assert_eq!(populate(&space, space.span(9, 1), false).unwrap_err().1, why);
}

#[test]
fn a_page_far_into_a_request_is_named_when_it_ends_it() {
    let mut pages = descriptors(128);
    let map = map(&mut pages);
    let space = Space::new(&map, 6, 2);
    space.area_at(0, 64, ANON_RW);
    // More folios than are held before the first is handed on.
    (0..40).for_each(|page| space.map_anon(page, 8 + page, 0, WRITE));
    space.map_file(40, 64, 0, WRITE, FileKind::Secret);
    let got = held(&space, 0, 64, Flags::GET | Flags::FAST_ONLY).unwrap();
    assert_eq!((got.pages, got.stopped), (40, Some(Refusal::Secret { va: va(40) })));
}

#[test]
fn held_pages_give_themselves_back_and_outlive_the_address_space() {
    let (mut pages, mut others) = (descriptors(64), descriptors(1));
    let (map, other) = (map(&mut pages), common::map(&mut others));
    let space = Space::new(&map, 3, 2).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    let mut buffer = [Extent::EMPTY; 4];
    let pinned =
        Pinned::all(&map, &space, space.span(0, 8), request(PIN_W), Extents::new(&mut buffer)).unwrap();
    assert_eq!((pinned.sink().frames(), space.counts(8)), (8, (16, 8)));
    (0..8).for_each(|page| space.zap(page));
    drop(space);
    assert!(map.claim(pfn(8)).is_err(), "pinned");
    drop(pinned);
    assert!(map.claim(pfn(8)).is_ok(), "free");

    let space = Space::new(&map, 3, 2).anonymous();
    space.map_anon(0, 16, 3, WRITE);
    // A sink that has something already, and another map.
    let mut sink = Extents::new(&mut buffer);
    let _ = hold(&space, space.span(0, 2), request(PIN_W), &mut sink).unwrap();
    let used = Pinned::all(&map, &space, space.span(0, 2), request(Flags::GET), sink);
    assert_eq!(used.err(), Some(Refusal::UsedSink));
    assert_eq!(space.counts(16), (10, 2));
    let refused = Pinned::all(&other, &space, space.span(0, 2), request(PIN_W), Extents::new(&mut buffer));
    assert_eq!(refused.err(), Some(Refusal::OtherMap));
    // Kept without the value.
    let mut array = [None; 2];
    let pinned = Pinned::all(&map, &space, space.span(0, 2), request(PIN_W), Pages::new(&mut array)).unwrap();
    let sink = pinned.into_sink();
    assert_eq!(space.counts(16), (12, 4));
    // SAFETY: pinned and kept just now.
    assert_eq!(unsafe { Release::pins(&map).pages(sink.pages()) }.frames, 2);
    assert_eq!(space.counts(16), (10, 2));
}

#[test]
fn the_page_of_zeroes_may_be_pinned_wherever_it_is() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1);
    space.area_at(0, 4, ANON_RW);
    space.area_at(4, 4, ANON_RW | AreaFlags::SHARED);
    (0..8).for_each(|page| space.map_zero(page, 5));
    space.folio(5).insert(PageFlags::MOVABLE);
    for flags in [Flags::FAST_ONLY, Flags::empty()] {
        let got = held(&space, 4, 2, Flags::PIN | Flags::LONGTERM | flags).unwrap();
        // Without locks nobody knows whether the area is shared.
        assert_eq!(got.pages, if flags.is_empty() { 2 } else { 0 }, "{flags:?}");
    }
    // A private area gets pages of its own, as from a page of zeroes that may stay.
    assert_eq!(held(&space, 0, 2, Flags::PIN | Flags::LONGTERM).unwrap().pages, 2);
    assert!(space.frame(0) != 5 && space.frame(1) != 5);
    assert_eq!(space.called("isolate"), 0);
}

#[test]
fn entries_of_areas_without_access_are_no_hints() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1);
    space.area_at(0, 8, AreaFlags::MAY_READ | AreaFlags::MAY_WRITE | AreaFlags::ANON);
    space.map_anon(0, 8, 3, HINT);
    // By force, as a debugger does: there is no access that would be noticed.
    space.fault_error.set(Some(FaultError::Bad));
    let got = held(&space, 0, 8, Flags::GET | Flags::FORCE | Flags::HONOR_HINT).unwrap();
    assert_eq!((got.pages, space.called("fault")), (8, 0));
}

#[test]
fn what_was_set_aside_does_not_stay_so_when_it_is_given_up() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    for refusals in 0..12 {
        let space = Space::new(&map, 3, 1).anonymous();
        space.map_anon(0, 8, 0, WRITE);
        space.folio(8).insert(PageFlags::MOVABLE);
        space.undrained.set(refusals);
        let pinned = held(&space, 0, 1, PIN_W | Flags::LONGTERM);
        assert!(space.isolated.borrow().is_empty(), "{refusals} refusals: {pinned:?}");
        if pinned.is_ok() {
            // SAFETY: pinned just now.
            let released = unsafe { Release::pins(&map).range(pfn(space.frame(0)), 1) };
            assert_eq!(released.frames, 1);
        }
        assert_eq!((pinned.is_ok(), refusals > 8), (refusals < 8, space.frame(0) == 8));
        space.zap(0);
    }
}

#[test]
fn what_one_entry_of_a_sink_cannot_say_goes_to_the_next() {
    let most = u32::MAX;
    let run = |first: u64, frames: u32| Run {
        pfn: pfn(first),
        frames,
        head: pfn(0),
        order: order(40),
        writable: true,
    };
    let mut buffer = [Extent::EMPTY; 2];
    let mut sink = Extents::new(&mut buffer);
    assert_eq!((sink.push(run(0, most - 1)), sink.push(run(u64::from(most) - 1, 2))), (most - 1, 2));
    assert_eq!(sink.extents()[1], Extent { pfn: pfn(u64::from(most) - 1), frames: 2 });
    let mut buffer = [FolioHolds::EMPTY; 2];
    let mut sink = Folios::new(&mut buffer);
    assert_eq!((sink.push(run(0, most - 1)), sink.push(run(u64::from(most) - 1, 2))), (most - 1, 2));
    assert_eq!((sink.folios()[0].holds, sink.folios()[1].first), (most - 1, u64::from(most) - 1));
    // 4 GiB and some, from the middle of a page to that of another: the first vector has all frames but one of 4 GiB.
    let format = Format { base_shift: SHIFT, limit: VirtAddr::MAX, ignored: 0, step_shift: SHIFT };
    let frames = (1 << 20) + 5;
    for (head, len) in [0, 100].map(|head| (head, (1 << 32) - PAGE - head)) {
        let span = Span::bytes(&format, VirtAddr::new(head), (frames << SHIFT) - head - 7).unwrap();
        let mut buffer = [BioVec::EMPTY; 2];
        let mut sink = Bytes::new(&mut buffer, &span);
        assert_eq!(u64::from(sink.push(run(0, frames as u32))), frames);
        let [first, second] = sink.stretches() else { panic!("{sink:?}") };
        assert_eq!((u64::from(first.len), u64::from(first.offset)), (len, head));
        assert_eq!(first.bytes() + second.bytes(), (frames << SHIFT) - head - 7);
        // Every frame is in one of them.
        let of = |vector: &BioVec| vector.frames(SHIFT).unwrap();
        assert_eq!((of(first).end(), of(second).end()), (of(second).start().get(), frames));
        assert_eq!(sink.room(), 0);
    }
}
