// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that runs out at every place where it can: the k-th allocation of each operation fails, for every k. Afterwards
//! the books are right, what was there is there, nothing is lost, and the operation works when it is tried again.

mod common;

use common::{PAGE, at, order, pages};
use mmkit_addr::{VirtAddr, VirtRange};
use mmkit_folio::{Checked, Mapcounts, NoPageMapcount, PageMapcount};
use mmkit_gup::{FaultError, Refusal};
use mmkit_sim::{AddressSpace, Area, Error, FileId, World};
use mmkit_sync::atomic::AtomicU64;

const FRAMES: u64 = 1 << 13;
/// What is where, in pages: PMDs, single pages, small folios, files of single pages and of a PMD, shared and private.
const PMD: usize = 0;
const SINGLE: usize = 1024;
const SMALL: usize = 1536;
const SHARED: usize = 2048;
const PRIVATE: usize = 2560;
/// An area that nobody has touched.
const FRESH: usize = 1 << 20;
/// Far from everything: it needs tables of its own.
const FAR: usize = 1 << 27;

struct Scene<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    spaces: Vec<AddressSpace<'w, C>>,
    files: Vec<FileId>,
}

/// The first bytes of each page that is mapped, of each address space.
type Snapshot = Vec<Vec<(usize, [u8; 2])>>;

impl<'w, C: Mapcounts> Scene<'w, C> {
    fn new(world: &'w World<'w, C>) -> Self {
        let mut bytes = vec![0; 512 * PAGE as usize];
        (0..512).for_each(|page| bytes[page * PAGE as usize] = page as u8);
        let files = [0, 9].map(|k| world.create_file(&bytes, order(k)).unwrap());
        let space = world.spawn().unwrap();
        space.mmap(pages(PMD, 1024), Area::anonymous(order(9))).unwrap();
        space.mmap(pages(SINGLE, 512), Area::anonymous(order(0))).unwrap();
        space.mmap(pages(SMALL, 64), Area::anonymous(order(4))).unwrap();
        space.mmap(pages(SHARED, 512), Area::file(files[0], 0, true)).unwrap();
        space.mmap(pages(PRIVATE, 512), Area::file(files[1], 0, false)).unwrap();
        space.mmap(pages(FRESH, 512), Area::anonymous(order(9))).unwrap();
        for page in [PMD + 3, PMD + 600, SINGLE + 1, SINGLE + 300, SMALL + 2, SMALL + 40] {
            space.write(at(page), &[page as u8, 7]).unwrap();
        }
        for page in [SHARED, SHARED + 99, PRIVATE] {
            space.read(at(page), &mut [0]).unwrap();
        }
        Self { world, spaces: vec![space], files: files.into() }
    }

    /// Another address space shares the private pages.
    fn forked(world: &'w World<'w, C>) -> Self {
        let mut scene = Self::new(world);
        let child = scene.spaces[0].fork().unwrap();
        scene.spaces.push(child);
        scene
    }

    fn snapshot(&self) -> Snapshot {
        let look = |space: &AddressSpace<'_, C>, page| {
            let mut bytes = [0; 2];
            space.peek(at(page), &mut bytes).unwrap().then_some((page, bytes))
        };
        let all = (0..PRIVATE + 512).chain(FRESH..FRESH + 512);
        self.spaces.iter().map(|space| all.clone().filter_map(|page| look(space, page)).collect()).collect()
    }

    fn audit(&self, what: &str) {
        let spaces: Vec<_> = self.spaces.iter().collect();
        let audit = self.world.audit(&spaces).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(audit.missing, 0, "{what}: frames leaked");
    }
}

/// All of `before` is still there.
fn assert_kept(what: &str, before: &Snapshot, after: &Snapshot) {
    for (before, after) in before.iter().zip(after) {
        let mut after = after.iter();
        for page in before {
            assert!(after.any(|found| found == page), "{what}: page {page:?} is not as it was");
        }
    }
}

type Operation<C> = fn(&mut Scene<'_, C>) -> Result<(), Error>;

/// Fails each allocation of `operation` in turn. How many there were that made it fail.
fn fail_each<C: Mapcounts>(what: &str, forked: bool, operation: Operation<C>) -> u32 {
    let mut failed = 0;
    for nth in 1.. {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<C>::new(FRAMES, &mut ids).unwrap();
        let mut scene = if forked { Scene::forked(&world) } else { Scene::new(&world) };
        let before = scene.snapshot();
        world.fail_allocation(nth);
        let result = operation(&mut scene);
        let all_succeeded = world.fail_allocation(0) > 0;
        let what = &format!("{what}, allocation {nth}: {result:?}");
        scene.audit(what);
        match result {
            Ok(()) => {}
            Err(
                Error::Alloc(_)
                | Error::Tables(mmkit_pgtable::Error::Alloc(_))
                | Error::Refused(Refusal::Fault { error: FaultError::NoMemory, .. }),
            ) => {
                assert!(!all_succeeded, "{what}");
                failed += 1;
                assert_kept(what, &before, &scene.snapshot());
                assert_eq!(operation(&mut scene), Ok(()), "{what}, again");
                scene.audit(what);
            }
            Err(error) => panic!("{what}: {error}"),
        }
        let files = 2 * 512 + 2 * u64::from(scene.files.len() > 2);
        drop(scene);
        assert_eq!(world.free_frames() + files, world.frames(), "{what}: frames leaked");
        let statistics = world.statistics();
        assert_eq!((statistics.anon, statistics.file), (0, 0), "{what}");
        if all_succeeded {
            break;
        }
    }
    failed
}

fn each_operation<C: Mapcounts>() {
    // Each with the number of allocations whose failure is one of the operation's.
    let operations: [(&str, bool, u32, Operation<C>); 24] = [
        ("spawn", false, 1, |scene| {
            scene.spaces.push(scene.world.spawn()?);
            Ok(())
        }),
        ("a file", false, 2, |scene| {
            scene.files.push(scene.world.create_file(&[1; 5000], order(0))?);
            Ok(())
        }),
        // No memory is needed.
        ("mmap", false, 0, |scene| scene.spaces[0].mmap(pages(FRESH + 600, 9), Area::anonymous(order(2)))),
        ("a page", false, 1, |scene| scene.spaces[0].write(at(SINGLE + 7), b"x")),
        // A smaller one is taken in its place, until there is none.
        ("a small folio", false, 0, |scene| scene.spaces[0].write(at(SMALL + 20), b"x")),
        // The smaller one takes a table more.
        ("a PMD", false, 1, |scene| scene.spaces[0].write(at(FRESH), b"x")),
        ("pages of a file", false, 0, |scene| scene.spaces[0].read(at(SHARED + 200), &mut [0])),
        ("a write over two areas", false, 2, |scene| {
            scene.spaces[0].write(VirtAddr::new(at(SINGLE + 20).get() - 1), b"xy")
        }),
        ("fork", false, 6, |scene| {
            let child = scene.spaces[0].fork()?;
            scene.spaces.push(child);
            Ok(())
        }),
        ("fork of a pinned page", false, 22, |scene| {
            let pin = scene.spaces[0].pin(at(SMALL + 3))?;
            let child = scene.spaces[0].fork()?;
            scene.spaces.push(child);
            drop(pin);
            Ok(())
        }),
        ("munmap in a PMD", false, 1, |scene| scene.spaces[0].munmap(pages(PMD + 3, 1))),
        ("munmap from PMD to PMD", false, 2, |scene| scene.spaces[0].munmap(pages(PMD + 100, 700))),
        ("dont_need", false, 2, |scene| scene.spaces[0].dont_need(pages(PMD + 100, 700))),
        ("mremap of a PMD", false, 2, |scene| scene.spaces[0].mremap(pages(PMD, 512), at(FAR))),
        ("mremap out of step", false, 7, |scene| scene.spaces[0].mremap(pages(PMD, 1024), at(FAR + 1))),
        ("mremap of pages", false, 3, |scene| scene.spaces[0].mremap(pages(SINGLE, 512), at(FAR))),
        ("collapse", false, 3, |scene| scene.spaces[0].collapse(at(SINGLE))),
        ("collapse of a file", false, 3, |scene| scene.spaces[0].collapse(at(SHARED))),
        ("split", false, 1, |scene| scene.spaces[0].split_pmd(at(PMD + 600))),
        ("a copy", true, 1, |scene| scene.spaces[0].write(at(SINGLE + 300), b"x")),
        ("a copy in a folio", true, 1, |scene| scene.spaces[1].write(at(SMALL + 3), b"x")),
        ("a copy in a PMD", true, 2, |scene| scene.spaces[1].write(at(PMD + 3), b"x")),
        ("a private page of a file", true, 2, |scene| scene.spaces[0].write(at(PRIVATE + 1), b"x")),
        ("a pin", true, 1, |scene| scene.spaces[0].pin_to_read(at(SINGLE + 1)).map(drop)),
    ];
    for (what, forked, failures, operation) in operations {
        assert_eq!(fail_each(what, forked, operation), failures, "failures of {what}");
    }
}

#[test]
fn each_operation_by_page() {
    each_operation::<PageMapcount<Checked>>();
}

#[test]
fn each_operation_by_folio() {
    each_operation::<NoPageMapcount<Checked>>();
}

/// Exit needs no memory, whatever it finds.
#[test]
fn exit_without_memory() {
    let mut ids = [AtomicU64::new(0)];
    let world = World::<PageMapcount<Checked>>::new(FRAMES, &mut ids).unwrap();
    let scene = Scene::forked(&world);
    let range = VirtRange::new(at(PMD + 1), PAGE).unwrap();
    scene.spaces[0].dont_need(range).unwrap();
    let eater = world.spawn().unwrap();
    eater.mmap(pages(0, FRAMES as usize), Area::anonymous(order(0))).unwrap();
    let eaten = (0..).take_while(|&page| eater.write(at(page), b"x").is_ok()).count();
    assert!(eaten > 1000 && world.free_frames() == 0);
    drop(scene);
    world.audit(&[&eater]).unwrap();
    drop(eater);
    assert_eq!(world.free_frames() + 2 * 512, world.frames());
}
