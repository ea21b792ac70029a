// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real threads: mappers, unmappers and walkers of the same tables.
#![cfg(not(mmkit_loom))]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use mmkit_addr::Geometry;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Error, Tables, Walk, X86_64};

const PAGE: u64 = 4096;
const ROUNDS: u64 = if cfg!(miri) { 5 } else { 400 };

static_assertions::assert_impl_all!(Tables<X86_64, TestEnv<'static>>: Send, Sync);

#[test]
fn neighbours_in_the_same_tables_do_not_disturb_each_other() {
    let frames = TestFrames::with_frames(1 << 10);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64);
    let done = AtomicBool::new(false);
    let worker = |id: u64| {
        // Interleaved pages: all threads are in the same last-level tables, which come and go.
        for round in 0..ROUNDS {
            let page = va((round % 4 * 512 + id) * PAGE);
            let mine = range(page.get(), PAGE);
            loop {
                match tables.map(mine, run(id * 1000 + round, RW)) {
                    Ok(()) => break,
                    Err(Error::Pending { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            let Ok(Walk::Mapped(leaf)) = tables.walk(page) else { panic!("mine is mapped") };
            assert_eq!(leaf.pfn, pfn(id * 1000 + round));
            assert_eq!(flush(tables.unmap(mine).unwrap()).len(), 1);
        }
    };
    std::thread::scope(|scope| {
        let walker = scope.spawn(|| {
            let mut found = 0u64;
            while !done.load(Ordering::Relaxed) {
                let reader = tables.read();
                reader
                    .visit(range(0, 2048 * PAGE), |entry| {
                        found += 1;
                        // Only ever what somebody mapped there.
                        if let mmkit_pgtable::Slot::Present(target) = entry.slot {
                            let id = entry.range.start().get() / PAGE % 512;
                            assert_eq!(target.pfn().get() / 1000, id);
                        }
                    })
                    .unwrap();
                drop(reader);
                std::thread::yield_now();
            }
            found
        });
        let workers: Vec<_> = (1..4).map(|id| scope.spawn(move || worker(id))).collect();
        for thread in workers {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        walker.join().unwrap();
    });
    assert_eq!(tables.table_frames(), 1);
    assert_accounted(&frames, &tables);
    frames.assert_clean();
}
