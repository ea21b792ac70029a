// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations against a plain map from page to (frame, what it allows, how it is mapped).
#![cfg(not(mmkit_loom))]

mod common;

use std::collections::BTreeMap;

use common::*;
use mmkit_addr::Geometry;
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_pgtable::{
    Arm64_4K, Arm64_16K, Arm64_64K, Backing, Entry, Error, Leaves, Mapping, Prot, Released, Share, Tables,
    Walk, X86_64,
};
use proptest::prelude::*;

/// The border of two upper tables of every geometry here.
const BORDER: u64 = 0xffff_c000_0000_0000;
/// Last-level tables' worth of pages, half of them below the border, so that every level has one in the window.
const BLOCKS: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    frame: u64,
    prot: Prot,
    huge: bool,
    shared: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map { page: u64, pages: u64, frame: u64, write: bool, repeat: bool },
    MapHuge { block: u64, frame: u64 },
    Attach { block: u64, blocks: u64 },
    Unmap { page: u64, pages: u64, cancel: bool },
    UnmapBlock { block: u64 },
    Replace { page: u64, right: bool, frame: u64 },
    Split { page: u64 },
    Unshare { page: u64 },
    Protect { page: u64, pages: u64, write: bool },
    Zap { page: u64, pages: u64, cancel: bool },
    Restrict { page: u64, pages: u64 },
    MapAll { page: u64, pages: u64, gap: u64, frame: u64 },
}

/// An operation on tables whose last level has so many pages.
fn op(pages: u64) -> impl Strategy<Value = (Op, u8)> {
    let page = move || {
        let near = (0..BLOCKS, 0..4u64).prop_map(move |(block, page)| block * pages + page);
        prop_oneof![0..BLOCKS * pages, near]
    };
    let count = move || prop_oneof![1..8u64, 1..2 * pages];
    let op = prop_oneof![
        (page(), count(), 0..1u64 << 20, any::<bool>(), any::<bool>())
            .prop_map(|(page, pages, frame, write, repeat)| Op::Map { page, pages, frame, write, repeat }),
        (0..BLOCKS, 0..64u64).prop_map(move |(block, frame)| Op::MapHuge { block, frame: frame * pages }),
        (0..BLOCKS, 1..4u64).prop_map(|(block, blocks)| Op::Attach { block, blocks }),
        (page(), count(), any::<bool>()).prop_map(|(page, pages, cancel)| Op::Unmap { page, pages, cancel }),
        (0..BLOCKS).prop_map(|block| Op::UnmapBlock { block }),
        (page(), prop::bool::weighted(0.8), 0..64u64).prop_map(move |(page, right, frame)| Op::Replace {
            page,
            right,
            frame: frame * pages
        }),
        page().prop_map(|page| Op::Split { page }),
        page().prop_map(|page| Op::Unshare { page }),
        (page(), 1..pages, any::<bool>()).prop_map(|(page, pages, write)| Op::Protect { page, pages, write }),
        (page(), prop_oneof![1..8u64, 1..4 * pages], prop::bool::weighted(0.2))
            .prop_map(|(page, pages, cancel)| Op::Zap { page, pages, cancel }),
        (page(), 1..2 * pages).prop_map(|(page, pages)| Op::Restrict { page, pages }),
        (page(), prop_oneof![1..8u64, 1..pages], prop_oneof![0..8u64, 0..pages], 0..1u64 << 20)
            .prop_map(|(page, pages, gap, frame)| Op::MapAll { page, pages, gap, frame }),
    ];
    // Which allocation fails: mostly none.
    (op, prop_oneof![4 => Just(0u8), 1 => 1..5u8])
}

type Model = BTreeMap<u64, Page>;

struct World<'a, E: Entry> {
    frames: &'a TestFrames,
    tables: Tables<E, TestEnv<'a>>,
    /// Bytes of a page.
    page: u64,
    /// Pages of a last-level table.
    pages: u64,
    share: Share,
    model: Model,
}

fn prot(write: bool) -> Prot {
    if write { RW } else { RO }
}

impl<E: Entry> World<'_, E> {
    fn at(&self, page: u64) -> u64 {
        BORDER + page * self.page - BLOCKS / 2 * self.pages * self.page
    }

    fn window(&self) -> u64 {
        BLOCKS * self.pages
    }

    /// Whether every page of the range is mapped, and by what may be cut there.
    fn whole(&self, page: u64, pages: u64, shared: bool) -> bool {
        let model = &self.model;
        let all = (page..page + pages).all(|at| model.get(&at).is_some_and(|it| shared || !it.shared));
        all && !self.cuts(page, pages)
    }

    /// Whether an end of the range is inside something.
    fn cuts(&self, page: u64, pages: u64) -> bool {
        // A block entry covers an aligned table's worth of pages: it must be in whole.
        let cut = |at: u64| {
            !at.is_multiple_of(self.pages) && self.model.get(&at).is_some_and(|it| it.huge || it.shared)
        };
        cut(page) || cut(page + pages)
    }

    fn map(&mut self, page: u64, pages: u64, result: Result<(), Error>, with: impl Fn(u64) -> Page) {
        let free = (page..page + pages).all(|at| !self.model.contains_key(&at));
        match result {
            Ok(()) => {
                assert!(free, "mapped over something");
                self.model.extend((page..page + pages).map(|at| (at, with(at - page))));
            }
            Err(Error::Alloc(_)) => {}
            Err(error) => assert!(!free, "{error} although it is free"),
        }
    }

    fn unmap(&mut self, page: u64, pages: u64, cancel: bool) {
        let whole = self.whole(page, pages, true);
        match self.tables.unmap(range(self.at(page), pages * self.page)) {
            Ok(batch) if cancel => {
                assert!(whole);
                batch.cancel();
            }
            Ok(batch) => {
                assert!(whole, "unmapped a hole or a part");
                let mut expected = self.model.split_off(&page);
                self.model.append(&mut expected.split_off(&(page + pages)));
                let mut seen = page;
                for item in flush(batch) {
                    let (start, pages) = match item {
                        Released::Leaves(Leaves { va, frames, prot, .. }) => {
                            let first = expected[&seen];
                            assert_eq!((first.frame, first.prot), (frames.start().get(), prot));
                            (va, frames.frames())
                        }
                        Released::Shared { va, share } => {
                            assert!(expected[&seen].shared && share == self.share);
                            (va, self.pages)
                        }
                    };
                    assert_eq!(start.get(), self.at(seen));
                    seen += pages;
                }
                assert_eq!(seen, page + pages);
            }
            Err(_) => assert!(!whole, "refused what is whole"),
        }
    }

    /// As [`unmap`](Self::unmap), with holes: page by page, what comes back is what was there.
    fn zap(&mut self, page: u64, pages: u64, cancel: bool) {
        let cuts = self.cuts(page, pages);
        let mut batch = self.tables.batch().unwrap();
        let result = batch.zap(range(self.at(page), pages * self.page));
        assert_eq!(result.is_err(), cuts, "{result:?}");
        if cuts || cancel {
            return batch.cancel();
        }
        let mut expected = self.model.split_off(&page);
        self.model.append(&mut expected.split_off(&(page + pages)));
        for item in flush(batch) {
            let (start, count, first) = match item {
                Released::Leaves(Leaves { va, frames, .. }) => (va, frames.frames(), Some(frames.start())),
                Released::Shared { va, .. } => (va, self.pages, None),
            };
            for nth in 0..count {
                let it =
                    expected.remove(&((start.get() - self.at(0)) / self.page + nth)).expect("it was mapped");
                assert_eq!(it.shared, first.is_none());
                assert!(first.is_none_or(|first| first.get() + nth == it.frame));
            }
        }
        assert!(expected.is_empty(), "not all came back");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Map { page, pages, frame, write, repeat } => {
                let pages = pages.min(self.window() - page);
                let backing = if repeat { Backing::Repeat(pfn(frame)) } else { Backing::Run(pfn(frame)) };
                let result = self
                    .tables
                    .map(range(self.at(page), pages * self.page), Mapping::new(backing, prot(write)));
                let step = u64::from(!repeat);
                self.map(page, pages, result, |nth| Page {
                    frame: frame + nth * step,
                    prot: prot(write),
                    huge: false,
                    shared: false,
                });
            }
            Op::MapHuge { block, frame } => {
                let result = self.tables.map(
                    range(self.at(block * self.pages), self.pages * self.page),
                    run(frame, RW).at_level(level(1)),
                );
                let with = |nth| Page { frame: frame + nth, prot: RW, huge: true, shared: false };
                self.map(block * self.pages, self.pages, result, with);
            }
            Op::Attach { block, blocks } => {
                let blocks = blocks.min(BLOCKS - block);
                let result = self.tables.attach(
                    range(self.at(block * self.pages), blocks * self.pages * self.page),
                    self.share,
                    NODE,
                );
                let with = |_| Page { frame: 7, prot: RO, huge: false, shared: true };
                self.map(block * self.pages, blocks * self.pages, result, with);
            }
            Op::Unmap { page, pages, cancel } => self.unmap(page, pages.min(self.window() - page), cancel),
            Op::UnmapBlock { block } => self.unmap(block * self.pages, self.pages, false),
            Op::Replace { page, right, frame } => {
                let old = self.model.get(&page).copied();
                let expected = old.map_or(0, |old| old.frame) + u64::from(!right);
                let result = self.tables.replace(va(self.at(page)), pfn(expected), pfn(frame), RO);
                let huge = old.is_some_and(|old| old.huge);
                let possible =
                    right && old.is_some_and(|old| !old.shared) && (!huge || page.is_multiple_of(self.pages));
                assert_eq!(result.is_ok(), possible, "{result:?}");
                if let Ok(token) = result {
                    let Ok(Released::Leaves(Leaves { frames, .. })) = token.flush() else {
                        panic!("a leaf comes back")
                    };
                    assert_eq!(frames.start().get(), expected);
                    for nth in 0..if huge { self.pages } else { 1 } {
                        self.model
                            .insert(page + nth, Page { frame: frame + nth, prot: RO, huge, shared: false });
                    }
                }
            }
            Op::Split { page } => {
                let huge = self.model.get(&page).is_some_and(|it| it.huge);
                match self.tables.split(va(self.at(page)), NODE) {
                    Ok(stale) => {
                        assert!(huge);
                        stale.flush();
                        let block = page / self.pages * self.pages;
                        self.model.range_mut(block..block + self.pages).for_each(|(_, it)| it.huge = false);
                    }
                    Err(Error::Alloc(_)) => assert!(huge),
                    Err(_) => assert!(!huge),
                }
            }
            Op::Unshare { page } => {
                let shared = self.model.get(&page).is_some_and(|it| it.shared);
                match self.tables.unshare(va(self.at(page)), NODE) {
                    Ok(token) => {
                        assert!(shared && token.flush().is_ok());
                        let block = page / self.pages * self.pages;
                        self.model.range_mut(block..block + self.pages).for_each(|(_, it)| it.shared = false);
                    }
                    Err(Error::Alloc(_)) => assert!(shared),
                    Err(_) => assert!(!shared),
                }
            }
            Op::Zap { page, pages, cancel } => self.zap(page, pages.min(self.window() - page), cancel),
            Op::Restrict { page, pages } => {
                let pages = pages.min(self.window() - page);
                let mapped = || self.model.range(page..page + pages);
                let possible = mapped().all(|(_, it)| !it.shared) && !self.cuts(page, pages);
                match self.tables.restrict(range(self.at(page), pages * self.page), RO) {
                    Ok(stale) => {
                        assert!(possible);
                        stale.flush();
                        self.model.range_mut(page..page + pages).for_each(|(_, it)| it.prot = RO);
                    }
                    Err(_) => assert!(!possible),
                }
            }
            Op::MapAll { page, pages, gap, frame } => {
                let second = page + pages + gap;
                if second + pages > self.window() {
                    return;
                }
                let part = |page, frame| (range(self.at(page), pages * self.page), run(frame, RW));
                let result = self.tables.map_all(&[part(page, frame), part(second, frame + 7)]);
                let all = |page: u64| page..page + pages;
                let free = all(page).chain(all(second)).all(|at| !self.model.contains_key(&at));
                match result {
                    Ok(()) => {
                        assert!(free, "mapped over something");
                        for (page, frame) in [(page, frame), (second, frame + 7)] {
                            let with =
                                |nth| Page { frame: frame + nth, prot: RW, huge: false, shared: false };
                            self.model.extend((0..pages).map(|nth| (page + nth, with(nth))));
                        }
                    }
                    Err(Error::Alloc(_)) => {}
                    Err(error) => assert!(!free, "{error} although it is free"),
                }
            }
            Op::Protect { page, pages, write } => {
                let pages = pages.min(self.window() - page);
                let possible = self.whole(page, pages, false);
                match self.tables.protect(range(self.at(page), pages * self.page), prot(write)) {
                    Ok(stale) => {
                        assert!(possible);
                        stale.flush();
                        self.model.range_mut(page..page + pages).for_each(|(_, it)| it.prot = prot(write));
                    }
                    Err(_) => assert!(!possible),
                }
            }
        }
    }

    /// Every page walks to what the model says, and nothing is counted or kept that should not be.
    fn check(&self) {
        for page in 0..self.window() {
            let found = match self.tables.walk(va(self.at(page) + 9)).unwrap() {
                Walk::Mapped(leaf) => Some(Page {
                    frame: leaf.pfn.get() + (self.at(page) - leaf.range.start().get()) / self.page,
                    prot: leaf.prot,
                    huge: leaf.level == level(1),
                    shared: leaf.shared,
                }),
                Walk::Unmapped { .. } => None,
                pending @ Walk::Pending { .. } => panic!("{pending:?} of page {page}"),
            };
            assert_eq!(found, self.model.get(&page).copied(), "page {page}");
        }
        // The same in runs, each as long as can be.
        let (mut next, mut last): (_, Option<Leaves>) = (self.model.iter(), None);
        let visit = |leaves: Leaves| {
            let joins = last.is_some_and(|last| {
                last.range(self.page.ilog2()).end() == Some(leaves.va)
                    && last.frames.end() == leaves.frames.start().get()
                    && (last.level, last.prot) == (leaves.level, leaves.prot)
            });
            assert!(!joins, "{last:?} goes on with {leaves:?}");
            for (nth, frame) in leaves.frames.iter().enumerate() {
                let (&page, it) = next.next().expect("nothing else is mapped");
                let huge = leaves.level == level(1);
                assert_eq!(self.at(page), leaves.va.get() + nth as u64 * self.page);
                assert_eq!((it.frame, it.prot, it.huge), (frame.get(), leaves.prot, huge));
            }
            last = Some(leaves);
        };
        self.tables.read().leaves(range(self.at(0), self.window() * self.page), visit).unwrap();
        assert_eq!(next.next(), None);
        // Tables: exactly those that something is mapped through.
        let spans = |shift: u32, filter: fn(&Page) -> bool| {
            let mut all: Vec<_> = self
                .model
                .iter()
                .filter(|(_, it)| filter(it))
                .map(|(&page, _)| self.at(page) >> shift)
                .collect();
            all.dedup();
            all.len() as u64
        };
        let levels = self.tables.geometry().levels();
        let huge = levels[1].entry_shift();
        assert_eq!(
            self.tables.tables_at(level(0)),
            1 + spans(huge, |it| !it.huge && !it.shared),
            "last level and the shared one"
        );
        for parent in &levels[2..] {
            let below = parent.level().down().unwrap();
            assert_eq!(self.tables.tables_at(below), spans(parent.entry_shift(), |_| true), "{below:?}");
        }
        assert_eq!(u64::from(self.tables.attachments(self.share).unwrap()), spans(huge, |it| it.shared));
        assert_eq!(self.tables.table_frames(), self.frames.outstanding());
    }
}

/// Runs `cases` lists of up to `most` operations.
fn check<E: Entry>(geometry: Geometry, cases: u32, most: usize) {
    let pages = geometry.last_table().unwrap().entries();
    let cases = cases.min(ProptestConfig::default().cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(pages), 1..most))| {
        let memory = TestConfig::new().base_shift(geometry.base_shift()).range(0, 256);
        let frames = TestFrames::new(memory);
        let tables: Tables<E, _> = tables(&frames, geometry);
        let share = tables.share(LAST, Backing::Repeat(pfn(7)), RO, NODE).unwrap();
        let page = geometry.base_bytes();
        let mut world = World { frames: &frames, tables, page, pages, share, model: Model::new() };
        for (op, fail) in ops {
            let (before, entries_before) = (frames.snapshot(), entries(&world.tables));
            let model = world.model.clone();
            if fail > 0 {
                frames.fail_nth(fail.into());
            }
            world.apply(op);
            frames.heal();
            if world.model == model && !matches!(op, Op::Replace { .. } | Op::Protect { .. } | Op::Restrict { .. }) {
                prop_assert_eq!(before, frames.snapshot(), "{:?} left something", op);
                prop_assert_eq!(entries_before, entries(&world.tables), "{:?} left something", op);
            }
            world.check();
        }
        drop(world);
        frames.assert_no_leaks();
    });
}

#[test]
fn tables_are_a_map_from_page_to_frame() {
    check::<X86_64>(Geometry::X86_64, 32, 40);
}

#[test]
fn so_are_those_of_arm64() {
    check::<Arm64_4K>(Geometry::ARM64_4K, 8, 40);
    check::<Arm64_16K>(Geometry::ARM64_16K, 4, 20);
    // Its tables have 8192 entries.
    check::<Arm64_64K>(Geometry::ARM64_64K, 2, 12);
}
