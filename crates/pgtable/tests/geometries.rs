// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every geometry with tables: random addresses walk to where they were mapped, and the allocator agrees with the counts.
#![cfg(not(mmkit_loom))]

mod common;

use common::*;
use mmkit_addr::{Geometry, Level};
use mmkit_frame::Bare;
use mmkit_frame::test_util::{TestConfig, TestFrames};
use mmkit_pgtable::{
    Arm64_4K, Arm64_16K, Arm64_64K, Backing, Entry, Leaves, Mapping, Released, Software, Tables, Walk, X86_64,
};

/// Numbers that look random (an xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn walks<E: Entry>(geometry: Geometry) {
    let frames = TestFrames::new(TestConfig::new().base_shift(geometry.base_shift()).range(0, 1 << 16));
    let tables = Tables::<E, _>::new(Bare::new(frames.frames()), geometry, NODE).unwrap();
    let empty = frames.outstanding();
    let unused = 64 - geometry.virtual_bits().unwrap();
    let leaves: Vec<Level> =
        geometry.levels().iter().filter(|table| table.may_be_leaf()).map(|table| table.level()).collect();
    let (mut numbers, mut mapped) = (Numbers(0x9e37_79b9_7f4a_7c15), Vec::new());
    while mapped.len() < 200 {
        let at = leaves[numbers.next() as usize % leaves.len()];
        let shift = geometry.table(at).unwrap().entry_shift();
        // A canonical address of the leaf's alignment, and a frame of the same that every format can say.
        let address = (((numbers.next() << unused) as i64 >> unused) as u64) >> shift << shift;
        let order = shift - geometry.base_shift();
        let frame = (numbers.next() >> 32) >> order << order;
        let mapping = Mapping::new(Backing::Run(pfn(frame)), RW).at_level(at);
        if tables.map(range(address, 1 << shift), mapping).is_ok() {
            mapped.push((address, shift, frame));
        }
        assert_eq!(tables.table_frames(), frames.outstanding(), "{geometry}");
    }
    for &(address, shift, frame) in &mapped {
        let inside = address + (numbers.next() & ((1 << shift) - 1));
        let Walk::Mapped(leaf) = tables.walk(va(inside)).unwrap() else {
            panic!("{inside:#x} of {geometry}")
        };
        assert_eq!((leaf.pfn.get(), leaf.range), (frame, range(address, 1 << shift)), "{geometry}");
    }
    let mut batch = tables.batch().unwrap();
    for &(address, shift, _) in &mapped {
        batch.unmap(range(address, 1 << shift)).unwrap();
    }
    let mut released: Vec<_> = flush(batch)
        .into_iter()
        .map(|item| match item {
            Released::Leaves(Leaves { va, frames, .. }) => (va.get(), frames.start().get(), frames.frames()),
            Released::Shared { .. } => panic!("nothing is shared"),
        })
        .collect();
    let mut expected: Vec<_> = mapped
        .iter()
        .map(|&(address, shift, frame)| (address, frame, 1 << (shift - geometry.base_shift())))
        .collect();
    released.sort_unstable();
    expected.sort_unstable();
    assert_eq!(released, expected, "{geometry}");
    assert_eq!((tables.table_frames(), frames.outstanding()), (empty, empty), "{geometry}");
}

#[test]
fn software_tables_of_every_geometry() {
    let with_tables = Geometry::ALL.iter().filter(|geometry| geometry.root().is_some());
    let walked = with_tables.inspect(|&&geometry| walks::<Software>(geometry)).count();
    assert_eq!(walked, Geometry::ALL.len() - 1, "all but the hash");
}

#[test]
fn x86_tables_of_four_and_five_levels() {
    walks::<X86_64>(Geometry::X86_64);
    walks::<X86_64>(Geometry::X86_64_LA57);
}

#[test]
fn arm64_tables_of_every_granule() {
    walks::<Arm64_4K>(Geometry::ARM64_4K);
    walks::<Arm64_16K>(Geometry::ARM64_16K);
    walks::<Arm64_64K>(Geometry::ARM64_64K);
}

#[test]
fn a_table_takes_whole_frames() {
    // s390: a page table is half a frame and takes one, a segment table takes four.
    let frames = TestFrames::with_frames(64);
    let tables = Tables::<Software, _>::new(Bare::new(frames.frames()), Geometry::S390X, NODE).unwrap();
    assert_eq!(tables.table_frames(), 4);
    // The last entry of every table on the way.
    tables.map(range(0u64.wrapping_sub(4096), 4096), run(3, RW)).unwrap();
    assert_eq!(tables.table_frames(), 4 + 4 + 4 + 1);
    let Walk::Mapped(leaf) = tables.walk(va(u64::MAX)).unwrap() else { panic!("mapped") };
    assert_eq!(leaf.pfn, pfn(3));
}
