// SPDX-License-Identifier: MIT OR Apache-2.0
//! Behaviour of Linux and of this kit, one numbered case each.
#![cfg(not(mmkit_loom))]

mod common;

use std::cell::RefCell;

use common::*;
use mmkit_addr::{PhysAddr, VirtAddr};
use mmkit_folio::{MmId, PIN_BIAS, Rmap};
use mmkit_gup::*;
use mmkit_page::{MemMap, PageFlags, PinRefusal};
use mmkit_sync::atomic::Ordering::Relaxed;

const PIN_W: Flags = Flags::PIN.union(Flags::WRITE);
const LONG_W: Flags = PIN_W.union(Flags::LONGTERM);

fn request(flags: Flags) -> Request {
    Request::new(flags).unwrap()
}

/// Holds pages into extents: what came of it, and the extents as (first frame, frames).
fn held(space: &Space<'_>, first: u64, pages: u64, flags: Flags) -> (Result<Held, Refusal>, Vec<(u64, u32)>) {
    let mut buffer = [Extent::EMPTY; 32];
    let mut sink = Extents::new(&mut buffer);
    let held = hold(space, space.span(first, pages), request(flags), &mut sink);
    (held, sink.extents().iter().map(|extent| (extent.pfn.get(), extent.frames)).collect())
}

/// The same, where everything is to be held.
fn all(space: &Space<'_>, first: u64, pages: u64, flags: Flags) -> Vec<(u64, u32)> {
    let (held, extents) = held(space, first, pages, flags);
    let held = held.unwrap();
    assert_eq!((held.pages, held.stopped, held.next), (pages, None, va(first + pages)));
    extents
}

/// Gives back what `held` or `all` got, of that kind.
fn release(space: &Space<'_>, extents: &[(u64, u32)], flags: Flags) -> Released {
    let kind =
        if flags.contains(Flags::PIN) { Release::pins(space.map) } else { Release::references(space.map) };
    extents.iter().fold(Released::default(), |before, &(first, frames)| {
        // SAFETY: each test gives back what it holds, or asks for more than the counts allow.
        let one = unsafe { kind.range(pfn(first), frames.into()) };
        Released { frames: before.frames + one.frames, refused: before.refused.or(one.refused) }
    })
}

#[test]
fn scenario_55_pins_and_references_of_large_and_small_folios() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    space.map_anon(8, 16, 0, WRITE);
    // 8 mappings, then 5 pins.
    let large = all(&space, 2, 5, PIN_W);
    assert_eq!(large, [(10, 5)]);
    assert_eq!(space.counts(8), (8 + 5, 5));
    let small = all(&space, 8, 1, PIN_W);
    assert_eq!(space.counts(16), (1 + PIN_BIAS, 1));
    let again = all(&space, 8, 1, PIN_W);
    assert_eq!(space.counts(16), (1 + 2 * PIN_BIAS, 2));
    // Of both kinds at once.
    let got = all(&space, 0, 9, Flags::GET);
    assert_eq!(got, [(8, 9)], "one extent of two folios");
    assert_eq!((space.counts(8), space.counts(16)), ((8 + 5 + 8, 5), (2 + 2 * PIN_BIAS, 2)));
    for (extents, flags) in [(&large, PIN_W), (&small, PIN_W), (&got, Flags::GET), (&again, PIN_W)] {
        let released = release(&space, extents, flags);
        let frames = extents.iter().map(|&(_, frames)| u64::from(frames)).sum();
        assert_eq!(released, Released { frames, refused: None });
    }
    assert_eq!((space.counts(8), space.counts(16)), ((8, 0), (1, 0)));
    // So many references look like a pin.
    let folio = space.folio(16);
    assert!(!folio.maybe_pinned());
    folio.take_raw(PIN_BIAS).unwrap();
    assert!(folio.maybe_pinned());
    // SAFETY: taken just now.
    assert!(unsafe { mmkit_page::Folio::put_raw(&map, pfn(16), PIN_BIAS) }.is_none());
}

#[test]
fn scenario_57_the_page_of_zeroes_counts_references_and_no_pins() {
    let mut pages = descriptors(16);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_zero(0, 5);
    space.map_zero(1, 5);
    let before = space.counts(5);
    let pinned = all(&space, 0, 2, Flags::PIN);
    assert_eq!(pinned, [(5, 1), (5, 1)]);
    assert_eq!(space.counts(5), before);
    assert_eq!(release(&space, &pinned, Flags::PIN), Released { frames: 2, refused: None });
    assert_eq!(space.counts(5), before);
    let got = all(&space, 0, 2, Flags::GET);
    assert_eq!(space.counts(5).0, before.0 + 2);
    let _ = release(&space, &got, Flags::GET);
    assert_eq!(space.counts(5), before);
    // To write, and for long: a page of one's own.
    assert_ne!(all(&space, 0, 1, PIN_W)[0].0, 5);
    assert_ne!(all(&space, 1, 1, Flags::PIN | Flags::LONGTERM)[0].0, 5);
}

#[test]
fn scenario_59_what_changed_since_it_was_held_is_given_back() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    for (changed, kept) in [(5, 5), (0, 0), (7, 7)] {
        let mut space = Space::new(&map, 3, 1).anonymous();
        space.map_anon(0, 8, 3, WRITE);
        // The second time that the count is asked for, pages are held and not looked at again yet.
        space.hook = Some(Box::new(move |space, name, before| {
            if (name, before) == ("seq", 1) {
                assert_eq!(space.counts(8), (8 + 8, 8));
                space.entry(changed).store(0, Relaxed);
            }
        }));
        let (got, extents) = held(&space, 0, 8, PIN_W | Flags::FAST_ONLY);
        let got = got.unwrap();
        assert_eq!((got.pages, got.stopped), (kept, Some(Refusal::NotMapped { va: va(kept) })));
        assert_eq!(space.counts(8), (8 + kept as u32, kept as u32));
        let _ = release(&space, &extents, PIN_W);
        space.hook = None;
        space.set(0, 8, 8, WRITE);
        (0..8).for_each(|page| space.zap(page));
    }
    // The table went, with its entries in it.
    let mut space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 3, WRITE);
    space.hook = Some(Box::new(|space, name, before| {
        if (name, before) == ("seq", 1) {
            space.upper[0].store(0, Relaxed);
        }
    }));
    let (got, _) = held(&space, 0, 8, PIN_W | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, space.counts(8)), (0, (8, 0)));
    // A fork at work, and one that came and went.
    space.hook = None;
    space.set(0, 8, 8, WRITE);
    let writer = space.seq.try_write().unwrap();
    let (got, _) = held(&space, 0, 8, PIN_W | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, space.counts(8)), (0, (8, 0)));
    let (got, extents) = held(&space, 0, 8, Flags::GET | Flags::FAST_ONLY);
    assert_eq!(got.unwrap().pages, 8, "references do not mind");
    let _ = release(&space, &extents, Flags::GET);
    drop(writer);
    space.calls.borrow_mut().clear();
    space.hook = Some(Box::new(|space, name, before| {
        if (name, before) == ("seq", 1) {
            assert_eq!(space.counts(8), (8 + 8, 8));
            drop(space.seq.try_write().unwrap());
        }
    }));
    let (got, _) = held(&space, 0, 8, PIN_W | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, space.counts(8)), (0, (8, 0)));
}

#[test]
fn scenario_60_what_was_had_without_locks_is_kept_when_the_rest_fails() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    for page in 0..5 {
        space.map_anon(page, 8 + page, 0, WRITE);
    }
    for error in [FaultError::NoMemory, FaultError::Bad, FaultError::Poisoned] {
        space.fault_error.set(Some(error));
        let (got, extents) = held(&space, 0, 8, PIN_W);
        let got = got.unwrap();
        assert_eq!((got.pages, got.next), (5, va(5)));
        assert_eq!(got.stopped, Some(Refusal::Fault { va: va(5), error }));
        assert_eq!(release(&space, &extents, PIN_W).frames, 5);
        // The first page is one that fails: an error, and nothing held.
        assert_eq!(held(&space, 5, 3, PIN_W).0, Err(Refusal::Fault { va: va(5), error }));
    }
    space.fault_error.set(None);
    assert_eq!(all(&space, 0, 8, PIN_W).iter().map(|&(_, frames)| frames).sum::<u32>(), 8);
}

#[test]
fn scenario_61_holes_end_a_request_and_empty_ones_are_complete() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4);
    space.area_at(0, 3, ANON_RW);
    space.area_at(4, 28, ANON_RW);
    for flags in [PIN_W, Flags::GET, Flags::PIN | Flags::LONGTERM] {
        let (got, extents) = held(&space, 0, 8, flags);
        let got = got.unwrap();
        assert_eq!((got.pages, got.next), (3, va(3)));
        assert_eq!(got.stopped, Some(Refusal::NoArea { va: va(3) }));
        assert_eq!(release(&space, &extents, flags), Released { frames: 3, refused: None });
        assert_eq!(held(&space, 3, 2, flags).0, Err(Refusal::NoArea { va: va(3) }));
        let empty = held(&space, 3, 0, flags).0.unwrap();
        assert_eq!((empty.pages, empty.stopped, empty.next), (0, None, va(3)));
    }
    // All or nothing, of the same range.
    let mut buffer = [Extent::EMPTY; 8];
    let pinned = Pinned::all(&map, &space, space.span(0, 8), request(PIN_W), Extents::new(&mut buffer));
    assert_eq!(pinned.err(), Some(Refusal::NoArea { va: va(3) }));
    assert!((0..3).all(|page| space.counts(space.frame(page)) == (1, 0)));
}

#[test]
fn scenario_62_force_reaches_private_areas_only() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 3);
    let private = ANON_RW - AreaFlags::WRITE;
    space.area_at(0, 8, private);
    space.area_at(8, 8, (private - AreaFlags::ANON) | AreaFlags::SHARED);
    space.area_at(16, 8, AreaFlags::MAY_READ);
    space.map_anon(0, 8, 0, 0);
    space.fork(0, 8);
    space.map_file(8, 9, 0, 0, FileKind::Memory);
    assert_eq!(held(&space, 0, 1, PIN_W).0, Err(Refusal::NotWritable { va: va(0) }));
    let forced = all(&space, 0, 1, PIN_W | Flags::FORCE);
    assert_ne!(forced[0].0, 8, "the page was shared: this is a copy");
    assert_eq!(space.frame(0), forced[0].0);
    assert_eq!(space.entry(0).load(Relaxed) & WRITE, 0, "the area still does not allow it");
    assert!(space.faults.borrow().iter().all(|(_, flags)| flags.contains(FaultFlags::FORCE)));
    // Its own already: no fault.
    let faults = space.faults.borrow().len();
    assert_eq!(all(&space, 0, 1, PIN_W | Flags::FORCE), forced);
    assert_eq!(space.faults.borrow().len(), faults);
    // Somebody waits for the write.
    space.entry(0).fetch_or(WATCHED, Relaxed);
    assert_eq!(all(&space, 0, 1, PIN_W | Flags::FORCE), forced);
    assert!(space.faults.borrow().len() > faults);
    // Nothing is forced that is shared, nor read that may never be.
    assert_eq!(held(&space, 8, 1, PIN_W | Flags::FORCE).0, Err(Refusal::NotWritable { va: va(8) }));
    assert_eq!(held(&space, 16, 1, Flags::GET).0, Err(Refusal::NotReadable { va: va(16) }));
    space.map_anon(16, 10, 0, 0);
    // Without locks the area is not seen: what is mapped can be read.
    assert_eq!(all(&space, 16, 1, Flags::GET | Flags::FORCE), [(10, 1)]);
}

/// Pages 0 and 1 of frames that have to stay movable, and page 2 of one that has not: frames from `first` on.
fn movable<'m>(map: &'m Map<'m>, first: u64) -> Space<'m> {
    let space = Space::new(map, 3, 1).anonymous();
    for page in 0..3 {
        space.map_anon(page, first + page, 0, WRITE);
    }
    for frame in [first, first + 1] {
        space.folio(frame).insert(PageFlags::MOVABLE);
    }
    space
}

#[test]
fn scenario_63_long_pins_move_what_is_movable_first() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = movable(&map, 8);
    assert_eq!(all(&space, 0, 3, PIN_W), [(8, 3)], "for a short time it may stay");
    let _ = release(&space, &[(8, 3)], PIN_W);
    let pinned = all(&space, 0, 3, LONG_W);
    assert_eq!((space.frame(2), space.called("migrate")), (10, 1));
    let frames: Vec<u64> =
        pinned.iter().flat_map(|&(first, frames)| first..first + u64::from(frames)).collect();
    assert_eq!(frames, [0, 1, 2].map(|page| space.frame(page)));
    assert!([8, 9].iter().all(|&frame| !frames.contains(&frame) && map.try_get(pfn(frame)).is_err()), "free");
    let _ = release(&space, &pinned, LONG_W);

    // Somebody else has a reference: nothing of the request is pinned.
    let space = movable(&map, 16);
    let extra = space.folio(17);
    assert_eq!(held(&space, 0, 3, LONG_W).0, Err(Refusal::Migrate(MigrateError::Busy)));
    assert!((0..3).all(|page| !space.folio(space.frame(page)).maybe_pinned()));
    assert!(space.isolated.borrow().is_empty(), "nothing stays set aside");
    drop(extra);
    // No memory to move to.
    space.no_memory.set(true);
    space.folio(18).insert(PageFlags::MOVABLE);
    assert_eq!(held(&space, 2, 1, LONG_W).0, Err(Refusal::Migrate(MigrateError::NoMemory)));
    assert_eq!(space.counts(18), (1, 0));
    space.no_memory.set(false);
    // In some processor's list, for a while and for ever.
    space.undrained.set(3);
    assert_eq!(all(&space, 2, 1, LONG_W).len(), 1);
    assert!(space.called("drain") >= 3);
    let space = movable(&map, 24);
    space.undrained.set(u32::MAX);
    assert_eq!(held(&space, 0, 2, LONG_W).0, Err(Refusal::Migrate(MigrateError::Busy)));
    assert_eq!((space.counts(24), space.called("migrate")), ((1, 0), 0));
}

#[test]
fn scenario_63_long_pins_of_other_memory() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4);
    let shared = (ANON_RW - AreaFlags::ANON) | AreaFlags::SHARED;
    space.area_at(0, 8, shared | AreaFlags::TRACKED);
    space.area_at(8, 8, shared | AreaFlags::FS_DAX);
    space.area_at(16, 8, shared);
    space.area_at(24, 8, shared - AreaFlags::SHARED);
    // A file that is written back: not to be written for long, with locks or without.
    space.map_file(0, 8, 0, WRITE, FileKind::Tracked);
    assert_eq!(held(&space, 0, 1, LONG_W).0, Err(Refusal::TrackedFile { va: va(0) }));
    let (got, _) = held(&space, 0, 1, LONG_W | Flags::FAST_ONLY);
    assert_eq!(got.unwrap().pages, 0);
    assert_eq!(all(&space, 0, 1, PIN_W), [(8, 1)]);
    assert_eq!(all(&space, 0, 1, Flags::PIN | Flags::LONGTERM), [(8, 1)]);
    // What was cut off cannot be told from such a file.
    space.map_file(16, 9, 0, WRITE, FileKind::Unknown);
    assert_eq!(held(&space, 16, 1, LONG_W).0, Err(Refusal::TrackedFile { va: va(16) }));
    // Shared memory is memory.
    space.map_file(17, 10, 0, WRITE, FileKind::Memory);
    assert_eq!(all(&space, 17, 1, LONG_W), [(10, 1)]);
    // Secret memory is nobody's, and the walk without locks sees it too.
    space.map_file(18, 11, 0, WRITE, FileKind::Secret);
    for flags in [PIN_W, Flags::GET] {
        assert_eq!(held(&space, 18, 1, flags).0, Err(Refusal::Secret { va: va(18) }));
        let (got, _) = held(&space, 18, 1, flags | Flags::FAST_ONLY);
        assert_eq!((got.unwrap().pages, space.counts(11)), (0, (2, 0)), "the mapping's and the file's");
    }
    assert_eq!(held(&space, 8, 1, LONG_W).0, Err(Refusal::FileSystemDax { va: va(8) }));
    // A private mapping that is read for long: the page becomes the address space's own, so that it sees what is written.
    space.map_file(24, 12, 0, 0, FileKind::Tracked);
    let pinned = all(&space, 24, 1, Flags::PIN | Flags::LONGTERM);
    assert_eq!(pinned, [(space.frame(24), 1)]);
    assert_ne!(pinned[0].0, 12);
    // A peer's memory: only to those who can deal with it, and never for long.
    space.map_file(19, 13, 0, WRITE, FileKind::Memory);
    space.folio(13).insert(PageFlags::DEVICE);
    space.devices.borrow_mut().insert(13, PinRefusal::Peer);
    let peer = Refusal::Policy { pfn: pfn(13), reason: PinRefusal::Peer };
    assert_eq!(held(&space, 19, 1, PIN_W).0, Err(peer));
    assert_eq!(all(&space, 19, 1, PIN_W | Flags::PEER), [(13, 1)]);
    assert_eq!(Request::new(LONG_W | Flags::PEER).unwrap_err().rule, Rule::PeersAreNotForLong);
}

#[test]
fn scenario_64_reading_pins_of_shared_pages_make_them_the_readers_own() {
    let mut pages = descriptors(32);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 1).anonymous();
    space.map_anon(0, 8, 0, WRITE);
    space.fork(0, 8);
    let (got, _) = held(&space, 0, 1, Flags::PIN | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, space.counts(8)), (0, (2, 0)));
    assert_eq!(all(&space, 0, 1, Flags::GET), [(8, 1)], "a reference does not look at the contents");
    let _ = release(&space, &[(8, 1)], Flags::GET);
    let pinned = all(&space, 0, 1, Flags::PIN);
    let frame = pinned[0].0;
    assert_ne!(frame, 8);
    assert!(space.faults.borrow().iter().all(|(_, flags)| flags.contains(FaultFlags::UNSHARE)));
    // The owner writes: the fault keeps the page, so the pin sees it.
    space.fault(va(0), FaultFlags::WRITE).unwrap();
    assert_eq!(space.frame(0), frame);
    assert_ne!(space.entry(0).load(Relaxed) & WRITE, 0);
    // A fork copies it early.
    let folio = space.folio(frame);
    let forked = folio.fork(MmId::new(2).unwrap(), mmkit_folio::Mapping::pte(0));
    assert!(matches!(forked, Err(mmkit_folio::MapError::PinnedExclusive { .. })), "{forked:?}");
}

#[test]
fn scenario_65_a_run_ends_where_the_permission_changes() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 4, 2).anonymous();
    space.map_anon(0, 16, 4, WRITE);
    let runs = |flags| {
        let (mut sink, request) = (Runs(Vec::new()), request(flags));
        let held = hold(&space, space.span(0, 16), request, &mut sink).unwrap();
        let runs: Vec<_> = sink.0.iter().map(|run| (run.frames, run.writable)).collect();
        let extents: Vec<_> = sink.0.iter().map(|run| (run.pfn.get(), run.frames)).collect();
        let _ = release(&space, &extents, flags);
        (held.pages, runs)
    };
    assert_eq!(runs(PIN_W), (16, vec![(16, true)]));
    assert_eq!(runs(Flags::GET), (16, vec![(16, true)]));
    for page in [3, 4, 9] {
        space.entry(page).fetch_and(!WRITE, Relaxed);
    }
    let broken = vec![(3, true), (2, false), (4, true), (1, false), (6, true)];
    assert_eq!(runs(Flags::GET), (16, broken.clone()));
    assert_eq!(runs(Flags::PIN), (16, broken));
    assert_eq!(runs(PIN_W).0, 16, "faults make them writable");
    // Accessed bits are no reason.
    space.entry(7).fetch_or(ACCESSED, Relaxed);
    assert_eq!(runs(PIN_W), (16, vec![(16, true)]));
    // Read-only, and one page of the run is not exclusive: the run ends before it, and it is looked at by itself.
    space.set(0, 16, 16, 0);
    space.folio(16).try_share(mmkit_folio::Mapping::pte(6)).unwrap();
    let (got, extents) = held(&space, 0, 16, Flags::PIN | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, extents), (6, vec![(16, 6)]));
    assert_eq!(space.counts(16), (16 + 6, 6));
}

/// A sink that takes runs as they come.
struct Runs(Vec<Run>);

impl Sink for Runs {
    fn room(&self) -> u64 {
        u64::MAX
    }

    fn push(&mut self, run: Run) -> u32 {
        self.0.push(run);
        run.frames
    }
}

#[test]
fn scenario_67_a_range_that_begins_and_ends_within_folios() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    for n in 0..4 {
        space.map_anon(n * 8, 16 + n * 8, 3, WRITE);
    }
    assert_eq!(all(&space, 0, 32, PIN_W), [(16, 32)]);
    // 3 of the first, all of two, 5 of the last.
    assert_eq!(release(&space, &[(21, 3 + 16 + 5)], PIN_W), Released { frames: 24, refused: None });
    let pins: Vec<_> = [16, 24, 32, 40].map(|frame| space.counts(frame).1).into();
    assert_eq!(pins, [5, 0, 0, 3]);
    assert_eq!(release(&space, &[(16, 5), (45, 3)], PIN_W).frames, 8);
    assert!([16, 24, 32, 40].iter().all(|&frame| space.counts(frame) == (8, 0)));
}

#[test]
fn scenario_69_a_registered_buffer_keeps_one_pin_for_each_folio() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    for n in 0..4 {
        space.map_huge(n * 8, 16 + n * 8, WRITE);
    }
    let mut buffer = [FolioHolds::EMPTY; 8];
    let mut sink = Folios::new(&mut buffer);
    let held = hold(&space, space.span(0, 32), request(LONG_W), &mut sink).unwrap();
    assert_eq!((held.pages, sink.folios().len()), (32, 4));
    let pins = Release::pins(&map);
    // SAFETY: the walk pinned these.
    let back = unsafe { pins.coalesce(sink.folios_mut()) };
    assert_eq!(back, Released { frames: 4 * 7, refused: None });
    assert!(sink.folios().iter().all(|folio| (folio.pages, folio.holds) == (8, 1)));
    assert!([16, 24, 32, 40].iter().all(|&frame| space.counts(frame) == (1 + 1, 1)));
    // SAFETY: what is left of them.
    assert_eq!(unsafe { pins.folios(sink.folios()) }, Released { frames: 4, refused: None });
    assert!([16, 24, 32, 40].iter().all(|&frame| space.counts(frame) == (1, 0)));
}

/// Remembers whom it marked.
struct Marker<'a>(&'a RefCell<Vec<u64>>);

impl<M: MemMap> Dirty<M> for Marker<'_> {
    fn mark(&self, folio: &mmkit_page::Folio<'_, M>) {
        self.0.borrow_mut().push(folio.pfn().get());
        folio.insert(PageFlags::DIRTY);
    }
}

#[test]
fn scenario_70_folios_are_marked_once_and_only_if_they_are_clean() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 4).anonymous();
    for n in 0..3 {
        space.map_anon(n * 8, 16 + n * 8, 3, WRITE);
    }
    space.folio(24).insert(PageFlags::DIRTY);
    let marked = RefCell::default();
    let clean = |frame| {
        space.folio(frame).remove(PageFlags::DIRTY);
    };
    let release = || Release::pins(&map).dirty(Marker(&marked));
    let mut buffer = [Extent::EMPTY; 8];
    let pinned =
        Pinned::all(&map, &space, space.span(0, 24), request(PIN_W), Extents::new(&mut buffer)).unwrap();
    assert_eq!(pinned.release_dirty(Marker(&marked)), Released { frames: 24, refused: None });
    assert_eq!(marked.take(), [16, 32]);
    // From a page array, and folios.
    [16, 32].into_iter().for_each(clean);
    let mut buffer = [None; 24];
    let mut sink = Pages::new(&mut buffer);
    let _ = hold(&space, space.span(0, 24), request(PIN_W), &mut sink).unwrap();
    // SAFETY: pinned just now.
    assert_eq!(unsafe { release().pages(sink.pages()) }.frames, 24);
    assert_eq!(marked.take(), [16, 32]);
    [16, 24].into_iter().for_each(clean);
    let mut buffer = [FolioHolds::EMPTY; 4];
    let mut sink = Folios::new(&mut buffer);
    let _ = hold(&space, space.span(0, 24), request(PIN_W), &mut sink).unwrap();
    // SAFETY: pinned just now.
    assert_eq!(unsafe { release().folios(sink.folios()) }.frames, 24);
    assert_eq!(marked.take(), [16, 24]);
    assert!([16, 24, 32].iter().all(|&frame| space.counts(frame) == (8, 0)));
}

#[test]
fn scenario_a5_a_few_bytes_of_an_optimised_page_are_one_segment() {
    let mut pages = descriptors(1024);
    let map = map(&mut pages);
    let space = Space::new(&map, 9, 1).anonymous();
    let mut block = space.block(512, 9);
    // SAFETY: a compound; its tails stay its own, and are not written while it says otherwise.
    unsafe { block.set_shared_tails(true) };
    let _ = mmkit_folio::map_new_anon(block, space.mm, mmkit_folio::Mapping::Pmd).unwrap();
    space.upper[0].store(512 << SHIFT | PRESENT | WRITE, Relaxed);
    let io = || {
        let span = Span::bytes(&space.format(), VirtAddr::new(0x5000), 0x800).unwrap();
        let mut buffer = [Segment::EMPTY; 4];
        let pinned = Pinned::all(&map, &space, span, request(PIN_W), Bytes::new(&mut buffer, &span)).unwrap();
        assert_eq!(space.counts(512), (2, 1));
        let phys = PhysAddr::new((512 << SHIFT) + 0x5000).unwrap();
        assert_eq!(pinned.sink().stretches(), [Segment { phys, len: 0x800 }]);
    };
    io();
    assert_eq!(space.counts(512), (1, 0));
    // Unmapped while a device has it, restored once it is free of both, and used again.
    let extents = all(&space, 5, 1, PIN_W);
    let folio = space.folio(512);
    drop(folio.remove_mappings(space.mm, mmkit_folio::Mapping::Pmd).unwrap());
    let Err(folio) = folio.freeze() else { panic!("a pin keeps it") };
    assert_eq!(release(&space, &extents, PIN_W), Released { frames: 1, refused: None });
    let mut block = folio.freeze().unwrap();
    // SAFETY: they are its own.
    unsafe { block.set_shared_tails(false) };
    let _ = mmkit_folio::map_new_anon(block, space.mm, mmkit_folio::Mapping::Pmd).unwrap();
    io();
}

#[test]
fn scenario_a6_long_pins_of_device_memory() {
    let mut pages = descriptors(64);
    let map = map(&mut pages);
    let space = Space::new(&map, 3, 2);
    space.area_at(0, 16, (ANON_RW - AreaFlags::ANON) | AreaFlags::SHARED);
    space.map_file(0, 16, 3, WRITE, FileKind::Memory);
    space.map_file(8, 24, 3, WRITE, FileKind::Memory);
    for frame in [16, 24] {
        space.folio(frame).insert(PageFlags::DEVICE);
    }
    space.devices.borrow_mut().insert(24, PinRefusal::FileSystemDax);
    let (got, extents) = held(&space, 0, 8, LONG_W | Flags::FAST_ONLY);
    assert_eq!((got.unwrap().pages, extents), (8, vec![(16, 8)]));
    assert_eq!(space.called("lock"), 0);
    let refused = Refusal::Policy { pfn: pfn(24), reason: PinRefusal::FileSystemDax };
    assert_eq!(held(&space, 8, 8, LONG_W).0, Err(refused));
    let (got, _) = held(&space, 8, 8, LONG_W | Flags::FAST_ONLY);
    assert_eq!(got.unwrap().pages, 0);
    assert_eq!(space.counts(24), (8 + 1, 0), "the mappings' and the file's");
    assert_eq!(all(&space, 8, 8, PIN_W), [(24, 8)], "for a short time it may be had");
}
