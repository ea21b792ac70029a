// SPDX-License-Identifier: MIT OR Apache-2.0
//! This kit's side: the same number of pages, in software tables, which have no hardware to flush.

use std::fmt;
use std::time::Instant;

use mmkit_addr::{DESCRIPTOR_BYTES, Geometry, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::Bare;
use mmkit_host::{HostFrames, memory_budget};
use mmkit_oracle::hvo::median;
use mmkit_page::{Frozen, MemMap};
use mmkit_pgtable::Software;
use mmkit_vmemmap::{HvoReport, Populate, TableSpace, Vmemmap, WithTailSlots};
use serde::Serialize;

use super::Side;
use super::frames::{Kept, KitEnv, bundle};
use crate::failure::Failure;
use crate::size::rough;

/// Bytes of huge pages where nobody says how many: as on the kernel's side.
const DEFAULT_BYTES: u64 = 2 << 30;

/// One order, one zone, one node.
const SLOTS: usize = 1;

/// What the kit does and takes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kit {
    #[serde(flatten)]
    pub(super) side: Side,
    /// As `freed_per_page`, with everything that the memory map took from its allocator: page tables, and the page that
    /// all share.
    pub(super) net_freed_per_page: f64,
}

/// Measures it, or says why not.
pub(super) fn measure(
    geometry: &'static Geometry,
    page: u64,
    pages: Option<u64>,
    repeats: usize,
) -> Result<Result<Kit, String>, Failure> {
    let order = geometry.order_of_bytes(page).ok_or_else(|| bug("a page without an order"))?;
    let pages = pages.unwrap_or((DEFAULT_BYTES / page).max(1));
    // Whole sections, whose descriptors huge leaves map, as those of a kernel.
    let section = geometry.frames_per_section();
    let frames =
        pages.checked_mul(order.frames()).and_then(|frames| frames.checked_next_multiple_of(section));
    let frames = frames.filter(|&frames| frames <= geometry.max_frames());
    // Pages that optimised compounds keep are copied to frames of their own; and there are tables.
    let need = frames.unwrap_or(u64::MAX).saturating_mul(2 * DESCRIPTOR_BYTES).saturating_add(8 << 20);
    let budget = memory_budget().unwrap_or(DEFAULT_BYTES);
    let Some(frames) = frames.filter(|_| need <= budget) else {
        let (need, budget) = (rough(need), rough(budget));
        return Ok(Err(format!("mmkit: descriptors of {pages} pages need {need}, and {budget} may be used")));
    };
    let host = HostFrames::new(need >> geometry.base_shift()).map_err(Failure::run)?;
    let kept = Kept::new(host);
    let kit = Run { geometry, order, pages, frames }.all(&kept, repeats)?;
    match kept.allocated() {
        0 => Ok(Ok(kit)),
        out => Err(bug(format_args!("{out} frames are out after tearing down"))),
    }
}

fn bug(what: impl fmt::Display) -> Failure {
    Failure::run(format_args!("{what}; that is a bug of mmkit, please report it"))
}

struct Run {
    geometry: &'static Geometry,
    order: Order,
    pages: u64,
    frames: u64,
}

/// What one batch of optimising and one of restoring did.
struct Cycle {
    optimise_seconds: f64,
    restore_seconds: f64,
    freed: i64,
    taken: i64,
    net_freed: i64,
}

impl Run {
    fn all(&self, kept: &Kept, repeats: usize) -> Result<Kit, Failure> {
        let space: TableSpace<Software, _> =
            TableSpace::new(Bare::new(bundle(kept)), *self.geometry, NodeId::ZERO).map_err(bug)?;
        let env = WithTailSlots::<_, SLOTS>::new(KitEnv::new(kept));
        let map = Vmemmap::new(*self.geometry, space, env).map_err(bug)?;
        let range = PfnRange::new(Pfn::ZERO, self.frames).ok_or_else(|| bug("too many frames"))?;
        map.populate_with(Populate::new(range).huge_leaves()).map_err(bug)?;
        let mut pool = Vec::new();
        for number in 0..self.pages {
            let head = Pfn::new(number << self.order.get()).ok_or_else(|| bug("too many frames"))?;
            let free = map.claim_joined(head, self.order).map_err(bug)?;
            pool.push(free.allocate().prep().map_err(bug)?);
        }
        // The first time splits huge mappings, as in the kernel. The tables for that count in what it frees.
        let first = cycle(&map, kept, &mut pool)?;
        let cycles = (0..repeats).map(|_| cycle(&map, kept, &mut pool)).collect::<Result<Vec<_>, _>>()?;
        for frozen in pool {
            drop(frozen.unprep().map_err(bug)?.into_free().map_err(bug)?);
        }
        Ok(self.kit(&first, &cycles))
    }

    fn kit(&self, first: &Cycle, cycles: &[Cycle]) -> Kit {
        let us = |seconds: fn(&Cycle) -> f64| {
            median(cycles.iter().map(|cycle| seconds(cycle) * 1e6 / self.pages as f64))
        };
        let per_page = |pages: fn(&Cycle) -> i64| {
            let first = pages(cycles.first()?);
            let same = cycles.iter().all(|cycle| pages(cycle) == first);
            let count = self.pages as i64;
            (same && first % count == 0).then_some(first / count)
        };
        Kit {
            side: Side {
                pages: self.pages,
                freed_per_page: per_page(|cycle| cycle.freed),
                taken_per_page: per_page(|cycle| cycle.taken),
                optimise_us: us(|cycle| cycle.optimise_seconds),
                restore_us: us(|cycle| cycle.restore_seconds),
            },
            net_freed_per_page: first.net_freed as f64 / self.pages as f64,
        }
    }
}

type Map<'a> = Vmemmap<TableSpace<Software, Bare<&'a Kept, HostFrames>>, WithTailSlots<KitEnv<'a>, SLOTS>>;

/// Optimises and restores all pages.
fn cycle<M: MemMap>(map: &Map<'_>, kept: &Kept, pool: &mut [Frozen<'_, M>]) -> Result<Cycle, Failure> {
    let own = || map.usage().own as i64;
    let (before, out_before) = (own(), kept.allocated() as i64);
    let begun = Instant::now();
    let optimised = map.optimise_batch(pool);
    let optimise_seconds = begun.elapsed().as_secs_f64();
    all_done(optimised, pool.len())?;
    let (between, out_between) = (own(), kept.allocated() as i64);
    let begun = Instant::now();
    let restored = map.restore_batch(pool);
    let restore_seconds = begun.elapsed().as_secs_f64();
    all_done(restored, pool.len())?;
    Ok(Cycle {
        optimise_seconds,
        restore_seconds,
        freed: before - between,
        taken: own() - between,
        net_freed: out_before - out_between,
    })
}

fn all_done(report: HvoReport, pages: usize) -> Result<(), Failure> {
    let report = report.ok().map_err(bug)?;
    if report.done == pages {
        Ok(())
    } else {
        Err(bug(format_args!("{} of {pages} pages were changed", report.done)))
    }
}
