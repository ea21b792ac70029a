// SPDX-License-Identifier: MIT OR Apache-2.0
//! What real memory maps cost, as the operating system tells.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod common;

use common::*;
use mmkit_addr::{Geometry, Order, Pfn, PfnRange};
use mmkit_frame::DirectMap;
use mmkit_host::{HostFrames, HostSpace, mapping_budget, memory_budget, page_table_bytes, tail_frames_order};
use mmkit_page::{MemMap, Place};
use mmkit_vmemmap::Vmemmap;

const PAGE: u64 = 4096;

/// What one memory map took, in bytes.
#[derive(Debug)]
struct Cost {
    flat: u64,
    resident: u64,
    tables: u64,
    mappings: u64,
}

/// Builds the memory map of `bytes` in compounds of `size`, looks up `step`-th frames, and tears it down.
fn build(bytes: u64, size: Order, step: usize) -> Option<Cost> {
    let range = PfnRange::new(Pfn::ZERO, bytes / PAGE).unwrap();
    let compound = Geometry::X86_64.compound(size).unwrap();
    let budget = mapping_budget().unwrap();
    let compounds = range.frames() / size.frames();
    let Some(tails) = tail_frames_order(compound, compounds, budget.mappings()) else {
        println!("skipped: {} mappings are too few", budget.mappings());
        return None;
    };
    let frames = HostFrames::new(1 << 17).unwrap();
    let space = HostSpace::new(&frames, range.frames(), tails, budget).unwrap();
    let before = page_table_bytes().unwrap();
    let vmemmap = Vmemmap::new(Geometry::X86_64, space, HostEnv::new(&frames)).unwrap();
    vmemmap.populate(range, size, Place::default()).unwrap();
    for pfn in range.iter().step_by(step) {
        assert_eq!(vmemmap.head(pfn), Some(pfn.align_down(size)));
    }
    let cost = Cost {
        flat: range.frames() * 64,
        resident: frames.resident_bytes(),
        tables: page_table_bytes().unwrap().saturating_sub(before),
        mappings: vmemmap.space().mappings(),
    };
    assert_eq!(cost.resident, vmemmap.usage().total() * PAGE, "what was taken is what is there");
    println!("{bytes:#x} bytes at {size:?}: {cost:?}");
    drop(vmemmap);
    assert_eq!((frames.allocated(), frames.resident_bytes()), (0, 0));
    Some(cost)
}

/// One test, so that the page tables of the process grow for one map at a time.
#[test]
fn large_memory_maps_cost_what_they_should() {
    let Some((frames, _)) = host(1, 0) else { return };
    if frames.base_shift() != 12 || memory_budget().unwrap() < 256 << 20 {
        println!("skipped: not 4 KiB pages, or too little memory");
        return;
    }
    // 16 GiB at 2M, every page of descriptors looked at: own pages are 1/8 of a flat map.
    if let Some(cost) = build(16 << 30, order(9), 64) {
        let total = cost.resident + cost.tables;
        assert!(total * 1000 <= cost.flat * 131, "{total} bytes of {} flat", cost.flat);
        assert_eq!(cost.mappings, 2 * 8192);
    }
    // 1 TiB at 1G: 4 KiB for each, and one run of tails.
    if let Some(cost) = build(1 << 40, order(18), 1 << 15) {
        assert!(cost.resident * 10_000 <= cost.flat * 5, "{} bytes of {} flat", cost.resident, cost.flat);
        assert_eq!(cost.mappings, 9 * 1024);
    }
}
