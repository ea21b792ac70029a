// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pool of huge pages: scenarios by their numbers, faults, threads, and a model.
#![cfg(all(not(mmkit_loom), feature = "pgtable"))]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/world.rs"]
mod world;

mod bad;
mod faults;
mod life;
mod model;
mod threads;

use std::collections::BTreeMap;

use mmkit_addr::{Geometry, NodeId, Order};
use mmkit_page::{MemMap, State};
use mmkit_vmemmap::{HugePool, PoolCounts, PoolMap, Usage};

use common::*;
use world::{Map, World};

/// Frames that the memory map has of each node. The first block of node 0 holds the descriptors.
const SIZE: u64 = 1 << 12;
/// Blocks of order 9 that a pool of node 0 can get.
const ROOM: u64 = SIZE / 512 - 1;

const NODE_0: NodeId = NodeId::ZERO;

fn node_1() -> NodeId {
    NodeId::new(1).unwrap()
}

fn world() -> World {
    World::new(Geometry::X86_64, SIZE)
}

/// A memory map of both nodes.
fn map_of(world: &World) -> Map<'_> {
    let map = world.map();
    map.populate(range(NODE_1, world.size), Order::ZERO, place(1, 0)).unwrap();
    map
}

/// Checks the pool's counts against the descriptors, and against what the allocator has handed out.
#[track_caller]
fn recount<M: PoolMap, const N: usize>(
    pool: &HugePool<'_, M, N>,
    map: &M,
    world: &World,
    classes: &[(NodeId, Order)],
) {
    let mut out = map.vmemmap().usage().total() + pool.bad_frames();
    for &(node, size) in classes {
        let counts = pool.counts(node, size).unwrap();
        let (mut idle, mut bad, mut held) = (0, 0, 0);
        let start = u64::from(node.get()) * NODE_1;
        let reader = map.enter();
        for head in (start..start + world.size).step_by(size.frames() as usize) {
            let Some(page) = reader.page(pfn(head)) else { continue };
            match page.state() {
                State::Free { order, parked: false } if order == size => idle += 1,
                State::Frozen { order } if order == size => bad += 1,
                State::Held { order, .. } if order == size => held += 1,
                _ => {}
            }
        }
        assert_eq!((counts.free, counts.poisoned, counts.in_use), (idle, bad, held), "{counts:?}");
        assert!(counts.surplus <= counts.total(), "{counts:?}");
        assert_eq!(counts.leaving, 0);
        out += counts.total() * size.frames();
    }
    assert_eq!(world.frames.outstanding(), out);
}

fn counts(free: u64, in_use: u64, surplus: u64) -> PoolCounts {
    PoolCounts { free, in_use, surplus, ..PoolCounts::default() }
}

/// Everything once through the pool, so that tables are split and blocks joined: from then on an empty pool leaves no trace.
fn warm_up<const N: usize>(pool: &HugePool<'_, Map<'_>, N>, classes: &[(NodeId, Order)]) {
    for &(node, size) in classes {
        let _ = pool.grow(node, size, u64::MAX).unwrap();
        assert_eq!(pool.resize(node, size, 0).unwrap().counts, PoolCounts::default());
    }
}

/// What a memory map is, whichever frames it is made of.
#[derive(Debug, PartialEq)]
struct Trace {
    usage: Usage,
    /// Blocks that the allocator has handed out, by order.
    out: BTreeMap<u8, usize>,
    /// Every descriptor, but for how large the block is that its frame rests in.
    words: Vec<[u64; 8]>,
}

/// The trace of a memory map whose frames are all at rest.
#[track_caller]
fn trace(map: &Map<'_>, world: &World) -> Trace {
    assert_eq!(map.verify(), Ok(()));
    let mut words = Vec::new();
    let reader = map.enter();
    for start in [0, NODE_1].into_iter().filter(|&start| map.is_present(pfn(start))) {
        for frame in start..start + world.size {
            let page = reader.page(pfn(frame)).unwrap();
            let state = page.state();
            assert!(
                matches!(state, State::Free { parked: true, .. } | State::Inside),
                "{frame:#x}: {state:?}"
            );
            let mut all = page.words();
            all[1] = 0;
            words.push(all);
        }
    }
    let mut out = BTreeMap::new();
    for block in world.frames.outstanding_blocks() {
        *out.entry(block.order.get()).or_default() += 1;
    }
    Trace { usage: map.usage(), out, words }
}
