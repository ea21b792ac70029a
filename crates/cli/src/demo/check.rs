// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is everything what the list of intervals says? The list is walked; no head is ever found by masking here.

use mmkit_addr::{Order, Pfn};
use mmkit_page::{Place, Template};

use super::layout::{Layout, Piece};

/// The eight words of a descriptor.
type Words = [u64; Template::WORDS];

/// How many things were looked at, and how many of them were wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) checked: u64,
    pub(super) wrong: u64,
    /// The first frame at which something was wrong.
    pub(super) first: Option<Pfn>,
}

impl Tally {
    #[inline]
    pub(super) fn note(&mut self, pfn: Pfn, right: bool) {
        self.checked += 1;
        if !right {
            self.wrong += 1;
            self.first.get_or_insert(pfn);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.first = self.first.or(other.first);
    }
}

/// What the descriptors of a block hold while it is free and at rest.
struct Expected {
    head: Words,
    tail: Words,
}

impl Expected {
    fn new(order: Order, shared: bool) -> Self {
        let place = Place::default();
        let head = match order {
            Order::ZERO => Template::base(place),
            _ if shared => Template::head_of_shared(order, place),
            _ => Template::head(order, place),
        };
        // Node 0 and zone 0 are no bits; then the order; nothing else.
        let mut tail = [0; Template::WORDS];
        tail[1] = u64::from(order.get());
        Self { head: head.words(), tail }
    }
}

/// Calls `visit(head, pfn)` for every frame of the piece, where `head` is the first frame of its block.
#[inline]
fn each(piece: &Piece, mut visit: impl FnMut(Pfn, Pfn)) {
    let mut frames = piece.range.iter();
    while let Some(head) = frames.next() {
        visit(head, head);
        for _ in 1..piece.order.frames() {
            let Some(pfn) = frames.next() else { return };
            visit(head, pfn);
        }
    }
}

/// `==`, without the call of `memcmp` that it would be.
#[inline]
fn same(found: &Words, expected: &Words) -> bool {
    found.iter().zip(expected).fold(0, |bits, (found, expected)| bits | (found ^ expected)) == 0
}

/// Compares all 64 bytes of every descriptor of a piece. Compounds of at least `min_dedup` share their tails.
pub(super) fn descriptors(piece: &Piece, min_dedup: Order, read: impl Fn(Pfn) -> Option<Words>) -> Tally {
    let expected = Expected::new(piece.order, piece.order >= min_dedup);
    let mut tally = Tally::default();
    each(piece, |head, pfn| {
        let words = if pfn == head { &expected.head } else { &expected.tail };
        tally.note(pfn, read(pfn).is_some_and(|found| same(&found, words)));
    });
    tally
}

/// Compares what every frame of a piece answers for its head.
pub(super) fn heads(piece: &Piece, head_of: impl Fn(Pfn) -> Option<Pfn>) -> Tally {
    let mut tally = Tally::default();
    each(piece, |head, pfn| tally.note(pfn, head_of(pfn) == Some(head)));
    tally
}

/// Asks `is_present` in the holes: first and last frame, and the first of every `step` frames between.
pub(super) fn holes(layout: &Layout, step: u64, is_present: impl Fn(Pfn) -> bool) -> Tally {
    let mut tally = Tally::default();
    for hole in layout.holes() {
        let between = hole.iter().step_by(usize::try_from(step).unwrap_or(usize::MAX));
        for pfn in between.chain(hole.last()) {
            tally.note(pfn, !is_present(pfn));
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use mmkit_addr::{Geometry, PfnRange};

    const MIN: u8 = 7;

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    fn piece(start: u64, frames: u64, of: u8) -> Piece {
        Piece { range: PfnRange::new(Pfn::new(start).unwrap(), frames).unwrap(), order: order(of) }
    }

    /// Descriptors as the library would write them.
    fn written(piece: &Piece) -> impl Fn(Pfn) -> Option<Words> {
        let (range, order) = (piece.range, piece.order);
        move |pfn| {
            let place = Place::default();
            let template = match pfn.is_aligned(order) {
                _ if order == Order::ZERO => Template::base(place),
                true if order.get() >= MIN => Template::head_of_shared(order, place),
                true => Template::head(order, place),
                false => Template::tail(order, place),
            };
            range.contains(pfn).then_some(template.words())
        }
    }

    #[test]
    fn what_is_as_planned_is_right() {
        for piece in [piece(0, 1024, 0), piece(512, 1024, 9), piece(0, 256, 4), piece(1 << 18, 1 << 18, 18)] {
            let tally = descriptors(&piece, order(MIN), written(&piece));
            assert_eq!((tally.checked, tally.wrong), (piece.range.frames(), 0), "{piece:?}");
            let tally = heads(&piece, |pfn| Some(pfn.align_down(piece.order)));
            assert_eq!((tally.checked, tally.wrong), (piece.range.frames(), 0), "{piece:?}");
        }
    }

    #[test]
    fn one_bit_anywhere_is_noticed() {
        let piece = piece(512, 1024, 9);
        let right = written(&piece);
        for pfn in [512, 513, 1023, 1024, 1535] {
            for word in 0..Template::WORDS {
                for bit in [0, 31, 63] {
                    let tally = descriptors(&piece, order(MIN), |at| {
                        let mut words = right(at)?;
                        words[word] ^= u64::from(at.get() == pfn) << bit;
                        Some(words)
                    });
                    assert_eq!((tally.wrong, tally.first), (1, Pfn::new(pfn)), "bit {bit} of word {word}");
                }
            }
        }
    }

    #[test]
    fn other_pages_than_planned_are_noticed() {
        let built = piece(0, 2048, 9);
        // Every word of order 10 differs: heads by their order, tails too.
        assert_eq!(descriptors(&piece(0, 2048, 10), order(MIN), written(&built)).wrong, 2048);
        assert_eq!(heads(&piece(0, 2048, 10), |pfn| Some(pfn.align_down(order(9)))).wrong, 1024);
        assert_eq!(descriptors(&piece(0, 2048, 0), order(MIN), written(&built)).wrong, 2048);
        // Shared where own was planned: the four heads differ.
        assert_eq!(descriptors(&built, order(10), written(&built)).wrong, 4);
        // Shifted by one block: right; by one frame: all heads and what is in their place.
        assert_eq!(descriptors(&piece(512, 1024, 9), order(MIN), written(&built)).wrong, 0);
        assert_eq!(descriptors(&piece(1, 1024, 9), order(MIN), written(&built)).wrong, 4);
        // Absent.
        assert_eq!(descriptors(&built, order(MIN), |_| None).wrong, 2048);
        assert_eq!(heads(&built, |_| None).wrong, 2048);
    }

    #[test]
    fn frames_in_holes_are_noticed() {
        let memory = [(0x400, 0x200), (0x1000, 0x200)];
        let memory = memory.map(|(start, frames)| PfnRange::new(Pfn::new(start).unwrap(), frames).unwrap());
        let layout = Layout::new(&Geometry::X86_64, &memory, order(9));
        let tally = holes(&layout, 0x200, |_| false);
        // 0, 0x200, 0x3ff; 0x600, 0x800, ... 0xe00, 0xfff.
        assert_eq!((tally.checked, tally.wrong), (3 + 6, 0));
        assert_eq!(holes(&layout, 0x200, |pfn| pfn.get() == 0xfff).first, Pfn::new(0xfff));
        assert_eq!(holes(&layout, 0x200, |pfn| pfn.get() < 0x400).wrong, 3);
    }
}
