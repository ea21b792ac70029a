// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptions that are wrong, and what is said of them.
#![cfg(not(mmkit_loom))]

mod common;

use common::{DEVICE, Driver, SECTION, SUBSECTION, X86, order, pfn, range};
use mmkit_addr::{Geometry, PfnRange};
use mmkit_devmap::{DevPagemap, DevmapError, Kind, Owner, PagemapBuilder, Provided};
use mmkit_vmemmap::Altmap;

fn builder(kind: Kind) -> PagemapBuilder {
    let driver = Driver::new(Provided::all());
    DevPagemap::builder(kind).operations(driver).owner(Owner(1))
}

#[track_caller]
fn error(builder: PagemapBuilder) -> DevmapError {
    let error = builder.build(&X86).unwrap_err();
    assert!(error.altmap.is_none());
    assert!([12, 22].contains(&error.error.errno()), "{error}");
    error.error
}

fn altmap(base: u64, reserve: u64, free: u64) -> Altmap {
    // SAFETY: these tests write no descriptors.
    unsafe { Altmap::new(pfn(base), reserve, free) }.unwrap()
}

const ONE: u64 = DEVICE;

#[test]
fn ranges() {
    assert_eq!(error(builder(Kind::Generic)), DevmapError::NoRange);
    let (whole, none) = (range(ONE, SECTION), range(ONE + SECTION, 0));
    assert_eq!(
        error(builder(Kind::Generic).range(whole).range(none)),
        DevmapError::Empty { number: 1, range: none }
    );
    // Overlaps of any kind, given in any order.
    let overlaps = [
        (range(ONE, SECTION), range(ONE, SECTION)),
        (range(ONE, SECTION), range(ONE, SUBSECTION)),
        (range(ONE, SECTION), range(ONE + SUBSECTION, SUBSECTION)),
        (range(ONE, SECTION), range(ONE + SECTION - SUBSECTION, SECTION)),
    ];
    for (low, high) in overlaps {
        for (a, b) in [(low, high), (high, low)] {
            let far = range(ONE + 100 * SECTION, SECTION);
            let error = error(builder(Kind::Generic).range(far).range(a).range(b));
            let DevmapError::SelfOverlap { range, other } = error else { panic!("{error}") };
            assert!(range.start() <= other.start() && range.overlaps(other));
            assert!([low, high].contains(&range) && [low, high].contains(&other));
        }
    }
    // Neighbours are none, and come in order.
    let neighbours = [range(ONE + SECTION, SECTION), range(ONE, SECTION)];
    let pagemap = builder(Kind::Generic).range(neighbours[0]).range(neighbours[1]).build(&X86).unwrap();
    assert_eq!(pagemap.ranges(), [neighbours[1], neighbours[0]]);
}

#[test]
fn alignment_and_height() {
    let subsection = order(9);
    for crooked in
        [range(ONE + 1, SUBSECTION), range(ONE, SUBSECTION + 1), range(ONE, 1), range(ONE + 256, SECTION)]
    {
        assert_eq!(
            error(builder(Kind::Generic).range(crooked)),
            DevmapError::Misaligned { range: crooked, unit: subsection }
        );
    }
    // To the pagemap's order, where that is more.
    let piece = range(ONE, (1 << 18) - SUBSECTION);
    assert_eq!(
        error(builder(Kind::Generic).range(piece).order(order(18))),
        DevmapError::Misaligned { range: piece, unit: order(18) }
    );
    let frames = X86.max_frames();
    let high = range(frames - SUBSECTION, 2 * SUBSECTION);
    assert_eq!(error(builder(Kind::Generic).range(high)), DevmapError::TooHigh { range: high, frames });
    assert!(builder(Kind::Generic).range(range(frames - SUBSECTION, SUBSECTION)).build(&X86).is_ok());
    // Subsections are those of the geometry.
    let small = PfnRange::new(pfn(1 << 20), 32).unwrap();
    assert!(builder(Kind::Generic).range(small).build(&Geometry::ARM64_64K).is_ok());
}

#[test]
fn what_each_kind_needs() {
    let all = range(ONE, SECTION);
    for kind in Kind::ALL {
        let needed = Provided::needed_by(kind);
        let bare = DevPagemap::builder(kind).range(all).owner(Owner(1));
        match needed.is_empty() {
            true => assert!(bare.build(&X86).is_ok()),
            false => assert_eq!(error(bare), DevmapError::MissingOperations { kind, missing: needed }),
        }
        // One of them is missing.
        for missing in needed.iter() {
            let driver = Driver::new(Provided::all().difference(missing));
            let most = DevPagemap::builder(kind).range(all).owner(Owner(1)).operations(driver);
            assert_eq!(error(most), DevmapError::MissingOperations { kind, missing });
        }
        let nobodys = DevPagemap::builder(kind).range(all).operations(Driver::new(Provided::all()));
        match kind.needs_owner() {
            true => assert_eq!(error(nobodys), DevmapError::MissingOwner { kind }),
            false => assert!(nobodys.build(&X86).is_ok()),
        }
        let huge = builder(kind).range(range(ONE, 1 << 18)).order(order(9));
        match kind.makes_compounds() {
            true => assert_eq!(error(huge), DevmapError::OrderOfKind { kind, order: order(9) }),
            false => assert_eq!(huge.build(&X86).unwrap().order(), order(9)),
        }
    }
}

#[test]
fn altmaps() {
    let all = range(ONE, 4 * SECTION);
    let built = |altmap| builder(Kind::Generic).range(all).altmap(altmap).build(&X86);
    let cut = |map: Altmap| {
        let set_aside = map.set_aside();
        let error = built(map).unwrap_err();
        assert_eq!(error.error, DevmapError::AltmapCut { set_aside, range: all });
        assert_eq!(error.altmap.unwrap().set_aside(), set_aside, "it comes back");
    };
    // Not at the beginning, in part, all of it.
    cut(altmap(ONE + SUBSECTION, 0, SUBSECTION));
    cut(altmap(ONE - SUBSECTION, 0, 2 * SUBSECTION));
    cut(altmap(ONE, 0, 4 * SECTION));
    cut(altmap(ONE, SECTION, 5 * SECTION));
    // At the beginning, and elsewhere.
    assert_eq!(built(altmap(ONE, 512, 512 * 7)).unwrap().set_aside(), Some(range(ONE, 512 * 8)));
    let elsewhere = built(altmap(ONE - SECTION, 0, SECTION)).unwrap();
    assert_eq!(elsewhere.set_aside(), None);
    assert_eq!(elsewhere.into_altmap().unwrap().free(), SECTION);

    // Of compounds, in whole ones.
    let set_aside = range(ONE, 512 * 3 + 1);
    let crooked = builder(Kind::Generic).range(all).order(order(9)).altmap(altmap(ONE, 0, 512 * 3 + 1));
    let error = crooked.build(&X86).unwrap_err();
    assert_eq!(error.error, DevmapError::Misaligned { range: set_aside, unit: order(9) });
    // No processor reaches it.
    let private = builder(Kind::Private).range(all).altmap(altmap(ONE, 0, 2048)).build(&X86).unwrap_err();
    let set_aside = range(ONE, 2048);
    assert_eq!(private.error, DevmapError::AltmapOfKind { kind: Kind::Private, set_aside });
}

#[test]
fn pages_of_descriptors_in_an_altmap_are_whole() {
    // A page of 64K has the descriptors of 1024 frames, and a subsection has 32.
    let geometry = Geometry::ARM64_64K;
    const LOW: u64 = 1 << 30;
    let page = geometry.vmemmap_page_order();
    assert_eq!((page.frames(), geometry.frames_per_subsection()), (1024, 32));
    let built =
        |frames, altmap| builder(Kind::Generic).range(range(LOW, frames)).altmap(altmap).build(&geometry);
    // Descriptors elsewhere, and in the range itself.
    for frames in [32, 1024 + 32, 2048 - 32] {
        let refused = built(frames, altmap(LOW - SECTION, 0, 64)).unwrap_err();
        let misaligned = DevmapError::Misaligned { range: range(LOW, frames), unit: page };
        assert_eq!(refused.error, misaligned);
        assert_eq!(refused.altmap.unwrap().free(), 64, "it comes back");
    }
    let refused = built(4096, altmap(LOW, 0, 32)).unwrap_err();
    assert_eq!(refused.error, DevmapError::Misaligned { range: range(LOW, 32), unit: page });
    assert!(built(1024, altmap(LOW - SECTION, 0, 64)).is_ok());
    assert!(built(4096, altmap(LOW, 0, 1024)).is_ok());
}

#[test]
fn which_frames_are_its_own() {
    let all = range(ONE, SECTION);
    let pagemap = builder(Kind::FsDax).range(all).altmap(altmap(ONE, 0, 1024)).build(&X86).unwrap();
    assert!(!pagemap.has(pfn(ONE)) && !pagemap.has(pfn(ONE + 1023)), "set aside");
    assert!(pagemap.has(pfn(ONE + 1024)) && pagemap.has(all.last().unwrap()));
    assert!(!pagemap.has(pfn(ONE - 1)) && !pagemap.has(pfn(all.end())));
    assert_eq!(pagemap.bulk_references(), SECTION - 1024);
    let driver = pagemap.operations(Provided::FOLIO_FREE);
    assert!(driver.is_some());
    // Each frame and block of several ranges, with a hole between them.
    let two = [
        range(ONE, SECTION),
        range(ONE + 2 * SECTION, SUBSECTION),
        range(ONE + 2 * SECTION + SUBSECTION, SUBSECTION),
    ];
    let pagemap =
        two.iter().fold(builder(Kind::FsDax), |builder, &range| builder.range(range)).build(&X86).unwrap();
    for frame in ONE - 2..ONE + 3 * SECTION {
        assert_eq!(pagemap.has(pfn(frame)), two.iter().any(|range| range.contains(pfn(frame))), "{frame}");
        for frames in [0, 1, 2, SUBSECTION] {
            let block = range(frame, frames);
            let held = frames > 0 && two.iter().any(|range| range.contains_range(block));
            assert_eq!(pagemap.holds(block), held, "{block:?}");
        }
    }
    let bare = DevPagemap::builder(Kind::FsDax).range(all).build(&X86).unwrap();
    assert!(bare.operations(Provided::FOLIO_FREE).is_none());
}
