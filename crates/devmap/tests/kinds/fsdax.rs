// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of files.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};

use mmkit_devmap::{DevPagemap, FolioError, Kind, Operations, Owner, Provided, StillBusy};
use mmkit_folio::{Mapping, MmIds, Rmap};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{MemMap, State};
use mmkit_sync::atomic::AtomicU64;
use mmkit_vmemmap::Serial;

use crate::common::*;

#[test]
fn a_second_file_takes_the_place_away_and_counts() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let first = machine.associate(at(8), order(2), file(1, 40)).unwrap();
    assert_eq!((first.made, first.files), (true, 1));
    let folio = first.folio;
    assert_eq!(machine.place_in_file(&folio), Some(file(1, 40)));
    // The same file, at the same place: the same.
    let again = machine.associate(at(8), order(2), file(1, 40)).unwrap();
    assert_eq!((again.made, again.files, machine.files_of(&folio)), (false, 1, Some(1)));
    // Another file, and the first at another place: both share it.
    let second = machine.associate(at(8), order(2), file(2, 0)).unwrap();
    assert_eq!((second.made, second.files, machine.place_in_file(&folio)), (false, 2, None));
    let third = machine.associate(at(8), order(2), file(1, 80)).unwrap();
    assert_eq!((third.files, folio.count()), (3, 4));
    // One after the other goes; the place does not come back while one is left.
    for left in [2, 1, 0] {
        assert_eq!(machine.disassociate(&folio, file(2, 0)), Ok(left));
        assert_eq!((machine.files_of(&folio), machine.place_in_file(&folio)), (Some(left), None));
    }
    let none = FolioError::NotAssociated { pfn: at(8) };
    assert_eq!(machine.disassociate(&folio, file(2, 0)), Err(none));
    drop((again, second, third));
    // A file that comes when none is left has it alone again, and at its own place.
    for other in [file(3, 0), file(2, 0), file(3, 4)] {
        let alone = machine.associate(at(8), order(2), other).unwrap();
        assert_eq!((alone.made, alone.files, machine.place_in_file(&folio)), (false, 1, Some(other)));
        let elsewhere = file(3, 5);
        assert_eq!(machine.disassociate(&folio, elsewhere), Err(none), "that is not where it is");
        assert_eq!(machine.associate(at(8), order(2), other).unwrap().files, 1, "the same");
        assert_eq!(machine.disassociate(&folio, other), Ok(0));
        assert_eq!(machine.place_in_file(&folio), None);
    }
    drop(folio);
    // A new folio, of one file.
    let folio = machine.associate(at(8), order(2), file(2, 7)).unwrap().folio;
    assert_eq!(machine.place_in_file(&folio), Some(file(2, 7)));
    assert_eq!(machine.disassociate(&folio, file(1, 7)), Err(none), "that file does not have it");
    assert_eq!(machine.disassociate(&folio, file(2, 8)), Err(none), "not there");
    assert_eq!(machine.disassociate(&folio, file(2, 7)), Ok(0));
    assert_eq!(machine.place_in_file(&folio), None);
    drop(folio);
    remove(registration);
}

#[test]
fn what_cannot_be_associated_changes_nothing() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let small = machine.associate(at(5), order(0), file(1, 5)).unwrap().folio;
    let large = machine.associate(at(16), order(4), file(1, 16)).unwrap().folio;
    let (before, references) = (image(&machine, HUGE), registration.pagemap().references());
    let refused = |number: u64, o: u8| machine.associate(at(number), order(o), file(2, 0)).unwrap_err();
    // A larger one over entries of single frames falls back; so does a smaller one inside.
    assert_eq!(refused(0, 9), FolioError::Conflict { folio: frames(5, 1) });
    assert_eq!(refused(4, 2), FolioError::Conflict { folio: frames(5, 1) });
    assert_eq!(refused(24, 3), FolioError::Conflict { folio: frames(16, 16) });
    assert_eq!(refused(16, 3), FolioError::Conflict { folio: frames(16, 16) });
    assert_eq!(refused(0, 5), FolioError::Conflict { folio: frames(5, 1) });
    assert_eq!(refused(3, 1), FolioError::Misaligned { pfn: at(3), order: order(1) });
    assert_eq!(refused(HUGE, 0), FolioError::NoPagemap { pfn: at(HUGE) });
    assert_eq!(refused(0, 10), FolioError::Outside { pfn: at(0), order: order(10) });
    let kind = Kind::FsDax;
    assert_eq!(machine.allocate(at(0), order(0), 0).unwrap_err(), FolioError::OtherKind { pfn: at(0), kind });
    assert_eq!(machine.hand_out(at(5)).unwrap_err(), FolioError::OtherKind { pfn: at(5), kind });
    // A frame in somebody's hands.
    let taken = machine.claim(at(40)).unwrap();
    assert_eq!(refused(32, 5), FolioError::Busy { pfn: at(40) });
    drop(taken);
    assert_eq!(image(&machine, HUGE), before);
    assert_eq!(registration.pagemap().references(), references);
    registration.kill();
    assert_eq!(refused(0, 0), FolioError::NoPagemap { pfn: at(0) });
    drop((small, large));
    remove(registration);
}

#[test]
fn busy_is_what_mappings_do_not_explain() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let mut bits = [const { AtomicU64::new(0) }; MmIds::words(8)];
    let ids = MmIds::new(&mut bits);
    let mm = ids.take().unwrap();
    for o in [0, 9] {
        let folio = machine.associate(at(0), order(o), file(1, 0)).unwrap().folio;
        assert!(!machine.is_busy(&folio));
        let account = folio.add_mappings(mm.id(), Mapping::pte(0)).unwrap();
        assert_eq!((account.mappings, folio.count()), (1, 2));
        assert!(!machine.is_busy(&folio), "order {o}");
        let pinned = machine.try_get(at(0)).unwrap();
        assert!(machine.is_busy(&folio));
        assert_eq!(machine.place_in_file(&folio), Some(file(1, 0)), "mapping it leaves the owner's words");
        drop(pinned);
        drop(folio.remove_mappings(mm.id(), Mapping::pte(0)).unwrap());
    }
    remove(registration);
}

#[test]
fn waiting_ends_when_the_waiter_has_enough() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    assert_eq!(machine.wait_idle(frames(0, HUGE), |_| unreachable!()), Ok(Ok(())));
    let folio = machine.associate(at(64), order(6), file(1, 0)).unwrap().folio;
    let mut turns = 0;
    let busy = machine.wait_idle(frames(0, HUGE), |wait| {
        assert_eq!((wait.pfn, wait.references, wait.tries), (at(64), 1, turns));
        turns += 1;
        if turns == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(busy, Ok(Err(StillBusy { pfn: at(64), references: 1 })));
    // In the middle of a folio that begins before the range.
    let busy = machine.wait_idle(frames(100, 3), |_| ControlFlow::Break(()));
    assert_eq!(busy, Ok(Err(StillBusy { pfn: at(100), references: 1 })));
    assert_eq!(machine.wait_idle(frames(128, 3), |_| ControlFlow::Break(())), Ok(Ok(())));
    let outside = machine.wait_idle(frames(0, HUGE + 1), |_| ControlFlow::Break(()));
    assert_eq!(outside, Err(FolioError::NoPagemap { pfn: at(HUGE) }));
    drop(folio);
    assert_eq!(machine.wait_idle(frames(0, HUGE), |_| unreachable!()), Ok(Ok(())));
    remove(registration);
}

/// Wakes sleepers.
#[derive(Default)]
struct Bell {
    lock: Mutex<()>,
    rung: Condvar,
}

impl Operations for Bell {
    fn provided(&self) -> Provided {
        Provided::IDLE
    }

    fn idle(&self, _: mmkit_addr::PfnRange) {
        let _lock = self.lock.lock().unwrap();
        self.rung.notify_all();
    }
}

#[test]
fn only_files_are_waited_for() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    for kind in [Kind::Generic, Kind::Private, Kind::Coherent, Kind::PciP2pdma] {
        let registration = device(&machine, kind, &Driver::new());
        let refused = machine.wait_idle(frames(8, 4), |_| unreachable!());
        assert_eq!(refused, Err(FolioError::OtherKind { pfn: at(8), kind }));
        remove(registration);
    }
}

#[test]
fn truncation_sleeps_until_the_last_put_on_threads() {
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let bell = Arc::new(Bell::default());
    let builder = DevPagemap::builder(Kind::FsDax).range(frames(0, HUGE)).at(place()).owner(Owner(1));
    let pagemap = builder.operations(Arc::clone(&bell) as Arc<dyn Operations>).build(&X86).unwrap();
    let registration = machine.register(pagemap, &Serial).unwrap();
    for round in 0..50 {
        let o = (round % 5) as u8 + 1;
        let folio = machine.associate(at(0), order(o), file(1, round)).unwrap().folio;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                machine.wait_idle(frames(0, HUGE), |wait| {
                    let mut lock = bell.lock.lock().unwrap();
                    while !wait.is_over() {
                        lock = bell.rung.wait(lock).unwrap();
                    }
                    ControlFlow::Continue(())
                })
            });
            drop(folio);
            assert_eq!(waiter.join().unwrap(), Ok(Ok(())));
        });
        assert_eq!(state(&machine, 0), REST);
    }
    remove(registration);
}

/// Files that come and go, against a map of what they have.
#[test]
fn random_files_against_a_model() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    #[derive(Clone, Debug)]
    enum Step {
        Associate(u64, u8, u64),
        Disassociate(usize, u64),
        Drop(usize),
    }
    let steps = prop::collection::vec(
        prop_oneof![
            (0..32u64, 0..5u8, 1..4u64).prop_map(|(n, o, f)| Step::Associate(n, o, f)),
            (any::<usize>(), 1..4u64).prop_map(|(n, f)| Step::Disassociate(n, f)),
            any::<usize>().prop_map(Step::Drop),
        ],
        1..60,
    );
    /// A folio of the model: order, references, files, and the one file at first.
    #[derive(Clone, Copy, Debug)]
    struct Known {
        o: u8,
        references: usize,
        files: u32,
        name: Option<u64>,
    }
    let memory = TestFrames::with_frames(4096);
    let machine = machine(&memory);
    let registration = device(&machine, Kind::FsDax, &Driver::new());
    let (empty, none) = (image(&machine, HUGE), registration.pagemap().references());
    TestRunner::new(Config {
        cases: Config::default().cases.min(64),
        failure_persistence: None,
        ..Config::default()
    })
    .run(&steps, |steps| {
        let mut known: BTreeMap<u64, Known> = BTreeMap::new();
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Associate(number, o, name) => {
                    let first = number & !order(o).mask();
                    let size = 1u64 << o;
                    let there = known.iter().find(|&(&f, k)| f < first + size && first < f + (1 << k.o));
                    let expected = match there {
                        Some((&f, k)) if f == first && k.o == o => Ok(()),
                        Some(_) => Err(()),
                        None => Ok(()),
                    };
                    let got = machine.associate(at(first), order(o), file(name, first));
                    prop_assert_eq!(got.as_ref().map(drop).map_err(drop), expected);
                    let Ok(got) = got else { continue };
                    let entry =
                        known.entry(first).or_insert(Known { o, references: 0, files: 0, name: Some(name) });
                    entry.references += 1;
                    if entry.files == 0 {
                        (entry.files, entry.name) = (1, Some(name));
                    } else if entry.name != Some(name) {
                        (entry.files, entry.name) = (entry.files + 1, None);
                    }
                    prop_assert_eq!(got.files, entry.files);
                    held.push((first, got.folio));
                }
                Step::Disassociate(nth, name) if !held.is_empty() => {
                    let (first, folio) = &held[nth % held.len()];
                    let entry = known.get_mut(first).unwrap();
                    let right = entry.files > 0 && entry.name.is_none_or(|own| own == name);
                    let got = machine.disassociate(folio, file(name, *first));
                    if right {
                        (entry.files, entry.name) = (entry.files - 1, None);
                        prop_assert_eq!(got, Ok(entry.files));
                    } else {
                        prop_assert!(got.is_err());
                    }
                }
                Step::Drop(nth) if !held.is_empty() => {
                    let (first, folio) = held.swap_remove(nth % held.len());
                    drop(folio);
                    let entry = known.get_mut(&first).unwrap();
                    entry.references -= 1;
                    if entry.references == 0 {
                        known.remove(&first);
                    }
                }
                _ => {}
            }
            let used: u64 = known.values().map(|k| 1u64 << k.o).sum();
            prop_assert_eq!(registration.pagemap().references(), none + used);
            for (&first, k) in &known {
                let count = k.references as u32;
                prop_assert_eq!(state(&machine, first), State::Held { order: order(k.o), count });
                let (_, folio) = held.iter().find(|(f, _)| *f == first).unwrap();
                prop_assert_eq!(machine.files_of(folio), Some(k.files));
                prop_assert_eq!(machine.place_in_file(folio), k.name.map(|name| file(name, first)));
            }
        }
        drop(held);
        prop_assert_eq!(image(&machine, HUGE), empty.clone());
        Ok(())
    })
    .unwrap();
    remove(registration);
}
