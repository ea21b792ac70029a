// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main part: every page size, planned, built, checked and torn down.

use std::time::Instant;

use mmkit_addr::{DESCRIPTOR_BYTES, NodeId, Order};
use mmkit_frame::Bare;
use mmkit_host::{HostFrames, HostSpace, mapping_slab_bytes, page_table_bytes};
use mmkit_pgtable::Software;
use mmkit_vmemmap::{TableSpace, Vmemmap, VmemmapSpace};

use super::Context;
use super::budget::{Budget, Need, Split, reckoned};
use super::env::{DemoEnv, bundle, env};
use super::exercise::{Outcome, exercise};
use super::layout::Layout;
use super::page::Page;
use super::report::{Report, Run};
use crate::failure::Failure;
use crate::output::table;
use crate::size::{exact, rough, short};

/// One page size, before anything is built.
struct Plan<'a> {
    page: &'a Page,
    need: Need,
    all: u64,
    split: Split,
}

/// The part `build`.
pub(super) fn run(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let (budget, skipped) = Budget::of_this_process();
    report.skipped.extend(skipped);
    let plans: Vec<_> =
        context.pages.iter().map(|page| plan(context, page, &budget)).collect::<Result<_, _>>()?;
    context.say(&planned(context, &plans, &budget))?;
    for plan in &plans {
        let run = Run { memory_bytes: context.memory.bytes(), ..one(context, plan, &budget)? };
        report.runs.push(run);
    }
    if report.runs.iter().any(|run| run.table_bytes.is_none()) {
        report
            .skipped
            .push("VmPTE of /proc/self/status cannot be read: page tables are not counted".to_owned());
    }
    if report.runs.iter().any(|run| run.mapping_slab_bytes.is_none()) {
        report
            .skipped
            .push("/proc/slabinfo cannot be read: the kernel's slab for mappings is not shown".to_owned());
    }
    context.say(&built(&report.runs))
}

/// What goes where. With `--memory` everything is built for real, or it is an error.
fn plan<'a>(context: &Context, page: &'a Page, budget: &Budget) -> Result<Plan<'a>, Failure> {
    let geometry = context.geometry;
    let layout = Layout::new(geometry, &context.frames, page.order);
    let mappings = budget.mappings.mappings();
    let need = Need::least(geometry, &layout, mappings);
    let memory = exact(context.memory.bytes());
    let page_name = short(page.bytes);
    if context.is_given() && need.mappings > mappings {
        let (limit, enough) = (budget.mappings.limit, budget.mappings.others + need.mappings);
        return Err(Failure::run(format_args!(
            "{memory} as {page_name} pages need {} mappings and {mappings} are left of vm.max_map_count = {limit}; \
             give less --memory or a larger --page, or set sysctl vm.max_map_count to {enough} or more",
            need.mappings,
        )));
    }
    if context.is_given() && need.memory > budget.memory {
        return Err(Failure::run(format_args!(
            "descriptors of {memory} as {page_name} pages need {} of memory and {} may be used (half of what is \
             available here); give less --memory or a larger --page",
            rough(need.memory),
            rough(budget.memory),
        )));
    }
    let split = match need.mappings <= mappings && need.memory <= budget.memory {
        true => Split { real: layout.clone(), ..Split::default() },
        false => Split::new(geometry, &layout, need.tails, budget),
    };
    Ok(Plan { page, need, all: layout.frames(), split })
}

/// Does all of it for one page size.
fn one(context: &Context, plan: &Plan<'_>, budget: &Budget) -> Result<Run, Failure> {
    let begun = Instant::now();
    let geometry = context.geometry;
    let bytes = |layout: &Layout| layout.frames() << geometry.base_shift();
    let mut run = Run {
        page: plan.page.name.clone(),
        page_bytes: plan.page.bytes,
        frames: plan.all,
        flat_bytes: plan.all * DESCRIPTOR_BYTES,
        tail_run_frames: plan.need.tails.frames(),
        software_bytes: bytes(&plan.split.software) + bytes(&plan.split.counted),
        counted_bytes: bytes(&plan.split.counted),
        counted_resident_bytes: reckoned(geometry, &plan.split.counted),
        ..Run::default()
    };
    run.table_bytes = page_table_bytes().map(|_| 0);
    run.mapping_slab_bytes = mapping_slab_bytes().map(|_| 0);
    if !plan.split.real.is_empty() {
        for_real(context, plan, budget, &mut run)?;
    }
    if !plan.split.software.is_empty() {
        in_software(context, plan, &mut run)?;
    }
    let spent = run.resident_bytes
        + run.table_bytes.unwrap_or(0)
        + run.software_resident_bytes
        + run.counted_resident_bytes;
    run.saved_bytes = run.flat_bytes as i64 - spent as i64;
    run.seconds = begun.elapsed().as_secs_f64();
    Ok(run)
}

/// In this process's memory.
fn for_real(context: &Context, plan: &Plan<'_>, budget: &Budget, run: &mut Run) -> Result<(), Failure> {
    let layout = &plan.split.real;
    let tables = page_table_bytes();
    let slab = mapping_slab_bytes();
    let frames = host_frames(context, plan)?;
    let space =
        HostSpace::new(&frames, layout.end(), plan.need.tails, budget.mappings).map_err(Failure::run)?;
    let map = Vmemmap::new(*context.geometry, space, env(&frames)).map_err(Failure::run)?;
    let what = format!("{} pages", plan.page.name);
    let outcome = exercise(&map, layout, layout, what, || {
        run.resident_bytes = frames.resident_bytes();
        run.mappings = map.space().mappings();
        let grown = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        run.table_bytes = grown(page_table_bytes(), tables);
        run.mapping_slab_bytes = grown(mapping_slab_bytes(), slab);
    })?;
    note(run, &outcome);
    tear_down(map, &frames)
}

/// In software tables over frames of this process.
fn in_software(context: &Context, plan: &Plan<'_>, run: &mut Run) -> Result<(), Failure> {
    let layout = &plan.split.software;
    let frames = host_frames(context, plan)?;
    let tables = Bare::new(bundle(&frames));
    let space: TableSpace<Software, _> =
        TableSpace::new(tables, *context.geometry, NodeId::ZERO).map_err(Failure::run)?;
    let map = Vmemmap::new(*context.geometry, space, env(&frames)).map_err(Failure::run)?;
    let what = format!("{} pages in software tables", plan.page.name);
    let outcome = exercise(&map, layout, layout, what, || {
        run.software_resident_bytes = frames.resident_bytes();
    })?;
    note(run, &outcome);
    tear_down(map, &frames)
}

/// Room for the descriptors, with as much again for everything else; memory is taken as it is used.
fn host_frames(context: &Context, plan: &Plan<'_>) -> Result<HostFrames, Failure> {
    let frames = plan.need.memory >> context.geometry.base_shift();
    HostFrames::new(2 * frames).map_err(Failure::run)
}

/// Adds what came of one place to the run.
fn note(run: &mut Run, outcome: &Outcome) {
    let before = run.lookup_ns.unwrap_or(0.0) * run.lookups_checked as f64;
    run.build_seconds += outcome.build.as_secs_f64();
    run.lookups_checked += outcome.lookups.checked;
    run.lookups_wrong += outcome.lookups.wrong;
    run.lookup_ns = Some((before + outcome.looking.as_nanos() as f64) / run.lookups_checked.max(1) as f64);
    run.descriptors_checked += outcome.descriptors.checked;
    run.descriptors_wrong += outcome.descriptors.wrong;
    run.holes_checked += outcome.holes.checked;
    run.holes_wrong += outcome.holes.wrong;
    run.references_checked += outcome.references.checked;
    run.references_wrong += outcome.references.wrong;
    let all = [outcome.descriptors, outcome.holes, outcome.lookups, outcome.references];
    run.first_wrong = run.first_wrong.or(all.iter().find_map(|tally| tally.first).map(|pfn| pfn.get()));
}

/// Takes the memory map down; everything that it took must come back.
fn tear_down<S: VmemmapSpace>(map: Vmemmap<S, DemoEnv>, frames: &HostFrames) -> Result<(), Failure> {
    drop(map);
    let (out, resident, bad) = (frames.allocated(), frames.resident_bytes(), frames.bad_frees());
    if (out, resident, bad) == (0, 0, 0) {
        return Ok(());
    }
    Err(Failure::run(format_args!(
        "after tearing down {out} frames are out, {resident} bytes resident and {bad} frees were wrong; that is a \
         bug of mmkit, please report it"
    )))
}

/// What goes where, for each page size.
fn planned(context: &Context, plans: &[Plan<'_>], budget: &Budget) -> String {
    let mut text = format!(
        "\nplan: {} mappings are left of vm.max_map_count = {}, and {} of memory may be used\n",
        budget.mappings.mappings(),
        budget.mappings.limit,
        rough(budget.memory),
    );
    let bytes = |layout: &Layout| rough(layout.frames() << context.geometry.base_shift());
    for plan in plans {
        let Plan { page, need, split, .. } = plan;
        let runs = match need.tails {
            Order::ZERO => String::new(),
            tails => format!(", tails in runs of {} frames", tails.frames()),
        };
        text += &format!("  {:>4}: {} mappings and {}{runs}: ", page.name, need.mappings, rough(need.memory));
        text += &match split.software.is_empty() && split.counted.is_empty() {
            true => "all of it for real\n".to_owned(),
            false => format!(
                "TOO MUCH; {} of memory for real, {} in software tables, {} only counted\n",
                bytes(&split.real),
                bytes(&split.software),
                bytes(&split.counted),
            ),
        };
    }
    text
}

/// What came of it, a column for each page size.
fn built(runs: &[Run]) -> String {
    let known = |bytes: Option<u64>| bytes.map_or("-".to_owned(), rough);
    let row = |name: &str, show: &dyn Fn(&Run) -> String| {
        let cells: Vec<_> = std::iter::once(name.to_owned()).chain(runs.iter().map(show)).collect();
        cells
    };
    let mut rows = vec![
        row("frames", &|run| run.frames.to_string()),
        row("descriptors, flat", &|run| rough(run.flat_bytes)),
        row("resident, says the OS", &|run| rough(run.resident_bytes)),
        row("growth of page tables", &|run| known(run.table_bytes)),
    ];
    if runs.iter().any(|run| run.software_bytes > 0) {
        rows.push(row("in software tables", &|run| rough(run.software_resident_bytes)));
        rows.push(row("only counted", &|run| rough(run.counted_resident_bytes)));
    }
    rows.extend([
        row("saved, net", &saved),
        row("slab for mappings (*)", &|run| known(run.mapping_slab_bytes)),
        row("time to build", &|run| format!("{:.3} s", run.build_seconds)),
        row("head lookup", &|run| run.lookup_ns.map_or("-".to_owned(), |ns| format!("{ns:.2} ns"))),
        row("descriptors compared", &|run| run.descriptors_checked.to_string()),
        row("heads looked up", &|run| run.lookups_checked.to_string()),
        row("blocks used", &|run| run.references_checked.to_string()),
        row("holes probed", &|run| run.holes_checked.to_string()),
        row("wrong", &|run| run.wrong().to_string()),
    ]);
    let head = std::iter::once("pages of").chain(runs.iter().map(|run| run.page.as_str()));
    let note =
        "(*) what the kernel keeps for mappings of a process; a kernel that does this itself has none\n";
    format!("\n{}{note}", table(head, rows, 1))
}

fn saved(run: &Run) -> String {
    let percent = run.saved_bytes as f64 * 100.0 / run.flat_bytes.max(1) as f64;
    let sign = if run.saved_bytes < 0 { "-" } else { "" };
    format!("{sign}{} ({percent:.2} %)", rough(run.saved_bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::memory_map::{MemoryMap, Source};
    use crate::machine;
    use crate::size::Size;
    use mmkit_host::MappingBudget;

    const GIB: u64 = 1 << 30;

    /// This machine with `bytes` of memory at address 0, if it is one that the demo knows.
    fn context(bytes: u64, page: &str, source: Source) -> Option<Context> {
        let geometry = machine::geometry()?;
        let memory = MemoryMap { source, ..MemoryMap::given(Size(bytes)) };
        let pages = super::super::page::pages(geometry, &[page.parse().unwrap()]).ok()?;
        Some(Context { geometry, frames: memory.frames(geometry), memory, pages, device: None, json: true })
    }

    /// A budget of so many mappings beside those that there are, and so much memory.
    fn budget(mappings: u64, memory: u64) -> Budget {
        let others = mmkit_host::mapping_budget().unwrap().others + 1000;
        let limit = others + mappings;
        Budget { mappings: MappingBudget { limit, others }, memory }
    }

    fn run(context: &Context, budget: &Budget) -> Result<Run, Failure> {
        let plan = plan(context, &context.pages[0], budget)?;
        one(context, &plan, budget)
    }

    #[test]
    fn all_of_it_fits() {
        let Some(context) = context(GIB, "2M", Source::Iomem) else { return };
        let run = run(&context, &budget(2000, GIB)).unwrap();
        assert_eq!((run.wrong(), run.first_wrong, run.software_bytes), (0, None, 0));
        assert_eq!((run.lookups_checked, run.descriptors_checked), (run.frames, run.frames));
        assert!(
            run.resident_bytes >= run.flat_bytes / 8 && run.resident_bytes < run.flat_bytes / 7,
            "{run:?}"
        );
    }

    #[test]
    fn too_many_mappings_go_to_software_tables() {
        let Some(context) = context(2 * GIB, "2M", Source::Iomem) else { return };
        let run = run(&context, &budget(1000, GIB)).unwrap();
        assert_eq!((run.wrong(), run.lookups_checked, run.descriptors_checked), (0, run.frames, run.frames));
        assert!(run.software_bytes > GIB && run.software_bytes < 2 * GIB, "{run:?}");
        assert_eq!((run.counted_bytes, run.counted_resident_bytes), (0, 0));
        // Both places keep one page of eight, and the software one also has tables.
        let spent = run.resident_bytes + run.software_resident_bytes;
        assert!(spent >= run.flat_bytes / 8 && spent < run.flat_bytes / 7, "{run:?}");
        assert!(run.mappings <= 1000);
    }

    #[test]
    fn too_much_memory_is_counted() {
        let Some(context) = context(4 * GIB, "base", Source::Iomem) else { return };
        // 64 MiB of descriptors in 16 MiB at a time, beside the slack.
        let run = run(&context, &budget(1000, 32 << 20)).unwrap();
        assert_eq!(run.wrong(), 0);
        assert!(run.lookups_checked > 0 && run.lookups_checked < run.frames / 2, "{run:?}");
        assert!(run.counted_bytes > 2 * GIB && run.counted_bytes < run.software_bytes, "{run:?}");
        let counted = run.counted_bytes / context.geometry.base_bytes();
        assert_eq!(counted + run.lookups_checked, run.frames);
        assert!(run.counted_resident_bytes >= counted * DESCRIPTOR_BYTES);
    }

    #[test]
    fn what_was_asked_for_is_built_for_real_or_refused() {
        let Some(context) = context(2 * GIB, "2M", Source::Given) else { return };
        let refused = |budget: &Budget| match run(&context, budget) {
            Err(Failure::Run(message)) => message,
            other => panic!("{other:?}"),
        };
        let few = budget(100, GIB);
        let message = refused(&few);
        assert!(message.contains(&format!("vm.max_map_count = {}", few.mappings.limit)), "{message}");
        let message = refused(&budget(3000, 1 << 20));
        assert!(message.contains("1 MiB may be used"), "{message}");
    }

    #[test]
    fn a_memory_map_that_was_built_otherwise_is_noticed() {
        let Some(context) = context(GIB, "2M", Source::Given) else { return };
        let Some(order) = context.geometry.order_of_bytes(2 << 20) else { return };
        let frames = HostFrames::new(1 << 16).unwrap();
        let budget = budget(4000, GIB);
        let planned = Layout::new(context.geometry, &context.frames, order);
        let space = HostSpace::new(&frames, planned.end(), Order::ZERO, budget.mappings).unwrap();
        let map = Vmemmap::new(*context.geometry, space, env(&frames)).unwrap();
        // The second half of what is built is single frames, and one more subsection is there than planned.
        let mut built = planned.clone();
        let half = planned.frames() / 2;
        let (low, high) = planned.pieces[0].range.split_at(half).unwrap();
        built.pieces[0].range = low;
        built.pieces.push(super::super::layout::Piece { range: high, order: Order::ZERO });
        let outcome = exercise(&map, &built, &planned, String::new(), || {}).unwrap();
        assert_eq!(outcome.descriptors.wrong, half);
        assert_eq!(outcome.descriptors.first, Some(high.start()));
        assert_eq!(outcome.lookups.wrong, half - (half >> order.get()));
        assert_eq!(outcome.references.wrong, half >> order.get());
    }
}
