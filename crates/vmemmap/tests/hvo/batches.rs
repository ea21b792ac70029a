// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: what they cost, where they stop, and who may ask for them.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mmkit_addr::Geometry;
use mmkit_page::MemMap;
use mmkit_sync::Epoch;
use mmkit_vmemmap::{HvoError, VmemmapError};

use crate::common::*;
use crate::world::*;

const X86: Geometry = Geometry::X86_64;

/// 32: a batch of five that fails at the third: two are restored, three are not, one flush.
#[test]
fn s32_a_restoring_batch_stops_at_the_first_error() {
    let world = World::new(X86, 1 << 15);
    let map = world.map();
    let mut pool = world.pool(&map, 9, 0..5);
    assert_eq!(map.optimise_batch(&mut pool).done, 5);
    let (flushes, waits) = world.flushes_and_waits();
    world.fail_from(15);
    let report = map.restore_batch(&mut pool);
    world.frames.heal();
    assert_eq!((report.done, report.already, report.failed), (2, 0, 3));
    assert_eq!(report.error.unwrap().0, 2);
    assert_eq!(world.flushes_and_waits(), (flushes + 1, waits + 1));
    let shared: Vec<_> = pool.iter().map(|folio| folio.has_shared_tails()).collect();
    assert_eq!(shared, [false, false, true, true, true]);
    balance(&map, &world.frames);
}

/// 33: a batch flushes twice and waits once, whatever its size; nothing is given back before the second flush.
#[test]
fn s33_two_flushes_and_one_wait() {
    for huge in [false, true] {
        for count in [1, 3, 65] {
            let world = World::new(X86, if huge { 1 << 16 } else { count << 9 });
            let map = if huge { world.map_huge() } else { world.map() };
            let mut pool = world.pool(&map, 9, 0..count);
            let (flushes, waits) = world.flushes_and_waits();
            world.watch_frees();
            let report = map.optimise_batch(&mut pool);
            assert_eq!(report.done as u64, count);
            assert_eq!(world.flushes_and_waits(), (flushes + 2, waits + 1));
            assert_eq!(world.early_frees(), 0, "frames given back before the second flush");
            // Nothing to do: nothing is flushed.
            assert_eq!(map.optimise_batch(&mut pool).already as u64, count);
            assert_eq!(world.flushes_and_waits(), (flushes + 2, waits + 1));
        }
    }
}

/// Compounds of several orders, in any order, with one flush and one wait still. Their tails go after it.
#[test]
fn a_batch_of_several_sizes_flushes_once() {
    let world = World::new(X86, 1 << 13);
    let map = world.map();
    let mut pool = vec![];
    for nth in 0..4 {
        for size in [7, 8, 9] {
            let first = (nth << 9 | u64::from(size - 7) << 11) >> size;
            pool.append(&mut world.pool(&map, size, first..first + 1));
        }
    }
    let before = map.usage();
    assert_eq!(map.optimise_batch(&mut pool).done, 12);
    assert_eq!(map.usage().tails, 3);
    let (flushes, waits) = world.flushes_and_waits();
    assert_eq!(map.restore_batch(&mut pool).done, 12);
    assert_eq!(world.flushes_and_waits(), (flushes + 1, waits + 1));
    assert_eq!(map.usage(), before);
    balance(&map, &world.frames);
    world.put_back(pool);
    drop(map);
    world.frames.assert_no_leaks();
}

/// Somebody inside a reader is told so, also while somebody else waits for it with the lock held.
#[test]
fn inside_a_reader_is_an_error_and_no_deadlock() {
    let world: World<Epoch> = World::new(X86, 1 << 11);
    let map = world.map_as(std::marker::PhantomData::<mmkit_pgtable::Software>);
    let mut pool = world.pool(&map, 9, 0..3);
    map.optimise(&mut pool[2]).unwrap();
    let mut other = pool.remove(0);
    let (done, finished) = mpsc::channel();
    let reader = map.enter();
    thread::scope(|scope| {
        let (begun, begins) = mpsc::channel();
        let map = &map;
        let other = &mut other;
        scope.spawn(move || {
            begun.send(()).unwrap();
            map.optimise(other).unwrap();
            done.send(()).unwrap();
        });
        begins.recv().unwrap();
        assert!(finished.recv_timeout(Duration::from_millis(100)).is_err(), "it did not wait");
        let error = HvoError::Map(VmemmapError::InsideReader);
        assert_eq!(map.optimise(&mut pool[0]), Err(error));
        assert_eq!(map.restore(&mut pool[1]), Err(error));
        let report = map.restore_batch(&mut pool);
        assert_eq!((report.already, report.failed, report.error), (1, 1, Some((1, error))));
        let mut slots: Vec<_> = pool.drain(..).map(Some).collect();
        assert_eq!(map.free_batch(&mut slots, |_| panic!("it is inside a reader")).failed, 1);
        pool.extend(slots.into_iter().flatten());
        drop(reader);
        finished.recv().unwrap();
    });
    assert!(other.has_shared_tails());
    assert_eq!(map.restore_batch(&mut pool).done, 1);
    map.restore(&mut other).unwrap();
    balance(&map, &world.frames);
}
