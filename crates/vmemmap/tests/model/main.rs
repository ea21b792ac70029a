// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs against a model: a map of subsections to what they hold, and a set of blocks that are taken.
//!
//! The model knows nothing of pages, bitmaps or trees, and finds heads by division. It says what each call answers, what
//! each descriptor reads, and how many frames may be out.
#![cfg(not(mmkit_loom))]

#[path = "../common/mod.rs"]
mod common;
mod oracle;

use std::collections::BTreeMap;

use common::{Device, Fixture, InSoftware, Soft, TestEnv, expected, frames, map, order, pfn, small};
use mmkit_addr::{Geometry, PfnRange};
use mmkit_frame::test_util::TestFrames;
use mmkit_page::{ClaimError, Folio, Free, GetError, MemMap, State, Template};
use mmkit_sync::Readers;
use mmkit_vmemmap::{Altmap, MapError, Populate, SpaceUsage, Usage, VmemmapError, VmemmapSpace};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use oracle::{How, Kind, Machine, Memory, Model, PLACES, Pool, of};

type Vmemmap<'a, F> = common::Map<'a, F, Readers>;

/// One step. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Subsections from, how many; which order, which place; whether to round to what the order wants.
    Populate(u32, u32, usize, usize, bool),
    /// The same, another way.
    Otherwise(How, u32, u32, usize, usize),
    Remove(u32, u32),
    /// The range that was populated so many steps ago.
    RemoveAgain(usize),
    Claim(u32),
    /// Claims and takes a reference.
    Hold(u32),
    /// One more reference, by any frame of the block.
    Get(u32),
    /// Lets a block rest.
    Release(usize),
    /// Sections from, how many.
    Offline(u32, u32),
    Online(u32, u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u32>(), any::<u32>(), any::<usize>(), any::<usize>(), prop::bool::weighted(0.9))
            .prop_map(|(a, b, c, d, e)| Op::Populate(a, b, c, d, e)),
        3 => (0..3, any::<u32>(), any::<u32>(), any::<usize>(), any::<usize>())
            .prop_map(|(how, a, b, c, d)| {
                Op::Otherwise([How::Hidden, How::Boot, How::Device][how as usize], a, b, c, d)
            }),
        2 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Op::Remove(a, b)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Op::Offline(a, b)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Op::Online(a, b)),
        3 => any::<usize>().prop_map(Op::RemoveAgain),
        2 => any::<u32>().prop_map(Op::Claim),
        2 => any::<u32>().prop_map(Op::Hold),
        1 => any::<u32>().prop_map(Op::Get),
        3 => any::<usize>().prop_map(Op::Release),
    ]
}

/// Somebody's hold on a block.
enum Hold<'m, M: MemMap> {
    Free(#[expect(dead_code, reason = "held until it is dropped")] Free<'m, M>),
    Folios(Vec<Folio<'m, M>>),
}

/// A memory map and its model, in step.
struct Run<'r, 'a, F: Fixture> {
    map: &'r Vmemmap<'a, F>,
    frames: &'r TestFrames,
    new: SpaceUsage,
    model: Model,
    pool: Altmap,
    holds: BTreeMap<u64, Hold<'r, Vmemmap<'a, F>>>,
    populated: Vec<PfnRange>,
}

impl<'r, 'a, F: Fixture> Run<'r, 'a, F> {
    fn step(&mut self, op: Op) {
        match op {
            Op::Populate(start, count, which, at, round) => {
                self.populate(start, count, which, at, round, How::Online);
            }
            Op::Otherwise(how, start, count, which, at) => {
                // Boot memory has parts of sections, as a rule.
                let round = how != How::Boot || at.is_multiple_of(3);
                self.populate(start, count, which, at, round, how);
            }
            Op::Offline(start, count) => self.set_online(start, count, false),
            Op::Online(start, count) => self.set_online(start, count, true),
            Op::Remove(start, count) => self.remove(self.part(start, count)),
            Op::RemoveAgain(which) => {
                if !self.populated.is_empty() {
                    self.remove(self.populated[which % self.populated.len()]);
                }
            }
            Op::Claim(frame) => {
                let frame = self.frame(frame);
                if let Some(free) = self.claim(frame) {
                    self.holds.insert(frame, Hold::Free(free));
                    self.model.taken.insert(frame, 0);
                }
            }
            Op::Hold(frame) => {
                // A head, as a rule.
                let frame = self.frame(frame);
                let frame = self.model.kind(frame).map_or(frame, |kind| frame >> kind.order << kind.order);
                if let Some(free) = self.claim(frame) {
                    self.holds.insert(frame, Hold::Folios(vec![free.allocate().into_folio()]));
                    self.model.taken.insert(frame, 1);
                }
            }
            Op::Get(frame) => self.get(self.frame(frame)),
            Op::Release(which) => {
                if !self.holds.is_empty() {
                    let head = *self.holds.keys().nth(which % self.holds.len()).expect("in range");
                    self.holds.remove(&head);
                    self.model.taken.remove(&head);
                }
            }
        }
    }

    fn frame(&self, number: u32) -> u64 {
        let frames = self.model.frames();
        frames.start + u64::from(number) % (frames.end - frames.start)
    }

    /// A part of something that was populated, as a rule.
    fn part(&self, start: u32, count: u32) -> PfnRange {
        if start.is_multiple_of(4) || self.populated.is_empty() {
            return self.range(start, count, self.model.size(), 3);
        }
        let size = self.model.size();
        let whole = self.populated[start as usize % self.populated.len()];
        let subsections = whole.frames() / size;
        let skip = u64::from(count) % subsections;
        let count = 1 + u64::from(count >> 16) % (subsections - skip);
        common::range(whole.start().get() + skip * size, count * size)
    }

    /// `count` units from a random one, all inside the machine.
    fn range(&self, start: u32, count: u32, unit: u64, max: u64) -> PfnRange {
        let frames = self.model.frames();
        let units = (frames.end - frames.start) / unit;
        let start = u64::from(start) % units;
        let count = 1 + u64::from(count) % max.min(units - start);
        common::range(frames.start + start * unit, count * unit)
    }

    fn set_online(&mut self, start: u32, count: u32, online: bool) {
        let range = self.range(start, count, self.model.section(), 3);
        let result = if online { self.map.online(range) } else { self.map.offline(range) };
        match self.model.refuses_online(range, online) {
            Some(error) => assert_eq!(result, Err(error), "{range:?}, {online}"),
            None => {
                assert_eq!(result, Ok(()), "{range:?}, {online}");
                self.model.set_online(range, online);
                self.check(range, 1);
            }
        }
    }

    fn populate(&mut self, start: u32, count: u32, which: usize, at: usize, round: bool, how: How) {
        let orders = &self.model.machine.orders;
        let (of_order, place) = (orders[which % orders.len()], PLACES[at % PLACES.len()]);
        let unit = match how {
            How::Device => self.model.unit(of_order).max(self.model.geometry().base_bytes() / 64),
            _ if round => self.model.unit(of_order),
            _ => self.model.size(),
        };
        let range = self.range(start, count, unit, 4);
        let new = Kind { order: of_order, place, memory: self.model.memory(range, of_order, how).0 };
        let request = Populate::new(range).compounds(order(of_order)).at(of(place));
        let result = self.map.populate_with(match how {
            How::Online => request,
            How::Hidden => request.offline().huge_leaves(),
            How::Boot if start.is_multiple_of(2) => request.early().huge_leaves(),
            How::Boot => request.early(),
            How::Device => request.altmap(&mut self.pool),
        });
        match self.model.refuses_populate(range, new, how) {
            Ok(Some(error)) => assert_eq!(result, Err(error)),
            Err(()) => assert!(
                matches!(result, Err(VmemmapError::Present { .. } | VmemmapError::OtherTails { .. })),
                "{range:?}, {new:?}: {result:?}"
            ),
            Ok(None) => {
                assert_eq!(result, Ok(()), "{range:?}, {new:?}");
                self.model.populated(range, new, how);
                self.populated.push(range);
                self.check(range, 1);
            }
        }
    }

    fn remove(&mut self, range: PfnRange) {
        let result = match self.model.is_hosted(range.start().get()) {
            true => self.map.remove_altmap(range, &mut self.pool),
            false => self.map.remove(range),
        };
        match self.model.refuses_remove(range) {
            Some(error) => assert_eq!(result, Err(error), "{range:?}"),
            // Half of what a shared table maps cannot be taken out of it.
            None if F::TABLES && matches!(result, Err(VmemmapError::Map(MapError::Missing { .. }))) => {}
            None => {
                assert_eq!(result, Ok(()), "{range:?}");
                self.model.removed(range);
                self.check(range, 1);
            }
        }
    }

    fn claim(&self, frame: u64) -> Option<Free<'r, Vmemmap<'a, F>>> {
        let result = self.map.claim(pfn(frame));
        let Some(kind) = self.model.kind(frame) else {
            assert_eq!(result.err(), Some(ClaimError::Absent { pfn: pfn(frame) }));
            return None;
        };
        if !frame.is_multiple_of(1 << kind.order)
            || self.model.taken.contains_key(&frame)
            || self.model.is_offline(frame)
        {
            assert_eq!(result.err(), Some(ClaimError::Taken { pfn: pfn(frame) }));
            return None;
        }
        let free = result.unwrap();
        assert_eq!((free.pfn(), free.order(), free.place()), (pfn(frame), order(kind.order), of(kind.place)));
        Some(free)
    }

    fn get(&mut self, frame: u64) {
        let result = self.map.try_get(pfn(frame));
        let Some(kind) = self.model.kind(frame) else {
            assert_eq!(result.err(), Some(GetError::Absent { pfn: pfn(frame) }));
            return;
        };
        let head = frame >> kind.order << kind.order;
        if self.model.kind(head).is_none() {
            assert_eq!(result.err(), Some(GetError::Absent { pfn: pfn(head) }));
            return;
        }
        match self.model.taken.get_mut(&head).filter(|count| **count > 0) {
            None => assert_eq!(result.err(), Some(GetError::Unreferenced { pfn: pfn(head) })),
            Some(count) => {
                *count += 1;
                let folio = result.unwrap();
                assert_eq!(folio.pfn(), pfn(head));
                let Some(Hold::Folios(folios)) = self.holds.get_mut(&head) else { panic!("not held") };
                folios.push(folio);
            }
        }
    }

    /// Looks at every `stride`-th frame of `range`, and at the edges of pages and subsections.
    fn check(&self, range: PfnRange, stride: usize) {
        let reader = self.map.enter();
        let edge = self.model.geometry().base_bytes() / 64;
        let edges = range.iter().filter(|pfn| stride == 1 || (pfn.get() + 1) % edge < 2);
        for pfn in edges.chain(range.iter().step_by(stride).filter(|_| stride > 1)) {
            let number = pfn.get();
            let page = reader.page(pfn);
            assert_eq!(page.is_some(), self.map.is_present(pfn));
            assert_eq!(self.map.is_covered(pfn), self.model.is_covered(number), "{pfn:?}");
            let Some(kind) = self.model.kind(number) else {
                assert!(page.is_none(), "{pfn:?} is there");
                continue;
            };
            let Some(page) = page else { panic!("{pfn:?} is absent") };
            assert_eq!(page.head().get(), number >> kind.order << kind.order);
            assert_eq!(page.place(), of(kind.place));
            match self.model.taken.get(&number) {
                None if self.model.is_offline(number) && number.is_multiple_of(1 << kind.order) => {
                    assert_eq!(page.state(), State::Free { order: order(kind.order), parked: false });
                }
                None => {
                    let (order, place) = (order(kind.order), of(kind.place));
                    let own_head =
                        kind.order > 0 && !self.model.shared(kind) && number.is_multiple_of(order.frames());
                    let words = match own_head {
                        true => Template::head(order, place).words(),
                        false => expected(self.model.geometry(), number, order, place),
                    };
                    assert_eq!(page.words(), words, "{pfn:?}");
                }
                Some(0) => {
                    assert_eq!(page.state(), State::Free { order: order(kind.order), parked: false });
                }
                Some(&count) => assert_eq!(page.state(), State::Held { order: order(kind.order), count }),
            }
        }
    }

    fn check_all(&self) {
        let frames = self.model.frames();
        let all = common::range(frames.start, frames.end - frames.start);
        self.check(all, self.model.machine.stride);
        let Usage { own, hosted, tails, sections, .. } = common::balance(self.map, self.frames);
        assert_eq!((own, hosted, tails, sections), self.model.usage());
        assert_eq!(self.pool.alloc(), self.model.pool.alloc);
    }

    /// Removes everything, in an order that `seed` chooses: nothing is left.
    fn finish(mut self, mut seed: u64) {
        self.holds.clear();
        self.model.taken.clear();
        let mut left: Vec<PfnRange> = core::mem::take(&mut self.populated);
        // Compounds that came in several pieces go as a whole: retry until nothing more goes.
        loop {
            let before = self.model.subsections.len();
            for turn in 0..left.len() {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let other = turn + (seed >> 33) as usize % (left.len() - turn);
                left.swap(turn, other);
                self.remove(left[turn]);
            }
            if self.model.subsections.len() == before {
                break;
            }
        }
        // What is left are pieces, and compounds that came in pieces. What has a hole goes piece by piece.
        while let Some((&at, &kind)) = self.model.subsections.first_key_value() {
            let size = 1 << kind.order;
            let unit = match self.model.shared(kind) {
                true => self.model.unit(kind.order),
                // As much as there can be in a block, or of a pool in a page.
                false if kind.memory == Memory::Hosted => {
                    size.max(self.model.size()).max(self.model.geometry().base_bytes() / 64)
                }
                false => size.max(self.model.size()),
            };
            let start = at * self.model.size() / unit * unit;
            let head = start / size * size;
            let pieces = |start: u64, size: u64| (start..start + size).step_by(self.model.size() as usize);
            let complete = pieces(head, size.max(unit)).all(|frame| self.model.kind(frame).is_some());
            let range =
                if size > unit && complete { common::range(head, size) } else { common::range(start, unit) };
            let before = self.model.subsections.len();
            self.remove(range);
            assert!(self.model.subsections.len() < before, "{range:?}, {kind:?} stays");
        }
        self.check_all();
        common::assert_empty(self.map, self.frames, self.new);
    }
}

/// Pages in a map of the standard library, behind leaves of 8 pages.
struct InLeaves;

impl Fixture for InLeaves {
    type Space<'a> = Soft<'a>;
    const TABLES: bool = false;

    fn space(frames: &TestFrames, geometry: Geometry) -> Soft<'_> {
        Soft::with_leaf_order(frames, geometry.base_shift(), order(3))
    }
}

fn run<F: Fixture>(machine: &Machine, program: &[Op], seed: u64) {
    let frames = frames(&machine.geometry);
    let env = TestEnv::new(&frames);
    let map = map::<F, Readers>(machine.geometry, &frames, &env);
    let device = Device::new(&frames);
    // Room for what a few steps take.
    let per_page = machine.geometry.descriptors_per_page();
    let free = 5 * machine.geometry.frames_per_section().max(per_page) / per_page;
    let pool = device.altmap(0, free);
    let model = Model::new(machine.clone(), Pool { first: device.start(), free, ..Pool::default() });
    let new = map.space().usage();
    let mut run = Run::<F> {
        map: &map,
        frames: &frames,
        new,
        model,
        pool,
        holds: BTreeMap::new(),
        populated: Vec::new(),
    };
    for &op in program {
        run.step(op);
        run.check_all();
    }
    assert_eq!(map.verify(), Ok(()));
    run.finish(seed);
    assert_eq!(
        env.log.take().iter().filter(|event| matches!(event, mmkit_sync::Event::Leaked { .. })).count(),
        0
    );
    drop(map);
    drop(env);
    drop(device);
    frames.assert_no_leaks();
}

fn programs<F: Fixture>(machine: Machine, cases: u32, steps: usize) {
    let cases = cases.min(Config::default().cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let programs = (prop::collection::vec(op(), 1..steps), any::<u64>());
    let result = TestRunner::new(config).run(&programs, |(program, seed)| {
        run::<F>(&machine, &program, seed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Sections of two subsections; compounds of up to four sections.
fn small_4k() -> Machine {
    let geometry = small(12, 22, &[21, 24]);
    Machine { geometry, first: 6, sections: 10, orders: vec![0, 0, 3, 6, 7, 9, 10, 11, 12], stride: 3 }
}

/// Two subsections to a page of descriptors, two pages to a section.
fn small_16k() -> Machine {
    let geometry = small(14, 23, &[21, 25]);
    Machine { geometry, first: 0, sections: 12, orders: vec![0, 0, 5, 7, 8, 9, 10, 11], stride: 3 }
}

/// 32 subsections to a page, two pages to a section.
fn small_64k() -> Machine {
    let geometry = small(16, 27, &[21, 29]);
    Machine { geometry, first: 4, sections: 6, orders: vec![0, 0, 4, 6, 9, 10, 11, 12, 13], stride: 7 }
}

/// Four sections to a page.
fn page_of_sections() -> Machine {
    let geometry = small(16, 24, &[21, 29]);
    Machine { geometry, first: 16, sections: 24, orders: vec![0, 0, 5, 7, 8, 9, 10, 11, 12, 13], stride: 7 }
}

/// Sections that are so far up that the section table has two levels, on both sides of a node's edge.
fn x86_64() -> Machine {
    let geometry = Geometry::X86_64;
    Machine { geometry, first: (1 << 16) - 8, sections: 16, orders: vec![9, 9, 15, 18, 18], stride: 4099 }
}

fn arm64_16k() -> Machine {
    let geometry = Geometry::ARM64_16K;
    Machine { geometry, first: 248, sections: 16, orders: vec![0, 7, 11, 11, 13, 16, 16], stride: 1021 }
}

fn arm64_64k() -> Machine {
    let geometry = Geometry::ARM64_64K;
    Machine { geometry, first: 0, sections: 64, orders: vec![5, 11, 13, 13, 18, 18], stride: 4099 }
}

macro_rules! machines {
    ($fixture:ty: $($name:ident($machine:expr, $cases:expr, $steps:expr);)*) => {
        $(#[test] fn $name() { programs::<$fixture>($machine, $cases, $steps); })*
    };
}

/// The pages of these are of x86-64's size.
#[cfg(feature = "pgtable")]
mod in_tables {
    use super::*;

    machines! {
        common::InTables:
        small_sections_of_4k_pages(small_4k(), 32, 24);
        sections_of_x86_64(x86_64(), 6, 12);
    }
}

machines! {
    InSoftware:
    small_sections_of_4k_pages(small_4k(), 32, 24);
    small_sections_of_16k_pages(small_16k(), 32, 24);
    small_sections_of_64k_pages(small_64k(), 24, 20);
    pages_of_four_sections(page_of_sections(), 24, 20);
    sections_of_x86_64(x86_64(), 6, 12);
    sections_of_arm64_16k(arm64_16k(), 8, 16);
    sections_of_arm64_64k(arm64_64k(), 8, 16);
}

/// Leaves that a removal has to split.
mod in_leaves {
    use super::*;

    machines! {
        InLeaves:
        small_sections_of_4k_pages(small_4k(), 32, 24);
        sections_of_x86_64(x86_64(), 4, 12);
    }
}
