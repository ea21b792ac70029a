// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs and sinks against a list of pages, for random page tables.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::VirtAddr;
use mmkit_gup::*;
use mmkit_sync::atomic::Ordering::Relaxed;
use proptest::prelude::*;

/// log2 of the entries of a table.
const BITS: u8 = 3;
const TABLES: u64 = 6;
const PAGES: u64 = TABLES << BITS;
const FRAMES: u64 = 2 * PAGES;

/// One table: the orders of its folios, or one leaf for all; where its frames are; what is not there; what is read-only.
#[derive(Clone, Debug)]
struct Table {
    orders: Vec<u8>,
    huge: bool,
    holes: u8,
    read_only: u8,
}

/// Page tables, and the frames that each table takes, in steps of a table.
fn tables() -> impl Strategy<Value = (Vec<Table>, Vec<u64>)> {
    let orders = prop_oneof![
        Just(vec![3]),
        Just(vec![2, 2]),
        Just(vec![1, 1, 2]),
        Just(vec![0, 0, 1, 2]),
        Just(vec![0; 8]),
    ];
    // Most have no holes, or runs would be short.
    let holes = prop_oneof![4 => Just(0), 1 => any::<u8>()];
    let read_only = prop_oneof![2 => Just(0), 1 => any::<u8>(), 1 => Just(0xff)];
    let table = (orders, any::<bool>(), holes, read_only).prop_map(|(orders, huge, holes, read_only)| {
        Table { huge: huge && orders.len() == 1, orders, holes, read_only }
    });
    let places = Just((0..FRAMES >> BITS).collect::<Vec<_>>());
    // Sorted or not: consecutive tables with consecutive frames are what runs are about.
    let places = prop_oneof![places.clone(), places.prop_shuffle()];
    (prop::collection::vec(table, TABLES as usize), places)
}

/// What is mapped at each page: frame, whether writable.
type Pages = Vec<Option<(u64, bool)>>;

fn build(space: &Space<'_>, tables: &[Table], places: &[u64]) -> Pages {
    let mut model = Vec::new();
    for ((table, place), page) in tables.iter().zip(places).zip((0..).step_by(1 << BITS)) {
        let first = place << BITS;
        if table.huge {
            let writable = table.read_only & 1 == 0;
            space.map_huge(page, first, if writable { WRITE } else { 0 });
            model.extend((first..first + (1 << BITS)).map(|frame| Some((frame, writable))));
            continue;
        }
        let mut at = 0;
        for &order in &table.orders {
            space.map_anon(page + at, first + at, order, WRITE);
            at += 1 << order;
        }
        for n in 0..1 << BITS {
            let entry = space.entry(page + n);
            let read_only = table.read_only >> n & 1 == 1;
            if read_only {
                entry.fetch_and(!WRITE, Relaxed);
            }
            if table.holes >> n & 1 == 1 {
                entry.store(0, Relaxed);
                model.push(None);
            } else {
                model.push(Some((first + n, !read_only)));
            }
        }
    }
    model
}

/// The frames from `first` on that can be held so without a fault.
fn expected(model: &Pages, first: u64, pages: u64, write: bool) -> Vec<u64> {
    model[first as usize..(first + pages) as usize]
        .iter()
        .map_while(|page| page.filter(|(_, writable)| !write || *writable))
        .map(|(frame, _)| frame)
        .collect()
}

/// Consecutive frames as extents.
fn merged(frames: &[u64]) -> Vec<(u64, u32)> {
    let mut extents: Vec<(u64, u32)> = Vec::new();
    for &frame in frames {
        match extents.last_mut() {
            Some((first, count)) if *first + u64::from(*count) == frame => *count += 1,
            _ => extents.push((frame, 1)),
        }
    }
    extents
}

fn frames_of(extents: &[Extent]) -> Vec<u64> {
    extents.iter().flat_map(|extent| (extent.pfn.get()..).take(extent.frames as usize)).collect()
}

/// References and pins of every frame's folio.
fn everything(space: &Space<'_>, model: &Pages) -> Vec<(u32, u32)> {
    model.iter().flatten().map(|&(frame, _)| space.counts(frame)).collect()
}

fn flags() -> impl Strategy<Value = Flags> {
    prop_oneof![
        Just(Flags::GET),
        Just(Flags::PIN),
        Just(Flags::GET | Flags::WRITE),
        Just(Flags::PIN | Flags::WRITE)
    ]
}

fn of(flags: Flags) -> Request {
    Request::new(flags | Flags::FAST_ONLY).unwrap()
}

fn back<'m>(space: &Space<'m>, flags: Flags) -> Release<'m, Map<'m>> {
    if flags.contains(Flags::PIN) { Release::pins(space.map) } else { Release::references(space.map) }
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..PAGES).prop_flat_map(|first| (Just(first), 0..=PAGES - first))
}

proptest! {
    /// Every sink gets the same pages, in order, up to the first that cannot be had; and all is as before in the end.
    #[test]
    fn sinks_get_what_is_mapped((tables, places) in tables(), (first, pages) in range(), flags in flags()) {
        let mut descriptors = descriptors(FRAMES);
        let map = map(&mut descriptors);
        let space = Space::new(&map, BITS, TABLES as usize).anonymous();
        let model = build(&space, &tables, &places);
        let before = everything(&space, &model);
        let wanted = expected(&model, first, pages, flags.contains(Flags::WRITE));
        let (span, request, release) = (space.span(first, pages), of(flags), back(&space, flags));
        let check = |held: Held| {
            prop_assert_eq!(held.pages, wanted.len() as u64);
            prop_assert_eq!(held.next, va(first + held.pages));
            prop_assert_eq!(held.stopped.is_none(), held.pages == pages);
            Ok(())
        };

        let mut buffer = [Extent::EMPTY; PAGES as usize];
        let mut sink = Extents::new(&mut buffer);
        check(hold(&space, span, request, &mut sink).unwrap())?;
        let got: Vec<_> = sink.extents().iter().map(|extent| (extent.pfn.get(), extent.frames)).collect();
        prop_assert_eq!(&got, &merged(&wanted));
        prop_assert_eq!(sink.frames(), wanted.len() as u64);
        // Each page is held once, by whatever its folio counts.
        for &(frame, _) in model.iter().flatten() {
            let folio = space.folio(frame);
            let frames = folio.pfn().get()..folio.pfn().get() + folio.order().frames();
            let holds = wanted.iter().filter(|frame| frames.contains(frame)).count() as u32;
            if flags.contains(Flags::PIN) {
                prop_assert_eq!(space.counts(frame).1, holds);
            }
        }
        // SAFETY: the walk held these.
        let released = unsafe { release.extents(sink.extents()) };
        prop_assert_eq!(released, Released { frames: wanted.len() as u64, refused: None });
        prop_assert_eq!(&everything(&space, &model), &before);

        let mut buffer = [None; PAGES as usize];
        let mut sink = mmkit_gup::Pages::new(&mut buffer);
        check(hold(&space, span, request, &mut sink).unwrap())?;
        let got: Vec<_> = sink.pages().iter().map(|page| page.unwrap().pfn().get()).collect();
        prop_assert_eq!(&got, &wanted);
        // SAFETY: the walk held these.
        let released = unsafe { release.pages(sink.pages()) };
        prop_assert_eq!(released, Released { frames: wanted.len() as u64, refused: None });
        prop_assert_eq!(&everything(&space, &model), &before);

        let mut buffer = [FolioHolds::EMPTY; PAGES as usize];
        let mut sink = Folios::new(&mut buffer);
        check(hold(&space, span, request, &mut sink).unwrap())?;
        let got: Vec<_> = sink
            .folios()
            .iter()
            .flat_map(|folio| (folio.head.get() + folio.first..).take(folio.pages as usize))
            .collect();
        prop_assert_eq!(&got, &wanted);
        // SAFETY: the walk held these.
        let released = unsafe { release.folios(sink.folios()) };
        prop_assert_eq!(released, Released { frames: wanted.len() as u64, refused: None });
        prop_assert_eq!(&everything(&space, &model), &before);
    }

    /// A buffer of any size, and the walk continued where it stopped: nothing is lost, nothing comes twice, and what is
    /// carried is continued.
    #[test]
    fn walks_go_on_where_they_stopped(
        (tables, places) in tables(), (first, pages) in range(), flags in flags(), room in 2..6_usize, order in 0..5_u8,
    ) {
        let mut descriptors = descriptors(FRAMES);
        let map = map(&mut descriptors);
        let space = Space::new(&map, BITS, TABLES as usize).anonymous();
        let model = build(&space, &tables, &places);
        let before = everything(&space, &model);
        let wanted = expected(&model, first, pages, flags.contains(Flags::WRITE));
        let (whole, request, release) = (space.span(first, pages), of(flags), back(&space, flags));

        let mut buffer = [Extent::EMPTY; 6];
        let mut sink = Extents::new(&mut buffer[..room]);
        let (mut got, mut span) = (Vec::new(), whole);
        loop {
            let held = hold(&space, span, request, &mut sink).unwrap();
            if held.stopped != Some(Refusal::NoRoom) {
                break;
            }
            span = span.from(held.next);
            let had = frames_of(sink.extents());
            let last = sink.extents()[room - 1];
            sink.carry(common::order(order), |extents| got.extend(frames_of(extents)));
            // What stays is the part of the last extent that does not fill a block.
            let open = (last.pfn.get() + u64::from(last.frames)) % (1 << order);
            let open = open.min(u64::from(last.frames)) as usize;
            prop_assert_eq!(frames_of(sink.extents()), &had[had.len() - open..]);
        }
        got.extend(frames_of(sink.take()));
        prop_assert!(sink.extents().is_empty());
        prop_assert_eq!(&got, &wanted);
        for frame in got {
            // SAFETY: the walk held each once.
            let released = unsafe { release.range(pfn(frame), 1) };
            prop_assert_eq!(released, Released { frames: 1, refused: None });
        }
        prop_assert_eq!(&everything(&space, &model), &before);
    }

    /// The bytes of a range, in stretches: the same as page by page, whatever the ends.
    #[test]
    fn bytes_are_those_of_the_range(
        (tables, places) in tables(), start in 0..PAGES * PAGE, len in 0..4 * PAGE, room in 1..4_usize,
    ) {
        let mut descriptors = descriptors(FRAMES);
        let map = map(&mut descriptors);
        let space = Space::new(&map, BITS, TABLES as usize).anonymous();
        let model = build(&space, &tables, &places);
        let before = everything(&space, &model);
        let len = len.min(PAGES * PAGE - start);
        let whole = Span::bytes(&space.format(), VirtAddr::new(start), len).unwrap();
        let frames = expected(&model, start / PAGE, whole.page_count(), false);
        let complete = frames.len() as u64 == whole.page_count();
        // Byte by byte, of what can be had.
        let end = if complete { start + len } else { (start / PAGE + frames.len() as u64) * PAGE };
        let wanted: Vec<u64> =
            (start..end.max(start)).map(|byte| frames[(byte / PAGE - start / PAGE) as usize] * PAGE + byte % PAGE).collect();

        let mut segments = [Segment::EMPTY; 4];
        let mut sink = Bytes::new(&mut segments[..room], &whole);
        let (mut got, mut span) = (Vec::new(), whole);
        loop {
            let held = hold(&space, span, of(Flags::GET), &mut sink).unwrap();
            let stretches = sink.take();
            prop_assert!(stretches.iter().all(|segment| segment.len > 0));
            for segment in stretches {
                got.extend(segment.phys.get()..segment.phys.get() + segment.len);
            }
            // SAFETY: the walk held the pages of these.
            let released = unsafe { Release::references(&map).stretches(stretches, SHIFT) };
            prop_assert_eq!(released, Released { frames: held.pages, refused: None });
            span = span.from(held.next);
            if held.stopped != Some(Refusal::NoRoom) {
                break;
            }
        }
        prop_assert_eq!(&got, &wanted);
        prop_assert_eq!(&everything(&space, &model), &before);

        let mut vectors = [BioVec::EMPTY; 4];
        let mut sink = Bytes::new(&mut vectors, &whole);
        let held = hold(&space, whole, of(Flags::GET), &mut sink).unwrap();
        let got: Vec<u64> = sink
            .stretches()
            .iter()
            .flat_map(|vector| (vector.pfn.get() * PAGE + u64::from(vector.offset)..).take(vector.len as usize))
            .collect();
        prop_assert_eq!(&got[..], &wanted[..got.len()]);
        prop_assert!(held.stopped == Some(Refusal::NoRoom) || got.len() == wanted.len());
        // SAFETY: the walk held the pages of these.
        unsafe { Release::references(&map).stretches(sink.stretches(), SHIFT) };
        prop_assert_eq!(&everything(&space, &model), &before);
    }
}
