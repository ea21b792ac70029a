// SPDX-License-Identifier: MIT OR Apache-2.0
//! One address space and several threads in it: faults, forks, pins, collapses and unmaps meet on the same pages.
//!
//! Each thread has a word of its own in every page, in which it counts up. So whoever reads knows between which two values
//! it must be, whatever happens to the page meanwhile; and each thread alone knows which value its own word has.

mod common;

use std::sync::atomic::{AtomicU64, Ordering, fence};

use common::{PAGE, Random, at, order, pages};
use mmkit_addr::VirtAddr;
use mmkit_folio::{Checked, Mapcounts, NoPageMapcount, PageMapcount, PowerSums};
use mmkit_gup::{Flags, Refusal};
use mmkit_sim::{AddressSpace, Area, Error, World};

const THREADS: usize = 4;
const PHASES: usize = 6;
const STEPS: usize = 150;

/// Pages whose contents nobody forgets: a PMD, single pages, small folios, a file; and one that others forget.
const PMD: usize = 0;
const SINGLE: usize = 512;
const SMALL: usize = 1024;
const FILE: usize = 1536;
const FORGOTTEN: usize = 2048;
/// Two places for pages that move, a PMD wide, and not in step with each other.
const MOVING: [usize; 2] = [2560, 3100];
/// Pages of each region that threads meet on, and their first.
const REGIONS: [(usize, usize); 5] = [(PMD, 512), (SINGLE, 512), (SMALL, 64), (FILE, 512), (FORGOTTEN, 512)];
const PAGES: usize = MOVING[1] + 512;

/// What a word may be: at least what was written for certain, at most what somebody began to write.
#[derive(Default)]
struct Word {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Word {
    /// To be asked before the word is read.
    fn least(&self) -> u64 {
        // Acquire: pairs with the Release of `end`: the write is seen.
        self.done.load(Ordering::Acquire)
    }

    /// To be asked after the word was read.
    fn most(&self) -> u64 {
        // Acquire: pairs with the fence of `begin`, through the word.
        fence(Ordering::Acquire);
        self.begun.load(Ordering::Relaxed)
    }

    fn begin(&self, value: u64) {
        self.begun.store(value, Ordering::Relaxed);
        // Release: pairs with the fence of `most`: who sees the word sees that it was begun.
        fence(Ordering::Release);
    }

    fn end(&self, value: u64) {
        // Release: pairs with the Acquire of `least`.
        self.done.store(value, Ordering::Release);
    }
}

struct Shared<'s, 'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    space: &'s AddressSpace<'w, C>,
    words: Vec<[Word; THREADS]>,
    /// Collapses, splits, pins, forks, moves that succeeded; writes by devices; long pins that were refused.
    done: [AtomicU64; 7],
}

struct Thread<'s, 'w, C: Mapcounts> {
    shared: &'s Shared<'s, 'w, C>,
    me: usize,
    random: Random,
}

fn word(page: usize, thread: usize) -> VirtAddr {
    VirtAddr::new(at(page).get() + thread as u64 * 8)
}

fn read<C: Mapcounts>(space: &AddressSpace<'_, C>, va: VirtAddr) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    space.read(va, &mut bytes).map(|()| u64::from_le_bytes(bytes))
}

impl<C: Mapcounts> Thread<'_, '_, C> {
    fn did(&self, what: usize) {
        self.shared.done[what].fetch_add(1, Ordering::Relaxed);
    }

    /// Often one of the first pages, so that threads meet.
    fn some_page(&mut self) -> usize {
        let (first, count) = REGIONS[self.random.below(REGIONS.len())];
        let count = if self.random.below(3) > 0 { 4 } else { count };
        first + self.random.below(count)
    }

    /// Writes the next value to this thread's word of a page, which is at `place`.
    fn write(&self, page: usize, place: usize) -> Result<u64, Error> {
        let cell = &self.shared.words[page][self.me];
        let next = cell.least() + 1;
        cell.begin(next);
        self.shared.space.write(word(place, self.me), &next.to_le_bytes())?;
        cell.end(next);
        Ok(next)
    }

    /// Reads somebody's word of a page, and judges it.
    fn look(&mut self, page: usize, thread: usize) {
        let cell = &self.shared.words[page][thread];
        let least = cell.least();
        let found = read(self.shared.space, word(page, thread)).unwrap();
        let forgotten = (FORGOTTEN..FORGOTTEN + 512).contains(&page) && found == 0;
        assert!(forgotten || (least..=cell.most()).contains(&found), "{found} of {thread} on page {page}");
    }

    fn step(&mut self) {
        let page = self.some_page();
        match self.random.below(4) {
            0 | 1 => {
                self.write(page, page).unwrap();
            }
            2 => self.look(page, self.me),
            _ => {
                let thread = self.random.below(THREADS);
                self.look(page, thread);
                self.look_at_moving();
            }
        }
        if self.random.below(4) == 0 {
            match self.me {
                0 => self.fork(),
                1 => self.forget_and_collapse(),
                2 => self.pin(),
                _ => self.move_pages(),
            }
        }
    }

    /// The child sees what was there at one moment of the fork, and nothing of what comes later.
    fn fork(&mut self) {
        let shared = self.shared;
        let sample: Vec<_> = (0..6)
            .map(|_| (self.some_page(), self.random.below(THREADS)))
            .filter(|(page, _)| *page < FILE)
            .collect();
        let least: Vec<_> = sample.iter().map(|&(page, thread)| shared.words[page][thread].least()).collect();
        let child = shared.space.fork().unwrap();
        self.did(3);
        let most: Vec<_> = sample.iter().map(|&(page, thread)| shared.words[page][thread].most()).collect();
        let seen: Vec<_> =
            sample.iter().map(|&(page, thread)| read(&child, word(page, thread)).unwrap()).collect();
        for (nth, value) in seen.iter().enumerate() {
            assert!((least[nth]..=most[nth]).contains(value), "{value} in the child, {:?}", sample[nth]);
        }
        for &(page, _) in &sample {
            self.write(page, page).unwrap();
            self.look(page, self.me);
        }
        for (&(page, thread), value) in sample.iter().zip(seen) {
            assert_eq!(read(&child, word(page, thread)), Ok(value), "the child saw a write");
        }
        for &(page, thread) in &sample {
            // Somebody would miss its own value if this went to the parent.
            child.write(word(page, thread), &u64::MAX.to_le_bytes()).unwrap();
        }
    }

    fn forget_and_collapse(&mut self) {
        let space = self.shared.space;
        let (first, count) = (self.random.below(500), 1 + self.random.below(12));
        space.dont_need(pages(FORGOTTEN + first, count)).unwrap();
        let region = at([PMD, SINGLE, FILE, FORGOTTEN][self.random.below(4)]);
        if self.random.below(2) == 0 {
            match space.split_pmd(region) {
                Ok(()) => self.did(1),
                Err(error) => assert_eq!(error, Error::NotHuge { va: region }),
            }
        } else {
            match space.collapse(region) {
                Ok(()) => self.did(0),
                Err(Error::Pinned { .. } | Error::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The device and the thread see what the other writes after the pin, forks and all; and the page stays.
    fn pin(&mut self) {
        let page = self.some_page();
        if page >= FORGOTTEN {
            return;
        }
        let Shared { space, world, .. } = *self.shared;
        let forever = Flags::PIN | Flags::LONGTERM;
        let flags = [Flags::PIN | Flags::WRITE, forever, forever | Flags::WRITE][self.random.below(3)];
        let pin = match space.pin_range(at(page), (1 + self.random.below(4)) as u64 * PAGE, flags) {
            Ok(pin) => pin,
            // Somebody else has a page of the folio, or is moving it: then it cannot move.
            Err(Error::Refused(Refusal::Migrate(_))) => return self.did(6),
            Err(error) => panic!("{error}"),
        };
        self.did(2);
        let pfns: Vec<_> = pin.pfns().collect();
        if flags.contains(Flags::LONGTERM) {
            assert!(pfns.iter().all(|&pfn| !world.is_movable(pfn)), "pinned for long and movable");
        }
        for round in 0..4 {
            let cell = &self.shared.words[page][self.me];
            if round % 2 == 0 || !flags.contains(Flags::WRITE) {
                let value = self.write(page, page).unwrap();
                let mut seen = [0; 8];
                pin.read(self.me as u64 * 8, &mut seen);
                assert_eq!(u64::from_le_bytes(seen), value, "the pin on page {page} missed a write");
            } else {
                let next = cell.least() + 1;
                cell.begin(next);
                pin.write(self.me as u64 * 8, &next.to_le_bytes()).unwrap();
                cell.end(next);
                let seen = read(space, word(page, self.me)).unwrap();
                assert_eq!(seen, next, "page {page} missed a write of the device");
                self.did(5);
            }
            std::thread::yield_now();
            let stays = space.page(at(page)).unwrap().unwrap().pfn;
            assert_eq!(stays, pfns[0], "the pinned page {page} has moved");
        }
    }

    /// This thread alone writes to the pages that move, and knows where they are.
    fn move_pages(&mut self) {
        let shared = self.shared;
        let (page, place) = (MOVING[0] + self.random.below(100), &shared.words[PAGES - 1][self.me]);
        let here = place.least() as usize % 2;
        self.write(page, page - MOVING[0] + MOVING[here]).unwrap();
        shared.space.mremap(pages(MOVING[here], 512), at(MOVING[1 - here])).unwrap();
        place.end(here as u64 + 1);
        self.did(4);
        // What it left is free, and what is made there goes.
        let hole = pages(MOVING[here] + 7, 9);
        shared.space.mmap(hole, Area::anonymous(order(1))).unwrap();
        shared.space.write(word(MOVING[here] + 9, 0), &u64::MAX.to_le_bytes()).unwrap();
        shared.space.munmap(hole).unwrap();
        let moved = read(shared.space, word(page - MOVING[0] + MOVING[1 - here], self.me)).unwrap();
        assert_eq!(moved, shared.words[page][self.me].least());
    }

    /// Pages that move are in one of the two places, or on their way.
    fn look_at_moving(&mut self) {
        let page = self.random.below(100);
        let cell = &self.shared.words[MOVING[0] + page][THREADS - 1];
        let least = cell.least();
        match read(self.shared.space, word(MOVING[self.random.below(2)] + page, THREADS - 1)) {
            // Zero: what the mover made in the place that it left.
            Ok(found) => assert!(found == 0 || (least..=cell.most()).contains(&found), "{found} is old"),
            Err(error) => assert!(matches!(error, Error::NoArea { .. }), "{error}"),
        }
    }
}

fn run<C: Mapcounts>(seed: u64) {
    let mut ids = [mmkit_sync::atomic::AtomicU64::new(0)];
    let world = World::<C>::with_movable(1 << 14, 1 << 13, &mut ids).unwrap();
    let file = world.create_file(&vec![0; 512 * PAGE as usize], order(0)).unwrap();
    let start = world.free_frames();
    let space = world.spawn().unwrap();
    space.mmap(pages(PMD, 512), Area::anonymous(order(9))).unwrap();
    space.mmap(pages(SINGLE, 512), Area::anonymous(order(0))).unwrap();
    space.mmap(pages(SMALL, 64), Area::anonymous(order(2))).unwrap();
    space.mmap(pages(FILE, 512), Area::file(file, 0, true)).unwrap();
    space.mmap(pages(FORGOTTEN, 512), Area::anonymous(order(3))).unwrap();
    space.mmap(pages(MOVING[0], 512), Area::anonymous(order(9))).unwrap();
    let words = (0..PAGES).map(|_| <[Word; THREADS]>::default()).collect();
    let shared = Shared { world: &world, space: &space, words, done: Default::default() };
    let random = |me| Random((seed + me as u64) * 0x9e37_79b9 + 1);
    let mut threads =
        Vec::from_iter((0..THREADS).map(|me| Thread { shared: &shared, me, random: random(me) }));
    for _ in 0..PHASES {
        std::thread::scope(|scope| {
            for thread in &mut threads {
                scope.spawn(|| (0..STEPS).for_each(|_| thread.step()));
            }
        });
        let audit = world.audit(&[&space]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(audit.missing, 0, "frames leaked");
        assert!(audit.folios.values().all(|folio| !folio.maybe_shared || folio.order == order(0)));
    }
    // Every word has the last value that was written to it.
    for (page, thread) in (0..FORGOTTEN).flat_map(|page| (0..THREADS).map(move |thread| (page, thread))) {
        let last = shared.words[page][thread].least();
        if last > 0 {
            assert_eq!(read(&space, word(page, thread)), Ok(last));
        }
    }
    for (what, done) in
        ["collapses", "splits", "pins", "forks", "moves", "writes by devices"].iter().zip(&shared.done)
    {
        assert!(done.load(Ordering::Relaxed) > 10, "few {what}: {done:?}");
    }
    let statistics = world.statistics();
    assert!(statistics.copied > 0 && statistics.exclusive > 0 && statistics.moved > 0, "{statistics:?}");
    drop(space);
    assert_eq!(world.free_frames(), start, "frames leaked");
    let statistics = world.statistics();
    assert_eq!((statistics.anon, statistics.anon_pmd), (0, 0));
    assert_eq!((statistics.file, statistics.file_pmd), (0, 0));
}

#[test]
fn checked() {
    run::<PageMapcount<Checked>>(1);
    run::<NoPageMapcount<Checked>>(2);
}

#[test]
fn power_sums() {
    run::<NoPageMapcount<PowerSums>>(3);
}
