// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every allocation of registering fails once, of frames and of the heap: nothing shows it afterwards.
#![cfg(not(mmkit_loom))]
// Errors give back what was handed in.
#![allow(clippy::result_large_err)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{
    DEVICE, Device, HEAP_FAILS, Registered, SECTION, SPACE_FAILS, SUBSECTION, digest, fsdax, generic, looks,
    machine, machine_with, memory, order, pfn, range, spans,
};
use mmkit_addr::{Order, PfnRange};
use mmkit_devmap::{DevPagemap, DevmapError, Span, UnregisterError};
use mmkit_sync::{InsideReader, ReadSide, Readers};
use mmkit_vmemmap::{MapError, Serial, VmemmapError};

thread_local! {
    static STRUCK: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, with failures on demand.
struct Failing;

// SAFETY: every call is passed on to the system's allocator, but for those that are refused, which may be.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let strike = HEAP_FAILS.try_with(|left| {
            let before = left.get();
            left.set(before.saturating_sub(1));
            before == 1
        });
        if strike == Ok(true) {
            STRUCK.set(true);
            return std::ptr::null_mut();
        }
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static HEAP: Failing = Failing;

/// Runs `work` with allocation `k` of this thread failing; whether it came to that.
fn failing<T>(k: u64, work: impl FnOnce() -> T) -> (T, bool) {
    STRUCK.set(false);
    HEAP_FAILS.set(k);
    let done = work();
    HEAP_FAILS.set(0);
    (done, STRUCK.get())
}

/// What is registered before, each with its order, and what is to be registered, with its order.
type Case = (Vec<(PfnRange, u8)>, Vec<PfnRange>, u8);

fn cases() -> Vec<Case> {
    vec![
        (vec![], vec![range(DEVICE, 4 * SUBSECTION)], 9),
        // Three ranges, between, below and above others; single frames, so that each needs memory of its own.
        (
            vec![(range(DEVICE + SECTION, SUBSECTION), 9), (range(DEVICE + 3 * SECTION, SUBSECTION), 9)],
            vec![
                range(DEVICE, SUBSECTION),
                range(DEVICE + 2 * SECTION, 2 * SUBSECTION),
                range(DEVICE + 5 * SECTION, SUBSECTION),
            ],
            0,
        ),
        // Two compounds of eight sections, each far from the other.
        (vec![(range(DEVICE, SUBSECTION), 9)], vec![range(1 << 33, 1 << 18), range(1 << 34, 1 << 18)], 18),
    ]
}

/// Registers what is there before, of these orders; and all ranges that are looked at.
fn registered<'d, 'f, R: ReadSide + Sync>(
    device: &'d Device<'f, R>,
    before: &[(PfnRange, u8)],
    ranges: &[PfnRange],
) -> (Vec<Registered<'d, 'f, R>>, Vec<PfnRange>) {
    let register = |&(range, o): &(PfnRange, u8)| device.register(generic(&[range], o), &Serial).unwrap();
    let looked = before.iter().map(|&(range, _)| range).chain(ranges.iter().copied()).collect();
    (before.iter().map(register).collect(), looked)
}

#[test]
fn every_failure_of_the_frame_allocator() {
    for (before, ranges, o) in cases() {
        let memory = memory(4096);
        let device = machine(&memory);
        let (there, looked) = registered(&device, &before, &ranges);
        let mut pagemap = Some(generic(&ranges, o));
        let mut refused = 0;
        for k in 1.. {
            let untouched = digest(&device, &memory, &looked);
            let spanned = spans(&device);
            memory.fail_nth(k);
            let result = device.register(pagemap.take().unwrap(), &Serial);
            memory.heal();
            match result {
                Err(error) => {
                    let DevmapError::Memory { range, cause } = error.error else { panic!("{error}") };
                    assert!(matches!(cause, VmemmapError::NoFrame(_) | VmemmapError::Map(_)), "{cause}");
                    assert!(ranges.contains(&range));
                    assert_eq!(error.error.errno(), 12);
                    assert_eq!(digest(&device, &memory, &looked), untouched, "failure {k}");
                    assert_eq!(spans(&device), spanned, "failure {k}");
                    pagemap = error.pagemap;
                    refused += 1;
                }
                Ok(registration) => {
                    assert_ne!(digest(&device, &memory, &looked), untouched);
                    registration.unregister(&(), looks(0)).unwrap();
                    assert_eq!(digest(&device, &memory, &looked), untouched);
                    break;
                }
            }
        }
        assert!(refused >= 2 * ranges.len(), "{refused} allocations failed");
        device.memory().verify().unwrap();
        there.into_iter().for_each(|there| drop(there.unregister(&(), looks(0)).unwrap()));
        assert!(device.registry().is_empty());
        drop(device);
        memory.assert_no_leaks();
    }
}

#[test]
fn every_failure_of_the_heap() {
    for (before, ranges, o) in cases() {
        let memory = memory(4096);
        let device = machine_with::<Readers>(&memory);
        let (there, looked) = registered(&device, &before, &ranges);
        let mut pagemap = Some(generic(&ranges, o));
        let mut refused = 0;
        for k in 1.. {
            let untouched = digest(&device, &memory, &looked);
            let given = pagemap.take().unwrap();
            let (result, struck) = failing(k, || device.register(given, &Serial));
            match result {
                Err(error) => {
                    assert!(struck);
                    assert_eq!(error.error, DevmapError::NoMemory);
                    assert_eq!(digest(&device, &memory, &looked), untouched, "failure {k}");
                    pagemap = error.pagemap;
                    refused += 1;
                }
                Ok(registration) => {
                    assert!(!struck, "failure {k} was not noticed");
                    let (gone, struck) = failing(1, || registration.unregister(&(), looks(0)));
                    assert!(gone.is_ok() && !struck, "taking away takes no memory");
                    assert_eq!(digest(&device, &memory, &looked), untouched);
                    break;
                }
            }
        }
        // Counters, the pagemap, and stages at least.
        assert!(refused >= 3, "{refused} allocations failed");
        device.memory().verify().unwrap();
        there.into_iter().for_each(|there| drop(there.unregister(&(), looks(0)).unwrap()));
        drop(device);
        memory.assert_no_leaks();
    }
}

/// Refuses change `k` of the page tables of what `work` does; whether it came to that.
fn refusing<T>(k: u64, work: impl FnOnce() -> T) -> (T, bool) {
    SPACE_FAILS.set(k);
    let done = work();
    (done, SPACE_FAILS.replace(0) == 0)
}

#[test]
fn every_failure_of_the_page_tables() {
    for (before, ranges, o) in cases() {
        let memory = memory(4096);
        let device = machine(&memory);
        let (there, looked) = registered(&device, &before, &ranges);
        let untouched = (digest(&device, &memory, &looked), spans(&device));
        let mut pagemap = generic(&ranges, o);
        let mut refused = 0;
        let mut registration = loop {
            let (result, struck) = refusing(refused + 1, || device.register(pagemap, &Serial));
            match result {
                Err(error) => {
                    let DevmapError::Memory { range, cause: VmemmapError::Map(cause) } = error.error else {
                        panic!("{error}")
                    };
                    assert!(struck && ranges.contains(&range));
                    assert_eq!(cause, MapError::Os { errno: 5 });
                    let now = (digest(&device, &memory, &looked), spans(&device));
                    assert_eq!(now, untouched, "change {}", refused + 1);
                    pagemap = error.pagemap.unwrap();
                    refused += 1;
                }
                Ok(registration) => {
                    assert!(!struck, "change {} was not noticed", refused + 1);
                    break registration;
                }
            }
        };
        assert!(refused >= ranges.len() as u64, "{refused} changes were refused");

        // Taking it away goes on where it was refused: each range is there, or it is not.
        let mut failed = 0;
        loop {
            let k = failed + 1;
            let present = |device: &common::Device<'_>| {
                ranges.iter().filter(|range| device.memory().is_present(range.start())).count()
            };
            let (there, spanned) = (present(&device), spans(&device));
            let (result, struck) = refusing(k, || registration.unregister(&(), looks(0)));
            let error = match result {
                Ok(_) => {
                    assert!(!struck, "change {k} was not noticed");
                    break;
                }
                Err(error) => error,
            };
            let DevmapError::Memory { range, cause: VmemmapError::Map(_) } = error.error else {
                panic!("{error}")
            };
            assert!(struck && device.memory().is_present(range.start()), "{range:?} is still whole");
            assert!(error.registration.pagemap().is_dead());
            let gone = there - present(&device);
            let frames: u64 =
                ranges.iter().rev().skip(ranges.len() - there).take(gone).map(|range| range.frames()).sum();
            let expected =
                spanned.map(|span| span.map(|span| Span { present: span.present - frames, ..span }));
            assert_eq!(spans(&device), expected, "what is there is spanned");
            device.memory().verify().unwrap();
            registration = error.registration;
            failed += 1;
        }
        assert!(failed > 0);
        assert_eq!(digest(&device, &memory, &looked), untouched.0);
        there.into_iter().for_each(|there| drop(there.unregister(&(), looks(0)).unwrap()));
        assert!(device.registry().is_empty());
        drop(device);
        memory.assert_no_leaks();
    }
}

#[test]
fn a_description_for_which_there_is_no_memory() {
    for k in 1..=2 {
        let build = || {
            DevPagemap::builder(mmkit_devmap::Kind::Generic).range(range(DEVICE, SECTION)).build(&common::X86)
        };
        let (built, struck) = failing(k, build);
        assert!(struck);
        assert_eq!(built.unwrap_err().error, DevmapError::NoMemory);
    }
}

#[test]
fn somebody_claimed_a_free_frame() {
    use mmkit_page::MemMap;

    let memory = memory(4096);
    let device = machine(&memory);
    // The last range goes first, so the claimed frame is met when one is gone already.
    let ranges = [range(DEVICE, SUBSECTION), range(DEVICE + SECTION, SUBSECTION)];
    let registration = device.register(fsdax(&ranges), &Serial).unwrap();
    let claimed = pfn(DEVICE + 7);
    let free = device.claim(claimed).unwrap();
    let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
    let busy = VmemmapError::Busy { pfn: claimed };
    assert_eq!(error, DevmapError::Memory { range: ranges[0], cause: busy });
    assert!(device.memory().is_present(claimed) && !device.memory().is_present(ranges[1].start()));
    // The intervals are taken still, both.
    for range in ranges {
        let other = device.register(generic(&[range], 0), &Serial).unwrap_err();
        assert_eq!(other.error, DevmapError::Overlap { range, with: range });
    }
    drop(free);
    let pagemap = registration.unregister(&(), looks(0)).unwrap();
    // And it comes again.
    let again = device.register(pagemap, &Serial).unwrap();
    assert_eq!(device.take(claimed, Order::ZERO).unwrap().order(), order(0));
    again.unregister(&(), looks(0)).unwrap();
    drop(device);
    memory.assert_no_leaks();
}

#[test]
fn inside_a_reader_nothing_is_begun() {
    use mmkit_page::MemMap;

    let memory = memory(4096);
    let device = machine(&memory);
    let there = range(DEVICE, SUBSECTION);
    let registration = device.register(generic(&[there], 0), &Serial).unwrap();
    let other = generic(&[range(DEVICE + SECTION, SUBSECTION)], 0);
    let reader = device.registry().enter();
    let untouched = digest(&device, &memory, &[there]);
    let refused = device.register(other, &Serial).unwrap_err();
    assert_eq!(refused.error, DevmapError::InsideReader);
    assert_eq!(digest(&device, &memory, &[there]), untouched);
    drop(reader);

    // Of the memory map, and of the registry: what was done before stays done.
    let reader = device.memory().enter();
    let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
    let cause = VmemmapError::InsideReader;
    assert_eq!(error, DevmapError::Memory { range: there, cause });
    assert!(device.memory().is_present(there.start()));
    drop(reader);
    let reader = device.registry().enter();
    let UnregisterError { error, registration } = registration.unregister(&(), looks(0)).unwrap_err();
    assert_eq!(error, DevmapError::InsideReader);
    assert!(!device.memory().is_present(there.start()));
    drop(reader);
    registration.unregister(&(), looks(0)).unwrap();
    drop(device);
    memory.assert_no_leaks();
}

thread_local! {
    static WAIT_FAILS: Cell<bool> = const { Cell::new(false) };
}

/// A read side that may refuse to wait although it said that it could.
#[derive(Default)]
struct Turning(Readers);

// SAFETY: all is passed on; an error promises nothing.
unsafe impl ReadSide for Turning {
    type Guard<'a> = <Readers as ReadSide>::Guard<'a>;

    fn enter(&self) -> Self::Guard<'_> {
        self.0.enter()
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        if WAIT_FAILS.take() { Err(InsideReader) } else { self.0.synchronize() }
    }
}

#[test]
fn a_wait_that_is_refused_in_the_middle_leaves_the_intervals_free() {
    let memory = memory(4096);
    let device = machine_with::<Turning>(&memory);
    let there = range(DEVICE, SECTION);
    WAIT_FAILS.set(true);
    let refused = device.register(generic(&[there], 9), &Serial).unwrap_err();
    assert!(!WAIT_FAILS.get(), "it was asked to wait");
    assert_eq!(refused.error, DevmapError::InsideReader);
    assert!(refused.pagemap.is_none(), "somebody may look at it, so it is kept");
    assert!(device.registry().get(pfn(DEVICE)).is_none());
    assert_eq!(spans(&device), [None, None]);
    // Nothing is in the way of another.
    let registration = device.register(generic(&[there], 9), &Serial).unwrap();
    assert_eq!(registration.unregister(&(), looks(2)).map(drop).map_err(|error| error.error), Ok(()));
}
