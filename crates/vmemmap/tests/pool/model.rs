// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations and failures, against a model that knows sizes and nothing else.

use mmkit_addr::{NodeId, Order};
use mmkit_page::PageFlags;
use mmkit_vmemmap::{Failure, HugePage, HugePool, PoolCounts, PoolError};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::*;
use crate::world::{Map, World};
use crate::{NODE_0, SIZE, map_of, node_1, recount, trace, warm_up, world};

#[derive(Clone, Debug)]
enum Step {
    Resize { class: usize, target: u64 },
    Grow { class: usize, pages: u64 },
    Shrink { class: usize, pages: u64 },
    Retry { class: usize },
    Allocate { class: usize },
    Free { nth: usize },
    Demote { pages: u64 },
    Dissolve { block: u64 },
    Fail { nth: usize, frame: u64 },
    Switch { on: bool },
    Overcommit { class: usize, pages: u64 },
}

/// What is refused during a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Allocation(u64),
    Budget(u64),
    Update(u64, u64),
}

fn classes() -> [(NodeId, Order); 3] {
    [(NODE_0, order(9)), (node_1(), order(9)), (NODE_0, order(10))]
}

fn steps() -> impl Strategy<Value = Vec<(Step, Fault)>> {
    let class = 0..3usize;
    let step = prop_oneof![
        4 => (class.clone(), 0..8u64).prop_map(|(class, target)| Step::Resize { class, target }),
        2 => (class.clone(), 0..4u64).prop_map(|(class, pages)| Step::Grow { class, pages }),
        2 => (class.clone(), 0..4u64).prop_map(|(class, pages)| Step::Shrink { class, pages }),
        1 => class.clone().prop_map(|class| Step::Retry { class }),
        5 => class.clone().prop_map(|class| Step::Allocate { class }),
        4 => (0..8usize).prop_map(|nth| Step::Free { nth }),
        2 => (1..3u64).prop_map(|pages| Step::Demote { pages }),
        2 => (0..SIZE / 512).prop_map(|block| Step::Dissolve { block }),
        1 => (0..8usize, 0..512u64).prop_map(|(nth, frame)| Step::Fail { nth, frame }),
        1 => any::<bool>().prop_map(|on| Step::Switch { on }),
        1 => (class, 0..3u64).prop_map(|(class, pages)| Step::Overcommit { class, pages }),
    ];
    let fault = prop_oneof![
        4 => Just(Fault::None),
        2 => (1..20u64).prop_map(Fault::Allocation),
        2 => prop_oneof![0..16u64, 512..2500u64].prop_map(Fault::Budget),
        2 => (1..40u64, 1..4u64).prop_map(|(k, times)| Fault::Update(k, times)),
    ];
    prop::collection::vec((step, fault), 1..40)
}

/// What a class should count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Expected {
    total: u64,
    in_use: u64,
    poisoned: u64,
    surplus: u64,
}

impl Expected {
    fn free(&self) -> u64 {
        self.total - self.in_use - self.poisoned
    }

    fn persistent(&self) -> u64 {
        self.total - self.surplus
    }

    fn counts(&self) -> PoolCounts {
        PoolCounts {
            free: self.free(),
            in_use: self.in_use,
            poisoned: self.poisoned,
            surplus: self.surplus,
            leaving: 0,
        }
    }

    fn grow(&mut self, pages: u64, done: u64, complete: bool) {
        assert!(done <= pages && (complete == (done == pages)));
        let kept = self.surplus.min(pages);
        assert!(done >= kept);
        self.surplus -= kept;
        self.total += done - kept;
    }

    fn shrink(&mut self, pages: u64, done: u64, complete: bool) {
        self.surplus += pages.min(self.persistent());
        self.trim(done, complete);
    }

    fn trim(&mut self, done: u64, complete: bool) {
        let most = self.surplus.min(self.free());
        assert!(done <= most && (done == most || !complete));
        self.surplus -= done;
        self.total -= done;
    }
}

struct Run<'p, 'a> {
    world: &'a World,
    map: &'p Map<'a>,
    pool: &'p HugePool<'p, Map<'a>, 3>,
    expected: [Expected; 3],
    overcommit: [u64; 3],
    pages: Vec<(usize, HugePage<'p, Map<'a>, 3>)>,
    bad: u64,
}

impl Run<'_, '_> {
    fn fault(&self, fault: Fault) {
        match fault {
            Fault::None => {}
            Fault::Allocation(k) => self.world.frames.fail_nth(k),
            Fault::Budget(frames) => self.world.frames.set_budget(frames),
            Fault::Update(k, times) => self.world.machine.refuse(k, times),
        }
    }

    fn step(&mut self, step: &Step) {
        let pool = self.pool;
        match *step {
            Step::Resize { class, target } => {
                let (node, size) = classes()[class];
                let report = pool.resize(node, size, target).unwrap();
                let expected = &mut self.expected[class];
                let persistent = expected.persistent();
                if target > persistent {
                    expected.grow(target - persistent, report.done, report.error.is_none());
                } else {
                    expected.shrink(persistent - target, report.done, report.error.is_none());
                    assert_eq!(report.counts.persistent(), target);
                }
                assert_eq!(report.counts, expected.counts());
            }
            Step::Grow { class, pages } => {
                let (node, size) = classes()[class];
                let report = pool.grow(node, size, pages).unwrap();
                self.expected[class].grow(pages, report.done, report.error.is_none());
            }
            Step::Shrink { class, pages } => {
                let (node, size) = classes()[class];
                let report = pool.shrink(node, size, pages).unwrap();
                self.expected[class].shrink(pages, report.done, report.error.is_none());
            }
            Step::Retry { class } => {
                let (node, size) = classes()[class];
                let report = pool.retry(node, size).unwrap();
                self.expected[class].trim(report.done, report.error.is_none());
            }
            Step::Allocate { class } => self.allocate(class),
            Step::Free { nth } if !self.pages.is_empty() => {
                let (class, page) = self.pages.remove(nth % self.pages.len());
                let poisoned = page.flags().contains(PageFlags::HWPOISON);
                page.free().unwrap();
                let expected = &mut self.expected[class];
                expected.in_use -= 1;
                expected.poisoned += u64::from(poisoned);
                // How much of the surplus could go, only the pool knows; it may be all.
                let after = pool.counts(classes()[class].0, classes()[class].1).unwrap();
                let gone = expected.surplus - after.surplus;
                assert!(!poisoned || gone == 0);
                expected.trim(gone, false);
            }
            Step::Demote { pages } => {
                let report = pool.demote(NODE_0, order(10), order(9), pages).unwrap();
                assert_eq!(report.done % 2, 0);
                let gone = report.done / 2;
                let most = self.expected[2].free().min(self.expected[2].persistent()).min(pages);
                assert!(gone <= most && (gone == pages) == report.error.is_none());
                self.expected[2].total -= gone;
                self.expected[0].total += report.done;
            }
            Step::Dissolve { block } => {
                let bad = pool.bad_frames();
                let sizes: Vec<_> = classes().map(|(node, size)| pool.counts(node, size).unwrap()).into();
                let Err(error) = pool.dissolve(pfn(block * 512 + 5)) else {
                    self.bad += pool.bad_frames() - bad;
                    for (class, before) in sizes.into_iter().enumerate() {
                        let (node, size) = classes()[class];
                        let after = pool.counts(node, size).unwrap();
                        let expected = &mut self.expected[class];
                        if after != before {
                            expected.total -= 1;
                            expected.poisoned -= before.poisoned - after.poisoned;
                            expected.surplus -= expected.surplus.min(1);
                        }
                    }
                    return;
                };
                assert!(matches!(error, PoolError::NotHere { .. } | PoolError::Hvo(_)), "{error}");
            }
            Step::Fail { nth, frame } if !self.pages.is_empty() => {
                let (_, page) = &self.pages[nth % self.pages.len()];
                let failure = self.map.report_failure(page, page.pfn().checked_add(frame).unwrap());
                assert!(matches!(failure, Ok(Failure::Recorded | Failure::Known | Failure::Unreliable)));
                assert!(page.flags().contains(PageFlags::HWPOISON));
            }
            Step::Switch { on } => self.map.set_optimising(on),
            Step::Overcommit { class, pages } => {
                let (node, size) = classes()[class];
                pool.set_overcommit(node, size, pages).unwrap();
                self.overcommit[class] = pages;
            }
            Step::Free { .. } | Step::Fail { .. } => {}
        }
    }

    fn allocate(&mut self, class: usize) {
        let (node, size) = classes()[class];
        let expected = &mut self.expected[class];
        let (free, may) = (expected.free(), expected.surplus < self.overcommit[class]);
        match self.pool.allocate(node, size) {
            Ok(page) => {
                assert!(free > 0 || may);
                if free == 0 {
                    expected.total += 1;
                    expected.surplus += 1;
                }
                expected.in_use += 1;
                assert_eq!((page.order(), page.place().node, page.count()), (size, node, 1));
                assert_eq!(page.flags(), PageFlags::HUGETLB);
                self.pages.push((class, page));
            }
            Err(error) => {
                assert_eq!(free, 0);
                assert_eq!(matches!(error, PoolError::Empty { .. }), !may, "{error}");
            }
        }
    }

    fn check(&self) {
        for (class, (node, size)) in classes().into_iter().enumerate() {
            assert_eq!(self.pool.counts(node, size), Ok(self.expected[class].counts()), "{class}");
        }
        assert_eq!(self.pool.bad_frames(), self.bad);
        recount(self.pool, self.map, self.world, &classes());
    }
}

#[test]
fn counts_are_exact_whatever_fails() {
    let mut runner = TestRunner::new(Config {
        cases: Config::default().cases.min(24),
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&steps(), |steps| {
        let world = world();
        let map = map_of(&world);
        let pool = HugePool::new(&map, classes()).unwrap();
        warm_up(&pool, &classes());
        let before = trace(&map, &world);
        let mut run = Run {
            world: &world,
            map: &map,
            pool: &pool,
            expected: Default::default(),
            overcommit: [0; 3],
            pages: Vec::new(),
            bad: 0,
        };
        for (step, fault) in &steps {
            run.fault(*fault);
            run.step(step);
            world.frames.heal();
            world.machine.heal();
            run.check();
        }
        prop_assert_eq!(map.verify(), Ok(()));
        run.pages.clear();
        let mut poisoned = 0;
        for (node, size) in classes() {
            let report = pool.resize(node, size, 0).unwrap();
            prop_assert_eq!(report.error, None);
            prop_assert_eq!(report.counts.total(), report.counts.poisoned);
            poisoned += report.counts.poisoned;
        }
        // A page that is kept for its bad frame may have been optimised in part.
        prop_assert!(map.partial_compounds() <= poisoned);
        recount(&pool, &map, &world, &classes());
        if poisoned + pool.bad_frames() == 0 {
            prop_assert!(trace(&map, &world) == before, "something was left behind");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
