// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of addresses, frame numbers and ranges, against plain integers.

use mmkit_addr::{Order, Pfn, PfnRange, PhysAddr, PhysRange, VirtAddr, VirtRange};
use proptest::prelude::*;

const TOP: u64 = 1 << Pfn::BITS;

/// Frame numbers near 0, near the top, or anywhere.
fn frame() -> impl Strategy<Value = u64> {
    prop_oneof![0..5000u64, TOP - 5000..TOP, 0..TOP]
}

fn range() -> impl Strategy<Value = PfnRange> {
    (frame(), prop_oneof![0..5000u64, 0..TOP]).prop_map(|(start, frames)| {
        PfnRange::new(Pfn::new(start).expect("below the top"), frames.min(TOP - start)).expect("clamped")
    })
}

fn small_range() -> impl Strategy<Value = PfnRange> {
    (frame(), 0..300u64).prop_map(|(start, frames)| {
        PfnRange::new(Pfn::new(start).expect("below the top"), frames.min(TOP - start)).expect("clamped")
    })
}

fn order() -> impl Strategy<Value = Order> {
    (0..=Order::MAX.get()).prop_map(|order| Order::new(order).expect("in range"))
}

/// Virtual addresses near 0, near the top, or anywhere.
fn virt() -> impl Strategy<Value = u64> {
    prop_oneof![0..5000u64, u64::MAX - 5000..=u64::MAX, (1u64 << 63) - 5000..1u64 << 63, any::<u64>()]
}

proptest! {
    #[test]
    fn blocks_tile_exactly_and_are_aligned_and_maximal(range in range(), max in prop_oneof![Just(9u8), Just(18), 6..=51u8]) {
        let max = Order::new(max).expect("in range");
        // Bounds the number of blocks that the largest ranges are cut into.
        let frames = range.frames().min(max.frames().saturating_mul(1000) | max.mask());
        let range = PfnRange::new(range.start(), frames).expect("shorter");
        let (lower, upper) = range.blocks(max).size_hint();
        let blocks: Vec<_> = range.blocks(max).collect();
        prop_assert!(lower <= blocks.len() && blocks.len() <= upper.expect("known"));
        let mut next = range.start().get();
        for (pfn, order) in &blocks {
            prop_assert_eq!(pfn.get(), next);
            prop_assert!(*order <= max && pfn.is_aligned(*order));
            next += order.frames();
            prop_assert!(next <= range.end());
            // Maximal: the block twice as large is over the limit, misaligned, or past the end.
            let larger = 2 * order.frames();
            prop_assert!(*order == max || pfn.get() % larger != 0 || pfn.get() + larger > range.end());
        }
        prop_assert_eq!(next, range.end());
        // No two neighbours could be one block.
        for pair in blocks.windows(2) {
            let ((low, order), (_, other)) = (pair[0], pair[1]);
            prop_assert!(order != other || order == max || low.get() % (2 * order.frames()) != 0);
        }
    }

    #[test]
    fn frames_are_the_integers_from_both_ends(range in small_range(), skip in 0..400usize) {
        let plain: Vec<_> = (range.start().get()..range.end()).collect();
        let forth: Vec<_> = range.iter().map(Pfn::get).collect();
        prop_assert_eq!(&forth, &plain);
        let mut back: Vec<_> = range.iter().rev().map(Pfn::get).collect();
        back.reverse();
        prop_assert_eq!(&back, &plain);
        prop_assert_eq!(range.iter().size_hint(), (plain.len(), Some(plain.len())));
        let mut iter = range.iter();
        prop_assert_eq!(iter.nth(skip).map(Pfn::get), plain.get(skip).copied());
        prop_assert_eq!(iter.count(), plain.len().saturating_sub(skip + 1));
    }

    #[test]
    fn ranges_are_sets_of_frames(a in small_range(), b in small_range(), shift in 0..600u64, cut in 0..300u64) {
        // Bring the two near each other, so that they often meet.
        let start = Pfn::new((a.start().get() + shift).min(TOP - 1)).expect("below the top");
        let b = PfnRange::new(start, b.frames().min(TOP - start.get())).expect("clamped");
        let both: Vec<_> = a.iter().filter(|pfn| b.contains(*pfn)).collect();
        let met: Vec<_> = a.intersection(b).into_iter().flatten().collect();
        prop_assert_eq!(&met, &both);
        prop_assert_eq!(a.intersection(b), b.intersection(a));
        prop_assert_eq!(a.overlaps(b), !both.is_empty());
        prop_assert_eq!(a.contains_range(b), b.iter().all(|pfn| a.contains(pfn)));
        prop_assert_eq!(a.last(), a.iter().next_back());
        match a.split_at(cut) {
            Some((low, high)) => {
                prop_assert_eq!(low.frames(), cut);
                let joined: Vec<_> = low.iter().chain(high).collect();
                prop_assert_eq!(joined, a.iter().collect::<Vec<_>>());
            }
            None => prop_assert!(cut > a.frames() || a.start().get() + cut == TOP),
        }
    }

    #[test]
    fn the_aligned_part_is_the_blocks_of_the_order(range in small_range(), order in 0..10u8) {
        let order = Order::new(order).expect("in range");
        let whole: Vec<_> = range.iter().filter(|pfn| range.contains_range(PfnRange::block(*pfn, order))).collect();
        let part: Vec<_> = range.aligned_part(order).into_iter().flatten().collect();
        prop_assert_eq!(part, whole);
        prop_assert!(range.aligned_part(order).is_none_or(|part| part.is_aligned(order)));
    }

    #[test]
    fn alignment_of_frames(pfn in frame(), order in order()) {
        let at = Pfn::new(pfn).expect("below the top");
        let size = order.frames();
        prop_assert_eq!(at.align_down(order).get(), pfn / size * size);
        prop_assert_eq!(at.align_up(order).map(Pfn::get), Some(pfn.div_ceil(size) * size).filter(|up| *up < TOP));
        prop_assert_eq!(at.index_in(order), pfn % size);
        prop_assert_eq!(at.is_aligned(order), pfn % size == 0);
        prop_assert!(at.is_aligned(at.natural_order()));
        prop_assert!(PfnRange::block(at, order).contains(at));
    }

    #[test]
    fn frames_and_addresses_convert_back(pfn in frame(), offset: u64, shift in 0..70u32) {
        let at = Pfn::new(pfn).expect("below the top");
        let wide = u128::from(pfn).checked_shl(shift).expect("small shift");
        match at.phys(shift) {
            Some(addr) => {
                prop_assert_eq!(u128::from(addr.get()), wide);
                let inside = addr.checked_add(offset & ((1 << shift) - 1)).expect("inside the frame");
                prop_assert_eq!(inside.pfn(shift), Some(at));
                prop_assert_eq!(inside.align_down(shift), addr);
            }
            None => prop_assert!(shift >= 63 || wide > u128::from(PhysAddr::MAX.get())),
        }
    }

    #[test]
    fn alignment_of_addresses(addr in virt(), shift in 0..70u32) {
        let size = 1u128 << shift;
        let wide = u128::from(addr);
        let virt = VirtAddr::new(addr);
        prop_assert_eq!(u128::from(virt.align_down(shift).get()), wide / size * size);
        let up = wide.div_ceil(size) * size;
        prop_assert_eq!(virt.align_up(shift).map(|up| u128::from(up.get())), Some(up).filter(|up| *up < 1 << 64));
        prop_assert_eq!(virt.is_aligned(shift), wide % size == 0);
        prop_assert_eq!(PhysAddr::new(addr).is_some(), addr < 1 << 63);
        if let Some(phys) = PhysAddr::new(addr) {
            prop_assert_eq!(u128::from(phys.align_down(shift).get()), wide / size * size);
            prop_assert_eq!(phys.align_up(shift).map(|up| u128::from(up.get())), Some(up).filter(|up| *up < 1 << 63));
        }
    }

    #[test]
    fn pieces_tile_and_do_not_cross(start in virt(), bytes in 0..100_000u64, shift in 8..70u32) {
        if let Some(range) = VirtRange::new(VirtAddr::new(start), bytes) {
            let mut at = start;
            let mut left = bytes;
            for piece in range.pieces(shift) {
                prop_assert_eq!(piece.start().get(), at);
                prop_assert!(!piece.is_empty() && piece.bytes() <= left);
                let last = piece.last().expect("not empty");
                prop_assert_eq!(piece.start().align_down(shift), last.align_down(shift));
                left -= piece.bytes();
                prop_assert!(left == 0 || last.checked_add(1).expect("more follows").is_aligned(shift));
                at = at.wrapping_add(piece.bytes());
            }
            prop_assert_eq!(left, 0);
        } else {
            prop_assert!(u128::from(start) + u128::from(bytes) > 1 << 64);
        }
        if let Some(range) = PhysAddr::new(start).and_then(|start| PhysRange::new(start, bytes)) {
            let mut at = start;
            for piece in range.pieces(shift) {
                prop_assert_eq!(piece.start().get(), at);
                prop_assert!(!piece.is_empty());
                at = piece.end();
                let last = PhysAddr::new(at - 1).expect("in range");
                prop_assert_eq!(piece.start().align_down(shift), last.align_down(shift));
                prop_assert!(at == range.end() || at % (1u64 << shift.min(63)) == 0);
            }
            prop_assert_eq!(at, range.end());
        }
    }

    #[test]
    fn virtual_ranges_are_sets_of_bytes(start in virt(), a in 0..50u64, shift in 0..60u64, b in 0..50u64, cut in 0..60u64) {
        let base = u128::from(start);
        let (Some(one), Some(two)) = (
            VirtRange::new(VirtAddr::new(start), a),
            start.checked_add(shift).and_then(|start| VirtRange::new(VirtAddr::new(start), b)),
        ) else { return Ok(()) };
        let bytes: Vec<_> = (base..base + 120)
            .filter_map(|addr| u64::try_from(addr).ok())
            .filter(|addr| one.contains(VirtAddr::new(*addr)) && two.contains(VirtAddr::new(*addr)))
            .collect();
        let met = one.intersection(two);
        prop_assert_eq!(met, two.intersection(one));
        prop_assert_eq!(met.is_some(), one.overlaps(two));
        prop_assert_eq!(met.map(|met| (met.start().get(), met.bytes())), bytes.first().map(|at| (*at, bytes.len() as u64)));
        if let Some((low, high)) = one.split_at(cut) {
            prop_assert_eq!((low.start(), low.bytes()), (one.start(), cut));
            prop_assert_eq!((Some(high.start()), high.bytes()), (one.start().checked_add(cut), a - cut));
        } else {
            prop_assert!(cut > a || base + u128::from(cut) >= 1 << 64);
        }
    }

    #[test]
    fn frames_of_a_byte_range(start in 0..1u64 << 40, bytes in 0..200_000u64, shift in 12..17u32) {
        let range = PhysRange::new(PhysAddr::new(start).expect("in range"), bytes).expect("in range");
        let size = 1u64 << shift;
        let (first, end) = (start / size, (start + bytes).div_ceil(size));
        let touched: Vec<_> = (first..end)
            .filter(|frame| frame * size < range.end() && (frame + 1) * size > start && bytes > 0).collect();
        let inside: Vec<_> = (first..end)
            .filter(|frame| frame * size >= start && (frame + 1) * size <= range.end()).collect();
        let frames = |pfns: Option<PfnRange>| pfns.into_iter().flatten().map(Pfn::get).collect::<Vec<_>>();
        prop_assert_eq!(frames(range.frames_touched(shift)), touched);
        prop_assert_eq!(frames(range.frames_inside(shift)), inside);
        if let Some(pfns) = range.frames_inside(shift) {
            let back = PhysRange::from_pfns(pfns, shift).expect("in range");
            prop_assert_eq!(back.intersection(range), Some(back));
        }
    }
}

#[test]
fn tops_of_the_number_lines() {
    let last = PfnRange::new(Pfn::MAX, 1).expect("the last frame");
    assert_eq!(last.end(), TOP);
    assert_eq!(last.last(), Some(Pfn::MAX));
    assert_eq!(last.iter().collect::<Vec<_>>(), [Pfn::MAX]);
    assert_eq!(last.blocks(Order::MAX).collect::<Vec<_>>(), [(Pfn::MAX, Order::ZERO)]);
    assert_eq!(last.split_at(1), None);
    assert_eq!(PfnRange::new(Pfn::MAX, 2), None);
    assert_eq!(PfnRange::new(Pfn::MAX, u64::MAX), None);
    assert_eq!(PfnRange::between(Pfn::MAX, Pfn::ZERO), None);
    let all = PfnRange::new(Pfn::ZERO, TOP).expect("everything");
    assert_eq!(all.blocks(Order::MAX).count(), 2);

    let byte = PhysRange::new(PhysAddr::MAX, 1).expect("the last byte");
    assert_eq!(byte.end(), 1 << 63);
    assert_eq!(PhysRange::new(PhysAddr::MAX, 2), None);
    assert_eq!(byte.pieces(12).collect::<Vec<_>>(), [byte]);
    // 2^63 / 2^10 frames are one more than the numbers there are.
    assert_eq!(byte.frames_touched(10), None);
    assert_eq!(byte.frames_touched(12).map(|pfns| pfns.end()), Some(1 << 51));
    assert_eq!(PhysRange::from_pfns(last, 12), None);
    assert_eq!(PhysRange::from_pfns(last, 64), None);
    assert_eq!(PhysRange::from_pfns(PfnRange::new(Pfn::ZERO, TOP).expect("all"), 63), None);

    let top = VirtRange::new(VirtAddr::MAX, 1).expect("the last byte");
    assert_eq!((top.end(), top.last()), (None, Some(VirtAddr::MAX)));
    assert_eq!(VirtRange::new(VirtAddr::MAX, 2), None);
    assert_eq!(VirtRange::between(VirtAddr::MAX, VirtAddr::ZERO), None);
}

#[test]
fn debug_forms_are_short() {
    let range = PfnRange::new(Pfn::new(0x200).expect("in range"), 512).expect("in range");
    assert_eq!(format!("{range:?}"), "pfns 0x200..0x400");
    assert_eq!(format!("{:?}", range.start()), "pfn 0x200");
    assert_eq!(format!("{:?}", Order::MAX), "order 51");
    assert_eq!(format!("{:?}", PhysRange::from_pfns(range, 12).expect("fits")), "phys 0x200000..0x400000");
    let virt = VirtRange::new(VirtAddr::new(0x1000), 0x2000).expect("in range");
    assert_eq!(format!("{virt:?}"), "virt 0x1000+0x2000");
}
