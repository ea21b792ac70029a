// SPDX-License-Identifier: MIT OR Apache-2.0
//! arm64 entries against words that were put together by hand from the manual, and against a walker made from it.
//!
//! Source of the words: DDI 0487, D8.3.1 (table descriptors, block and page descriptors), D8.3.2 (attribute fields).
#![cfg(not(mmkit_loom))]

mod common;

use common::arm::{Found, Processor};
use common::*;
use mmkit_addr::{Geometry, GeometrySpec, HugeKind, Level, Pfn};
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_pgtable::{
    Arm64_4K, Arm64_16K, Arm64_64K, Backing, EncodeError, Entry, Error, Prot, Slot, Tables, Target, X86_64,
};
use proptest::prelude::*;

fn leaf(frame: u64, prot: Prot) -> Target {
    Target::Leaf { pfn: pfn(frame), prot }
}

fn word<E: Entry>(target: Target, at: u8) -> u64 {
    E::encode(Slot::Present(target), level(at)).unwrap()
}

const KERNEL_RW: Prot = Prot::WRITE.union(Prot::GLOBAL);

#[test]
fn pages_bit_by_bit() {
    // Valid and page (0b11), inner shareable (0x300), AF (0x400), PXN and UXN (bits 53, 54), output address.
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, KERNEL_RW), 0), 0x0060_0000_1234_5703);
    // AP[2], read-only: 0x80.
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, Prot::GLOBAL), 0), 0x0060_0000_1234_5783);
    // nG: 0x800.
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, Prot::WRITE), 0), 0x0060_0000_1234_5f03);
    // Kernel text: UXN only.
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, Prot::EXEC | Prot::GLOBAL), 0), 0x0040_0000_1234_5783);
    // AP[1], user: 0x40. User data: neither mode executes; user text: PXN only.
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, Prot::USER | Prot::WRITE), 0), 0x0060_0000_1234_5f43);
    assert_eq!(word::<Arm64_4K>(leaf(0x12345, Prot::USER | Prot::EXEC), 0), 0x0020_0000_1234_5fc3);

    assert_eq!(word::<Arm64_16K>(leaf(0x12345, KERNEL_RW), 0), 0x0060_0000_48d1_4703);
    assert_eq!(word::<Arm64_64K>(leaf(0x12345, KERNEL_RW), 0), 0x0060_0001_2345_0703);
    // The highest frame of each.
    assert_eq!(word::<Arm64_4K>(leaf((1 << 36) - 1, KERNEL_RW), 0), 0x0060_ffff_ffff_f703);
    assert_eq!(word::<Arm64_16K>(leaf((1 << 34) - 1, KERNEL_RW), 0), 0x0060_ffff_ffff_c703);
    assert_eq!(word::<Arm64_64K>(leaf((1 << 32) - 1, KERNEL_RW), 0), 0x0060_ffff_ffff_0703);
}

#[test]
fn blocks_and_tables_bit_by_bit() {
    // Blocks: bit 1 clear. 2M and 1G; 32M; 512M.
    assert_eq!(word::<Arm64_4K>(leaf(0x200, KERNEL_RW), 1), 0x0060_0000_0020_0701);
    assert_eq!(word::<Arm64_4K>(leaf(0x4_0000, KERNEL_RW), 2), 0x0060_0000_4000_0701);
    assert_eq!(word::<Arm64_16K>(leaf(0x800, KERNEL_RW), 1), 0x0060_0000_0200_0701);
    assert_eq!(word::<Arm64_64K>(leaf(0x2000, KERNEL_RW), 1), 0x0060_0000_2000_0701);
    // Tables: 0b11, AF, next-level address; nothing restricted (bits 59..=63). Shared: bit 55, which is software's.
    let (table, shared) = (Target::Table { pfn: pfn(0x12345) }, Target::Shared { pfn: pfn(0x12345) });
    for at in 1..4 {
        assert_eq!(word::<Arm64_4K>(table, at), 0x0000_0000_1234_5403);
        assert_eq!(word::<Arm64_4K>(shared, at), 0x0080_0000_1234_5403);
    }
    assert_eq!(word::<Arm64_16K>(table, 1), 0x0000_0000_48d1_4403);
    assert_eq!(word::<Arm64_64K>(shared, 1), 0x0080_0001_2345_0403);
}

#[test]
fn pending_entries_are_invalid_and_keep_everything() {
    let pending = |target, tag, at| Arm64_4K::encode(Slot::Pending(target, tag), level(at)).unwrap();
    assert_eq!(pending(leaf(0x12345, KERNEL_RW), 0xa5, 0), 0xa560_0000_1234_5702);
    assert_eq!(pending(leaf(0x200, KERNEL_RW), 1, 1), 0x0160_0000_0020_0700);
    assert_eq!(pending(Target::Shared { pfn: pfn(3) }, 255, 1), 0xff80_0000_0000_3402);
    // Even the first frame with tag 0 differs from an empty entry.
    assert_eq!(pending(Target::Table { pfn: pfn(0) }, 0, 1), 0x402);
}

/// What a processor may do to a valid entry by itself: set the access flag; where DBM (bit 51) is set, clear AP[2].
fn touched(raw: u64) -> u64 {
    let dirty = if raw & (1 << 51) != 0 { !(1 << 7) } else { u64::MAX };
    (raw | 1 << 10) & dirty
}

/// Every kind of slot at every level, for one frame: comes back if it can be said, and else is refused for the reason given.
fn slots<E: Entry>(frame: u64, frame_bits: u32, granule: u32, max_leaf: u8) {
    let pfn = Pfn::new(frame).unwrap();
    for at in 0..4 {
        let level = level(at);
        let leaves = (0..16).map(|bits| leaf(frame, Prot::from_bits_retain(bits)));
        for target in leaves.chain([Target::Table { pfn }, Target::Shared { pfn }]) {
            let frames = 1 << (u32::from(at) * (granule - 3));
            let refused = if frame >> frame_bits != 0 {
                Some(EncodeError::FrameTooHigh { pfn, max: Pfn::new((1 << frame_bits) - 1).unwrap() })
            } else if !matches!(target, Target::Leaf { .. }) {
                (at == 0).then_some(EncodeError::NoTable { level })
            } else if at > max_leaf {
                Some(EncodeError::NoLeaf { level })
            } else {
                (!frame.is_multiple_of(frames)).then_some(EncodeError::Misaligned { pfn, frames })
            };
            let tags = [0, 1, 0x80, 255].map(|tag| Slot::Pending(target, tag));
            for slot in [Slot::Present(target)].into_iter().chain(tags) {
                let raw = E::encode(slot, level);
                assert_eq!(raw.err(), refused, "{slot:?} at {level:?}");
                let Ok(raw) = raw else { continue };
                assert_eq!(E::decode(raw, level), slot);
                assert_eq!(raw & 1 == 1, matches!(slot, Slot::Present(_)), "valid bit of {slot:?}");
                if matches!(slot, Slot::Present(_)) {
                    assert_eq!(touched(raw), raw, "{slot:?} gives a processor a reason to write");
                    // And if it had one, or somebody else cleared the flag to learn of accesses:
                    assert_eq!(E::decode(raw & !(1 << 10), level), slot);
                }
            }
        }
        assert_eq!(E::encode(Slot::Empty, level), Ok(0));
        assert_eq!(E::decode(0, level), Slot::Empty);
    }
}

fn all_slots(frame: u64) {
    slots::<Arm64_4K>(frame, 36, 12, 2);
    slots::<Arm64_16K>(frame, 34, 14, 1);
    slots::<Arm64_64K>(frame, 32, 16, 1);
}

#[test]
fn every_slot_comes_back_or_is_refused() {
    // Every bit of a frame number alone, and the borders of what fits.
    for bit in 0..52 {
        all_slots(1 << bit);
    }
    for bits in [32, 34, 36] {
        for frame in [(1 << bits) - 1, (1 << bits) - (1 << 18), (1 << bits) + 1] {
            all_slots(frame);
        }
    }
    all_slots(0);
    all_slots(Pfn::MAX.get());
}

proptest! {
    #[test]
    fn any_slot_comes_back_or_is_refused(frame in 0..1u64 << 37, order in 0..19u32) {
        all_slots(frame >> order << order);
    }
}

#[test]
fn each_format_takes_the_geometries_of_its_shape() {
    let names = |supports: fn(&Geometry) -> bool| -> Vec<_> {
        Geometry::ALL.iter().filter(|geometry| supports(geometry)).map(Geometry::name).collect()
    };
    // Same widths and leaves: the tables' shape is all that can be seen.
    let alike_4k = ["x86-64", "arm64-4k", "riscv64-sv39", "riscv64-sv48", "loongarch64-4k"];
    assert_eq!(names(Arm64_4K::supports), alike_4k);
    assert_eq!(names(Arm64_16K::supports), ["arm64-16k", "loongarch64-16k"]);
    assert_eq!(names(Arm64_64K::supports), ["arm64-64k"]);
    assert_eq!((Arm64_4K::NAME, Arm64_16K::NAME, Arm64_64K::NAME), ("arm64-4k", "arm64-16k", "arm64-64k"));
    let frames = TestFrames::new(TestConfig::new().base_shift(14).range(0, 64));
    let refused = Tables::<Arm64_4K, _>::new(TestEnv::new(&frames), Geometry::ARM64_16K, NODE);
    let expected = Error::Geometry { geometry: "arm64-16k", format: "arm64-4k" };
    assert_eq!(refused.err(), Some(expected));
    assert!(!X86_64::supports(&Geometry::ARM64_16K));
}

#[test]
fn shapes_that_the_processor_does_not_have_are_refused() {
    let shape = |index_bits, huge_pages| {
        Geometry::new(GeometrySpec {
            name: "arm64-like",
            aliases: &[],
            base_shift: 14,
            index_bits,
            huge_pages,
            section_shift: 27,
            physical_bits: 48,
        })
        .unwrap()
    };
    // 36, 47, 39 and 48 bits; a root may be narrow.
    for index_bits in [&[11, 11][..], &[11, 11, 11], &[11, 11, 3], &[11, 11, 11, 1]] {
        assert!(Arm64_16K::supports(&shape(index_bits, &[])));
    }
    const BLOCK: (u8, HugeKind) = (25, HugeKind::Leaf(Level::new(1).unwrap()));
    const GIANT: (u8, HugeKind) = (36, HugeKind::Leaf(Level::new(2).unwrap()));
    let block = shape(&[11, 11, 11], &[BLOCK]);
    assert!(Arm64_16K::supports(&block));
    // 52 bits, a narrow table below the root, a root of more than a frame, blocks of 64G.
    assert!(!Arm64_16K::supports(&shape(&[11, 11, 11, 5], &[])));
    assert!(!Arm64_16K::supports(&shape(&[11, 10, 11], &[])));
    assert!(!Arm64_16K::supports(&shape(&[11, 12], &[])));
    assert!(!Arm64_16K::supports(&shape(&[11, 11, 11], &[GIANT])));
    assert!(!Arm64_4K::supports(&block) && !Arm64_64K::supports(&block));
}

/// Maps leaves of every level that has some, and tables that are shared, and walks to all of them as a processor would.
fn walks<E: Entry>(geometry: Geometry, base: u64) {
    let granule = geometry.base_shift();
    let frames = TestFrames::new(TestConfig::new().base_shift(granule).range(0, 64));
    let tables: Tables<E, _> = tables(&frames, geometry);
    let processor = Processor { frames: &frames, granule };
    let found = |va: u64| processor.translate(tables.root(), va, |_| {});
    let span = |at: Level| geometry.table(at).unwrap().entry_span();
    let huge = span(level(1));
    let page = span(LAST);

    tables.map(range(base, 3 * page), run(0x123, KERNEL_RW)).unwrap();
    tables.map(range(base + huge, huge), run(5 * (huge / page), Prot::EXEC).at_level(level(1))).unwrap();
    let share = tables.share(LAST, Backing::Repeat(pfn(77)), Prot::GLOBAL, NODE).unwrap();
    tables.attach(range(base + 2 * huge, 2 * huge), share, NODE).unwrap();
    if granule == 12 {
        let giant = run(1 << 18, Prot::USER | Prot::WRITE | Prot::EXEC).at_level(level(2));
        tables.map(range(base + (1 << 30), 1 << 30), giant).unwrap();
        let user = Found {
            address: (1 << 30) + 0x2345_6789,
            level: 1,
            writable: true,
            user: true,
            global: false,
            privileged_exec: false,
            user_exec: true,
        };
        assert_eq!(found(base + (1 << 30) + 0x2345_6789), Some(user));
    }
    let data = Found {
        address: 0x123 * page + 5,
        level: 3,
        writable: true,
        user: false,
        global: true,
        privileged_exec: false,
        user_exec: false,
    };
    assert_eq!(found(base + 5), Some(data));
    assert_eq!(found(base + 2 * page + 5), Some(Found { address: 0x125 * page + 5, ..data }));
    assert_eq!(found(base + 3 * page), None);
    let text = Found {
        address: 5 * huge + 0x1234,
        level: 2,
        writable: false,
        global: false,
        privileged_exec: true,
        ..data
    };
    assert_eq!(found(base + huge + 0x1234), Some(text));
    let tail = Found { address: 77 * page + 9, writable: false, ..data };
    assert_eq!(found(base + 2 * huge + 9), Some(tail));
    assert_eq!(found(base + 4 * huge - page + 9), Some(tail));

    // What is pending is absent for a processor at once.
    let batch = tables.unmap(range(base + huge, 3 * huge)).unwrap();
    assert_eq!((found(base + huge), found(base + 2 * huge), found(base + 3 * huge)), (None, None, None));
    assert_eq!(found(base + 5), Some(data));
    batch.cancel();
    assert_eq!((found(base + huge + 0x1234), found(base + 2 * huge + 9)), (Some(text), Some(tail)));
    assert_eq!(flush(tables.unmap(range(base + 2 * huge, 2 * huge)).unwrap()).len(), 2);
    assert_eq!(found(base + 2 * huge), None);
    assert_accounted(&frames, &tables);
}

#[test]
fn a_processor_finds_the_same_frames() {
    for base in [0, 0xffff_8000_0000_0000] {
        walks::<Arm64_4K>(Geometry::ARM64_4K, base);
        walks::<Arm64_16K>(Geometry::ARM64_16K, base);
        walks::<Arm64_64K>(Geometry::ARM64_64K, base);
    }
}
