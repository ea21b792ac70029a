// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs: after each operation the pages that it touched are compared with a model, every so often the books are
//! audited, and each decision to copy or to reuse is judged by the page tables; with memory enough, and with too little.

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use common::{PAGE, Random, at, order, pages};
use mmkit_addr::{Order, VirtAddr};
use mmkit_folio::{
    Checked, Kind, Mapcounts, NoPageMapcount, PageMapcount, PowerSums, Tracker, TwoSlots, Untracked,
};
use mmkit_sim::{AddressSpace, Area, Audit, Backing, Error, FileId, World};
use mmkit_sync::atomic::AtomicU64;

const OPERATIONS: usize = 1200;
/// Pages that programs use.
const WINDOW: usize = 2048;
/// Pages and orders of the files.
const FILES: [(usize, u8); 4] = [(64, 0), (200, 2), (1024, 0), (1024, 9)];

/// Where a page of an area comes from: number and page of a file, whether writes go there.
type Source = Option<(usize, usize, bool)>;

/// One address space: what each page is.
#[derive(Clone, Default)]
struct Model {
    areas: BTreeMap<usize, Source>,
    /// Private pages that were written.
    private: BTreeMap<usize, Arc<Vec<u8>>>,
    /// Where each page was written last, by whatever name.
    written: BTreeMap<usize, usize>,
}

impl Model {
    fn page(&self, page: usize, files: &[Vec<u8>]) -> Vec<u8> {
        match (self.private.get(&page), self.areas[&page]) {
            (Some(bytes), _) => bytes.to_vec(),
            (None, None) => vec![0; PAGE as usize],
            (None, Some((file, page, _))) => files[file][page * PAGE as usize..][..PAGE as usize].to_vec(),
        }
    }

    fn write(&mut self, page: usize, offset: usize, bytes: &[u8], files: &mut [Vec<u8>]) {
        self.written.insert(page, offset);
        if let Some((file, page, true)) = self.areas[&page] {
            files[file][page * PAGE as usize + offset..][..bytes.len()].copy_from_slice(bytes);
            return;
        }
        let copy = self.page(page, files);
        let copy = Arc::make_mut(self.private.entry(page).or_insert_with(|| Arc::new(copy)));
        copy[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn free(&self, first: usize, count: usize) -> bool {
        self.areas.range(first..first + count).next().is_none()
    }
}

/// Whether the tracker promises never to be wrong.
fn exact<C: Mapcounts>() -> bool {
    matches!(<C::Tracker as Tracker>::NAME, "PowerSums" | "Checked")
}

struct Program<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    spaces: Vec<(AddressSpace<'w, C>, Model)>,
    files: Vec<Vec<u8>>,
    ids: Vec<FileId>,
    random: Random,
    /// Operations may fail for want of memory, and change nothing then.
    tight: bool,
    failed: u64,
    /// Address space and pages that the last operation was about.
    touched: Vec<(usize, Range<usize>)>,
    /// Decisions that were judged: copies, reuses.
    decided: [u64; 2],
    /// The most pages found mapped by PMDs at an audit: anonymous, of files.
    huge: [i64; 2],
}

impl<'w, C: Mapcounts> Program<'w, C> {
    fn new(world: &'w World<'w, C>, seed: u64, tight: bool) -> Self {
        let files: Vec<_> = FILES.iter().map(|(pages, _)| vec![0; pages * PAGE as usize]).collect();
        // The large ones do not fit where memory is tight.
        let files = if tight { files[..2].to_vec() } else { files };
        let ids = files.iter().zip(FILES).map(|(bytes, (_, k))| world.create_file(bytes, order(k)).unwrap());
        let ids = ids.collect();
        let spaces = vec![(world.spawn().unwrap(), Model::default())];
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (touched, decided, huge) = (Vec::new(), [0; 2], [0; 2]);
        Self { world, spaces, files, ids, random, tight, failed: 0, touched, decided, huge }
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn run(&mut self) {
        for nth in 0..OPERATIONS {
            self.step();
            self.check();
            if nth % 16 == 0 {
                self.audit();
                let statistics = self.world.statistics();
                let [anon, file] = self.huge;
                self.huge = [anon.max(statistics.anon_pmd), file.max(statistics.file_pmd)];
            }
        }
        self.compare();
        self.audit();
    }

    fn done<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Alloc(_) | Error::Tables(mmkit_pgtable::Error::Alloc(_))) if self.tight => {
                self.failed += 1;
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self) {
        let who = self.random.below(self.spaces.len());
        match self.random.below(100) {
            0..12 => self.mmap(who),
            12..17 => {
                let (first, count) = self.some_pages(400);
                self.munmap(who, first, count);
            }
            17..22 => self.dont_need(who),
            22..27 => self.mremap(who),
            27..33 => self.fork(who),
            33..36 => self.exit(who),
            36..39 => self.huge_pages(who),
            39..42 => self.populate(who),
            42..60 => self.read(who),
            _ => self.write(who),
        }
    }

    /// Remembers what the operation is about.
    fn touch(&mut self, who: usize, first: usize, count: usize) {
        self.touched.push((who, first.saturating_sub(1)..first + count + 1));
    }

    /// What is mapped of the pages that were touched, and of their neighbours, is as it should be, without a fault that
    /// would make it so.
    fn check(&mut self) {
        for (who, pages) in std::mem::take(&mut self.touched) {
            let (space, model) = &self.spaces[who];
            let whole = pages.len() < 6;
            for page in pages {
                // All of the page, or what was written last and was perhaps lost.
                let offset = if whole { 0 } else { *model.written.get(&page).unwrap_or(&0) };
                let mut found = vec![0; if whole { PAGE as usize } else { 24 }];
                let mapped = space.peek(VirtAddr::new(at(page).get() + offset as u64), &mut found).unwrap();
                if !model.areas.contains_key(&page) {
                    assert!(!mapped, "page {page} of space {who} is in no area");
                } else if mapped {
                    let expected = model.page(page, &self.files);
                    assert!(found == expected[offset..offset + found.len()], "page {page} of space {who}");
                } else {
                    assert!(!model.private.contains_key(&page), "page {page} of space {who} is lost");
                }
            }
        }
    }

    fn some_pages(&mut self, most: usize) -> (usize, usize) {
        let count = 1 + self.random.below(most);
        (self.random.below(WINDOW - count), count)
    }

    /// A page that is in an area, if any is.
    fn some_page(&mut self, who: usize) -> Option<usize> {
        let from = self.random.below(WINDOW);
        let areas = &self.spaces[who].1.areas;
        areas.range(from..).next().or_else(|| areas.iter().next()).map(|(page, _)| *page)
    }

    fn mmap(&mut self, who: usize) {
        let (mut first, mut count) = self.some_pages(300);
        let mut area = Area::anonymous(order([0, 1, 2, 4, 9, 9][self.random.below(6)]));
        let mut source = None;
        let huge = self.chance(25);
        if self.random.below(10) >= 6 {
            let mut file = self.random.below(self.ids.len());
            if huge {
                file = self.ids.len() - 1 - self.random.below(2);
            }
            let all = FILES[file].0;
            let mut page = if self.chance(50) { 0 } else { self.random.below(all) };
            if huge {
                page &= !511;
                count = 512 + self.random.below(200);
            }
            count = count.min(all - page);
            let shared = self.chance(50);
            area = Area::file(self.ids[file], page as u64, shared);
            source = Some((file, page, shared));
        } else if huge {
            count = 512 + self.random.below(300);
        }
        if huge {
            first &= !511;
            count = count.min(WINDOW - first);
            self.munmap(who, first, count);
        }
        if self.chance(20) {
            area = area.by_ptes();
        }
        self.touch(who, first, count);
        let (space, model) = &mut self.spaces[who];
        let result = space.mmap(pages(first, count), area);
        if !model.free(first, count) {
            assert!(matches!(result, Err(Error::Occupied { .. })), "{result:?}");
            return;
        }
        result.unwrap();
        assert_eq!(matches!(area.backing, Backing::File { .. }), source.is_some());
        for nth in 0..count {
            let source = source.map(|(file, page, shared)| (file, page + nth, shared));
            model.areas.insert(first + nth, source);
        }
    }

    fn munmap(&mut self, who: usize, first: usize, count: usize) {
        self.touch(who, first, count);
        let result = self.spaces[who].0.munmap(pages(first, count));
        if self.done(result).is_some() {
            let model = &mut self.spaces[who].1;
            model.areas.retain(|page, _| !(first..first + count).contains(page));
            model.private.retain(|page, _| !(first..first + count).contains(page));
        }
    }

    fn dont_need(&mut self, who: usize) {
        let (first, count) = self.some_pages(200);
        self.touch(who, first, count);
        let result = self.spaces[who].0.dont_need(pages(first, count));
        if self.done(result).is_some() {
            self.spaces[who].1.private.retain(|page, _| !(first..first + count).contains(page));
        }
    }

    fn mremap(&mut self, who: usize) {
        let Some(first) = self.some_page(who) else { return };
        let most = if self.chance(20) { 600 } else { 60 };
        let count = (1 + self.random.below(most)).min(WINDOW - first);
        let mut to = self.random.below(WINDOW - count + 1);
        if self.chance(50) {
            // PMDs can move as they are.
            to = (to & !511 | first & 511).min(WINDOW - count);
        }
        self.touch(who, first, count);
        self.touch(who, to, count);
        let result = self.spaces[who].0.mremap(pages(first, count), at(to));
        if matches!(result, Err(Error::NoArea { .. } | Error::Occupied { .. })) || self.done(result).is_none()
        {
            return;
        }
        let model = &mut self.spaces[who].1;
        assert!(model.free(to, count), "moved onto something");
        for nth in 0..count {
            let source = model.areas.remove(&(first + nth)).expect("moved what was not there");
            model.areas.insert(to + nth, source);
            if let Some(page) = model.private.remove(&(first + nth)) {
                model.private.insert(to + nth, page);
            }
        }
    }

    fn fork(&mut self, who: usize) {
        if self.spaces.len() == 6 {
            return self.exit(who);
        }
        let result = self.spaces[who].0.fork();
        if let Some(child) = self.done(result) {
            let model = self.spaces[who].1.clone();
            self.spaces.push((child, model));
            self.touch(self.spaces.len() - 1, 0, WINDOW);
            self.touch(who, 0, WINDOW);
        }
    }

    fn exit(&mut self, who: usize) {
        if self.spaces.len() > 1 {
            drop(self.spaces.swap_remove(who));
            self.touch(0, 0, WINDOW);
        }
    }

    fn huge_pages(&mut self, who: usize) {
        let Some(page) = self.some_page(who) else { return };
        let collapse = self.chance(60);
        self.touch(who, page & !511, 512);
        let space = &self.spaces[who].0;
        let result = if collapse { space.collapse(at(page)) } else { space.split_pmd(at(page)) };
        match result {
            Err(
                Error::NoArea { .. } | Error::WrongArea { .. } | Error::NotHuge { .. } | Error::Busy { .. },
            ) => {}
            result => drop(self.done(result)),
        }
    }

    /// Writes what is there already to many pages in a row.
    fn populate(&mut self, who: usize) {
        let Some(first) = self.some_page(who) else { return };
        let most = if self.chance(30) { 600 } else { 40 };
        let end = first + 1 + self.random.below(most);
        self.touch(who, first, end - first);
        let mut page = first;
        while page < end && self.spaces[who].1.areas.contains_key(&page) {
            let (space, model) = &mut self.spaces[who];
            let bytes = [model.page(page, &self.files)[0]];
            let result = space.write(at(page), &bytes);
            if self.done(result).is_none() {
                return;
            }
            self.spaces[who].1.write(page, 0, &bytes, &mut self.files);
            page += 1;
        }
    }

    fn read(&mut self, who: usize) {
        let Some(page) = self.some_page(who) else { return };
        self.touch(who, page, 1);
        let mut found = vec![0; PAGE as usize];
        let result = self.spaces[who].0.read(at(page), &mut found);
        if self.done(result).is_some() {
            assert!(found == self.spaces[who].1.page(page, &self.files), "page {page} of space {who}");
        }
    }

    fn write(&mut self, who: usize) {
        let Some(page) = self.some_page(who) else { return };
        let offset = self.random.below(PAGE as usize - 24);
        let len = 1 + self.random.below(24);
        let bytes: Vec<u8> = (0..len).map(|_| self.random.below(256) as u8).collect();
        let expected = self.decision(who, page);
        self.touch(who, page, 1);
        let before = self.world.statistics();
        let result = self.spaces[who].0.write(VirtAddr::new(at(page).get() + offset as u64), &bytes);
        if self.done(result).is_none() {
            return;
        }
        self.spaces[who].1.write(page, offset, &bytes, &mut self.files);
        if let Some(reuse) = expected {
            self.decided[usize::from(reuse)] += 1;
            let after = self.world.statistics();
            let reused = after.reused - before.reused;
            assert_eq!(reused + after.copied - before.copied, 1, "one decision");
            if exact::<C>() {
                assert_eq!(reused == 1, reuse, "an exact tracker decides as the page tables say");
            } else if !reuse {
                assert_eq!(reused, 0, "reused what others see");
            }
        }
    }

    /// Whether the page is reused if it is written to, counted from all page tables. `None`, where counts do not decide.
    fn decision(&self, who: usize, page: usize) -> Option<bool> {
        let info = self.spaces[who].0.page(at(page)).unwrap()?;
        if info.write || info.by_pmd || info.exclusive || info.kind == Kind::File {
            return None;
        }
        let alone = self.audit_now().folios[&info.head].owners.len() == 1 && info.references == info.mappings;
        Some(if info.order == Order::ZERO { alone && info.mappings == 1 } else { alone && info.mappings > 1 })
    }

    fn audit_now(&self) -> Audit {
        let spaces: Vec<_> = self.spaces.iter().map(|(space, _)| space).collect();
        self.world.audit(&spaces).unwrap_or_else(|error| panic!("{error}"))
    }

    fn audit(&self) {
        let audit = self.audit_now();
        assert_eq!(audit.missing, 0, "frames leaked");
        for folio in audit.folios.values().filter(|folio| exact::<C>() && folio.order > Order::ZERO) {
            let single = folio.owners.len() == 1;
            assert_eq!(folio.sole_owner.is_some(), single, "{folio:?}");
            assert_eq!(folio.maybe_shared, !single, "{folio:?}");
        }
    }

    fn compare(&mut self) {
        let mut found = vec![0; PAGE as usize];
        for (who, (space, model)) in self.spaces.iter_mut().enumerate() {
            for &page in model.areas.keys() {
                match space.read(at(page), &mut found) {
                    Ok(()) => assert!(found == model.page(page, &self.files), "page {page} of space {who}"),
                    Err(Error::Alloc(_) | Error::Tables(_)) if self.tight => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        for (id, bytes) in self.ids.iter().zip(&self.files) {
            let mut found = vec![0; bytes.len()];
            self.world.read_file(*id, 0, &mut found).unwrap();
            assert!(&found == bytes, "{id:?}");
        }
    }
}

/// Runs the programs of `seeds` in worlds of `frames` frames.
fn books<C: Mapcounts>(seeds: std::ops::Range<u64>, frames: u64, tight: bool) {
    let (mut decided, mut huge, mut failed) = ([0; 2], [0; 2], 0);
    for seed in seeds {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<C>::new(frames, &mut ids).unwrap();
        let mut program = Program::new(&world, seed, tight);
        program.run();
        decided = [0, 1].map(|reuse| decided[reuse] + program.decided[reuse]);
        huge = [0, 1].map(|file| program.huge[file].max(huge[file]));
        failed += program.failed;
        program.spaces.clear();
        program.audit();
        assert!(program.audit_now().folios.is_empty());
    }
    if tight {
        assert!(failed > 60, "{failed} failures show little");
    } else {
        assert!(decided[0] > 50 && decided[1] > 20, "{decided:?} copies and reuses show little");
        assert!(huge[0] > 1000 && huge[1] > 500, "{huge:?} pages mapped by PMDs show little");
    }
}

/// Moving two runs needs a table for each: with every number of free frames too few nothing moves, and nothing is lost.
#[test]
fn a_move_that_fails_half_way_is_undone() {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<PageMapcount<Checked>>::new(256, &mut ids).unwrap();
    let (mut failures, mut moves) = (0, 0);
    for spare in 0..16 {
        let (space, eater) = (world.spawn().unwrap(), world.spawn().unwrap());
        space.mmap(pages(0, 1024), Area::anonymous(order(0))).unwrap();
        space.write(at(500), b"first").unwrap();
        space.write(at(700), b"second").unwrap();
        eater.mmap(pages(0, 256), Area::anonymous(order(0))).unwrap();
        let eaten =
            (0..256).take_while(|&page| world.free_frames() > spare && eater.write(at(page), &[1]).is_ok());
        let _ = eaten.count();
        if world.free_frames() != spare {
            continue;
        }
        let moved = space.mremap(pages(0, 1024), at(1 << 20));
        world.audit(&[&space, &eater]).unwrap();
        let base = if moved.is_ok() { 1 << 20 } else { 0 };
        assert!(matches!(moved, Ok(()) | Err(Error::Tables(mmkit_pgtable::Error::Alloc(_)))), "{moved:?}");
        let mut found = [0; 6];
        space.read(at(base + 500), &mut found[..5]).unwrap();
        assert_eq!(&found[..5], b"first");
        space.read(at(base + 700), &mut found).unwrap();
        assert_eq!(&found, b"second");
        failures += u64::from(moved.is_err());
        moves += u64::from(moved.is_ok());
    }
    // A table of each level for the first run, then one for the second.
    assert!(failures >= 3 && moves > 0, "{failures} failures, {moves} moves");
}

macro_rules! under {
    ($($name:ident, $tight:ident: $strategy:ty;)*) => {$(
        #[test]
        fn $name() {
            books::<$strategy>(1..3, 1 << 15, false);
        }

        #[test]
        fn $tight() {
            books::<$strategy>(12..13, 800, true);
        }
    )*};
}

under! {
    checked_by_page, checked_by_page_tight: PageMapcount<Checked>;
    checked_by_folio, checked_by_folio_tight: NoPageMapcount<Checked>;
    power_sums_by_page, power_sums_by_page_tight: PageMapcount<PowerSums>;
    power_sums_by_folio, power_sums_by_folio_tight: NoPageMapcount<PowerSums>;
    two_slots_by_page, two_slots_by_page_tight: PageMapcount<TwoSlots>;
    two_slots_by_folio, two_slots_by_folio_tight: NoPageMapcount<TwoSlots>;
    untracked_by_page, untracked_by_page_tight: PageMapcount<Untracked>;
    untracked_by_folio, untracked_by_folio_tight: NoPageMapcount<Untracked>;
}
