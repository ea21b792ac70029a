// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users that take and free pages while the size changes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use mmkit_addr::{Geometry, Pfn};
use mmkit_vmemmap::{HugePool, PoolCounts, PoolError};

use crate::common::*;
use crate::world::World;
use crate::{NODE_0, SIZE, map_of, node_1, recount, trace, warm_up};

const ROUNDS: u64 = 200;
/// Half of what there is: pages that are leaving have their memory still.
const MOST: u64 = 7;

/// Ends the users, also where a check fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn pages_belong_to_one_user_while_the_pool_is_resized() {
    let world = World::new(Geometry::X86_64, 2 * SIZE);
    let map = map_of(&world);
    let classes = [(NODE_0, order(9)), (node_1(), order(9))];
    let pool = HugePool::new(&map, classes).unwrap();
    warm_up(&pool, &classes);
    let before = trace(&map, &world);
    map.set_reserve(NODE_0, order(9), true).unwrap();
    let (done, handed) = (AtomicBool::new(false), AtomicU64::new(0));
    let out: Mutex<std::collections::BTreeSet<Pfn>> = Mutex::default();
    let user = |node, seed: u64| {
        let (pool, out, handed, done) = (&pool, &out, &handed, &done);
        let mut seed = seed;
        move || {
            let mut pages = Vec::new();
            while !done.load(Relaxed) {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if (seed >> 60) < 8 && pages.len() < 4 {
                    match pool.allocate(node, order(9)) {
                        Ok(page) => {
                            assert!(out.lock().unwrap().insert(page.pfn()), "handed out twice");
                            handed.fetch_add(1, Relaxed);
                            pages.push(page);
                        }
                        Err(PoolError::Empty { .. }) => thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                } else if let Some(mut page) = pages.pop() {
                    assert!(out.lock().unwrap().remove(&page.pfn()));
                    // Somebody may be looking.
                    while let Err(busy) = page.free() {
                        page = busy;
                        thread::yield_now();
                    }
                }
            }
            for page in pages {
                assert!(out.lock().unwrap().remove(&page.pfn()));
                let mut page = page;
                while let Err(busy) = page.free() {
                    page = busy;
                }
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(user(NODE_0, 1));
        scope.spawn(user(NODE_0, 2));
        scope.spawn(user(node_1(), 3));
        scope.spawn(|| {
            let _done = Done(&done);
            for round in 0..ROUNDS {
                let target = round * 5 % (MOST + 1);
                for (node, size) in classes {
                    let report = pool.resize(node, size, target).unwrap();
                    assert_eq!(report.error, None, "{round}");
                    // Others take and free, but nobody else changes how many there should be.
                    assert_eq!(pool.counts(node, size).unwrap().persistent(), target);
                }
            }
            while handed.load(Relaxed) < 50 {
                let _ = pool.resize(NODE_0, order(9), 5).unwrap();
                thread::yield_now();
            }
        });
    });
    recount(&pool, &map, &world, &classes);
    for (node, size) in classes {
        let report = pool.resize(node, size, 0).unwrap().ok().unwrap();
        assert_eq!(report.counts, PoolCounts::default());
    }
    map.set_reserve(NODE_0, order(9), false).unwrap();
    assert!(trace(&map, &world) == before, "something was left behind");
}
