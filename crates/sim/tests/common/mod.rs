// SPDX-License-Identifier: MIT OR Apache-2.0
//! A byte model of several address spaces, and programs that run on it and on the simulator at once.

#![allow(dead_code, reason = "each test uses a part of it")]

use mmkit_addr::{Order, Pfn, VirtAddr, VirtRange};
use mmkit_folio::Mapcounts;
use mmkit_gup::{Flags, Refusal};
use mmkit_sim::{AddressSpace, Area, Backing, Error, FileId, Pin, Statistics, World};
use mmkit_sync::atomic::AtomicU64;

pub(crate) const PAGE: u64 = 4096;
/// Where the pages of the model begin.
const BASE: u64 = 1 << 30;
/// Pages of the model: six PMDs.
const PAGES: usize = 6 * 512;
/// Pages of the file of large folios, and of the one that PMDs map.
const FILES: [(u8, usize); 2] = [(3, 96), (9, 1024)];

pub(crate) fn at(page: usize) -> VirtAddr {
    VirtAddr::new(BASE + page as u64 * PAGE)
}

pub(crate) fn pages(first: usize, count: usize) -> VirtRange {
    VirtRange::new(at(first), count as u64 * PAGE).unwrap()
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }
}

/// What a page of an area should read as.
#[derive(Clone)]
struct Cell {
    /// File, its page, whether writes go there.
    file: Option<(usize, usize, bool)>,
    write: bool,
    /// Private contents, once there are any.
    own: Option<Vec<u8>>,
    /// The pins that must see it, and which of their pages it is.
    pins: Vec<(usize, u64)>,
}

type Model = Vec<Option<Cell>>;

struct Machine<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    spaces: Vec<(AddressSpace<'w, C>, Model)>,
    files: Vec<(FileId, Vec<u8>)>,
    /// What was pinned, and where it was then.
    pins: Vec<Option<(Pin<'w, C>, Vec<Pfn>)>>,
    done: [u32; 13],
}

/// Pins at a time.
const PINS: usize = 24;

fn contents(files: &[(FileId, Vec<u8>)], cell: &Cell) -> Vec<u8> {
    match (&cell.own, cell.file) {
        (Some(own), _) => own.clone(),
        (None, Some((file, page, _))) => files[file].1[page * PAGE as usize..][..PAGE as usize].to_vec(),
        (None, None) => vec![0; PAGE as usize],
    }
}

impl<'w, C: Mapcounts> Machine<'w, C> {
    fn check_page(&mut self, space: usize, page: usize) {
        let (space, model) = &mut self.spaces[space];
        let mut out = vec![0; PAGE as usize];
        let read = space.read(at(page), &mut out);
        let Some(cell) = &model[page] else {
            return assert_eq!(read, Err(Error::NoArea { va: at(page) }));
        };
        assert_eq!(read, Ok(()));
        assert!(out == contents(&self.files, cell), "page {page} of {space:?}");
        for &(pin, nth) in &cell.pins {
            let (pinned, pfns) = self.pins[pin].as_ref().unwrap();
            let mut seen = vec![0; PAGE as usize];
            pinned.read(nth * PAGE, &mut seen);
            assert!(seen == out, "pin {pin} on page {page} of {space:?}");
            let pfn = space.page(at(page)).unwrap().unwrap().pfn;
            assert_eq!(pfn, pfns[nth as usize], "page {page} of {space:?} has left pin {pin}");
        }
    }

    fn check_all(&mut self) {
        for space in 0..self.spaces.len() {
            (0..PAGES).for_each(|page| self.check_page(space, page));
        }
        for (file, bytes) in &self.files {
            let mut out = vec![0; bytes.len()];
            self.world.read_file(*file, 0, &mut out).unwrap();
            assert!(out == *bytes);
        }
    }

    fn write(&mut self, space: usize, page: usize, offset: usize, byte: u8) {
        let (space, model) = &mut self.spaces[space];
        let written = space.write(VirtAddr::new(at(page).get() + offset as u64), &[byte]);
        match &mut model[page] {
            None => assert!(matches!(written, Err(Error::NoArea { .. }))),
            Some(cell) if !cell.write => assert!(matches!(written, Err(Error::ReadOnly { .. }))),
            Some(cell) => {
                assert_eq!(written, Ok(()));
                if let Some((file, page, true)) = cell.file {
                    self.files[file].1[page * PAGE as usize + offset] = byte;
                } else {
                    let mut own = contents(&self.files, cell);
                    own[offset] = byte;
                    cell.own = Some(own);
                }
            }
        }
    }

    fn mmap(&mut self, random: &mut Random, space: usize, first: usize, count: usize) {
        let mut area = Area::anonymous(order([0, 0, 2, 4, 9, 9][random.below(6)]));
        let mut file = None;
        if random.below(3) == 0 {
            let which = random.below(FILES.len());
            let shared = random.below(2) == 0;
            // Often in step with the address, so that PMDs fit.
            let page = (first % 512) % FILES[which].1.saturating_sub(count).max(1);
            area = Area::file(self.files[which].0, page as u64, shared);
            file = Some((which, page, shared));
        }
        if random.below(4) == 0 {
            area = area.by_ptes();
        }
        if random.below(8) == 0 {
            area = area.read_only();
        }
        let (space, model) = &mut self.spaces[space];
        let fits = file.is_none_or(|(which, page, _)| page + count <= FILES[which].1);
        let made = space.mmap(pages(first, count), area);
        let free = model[first..first + count].iter().all(Option::is_none);
        assert_eq!(made.is_ok(), free && fits, "{made:?}");
        if made.is_ok() {
            for (nth, cell) in model[first..first + count].iter_mut().enumerate() {
                let file = file.map(|(which, page, shared)| (which, page + nth, shared));
                *cell = Some(Cell { file, write: area.write, own: None, pins: Vec::new() });
            }
            assert_eq!(matches!(area.backing, Backing::File { .. }), file.is_some());
        }
    }

    /// A page in some area, or the first of 512 that a PMD could map; the next one from `from` on, if there is one.
    fn populated(&self, space: usize, from: usize, huge: bool) -> usize {
        let (_, model) = &self.spaces[space];
        let good = |&page: &usize| {
            if huge {
                page % 512 == 0 && model[page..page + 512].iter().all(Option::is_some)
            } else {
                model[page].is_some()
            }
        };
        (from..PAGES).chain(0..from).find(good).unwrap_or(from)
    }

    /// A device pins some pages: which kind of operation that was.
    fn pin(&mut self, random: &mut Random, space: usize, first: usize, count: usize) -> usize {
        if self.pins.len() - self.pins.iter().filter(|pin| pin.is_none()).count() >= PINS {
            return 9;
        }
        let hold = if random.below(8) == 0 { Flags::GET } else { Flags::PIN };
        let mut flags = hold;
        flags.set(Flags::WRITE, random.below(3) > 0);
        flags.set(Flags::LONGTERM, hold == Flags::PIN && random.below(2) == 0);
        let (space, model) = &mut self.spaces[space];
        let pin = match space.pin_range(at(first), count as u64 * PAGE, flags) {
            Ok(pin) => pin,
            Err(Error::NoArea { .. } | Error::ReadOnly { .. } | Error::Refused(Refusal::Migrate(_))) => {
                return 9;
            }
            Err(error) => panic!("{error}"),
        };
        let pinned = (pin.bytes() / PAGE) as usize;
        match pin.stopped() {
            None => assert_eq!(pinned, count),
            Some(Refusal::NoArea { va } | Refusal::NotWritable { va }) => assert_eq!(va, at(first + pinned)),
            Some(Refusal::Migrate(_)) => {}
            Some(other) => panic!("{other}"),
        }
        let pfns: Vec<_> = pin.pfns().collect();
        assert_eq!(pfns.len(), pinned);
        if flags.contains(Flags::LONGTERM) {
            assert!(pfns.iter().all(|&pfn| !self.world.is_movable(pfn)), "pinned for long and movable");
        }
        if hold == Flags::GET {
            // A reference alone does not keep a page from being copied away, so there is nothing to be seen later.
            let mut seen = vec![0; PAGE as usize];
            pin.read((pinned as u64 - 1) * PAGE, &mut seen);
            assert!(seen == contents(&self.files, model[first + pinned - 1].as_ref().unwrap()));
            return 9;
        }
        for (nth, cell) in model[first..first + pinned].iter_mut().flatten().enumerate() {
            let shared = cell.file.is_some_and(|(_, _, shared)| shared);
            let private = cell.own.is_some() || cell.file.is_none();
            // Of a page of a file that nobody wrote yet, only who writes it or has it for long gets a copy.
            if shared || private || flags.intersects(Flags::WRITE | Flags::LONGTERM) {
                cell.own = if shared { None } else { Some(contents(&self.files, cell)) };
                cell.pins.push((self.pins.len(), nth as u64));
            }
        }
        self.pins.push(Some((pin, pfns)));
        7
    }

    /// A device lets go of its pages.
    fn unpin(&mut self, random: &mut Random) -> usize {
        let live: Vec<_> = (0..self.pins.len()).filter(|&pin| self.pins[pin].is_some()).collect();
        if live.len() < PINS / 2 {
            return 9;
        }
        let gone = live[random.below(live.len())];
        self.pins[gone] = None;
        for cell in self.spaces.iter_mut().flat_map(|(_, model)| model.iter_mut().flatten()) {
            cell.pins.retain(|&(pin, _)| pin != gone);
        }
        10
    }

    /// A device writes to a page that it has: who has the page still sees it.
    fn write_by_device(&mut self, random: &mut Random) -> usize {
        let mut found = None;
        for (space, (_, model)) in self.spaces.iter().enumerate() {
            let start = random.below(PAGES);
            let pinned = |&page: &usize| model[page].as_ref().is_some_and(|cell| !cell.pins.is_empty());
            found = found.or((start..PAGES).chain(0..start).find(pinned).map(|page| (space, page)));
        }
        let Some((space, page)) = found else { return 9 };
        let cell = self.spaces[space].1[page].as_mut().unwrap();
        let (pin, nth) = cell.pins[random.below(cell.pins.len())];
        let (offset, byte) = (random.below(PAGE as usize), random.below(256) as u8);
        match self.pins[pin].as_ref().unwrap().0.write(nth * PAGE + offset as u64, &[byte]) {
            Err(Error::NotForWriting) => 9,
            Err(error) => panic!("{error}"),
            Ok(()) => {
                if let Some((file, page, true)) = cell.file {
                    self.files[file].1[page * PAGE as usize + offset] = byte;
                } else {
                    cell.own.as_mut().unwrap()[offset] = byte;
                }
                self.check_page(space, page);
                11
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        let space = random.below(self.spaces.len());
        let mut count = if random.below(3) == 0 { 512 + random.below(600) } else { 1 + random.below(40) };
        let mut first = random.below(PAGES - count);
        if random.below(2) == 0 {
            first &= !511;
        }
        let what = random.below(40);
        if what < 4 && random.below(4) > 0 {
            (first, count) = (first & !511, 512 + random.below(2) * 512);
            count = count.min(PAGES - first);
        } else if (4..8).contains(&what) && random.below(6) > 0 {
            count = count.min(1 + random.below(8));
        }
        if what >= 6 && random.below(8) > 0 {
            first = self.populated(space, first, (12..16).contains(&what));
            count = count.min(PAGES - first);
        }
        let kind = match what {
            0..4 => {
                self.mmap(random, space, first, count);
                0
            }
            4..6 => {
                let (space, model) = &mut self.spaces[space];
                space.munmap(pages(first, count)).unwrap();
                model[first..first + count].fill(None);
                1
            }
            6..8 => {
                let (space, model) = &mut self.spaces[space];
                space.dont_need(pages(first, count)).unwrap();
                for cell in model[first..first + count].iter_mut().flatten() {
                    (cell.own, cell.pins) = (None, Vec::new());
                }
                2
            }
            8..10 => {
                let to = if random.below(2) == 0 {
                    random.below(PAGES - count)
                } else {
                    (first % 512 + 512 * random.below(6)).min(PAGES - count)
                };
                let (space, model) = &mut self.spaces[space];
                match space.mremap(pages(first, count), at(to)) {
                    Ok(()) => {
                        let moved: Vec<_> =
                            model[first..first + count].iter_mut().map(Option::take).collect();
                        assert!(model[to..to + count].iter().all(Option::is_none));
                        model[to..to + count].clone_from_slice(&moved);
                        3
                    }
                    Err(Error::NoArea { .. } | Error::Occupied { .. }) => 9,
                    Err(error) => panic!("{error}"),
                }
            }
            10 | 11 => {
                if self.spaces.len() < 5 {
                    let (parent, model) = &mut self.spaces[space];
                    let child = parent.fork().unwrap();
                    let mut copy = model.clone();
                    copy.iter_mut().flatten().for_each(|cell| cell.pins.clear());
                    self.spaces.push((child, copy));
                } else {
                    drop(self.spaces.swap_remove(space));
                }
                4
            }
            12..15 => match self.spaces[space].0.collapse(at(first)) {
                Ok(()) => 5,
                Err(
                    Error::NoArea { .. }
                    | Error::WrongArea { .. }
                    | Error::Pinned { .. }
                    | Error::Busy { .. },
                ) => 9,
                Err(error) => panic!("{error}"),
            },
            15 => match self.spaces[space].0.split_pmd(at(first)) {
                Ok(()) => 6,
                Err(Error::NoArea { .. } | Error::NotHuge { .. }) => 9,
                Err(error) => panic!("{error}"),
            },
            16..18 => self.pin(random, space, first, count),
            18 => self.unpin(random),
            19..21 => self.write_by_device(random),
            _ => {
                for _ in 0..4 {
                    let page = (first + random.below(count)).min(PAGES - 1);
                    self.write(space, page, random.below(PAGE as usize), random.below(256) as u8);
                }
                8
            }
        };
        self.done[kind] += 1;
        for _ in 0..12 {
            let (space, page) =
                (random.below(self.spaces.len()), (first + random.below(count)).min(PAGES - 1));
            self.check_page(space, page);
        }
    }
}

/// Runs `steps` random operations on up to five address spaces, each against the model; nothing may be left behind.
pub(crate) fn run<C: Mapcounts>(seed: u64, steps: u32) -> Statistics {
    let mut ids = [const { AtomicU64::new(0) }; 1];
    // A quarter of it is kept for what can move: not all pages find room there.
    let world = World::<C>::with_movable(1 << 15, 1 << 13, &mut ids).unwrap();
    let mut random = Random(seed);
    let files = FILES.map(|(k, pages)| {
        let bytes: Vec<u8> = (0..pages * PAGE as usize).map(|i| (i / 61 + i / 4096) as u8).collect();
        (world.create_file(&bytes, order(k)).unwrap(), bytes)
    });
    let start = world.free_frames();
    let spaces = (0..2).map(|_| (world.spawn().unwrap(), vec![None; PAGES])).collect();
    let mut machine = Machine { world: &world, spaces, files: files.into(), pins: Vec::new(), done: [0; 13] };
    for step in 0..steps {
        machine.step(&mut random);
        if step % 64 == 63 {
            let spaces: Vec<_> = machine.spaces.iter().map(|(space, _)| space).collect();
            let audit = world.audit(&spaces).unwrap_or_else(|error| panic!("{error}"));
            // Pinned frames may be in no page table any more; a pinned folio is kept whole.
            let held: usize = machine.pins.iter().flatten().map(|(_, pfns)| pfns.len()).sum();
            assert!(held as u64 * 512 >= audit.missing, "{} frames leaked", audit.missing);
        }
        if step % 512 == 511 {
            machine.check_all();
        }
    }
    machine.check_all();
    machine.done[12] = world.statistics().moved as u32;
    assert!(machine.done.iter().all(|&n| n > 0), "each kind of operation succeeded: {:?}", machine.done);
    drop(machine);
    let statistics = world.statistics();
    assert_eq!((statistics.anon, statistics.file), (0, 0), "{statistics:?}");
    assert_eq!((statistics.anon_pmd, statistics.file_pmd), (0, 0), "{statistics:?}");
    assert_eq!(world.free_frames(), start, "frames leaked");
    statistics
}
