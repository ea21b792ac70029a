// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames are out: free blocks by order, and one bit for each frame.

use std::collections::BTreeSet;

use mmkit_addr::Order;

const ORDERS: usize = Order::MAX.get() as usize + 1;

/// The books of the allocator. Frames below `next` are out, in `free`, or being given back; those above were never out.
#[derive(Debug)]
pub(crate) struct Blocks {
    capacity: u64,
    budget: u64,
    next: u64,
    out: u64,
    refused: u64,
    free: [BTreeSet<u64>; ORDERS],
    taken: Vec<u64>,
}

impl Blocks {
    pub(crate) fn new(capacity: u64, budget: u64) -> Self {
        Self {
            capacity,
            budget,
            next: 0,
            out: 0,
            refused: 0,
            free: [const { BTreeSet::new() }; ORDERS],
            taken: vec![0; capacity.div_ceil(64) as usize],
        }
    }

    pub(crate) fn out(&self) -> u64 {
        self.out
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes a block: the lowest of the smallest free ones that are large enough, else the next that was never out.
    /// So single frames come in ascending order, without gaps.
    pub(crate) fn take(&mut self, order: Order) -> Option<u64> {
        let frames = order.frames();
        if self.out.checked_add(frames)? > self.budget {
            return None;
        }
        let wanted = usize::from(order.get());
        let found = (wanted..ORDERS).find(|&order| !self.free[order].is_empty());
        let first = match found {
            Some(mut size) => {
                let first = self.free[size].pop_first()?;
                while size > wanted {
                    size -= 1;
                    self.free[size].insert(first + (1 << size));
                }
                first
            }
            None => {
                let first = self.next.checked_next_multiple_of(frames)?;
                let end = first.checked_add(frames).filter(|&end| end <= self.capacity)?;
                let skipped = self.next..first;
                self.next = end;
                self.put_range(skipped);
                first
            }
        };
        self.out += frames;
        for (word, mask) in words(first, frames) {
            self.taken[word] |= mask;
        }
        Some(first)
    }

    /// Marks a block as no longer out. `false`, with nothing changed, where a frame of it is not out.
    pub(crate) fn give(&mut self, first: u64, order: Order) -> bool {
        let frames = order.frames();
        let inside =
            first & order.mask() == 0 && first.checked_add(frames).is_some_and(|end| end <= self.next);
        if !inside || words(first, frames).any(|(word, mask)| self.taken[word] & mask != mask) {
            self.refused += 1;
            return false;
        }
        for (word, mask) in words(first, frames) {
            self.taken[word] &= !mask;
        }
        true
    }

    /// Makes a block that was [given](Self::give) available.
    pub(crate) fn put(&mut self, first: u64, order: Order) {
        self.out -= order.frames();
        self.join(first, usize::from(order.get()));
    }

    /// Adds a free block, joined with its free buddies.
    fn join(&mut self, mut first: u64, mut order: usize) {
        while order + 1 < ORDERS && self.free[order].remove(&(first ^ 1 << order)) {
            first &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(first);
    }

    fn put_range(&mut self, range: core::ops::Range<u64>) {
        let mut first = range.start;
        while first < range.end {
            let room = 63 - (range.end - first).leading_zeros();
            let order = room.min(first.trailing_zeros()) as usize;
            self.join(first, order);
            first += 1 << order;
        }
    }
}

/// The words, and the bits in each, of `count` frames from `first` on.
fn words(first: u64, count: u64) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    let touched = if count == 0 { 0..0 } else { first / 64..end.div_ceil(64) };
    touched.map(move |word| {
        let from = first.max(word * 64) % 64;
        let bits = (end - (word * 64 + from)).min(64 - from);
        (word as usize, (u64::MAX >> (64 - bits)) << from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    #[test]
    fn single_frames_ascend_without_gaps() {
        let mut blocks = Blocks::new(1000, 1000);
        let taken: Vec<u64> = (0..1000).map(|_| blocks.take(order(0)).unwrap()).collect();
        assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        assert_eq!(blocks.take(order(0)), None);
    }

    #[test]
    fn blocks_are_aligned_and_what_was_skipped_is_used() {
        let mut blocks = Blocks::new(64, 64);
        assert_eq!(blocks.take(order(0)), Some(0));
        assert_eq!(blocks.take(order(4)), Some(16));
        assert_eq!(blocks.take(order(3)), Some(8));
        assert_eq!(blocks.take(order(0)), Some(1));
        assert_eq!(blocks.take(order(0)), Some(2));
        assert_eq!(blocks.take(order(2)), Some(4));
        assert_eq!(blocks.take(order(5)), Some(32));
        assert_eq!(blocks.take(order(0)), Some(3));
        assert_eq!(blocks.take(order(0)), None);
        assert_eq!(blocks.out(), 64);
    }

    #[test]
    fn all_that_is_given_back_joins_again() {
        let mut blocks = Blocks::new(128, 128);
        let taken: Vec<u64> = (0..128).map(|_| blocks.take(order(0)).unwrap()).collect();
        for &first in taken.iter().rev().step_by(2).chain(taken.iter().step_by(2)) {
            assert!(blocks.give(first, order(0)));
            blocks.put(first, order(0));
        }
        assert_eq!(blocks.out(), 0);
        assert_eq!(blocks.take(order(7)), Some(0));
    }

    #[test]
    fn a_frame_that_is_not_out_is_not_given_back() {
        let mut blocks = Blocks::new(128, 128);
        let first = blocks.take(order(6)).unwrap();
        assert!(!blocks.give(first, order(7)), "more than is out");
        assert!(!blocks.give(first + 1, order(3)), "not aligned");
        assert!(!blocks.give(64, order(0)), "never out");
        assert!(!blocks.give(u64::MAX - 1, order(1)), "past the end");
        assert!(blocks.give(first + 8, order(3)));
        assert!(!blocks.give(first + 8, order(0)), "twice");
        assert!(!blocks.give(first, order(6)), "a part is back");
        assert_eq!(blocks.refused(), 6);
    }

    #[test]
    fn the_budget_is_in_frames_and_an_error_changes_nothing() {
        let mut blocks = Blocks::new(1 << 20, 10);
        assert_eq!(blocks.take(order(3)), Some(0));
        assert_eq!(blocks.take(order(2)), None);
        assert_eq!(blocks.take(order(1)), Some(8));
        assert_eq!(blocks.take(order(0)), None);
        assert!(blocks.give(0, order(3)));
        assert_eq!(blocks.take(order(0)), None, "not before it is there again");
        blocks.put(0, order(3));
        assert_eq!(blocks.take(order(0)), Some(0), "what is free goes first");
        assert_eq!(Blocks::new(8, u64::MAX).take(order(4)), None);
        assert_eq!(Blocks::new(8, u64::MAX).take(Order::MAX), None);
    }

    #[test]
    fn words_cover_exactly_the_frames() {
        for (first, count) in [(5, 0), (0, 1), (63, 1), (63, 2), (0, 64), (1, 64), (5, 200), (64, 128)] {
            let mut bits = vec![];
            for (word, mask) in words(first, count) {
                bits.extend((0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| word as u64 * 64 + bit));
            }
            assert_eq!(bits, (first..first + count).collect::<Vec<_>>());
        }
    }
}
