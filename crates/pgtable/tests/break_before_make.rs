// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live changes on a machine that must break an entry before it makes another one.
#![cfg(not(mmkit_loom))]

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::breaking::{ArmEnv, FIXED, GivesUp, How, Machine, State};
use common::*;
use mmkit_addr::{Geometry, Pfn, VirtRange};
use mmkit_frame::test_util::{Contents, Snapshot, TestConfig, TestFrames};
use mmkit_pgtable::{
    Arm64_4K, Arm64_16K, Arm64_64K, Backing, ChangeKind, Entry, Error, Prot, Share, Slot, Tables, Target,
    Visited, Walk,
};
use mmkit_sync::Counter;

const KERNEL: Prot = Prot::WRITE.union(Prot::GLOBAL);
const BASE: u64 = 0xffff_a000_0000_0000;

/// A leaf above the last level, a page, and a shared table beside each other, all in use by the machine.
struct World<'a, E: Entry> {
    frames: &'a TestFrames,
    tables: Tables<E, ArmEnv<'a>>,
    share: Share,
    /// Bytes of a page, and of a leaf above.
    page: u64,
    huge: u64,
}

fn test_frames(geometry: Geometry) -> TestFrames {
    TestFrames::new(TestConfig::new().base_shift(geometry.base_shift()).range(0, 64))
}

impl<'a, E: Entry> World<'a, E> {
    fn new(frames: &'a TestFrames, geometry: Geometry) -> Self {
        let span = |at| geometry.table(level(at)).unwrap().entry_span();
        let (page, huge) = (span(0), span(1));
        let env = ArmEnv::new(frames, geometry.base_shift());
        let tables = Tables::<E, _>::new(env, geometry, NODE).unwrap();
        tables.env().machine.root.set(tables.root()).unwrap();
        let share = tables.share(LAST, Backing::Repeat(pfn(77)), Prot::GLOBAL, NODE).unwrap();
        let world = Self { frames, tables, share, page, huge };
        let big = run(4 * world.big(), KERNEL).at_level(level(1));
        world.tables.map(range(BASE, huge), big).unwrap();
        world.tables.map(range(BASE + huge, 2 * page), run(5, KERNEL)).unwrap();
        world.tables.attach(range(BASE + 2 * huge, 2 * huge), share, NODE).unwrap();
        let used = [0, page, huge - page, huge, huge + page, 2 * huge, 3 * huge - page, 3 * huge];
        world.state(|state| state.used = used.map(|at| BASE + at).to_vec());
        world.machine().check();
        world
    }

    fn machine(&self) -> &Machine<'a> {
        &self.tables.env().machine
    }

    fn state<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.machine().state.lock().unwrap())
    }

    /// Frames of the leaf above.
    fn big(&self) -> u64 {
        self.huge / self.page
    }

    /// The live changes that there are, each on what those before have left.
    fn step(&self, nth: usize) -> Result<(), Error> {
        let (base, huge, page, big) = (BASE, self.huge, self.page, self.big());
        let tables = &self.tables;
        let replace = |at, old, new, prot| {
            let token = tables.replace(va(at), pfn(old), pfn(new), prot)?;
            self.machine().check();
            assert!(token.flush().is_ok());
            Ok::<(), Error>(())
        };
        match nth {
            // A block by another block, which becomes a table, of which a page is replaced.
            0 => replace(base, 4 * big, 9 * big, KERNEL)?,
            1 => {
                let stale = tables.split(va(base + 3 * page), NODE)?;
                self.machine().check();
                stale.flush();
            }
            2 => replace(base + page, 9 * big + 1, 3, Prot::GLOBAL)?,
            // A page by another page and back.
            3 => replace(base + huge, 5, 8, KERNEL)?,
            4 => replace(base + huge, 8, 5, KERNEL)?,
            // A shared table by a private copy, of which a page is replaced.
            5 => {
                let token = tables.unshare(va(base + 2 * huge + page), NODE)?;
                self.machine().check();
                assert!(token.flush().is_ok());
            }
            6 => replace(base + 2 * huge, 77, 12, KERNEL)?,
            _ => unreachable!(),
        }
        self.machine().check();
        Ok(())
    }

    /// What processors translate their addresses to, and what a reader finds there: they must agree.
    fn translations(&self) -> Vec<Option<u64>> {
        let (used, root) = (self.state(|state| state.used.clone()), self.tables.root());
        let shift = self.machine().processor.granule;
        used.iter()
            .map(|&at| {
                let found = self.machine().processor.translate(root, at, |_| {}).map(|found| found.address);
                let walked = match self.tables.walk(va(at)).unwrap() {
                    Walk::Mapped(leaf) => Some((leaf.pfn.get() << shift) + (at - leaf.range.start().get())),
                    _ => None,
                };
                assert_eq!(found, walked, "{at:#x}");
                found
            })
            .collect()
    }

    fn digest(&self) -> (Snapshot, Contents, Vec<Visited>, u64, u32, Vec<Option<u64>>) {
        // SAFETY: one thread, which is here.
        let contents = unsafe { self.frames.contents() };
        let attachments = self.tables.attachments(self.share).unwrap();
        let mut entries = Vec::new();
        self.tables.read().visit_all(|entry| entries.push(entry));
        let frames = self.tables.table_frames();
        (self.frames.snapshot(), contents, entries, frames, attachments, self.translations())
    }
}

const STEPS: [ChangeKind; 7] = [
    ChangeKind::Leaf,
    ChangeKind::Split,
    ChangeKind::Leaf,
    ChangeKind::Leaf,
    ChangeKind::Leaf,
    ChangeKind::Unshare,
    ChangeKind::Leaf,
];

fn every_live_change<E: Entry>(geometry: Geometry) {
    let frames = test_frames(geometry);
    // What is made stands, whatever the machine does or says afterwards: what was there is given up.
    for how in [How::Properly, How::LeavesMaking, How::BreaksAgain] {
        let world = World::<E>::new(&frames, geometry);
        world.state(|state| state.how = how);
        for (nth, kind) in STEPS.into_iter().enumerate() {
            world.step(nth).unwrap();
            assert_eq!(world.state(|state| state.changes.clone()), STEPS[..=nth], "{kind:?}");
        }
        let (page, shift) = (world.big(), geometry.base_shift());
        let address = |frame: u64| Some(frame << shift);
        let expected = [9 * page, 3, 10 * page - 1, 5, 6, 12, 77, 77].map(address);
        assert_eq!(world.translations(), expected);
        assert_eq!(world.tables.attachments(world.share), Ok(1));
        // Unmapping and mapping again is break-before-make of its own.
        let all = range(BASE + world.huge, 2 * world.page);
        let block = range(BASE + world.huge, world.huge);
        world.tables.unmap(all).unwrap().flush(|_| {}).unwrap();
        world.tables.map(all, run(30, Prot::READ)).unwrap();
        world.machine().check();
        world.tables.unmap(all).unwrap().flush(|_| {}).unwrap();
        world.tables.map(block, run(2 * page, KERNEL).at_level(level(1))).unwrap();
        world.machine().check();
        assert_eq!(world.tables.table_frames(), frames.outstanding());
    }
    frames.assert_no_leaks();
}

#[test]
fn every_live_change_is_broken_flushed_and_made() {
    every_live_change::<Arm64_4K>(Geometry::ARM64_4K);
    every_live_change::<Arm64_16K>(Geometry::ARM64_16K);
    every_live_change::<Arm64_64K>(Geometry::ARM64_64K);
}

#[test]
fn a_machine_that_does_it_wrong_is_caught() {
    let geometry = Geometry::ARM64_4K;
    for how in [How::WithoutBreak, How::WithoutFlush, How::FlushFirst] {
        // Each kind of change alone; what comes before it is done properly.
        for nth in 0..STEPS.len() {
            let frames = test_frames(geometry);
            let world = World::<Arm64_4K>::new(&frames, geometry);
            for before in 0..nth {
                world.step(before).unwrap();
            }
            world.state(|state| state.how = how);
            let step = std::panic::AssertUnwindSafe(|| world.step(nth));
            let caught = std::panic::catch_unwind(step).is_err();
            // The machine was poisoned by the panic, together with what it knows.
            world.machine().state.clear_poison();
            let conflicts = world.state(|state| state.conflicts.len());
            assert!(caught && conflicts > 0, "{how:?} of step {nth}");
        }
    }
}

#[test]
fn updates_that_give_up_leave_everything_as_it_was() {
    fn sweep<E: Entry>(geometry: Geometry) {
        for gives_up in [GivesUp::BeforeBreak, GivesUp::AfterBreak, GivesUp::AfterFlush] {
            for k in 1..=STEPS.len() {
                let frames = test_frames(geometry);
                let world = World::<E>::new(&frames, geometry);
                world.state(|state| state.fail = (k as u64, gives_up));
                let mut refused = 0;
                for nth in 0..STEPS.len() {
                    let before = world.digest();
                    match world.step(nth) {
                        Ok(()) => continue,
                        Err(Error::TryAgain { .. }) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                    assert_eq!(nth + 1, k);
                    let after = world.digest();
                    assert_eq!(before.1.changed(&after.1), []);
                    assert_eq!(before, after, "step {nth} {gives_up:?}");
                    world.machine().check();
                    world.step(nth).unwrap();
                }
                assert_eq!(refused, 1);
                assert_eq!(world.state(|state| state.changes.clone()), STEPS);
                assert_eq!(world.tables.env().tally.get(Counter::Synchronize), 6);
                drop(world);
                frames.assert_no_leaks();
            }
        }
    }
    sweep::<Arm64_4K>(Geometry::ARM64_4K);
    sweep::<Arm64_16K>(Geometry::ARM64_16K);
    sweep::<Arm64_64K>(Geometry::ARM64_64K);
}

/// While an entry is broken, processors fault and readers find what was there: in the middle of a shared table, of a block,
/// and beside them. That is what the fault handler of a processor relies on.
#[test]
fn readers_do_not_notice_the_window() {
    let geometry = Geometry::ARM64_4K;
    let frames = test_frames(geometry);
    let world = World::<Arm64_4K>::new(&frames, geometry);
    for (nth, kind) in STEPS.into_iter().enumerate() {
        for gives_up in [true, false] {
            world.state(|state| state.fail = (u64::from(gives_up), GivesUp::AfterFlush));
            let (before, mut entries) = (world.translations(), Vec::new());
            world.tables.read().visit_all(|entry| entries.push(entry));
            let used = world.state(|state| state.used.clone());
            let ((broken, is_broken), (make, may_make)) = (channel(), channel());
            *world.machine().window.lock().unwrap() = Some((broken, may_make));
            std::thread::scope(|scope| {
                let (tables, used, before) = (&world.tables, &used, &before);
                let reader = scope.spawn(move || {
                    let range: VirtRange = is_broken.recv_timeout(Duration::from_secs(60)).unwrap();
                    let mut faults = 0;
                    for (&at, &found) in used.iter().zip(before) {
                        let Walk::Mapped(leaf) = tables.walk(va(at)).unwrap() else {
                            panic!("{at:#x} is not found")
                        };
                        let address = (leaf.pfn.get() << 12) + (at - leaf.range.start().get());
                        assert_eq!(Some(address), found, "{at:#x} while {kind:?}");
                        faults += u32::from(range.contains(va(at)));
                    }
                    assert!(faults > 0, "nobody uses what is replaced");
                    let mut found = Vec::new();
                    tables.read().visit_all(|entry| found.push(entry));
                    assert_eq!(found, entries);
                    make.send(()).unwrap();
                });
                assert_eq!(world.step(nth).is_err(), gives_up);
                reader.join().unwrap();
            });
            *world.machine().window.lock().unwrap() = None;
        }
    }
    assert_eq!(world.state(|state| state.changes.clone()), STEPS);
}

/// The largest leaves of 4K tables: split twice, each level broken and made.
#[test]
fn a_giant_leaf_is_split_level_by_level() {
    let geometry = Geometry::ARM64_4K;
    let frames = test_frames(geometry);
    let world = World::<Arm64_4K>::new(&frames, geometry);
    let giant = BASE + (8 << 30);
    world.tables.map(range(giant, 1 << 30), run(3 << 18, KERNEL).at_level(level(2))).unwrap();
    world.state(|state| state.used.extend([giant, giant + (1 << 29) + 5 * 4096, giant + (1 << 30) - 1]));
    let before = world.translations();
    for (at, frames) in [(2, 1 << 18), (1, 512)] {
        let Walk::Mapped(leaf) = world.tables.walk(va(giant + (1 << 29))).unwrap() else { panic!("mapped") };
        assert_eq!((leaf.level, leaf.range.bytes()), (level(at), frames * 4096));
        world.tables.split(va(giant + (1 << 29)), NODE).unwrap().flush();
        world.machine().check();
        assert_eq!(world.translations(), before);
    }
    assert_eq!(world.state(|state| state.changes.clone()), [ChangeKind::Split; 2]);
    assert_eq!(world.tables.split(va(giant + (1 << 29)), NODE).err(), Some(Error::BadLevel { level: LAST }));
}

/// Many leaves in one walk, each broken and made for itself; and a whole table.
#[test]
fn swaps_are_broken_too() {
    let geometry = Geometry::ARM64_4K;
    let frames = test_frames(geometry);
    let world = World::<Arm64_4K>::new(&frames, geometry);
    let pages = range(BASE + world.huge, 2 * world.page);
    let swap = |first: u64| {
        let mut told = Vec::new();
        let new = |_: &mut Vec<_>, nth| (pfn(first + nth), KERNEL);
        let old = |told: &mut Vec<u64>, _, pfn: Pfn, _| told.push(pfn.get());
        let result = world.tables.swap_leaves(pages, &mut told, new, old);
        world.machine().check();
        (result, told)
    };
    assert_eq!(swap(40), (Ok(()), vec![5, 6]));
    assert_eq!(world.state(|state| state.changes.clone()), [ChangeKind::Leaf; 2]);
    for gives_up in [GivesUp::BeforeBreak, GivesUp::AfterBreak, GivesUp::AfterFlush] {
        world.state(|state| state.fail = (2, gives_up));
        let second = Error::TryAgain { va: va(BASE + world.huge + world.page) };
        assert_eq!(swap(50), (Err(second), vec![40]));
        assert_eq!(world.translations()[3..5], [Some(50 << 12), Some(41 << 12)]);
        assert_eq!(swap(40), (Ok(()), vec![50, 41]));
    }

    let (at, shared) = (va(BASE + 2 * world.huge), world.tables.share_table(world.share).unwrap());
    let table = world.tables.take_table(NODE).unwrap();
    // SAFETY: taken above, nothing leads to it, and it has 512 entries.
    let filled = unsafe { world.tables.fill_table(table, 0, 512, Backing::Run(pfn(512)), KERNEL) };
    assert_eq!(filled, Ok(()));
    for gives_up in [GivesUp::BeforeBreak, GivesUp::AfterBreak, GivesUp::AfterFlush] {
        world.state(|state| state.fail = (1, gives_up));
        let before = world.digest();
        // SAFETY: the table was taken and filled above, and nothing leads to it.
        let refused = unsafe { world.tables.swap_table(at, Target::Table { pfn: table }) };
        assert_eq!(refused, Err(Error::TryAgain { va: at }));
        assert_eq!(before, world.digest());
        world.machine().check();
    }
    // SAFETY: as above.
    let was = unsafe { world.tables.swap_table(at, Target::Table { pfn: table }) };
    assert_eq!(was, Ok(Target::Shared { pfn: shared }));
    world.machine().check();
    assert_eq!(world.translations()[5..], [Some(512 << 12), Some(1023 << 12), Some(77 << 12)]);
    // And back: from a private table to the shared one.
    // SAFETY: it is the shared table of these tables, which is attached elsewhere and stays.
    let was = unsafe { world.tables.swap_table(at, Target::Shared { pfn: shared }) };
    assert_eq!(was, Ok(Target::Table { pfn: table }));
    world.machine().check();
    assert_eq!(world.translations()[5..], [Some(77 << 12); 3]);
    assert_eq!(world.tables.attachments(world.share), Ok(2));
    // SAFETY: it was swapped out above, the machine has flushed, and nobody reads.
    unsafe { world.tables.give_table(table) };
    assert_eq!(world.tables.table_frames(), frames.outstanding());
}

/// What leaves allow changes in place, whatever processors hold; whether they are global does not change.
#[test]
fn protection_needs_no_break() {
    let geometry = Geometry::ARM64_4K;
    let frames = test_frames(geometry);
    let world = World::<Arm64_4K>::new(&frames, geometry);
    let local = BASE + 8 * world.huge;
    world.tables.map(range(local, world.page), run(6, Prot::WRITE)).unwrap();
    world.state(|state| state.used.push(local));
    world.machine().check();
    let all =
        [(BASE, world.huge, true), (BASE + world.huge, 2 * world.page, true), (local, world.page, false)];
    for prot in [Prot::READ, Prot::EXEC | Prot::GLOBAL, Prot::USER, KERNEL, Prot::WRITE] {
        for (start, bytes, global) in all {
            let stale = world.tables.protect(range(start, bytes), prot).unwrap();
            world.machine().check();
            stale.flush();
            let found = world.machine().processor.translate(world.tables.root(), start, |_| {}).unwrap();
            assert_eq!((found.global, found.writable), (global, prot.contains(Prot::WRITE)));
        }
    }
    assert_eq!(world.state(|state| state.changes.clone()), []);
}

/// The rules of the machine themselves.
#[test]
fn the_machine_knows_what_must_not_change() {
    let raw = |target, at| Arm64_4K::encode(Slot::Present(target), level(at)).unwrap();
    let page = |frame, prot| raw(Target::Leaf { pfn: pfn(frame), prot }, 0);
    let conflict = |one: u64, other: u64| (one ^ other) & FIXED != 0;
    assert!(conflict(page(1, KERNEL), page(2, KERNEL)), "another address");
    assert!(conflict(page(1, KERNEL), page(1, Prot::WRITE)), "not global any more");
    assert!(!conflict(page(1, KERNEL), page(1, Prot::GLOBAL | Prot::EXEC)), "what it allows may change");
    let block = raw(Target::Leaf { pfn: pfn(512), prot: KERNEL }, 1);
    assert!(conflict(block, raw(Target::Table { pfn: pfn(512) }, 1)), "another size");
    let (shared, private) = (Target::Shared { pfn: pfn(9) }, Target::Table { pfn: pfn(9) });
    assert!(!conflict(raw(shared, 1), raw(private, 1)), "a software bit");
}
