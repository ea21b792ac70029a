// SPDX-License-Identifier: MIT OR Apache-2.0
//! The test allocator inside loom models: it sees the races of the code around it.
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use mmkit_addr::{Order, Pfn};
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_frame::{FrameAllocator, Request};
use mmkit_sync::mutant;

/// Two threads put a frame each into a slot with `put`, which returns what was there, and give that back.
fn exchange(put: impl Fn(&AtomicU64, u64) -> u64 + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let t = TestFrames::new(TestConfig::new().range(1, 8).panic_at_once());
        let shared = Arc::new((t, AtomicU64::new(0)));
        let give_back = |t: &TestFrames, pfn: u64| {
            if pfn != 0 {
                // SAFETY: nobody uses the frame; whether it is given back once is what the test asks.
                unsafe { t.deallocate(Pfn::new(pfn).unwrap(), Order::ZERO) };
            }
        };
        let body = move |(t, slot): &(TestFrames, AtomicU64)| {
            let pfn = t.allocate(Request::new(Order::ZERO)).unwrap();
            give_back(t, put(slot, pfn.get()));
        };
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || body(&shared)
        });
        body(&shared);
        other.join().unwrap();
        give_back(&shared.0, put(&shared.1, 0));
        shared.0.assert_no_leaks();
    });
}

fn swap(slot: &AtomicU64, pfn: u64) -> u64 {
    // Relaxed is enough: nobody looks into the frames.
    mutant!("frame-slot-load-and-store", slot.swap(pfn, Ordering::Relaxed), {
        let old = slot.load(Ordering::Relaxed);
        slot.store(pfn, Ordering::Relaxed);
        old
    })
}

#[test]
fn a_swap_loses_nothing_2_threads() {
    exchange(swap);
}

#[test]
fn a_load_and_a_store_are_caught() {
    mutant::must_fail("frame-slot-load-and-store", || exchange(swap));
}
