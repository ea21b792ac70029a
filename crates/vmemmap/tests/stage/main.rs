// SPDX-License-Identifier: MIT OR Apache-2.0
//! Populating in steps: the same result as at once, whoever writes it, and nothing where it is given up.
#![cfg(not(mmkit_loom))]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod deferred;
mod faults;
mod neighbours;
mod result;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::{Fixture, Map, TestEnv, frames, map};
use mmkit_addr::{Geometry, Pfn, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::MemMap;
use mmkit_sync::Readers;
use mmkit_vmemmap::{Executor, Vmemmap, VmemmapEnv, VmemmapSpace};

/// Frames of an x86-64 section.
const SECTION: u64 = 1 << 15;
/// Frames of an x86-64 subsection.
const SUBSECTION: u64 = 1 << 9;

/// So many threads, each of which takes the next job when it has done one.
struct Crowd(u64);

impl Executor for Crowd {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < jobs)
                    {
                        job(number);
                    }
                });
            }
        });
    }
}

/// Runs `test` with a memory map, then drops it and checks that nothing is left and nothing was reported.
fn with_map<F: Fixture>(geometry: Geometry, test: impl FnOnce(&Map<'_, F>, &TestFrames, &TestEnv<'_>)) {
    let frames = frames(&geometry);
    let env = TestEnv::<Readers>::new(&frames);
    let map = map::<F, Readers>(geometry, &frames, &env);
    test(&map, &frames, &env);
    drop(map);
    assert_eq!(env.log.take(), [], "something was reported");
    drop(env);
    frames.assert_no_leaks();
}

/// The words of all descriptors of `range`; `None` where a frame is absent.
fn words<S: VmemmapSpace, E: VmemmapEnv>(map: &Vmemmap<S, E>, range: PfnRange) -> Vec<Option<[u64; 8]>> {
    let reader = map.enter();
    range.iter().map(|pfn: Pfn| reader.page(pfn).map(|page| page.words())).collect()
}
