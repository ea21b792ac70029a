// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of memory files, by the folio.
#![cfg(not(mmkit_loom))]

mod common;

use std::cell::{Cell, RefCell};

use common::*;
use mmkit_gup::*;
use mmkit_page::PageFlags;

/// A file of memory with folios of four pages, some of them holes.
struct File<'m> {
    space: Space<'m>,
    folios: RefCell<Vec<Option<u64>>>,
    /// Somebody else fills the hole first.
    races: Cell<bool>,
    memory: Cell<u64>,
}

impl<'m> File<'m> {
    fn fill(&self, slot: usize) {
        let first = self.memory.get();
        self.memory.set(first + 4);
        let _ = self.space.block(first, 2).into_folio().into_raw();
        self.folios.borrow_mut()[slot] = Some(first);
    }
}

impl<'m> MemoryFile for File<'m> {
    type Map = Map<'m>;
    type Policy = Space<'m>;
    type Migrate = Self;

    fn map(&self) -> &Map<'m> {
        self.space.map
    }

    fn policy(&self) -> &Space<'m> {
        &self.space
    }

    fn migrate(&self) -> &Self {
        self
    }

    fn len(&self) -> u64 {
        // The last page is not whole.
        self.folios.borrow().len() as u64 * 4 * PAGE - 100
    }

    fn base_shift(&self) -> u32 {
        SHIFT
    }

    fn find(&self, index: u64) -> Option<(mmkit_page::Folio<'_, Map<'m>>, u64)> {
        let first = self.folios.borrow()[(index / 4) as usize]?;
        Some((self.space.folio(first), index % 4))
    }

    fn allocate(&self, index: u64) -> Result<(), AllocateError> {
        if self.space.no_memory.get() {
            return Err(AllocateError::NoMemory);
        }
        self.fill((index / 4) as usize);
        if self.races.get() { Err(AllocateError::Exists) } else { Ok(()) }
    }
}

impl<'m> Migrate<Map<'m>> for File<'m> {
    fn isolate(&self, _: &mmkit_page::Folio<'_, Map<'m>>) -> bool {
        true
    }

    fn migrate(&self, isolated: Isolated<'_, Map<'m>>) -> Result<(), MigrateError> {
        for folio in isolated {
            // The file's reference, and this one.
            if folio.count() != 2 {
                return Err(MigrateError::Busy);
            }
            let slot =
                self.folios.borrow().iter().position(|first| *first == Some(folio.pfn().get())).unwrap();
            self.fill(slot);
            // SAFETY: the reference that the file had kept.
            drop(unsafe { mmkit_page::Folio::from_raw(self.space.map, folio.pfn()) });
        }
        Ok(())
    }
}

#[test]
fn scenario_71_ranges_of_memory_files() {
    let mut pages = descriptors(128);
    let map = map(&mut pages);
    let file = File {
        space: Space::new(&map, 3, 1),
        folios: RefCell::new(vec![None; 4]),
        races: Cell::new(false),
        memory: Cell::new(8),
    };
    file.fill(0);
    file.fill(2);
    let mut out = [FolioHolds::EMPTY; 8];
    // From the second page of the first folio to the third of the third: a hole in between.
    let (start, last) = (PAGE + 0x123, 11 * PAGE - 1);
    let pins = pin_file(&file, start, last, &mut out).unwrap();
    assert_eq!(pins, FilePins { folios: 3, offset: PAGE + 0x123 });
    let got: Vec<_> = out[..3].iter().map(|f| (f.head.get(), f.first, f.pages, f.holds)).collect();
    assert_eq!(got, [(8, 1, 3, 1), (16, 0, 4, 1), (12, 0, 3, 1)]);
    assert!([8, 16, 12].iter().all(|&frame| file.space.counts(frame) == (2, 1)));
    // SAFETY: pinned just now.
    assert_eq!(unsafe { Release::pins(&map).folios(&out[..3]) }.frames, 3);
    // Somebody else is first to fill a hole.
    file.races.set(true);
    let pins = pin_file(&file, 12 * PAGE, 12 * PAGE, &mut out).unwrap();
    assert_eq!((pins.folios, pins.offset, out[0].pages), (1, 0, 1));
    // SAFETY: pinned just now.
    assert_eq!(unsafe { Release::pins(&map).folios(&out[..1]) }.frames, 1);
    // The ends.
    let len = file.len();
    assert_eq!(pin_file(&file, 0, len, &mut out), Err(FileRefusal::PastEnd { last: len, len }));
    assert_eq!(pin_file(&file, 5, 4, &mut out), Err(FileRefusal::Inverted { start: 5, last: 4 }));
    assert_eq!(pin_file(&file, 0, 4, &mut []), Err(FileRefusal::NoRoom));
    let pins = pin_file(&file, len - 1, len - 1, &mut out).unwrap();
    assert_eq!(pins.offset, (len - 1) % (4 * PAGE));
    // SAFETY: pinned just now.
    assert_eq!(unsafe { Release::pins(&map).folios(&out[..1]) }.frames, 1);
    // Room for two: as many as fit.
    let pins = pin_file(&file, 0, len - 1, &mut out[..2]).unwrap();
    assert_eq!(pins.folios, 2);
    // SAFETY: pinned just now.
    assert_eq!(unsafe { Release::pins(&map).folios(&out[..2]) }.frames, 2);
    // Movable folios move first; one that is in use keeps all from being pinned.
    let counts = |file: &File<'_>| {
        file.folios.borrow().iter().flatten().map(|&f| file.space.counts(f)).collect::<Vec<_>>()
    };
    file.space.folio(12).insert(PageFlags::MOVABLE);
    let pins = pin_file(&file, 0, len - 1, &mut out).unwrap();
    assert_eq!(pins.folios, 4);
    assert_ne!(out[2].head.get(), 12);
    assert_eq!(counts(&file), [(2, 1); 4]);
    // SAFETY: pinned just now.
    assert_eq!(unsafe { Release::pins(&map).folios(&out[..4]) }.frames, 4);
    let busy = file.space.folio(16);
    busy.insert(PageFlags::MOVABLE);
    assert_eq!(pin_file(&file, 0, len - 1, &mut out), Err(FileRefusal::Migrate(MigrateError::Busy)));
    busy.remove(PageFlags::MOVABLE);
    drop(busy);
    assert_eq!(counts(&file), [(1, 0); 4]);
    // No memory for a hole.
    file.folios.borrow_mut()[3] = None;
    file.space.no_memory.set(true);
    assert_eq!(pin_file(&file, 0, len - 1, &mut out), Err(FileRefusal::NoMemory { index: 12 }));
    assert_eq!(counts(&file), [(1, 0); 3]);
}
