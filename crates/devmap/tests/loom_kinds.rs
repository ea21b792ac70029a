// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios of devices, where two threads meet at one.
//!
//! The registry is made, and the pagemap in it, before there is a second thread; the models are of what follows.
#![cfg(mmkit_loom)]

use core::num::NonZeroU64;
use core::ops::ControlFlow;
use core::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_devmap::{FilePlace, FolioError, Kind, MappingId, Operations, Provided, Registry, kind_models};
use mmkit_page::{Folio, Frozen, MemMap, Page, PageFlags, Place, State, Uncounted};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Immovable, InsideReader, ReadSide, SpinLock};

/// A read side for a registry that does not change while there are threads.
struct Still;

// SAFETY: in these models nobody takes anything away that a reader may look at, so there is nobody to wait for.
unsafe impl ReadSide for Still {
    type Guard<'a> = ();

    fn enter(&self) {}

    fn synchronize(&self) -> Result<(), InsideReader> {
        Ok(())
    }
}

type Devices = Registry<Still, SpinLock>;
type Model = kind_models::Model<'static, Still, SpinLock>;

/// A few frames, all of them a device's. The model checker forgets it with the model: it is leaked each time.
struct Map {
    pages: Vec<Page>,
    devices: &'static Devices,
}

// SAFETY: the descriptors are in a vector that is never changed while the map exists; each frame has its own, and none is
// ever read-only.
unsafe impl MemMap for Map {
    type Read = Immovable;
    type Counts = Uncounted;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        self.pages.get(usize::try_from(pfn.get()).ok()?).map(NonNull::from)
    }

    fn release(&self, frozen: Frozen<'_, Self>) {
        kind_models::release(self.devices, frozen);
    }
}

/// What is shared by the threads of a model.
struct Shared {
    map: Map,
    model: Model,
}

impl Shared {
    fn new(kind: Kind, frames: u64, operations: Option<std::sync::Arc<dyn Operations>>) -> Arc<Self> {
        let devices: &'static Devices = Box::leak(Box::new(Registry::new(Still).unwrap()));
        let map = Map { pages: (0..frames).map(|_| Page::new()).collect(), devices };
        let range = PfnRange::new(Pfn::ZERO, frames).unwrap();
        map.initialise(range, Place::default()).unwrap();
        let model = Model::new(devices, kind, range, operations);
        model.ready_if_generic(&map);
        Arc::new(Self { map, model })
    }

    fn state(&self, frame: u64) -> State {
        self.map.enter().page(pfn(frame)).unwrap().state()
    }

    /// Takes back a reference that was kept by its frame number.
    fn kept(&self, frame: u64) -> Folio<'_, Map> {
        // SAFETY: each model keeps one, and takes it back once.
        unsafe { Folio::from_raw(&self.map, pfn(frame)) }.unwrap()
    }

    /// Nobody has a frame, and the memory is as it was before.
    fn is_at_rest(&self, frames: u64) {
        for frame in 0..frames {
            assert_eq!(self.state(frame), REST, "frame {frame}");
        }
    }
}

/// So that each model says it once.
trait Ready {
    fn ready_if_generic(&self, map: &Map);
}

impl Ready for Model {
    fn ready_if_generic(&self, map: &Map) {
        if self.pagemap().kind() == Kind::Generic {
            self.ready(map);
        }
    }
}

const REST: State = State::Free { order: Order::ZERO, parked: true };

fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn file(mapping: u64) -> FilePlace {
    FilePlace { mapping: MappingId(NonZeroU64::new(mapping).unwrap()), index: mapping + 100 }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    check_bounded(3, model);
}

fn check_bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A user puts the last reference of a folio that he was handed, while its device is taken away.
fn last_put_of_generic_against_retire() {
    check(|| {
        let shared = Shared::new(Kind::Generic, 1, None);
        let handed = kind_models::hand_out(shared.map.devices, &shared.map, pfn(0)).unwrap();
        let _ = handed.into_raw();
        let other = Arc::clone(&shared);
        let user = thread::spawn(move || drop(other.kept(0)));
        shared.model.kill();
        shared.model.retire(&shared.map);
        user.join().unwrap();
        assert!(shared.model.is_drained(), "the pagemap's references are gone, whoever put them");
        shared.is_at_rest(1);
    });
}

#[test]
fn last_put_of_generic_against_retire_2_threads_1_frame_3_preemptions() {
    last_put_of_generic_against_retire();
}

#[test]
fn a_folio_that_is_ready_too_late_is_caught() {
    must_fail("generic-ready-no-recheck", last_put_of_generic_against_retire);
    must_fail("generic-ready-no-fence", last_put_of_generic_against_retire);
    must_fail("generic-retire-no-fence", last_put_of_generic_against_retire);
}

/// The pagemap's reference is wanted by a user, and by who takes the device away.
fn hand_out_against_retire() {
    check(|| {
        let shared = Shared::new(Kind::Generic, 1, None);
        let other = Arc::clone(&shared);
        let user =
            thread::spawn(move || match kind_models::hand_out(other.map.devices, &other.map, pfn(0)) {
                Ok(folio) => drop(folio),
                Err(error) => {
                    let expected = [FolioError::Busy { pfn: pfn(0) }, FolioError::Gone { pfn: pfn(0) }];
                    assert!(expected.contains(&error), "{error}");
                }
            });
        shared.model.kill();
        shared.model.retire(&shared.map);
        user.join().unwrap();
        assert!(shared.model.is_drained());
        shared.is_at_rest(1);
    });
}

#[test]
fn hand_out_against_retire_2_threads_1_frame_3_preemptions() {
    hand_out_against_retire();
}

#[test]
fn a_reference_that_two_take_is_caught() {
    must_fail("generic-take-look-then-store", hand_out_against_retire);
}

/// Two faults name one folio. (Different names, so that a mixture of both can be told.)
fn two_names() {
    check(|| {
        let shared = Shared::new(Kind::Generic, 1, None);
        let other = Arc::clone(&shared);
        let fault = |shared: &Shared, mapping| {
            let folio = shared.map.try_get(pfn(0)).unwrap();
            let first = kind_models::name(&folio, file(mapping));
            let place = kind_models::place_of(&folio);
            assert!(place.is_none() || [file(1), file(2)].contains(&place.unwrap()), "a mixture");
            assert!(!first || place == Some(file(mapping)), "overwritten");
            first
        };
        let second = thread::spawn(move || fault(&other, 2));
        let one = fault(&shared, 1);
        let two = second.join().unwrap();
        assert!(one != two, "one of them is the first");
    });
}

#[test]
fn two_faults_name_a_folio_once_2_threads_3_preemptions() {
    two_names();
}

#[test]
fn names_that_are_mixed_or_read_early_are_caught() {
    must_fail("generic-name-look-only", two_names);
    must_fail("generic-name-relaxed", two_names);
}

/// The last reference on a folio of two frames is put, while another file maps the same frames.
fn last_put_against_association() {
    check_bounded(2, || {
        let shared = Shared::new(Kind::FsDax, 2, None);
        let first =
            kind_models::associate(shared.map.devices, &shared.map, pfn(0), order(1), file(1)).unwrap();
        let _ = first.folio.into_raw();
        let other = Arc::clone(&shared);
        let user = thread::spawn(move || drop(other.kept(0)));
        match kind_models::associate(shared.map.devices, &shared.map, pfn(0), order(1), file(2)) {
            Ok(got) => {
                assert_eq!(got.files, if got.made { 1 } else { 2 });
                let place = kind_models::place_of(&got.folio);
                assert_eq!(place, got.made.then(|| file(2)));
                assert_eq!((got.folio.order(), shared.map.head(pfn(1))), (order(1), Some(pfn(0))));
                assert!(shared.model.pagemap().references() >= 4, "the memory's own, and the folio's");
            }
            Err(error) => assert!(matches!(error, FolioError::Busy { .. }), "{error}"),
        }
        user.join().unwrap();
        shared.is_at_rest(2);
        assert_eq!(shared.model.pagemap().references(), 2, "the memory's own");
    });
}

#[test]
fn last_put_against_association_2_threads_2_frames_2_preemptions() {
    last_put_against_association();
}

#[test]
fn a_frame_that_is_lost_to_an_association_is_caught() {
    must_fail("blocks-join-no-undo", last_put_against_association);
}

/// A last put while it is tried again: what it puts is not taken for lost.
fn tried_again() {
    check(|| {
        let shared = Shared::new(Kind::Generic, 2, None);
        for frame in 0..2 {
            let _ = kind_models::hand_out(shared.map.devices, &shared.map, pfn(frame)).unwrap().into_raw();
        }
        shared.model.kill();
        shared.model.retire(&shared.map);
        // One of them goes past the pagemap.
        let frozen = shared.kept(1).put().unwrap();
        drop(frozen.into_free().unwrap());
        let other = Arc::clone(&shared);
        let last = thread::spawn(move || drop(other.kept(0)));
        shared.model.put_lost(&shared.map);
        last.join().unwrap();
        shared.model.put_lost(&shared.map);
        assert_eq!(shared.model.pagemap().references(), 0);
        shared.is_at_rest(2);
    });
}

#[test]
fn a_last_put_against_a_second_try_2_threads_2_frames_3_preemptions() {
    tried_again();
}

#[test]
fn a_reference_that_is_put_twice_is_caught() {
    must_fail("generic-rest-count-late", tried_again);
}

/// Two files map frames that nobody has.
fn two_associations() {
    check(|| {
        let shared = Shared::new(Kind::FsDax, 1, None);
        let other = Arc::clone(&shared);
        let associate = |shared: &Shared, mapping| {
            let got =
                kind_models::associate(shared.map.devices, &shared.map, pfn(0), order(0), file(mapping));
            got.map(|got| {
                let made = got.made;
                let _ = got.folio.into_raw();
                made
            })
        };
        let second = thread::spawn(move || associate(&other, 2));
        let one = associate(&shared, 1);
        let two = second.join().unwrap();
        let made = [&one, &two].into_iter().filter(|got| matches!(got, Ok(true))).count();
        let had = [&one, &two].into_iter().filter(|got| got.is_ok()).count();
        for error in [one, two].into_iter().filter_map(Result::err) {
            assert!(matches!(error, FolioError::Busy { .. } | FolioError::Conflict { .. }), "{error}");
        }
        assert!(made <= 1, "one folio is made");
        if had > 0 {
            let folio = shared.kept(0);
            assert_eq!((made, folio.count(), kind_models::files_of(&folio)), (1, had as u32, had as u32));
            let _ = folio.into_raw();
        }
        for _ in 0..had {
            // SAFETY: one of those that were kept.
            drop(unsafe { Folio::from_raw(&shared.map, pfn(0)) });
        }
        shared.is_at_rest(1);
    });
}

#[test]
fn two_associations_make_one_folio_2_threads_1_frame_3_preemptions() {
    two_associations();
}

#[test]
fn a_frame_that_two_take_is_caught() {
    must_fail("page-claim-look-then-store", two_associations);
}

/// A second and a third file, and one that goes.
fn files_are_counted() {
    check(|| {
        let shared = Shared::new(Kind::FsDax, 1, None);
        let associate = |shared: &Shared, mapping| {
            kind_models::associate(shared.map.devices, &shared.map, pfn(0), order(0), file(mapping))
                .unwrap()
                .folio
                .into_raw()
        };
        let _ = associate(&shared, 1);
        let other = Arc::clone(&shared);
        let second = thread::spawn(move || {
            let _ = associate(&other, 2);
        });
        let folio = shared.map.try_get(pfn(0)).unwrap();
        let _ = associate(&shared, 3);
        kind_models::disassociate(shared.map.devices, &folio, file(3)).unwrap();
        second.join().unwrap();
        assert_eq!((kind_models::files_of(&folio), kind_models::place_of(&folio)), (2, None));
    });
}

#[test]
fn files_are_counted_2_threads_3_preemptions() {
    files_are_counted();
}

#[test]
fn a_file_that_is_not_counted_is_caught() {
    must_fail("fsdax-share-load-then-store", files_are_counted);
}

/// A folio that no file has, though there is a reference.
fn without_files(shared: &Shared) -> Folio<'_, Map> {
    let devices = shared.map.devices;
    let folio = kind_models::associate(devices, &shared.map, pfn(0), order(0), file(1)).unwrap().folio;
    kind_models::disassociate(devices, &folio, file(1)).unwrap();
    folio
}

/// Two files have the folio, one after the other, while somebody asks where it is: in either of the two threads, since a
/// spawned one does not overtake in all ways that there are.
fn named_again() {
    fn files(shared: &Shared) {
        let devices = shared.map.devices;
        let got = kind_models::associate(devices, &shared.map, pfn(0), order(0), file(2)).unwrap();
        kind_models::disassociate(devices, &got.folio, file(2)).unwrap();
        let last = kind_models::associate(devices, &shared.map, pfn(0), order(0), file(3)).unwrap();
        assert_eq!((got.made, last.made, last.files), (false, false, 1));
    }
    fn look(shared: &Shared) {
        let folio = shared.map.try_get(pfn(0)).unwrap();
        let place = kind_models::place_of(&folio);
        assert!([None, Some(file(2)), Some(file(3))].contains(&place), "{place:?} is none of them");
    }
    for (first, second) in [(files as fn(&Shared), look as fn(&Shared)), (look, files)] {
        check(move || {
            let shared = Shared::new(Kind::FsDax, 1, None);
            let _ = without_files(&shared).into_raw();
            let other = Arc::clone(&shared);
            let thread = thread::spawn(move || second(&other));
            first(&shared);
            thread.join().unwrap();
            assert_eq!(kind_models::place_of(&shared.kept(0)), Some(file(3)));
        });
    }
}

#[test]
fn a_folio_that_is_named_again_2_threads_3_preemptions() {
    named_again();
}

#[test]
fn a_place_that_is_half_another_is_caught() {
    must_fail("fsdax-place-torn", named_again);
    must_fail("fsdax-name-relaxed", named_again);
}

/// Two files find a folio that none has: it has a place only while one of them has it.
fn two_name_it() {
    check(|| {
        let shared = Shared::new(Kind::FsDax, 1, None);
        let _ = without_files(&shared).into_raw();
        let associate = |shared: &Shared, mapping| {
            let devices = shared.map.devices;
            let got = kind_models::associate(devices, &shared.map, pfn(0), order(0), file(mapping));
            drop(got.unwrap().folio);
        };
        let other = Arc::clone(&shared);
        let second = thread::spawn(move || associate(&other, 2));
        associate(&shared, 3);
        second.join().unwrap();
        let folio = shared.kept(0);
        assert_eq!((kind_models::files_of(&folio), kind_models::place_of(&folio)), (2, None));
        // And once more, when both are gone.
        for mapping in [2, 3] {
            kind_models::disassociate(shared.map.devices, &folio, file(mapping)).unwrap();
        }
        associate(&shared, 4);
        assert_eq!((kind_models::files_of(&folio), kind_models::place_of(&folio)), (1, Some(file(4))));
    });
}

#[test]
fn two_files_name_a_folio_2_threads_3_preemptions() {
    two_name_it();
}

#[test]
fn a_place_of_two_files_is_caught() {
    must_fail("fsdax-name-untouched", two_name_it);
}

/// A file system waits until the last reference is put. It sleeps, and nothing but the put wakes it: so when the user is
/// done, waiting has to be over.
fn waiter_against_last_put() {
    check(|| {
        let shared = Shared::new(Kind::FsDax, 1, None);
        let folio =
            kind_models::associate(shared.map.devices, &shared.map, pfn(0), order(0), file(1)).unwrap().folio;
        let _ = folio.into_raw();
        let other = Arc::clone(&shared);
        let mut user = Some(thread::spawn(move || drop(other.kept(0))));
        let range = PfnRange::new(Pfn::ZERO, 1).unwrap();
        let waited = kind_models::wait_idle(shared.model.pagemap(), &shared.map, range, |wait| {
            if !wait.is_over() {
                user.take().expect("it was woken before").join().unwrap();
                assert!(wait.is_over(), "it sleeps for ever");
            }
            ControlFlow::Continue(())
        });
        assert_eq!(waited, Ok(()));
        assert!(matches!(shared.state(0), State::Free { .. }), "no user is left");
        if let Some(user) = user {
            user.join().unwrap();
        }
        shared.is_at_rest(1);
    });
}

#[test]
fn a_waiter_sleeps_until_the_last_put_2_threads_3_preemptions() {
    waiter_against_last_put();
}

#[test]
fn a_waiter_that_sleeps_for_ever_is_caught() {
    must_fail("fsdax-idle-first", waiter_against_last_put);
    must_fail("idle-look-then-count", waiter_against_last_put);
}

/// What a driver keeps.
struct Told(std::sync::atomic::AtomicBool);

impl Operations for Told {
    fn provided(&self) -> Provided {
        Provided::FOLIO_FREE
    }

    fn folio_free(&self, _: PfnRange) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Once a pagemap has drained its folios rest, and their driver knows.
fn last_put_of_a_driver_against_drain() {
    check(|| {
        let told = std::sync::Arc::new(Told(std::sync::atomic::AtomicBool::new(false)));
        let shared = Shared::new(Kind::Private, 2, Some(std::sync::Arc::clone(&told) as _));
        let folio = kind_models::allocate(shared.map.devices, &shared.map, pfn(0), order(1)).unwrap();
        let _ = folio.into_raw();
        let other = Arc::clone(&shared);
        let user = thread::spawn(move || drop(other.kept(0)));
        shared.model.kill();
        if shared.model.is_drained() {
            shared.is_at_rest(2);
            assert!(told.0.load(std::sync::atomic::Ordering::Relaxed));
        }
        user.join().unwrap();
        assert!(shared.model.is_drained());
    });
}

#[test]
fn last_put_of_a_driver_against_drain_2_threads_2_frames_3_preemptions() {
    last_put_of_a_driver_against_drain();
}

#[test]
fn a_pagemap_that_drains_too_early_is_caught() {
    must_fail("driver-put-first", last_put_of_a_driver_against_drain);
}

/// Two bad frames are kept at once.
fn two_bad_frames() {
    check(|| {
        let shared = Shared::new(Kind::FsDax, 2, None);
        let other = Arc::clone(&shared);
        let keep = |shared: &Shared, frame| {
            let mut frozen = shared.map.claim(pfn(frame)).unwrap().allocate();
            frozen.insert_at(0..1, PageFlags::HWPOISON);
            shared.model.keep_bad(frozen);
        };
        let second = thread::spawn(move || keep(&other, 1));
        keep(&shared, 0);
        second.join().unwrap();
        shared.model.forgive(&shared.map);
        shared.is_at_rest(2);
    });
}

#[test]
fn two_bad_frames_are_kept_2_threads() {
    two_bad_frames();
}

#[test]
fn a_bad_frame_that_is_lost_is_caught() {
    must_fail("bad-push-store", two_bad_frames);
}
