// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that register, fault, pin and remove for a bounded time, and what is left after that.
#![cfg(not(mmkit_loom))]

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    DEVICE, Device, Driver, Registered, SECTION, SUBSECTION, X86, machine, memory, order, pfn, place, range,
};
use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_devmap::{DevPagemap, DevmapError, Kind, Operations, Owner, Provided, Revoke};
use mmkit_frame::Request;
use mmkit_page::MemMap;
use mmkit_vmemmap::{Altmap, Serial};

/// Frames of each of the devices, and of a hole behind each.
const FRAMES: u64 = 2 * SUBSECTION;
/// Orders of the folios that are used of each device.
const ORDERS: [u8; 6] = [9, 0, 9, 3, 0, 9];
const DEVICES: u64 = ORDERS.len() as u64;
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
        let number = (0..DEVICES as usize).find(|&number| nth(number as u64) == range).unwrap();
        let old = self.mapped[number].lock().unwrap().take();
        if let Some(old) = old {
            assert!(range.contains(old));
            self.put(old);
        }
    }
}

/// Most of them in one section; the one with an altmap, which cannot be beside shared tails, in the next.
fn nth(number: u64) -> PfnRange {
    let first = if number == 5 { SECTION } else { number * 2 * FRAMES };
    range(DEVICE + first, FRAMES)
}

/// Generic, fs-dax, private and coherent memory, and one with descriptors in memory that is set aside elsewhere.
fn description(number: u64, driver: &Arc<Driver>, pool: PfnRange) -> DevPagemap {
    let driver: Arc<dyn Operations> = Arc::clone(driver) as _;
    let kind = match number {
        1 => Kind::FsDax,
        3 => Kind::Private,
        4 => Kind::Coherent,
        _ => Kind::Generic,
    };
    let o = if kind == Kind::Generic { order(9) } else { Order::ZERO };
    let builder = DevPagemap::builder(kind).range(nth(number)).order(o).at(place()).owner(Owner(number));
    let builder = builder.operations(driver);
    let builder = match number {
        // SAFETY: the frames are the test's, until the device is gone.
        5 => builder.altmap(unsafe { Altmap::new(pool.start(), 0, pool.frames()) }.unwrap()),
        _ => builder,
    };
    builder.build(&X86).unwrap()
}

/// Takes a device away, with little patience and many tries.
fn take_away<'d, 'f>(
    tables: &Tables<'d, 'f>,
    mut registration: Registered<'d, 'f>,
    timeouts: &AtomicU64,
) -> DevPagemap {
    loop {
        let impatient = |tries| {
            std::thread::yield_now();
            if tries < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        match registration.unregister(tables, impatient) {
            Ok(pagemap) => return pagemap,
            Err(error) => {
                assert!(matches!(error.error, DevmapError::Held { .. }), "{error}");
                timeouts.fetch_add(1, Ordering::Relaxed);
                registration = error.registration;
            }
        }
    }
}

#[test]
fn devices_come_and_go_while_they_are_used() {
    let memory = memory(4096);
    let device = machine(&memory);
    let tables = Tables { device: &device, mapped: (0..DEVICES).map(|_| Mutex::new(None)).collect() };
    // Room for the descriptors of one device.
    let pool = PfnRange::block(memory.frames().allocate(Request::new(order(4))).unwrap(), order(4));
    let drivers: Vec<_> = (0..DEVICES).map(|_| Driver::new(Provided::all())).collect();
    let before = (device.memory().usage(), memory.outstanding(), device.registry().len());
    let stop = AtomicBool::new(false);
    let [lives, faults, pins, timeouts] = [const { AtomicU64::new(0) }; 4];
    let taken = [const { AtomicU64::new(0) }; DEVICES as usize];
    std::thread::scope(|scope| {
        // Three that add and remove two of the devices each.
        for mine in [[0, 1], [2, 3], [4, 5]] {
            let (tables, stop, lives, timeouts, drivers) = (&tables, &stop, &lives, &timeouts, &drivers);
            scope.spawn(move || {
                let mut pagemaps =
                    mine.map(|number| Some(description(number, &drivers[number as usize], pool)));
                while !stop.load(Ordering::Relaxed) {
                    for pagemap in &mut pagemaps {
                        let given = pagemap.take().unwrap();
                        let registration = match lives.load(Ordering::Relaxed) % 3 {
                            0 => tables.device.register_deferred(given).unwrap().finish(),
                            _ => tables.device.register(given, &Serial).unwrap(),
                        };
                        std::thread::yield_now();
                        *pagemap = Some(take_away(tables, registration, timeouts));
                        lives.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Those who use them.
        for seed in 0..2_u64 {
            let (tables, stop, faults, pins, taken) = (&tables, &stop, &faults, &pins, &taken);
            scope.spawn(move || {
                let mut state = seed * 2 + 1;
                while !stop.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let number = (state >> 33) % DEVICES;
                    let head = pfn(nth(number).start().get() + ((state >> 40) % 2) * SUBSECTION);
                    if tables.fault(number, head, ORDERS[number as usize]) {
                        faults.fetch_add(1, Ordering::Relaxed);
                        taken[number as usize].fetch_add(1, Ordering::Relaxed);
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
    // Their drivers heard of each folio once.
    for number in [3, 4] {
        let heard = drivers[number].freed.lock().unwrap().len() as u64;
        assert_eq!(heard, taken[number].load(Ordering::Relaxed), "device {number}");
    }
    assert_eq!((device.memory().usage(), memory.outstanding(), device.registry().len()), before);
    device.memory().verify().unwrap();
    drop(tables);
    drop(device);
    // SAFETY: taken above, at this order, and the memory map is gone.
    unsafe { memory.frames().deallocate(pool.start(), order(4)) };
    memory.assert_no_leaks();
}
