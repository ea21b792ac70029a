// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree against a set of numbers, in nodes of eight links and leaves of two sections.

use std::collections::BTreeSet;
use std::vec::Vec;

use mmkit_addr::{NodeId, ZoneId};
use mmkit_frame::test_util::TestFrames;

use super::*;

type TestSections<'a> = Frames<&'a TestFrames, &'a TestFrames>;

const SHAPE: Shape = Shape::new(7, 6, 3);
const PLACE: Place = Place { node: NodeId::ZERO, zone: ZoneId::ZERO };

/// Sections at the edges of leaves, of nodes, and of heights: a tree of height 0 has 2, then 16, 128, 1024, 8192.
const EDGES: [u64; 24] = [
    0, 1, 2, 3, 14, 15, 16, 17, 18, 31, 32, 100, 127, 128, 129, 143, 255, 256, 300, 1023, 1024, 1025, 1300,
    8191,
];

/// Nodes of the smallest tree that has all of `sections`.
fn nodes_for(sections: &BTreeSet<u64>) -> u64 {
    let mut numbers: BTreeSet<u64> = sections.iter().map(|number| number / 2).collect();
    let mut nodes = numbers.len() as u64;
    while numbers.last().is_some_and(|&last| last > 0) {
        numbers = numbers.into_iter().map(|number| number / 8).collect();
        nodes += numbers.len() as u64;
    }
    nodes
}

struct Tree<'a> {
    frames: TestSections<'a>,
    test: &'a TestFrames,
    sections: Sections,
    model: BTreeSet<u64>,
}

impl<'a> Tree<'a> {
    fn new(test: &'a TestFrames) -> Self {
        Self { frames: test.frames(), test, sections: Sections::new(SHAPE), model: BTreeSet::new() }
    }

    /// Adds sections as `populate` does: counted, taken, then used from the last down, and none is left.
    fn add(&mut self, first: u64, last: u64) {
        let missing = self.sections.missing(&self.frames, first, last);
        let mut spare = Spare::allocate(&self.frames, missing, PLACE).unwrap();
        for number in (first..=last).rev() {
            let section = self.sections.insert(&self.frames, number, &mut spare);
            section.unwrap_or_else(|| panic!("no room for {number} of {first}..={last}")).present().set(0..1);
            self.model.insert(number);
        }
        assert!(spare.take(&self.frames, 0).is_none(), "too many nodes for {first}..={last}");
        self.check();
    }

    fn remove(&mut self, first: u64, last: u64) {
        for number in first..=last {
            if let Some(section) = self.sections.get(&self.frames, number) {
                section.present().clear(0..2);
            }
            self.model.remove(&number);
        }
        let before = self.test.outstanding();
        let detached = self.sections.detach(&self.frames, first, last);
        let empty = detached.is_empty();
        // What is detached is out of the way of lookups, and stays whole until it is swept.
        self.check_lookups();
        assert_eq!(self.test.outstanding(), before);
        let frames = self.frames;
        self.sections.sweep(&frames, detached, first, last, &mut |pfn| {
            // SAFETY: a node, taken at this order, that nobody looks into.
            unsafe { frames.deallocate(pfn, Order::ZERO) };
        });
        assert_eq!(empty, self.test.outstanding() == before);
        self.check();
    }

    fn check_lookups(&self) {
        let near = |number: &u64| [number.saturating_sub(1), *number, number + 1];
        for number in EDGES.iter().chain(&self.model).flat_map(near) {
            let section = self.sections.get(&self.frames, number);
            let present = section.is_some_and(|section| section.present().contains(0));
            assert_eq!(present, self.model.contains(&number), "section {number}");
        }
    }

    fn check(&self) {
        self.check_lookups();
        let mut found = Vec::new();
        self.sections.for_each(&self.frames, &mut |number, section| {
            if section.present().contains(0) {
                found.push(number);
            }
        });
        assert!(found.iter().eq(&self.model), "{found:?}");
        assert_eq!(self.test.outstanding(), nodes_for(&self.model), "{:?}", self.model);
    }
}

/// Every range between two edges, added to and taken out of every one of a few trees.
#[test]
fn missing_is_what_insert_takes_and_sweep_gives() {
    let before: [&[(u64, u64)]; 9] = [
        &[],
        &[(0, 0)],
        &[(3, 3)],
        &[(15, 16)],
        &[(0, 1), (126, 129)],
        &[(128, 128)],
        &[(1024, 1024)],
        &[(0, 0), (1025, 1025)],
        &[(5, 5), (100, 101), (8191, 8191)],
    ];
    for ranges in before {
        for (at, &first) in EDGES.iter().enumerate() {
            for &last in EDGES[at..].iter().filter(|&&last| last - first <= 32) {
                let test = TestFrames::with_frames(1 << 14);
                let mut tree = Tree::new(&test);
                for &(first, last) in ranges {
                    tree.add(first, last);
                }
                let had = tree.model.clone();
                tree.add(first, last);
                tree.remove(first, last);
                assert!(tree.model.is_subset(&had));
                tree.add(first.saturating_sub(1), last + 1);
                tree.remove(0, last);
                for number in tree.model.clone() {
                    tree.remove(number, number);
                }
                assert_eq!(test.outstanding(), 0);
            }
        }
    }
}

/// A long walk of additions and removals, all at edges.
#[test]
fn the_tree_is_always_the_smallest() {
    let test = TestFrames::with_frames(1 << 14);
    let mut tree = Tree::new(&test);
    let mut seed = 1u64;
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % bound
    };
    for _ in 0..1000 {
        let first = EDGES[next(EDGES.len())];
        let last = first + next(20) as u64;
        if next(2) == 0 { tree.add(first, last) } else { tree.remove(first, last) }
    }
    tree.remove(0, 10000);
    assert_eq!(test.outstanding(), 0);
}

/// Nothing is sized by the highest number, and no number is too high.
#[test]
fn the_highest_section_is_as_good_as_the_lowest() {
    let test = TestFrames::with_frames(1 << 8);
    let mut tree = Tree::new(&test);
    let top = u64::MAX >> 12;
    tree.add(0, 0);
    tree.add(top - 1, top);
    // The root, and below it two paths: one bit in the leaf, three in each node above.
    assert_eq!(test.outstanding(), 1 + 2 * (52 - 1) / 3);
    tree.remove(0, 0);
    tree.remove(top - 1, top);
    assert_eq!(test.outstanding(), 0);
}

/// Out of frames in the middle: those that were had go back.
#[test]
fn spare_nodes_are_all_or_nothing() {
    let test = TestFrames::with_frames(1 << 8);
    let sweep = test.for_each_failure(|_| {
        Spare::allocate(&test.frames(), 5, PLACE).map(|spare| spare.give_back(&test.frames()))
    });
    assert_eq!(sweep.refused, 5);
    test.assert_no_leaks();
}
