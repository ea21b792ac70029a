// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory map, and huge pages in it that are optimised and restored.

use std::error::Error;

use mmkit_addr::{Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_page::{Frozen, MemMap};
use mmkit_pgtable::{TableEnv, X86_64};
use mmkit_vmemmap::{HvoReport, Populate, TableSpace, Vmemmap, VmemmapEnv, VmemmapSpace, WithTailSlots};

/// The machine that is measured.
pub(super) const GEOMETRY: Geometry = Geometry::X86_64;

/// A memory map in software tables.
pub(super) type Soft<E> = Vmemmap<TableSpace<X86_64, E>, WithTailSlots<E, 1>>;

/// An empty one. Both environments are over the same frames.
pub(super) fn soft<E: TableEnv>(env: impl Fn() -> E) -> Result<Soft<E>, Box<dyn Error>> {
    let space = TableSpace::new(env(), GEOMETRY, NodeId::ZERO)?;
    Ok(Vmemmap::new(GEOMETRY, space, WithTailSlots::new(env()))?)
}

/// The order of pages of 2M or 1G.
pub(super) fn order_of(bytes: u64) -> Result<Order, &'static str> {
    GEOMETRY.order_of_bytes(bytes).ok_or("no such pages")
}

/// The frames of the first `bytes` of memory.
pub(super) fn memory(bytes: u64) -> Result<PfnRange, &'static str> {
    PfnRange::new(Pfn::ZERO, bytes >> GEOMETRY.base_shift()).ok_or("too many frames")
}

/// A huge page that nobody refers to.
pub(super) type Page<'m, S, E> = Frozen<'m, Vmemmap<S, E>>;

/// Populates `range` as a kernel does at boot, behind huge leaves where there are some, and makes huge pages of it.
pub(super) fn pages<S: VmemmapSpace, E: VmemmapEnv>(
    map: &Vmemmap<S, E>,
    range: PfnRange,
    order: Order,
) -> Result<Vec<Page<'_, S, E>>, Box<dyn Error>> {
    map.populate_with(Populate::new(range).huge_leaves())?;
    let heads = range.iter().step_by(order.frames() as usize);
    heads
        .map(|head| {
            let free = map.claim_joined(head, order)?;
            Ok(free.allocate().prep().map_err(|_| "not prepared")?)
        })
        .collect()
}

/// An error unless all pages were changed.
pub(super) fn all(report: HvoReport, pages: usize) -> Result<(), Box<dyn Error>> {
    match report.ok()?.done {
        done if done == pages => Ok(()),
        done => Err(format!("{done} of {pages} pages were changed").into()),
    }
}
