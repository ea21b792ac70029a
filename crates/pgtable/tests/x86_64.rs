// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our entries as another crate reads them, and tables as another crate walks them.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::Geometry;
use mmkit_frame::DirectMap;
use mmkit_frame::test_util::TestFrames;
use mmkit_pgtable::{Entry, Mapping, Prot, Slot, Tables, Target, X86_64};
use x86_64::structures::paging::mapper::{MappedFrame, PageTableFrameMapping, TranslateResult};
use x86_64::structures::paging::page_table::{PageTable, PageTableEntry};
use x86_64::structures::paging::{MappedPageTable, PageTableFlags, PhysFrame, Translate};
use x86_64::{PhysAddr, VirtAddr};

const HUGE: u64 = 2 << 20;
const BASE: u64 = 0xffff_ea00_0000_0000;

#[test]
fn flags_mean_the_same() {
    let pairs = [
        (Prot::WRITE, PageTableFlags::WRITABLE | PageTableFlags::DIRTY | PageTableFlags::NO_EXECUTE),
        (Prot::EXEC, PageTableFlags::empty()),
        (Prot::USER, PageTableFlags::USER_ACCESSIBLE | PageTableFlags::NO_EXECUTE),
        (Prot::GLOBAL, PageTableFlags::GLOBAL | PageTableFlags::NO_EXECUTE),
    ];
    let always = PageTableFlags::PRESENT | PageTableFlags::ACCESSED;
    for (prot, flags) in pairs {
        for (number, huge) in [(0, PageTableFlags::empty()), (1, PageTableFlags::HUGE_PAGE)] {
            let target = Target::Leaf { pfn: pfn(512 * 99), prot };
            let raw = X86_64::encode(Slot::Present(target), level(number)).unwrap();
            let mut entry = PageTableEntry::new();
            entry.set_addr(PhysAddr::new(512 * 99 * 4096), always | flags | huge);
            // SAFETY: an entry is a transparent wrapper of a `u64`.
            let theirs = unsafe { core::mem::transmute::<PageTableEntry, u64>(entry) };
            assert_eq!(raw, theirs, "{prot} at level {number}");
        }
    }
}

/// The other crate's way to reach our frames.
struct Map<'a>(&'a TestFrames);

// SAFETY: the direct map's pointer of a table's frame is valid for a page for as long as the allocator lives.
unsafe impl PageTableFrameMapping for Map<'_> {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        self.0.frame(pfn(frame.start_address().as_u64() >> 12)).unwrap().as_ptr().cast()
    }
}

#[test]
fn another_walker_finds_the_same_frames() {
    let frames = TestFrames::with_frames(64);
    let tables: Tables<X86_64, _> = tables(&frames, Geometry::X86_64);
    tables.map(range(BASE, 3 * 4096), run(0x123, Prot::WRITE)).unwrap();
    tables.map(range(BASE + HUGE, HUGE), run(512 * 5, Prot::READ).at_level(level(1))).unwrap();
    let giant: Mapping = run(1 << 18, Prot::EXEC).at_level(level(2));
    tables.map(range(0, 1 << 30), giant).unwrap();
    let root = frames.frame(tables.root()).unwrap().cast::<PageTable>();
    // SAFETY: the root is a table of this format, and nothing changes the tables while this walks them.
    let root = unsafe { &mut *root.as_ptr() };
    // SAFETY: all tables are reached through the direct map.
    let other = unsafe { MappedPageTable::new(root, Map(&frames)) };
    let found = |at: u64| match other.translate(VirtAddr::new(at)) {
        TranslateResult::Mapped { frame, offset, flags } => {
            let size = matches!(frame, MappedFrame::Size4KiB(_));
            Some((frame.start_address().as_u64() + offset, size, flags.contains(PageTableFlags::WRITABLE)))
        }
        _ => None,
    };
    assert_eq!(found(BASE + 5), Some((0x123_005, true, true)));
    assert_eq!(found(BASE + 2 * 4096), Some((0x125_000, true, true)));
    assert_eq!(found(BASE + 3 * 4096), None);
    assert_eq!(found(BASE + HUGE + 0x1234), Some((5 * HUGE + 0x1234, false, false)));
    assert_eq!(found(0x2345_6789), Some(((1 << 30) + 0x2345_6789, false, false)));
    assert_eq!(frames.outstanding(), tables.table_frames());
}
