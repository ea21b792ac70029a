// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bundle and its guard.

use std::sync::atomic::Ordering::Relaxed;

use mmkit_addr::{Order, Pfn};
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Frames, OwnedBlock, Request};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(Frames<&TestFrames, &TestFrames>: Copy, Send, Sync);
assert_impl_all!(OwnedBlock<'static, &TestFrames, &TestFrames>: Send, Sync);
assert_not_impl_any!(OwnedBlock<'static, &TestFrames, &TestFrames>: Clone);
assert_not_impl_any!(TestFrames: Clone);
assert_impl_all!(AllocError: core::error::Error, Send, Sync);

fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

#[test]
fn words_cover_the_frame_and_nothing_else() {
    for (shift, words) in [(12, 512), (14, 2048), (16, 8192)] {
        let t = TestFrames::new(TestConfig::new().base_shift(shift).range(0, 8));
        let frames = t.frames();
        assert_eq!((frames.base_shift(), frames.frame_bytes()), (shift, words * 8));
        let block = frames.allocate_owned(Request::new(order(1)).zeroed()).unwrap();
        let first = block.words(0).unwrap();
        let second = block.words(1).unwrap();
        assert_eq!((first.len(), second.len()), (words, words));
        assert_eq!(first.as_ptr().cast(), block.frame(0).unwrap().as_ptr().cast_const());
        assert!(first.iter().chain(second).all(|word| word.load(Relaxed) == 0));
        first[words - 1].store(u64::MAX, Relaxed);
        assert!(second.iter().all(|word| word.load(Relaxed) == 0));
        assert!(block.words(2).is_none() && block.frame(2).is_none());
        assert!(block.words(u64::MAX).is_none());
        // SAFETY: the block is `block`'s; this thread, through words.
        let same = unsafe { frames.words(block.pfn()) }.unwrap();
        assert_eq!(same[words - 1].load(Relaxed), u64::MAX);
        // SAFETY: there is no such frame, so there is nothing to promise.
        assert!(unsafe { frames.words(Pfn::MAX) }.is_none());
        assert!(frames.frame(Pfn::MAX).is_none());
    }
}

#[test]
fn a_guard_gives_back_once_unless_released() {
    let t = TestFrames::with_frames(64);
    let frames = t.frames();
    let request = Request::new(order(2));

    let block = frames.allocate_owned(request).unwrap();
    assert_eq!((t.outstanding(), block.order()), (4, order(2)));
    assert_eq!(format!("{block:?}"), "owned pfn 0x0, order 2");
    drop(block);
    assert_eq!(t.outstanding(), 0);

    let pfn = frames.allocate_owned(request).unwrap().release();
    assert_eq!(t.outstanding(), 4);
    // SAFETY: released just now: it is ours to give back, and nothing uses it.
    drop(unsafe { frames.adopt(pfn, order(2)) });
    t.assert_no_leaks();
    assert_eq!(t.stats().frees, 2);

    t.fail_nth(1);
    assert_eq!(frames.allocate_owned(request).unwrap_err(), AllocError { request });
}

#[test]
fn the_bundle_works_over_objects() {
    let t = TestFrames::with_frames(64);
    let (allocator, map): (&dyn FrameAllocator, &dyn DirectMap) = (&t, &t);
    // SAFETY: both are `t`, whose `frames` promises the same.
    let frames = unsafe { Frames::new(allocator, map) };
    let mut out = [Pfn::ZERO; 2];
    frames.allocate_bulk(Request::new(order(3)), &mut out).unwrap();
    let single = frames.allocate(Request::new(order(0))).unwrap();
    assert_eq!(t.outstanding(), 17);
    assert!(frames.allocator().allocate(Request::new(order(10))).is_err());
    assert_eq!(frames.map().frame(single), t.frame(single));
    // SAFETY: the first block is ours and unused.
    unsafe { frames.split(out[0], order(3), order(2)) };
    for (pfn, k) in [(out[0], 2), (out[0].checked_add(4).unwrap(), 2), (out[1], 3), (single, 0)] {
        // SAFETY: taken, or split off, above at this order; unused; once.
        unsafe { frames.deallocate(pfn, order(k)) };
    }
    t.assert_no_leaks();
}
