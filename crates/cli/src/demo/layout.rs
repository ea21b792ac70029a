// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames are used as which pages: the list of intervals that is built, and that everything is checked against.

use std::collections::BTreeMap;

use mmkit_addr::{Geometry, Order, Pfn, PfnRange};

/// Neighbouring blocks of one order; the first begins where the range does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: PfnRange,
    pub(super) order: Order,
}

/// Pieces, lowest first, that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) pieces: Vec<Piece>,
}

impl Layout {
    /// `memory`, which is sorted and does not overlap, as blocks of at most `max`.
    ///
    /// * Where a block does not fit, at the edges, the next smaller orders stand in.
    /// * The compounds of one section share one kind of tails, so in a section the smallest of them decides.
    /// * Descriptors come by subsections: one that is memory in part only is populated whole, as single frames.
    pub(super) fn new(geometry: &Geometry, memory: &[PfnRange], max: Order) -> Self {
        let subsection = geometry.subsection_order();
        let mut blocks = Vec::new();
        for range in memory {
            let whole = range.aligned_part(subsection);
            let parts = match whole {
                Some(whole) => [(range.start().get(), whole.start().get()), (whole.end(), range.end())],
                None => [(range.start().get(), range.end()), (0, 0)],
            };
            for (start, end) in parts.into_iter().filter(|(start, end)| start < end) {
                for pfn in [start, end - 1].into_iter().filter_map(Pfn::new) {
                    blocks.push(Piece { range: PfnRange::block(pfn, subsection), order: Order::ZERO });
                }
            }
            match whole {
                // Every block is a part of a subsection, and there is nothing to cut.
                Some(range) if max <= subsection => blocks.push(Piece { range, order: max }),
                Some(range) => blocks.extend(
                    range.blocks(max).map(|(pfn, order)| Piece { range: PfnRange::block(pfn, order), order }),
                ),
                None => {}
            }
        }
        // Two ranges may have a part of the same subsection each.
        blocks.sort_by_key(|piece| piece.range.start());
        blocks.dedup();
        Self { pieces: joined(one_order_by_section(geometry, blocks)) }
    }

    /// Frames that get a descriptor.
    pub(super) fn frames(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.range.frames()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// One past the highest frame.
    pub(super) fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.range.end())
    }

    /// The ranges below [`end`](Self::end) that have no frames.
    pub(super) fn holes(&self) -> Vec<PfnRange> {
        let starts = std::iter::once(0).chain(self.pieces.iter().map(|piece| piece.range.end()));
        let ends = self.pieces.iter().map(|piece| piece.range.start().get());
        let hole = |(start, end): (u64, u64)| PfnRange::new(Pfn::new(start)?, end.checked_sub(start)?);
        starts.zip(ends).filter_map(hole).filter(|hole| !hole.is_empty()).collect()
    }
}

impl Piece {
    /// Blocks in the piece.
    pub(super) fn blocks(&self) -> u64 {
        self.range.frames() >> self.order.get()
    }

    /// The piece in slices of about `frames` frames, which begin and end at multiples of `unit` frames after its start.
    pub(super) fn slices(&self, frames: u64, unit: Order) -> impl Iterator<Item = PfnRange> {
        let step = frames.max(unit.frames()).max(self.order.frames());
        let (start, end) = (self.range.start().get(), self.range.end());
        (start..end)
            .step_by(step as usize)
            .filter_map(move |at| PfnRange::new(Pfn::new(at)?, step.min(end - at)))
    }
}

/// Cuts blocks that can share their tails to the smallest such order of their section. Pieces of more than a section
/// have their sections for themselves, or are of the smallest order that there is.
fn one_order_by_section(geometry: &Geometry, blocks: Vec<Piece>) -> Vec<Piece> {
    let shares = |piece: &Piece| piece.order >= geometry.min_dedup_order();
    let section = |piece: &Piece| geometry.section_of(piece.range.start());
    let mut smallest = BTreeMap::new();
    for piece in blocks.iter().filter(|piece| shares(piece)) {
        smallest
            .entry(section(piece))
            .and_modify(|order: &mut Order| *order = piece.order.min(*order))
            .or_insert(piece.order);
    }
    let order = |piece: &Piece| match smallest.get(&section(piece)) {
        Some(&order) if shares(piece) => order,
        _ => piece.order,
    };
    blocks.into_iter().map(|piece| Piece { order: order(&piece), ..piece }).collect()
}

/// Joins neighbours of one order.
fn joined(blocks: Vec<Piece>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for piece in blocks {
        let last = pieces.last_mut();
        match last.filter(|last| last.order == piece.order && last.range.end() == piece.range.start().get()) {
            Some(last) => {
                let frames = last.range.frames() + piece.range.frames();
                last.range = PfnRange::new(last.range.start(), frames).unwrap_or(last.range);
            }
            None => pieces.push(piece),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range((start, end): (u64, u64)) -> PfnRange {
        PfnRange::new(Pfn::new(start).unwrap(), end - start).unwrap()
    }

    fn layout(memory: &[(u64, u64)], max: u8) -> Vec<(u64, u64, u8)> {
        let memory: Vec<_> = memory.iter().copied().map(range).collect();
        let layout = Layout::new(&Geometry::X86_64, &memory, Order::new(max).unwrap());
        assert_eq!(
            layout.frames(),
            layout.pieces.iter().map(|piece| piece.blocks() << piece.order.get()).sum::<u64>()
        );
        let shown = |piece: &Piece| (piece.range.start().get(), piece.range.end(), piece.order.get());
        layout.pieces.iter().map(shown).collect()
    }

    #[test]
    fn whole_pages_are_one_piece() {
        assert_eq!(layout(&[(0, 1 << 18)], 18), [(0, 1 << 18, 18)]);
        assert_eq!(layout(&[(0, 1 << 18)], 9), [(0, 1 << 18, 9)]);
        assert_eq!(layout(&[(0, 1 << 18)], 0), [(0, 1 << 18, 0)]);
    }

    #[test]
    fn a_machine_with_holes() {
        let memory = [(1, 0x9f), (0x100, 0xc_0000), (0x10_0000, 0x64_0000)];
        // The first subsection is whole frames with gaps; the section around it has 2M pages, not larger.
        assert_eq!(
            layout(&memory, 18),
            [
                (0, 0x200, 0),
                (0x200, 0x8000, 9),
                (0x8000, 0x1_0000, 15),
                (0x1_0000, 0x2_0000, 16),
                (0x2_0000, 0x4_0000, 17),
                (0x4_0000, 0xc_0000, 18),
                (0x10_0000, 0x64_0000, 18),
            ]
        );
        assert_eq!(layout(&memory, 9), [(0, 0x200, 0), (0x200, 0xc_0000, 9), (0x10_0000, 0x64_0000, 9)]);
        assert_eq!(layout(&memory, 0), [(0, 0xc_0000, 0), (0x10_0000, 0x64_0000, 0)]);
    }

    #[test]
    fn scraps_are_populated_by_whole_subsections() {
        assert_eq!(layout(&[(3, 4)], 18), [(0, 0x200, 0)]);
        assert_eq!(layout(&[(0x1ff, 0x201)], 18), [(0, 0x400, 0)]);
        assert_eq!(layout(&[(0, 1), (0x100, 0x101)], 9), [(0, 0x200, 0)]);
        assert_eq!(layout(&[], 9), []);
    }

    #[test]
    fn holes_lie_between_the_pieces() {
        let memory = [range((0x400, 0x600)), range((0x8000, 0x1_0000)), range((0x1_0000, 0x1_0200))];
        let layout = Layout::new(&Geometry::X86_64, &memory, Order::new(9).unwrap());
        assert_eq!(layout.holes(), [range((0, 0x400)), range((0x600, 0x8000))]);
        assert_eq!(layout.end(), 0x1_0200);
    }

    #[test]
    fn slices_tile_a_piece() {
        let piece = Piece { range: range((0x200, 0xa00)), order: Order::new(9).unwrap() };
        let slices: Vec<_> = piece.slices(0x300, Order::new(10).unwrap()).collect();
        assert_eq!(slices, [range((0x200, 0x600)), range((0x600, 0xa00))]);
    }
}
