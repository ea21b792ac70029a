// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of drivers: allocated, split, given back.

use mmkit_devmap::{FolioError, Kind};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{MemMap, State};
use mmkit_vmemmap::Serial;

use crate::common::*;

#[test]
fn a_large_folio_is_split() {
    for (from, to) in [(9, 0), (9, 3), (4, 3), (1, 0)] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let driver = Driver::new();
        let registration = device(&machine, Kind::Private, &driver);
        let before = image(&machine, HUGE);
        let folio = machine.allocate(at(0), order(from), 0xda7a).unwrap();
        let references = registration.pagemap().references();
        let mut parts = Vec::new();
        machine.split(folio, order(to), |part| parts.push(part)).unwrap();
        let (size, count) = (1u64 << to, 1u64 << (from - to));
        let blocks: Vec<_> = (0..count).map(|nth| frames(nth * size, size)).collect();
        let told: Vec<_> = blocks.iter().map(|&part| Call::Split(at(0), part)).collect();
        assert_eq!(driver.calls(), told);
        assert_eq!(registration.pagemap().references(), references, "the parts have those of the whole");
        for (part, block) in parts.iter().zip(&blocks) {
            assert_eq!((part.pfn(), part.order(), part.count()), (block.start(), order(to), 1));
            assert_eq!(machine.data_of(part), Some(0xda7a));
            assert_eq!(machine.head(block.last().unwrap()), Some(block.start()));
        }
        while let Some(part) = parts.pop() {
            drop(part);
            assert_eq!(driver.calls(), [Call::Free(blocks[parts.len()])]);
        }
        assert_eq!(image(&machine, HUGE), before);
        remove(registration);
    }
}

#[test]
fn what_cannot_be_split_comes_back() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let driver = Driver::new();
    let registration = device(&machine, Kind::Coherent, &driver);
    let folio = machine.allocate(at(8), order(3), 3).unwrap();
    let second = folio.try_clone().unwrap();
    let before = image(&machine, HUGE);
    let (folio, error) = machine.split(folio, order(0), |_| unreachable!()).unwrap_err();
    assert_eq!(error, FolioError::Shared { pfn: at(8), references: 2 });
    assert_eq!(image(&machine, HUGE), before);
    drop(second);
    for o in [3, 4] {
        let (again, error) =
            machine.split(folio.try_clone().unwrap(), order(o), |_| unreachable!()).unwrap_err();
        assert_eq!(
            error,
            FolioError::OtherOrder { pfn: at(8), order: order(o), least: order(0), most: order(3) }
        );
        drop(again);
    }
    assert_eq!(driver.calls(), []);
    drop(folio);
    assert_eq!(driver.calls(), [Call::Free(frames(8, 8))]);
    remove(registration);
}

#[test]
fn what_was_a_tail_is_a_head_with_nothing_left_of_it() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::Private, &Driver::new());
    drop(machine.allocate(at(0), order(9), u64::MAX).unwrap());
    for number in 0..HUGE {
        assert_eq!(state(&machine, number), REST);
    }
    let folio = machine.allocate(at(257), order(0), 0).unwrap();
    assert_eq!(state(&machine, 257), State::Held { order: order(0), count: 1 });
    assert_eq!((folio.order(), machine.data_of(&folio)), (order(0), Some(0)));
    assert_eq!(
        machine.allocate(at(256), order(1), 0).unwrap_err(),
        FolioError::Conflict { folio: frames(257, 1) }
    );
    assert_eq!(
        machine.allocate(at(257), order(0), 0).unwrap_err(),
        FolioError::Conflict { folio: frames(257, 1) }
    );
    drop(machine.allocate(at(258), order(1), 0).unwrap());
    drop(folio);
    remove(registration);
}

#[test]
fn compounds_of_the_pagemap_stay_compounds() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let driver = Driver::new();
    let registration = machine.register(description(Kind::PciP2pdma, 2 * HUGE, 9, &driver), &Serial).unwrap();
    let before = image(&machine, 2 * HUGE);
    let references = registration.pagemap().references();
    for o in [0, 8, 10] {
        let error = machine.allocate(at(0), order(o), 1).unwrap_err();
        assert_eq!(
            error,
            FolioError::OtherOrder { pfn: at(0), order: order(o), least: order(9), most: order(9) }
        );
    }
    let folio = machine.allocate(at(HUGE), order(9), 1).unwrap();
    assert!(folio.has_shared_tails());
    assert_eq!(registration.pagemap().references(), references + 1, "one block of the pagemap's order");
    let (folio, error) = machine.split(folio, order(3), |_| unreachable!()).unwrap_err();
    assert_eq!(
        error,
        FolioError::OtherOrder { pfn: at(HUGE), order: order(3), least: order(9), most: order(9) }
    );
    drop(folio);
    assert_eq!(driver.calls(), [Call::Free(frames(HUGE, HUGE))]);
    assert_eq!(image(&machine, 2 * HUGE), before);
    remove(registration);
}
