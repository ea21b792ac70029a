// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that fail, beyond the numbered scenarios.

use std::sync::Mutex;

use mmkit_addr::{Order, Pfn};
use mmkit_devmap::{Failure, FailureError, FolioError, Kind, Report, Victims};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{Folio, MemMap, PageFlags, State};
use mmkit_vmemmap::Serial;

use crate::common::*;

/// Address spaces that map the frame by entries of these orders.
pub(crate) struct Mappers {
    entries: Vec<u8>,
    reports: Mutex<Vec<Report>>,
    stops: bool,
}

impl Mappers {
    pub(crate) fn new(entries: &[u8]) -> Self {
        Self { entries: entries.to_vec(), reports: Mutex::default(), stops: true }
    }

    /// What was reported since the last time.
    pub(crate) fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock().unwrap())
    }
}

impl<M: MemMap> Victims<M> for Mappers {
    fn largest_mapping(&self, folio: &Folio<'_, M>, pfn: Pfn) -> Option<Order> {
        assert!(folio.flags().contains(PageFlags::HWPOISON), "marked before anybody is looked for");
        assert!(pfn >= folio.pfn());
        self.entries.iter().max().map(|&entry| order(entry))
    }

    fn report(&self, _: &Folio<'_, M>, report: Report) -> bool {
        self.reports.lock().unwrap().push(report);
        self.stops
    }
}

#[test]
fn what_nobody_uses_is_kept() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let before = image(&machine, HUGE);
    let mappers = Mappers::new(&[0]);
    for number in [9, 0, 511] {
        assert_eq!(machine.memory_failure(at(number), &mappers), Ok(Failure::Unused));
        assert_eq!(machine.memory_failure(at(number), &mappers), Ok(Failure::Known));
    }
    assert_eq!(mappers.reports(), []);
    for (o, number, bad) in [(9, 0, 0), (0, 9, 9), (3, 8, 9), (0, 511, 511)] {
        let error = machine.associate(at(number), order(o), file(1, 0)).unwrap_err();
        assert_eq!(error, FolioError::Poisoned { pfn: at(bad) });
    }
    drop(machine.associate(at(16), order(4), file(1, 0)).unwrap());
    let now = image(&machine, HUGE);
    let differ: Vec<u64> =
        (0..HUGE).filter(|&number| now[number as usize] != before[number as usize]).collect();
    assert_eq!(differ, [0, 9, 511], "all others are as they were");
    remove(registration);
}

#[test]
fn a_bad_head_is_told_from_a_bad_tail() {
    for bad in [[0, 0], [1, 1], [3, 6], [0, 7]] {
        let memory = TestFrames::with_frames(4096);
        let machine = machine(&memory);
        let registration = device(&machine, Kind::FsDax, &Driver::new());
        let folio = machine.associate(at(0), order(3), file(1, 0)).unwrap().folio;
        let mappers = Mappers::new(&[]);
        let first = machine.memory_failure(at(bad[0]), &mappers);
        assert_eq!(first, Ok(Failure::NotMapped));
        let again = if bad[0] == bad[1] { Failure::Known } else { Failure::NotMapped };
        assert_eq!(machine.memory_failure(at(bad[1]), &mappers), Ok(again));
        drop(folio);
        for number in 0..8 {
            assert_eq!(state(&machine, number) == REST, !bad.contains(&number), "{bad:?}, frame {number}");
        }
        // The device comes again, and nothing is known of its frames.
        let pagemap = remove(registration);
        let registration = machine.register(pagemap, &Serial).unwrap();
        drop(machine.associate(at(0), order(3), file(1, 0)).unwrap());
        remove(registration);
    }
}

#[test]
fn generic_memory_stays_ready_and_is_not_handed_out() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration =
        machine.register(description(Kind::Generic, HUGE, 9, &Driver::new()), &Serial).unwrap();
    let mappers = Mappers::new(&[0, 0]);
    let report = Report { pfn: at(77), order: order(0) };
    assert_eq!(machine.memory_failure(at(77), &mappers), Ok(Failure::Reported(report)));
    assert_eq!(machine.hand_out(at(0)).unwrap_err(), FolioError::Poisoned { pfn: at(0) });
    assert_eq!(state(&machine, 0), State::Held { order: order(9), count: 1 });
    remove(registration);
    assert!(machine.registry().is_empty());
}

#[test]
fn a_mapper_that_cannot_be_stopped_is_an_error_with_the_folio_marked() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::Generic, &Driver::new());
    let mappers = Mappers { stops: false, ..Mappers::new(&[0]) };
    let report = Report { pfn: at(1), order: order(0) };
    assert_eq!(machine.memory_failure(at(1), &mappers), Err(FailureError::NotStopped(report)));
    assert_eq!(machine.memory_failure(at(1), &mappers), Ok(Failure::Known));
    remove(registration);
}

#[test]
fn of_a_device_that_is_going_what_somebody_has_is_dealt_with() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let driver = Driver::new();
    for kind in [Kind::FsDax, Kind::Generic, Kind::PciP2pdma] {
        let registration = device(&machine, kind, &driver);
        let before = image(&machine, HUGE);
        let folio = machine.take(at(7), order(0)).unwrap();
        let mappers = Mappers::new(&[0]);
        registration.kill();
        let report = Report { pfn: at(7), order: order(0) };
        assert_eq!(machine.memory_failure(at(7), &mappers), Ok(Failure::Reported(report)));
        assert_eq!((mappers.reports(), driver.calls()), (vec![report], vec![Call::Failure(frames(7, 1))]));
        assert!(folio.flags().contains(PageFlags::HWPOISON));
        // Of fs-dax nobody has this one.
        if kind != Kind::Generic {
            assert_eq!(machine.memory_failure(at(8), &mappers), Err(FailureError::Foreign { pfn: at(8) }));
        }
        drop(folio);
        // What was wrong with it goes with it.
        let pagemap = remove(registration);
        let registration = machine.register(pagemap, &Serial).unwrap();
        assert_eq!(image(&machine, HUGE), before);
        remove(registration);
        let _ = driver.calls();
    }
    // Only their driver knows about others.
    let registration = device(&machine, Kind::Private, &driver);
    let folio = machine.take(at(7), order(0)).unwrap();
    registration.kill();
    let error = FailureError::OnlyDriver { pfn: at(7), kind: Kind::Private };
    assert_eq!(machine.memory_failure(at(7), &Mappers::new(&[0])), Err(error));
    assert_eq!(driver.calls(), [Call::Failure(frames(7, 1))]);
    drop(folio);
    remove(registration);
}
