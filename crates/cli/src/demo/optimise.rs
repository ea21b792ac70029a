// SPDX-License-Identifier: MIT OR Apache-2.0
//! Huge pages that are optimised and restored, here and in software tables, and every byte of their descriptors checked.

use std::fmt;
use std::time::Instant;

use mmkit_addr::{Compound, DESCRIPTOR_BYTES, Geometry, Keep, NodeId, Order, Pfn, PfnRange};
use mmkit_frame::Bare;
use mmkit_host::{HostFrames, HostSpace, mapping_budget, tail_frames_order};
use mmkit_oracle::hvo::median;
use mmkit_page::{Frozen, MemMap, PageFlags, Place, Template};
use mmkit_pgtable::Software;
use mmkit_vmemmap::{HvoReport, Populate, TableSpace, Vmemmap, VmemmapEnv, VmemmapSpace, WithTailSlots};
use serde::Serialize;

use super::Context;
use super::check::{self, Tally};
use super::env;
use super::layout::Piece;
use super::report::Report;
use crate::failure::Failure;
use crate::hvo::frames::{Kept, bundle};
use crate::machine;
use crate::size::{rough, short};

/// Bytes of huge pages, at least four of them.
const BYTES: u64 = 1 << 30;
/// How often they are optimised and restored; the times are medians.
const ROUNDS: usize = 5;

type Words = [u64; Template::WORDS];

/// What it did and took in one place.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Optimised {
    /// `mappings` for real ones of this process, `tables` for software tables.
    pub(super) place: &'static str,
    /// `2M`, ..
    pub(super) page: String,
    pub(super) pages: u64,
    /// Bytes of descriptors that the allocator has got back when all pages are optimised: each page's share. What all
    /// share, and the tables that come with it, are taken off.
    pub(super) freed_bytes_per_page: f64,
    /// The same as the operating system reports it, where the memory went back to it.
    pub(super) resident_freed_bytes_per_page: Option<f64>,
    pub(super) optimise_us: Option<f64>,
    pub(super) restore_us: Option<f64>,
    /// Descriptors of which all 64 bytes were compared with what they were, and with what they must be.
    pub(super) descriptors_checked: u64,
    pub(super) descriptors_wrong: u64,
    /// Frames whose heads were looked up.
    pub(super) heads_checked: u64,
    pub(super) heads_wrong: u64,
    /// Bytes that the allocator has out where it should not, or the other way round.
    pub(super) bytes_wrong: u64,
    /// The first frame at which something was wrong.
    pub(super) first_wrong: Option<u64>,
}

impl Optimised {
    /// Things that were not as they must be.
    pub(super) fn wrong(&self) -> u64 {
        self.descriptors_wrong + self.heads_wrong + self.bytes_wrong
    }
}

/// The part `optimise`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let geometry = context.geometry;
    let compounds = machine::page_sizes(geometry).into_iter().filter_map(|bytes| {
        let compound = geometry.compound(geometry.order_of_bytes(bytes)?)?;
        Some((bytes, compound)).filter(|(_, compound)| compound.is_optimisable())
    });
    let Some((bytes, compound)) = compounds.min_by_key(|&(bytes, _)| bytes) else {
        report
            .skipped
            .push(format!("optimise: {geometry} has no huge pages whose descriptors could be shared"));
        return Ok(());
    };
    let work = Work { geometry: *geometry, compound, bytes, pages: (BYTES / bytes).max(4) };
    match work.in_mappings()? {
        Ok(real) => report.optimised.push(real),
        Err(why) => report.skipped.push(format!("optimise: {why}")),
    }
    report.optimised.push(work.in_tables()?);
    context.say(&table(&report.optimised))
}

/// What is to be done.
struct Work {
    geometry: Geometry,
    compound: Compound,
    bytes: u64,
    pages: u64,
}

impl Work {
    fn order(&self) -> Order {
        self.compound.order()
    }

    /// Whole sections, as a kernel populates them.
    fn range(&self) -> Result<PfnRange, Failure> {
        let frames = (self.pages << self.order().get()).next_multiple_of(self.geometry.frames_per_section());
        PfnRange::new(Pfn::ZERO, frames).ok_or_else(|| failed("too many frames"))
    }

    /// All descriptors, a page more for each huge page, and tables.
    fn frames(&self, range: PfnRange) -> Result<HostFrames, Failure> {
        let pages = (range.frames() * DESCRIPTOR_BYTES) >> self.geometry.base_shift();
        HostFrames::new(pages + pages / 8 + self.pages + 2048).map_err(failed)
    }

    /// In this process, by the processor's own tables; or why not.
    fn in_mappings(&self) -> Result<Result<Optimised, String>, Failure> {
        let range = self.range()?;
        let budget = match mapping_budget() {
            Ok(budget) => budget,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Some(tails) = tail_frames_order(self.compound, self.pages, budget.mappings()) else {
            return Ok(Err(format!("vm.max_map_count = {} is too little", budget.limit)));
        };
        let frames = self.frames(range)?;
        let space = HostSpace::new(&frames, range.frames(), tails, budget).map_err(failed)?;
        let environment = WithTailSlots::<_, 1>::new(Bare::new(env::bundle(&frames)));
        let map = Vmemmap::new(self.geometry, space, environment).map_err(failed)?;
        let bytes = |frames: u64| frames << self.geometry.base_shift();
        let resident = || Some(frames.resident_bytes());
        let mut result = self.story(&map, range, &|| bytes(frames.allocated()), &resident)?;
        drop(map);
        result.bytes_wrong += bytes(frames.allocated());
        Ok(Ok(Optimised { place: "mappings", ..result }))
    }

    /// In tables that no processor walks, with frames that stay in memory.
    fn in_tables(&self) -> Result<Optimised, Failure> {
        let range = self.range()?;
        let kept = Kept::new(self.frames(range)?);
        let space: TableSpace<Software, _> =
            TableSpace::new(Bare::new(bundle(&kept)), self.geometry, NodeId::ZERO).map_err(failed)?;
        let environment = WithTailSlots::<_, 1>::new(Bare::new(bundle(&kept)));
        let map = Vmemmap::new(self.geometry, space, environment).map_err(failed)?;
        let bytes = |frames: u64| frames << self.geometry.base_shift();
        let mut result = self.story(&map, range, &|| bytes(kept.allocated()), &|| None)?;
        drop(map);
        result.bytes_wrong += bytes(kept.allocated());
        Ok(Optimised { place: "tables", ..result })
    }

    /// Optimises and restores all pages, and looks at everything before, between and after.
    fn story<S: VmemmapSpace, E: VmemmapEnv>(
        &self,
        map: &Vmemmap<S, E>,
        range: PfnRange,
        out: &dyn Fn() -> u64,
        resident: &dyn Fn() -> Option<u64>,
    ) -> Result<Optimised, Failure> {
        map.populate_with(Populate::new(range).huge_leaves()).map_err(failed)?;
        let mut pool = self.pool(map)?;
        let used = PfnRange::new(Pfn::ZERO, self.pages << self.order().get()).unwrap_or(range);
        let piece = Piece { range: used, order: self.order() };
        let heads = || check::heads(&piece, |pfn| map.head(pfn));
        // A head says whether its tails are shared: by one bit, which is all that changes.
        let words = |template: Template| template.words();
        let (own, shared) = (
            words(Template::head(self.order(), Place::default())),
            words(Template::head_of_shared(self.order(), Place::default())),
        );
        let sharing: Words = std::array::from_fn(|word| own[word] ^ shared[word]);
        let tables = || {
            let space = map.usage().space;
            (space.leaf_tables + space.shared_tables + space.upper_tables) << self.geometry.base_shift()
        };

        let before = read_all(map, used);
        let (out_before, tables_before, resident_before) = (out(), tables(), resident());
        let (mut checked, mut looked) = (Tally::default(), heads());
        let mut optimise = vec![timed(self.pages, || map.optimise_batch(&mut pool))?];

        looked.add(heads());
        checked.add(compare(map, &piece, &before, &sharing));
        let (out_between, tables_between, resident_between) = (out(), tables(), resident());
        let mut restore = vec![timed(self.pages, || map.restore_batch(&mut pool))?];

        looked.add(heads());
        checked.add(compare(map, &piece, &before, &[0; Template::WORDS]));
        // What arithmetic says that each gives up, less the page of tails (a run of them) and the tables that came.
        let saved = self.compound.saved_pages(Keep::One).unwrap_or(0) * self.pages;
        let tails = map.space().tail_frames_order().frames();
        let expected = (saved - tails) << self.geometry.base_shift();
        let freed = out_before as i64 - out_between as i64;
        let due = expected as i64 - (tables_between as i64 - tables_before as i64);
        let back = out_before as i64 + (tables() as i64 - tables_before as i64);
        let bytes_wrong = freed.abs_diff(due) + back.abs_diff(out() as i64);

        for _ in 1..ROUNDS {
            optimise.push(timed(self.pages, || map.optimise_batch(&mut pool))?);
            restore.push(timed(self.pages, || map.restore_batch(&mut pool))?);
        }
        for frozen in pool {
            let apart = frozen.unprep().map_err(|_| failed("a page could not be taken apart"))?;
            drop(apart.into_free().map_err(|_| failed("a page could not be given back"))?);
        }
        let share = |bytes: i64| bytes as f64 / self.pages as f64;
        Ok(Optimised {
            place: "",
            page: short(self.bytes),
            pages: self.pages,
            freed_bytes_per_page: share(freed),
            resident_freed_bytes_per_page: resident_before
                .zip(resident_between)
                .map(|(before, between)| share(before as i64 - between as i64)),
            optimise_us: median(optimise),
            restore_us: median(restore),
            descriptors_checked: checked.checked,
            descriptors_wrong: checked.wrong,
            heads_checked: looked.checked,
            heads_wrong: looked.wrong,
            bytes_wrong,
            first_wrong: checked.first.or(looked.first).map(Pfn::get),
        })
    }

    /// The huge pages. No two neighbours have the same bytes in their heads.
    fn pool<'m, S: VmemmapSpace, E: VmemmapEnv>(
        &self,
        map: &'m Vmemmap<S, E>,
    ) -> Result<Vec<Frozen<'m, Vmemmap<S, E>>>, Failure> {
        let marks = [PageFlags::HUGETLB, PageFlags::UPTODATE, PageFlags::DIRTY, PageFlags::REFERENCED];
        (0..self.pages)
            .map(|number| {
                let head = Pfn::new(number << self.order().get()).ok_or_else(|| failed("too many frames"))?;
                let free = map.claim_joined(head, self.order()).map_err(failed)?;
                let frozen = free.allocate().prep().map_err(|_| failed("a page could not be made"))?;
                let folio = frozen.into_folio();
                folio.insert(marks[number as usize % marks.len()]);
                folio.freeze().map_err(|_| failed("a page is in use that nobody has"))
            })
            .collect()
    }
}

fn failed(what: impl fmt::Display) -> Failure {
    Failure::run(format_args!("optimise: {what}; that is a bug of mmkit, please report it"))
}

/// Microseconds for each page; an error unless all were changed.
fn timed(pages: u64, batch: impl FnOnce() -> HvoReport) -> Result<f64, Failure> {
    let begun = Instant::now();
    let report = batch();
    let took = begun.elapsed().as_secs_f64() * 1e6 / pages as f64;
    let report = report.ok().map_err(failed)?;
    if report.done as u64 == pages { Ok(took) } else { Err(failed("some pages were not changed")) }
}

/// The bytes of all descriptors.
fn read_all<M: MemMap>(map: &M, range: PfnRange) -> Vec<Option<Words>> {
    let reader = map.enter();
    range.iter().map(|pfn| Some(reader.page(pfn)?.words())).collect()
}

/// Compares all descriptors with what they were, but for the bits `changed` of heads.
fn compare<M: MemMap>(map: &M, piece: &Piece, before: &[Option<Words>], changed: &Words) -> Tally {
    let mut tally = Tally::default();
    let reader = map.enter();
    let mut left = 0;
    for (pfn, before) in piece.range.iter().zip(before) {
        let is_head = left == 0;
        left = if is_head { piece.order.frames() } else { left } - 1;
        let found = reader.page(pfn).map(|page| page.words());
        let wanted = before.map(|words| match is_head {
            true => std::array::from_fn(|word| words[word] ^ changed[word]),
            false => words,
        });
        tally.note(pfn, found.is_some() && found == wanted);
    }
    tally
}

fn table(all: &[Optimised]) -> String {
    let mut text = String::new();
    for one in all {
        let (page, place) = match one.place {
            "mappings" => (&one.page, "this process's own mappings"),
            _ => (&one.page, "software tables, with no hardware to flush"),
        };
        let us = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} us"));
        text += &format!("\noptimise: {} pages of {page} in {place}\n", one.pages);
        text += &format!(
            "  each gives {} back{}; optimised in {}, restored in {}\n",
            rough(one.freed_bytes_per_page.max(0.0) as u64),
            one.resident_freed_bytes_per_page.map_or(String::new(), |bytes| {
                format!(" ({} as the system sees it)", rough(bytes.max(0.0) as u64))
            }),
            us(one.optimise_us),
            us(one.restore_us),
        );
        text += &format!(
            "  before, between and after: {} descriptors compared, {} wrong; {} heads looked up, {} wrong\n",
            one.descriptors_checked, one.descriptors_wrong, one.heads_checked, one.heads_wrong
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Option<Work> {
        let geometry = machine::geometry()?;
        let order = geometry.min_dedup_order();
        let compound = geometry.compound(order)?;
        Some(Work { geometry: *geometry, compound, bytes: geometry.base_bytes() << order.get(), pages: 3 })
    }

    #[test]
    fn what_each_page_gives_back_is_what_arithmetic_says() {
        let Some(work) = work() else { return };
        let tables = work.in_tables().unwrap();
        assert_eq!((tables.wrong(), tables.first_wrong), (0, None), "{tables:?}");
        let frames = 3 << work.order().get();
        assert_eq!((tables.descriptors_checked, tables.heads_checked), (2 * frames, 3 * frames));
        let real = work.in_mappings().unwrap().unwrap();
        assert_eq!((real.wrong(), real.first_wrong), (0, None), "{real:?}");
        assert!(real.optimise_us.is_some_and(|us| us > 0.0));
        // What went back to the allocator went back to the system.
        assert_eq!(real.resident_freed_bytes_per_page, Some(real.freed_bytes_per_page), "{real:?}");
    }

    #[test]
    fn a_changed_descriptor_is_noticed() {
        let Some(work) = work() else { return };
        let range = work.range().unwrap();
        let kept = Kept::new(work.frames(range).unwrap());
        let space: TableSpace<Software, _> =
            TableSpace::new(Bare::new(bundle(&kept)), work.geometry, NodeId::ZERO).unwrap();
        let environment = WithTailSlots::<_, 1>::new(Bare::new(bundle(&kept)));
        let map = Vmemmap::new(work.geometry, space, environment).unwrap();
        map.populate_with(Populate::new(range)).unwrap();
        let mut pool = work.pool(&map).unwrap();
        let piece = Piece { range: PfnRange::block(Pfn::ZERO, work.order()), order: work.order() };
        let before = read_all(&map, piece.range);
        assert_eq!(compare(&map, &piece, &before, &[0; 8]).wrong, 0);
        // Another flag in the first head, and only there.
        let folio = pool.remove(0).into_folio();
        folio.insert(PageFlags::ACTIVE);
        pool.insert(0, folio.freeze().unwrap());
        let tally = compare(&map, &piece, &before, &[0; 8]);
        assert_eq!((tally.wrong, tally.first), (1, Some(Pfn::ZERO)));
        for frozen in pool {
            drop(frozen.unprep().unwrap().into_free().unwrap());
        }
    }
}
