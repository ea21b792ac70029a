// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages held one by one against pages held by the run.

use std::error::Error;
use std::time::{Duration, Instant};

use mmkit_folio::Hold;
use mmkit_gup::{Bytes, Flags, PageRef, Pages, Release, Request, Segment, hold};
use mmkit_page::{PageFlags, PinPolicy};

use super::device::{Device, Generic, Map, MarkDirty, Memory, span};
use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::huge::Huge;
use crate::pair::{Paired, quantile};

/// Base pages of 1 GiB: of one call, and of a registration.
const GIB: u64 = 1 << 18;
/// What is held, in GiB: 2 GiB of descriptors.
const ALL: u64 = 128;
/// Pages that a registration looks at at a time: as many pointers as a page has room for.
const LIST: usize = 512;

/// `pin_per_page_vs_batched`, `get_per_page_vs_batched`.
pub(super) fn arrays(
    quick: bool,
    figures: &mut Vec<Figure>,
    skipped: &mut Vec<String>,
) -> Result<(), Box<dyn Error>> {
    let need = ALL * GIB * 64;
    let free = mmkit_oracle::Memory::available_bytes(&mmkit_oracle::Root::system())?;
    if free < need + need / 2 {
        skipped.push(format!("pages one by one: {need} bytes of descriptors, and {free} bytes of memory"));
        return Ok(());
    }
    let mut memory = Memory::new(ALL * GIB)?;
    let device = Device::new(&mut memory, PageFlags::DEVICE, ())?;
    let mut array = Huge::new(None, GIB as usize);
    let rounds = if quick { 3 } else { 7 };
    for (keys, whats, hold, goal) in [
        (
            ["pin_per_page_vs_batched", "kit_pin_per_page_vs_bare"],
            [
                "pin 128 GiB of 2M leaves into a page array, 1 GiB at a time: for each page a load of its word, two bare \
                 additions and a store / by the run",
                "the kit's pins page by page / those bare operations",
            ],
            Hold::Pin,
            14.0,
        ),
        (
            ["get_per_page_vs_batched", "kit_get_per_page_vs_bare"],
            [
                "plain references on the same, with one bare addition for each page / by the run",
                "the kit's references page by page / those bare operations",
            ],
            Hold::Get,
            9.7,
        ),
    ] {
        let (mut by_run, mut by_page) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let mut order = [Side::Bare, Side::ByPage, Side::ByRun];
            order.rotate_left(round % 3);
            let mut ns = [0.0; 3];
            for side in order {
                ns[side as usize] = pass(&device, hold, side, &mut array)?;
            }
            // The first one warms up.
            if round > 0 {
                by_run.push((ns[Side::Bare as usize], ns[Side::ByRun as usize]));
                by_page.push((ns[Side::ByPage as usize], ns[Side::Bare as usize]));
            }
        }
        let ops = ALL * GIB;
        figures.push(Figure::timed(keys[0], whats[0], None, paired(&by_run, ops)).at_least(goal));
        figures.push(Figure::timed(keys[1], whats[1], None, paired(&by_page, ops)));
    }
    Ok(())
}

/// How pages are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// One by one, by bare operations on the same words.
    Bare,
    /// One by one, by this kit.
    ByPage,
    /// By the run.
    ByRun,
}

/// All of the memory, once: nanoseconds of holding it.
fn pass(
    device: &Device<'_, ()>,
    kind: Hold,
    side: Side,
    array: &mut [Option<PageRef>],
) -> Result<f64, Box<dyn Error>> {
    let flags = if kind == Hold::Pin { Flags::PIN | Flags::WRITE } else { Flags::GET };
    let request = Request::new(flags | Flags::FAST_ONLY)?;
    let mut ns = 0.0;
    for gib in 0..device.pages() / GIB {
        let span = span(device, gib * GIB, GIB)?;
        device.wake(gib * GIB, GIB);
        let start = ThreadTime::now();
        match side {
            Side::Bare => device.hold_barely(gib * GIB, kind, array),
            Side::ByPage => {
                let mut slots = array.iter_mut();
                device.hold_by_page(span, kind, |pfn| {
                    if let Some(slot) = slots.next() {
                        *slot = Some(PageRef::new(pfn));
                    }
                })?;
            }
            Side::ByRun => {
                let held = hold(device, span, request, &mut Pages::new(array))?;
                assert_eq!(held.pages, GIB, "not all of it is held");
            }
        }
        ns += start.elapsed_ns();
        // SAFETY: all of them were just held, and are given back once.
        let released = unsafe { Release::of(device.map(), kind).pages(array) };
        assert_eq!((released.frames, released.refused), (GIB, None));
    }
    Ok(ns)
}

/// `mr_ratio_generic`, `mr_ratio_huge`.
pub(super) fn registrations(quick: bool, figures: &mut Vec<Figure>) -> Result<(), Box<dyn Error>> {
    let time = Duration::from_secs(if quick { 2 } else { 5 });
    let mut memory = Memory::new(GIB)?;
    let generic = rounds(&Device::new(&mut memory, PageFlags::DEVICE, Generic::default())?, time)?;
    let huge = rounds(&Device::new(&mut memory, PageFlags::HUGETLB, ())?, time)?;
    for (key, what, paired, goal) in [
        (
            "mr_ratio_generic",
            "register and release 1 GiB of a device with its list of segments: bare operations page by page / by the run",
            generic,
            1.92,
        ),
        ("mr_ratio_huge", "the same of huge pages of a pool", huge, 2.30),
    ] {
        figures.push(Figure::timed(key, what, None, paired).at_least(goal));
    }
    Ok(())
}

/// Rounds of both sides in turn, for so long.
fn rounds<'a, P: PinPolicy<Map<'a>>>(
    device: &Device<'a, P>,
    time: Duration,
) -> Result<Paired, Box<dyn Error>> {
    let mut segments = Huge::new(Segment::EMPTY, GIB as usize);
    let mut sides = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time || sides.len() < 3 {
        let start = ThreadTime::now();
        register_by_page(device, &mut segments)?;
        let by_page = start.elapsed_ns();
        let start = ThreadTime::now();
        register_by_run(device, &mut segments)?;
        sides.push((by_page, start.elapsed_ns()));
    }
    Ok(paired(&sides, 1))
}

/// Pins all of it a list of pages at a time, puts neighbours together, and gives back page after page: bare operations all.
fn register_by_page<'a, P: PinPolicy<Map<'a>>>(
    device: &Device<'a, P>,
    segments: &mut [Segment],
) -> Result<(), Box<dyn Error>> {
    let mut list = [None; LIST];
    let mut len = 0_usize;
    for first in (0..GIB).step_by(LIST) {
        device.hold_barely(first, Hold::Pin, &mut list);
        for page in list.iter().flatten() {
            let phys = page.pfn().phys(12).ok_or("no address")?;
            match len.checked_sub(1).and_then(|last| segments.get_mut(last)) {
                Some(last) if last.phys.get() + last.len == phys.get() => last.len += 4096,
                _ => {
                    *segments.get_mut(len).ok_or("no room")? = Segment { phys, len: 4096 };
                    len += 1;
                }
            }
        }
    }
    for segment in segments.iter().take(len) {
        device.unpin_barely(segment.phys.get() >> 12, segment.len >> 12);
    }
    Ok(())
}

/// Pins all of it into segments, and gives them back.
fn register_by_run<'a, P: PinPolicy<Map<'a>>>(
    device: &Device<'a, P>,
    segments: &mut [Segment],
) -> Result<(), Box<dyn Error>> {
    let request = Request::new(Flags::PIN | Flags::WRITE | Flags::LONGTERM)?;
    let span = span(device, 0, GIB)?;
    let mut sink = Bytes::new(segments, &span);
    let held = hold(device, span, request, &mut sink)?;
    assert_eq!(held.pages, GIB, "not all of it is pinned");
    // SAFETY: all of them were just pinned, and are given back once.
    let released = unsafe { Release::pins(device.map()).dirty(MarkDirty).stretches(sink.take(), 12) };
    assert_eq!((released.frames, released.refused), (GIB, None));
    Ok(())
}

/// Medians over rounds, each of which took nanoseconds on both sides, for `ops` operations.
fn paired(sides: &[(f64, f64)], ops: u64) -> Paired {
    let of = |value: fn(&(f64, f64)) -> f64| sides.iter().map(value).collect::<Vec<_>>();
    let mut ratios = of(|(a, b)| a / b);
    let [thing_ns, baseline_ns] =
        [of(|&(a, _)| a), of(|&(_, b)| b)].map(|mut ns| quantile(&mut ns, 0.5) / ops as f64);
    Paired {
        thing_ns,
        baseline_ns,
        ratio: quantile(&mut ratios, 0.5),
        quartiles: (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)),
    }
}

#[cfg(test)]
mod tests {
    use mmkit_folio::Rmap;
    use mmkit_page::MemMap;

    use super::*;
    use crate::gup::device::FOLIO;

    /// Both sides hold the same pages as often, tell them in the same order, and leave nothing behind.
    #[test]
    fn pages_held_singly_and_by_the_run_are_the_same() {
        let mut memory = Memory::new(4 * FOLIO).unwrap();
        let device = Device::new(&mut memory, PageFlags::DEVICE, Generic::default()).unwrap();
        let all = span(&device, 0, 4 * FOLIO).unwrap();
        let mut array = vec![None; 4 * FOLIO as usize];
        let request = Request::new(Flags::PIN | Flags::WRITE | Flags::FAST_ONLY).unwrap();
        let held = hold(&device, all, request, &mut Pages::new(&mut array)).unwrap();
        assert_eq!(held.pages, 4 * FOLIO);
        let first = array[0].unwrap().pfn();
        let counts = || {
            let folio = device.map().try_get(first).unwrap();
            (folio.count(), folio.pins())
        };
        // One that is kept, and the one that is taken to look.
        let none = (2, 0);
        let by_run = counts();
        assert_eq!(by_run, (2 + FOLIO as u32, FOLIO as u32));
        // SAFETY: all of them were just held, and are given back once.
        let released = unsafe { Release::pins(device.map()).pages(&array) };
        assert_eq!((released.frames, counts()), (4 * FOLIO, none));

        let mut barely = vec![None; 4 * FOLIO as usize];
        device.hold_barely(0, Hold::Pin, &mut barely);
        assert!(barely == array && counts() == by_run);
        // SAFETY: as above.
        let released = unsafe { Release::pins(device.map()).pages(&barely) };
        assert_eq!((released.frames, counts()), (4 * FOLIO, none));

        let mut singly = Vec::new();
        device.hold_by_page(all, Hold::Pin, |pfn| singly.push(Some(PageRef::new(pfn)))).unwrap();
        assert!(singly == array && counts() == by_run);
        device.unpin_barely(first.get(), 4 * FOLIO);
        assert_eq!(counts(), none);
    }

    #[test]
    fn both_registrations_leave_nothing_behind() {
        let mut memory = Memory::new(GIB).unwrap();
        let device = Device::new(&mut memory, PageFlags::HUGETLB, ()).unwrap();
        let mut segments = [vec![Segment::EMPTY; 4], vec![Segment::EMPTY; 4]];
        register_by_page(&device, &mut segments[0]).unwrap();
        register_by_run(&device, &mut segments[1]).unwrap();
        assert_eq!(segments[0], segments[1]);
        assert_eq!(segments[0][0].len, 1 << 30);
        for nth in 0..GIB / FOLIO {
            let pfn = segments[0][0].phys.pfn(12).unwrap().checked_add(nth * FOLIO).unwrap();
            let folio = device.map().try_get(pfn).unwrap();
            assert_eq!((folio.count(), folio.pins(), folio.flags().contains(PageFlags::DIRTY)), (2, 0, true));
        }
    }
}
