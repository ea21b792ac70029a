// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that register, fault, pin and remove for a bounded time, and what is left after that.
#![cfg(not(mmkit_loom))]

mod common;

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{DEVICE, Device, SUBSECTION, fsdax, generic, machine, memory, order, pfn, range};
use mmkit_addr::{Pfn, PfnRange};
use mmkit_devmap::Revoke;
use mmkit_page::MemMap;
use mmkit_vmemmap::Serial;

/// Frames of each of the devices, and of a hole behind each.
const FRAMES: u64 = 2 * SUBSECTION;
const DEVICES: u64 = 3;
const TIME: Duration = Duration::from_millis(1500);

/// The page table of everybody: for each device the head of the folio that is mapped, which has a reference.
struct Tables<'d, 'f> {
    device: &'d Device<'f>,
    mapped: Vec<Mutex<Option<Pfn>>>,
}

impl Tables<'_, '_> {
    /// Puts the reference that an entry had.
    fn put(&self, head: Pfn) {
        // SAFETY: kept by `fault` with `into_raw`, and taken out of the table once.
        drop(unsafe { mmkit_page::Folio::from_raw(self.device, head) }.unwrap());
    }

    /// Maps the folio, if it can be had, and looks at it.
    fn fault(&self, number: u64, head: Pfn, o: u8) -> bool {
        let Ok(folio) = self.device.take(head, order(o)) else { return false };
        assert!(folio.pagemap().has(head));
        let mut entry = self.mapped[number as usize].lock().unwrap();
        if let Some(old) = entry.replace(folio.into_folio().into_raw()) {
            self.put(old);
        }
        true
    }
}

impl Revoke for Tables<'_, '_> {
    fn revoke(&self, range: PfnRange) {
        let number = (range.start().get() - DEVICE) / (2 * FRAMES);
        let old = self.mapped[number as usize].lock().unwrap().take();
        if let Some(old) = old {
            assert!(range.contains(old));
            self.put(old);
        }
    }
}

fn nth(number: u64) -> PfnRange {
    range(DEVICE + number * 2 * FRAMES, FRAMES)
}

#[test]
fn devices_come_and_go_while_they_are_used() {
    let memory = memory(4096);
    let device = machine(&memory);
    let tables = Tables { device: &device, mapped: (0..DEVICES).map(|_| Mutex::new(None)).collect() };
    let before = common::digest(&device, &memory, &[]);
    let (stop, lives, faults, pins) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // One that adds and removes two of the devices, another one the third.
        for mine in [0..2, 2..DEVICES] {
            let (tables, stop, lives) = (&tables, &stop, &lives);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for number in mine.clone() {
                        let pagemap =
                            if number == 1 { fsdax(&[nth(number)]) } else { generic(&[nth(number)], 9) };
                        let registration = tables.device.register(pagemap, &Serial).unwrap();
                        std::thread::yield_now();
                        let wait = |_| {
                            std::thread::yield_now();
                            ControlFlow::Continue(())
                        };
                        registration.unregister(tables, wait).unwrap();
                        lives.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Those who use them.
        for seed in 0..2_u64 {
            let (tables, stop, faults, pins) = (&tables, &stop, &faults, &pins);
            scope.spawn(move || {
                let mut state = seed * 2 + 1;
                while !stop.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let number = (state >> 33) % DEVICES;
                    let head = pfn(nth(number).start().get() + ((state >> 40) % 2) * SUBSECTION);
                    let o = if number == 1 { 0 } else { 9 };
                    if tables.fault(number, head, o) {
                        faults.fetch_add(1, Ordering::Relaxed);
                    }
                    // Somebody who finds the frame, and holds it for a moment.
                    if let Ok(folio) = tables.device.try_get(head)
                        && let Ok(folio) = tables.device.device_folio(folio)
                    {
                        assert!(folio.pagemap().has(head));
                        std::thread::yield_now();
                        assert!(tables.device.memory().is_present(head), "it went while it was held");
                        pins.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < TIME {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let done = [&lives, &faults, &pins].map(|count| count.load(Ordering::Relaxed));
    assert!(done.iter().all(|&count| count > 0), "lives, faults, pins: {done:?}");
    assert!(tables.mapped.iter().all(|entry| entry.lock().unwrap().is_none()), "revoked, all of them");
    assert_eq!(common::digest(&device, &memory, &[]), before);
    device.memory().verify().unwrap();
    drop(tables);
    drop(device);
    memory.assert_no_leaks();
}
