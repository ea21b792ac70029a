// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main part: every page size, planned, built, checked and torn down.

use std::time::Instant;

use mmkit_addr::{DESCRIPTOR_BYTES, NodeId, Order};
use mmkit_host::{HostFrames, HostSpace, mapping_slab_bytes, page_table_bytes};
use mmkit_pgtable::{Bare, Software};
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
pub(super) fn run(context: &Context, report: &mut Report) -> Result<String, Failure> {
    let (budget, skipped) = Budget::of_this_process();
    report.skipped.extend(skipped);
    let plans: Vec<_> =
        context.pages.iter().map(|page| plan(context, page, &budget)).collect::<Result<_, _>>()?;
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
    Ok(told(&plans, &budget, &report.runs))
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
    let outcome = exercise(&map, layout, what, || {
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
    let frames = host_frames(context, plan)?;
    let tables = Bare::new(bundle(&frames));
    let space: TableSpace<Software, _> =
        TableSpace::new(tables, *context.geometry, NodeId::ZERO).map_err(Failure::run)?;
    let map = Vmemmap::new(*context.geometry, space, env(&frames)).map_err(Failure::run)?;
    let what = format!("{} pages in software tables", plan.page.name);
    let outcome = exercise(&map, &plan.split.software, what, || {
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

fn told(plans: &[Plan<'_>], budget: &Budget, runs: &[Run]) -> String {
    let mut text = format!(
        "\nplan: {} mappings are left of vm.max_map_count = {}, and {} of memory may be used\n",
        budget.mappings.mappings(),
        budget.mappings.limit,
        rough(budget.memory),
    );
    for (plan, run) in plans.iter().zip(runs) {
        text += &placed(plan, run);
    }
    let rows: Vec<_> = runs.iter().map(row).collect();
    let head = [
        "page",
        "frames",
        "flat",
        "resident",
        "page tables",
        "saved net",
        "mappings' slab",
        "build",
        "lookup",
        "checked",
        "wrong",
    ];
    text + "\n" + &table(head, &rows, 1)
}

/// One line on where the descriptors of a page size go.
fn placed(plan: &Plan<'_>, run: &Run) -> String {
    let runs = match plan.need.tails {
        Order::ZERO => String::new(),
        tails => format!(", tails in runs of {} frames", tails.frames()),
    };
    let need = format!("{} mappings and {}{runs}", plan.need.mappings, rough(plan.need.memory));
    let software = run.software_bytes - run.counted_bytes;
    match (software, run.counted_bytes) {
        (0, 0) => format!("  {:>4}: {need}: all of it for real\n", run.page),
        (software, counted) => format!(
            "  {:>4}: {need}: TOO MUCH; {} of memory in software tables ({}), {} only counted ({}), the rest for \
             real\n",
            run.page,
            rough(software),
            rough(run.software_resident_bytes),
            rough(counted),
            rough(run.counted_resident_bytes),
        ),
    }
}

fn row(run: &Run) -> [String; 11] {
    let known = |bytes: Option<u64>| bytes.map_or("-".to_owned(), rough);
    let percent = run.saved_bytes as f64 * 100.0 / run.flat_bytes.max(1) as f64;
    let saved = match u64::try_from(run.saved_bytes) {
        Ok(bytes) => format!("{} ({percent:.2} %)", rough(bytes)),
        Err(_) => format!("-{} ({percent:.2} %)", rough(run.saved_bytes.unsigned_abs())),
    };
    [
        run.page.clone(),
        run.frames.to_string(),
        rough(run.flat_bytes),
        rough(run.resident_bytes),
        known(run.table_bytes),
        saved,
        known(run.mapping_slab_bytes),
        format!("{:.3} s", run.build_seconds),
        run.lookup_ns.map_or("-".to_owned(), |ns| format!("{ns:.2} ns")),
        run.checked().to_string(),
        run.wrong().to_string(),
    ]
}
