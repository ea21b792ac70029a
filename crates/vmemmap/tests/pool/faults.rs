// SPDX-License-Identifier: MIT OR Apache-2.0
//! The k-th allocation, the k-th table update: every k.

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{NodeId, Order};
use mmkit_vmemmap::{HugePool, PoolCounts};

use crate::common::*;
use crate::world::{Map, World};
use crate::{NODE_0, recount, trace, warm_up, world};

type Pool<'p, 'a> = HugePool<'p, Map<'a>, 2>;

fn classes() -> [(NodeId, Order); 2] {
    [(NODE_0, order(9)), (NODE_0, order(10))]
}

/// Runs `work` on a pool with `k` refused, for every `k` until nothing is refused any more; then the pool is emptied, and
/// nothing may be left of it.
fn sweep(
    prepare: impl Fn(&Pool<'_, '_>),
    work: impl Fn(&Pool<'_, '_>),
    arm: impl Fn(&World, u64),
    disarm: impl Fn(&World) -> bool,
) {
    let world = world();
    let map = world.map();
    let pool = HugePool::new(&map, classes()).unwrap();
    warm_up(&pool, &classes());
    let before = trace(&map, &world);
    let mut struck = 0;
    for k in 1.. {
        prepare(&pool);
        arm(&world, k);
        work(&pool);
        let pending = disarm(&world);
        recount(&pool, &map, &world, &classes());
        for (node, size) in classes() {
            let report = pool.resize(node, size, 0).unwrap();
            assert_eq!((report.error, report.counts), (None, PoolCounts::default()), "k = {k}");
        }
        assert_eq!(map.partial_compounds(), 0);
        assert!(trace(&map, &world) == before, "something was left behind: k = {k}");
        if pending {
            break;
        }
        struck += 1;
        assert!(struck < 500, "it never ends");
    }
    assert!(struck > 0, "nothing was refused");
}

fn sweep_both(prepare: impl Fn(&Pool<'_, '_>), work: impl Fn(&Pool<'_, '_>)) {
    let seen = std::cell::Cell::new(0);
    sweep(
        &prepare,
        &work,
        |world, k| {
            seen.set(world.frames.stats().injected);
            world.frames.fail_nth(k);
        },
        |world| {
            world.frames.heal();
            world.frames.stats().injected == seen.get()
        },
    );
    for refusals in [1, 3] {
        sweep(
            &prepare,
            &work,
            |world, k| {
                seen.set(world.machine.changes.load(Relaxed) + k);
                world.machine.refuse(k, refusals);
            },
            |world| {
                world.machine.heal();
                world.machine.changes.load(Relaxed) < seen.get()
            },
        );
    }
}

#[test]
fn growing_survives_every_failure() {
    sweep_both(
        |_| {},
        |pool| {
            let report = pool.grow(NODE_0, order(9), 3).unwrap();
            assert_eq!(report.counts.total(), report.done);
            assert_eq!(report.error.is_none(), report.done == 3);
        },
    );
}

/// 31 and 32 at the pool: what could not be restored is surplus, and all else is gone.
#[test]
fn shrinking_survives_every_failure() {
    sweep_both(
        |pool| assert_eq!(pool.grow(NODE_0, order(9), 4).unwrap().done, 4),
        |pool| {
            let report = pool.shrink(NODE_0, order(9), 3).unwrap();
            assert_eq!(report.counts.persistent(), 1);
            assert_eq!(report.counts.surplus, 3 - report.done);
            assert_eq!(report.error.is_some(), report.done < 3, "{report:?}");
        },
    );
}

#[test]
fn demoting_survives_every_failure() {
    sweep_both(
        |pool| assert_eq!(pool.grow(NODE_0, order(10), 2).unwrap().done, 2),
        |pool| {
            let report = pool.demote(NODE_0, order(10), order(9), 2).unwrap();
            let left = pool.counts(NODE_0, order(10)).unwrap().free;
            assert_eq!(report.done, 2 * (2 - left));
            assert_eq!(report.error.is_none(), left == 0);
        },
    );
}

#[test]
fn dissolving_survives_every_failure() {
    sweep_both(
        |pool| assert_eq!(pool.grow(NODE_0, order(9), 2).unwrap().done, 2),
        |pool| {
            let result = pool.dissolve(pfn(512 + 77));
            assert_eq!(pool.counts(NODE_0, order(9)).unwrap().free, 2 - u64::from(result.is_ok()));
        },
    );
}

#[test]
fn a_surplus_page_survives_every_failure() {
    sweep_both(
        |pool| pool.set_overcommit(NODE_0, order(9), 1).unwrap(),
        |pool| match pool.allocate(NODE_0, order(9)) {
            Ok(page) => {
                assert_eq!(pool.counts(NODE_0, order(9)).unwrap().surplus, 1);
                page.free().unwrap();
            }
            Err(_) => assert_eq!(pool.counts(NODE_0, order(9)), Ok(PoolCounts::default())),
        },
    );
}
