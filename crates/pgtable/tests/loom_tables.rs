// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables themselves under the model checker: two levels of two entries, in frames of modelled atomics.
#![cfg(mmkit_loom)]

use std::ptr::NonNull;
use std::sync::Mutex;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use mmkit_addr::{Geometry, GeometrySpec, Level, NodeId, Order, Pfn, VirtAddr, VirtRange};
use mmkit_frame::{AllocError, DirectMap, Env, FrameAllocator, Frames, Request};
use mmkit_pgtable::{
    Backing, Change, Entry, Error, Leaves, Mapping, Mmu, Prot, Released, Slot, Software, TableEnv, Tables,
    Target, TryAgain, Walk,
};
use mmkit_sync::{Readers, SpinLock, mutant};

/// 1 KiB frames, two levels of two entries.
const SMALL: Geometry = match Geometry::new(GeometrySpec {
    name: "small",
    aliases: &[],
    base_shift: 10,
    index_bits: &[1, 1],
    huge_pages: &[],
    section_shift: 21,
    physical_bits: 40,
}) {
    Ok(geometry) => geometry,
    Err(_) => panic!("a small geometry"),
};

const PAGE: u64 = 1 << 10;
/// What a mapped frame contains while it is whole.
const WHOLE: u64 = 42;
/// What a frame contains, or leads to, once it was given back.
const GONE: u64 = 0xdead;

/// Frames for tables: 0..4. What is given back is overwritten at once, as its next owner might.
struct LoomFrames {
    cells: Vec<[AtomicU64; 2]>,
    free: Mutex<Vec<u64>>,
    /// Times that a frame was given back: orders that before it is handed out again, as the lock, which is not modelled,
    /// does elsewhere.
    given: AtomicU64,
}

impl LoomFrames {
    fn new() -> Self {
        let gone = || AtomicU64::new(gone());
        let cells = (0..4).map(|_| [gone(), gone()]).collect();
        Self { cells, free: Mutex::new(vec![3, 2, 1, 0]), given: AtomicU64::new(0) }
    }
}

/// An entry that leads where nobody should get.
fn gone() -> u64 {
    let pfn = Pfn::new(GONE).unwrap();
    Software::encode(Slot::Present(Target::Leaf { pfn, prot: Prot::READ }), Level::LAST).unwrap()
}

// SAFETY: a frame is in the free list or handed out, never both, and `given` orders the two; it is zeroed when handed out.
unsafe impl FrameAllocator for LoomFrames {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        assert_eq!(request.order, Order::ZERO);
        let frame = self.free.lock().unwrap().pop().ok_or(AllocError { request })?;
        // Acquire: pairs with the Release of `deallocate`.
        self.given.fetch_add(0, Ordering::Acquire);
        for cell in &self.cells[frame as usize] {
            cell.store(0, Ordering::Relaxed);
        }
        Ok(Pfn::new(frame).unwrap())
    }

    unsafe fn deallocate(&self, pfn: Pfn, _: Order) {
        for cell in &self.cells[pfn.get() as usize] {
            cell.store(gone(), Ordering::Relaxed);
        }
        // Release: pairs with the Acquire of `allocate`.
        self.given.fetch_add(1, Ordering::Release);
        self.free.lock().unwrap().push(pfn.get());
    }

    unsafe fn split(&self, _: Pfn, _: Order, _: Order) {
        unreachable!("tables never split blocks");
    }
}

// SAFETY: each frame has its own cells, which never move. (Modelled atomics instead of bytes, as `Env` asks of this build.)
unsafe impl DirectMap for LoomFrames {
    fn base_shift(&self) -> u32 {
        10
    }

    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        self.cells.get(pfn.get() as usize).map(|cells| NonNull::from(cells).cast())
    }
}

struct LoomEnv {
    frames: Frames<&'static LoomFrames, &'static LoomFrames>,
    readers: Readers,
    mmu: LoomMmu,
}

/// A machine that may ask for break-before-make.
struct LoomMmu {
    breaks: bool,
}

impl Mmu for LoomMmu {
    fn replace(&self, change: &Change<'_>) -> Result<(), TryAgain> {
        if self.breaks {
            change.clear();
            change.write();
            // Comes too late, and does nothing.
            change.clear();
        }
        Ok(())
    }
}

// SAFETY: the fields are never exchanged, and frames hold modelled atomics, two each.
unsafe impl Env for LoomEnv {
    type Allocator = &'static LoomFrames;
    type Map = &'static LoomFrames;
    type Lock = SpinLock;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<&'static LoomFrames, &'static LoomFrames> {
        &self.frames
    }
    fn read_side(&self) -> &Readers {
        &self.readers
    }
    fn events(&self) -> &() {
        &()
    }
}

// SAFETY: the field is never exchanged, and frames hold modelled atomics, two each.
unsafe impl TableEnv for LoomEnv {
    type Mmu = LoomMmu;

    fn mmu(&self) -> &LoomMmu {
        &self.mmu
    }
}

/// Tables, and the contents of two frames that they may map: 0x10 and 0x11.
struct World {
    tables: Option<Tables<Software, LoomEnv>>,
    contents: [AtomicU64; 2],
    frames: *mut LoomFrames,
}

// SAFETY: the pointer is used by `drop` alone; everything else is shared as its types allow.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    fn new(contents: u64) -> Arc<Self> {
        Self::on(LoomMmu { breaks: false }, contents)
    }

    fn on(mmu: LoomMmu, contents: u64) -> Arc<Self> {
        let frames = Box::into_raw(Box::new(LoomFrames::new()));
        // SAFETY: just made from a box, and freed by `drop` after the tables.
        let all: &'static LoomFrames = unsafe { &*frames };
        // SAFETY: both halves are the same value, and only the tables use its frames.
        let bundle = unsafe { Frames::new(all, all) };
        let env = LoomEnv { frames: bundle, readers: Readers::new(), mmu };
        let tables = Some(Tables::new(env, SMALL, NodeId::ZERO).unwrap());
        Arc::new(Self { tables, contents: [AtomicU64::new(contents), AtomicU64::new(contents)], frames })
    }

    fn tables(&self) -> &Tables<Software, LoomEnv> {
        self.tables.as_ref().unwrap()
    }

    fn map(&self, page: u64) {
        let mapping = Mapping::new(Backing::Run(pfn(page)), Prot::WRITE);
        self.tables().map(range(page, 1), mapping).unwrap();
    }

    /// Whatever is mapped of both pages goes.
    fn zap(&self) {
        let mut batch = self.tables().batch().unwrap();
        batch.zap(range(0, 2)).unwrap();
        assert!(batch.flush(|released| self.gone(released)).is_ok());
    }

    /// Walks to a page and, still in the reader, looks at the frame that it finds. Returns the frame.
    fn look(&self, page: u64) -> Option<u64> {
        // A new table is published with its entries.
        self.look_below(page, 1)
    }

    /// The same, where nothing may be found at level `empty` only.
    fn look_below(&self, page: u64, empty: u8) -> Option<u64> {
        let reader = self.tables().read();
        match reader.walk(VirtAddr::new(page * PAGE)).unwrap() {
            Walk::Mapped(leaf) => {
                let frame = leaf.pfn.get();
                assert!(frame == 0x10 || frame == 0x11, "found frame {frame:#x}");
                let contents = self.contents[(frame - 0x10) as usize].load(Ordering::Relaxed);
                assert_eq!(contents, WHOLE, "in frame {frame:#x}");
                Some(frame)
            }
            Walk::Unmapped { level } => {
                assert_eq!(level.get(), empty);
                None
            }
            Walk::Pending { .. } => None,
        }
    }

    /// Somebody else owns the frame now.
    fn gone(&self, released: Released) {
        let Released::Leaves(Leaves { frames, .. }) = released else { panic!("{released:?}") };
        for frame in frames.iter() {
            let cell = &self.contents[(frame.get() - 0x10) as usize];
            // Relaxed: it is given back once, so nobody else stores to it.
            assert_eq!(cell.swap(GONE, Ordering::Relaxed), WHOLE, "{frame:?} came back twice");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tables = None;
        // SAFETY: it came from a box, and the tables were its only users.
        drop(unsafe { Box::from_raw(self.frames) });
    }
}

fn pfn(page: u64) -> Pfn {
    Pfn::new(0x10 + page).unwrap()
}

fn range(page: u64, pages: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(page * PAGE), pages * PAGE).unwrap()
}

/// Models two threads, then the same with their places exchanged.
///
/// Loom remembers only the last access to a location. A thread that loads a location before it stores to it hides the
/// other thread's earlier load, so that the store is never tried before it; in one of the two places it is.
fn race(start: fn() -> Arc<World>, one: fn(&World), other: fn(&World), end: fn(&World)) {
    race_bounded(None, start, one, other, end);
}

/// The same with at most so many preemptions.
fn race_bounded(
    preemptions: Option<usize>,
    start: fn() -> Arc<World>,
    one: fn(&World),
    other: fn(&World),
    end: fn(&World),
) {
    for (here, there) in [(one, other), (other, one)] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.check(move || {
            let world = start();
            let thread = {
                let world = Arc::clone(&world);
                thread::spawn(move || there(&world))
            };
            here(&world);
            thread.join().unwrap();
            end(&world);
        });
    }
}

fn mapped() -> Arc<World> {
    let world = World::new(WHOLE);
    world.map(0);
    world
}

fn walk_against_map() {
    race(
        || World::new(0),
        |world| {
            world.contents[0].store(WHOLE, Ordering::Relaxed);
            world.map(0);
        },
        |world| {
            world.look(0);
        },
        |world| assert_eq!(world.look(0), Some(0x10)),
    );
}

#[test]
fn a_walker_sees_a_new_table_whole_2_threads() {
    walk_against_map();
}

#[test]
fn a_relaxed_publication_is_caught() {
    mutant::must_fail("pgtable-relaxed-publish", walk_against_map);
}

#[test]
fn a_table_published_before_it_is_filled_is_caught() {
    mutant::must_fail("pgtable-publish-before-fill", walk_against_map);
}

fn walk_against_unmap() {
    race(
        mapped,
        |world| {
            let batch = world.tables().unmap(range(0, 1)).unwrap();
            assert!(batch.flush(|released| world.gone(released)).is_ok());
        },
        |world| {
            world.look(0);
        },
        |world| {
            assert_eq!(world.look(0), None);
            assert_eq!(world.tables().table_frames(), 1);
        },
    );
}

#[test]
fn frames_and_tables_wait_for_walkers_2_threads() {
    walk_against_unmap();
}

#[test]
fn frames_that_do_not_wait_are_caught() {
    mutant::must_fail("pgtable-no-synchronize", walk_against_unmap);
}

fn walk_against_replace() {
    race(
        mapped,
        |world| {
            let token = world.tables().replace(VirtAddr::ZERO, pfn(0), pfn(1), Prot::WRITE).unwrap();
            let Ok(released) = token.flush() else { panic!("nobody is inside here") };
            world.gone(released);
        },
        |world| assert!(world.look(0).is_some(), "there is always one of the two"),
        |world| assert_eq!(world.look(0), Some(0x11)),
    );
}

#[test]
fn a_replaced_frame_waits_for_walkers_2_threads() {
    walk_against_replace();
}

#[test]
fn a_replaced_frame_that_does_not_wait_is_caught() {
    mutant::must_fail("pgtable-no-synchronize", walk_against_replace);
}

fn breaking(contents: u64) -> Arc<World> {
    World::on(LoomMmu { breaks: true }, contents)
}

/// Whoever finds the entry broken goes on with what it led to, which waits for it.
fn walk_against_break() {
    race(
        || {
            let world = breaking(WHOLE);
            world.map(0);
            world
        },
        |world| {
            let token = world.tables().replace(VirtAddr::ZERO, pfn(0), pfn(1), Prot::WRITE).unwrap();
            let Ok(released) = token.flush() else { panic!("nobody is inside here") };
            world.gone(released);
        },
        |world| assert!(world.look(0).is_some(), "there is always one of the two"),
        |world| assert_eq!(world.look(0), Some(0x11)),
    );
}

#[test]
fn a_broken_entry_is_not_noticed_2_threads() {
    walk_against_break();
}

#[test]
fn a_broken_entry_that_looks_absent_is_caught() {
    mutant::must_fail("pgtable-broken-is-absent", walk_against_break);
}

#[test]
fn an_entry_that_is_broken_after_it_was_made_is_caught() {
    mutant::must_fail("pgtable-break-after-make", walk_against_break);
}

#[test]
fn a_broken_frame_that_does_not_wait_is_caught() {
    mutant::must_fail("pgtable-no-synchronize", walk_against_break);
}

/// A frame is filled, mapped, and replaced, and the walker may see no more of that than the broken entry.
fn walk_against_map_and_break() {
    race(
        || {
            let world = breaking(0);
            world.contents[1].store(WHOLE, Ordering::Relaxed);
            world.map(1);
            world
        },
        |world| {
            world.contents[0].store(WHOLE, Ordering::Relaxed);
            world.map(0);
            // Dropped: nothing is given back.
            drop(world.tables().replace(VirtAddr::ZERO, pfn(0), pfn(1), Prot::WRITE).unwrap());
        },
        |world| {
            world.look_below(0, 0);
        },
        |world| assert_eq!(world.look(0), Some(0x11)),
    );
}

#[test]
fn a_broken_entry_leads_to_what_is_whole_2_threads() {
    walk_against_map_and_break();
}

#[test]
fn a_relaxed_break_is_caught() {
    mutant::must_fail("pgtable-relaxed-break", walk_against_map_and_break);
}

fn map_against_map() {
    race(
        || World::new(WHOLE),
        |world| world.map(0),
        |world| world.map(1),
        |world| {
            assert_eq!((world.look(0), world.look(1)), (Some(0x10), Some(0x11)));
            assert_eq!(world.tables().table_frames(), 2, "both took a table, one gave it back");
        },
    );
}

#[test]
fn two_that_miss_the_same_table_use_one_2_threads() {
    map_against_map();
}

#[test]
fn a_second_table_over_the_first_is_caught() {
    mutant::must_fail("pgtable-blind-install", map_against_map);
}

fn unmap_against_unmap() {
    race_bounded(
        Some(3),
        both_mapped,
        |world| {
            assert!(world.tables().unmap(range(0, 1)).unwrap().flush(|released| world.gone(released)).is_ok())
        },
        |world| {
            assert!(world.tables().unmap(range(1, 1)).unwrap().flush(|released| world.gone(released)).is_ok())
        },
        |world| assert_eq!(world.tables().table_frames(), 1, "whoever is last takes the table"),
    );
}

fn both_mapped() -> Arc<World> {
    let world = mapped();
    world.map(1);
    world
}

fn walk_against_zap() {
    race(
        both_mapped,
        World::zap,
        |world| {
            // The table goes with its entries, so a walker may be in it, or find it pending.
            world.look(1);
        },
        |world| assert_eq!(world.tables().table_frames(), 1),
    );
}

#[test]
fn a_table_that_goes_whole_waits_for_walkers_2_threads() {
    walk_against_zap();
}

#[test]
fn a_whole_table_that_does_not_wait_is_caught() {
    mutant::must_fail("pgtable-no-synchronize", walk_against_zap);
}

fn zap_against_unmap() {
    race_bounded(
        Some(3),
        both_mapped,
        World::zap,
        |world| {
            // The page is this one's, or the other's, who then gives it back.
            if let Ok(batch) = world.tables().unmap(range(0, 1)) {
                assert!(batch.flush(|released| world.gone(released)).is_ok());
            }
        },
        |world| {
            assert_eq!(world.tables().table_frames(), 1, "the table is nobody's any more");
            for contents in &world.contents {
                assert_eq!(contents.load(Ordering::Relaxed), GONE, "each page came back");
            }
        },
    );
}

#[test]
fn a_zap_leaves_what_others_took_2_threads_3_preemptions() {
    zap_against_unmap();
}

#[test]
fn a_table_taken_with_entries_of_others_is_caught() {
    mutant::must_fail("pgtable-detach-others", zap_against_unmap);
}

fn zap_against_map() {
    race_bounded(
        Some(3),
        mapped,
        World::zap,
        |world| {
            let mapping = Mapping::new(Backing::Run(pfn(1)), Prot::WRITE);
            // A table on its way out takes no new entries.
            if let Err(error) = world.tables().map(range(1, 1), mapping) {
                assert!(matches!(error, Error::Pending { .. }), "{error}");
                world.contents[1].store(GONE, Ordering::Relaxed);
            }
        },
        |world| {
            let gone = world.tables().walk(VirtAddr::ZERO).unwrap();
            assert!(matches!(gone, Walk::Unmapped { .. }), "{gone:?}");
            let there = world.look(1).is_some();
            let contents = world.contents[1].load(Ordering::Relaxed);
            assert_eq!(contents == WHOLE, there, "it is mapped, or was refused or zapped");
            assert_eq!(world.tables().table_frames(), 1 + u64::from(there));
        },
    );
}

#[test]
fn a_hole_that_is_zapped_is_filled_before_or_after_2_threads_3_preemptions() {
    zap_against_map();
}

#[test]
fn a_table_put_over_one_on_its_way_out_is_caught() {
    mutant::must_fail("pgtable-blind-install", zap_against_map);
}

#[test]
fn two_that_empty_the_same_table_free_it_once_2_threads_3_preemptions() {
    unmap_against_unmap();
}

#[test]
fn an_emptied_table_that_stays_behind_is_caught() {
    mutant::must_fail("pgtable-one-round", unmap_against_unmap);
}
