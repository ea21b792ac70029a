// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sides that are compared: one world each, the same address spaces in each, the same course of events.

use std::error::Error;
use std::sync::Barrier;
use std::thread;

use mmkit_addr::{Order, VirtAddr, VirtRange};
use mmkit_folio::{Mapcounts, Tracker, Untracked};
use mmkit_sim::{AddressSpace, Area, PMD_ORDER, Statistics, World};

use super::ops::{Course, Expected, Op};
use crate::clock::ThreadTime;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Where each address space has its one area.
const START: u64 = 1 << 30;
/// What is written. Populated memory is zero.
const BYTE: u8 = 1;

pub(crate) type Failure = Box<dyn Error>;

/// What the sides have in common.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Address spaces that the memory is divided among.
    pub(crate) pieces: usize,
    /// Pages of each.
    pub(crate) pages: u64,
    /// Orders of pages in which the children of `anon-cow-rand` write: one child each.
    pub(crate) shuffled: Vec<Vec<u32>>,
}

impl Plan {
    /// `bytes` of memory in `pieces` address spaces, and children for `cores`.
    pub(crate) fn new(bytes: u64, pieces: usize, cores: usize) -> Self {
        let pages = bytes / PAGE / pieces as u64;
        let shuffled = (0..cores).map(|child| shuffle(pages as u32, child as u64)).collect();
        Self { pieces, pages, shuffled }
    }

    /// Frames that a side needs: all pieces, copies for each child of one of them, page tables.
    pub(crate) fn frames(&self) -> u64 {
        let copies = self.shuffled.len() as u64 + 1;
        let mapped = self.pages * (self.pieces as u64 + copies);
        let tables = mapped / 256 + 8 * (self.pieces as u64 + copies);
        // A whole number of the largest folios, and some to spare for those that are broken up.
        (mapped + tables).next_multiple_of(PMD_ORDER.frames()) + 4 * PMD_ORDER.frames()
    }

    fn range(&self) -> Option<VirtRange> {
        VirtRange::new(VirtAddr::new(START), self.pages * PAGE)
    }

    /// The addresses of all pages, ascending.
    fn ascending(&self) -> impl Iterator<Item = VirtAddr> + use<> {
        let pages = self.pages;
        (0..pages).map(address)
    }
}

fn address(page: u64) -> VirtAddr {
    VirtAddr::new(START + page * PAGE)
}

/// The numbers below `count` in an order that `seed` decides.
pub(crate) fn shuffle(count: u32, seed: u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    for last in (1..numbers.len()).rev() {
        // Fisher and Yates, with a multiplicative generator: its high bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        numbers.swap(last, ((state >> 33) % (last as u64 + 1)) as usize);
    }
    numbers
}

/// One side of the comparison, whatever its strategy.
pub(crate) trait Side {
    /// Populates all address spaces with folios of `order`.
    fn fill(&mut self, plan: &Plan, order: Order) -> Result<(), Failure>;

    /// Takes one address space to its end, and tells the nanoseconds per page of what is timed on the way.
    fn run(
        &mut self,
        plan: &Plan,
        course: Course,
        piece: usize,
        note: &mut dyn FnMut(Op, f64),
    ) -> Result<(), Failure>;
}

/// The address spaces of one world.
pub(crate) struct Spaces<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    order: Order,
    spaces: Vec<Option<AddressSpace<'w, C>>>,
}

impl<'w, C: Mapcounts> Spaces<'w, C> {
    /// Makes all of the world's memory resident first.
    pub(crate) fn new(world: &'w World<'w, C>) -> Result<Self, Failure> {
        let all = world.spawn()?;
        // Some frames are the page tables'.
        let free = world.free_frames();
        let pages = (free - free / 256).saturating_sub(64) & !(PMD_ORDER.frames() - 1);
        let range =
            VirtRange::new(VirtAddr::new(START), pages * PAGE).ok_or("no address space is that large")?;
        all.mmap(range, Area::anonymous(PMD_ORDER).by_ptes())?;
        all.populate(range)?;
        Ok(Self { world, order: Order::ZERO, spaces: Vec::new() })
    }

    /// Whether what the faults did since `before` is what the course is about.
    fn check(&self, course: Course, before: Statistics, pages: u64, writers: u64) -> Result<(), Failure> {
        let tracked = C::Tracker::NAME != Untracked::NAME;
        let expected = course.expected(self.order > Order::ZERO, tracked);
        let (copied, reused) = match expected {
            Expected::Nothing => (0, 0),
            Expected::Copied => (pages * writers, 0),
            Expected::Reused => (0, pages),
        };
        let now = self.world.statistics();
        let done = (now.copied - before.copied, now.reused - before.reused);
        if done == (copied, reused) {
            return Ok(());
        }
        let (name, order) = (std::any::type_name::<C>(), self.order);
        Err(format!("{course:?}, {order:?}, {name}: expected {expected:?} of {pages} pages, but (copied, reused) are {done:?}").into())
    }
}

/// Nanoseconds of processor time that `work` takes for each of `pages`.
fn time<E: Error + 'static>(pages: u64, work: impl FnOnce() -> Result<(), E>) -> Result<f64, Failure> {
    let start = ThreadTime::now();
    work()?;
    Ok(start.elapsed_ns() / pages as f64)
}

impl<'w, C: Mapcounts> Side for Spaces<'w, C> {
    fn fill(&mut self, plan: &Plan, order: Order) -> Result<(), Failure> {
        self.spaces.clear();
        self.order = order;
        let range = plan.range().ok_or("no address space is that large")?;
        for _ in 0..plan.pieces {
            let space = self.world.spawn()?;
            space.mmap(range, Area::anonymous(order).by_ptes())?;
            space.populate(range)?;
            self.spaces.push(Some(space));
        }
        Ok(())
    }

    fn run(
        &mut self,
        plan: &Plan,
        course: Course,
        piece: usize,
        note: &mut dyn FnMut(Op, f64),
    ) -> Result<(), Failure> {
        let parent = self.spaces.get_mut(piece).and_then(Option::take).ok_or("not filled")?;
        let range = plan.range().ok_or("no address space is that large")?;
        let (pages, before) = (plan.pages, self.world.statistics());
        let mut fork = |parent: &AddressSpace<'w, C>| -> Result<_, Failure> {
            let mut child = None;
            let ns = time(pages, || parent.fork().map(|made| child = Some(made)))?;
            note(Op::Fork, ns);
            child.ok_or_else(|| "no child".into())
        };
        let mut writers = 1;
        match course {
            Course::Unmap => note(Op::Munmap, time(pages, || parent.munmap(range))?),
            Course::Copy => {
                let child = fork(&parent)?;
                note(Op::CowByte, time(pages, || parent.write_each(plan.ascending(), BYTE))?);
                drop(child);
            }
            Course::Reuse => {
                drop(fork(&parent)?);
                note(Op::ReuseByte, time(pages, || parent.write_each(plan.ascending(), BYTE))?);
            }
            Course::ChildReuse => {
                let child = fork(&parent)?;
                parent.munmap(range)?;
                note(Op::ChildReuseByte, time(pages, || child.write_each(plan.ascending(), BYTE))?);
            }
            Course::Sequential | Course::Random => {
                let children = plan.shuffled.iter().map(|_| parent.fork()).collect::<Result<Vec<_>, _>>()?;
                writers = children.len() as u64;
                let random = course == Course::Random;
                let ns = in_parallel(plan, children, random)?;
                note(if random { Op::AnonCowRand } else { Op::AnonCowSeq }, ns);
            }
        }
        self.check(course, before, pages, writers)
    }
}

/// All `children` write at once, a thread each; the time of the one that took longest.
///
/// It is processor time, like all others: a thread that sleeps until the allocator's lock is free is not charged for it,
/// one that spins for a folio's lock is.
fn in_parallel<C: Mapcounts>(
    plan: &Plan,
    children: Vec<AddressSpace<'_, C>>,
    random: bool,
) -> Result<f64, Failure> {
    let ready = Barrier::new(children.len());
    let times = thread::scope(|scope| {
        let threads: Vec<_> = children
            .iter()
            .zip(&plan.shuffled)
            .map(|(child, order)| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let start = ThreadTime::now();
                    let done = if random {
                        child.write_each(order.iter().map(|&page| address(page.into())), BYTE)
                    } else {
                        child.write_each(plan.ascending(), BYTE)
                    };
                    done.map(|()| start.elapsed_ns())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a writer panicked")?.map_err(Failure::from))
            .collect::<Result<Vec<f64>, Failure>>()
    })?;
    let longest = times.into_iter().reduce(f64::max).ok_or("no core to write on")?;
    Ok(longest / plan.pages as f64)
}
