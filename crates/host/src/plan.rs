// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long runs of identical tails should be.

use mmkit_addr::{Compound, Order};

/// Bytes that one mapping costs the kernel, as reckoned here: its description, and its share of the tree of mappings
/// and of the file's list of them. Page tables are not in it: they are the same however the tails are mapped.
pub const MAPPING_BYTES: u64 = 256;

/// Mappings that one deduplicated compound takes, where identical tails come in runs of `2^tails` frames: one for the
/// page that it owns, and one for each run over the others. At least 1, also where there is nothing to share.
///
/// 2 for 2M of 4K with runs of 8; 9 for 1G of 4K with runs of 512.
#[must_use]
pub const fn mappings_per_compound(compound: Compound, tails: Order) -> u64 {
    match compound.vmemmap_pages() {
        None | Some(1) => 1,
        // Runs start at page numbers that they divide: the first one has lost a page to the owned one, and is empty
        // where runs are of one page.
        Some(pages) => {
            let runs = pages >> tails.get();
            match tails.get() {
                0 => runs,
                _ if runs == 0 => 2,
                _ => runs + 1,
            }
        }
    }
}

/// The length of tail runs, log2 of frames, for a space that holds `compounds` of this kind with at most `mappings`
/// mappings; `None` where no length will do, so that they should go elsewhere.
///
/// Long runs save mappings and cost memory: all `2^tails` frames of a run are the same bytes. Of the lengths that fit
/// the budget, this is the one for which frames and [`MAPPING_BYTES`] for each mapping add up to the least; the shorter
/// of two that are equal.
///
/// With 4K base pages 16 GiB at 2M give runs of 8 frames (16384 mappings), and 1 TiB at 1G runs of 512 (9216 mappings,
/// 2 MiB of tails).
#[must_use]
pub fn tail_frames_order(compound: Compound, compounds: u64, mappings: u64) -> Option<Order> {
    let pages = compound.vmemmap_pages().unwrap_or(1);
    let frame_bytes = compound.bytes() >> compound.order().get();
    let needed = |tails| compounds.saturating_mul(mappings_per_compound(compound, tails));
    (0..=pages.ilog2() as u8).filter_map(Order::new).filter(|&tails| needed(tails) <= mappings).min_by_key(
        |&tails| {
            let frames = frame_bytes.saturating_mul(tails.frames());
            frames.saturating_add(needed(tails).saturating_mul(MAPPING_BYTES))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmkit_addr::Geometry;

    fn compound(geometry: Geometry, order: u8) -> Compound {
        geometry.compound(Order::new(order).unwrap()).unwrap()
    }

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    #[test]
    fn mappings_are_counted() {
        let (small, large) = (compound(Geometry::X86_64, 9), compound(Geometry::X86_64, 18));
        let small = [0, 1, 2, 3, 4].map(|tails| mappings_per_compound(small, order(tails)));
        assert_eq!(small, [8, 5, 3, 2, 2]);
        let large = [0, 1, 9, 12, 13].map(|tails| mappings_per_compound(large, order(tails)));
        assert_eq!(large, [4096, 2049, 9, 2, 2]);
        assert_eq!(mappings_per_compound(compound(Geometry::X86_64, 6), order(3)), 1);
        assert_eq!(mappings_per_compound(compound(Geometry::X86_64, 7), order(0)), 2);
    }

    #[test]
    fn runs_fit_the_budget_and_cost_the_least() {
        let (small, large) = (compound(Geometry::X86_64, 9), compound(Geometry::X86_64, 18));
        assert_eq!(tail_frames_order(small, 8192, 65_000), Some(order(3)));
        assert_eq!(tail_frames_order(large, 1024, 65_000), Some(order(9)));
        // A few compounds: one tail frame and a mapping for each page is the least.
        assert_eq!(tail_frames_order(small, 1, 65_000), Some(order(0)));
        // The budget wins over the cost.
        assert_eq!(tail_frames_order(small, 1, 3), Some(order(2)));
        assert_eq!(tail_frames_order(large, 1024, 3 * 1024), Some(order(11)));
        assert_eq!(tail_frames_order(small, 8192, 16_384), Some(order(3)));
        assert_eq!(tail_frames_order(small, 8192, 16_383), None);
        assert_eq!(tail_frames_order(small, u64::MAX, 65_000), None);
        // Nothing to share: one mapping each.
        assert_eq!(tail_frames_order(compound(Geometry::X86_64, 0), 7, 7), Some(order(0)));
    }
}
