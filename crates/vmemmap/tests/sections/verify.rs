// SPDX-License-Identifier: MIT OR Apache-2.0
//! Violations are seeded, and named.

use std::sync::atomic::Ordering;

use crate::common::{
    InSoftware, SoftMap, TestEnv, frames, map, order, pfn, place, range, soft::Stand, verified,
};
use mmkit_addr::{Geometry, Order, Pfn};
use mmkit_frame::Request;
use mmkit_frame::test_util::TestFrames;
use mmkit_page::MemMap;
use mmkit_sync::Readers;
use mmkit_vmemmap::{Invariant, Populate, Violation};

const X86: Geometry = Geometry::X86_64;
const SECTION: u64 = 1 << 15;
const SUBSECTION: u64 = 1 << 9;
const POISON: u64 = 0x0bad_cafe;

/// Section 0: 2M compounds, one of them in use, and single frames with a free block of order 4 and a made compound of
/// order 3 among them. Section 1: boot memory with a hole. Section 2: offline.
fn with_map(test: impl FnOnce(&SoftMap<'_>, &TestFrames)) {
    let frames = frames(&X86);
    let env = TestEnv::<Readers>::new(&frames);
    let map: SoftMap<'_> = map::<InSoftware, _>(X86, &frames, &env).poisoned(POISON);
    map.populate(range(0, 32 * SUBSECTION), order(9), place(0, 1)).unwrap();
    map.populate(range(32 * SUBSECTION, 8 * SUBSECTION), Order::ZERO, place(0, 0)).unwrap();
    map.populate_with(Populate::new(range(SECTION, 8 * SUBSECTION)).early()).unwrap();
    map.populate_with(Populate::new(range(2 * SECTION, SUBSECTION)).offline()).unwrap();
    let single = 32 * SUBSECTION;
    drop(map.claim_joined(pfn(single + 16), order(4)).unwrap());
    let made = map.claim_joined(pfn(single + 64), order(3)).unwrap().allocate().prep().unwrap().into_folio();
    let used = map.claim(pfn(SUBSECTION)).unwrap().allocate().into_folio();
    verified(&map, &frames);
    test(&map, &frames);
    drop((made, used));
}

/// A word of the frame behind a page.
fn poke(frames: &TestFrames, map: &SoftMap<'_>, at: u64, word: usize, value: u64) -> u64 {
    let (Stand::Own(frame) | Stand::Tail(frame, _)) = map.space().pages()[&(at / 64)];
    let frames = frames.frames();
    // SAFETY: nobody uses the descriptors but this test, which puts back what it changes.
    let words = unsafe { frames.words(frame) }.unwrap();
    words[(at % 64) as usize * 8 + word].swap(value, Ordering::Relaxed)
}

#[track_caller]
fn found(map: &SoftMap<'_>, at: u64, invariant: Invariant) {
    assert_eq!(map.verify(), Err(Violation { pfn: pfn(at), invariant }));
}

#[test]
fn words_that_are_wrong_are_named() {
    with_map(|map, frames| {
        let single = 32 * SUBSECTION;
        let (tail, head) = (|o: u64| o, |o: u64| 1 << 7 | 1 << 8 | 1 << 9 | o << 16);
        let cases = [
            // A tail among single frames; of another order in a compound; without its head.
            (single + 5, 1, tail(3), Invariant::OneHead),
            (3, 1, tail(8), Invariant::OneHead),
            (single + 66, 1, tail(2), Invariant::OneHead),
            // A head of another order; one where it cannot be; one inside a block; nothing at all.
            (0, 1, head(8), Invariant::OneHead),
            (single + 1, 1, head(1), Invariant::InOneBlock),
            (single + 20, 1, head(0), Invariant::InOneBlock),
            (single + 7, 1, 0, Invariant::InOneBlock),
            // A tail of another node.
            (5, 0, 1 << 54, Invariant::OneHead),
            // An absent frame in the hole of a section from boot.
            (SECTION + 9 * SUBSECTION + 3, 6, 0, Invariant::AbsentUnwritten),
            // At rest, though its section is offline.
            (2 * SECTION + 4, 1, head(0), Invariant::OfflineIsClaimed),
        ];
        for (at, word, value, invariant) in cases {
            let was = poke(frames, map, at, word, value);
            found(map, at, invariant);
            poke(frames, map, at, word, was);
            assert_eq!(map.verify(), Ok(()));
        }
        // A descriptor that nobody wrote.
        let was: Vec<u64> = (0..8).map(|word| poke(frames, map, single + 9, word, POISON)).collect();
        found(map, single + 9, Invariant::Initialised);
        was.into_iter().enumerate().for_each(|(word, was)| {
            poke(frames, map, single + 9, word, was);
        });
        // A shared tail that was written: the frame that holds it.
        let Stand::Tail(frame, _) = map.space().pages()[&1] else { panic!("own") };
        let was = poke(frames, map, 64 + 7, 5, 1);
        found(map, frame.get(), Invariant::TailsUnwritten);
        poke(frames, map, 64 + 7, 5, was);
        verified(map, frames);
    });
}

#[test]
fn pages_that_are_wrong_are_named() {
    with_map(|map, frames| {
        let pages = map.space().pages();
        let single = 32 * 8;
        let tails = pages[&1];
        let own = |page: u64| pages[&page];
        let spare = Stand::Own(frames.frames().allocate(Request::new(Order::ZERO)).unwrap());
        let mapped = 40 * 64 * 8;
        let cases = [
            // Missing; too many.
            (single + 3, None, (single + 3) * 64, Invariant::Mapped),
            (mapped / 64, Some(spare), mapped, Invariant::Unmapped),
            // Not shared where it should be; shared where it should not be.
            (3, Some(spare), 3 * 64, Invariant::SharedIsTails),
            (8, Some(tails), 8 * 64, Invariant::SharedIsTails),
            (512 + 9, None, SECTION + 9 * 64, Invariant::Mapped),
        ];
        for (page, stand, at, invariant) in cases {
            let was = pages.get(&page).copied();
            map.space().tamper(page, stand);
            found(map, at, invariant);
            map.space().tamper(page, was);
            assert_eq!(map.verify(), Ok(()));
        }
        // Two pages of single frames in one frame, and one in the frame of the tails (which happens to read like single
        // frames only after it was written: so the walk sees the tails first).
        map.space().tamper(single + 5, Some(own(single + 4)));
        found(map, (single + 5) * 64, Invariant::OneWritableAlias);
        // However far the two are from each other in the memory that is looked at in one pass.
        for words in [0, 1, 3, 1 << 10] {
            let mut seen = vec![u64::MAX; words];
            let violation = map.verify_with(&mut seen).unwrap_err();
            assert_eq!(violation.invariant, Invariant::OneWritableAlias, "{words} words");
        }
        map.space().tamper(single + 5, Some(own(single + 5)));
        let (Stand::Own(frame) | Stand::Tail(frame, _)) = spare;
        // SAFETY: taken above, and not mapped any more.
        unsafe { frames.frames().deallocate(frame, Order::ZERO) };
        verified(map, frames);
    });
}

/// A frame of tails that is none of the slot's.
#[test]
fn tails_of_others_are_named() {
    with_map(|map, frames| {
        map.populate(range(3 * SECTION, SUBSECTION), order(9), place(1, 1)).unwrap();
        let pages = map.space().pages();
        map.space().tamper(3, Some(pages[&(3 * 512 + 1)]));
        found(map, 3 * 64, Invariant::SharedIsTails);
        map.space().tamper(3, Some(pages[&3]));
        verified(map, frames);
        assert_eq!(
            Violation { pfn: Pfn::ZERO, invariant: Invariant::Mapped }.to_string(),
            "pfn 0x0: Mapped does not hold"
        );
    });
}

/// Frames that are far apart are compared in as many passes as the memory that is lent takes; what is found is the same.
#[test]
fn more_memory_takes_fewer_passes() {
    let frames = frames(&X86);
    let env = TestEnv::<Readers>::new(&frames);
    let map: SoftMap<'_> = map::<InSoftware, _>(X86, &frames, &env).poisoned(POISON);
    // Every subsection's descriptors lie in frames of which the least memory has no room for two.
    let mut gaps = Vec::new();
    for subsection in 0..4 {
        map.populate(range(subsection * SUBSECTION, SUBSECTION), Order::ZERO, place(0, 0)).unwrap();
        while gaps.last().is_none_or(|last: &Pfn| last.get() < (subsection + 1) * 8192) {
            gaps.push(frames.frames().allocate(Request::new(Order::ZERO)).unwrap());
        }
    }
    let looks = |scratch: &mut [u64]| {
        let before = map.space().looks();
        assert_eq!(map.verify_with(scratch), Ok(()));
        map.space().looks() - before
    };
    let enough = 4 * 8192 / 64;
    let (most, least) = (looks(&mut vec![7; enough]), looks(&mut [7; 128]));
    assert_eq!(least - most, 3 * 32, "four passes over all pages, not one");
    let before = map.space().looks();
    assert_eq!(map.verify(), Ok(()));
    assert_eq!(map.space().looks() - before, least);
    // The first page and the last stand behind one frame.
    let (first, last) = (map.space().pages()[&0], map.space().pages()[&31]);
    map.space().tamper(31, Some(first));
    let twice = Err(Violation { pfn: pfn(31 * 64), invariant: Invariant::OneWritableAlias });
    assert_eq!(map.verify(), twice);
    assert_eq!(map.verify_with(&mut vec![7; enough]), twice);
    map.space().tamper(31, Some(last));
    for gap in gaps {
        // SAFETY: allocated above at this order, and never used.
        unsafe { frames.frames().deallocate(gap, Order::ZERO) };
    }
    verified(&map, &frames);
}
