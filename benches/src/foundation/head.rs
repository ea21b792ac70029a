// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a frame number to the head of its compound.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::{Order, Pfn};
use mmkit_page::{MemMap, Page, Place, SliceMap};

use crate::figure::Figure;
use crate::pair::{Effort, pair};

/// Descriptors that fill 256 KiB.
pub(crate) const FRAMES: u64 = 4096;
const ORDER: u8 = 9;

/// The frames of 256 KiB of descriptors, each once, in an order that no prefetcher guesses.
pub(crate) fn shuffled() -> Vec<Pfn> {
    let mut pfns: Vec<Pfn> = (0..FRAMES).filter_map(Pfn::new).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..pfns.len()).rev() {
        // xorshift64: only the order has to be the same each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pfns.swap(last, (state % (last as u64 + 1)) as usize);
    }
    pfns
}

/// What the two figures of one map are called.
pub(crate) struct Keys {
    /// Each lookup waits for the one before.
    pub(crate) latency: &'static str,
    /// Lookups overlap as far as the processor can.
    pub(crate) throughput: &'static str,
    /// What the first should be at most.
    pub(crate) goal: Option<f64>,
}

/// Times head lookups through `map` against one load and one mask, on the same lines in the same order.
///
/// Twice: once each lookup needs the result of the one before, as where the head is used for what comes next; once
/// they are independent. `info` is the address of the second word of the first descriptor.
pub(crate) fn against_load_and_mask<M: MemMap>(
    effort: Effort,
    map: &M,
    info: NonNull<AtomicU64>,
    keys: Keys,
) -> [Figure; 2] {
    let pfns = shuffled();
    let reader = map.enter();
    let head = |pfn: u64| {
        let page = Pfn::new(pfn).and_then(|pfn| reader.page(pfn));
        page.map_or(0, |page| page.head().get())
    };
    let bare = |pfn: u64| {
        // SAFETY: below the number of descriptors, each of which is eight words.
        let word = unsafe { info.add(pfn as usize * 8) };
        // SAFETY: the second word of a descriptor, which is an atomic of 8 bytes, readable while `map` is borrowed.
        let word = unsafe { word.as_ref() };
        pfn & word.load(Ordering::Relaxed)
    };
    let latency = pair(effort, FRAMES, || chained(&pfns, head), || chained(&pfns, bare));
    let throughput = pair(effort, FRAMES, || independent(&pfns, head), || independent(&pfns, bare));
    [
        Figure::timed(
            keys.latency,
            "head from a frame number, 256 KiB of descriptors, random order, each lookup needs the last / one load and one mask",
            keys.goal,
            latency,
        ),
        Figure::timed(keys.throughput, "the same, lookups independent of each other", None, throughput),
    ]
}

/// Each number depends on the result before it, in a way that does not change it.
#[inline(always)]
pub(crate) fn chained(pfns: &[Pfn], lookup: impl Fn(u64) -> u64) {
    let nothing = black_box(0);
    let mut last = 0;
    for &pfn in black_box(pfns) {
        last = lookup(pfn.get() ^ (last & nothing));
    }
    black_box(last);
}

#[inline(always)]
pub(crate) fn independent(pfns: &[Pfn], lookup: impl Fn(u64) -> u64) {
    let mut sum = 0;
    for &pfn in black_box(pfns) {
        sum ^= lookup(pfn.get());
    }
    black_box(sum);
}

/// A benchmark of wrong answers would be worth nothing.
pub(crate) fn assert_heads<M: MemMap>(map: &M, order: Order) {
    for pfn in (0..FRAMES).filter_map(Pfn::new) {
        assert_eq!(map.head(pfn), Some(pfn.align_down(order)), "head of {pfn:?}");
    }
}

/// `head_lookup_ratio`: through a slice of descriptors.
pub(crate) fn slice(effort: Effort) -> Option<[Figure; 2]> {
    let mut pages: Vec<Page> = (0..FRAMES).map(|_| Page::new()).collect();
    let order = Order::new(ORDER)?;
    let map = SliceMap::new(&mut pages, Pfn::ZERO)?;
    map.initialise(map.range(), Place::default()).ok()?;
    for head in (0..FRAMES).step_by(order.frames() as usize).filter_map(Pfn::new) {
        // The handle is forgotten: the compound stays as it is.
        let _ = map.claim_joined(head, order).ok()?.allocate().prep().ok()?;
    }
    assert_heads(&map, order);
    // SAFETY: a slice map is read without a guard.
    let info = unsafe { map.descriptor(Pfn::ZERO) }?.cast::<AtomicU64>();
    // SAFETY: the second word of the first descriptor.
    let info = unsafe { info.add(1) };
    let keys = Keys { latency: "head_lookup_ratio", throughput: "head_throughput_ratio", goal: Some(1.2) };
    Some(against_load_and_mask(effort, &map, info, keys))
}
