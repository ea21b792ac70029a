// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map over this process's memory: what a lookup costs, and how many bytes are resident.

use std::error::Error;
use std::sync::atomic::AtomicU64;

use mmkit_addr::{DESCRIPTOR_BYTES, Geometry, Order, Pfn, PfnRange};
use mmkit_frame::{Bare, Frames};
use mmkit_host::{HostFrames, HostSpace, mapping_budget, page_table_bytes, tail_frames_order};
use mmkit_page::{MemMap, Place};
use mmkit_vmemmap::{Vmemmap, WithTailSlots};

use super::head;
use crate::figure::Figure;
use crate::pair::Effort;

type Map = Vmemmap<HostSpace, WithTailSlots<Bare<HostFrames, HostFrames>, 1>>;

const GIB: u64 = 1 << 30;

/// A memory map of `bytes` of memory in compounds of `order`, and the file that its frames come from.
fn build(bytes: u64, order: Order) -> Result<(Map, HostFrames, PfnRange), Box<dyn Error>> {
    let geometry = Geometry::X86_64;
    let frames = bytes >> geometry.base_shift();
    let compound = geometry.compound(order).ok_or("no such compound")?;
    let budget = mapping_budget()?;
    let tails =
        tail_frames_order(compound, frames >> order.get(), budget.mappings()).ok_or("too many mappings")?;
    // At most one frame for each page of descriptors, and some for tails and section table.
    let host = HostFrames::new((frames >> geometry.vmemmap_page_order().get()) + 4096)?;
    let space = HostSpace::new(&host, frames, tails, budget)?;
    // SAFETY: both are the same file; its frames are accessed by whoever allocated them.
    let bundle = unsafe { Frames::new(host.clone(), host.clone()) };
    let map = Vmemmap::new(geometry, space, WithTailSlots::new(Bare::new(bundle)))?;
    let range = PfnRange::new(Pfn::ZERO, frames).ok_or("too many frames")?;
    map.populate(range, order, Place::default())?;
    Ok((map, host, range))
}

/// `sparse_lookup_ratio`: the same lookups as through a slice, by section table and real mappings.
pub(crate) fn lookup(effort: Effort) -> Result<[Figure; 2], Box<dyn Error>> {
    let order = Order::new(9).ok_or("order 9")?;
    let (map, _host, _) = build(head::FRAMES << 12, order)?;
    head::assert_heads(&map, order);
    let reader = map.enter();
    // SAFETY: inside the reader.
    let info = unsafe { map.descriptor(Pfn::ZERO) }.ok_or("frame 0 has no descriptor")?.cast::<AtomicU64>();
    // SAFETY: the second word of the first descriptor.
    let info = unsafe { info.add(1) };
    let figures = head::against_load_and_mask(
        effort,
        &map,
        info,
        head::Keys { latency: "sparse_lookup_ratio", throughput: "sparse_throughput_ratio", goal: None },
    );
    drop(reader);
    Ok(figures)
}

/// `resident_2m_ratio`: file blocks and growth of the page tables, after every descriptor was read.
pub(crate) fn resident_2m() -> Result<Figure, Box<dyn Error>> {
    let tables = page_table_bytes().ok_or("VmPTE cannot be read")?;
    let (map, host, range) = build(16 * GIB, Order::new(9).ok_or("order 9")?)?;
    let reader = map.enter();
    // One descriptor of each page makes the kernel fill in the entry for it.
    for pfn in range.iter().step_by(64) {
        assert_eq!(
            reader.page(pfn).map(|page| page.head()),
            Some(pfn.align_down(Order::new(9).ok_or("order 9")?))
        );
    }
    let growth = page_table_bytes().ok_or("VmPTE cannot be read")?.saturating_sub(tables);
    let flat = range.frames() * DESCRIPTOR_BYTES;
    let value = (host.resident_bytes() + growth) as f64 / flat as f64;
    drop(reader);
    Ok(Figure::counted(
        "resident_2m_ratio",
        "file blocks and growth of VmPTE, 16 GiB of 2M pages, every page of descriptors read / flat bytes",
        Some(0.131),
        value,
    ))
}

/// `resident_1g_ratio`: file blocks.
pub(crate) fn resident_1g() -> Result<Figure, Box<dyn Error>> {
    let (map, host, range) = build(1024 * GIB, Order::new(18).ok_or("order 18")?)?;
    assert_eq!(map.head(range.last().ok_or("empty")?), Some(Pfn::new(1023 << 18).ok_or("pfn")?));
    let flat = range.frames() * DESCRIPTOR_BYTES;
    Ok(Figure::counted(
        "resident_1g_ratio",
        "file blocks, 1 TiB of 1G pages / flat bytes",
        Some(0.0005),
        host.resident_bytes() as f64 / flat as f64,
    ))
}
