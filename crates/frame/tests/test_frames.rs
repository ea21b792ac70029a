// SPDX-License-Identifier: MIT OR Apache-2.0
//! The test allocator notices what it must, fails when told to, and hands out what was asked for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{NodeId, Order, Pfn, ZoneId};
use mmkit_frame::test_util::{
    POISON_FREE, POISON_FRESH, TestConfig, TestFrames, Violation,
    ViolationKind::{self, *},
};
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Request};

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

fn pfn(pfn: u64) -> Pfn {
    Pfn::new(pfn).unwrap()
}

fn node(node: u16) -> NodeId {
    NodeId::new(node).unwrap()
}

fn request(k: u8) -> Request {
    Request::new(order(k))
}

/// A free that may be wrong: this allocator refuses what the contract forbids.
fn free(t: &TestFrames, at: Pfn, k: u8) {
    // SAFETY: the caller uses the block no more; `TestFrames` records every other breach and ignores the call.
    unsafe { t.deallocate(at, order(k)) }
}

/// A split that may be wrong, likewise.
fn split(t: &TestFrames, at: Pfn, from: u8, to: u8) {
    // SAFETY: as for `free`.
    unsafe { t.split(at, order(from), order(to)) }
}

fn write(t: &TestFrames, at: Pfn, word: usize, value: u64) {
    let frames = t.frames();
    // SAFETY: no other thread is using the frame; the allocator reads it only through words.
    unsafe { frames.words(at) }.unwrap()[word].store(value, Relaxed);
}

fn read(t: &TestFrames, at: Pfn) -> Vec<u64> {
    let frames = t.frames();
    // SAFETY: no other thread is using the frame.
    unsafe { frames.words(at) }.unwrap().iter().map(|word| word.load(Relaxed)).collect()
}

/// Breaks one promise, expects exactly this violation, and that nothing else happened.
#[track_caller]
fn expect(t: &TestFrames, at: Pfn, k: u8, kind: ViolationKind, breach: impl FnOnce()) {
    let before = t.snapshot();
    breach();
    assert_eq!(t.take_violations(), [Violation { pfn: at, order: order(k), kind }]);
    assert_eq!(t.snapshot(), before);
}

#[test]
fn a_double_free_is_noticed() {
    let t = TestFrames::with_frames(16);
    let a = t.allocate(request(1)).unwrap();
    free(&t, a, 1);
    expect(&t, a, 1, DoubleFree, || free(&t, a, 1));
    expect(&t, a, 0, DoubleFree, || free(&t, a, 0));
}

#[test]
fn a_free_of_a_frame_never_handed_out_is_noticed() {
    let t = TestFrames::with_frames(16);
    expect(&t, pfn(3), 0, NeverAllocated, || free(&t, pfn(3), 0));
    expect(&t, pfn(1 << 30), 0, NeverAllocated, || free(&t, pfn(1 << 30), 0));
    expect(&t, Pfn::MAX, 0, NeverAllocated, || free(&t, Pfn::MAX, 0));
}

#[test]
fn a_free_at_the_wrong_order_or_place_is_noticed() {
    let t = TestFrames::with_frames(64);
    let a = t.allocate(request(2)).unwrap();
    let kind = WrongOrder { owned_pfn: a, owned_order: order(2) };
    expect(&t, a, 1, kind, || free(&t, a, 1));
    expect(&t, a, 3, kind, || free(&t, a, 3));
    let inside = a.checked_add(2).unwrap();
    expect(&t, inside, 1, kind, || free(&t, inside, 1));

    // Around it: the block that is out does not start where the free does.
    free(&t, a, 2);
    let low = t.allocate(request(0)).unwrap();
    let b = t.allocate(request(1)).unwrap();
    free(&t, low, 0);
    let kind = WrongOrder { owned_pfn: b, owned_order: order(1) };
    expect(&t, low, 2, kind, || free(&t, low, 2));
    free(&t, b, 1);
    t.assert_no_leaks();
}

#[test]
fn a_split_changes_how_a_block_goes_back() {
    let t = TestFrames::with_frames(64);
    let a = t.allocate(request(3).zeroed()).unwrap();
    write(&t, a, 7, 42);
    split(&t, a, 3, 1);
    split(&t, a, 1, 1);
    assert_eq!(read(&t, a)[7], 42, "contents stay");
    let kind = WrongOrder { owned_pfn: a, owned_order: order(1) };
    expect(&t, a, 3, kind, || free(&t, a, 3));
    let second = a.checked_add(2).unwrap();
    split(&t, second, 1, 0);
    for offset in [0, 4, 6] {
        free(&t, a.checked_add(offset).unwrap(), 1);
    }
    for offset in [2, 3] {
        free(&t, a.checked_add(offset).unwrap(), 0);
    }
    assert_eq!((t.stats().splits, t.stats().frees), (3, 5));
    t.assert_no_leaks();
}

#[test]
fn wrong_splits_are_noticed() {
    let t = TestFrames::with_frames(64);
    let a = t.allocate(request(2)).unwrap();
    expect(&t, a, 2, SplitUpwards { to: order(3) }, || split(&t, a, 2, 3));
    expect(&t, a, 3, SplitNotOwned, || split(&t, a, 3, 0));
    let inside = a.checked_add(1).unwrap();
    expect(&t, inside, 0, SplitNotOwned, || split(&t, inside, 0, 0));
    free(&t, a, 2);
    expect(&t, a, 2, SplitNotOwned, || split(&t, a, 2, 0));
}

#[test]
fn a_write_to_a_free_frame_is_noticed_at_the_next_hand_out() {
    let t = TestFrames::with_frames(16);
    let a = t.allocate(request(0).zeroed()).unwrap();
    write(&t, a, 3, 1);
    free(&t, a, 0);
    write(&t, a, 5, 0x1234);
    assert_eq!(t.allocate(request(0).zeroed()), Ok(a));
    let kind = WrittenWhileFree { offset: 40, found: 0x1234 };
    assert_eq!(t.take_violations(), [Violation { pfn: a, order: Order::ZERO, kind }]);
    assert!(read(&t, a).iter().all(|&word| word == 0), "and it is zeroed all the same");
}

#[test]
fn a_write_to_a_free_frame_is_noticed_without_a_hand_out() {
    let t = TestFrames::with_frames(16);
    write(&t, pfn(9), 511, 7);
    write(&t, pfn(4), 0, 8);
    let found = |at, offset, found| Violation {
        pfn: pfn(at),
        order: Order::ZERO,
        kind: WrittenWhileFree { offset, found },
    };
    let all = [found(4, 0, 8), found(9, 4088, 7)];
    assert_eq!(t.violations(), all);
    assert_eq!(t.take_violations(), all, "each is reported once");
    t.assert_clean();

    // One byte everywhere, but not the poison.
    (0..512).for_each(|word| write(&t, pfn(4), word, 0));
    assert_eq!(t.take_violations(), [found(4, 0, 0)]);
}

#[test]
fn every_frame_of_a_block_is_checked_and_filled() {
    let t = TestFrames::with_frames(4);
    for at in 0..4 {
        write(&t, pfn(at), 1, at);
    }
    let a = t.allocate(request(2)).unwrap();
    let noticed: Vec<u64> = t.take_violations().iter().map(|violation| violation.pfn.get()).collect();
    assert_eq!(noticed, [0, 1, 2, 3]);
    for at in 0..4 {
        assert_eq!(read(&t, pfn(at)), [u64::from_ne_bytes([POISON_FRESH; 8]); 512]);
    }
    free(&t, a, 2);
}

#[test]
fn memory_is_poisoned_or_zeroed_whenever_it_is_looked_at() {
    let t = TestFrames::with_frames(16);
    let fresh = [u64::from_ne_bytes([POISON_FRESH; 8]); 512];
    let free_ = [u64::from_ne_bytes([POISON_FREE; 8]); 512];
    assert_eq!(t.stats().backed_frames, 0);

    // First looked at while out.
    let a = t.allocate(request(1)).unwrap();
    assert_eq!(t.stats().backed_frames, 0, "nobody has looked");
    assert_eq!(read(&t, a), fresh);
    free(&t, a, 1);
    assert_eq!(read(&t, a), free_);
    // First looked at while free; the second frame of the block.
    let second = a.checked_add(1).unwrap();
    assert_eq!(read(&t, second), free_);

    let a = t.allocate(request(1).zeroed()).unwrap();
    assert_eq!(read(&t, a), [0; 512]);
    assert_eq!(read(&t, second), [0; 512]);
    let b = t.allocate(request(1).zeroed()).unwrap();
    assert_eq!(read(&t, b), [0; 512], "first looked at after a zeroed hand-out");
    free(&t, a, 1);
    free(&t, b, 1);
    assert_eq!(t.stats().backed_frames, 3);
    t.assert_no_leaks();
}

#[test]
fn leaks_are_listed() {
    let t = TestFrames::with_frames(64);
    let a = t.allocate(request(0)).unwrap();
    let b = t.allocate(request(3).movable()).unwrap();
    free(&t, a, 0);
    assert_eq!(t.outstanding(), 8);
    assert_eq!(t.leaks(), [Violation { pfn: b, order: order(3), kind: Leaked }]);
    let out = t.outstanding_blocks();
    assert_eq!((out.len(), out[0].pfn, out[0].order, out[0].call), (1, b, order(3), 2));
    assert_eq!(out[0].request, request(3).movable());
    t.assert_clean();
    assert!(catch_unwind(AssertUnwindSafe(|| t.assert_no_leaks())).is_err());
    free(&t, b, 3);
    t.assert_no_leaks();
}

#[test]
fn a_violation_that_nobody_took_fails_at_drop() {
    let t = TestFrames::with_frames(16);
    free(&t, pfn(0), 0);
    let message = catch_unwind(AssertUnwindSafe(|| drop(t))).unwrap_err();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(message.contains("pfn 0x0, order 0: given back but never handed out"), "{message}");

    let t = TestFrames::with_frames(16);
    write(&t, pfn(0), 0, 1);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(t))).is_err(), "a write nobody looked for, too");

    let t = TestFrames::with_frames(16);
    free(&t, pfn(0), 0);
    assert!(catch_unwind(AssertUnwindSafe(|| t.assert_clean())).is_err());
}

#[test]
fn panics_at_once_where_configured() {
    let t = TestFrames::new(TestConfig::new().range(0, 16).panic_at_once());
    assert!(catch_unwind(AssertUnwindSafe(|| free(&t, pfn(0), 0))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| split(&t, pfn(0), 0, 0))).is_err());
    write(&t, pfn(0), 0, 1);
    assert!(catch_unwind(AssertUnwindSafe(|| t.allocate(request(0)))).is_err());
    t.assert_clean();
}

#[test]
fn nodes_and_zones_are_kept_to() {
    let config = TestConfig::new().range_of(0, 8, 0, 0).range_of(1 << 40, 8, 1, 0).range_of(64, 8, 1, 1);
    let t = TestFrames::new(config);
    let zone = |k| ZoneId::new(k).unwrap();
    let take = |request: Request| t.allocate(request).map(Pfn::get);
    assert_eq!(take(request(2)), Ok(0), "node 0 by default");
    assert_eq!(take(request(2).on_node(node(1))), Ok(64), "lowest of node 1");
    assert_eq!(take(request(2).on_node(node(1)).in_zone(zone(0))), Ok(1 << 40));
    assert_eq!(take(request(2).in_zone(zone(1))), Ok(68), "the zone is kept, the node is not");
    let nowhere = request(0).in_zone(zone(1));
    assert_eq!(take(nowhere), Err(AllocError { request: nowhere }), "the zone is full");
    let strict = request(3).strict();
    assert_eq!(take(strict), Err(AllocError { request: strict }), "node 0 has no 8 frames in a row");
    assert_eq!(take(request(2).strict()), Ok(4));
    assert_eq!(take(request(2)), Ok((1 << 40) + 4), "falls back");
    assert_eq!(take(request(0)).unwrap_err().request.order, Order::ZERO, "all is out");
    assert_eq!((t.outstanding_on(node(0)), t.outstanding_on(node(1)), t.outstanding_on(node(2))), (8, 16, 0));
    let range = t.range_of(pfn(66)).unwrap();
    assert_eq!((range.node, range.zone), (node(1), zone(1)));
    assert_eq!(t.range_of(pfn(8)), None);
}

#[test]
fn failures_on_demand() {
    let t = TestFrames::with_frames(1024);
    let pattern =
        |calls: usize| -> Vec<bool> { (0..calls).map(|_| t.allocate(request(0)).is_ok()).collect() };
    t.fail_nth(3);
    assert_eq!(pattern(5), [true, true, false, true, true]);
    t.fail_every(2);
    assert_eq!(pattern(5), [true, false, true, false, true]);
    t.heal();
    assert_eq!(pattern(3), [true; 3]);
    t.fail_nth(1);
    t.heal();
    assert_eq!(pattern(1), [true]);

    t.set_budget(3);
    assert_eq!(pattern(5), [true, true, true, false, false]);
    let back = t.outstanding_blocks()[0].pfn;
    free(&t, back, 0);
    assert!(t.allocate(request(1)).is_err(), "two frames do not fit into one");
    assert_eq!(pattern(2), [true, false], "what went back may be taken again");
    t.heal();
    let stats = t.stats();
    assert_eq!((stats.calls, stats.failed, stats.injected), (22, 7, 7));
}

#[test]
fn a_node_runs_dry_on_demand() {
    let t = TestFrames::new(TestConfig::new().range_of(0, 64, 0, 0).range_of(64, 64, 1, 0));
    assert_eq!(t.allocate(request(0)), Ok(pfn(0)));
    t.set_node_budget(node(0), 1);
    assert!(t.allocate(request(1).strict()).is_err());
    assert_eq!(t.stats().injected, 1);
    assert_eq!(t.allocate(request(1)), Ok(pfn(64)), "a request that is not strict goes elsewhere");
    assert_eq!(t.allocate(request(0)), Ok(pfn(1)));
    assert_eq!(t.allocate(request(0)), Ok(pfn(66)));
    t.set_node_budget(node(1), 0);
    assert!(t.allocate(request(0)).is_err());
    free(&t, pfn(1), 0);
    assert_eq!((t.outstanding_on(node(0)), t.outstanding_on(node(1))), (1, 3));
    assert_eq!(t.allocate(request(0)), Ok(pfn(1)), "what went back may be taken again");
    t.heal();
    assert_eq!(t.allocate(request(0)), Ok(pfn(2)));
}

#[test]
fn natural_failures_are_not_injected() {
    let t = TestFrames::with_frames(3);
    assert!(t.allocate(request(2)).is_err());
    assert!(t.allocate(Request::new(Order::MAX)).is_err());
    let stats = t.stats();
    assert_eq!((stats.calls, stats.failed, stats.injected, stats.frames_out), (2, 2, 0, 0));
}

/// Takes three blocks; where `keeps` is set, it forgets the first one on an error.
fn triple(t: &TestFrames, keeps: bool) -> Result<(), AllocError> {
    let frames = t.frames();
    let a = frames.allocate_owned(request(0))?;
    let b = match frames.allocate_owned(request(1)) {
        Ok(b) => b,
        Err(error) => {
            if keeps {
                let _ = a.release();
            }
            return Err(error);
        }
    };
    let c = frames.allocate_owned(request(2)).ok(); // does without, if need be
    drop((a, b, c));
    Ok(())
}

#[test]
fn the_sweep_fails_each_allocation_in_turn() {
    let t = TestFrames::with_frames(64);
    t.fail_every(1);
    let mut ks = Vec::new();
    let sweep = t.for_each_failure(|k| {
        ks.push(k);
        triple(&t, false)
    });
    assert_eq!(ks, [1, 2, 3, 4]);
    assert_eq!((sweep.refused, sweep.survived), (2, 1));
    t.assert_no_leaks();
}

#[test]
fn the_sweep_catches_what_is_left_behind() {
    let message = |t: &TestFrames, attempt: &dyn Fn() -> Result<(), AllocError>| {
        let payload = catch_unwind(AssertUnwindSafe(|| t.for_each_failure(|_| attempt()))).unwrap_err();
        payload.downcast_ref::<String>().unwrap().clone()
    };
    let t = TestFrames::with_frames(64);
    let said = message(&t, &|| triple(&t, true));
    assert!(said.contains("run 2") && said.contains("(pfn 0x0, order 0)"), "{said}");

    let t = TestFrames::with_frames(64);
    let said = message(&t, &|| t.allocate(request(0)).map(|_| ()));
    assert!(said.contains("run 2") && said.contains("not reached"), "success must be undone: {said}");

    let t = TestFrames::with_frames(2);
    let said = message(&t, &|| triple(&t, false));
    assert!(said.contains("failed by itself"), "{said}");

    let t = TestFrames::with_frames(64);
    let said = message(&t, &|| {
        free(&t, pfn(60), 0);
        triple(&t, false)
    });
    assert!(said.contains("never handed out"), "{said}");
}

#[test]
fn snapshots_compare_blocks_and_orders() {
    let t = TestFrames::with_frames(64);
    let a = t.allocate(request(1)).unwrap();
    let before = t.snapshot();
    let b = t.allocate(request(0)).unwrap();
    let changes = before.changes(&t.snapshot());
    assert_eq!((changes.taken, changes.given_back), (vec![(b, order(0))], vec![]));
    free(&t, b, 0);
    assert_eq!(t.snapshot(), before);
    split(&t, a, 1, 0);
    assert_ne!(t.snapshot(), before, "a split is a change");
    assert_eq!(t.snapshot().frames(), before.frames());
    assert_eq!(t.snapshot().blocks().count(), 2);
}

#[test]
fn contents_compare_every_word_of_what_is_out() {
    let t = TestFrames::with_frames(64);
    let contents = || {
        // SAFETY: this thread is the only one, and it does not write meanwhile.
        unsafe { t.contents() }
    };
    let a = t.allocate(request(1).zeroed()).unwrap();
    let second = a.checked_add(1).unwrap();
    let before = contents();
    assert_eq!(read(&t, a)[0], 0);
    assert_eq!(contents(), before, "looking changes nothing");
    write(&t, second, 17, 5);
    assert_eq!(before.changed(&contents()), [second]);
    let written = contents();
    write(&t, second, 17, 6);
    assert_eq!(written.changed(&contents()), [second]);
    write(&t, second, 17, 0);
    assert_eq!(contents(), before, "back to what it was");

    // The same block again, but not zeroed: nobody looks at its first frame in between.
    free(&t, a, 1);
    assert_eq!(t.allocate(request(1)), Ok(a));
    assert_eq!(before.changed(&contents()), [a]);
}

#[test]
fn frames_are_as_large_as_the_machine_says() {
    for (shift, words) in [(12, 512), (14, 2048), (16, 8192)] {
        let t = TestFrames::new(TestConfig::new().base_shift(shift).range(7, 3).range(1 << 50, 1));
        assert_eq!((t.base_shift(), t.frames().frame_bytes()), (shift, 1 << shift));
        let (a, b) = (t.frame(pfn(7)).unwrap(), t.frame(pfn(1 << 50)).unwrap());
        assert!(a.addr().get().is_multiple_of(1 << shift) && b.addr().get().is_multiple_of(1 << shift));
        assert_ne!(a, b);
        assert_eq!(t.frame(pfn(7)), Some(a), "stable");
        for hole in [0, 6, 10, (1 << 50) - 1, (1 << 50) + 1] {
            assert_eq!(t.frame(pfn(hole)), None, "{hole:#x} is in a hole");
        }
        assert_eq!(read(&t, pfn(7)).len(), words);
    }
}

#[test]
fn wrong_machines_are_refused() {
    let panics = |make: &dyn Fn() -> TestConfig| assert!(catch_unwind(AssertUnwindSafe(make)).is_err());
    panics(&|| TestConfig::new().base_shift(13));
    panics(&|| TestConfig::new().range(0, 0));
    panics(&|| TestConfig::new().range(1 << 52, 1));
    panics(&|| TestConfig::new().range(Pfn::MAX.get(), 2));
    panics(&|| TestConfig::new().range(0, 8).range(7, 1));
    panics(&|| TestConfig::new().range_of(0, 8, 1024, 0));
    panics(&|| TestConfig::new().range_of(0, 8, 0, 8));
    let edge = TestFrames::new(TestConfig::new().range(Pfn::MAX.get(), 1));
    assert_eq!(edge.allocate(request(0)), Ok(Pfn::MAX));
    free(&edge, Pfn::MAX, 0);
    edge.assert_no_leaks();
}

#[test]
fn threads_never_share_a_frame() {
    const ROUNDS: u64 = if cfg!(miri) { 10 } else { 500 };
    let t = TestFrames::with_frames(32);
    std::thread::scope(|scope| {
        for me in 1..=4u64 {
            let t = &t;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let Ok(block) = t.allocate(request((round % 3) as u8)) else { continue };
                    let stamp = me << 32 | round;
                    write(t, block, 0, stamp);
                    std::thread::yield_now();
                    assert_eq!(read(t, block)[0], stamp);
                    free(t, block, (round % 3) as u8);
                }
            });
        }
    });
    t.assert_no_leaks();
    assert!(t.stats().peak_frames >= 4);
}
