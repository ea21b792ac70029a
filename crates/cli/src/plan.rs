// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit plan`: what descriptors would cost, by arithmetic alone.

use mmkit_addr::{Compound, Geometry, HugeKind, Keep, Scheme};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::failure::Failure;
use crate::machine;
use crate::output::{print, print_json, table};
use crate::size::{Size, exact, short};

const TIB: u64 = 1 << 40;

/// The schemes of a plan, dearest first.
const SCHEMES: [Scheme; 4] = [Scheme::Flat, Scheme::KeepTwo, Scheme::KeepOne, Scheme::KeepOneSharedTables];

/// What the descriptors of some memory cost, if it is used as pages of one size. All sizes are in bytes.
#[derive(Debug, Serialize)]
struct Plan {
    arch: &'static str,
    base_page: u64,
    page: u64,
    order: u8,
    kind: String,
    memory_bytes: u64,
    /// Whether the descriptors of a page fill more than one page of vmemmap.
    optimisable: bool,
    vmemmap_bytes_per_page: u64,
    saved_pages_keep_2: u64,
    saved_pages_keep_1: u64,
    schemes: Vec<Cost>,
}

/// What one scheme costs. `None` where it does not apply.
#[derive(Debug, Serialize)]
struct Cost {
    scheme: &'static str,
    data_bytes: Option<u64>,
    table_bytes: Option<u64>,
    total_bytes: Option<u64>,
    percent_of_memory: Option<f64>,
    saved_bytes: Option<u64>,
    /// Beside the total, once in each zone: the shared tail page, and the shared table.
    once_bytes: Option<u64>,
}

impl Plan {
    /// `None` where a page is larger than the architecture's memory, or the sums pass 64 bits.
    fn new(geometry: &'static Geometry, page: u64, memory: u64) -> Option<Self> {
        let order = geometry.order_of_bytes(page)?;
        let compound = geometry.compound(order)?;
        let flat = compound.resident(Scheme::Flat, memory / page)?.total();
        let cost = |scheme: Scheme| {
            let resident = compound.resident(scheme, memory / page);
            let total = resident.map(|resident| resident.total());
            Cost {
                scheme: scheme.name(),
                data_bytes: resident.map(|resident| resident.data_bytes),
                table_bytes: resident.map(|resident| resident.table_bytes),
                total_bytes: total,
                percent_of_memory: total.map(|total| total as f64 * 100.0 / memory as f64),
                saved_bytes: total.map(|total| flat.saturating_sub(total)),
                once_bytes: compound.shared_once(scheme).map(|once| once.total()),
            }
        };
        Some(Self {
            arch: geometry.name(),
            base_page: geometry.base_bytes(),
            page,
            order: order.get(),
            kind: kind(geometry, page),
            memory_bytes: memory,
            optimisable: compound.is_optimisable(),
            vmemmap_bytes_per_page: compound.vmemmap_bytes(),
            saved_pages_keep_2: saved(compound, Keep::Two),
            saved_pages_keep_1: saved(compound, Keep::One),
            schemes: SCHEMES.map(cost).into(),
        })
    }

    fn total(&self, scheme: Scheme) -> Option<u64> {
        self.schemes.iter().find(|cost| cost.scheme == scheme.name())?.total_bytes
    }
}

fn saved(compound: Compound, keep: Keep) -> u64 {
    compound.saved_pages(keep).unwrap_or(0)
}

/// How the hardware maps a page of this size.
fn kind(geometry: &Geometry, page: u64) -> String {
    match geometry.huge_page(page).map(|huge| huge.kind()) {
        None => "base page".to_owned(),
        Some(HugeKind::Leaf(level)) => format!("leaf of {level:?}"),
        Some(HugeKind::Contiguous(level)) => format!("run of {level:?}"),
        Some(HugeKind::Hash) => "hash".to_owned(),
    }
}

/// `mmkit plan`.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    match (args.memory, args.page) {
        (Some(memory), Some(page)) => one(args, memory, page),
        _ => all(args),
    }
}

fn one(args: &PlanArgs, memory: Size, page: Size) -> Result<(), Failure> {
    let geometry = args.arch.unwrap_or_else(machine::geometry_or_default);
    check(geometry, memory, page)?;
    let plan = Plan::new(geometry, page.0, memory.0).ok_or_else(|| {
        Failure::usage(format_args!("--memory {memory} is more than can be reckoned with; give less"))
    })?;
    if args.json { print_json(&plan) } else { print(&text(&plan)) }
}

/// Whether the architecture has such pages, and the memory is made of them.
fn check(geometry: &Geometry, memory: Size, page: Size) -> Result<(), Failure> {
    let sizes = machine::page_sizes(geometry);
    if !sizes.contains(&page.0) {
        let sizes: Vec<_> = sizes.into_iter().map(short).collect();
        let sizes = sizes.join(", ");
        return Err(Failure::usage(format_args!(
            "--page {page} is not a page size of {geometry}, which has {sizes}; use one of these or another --arch"
        )));
    }
    machine::check_memory(geometry, memory)?;
    machine::check_multiple(memory, page)
}

fn text(plan: &Plan) -> String {
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), exact);
    let rows: Vec<_> = plan
        .schemes
        .iter()
        .map(|cost| {
            [
                cost.scheme.to_owned(),
                size(cost.data_bytes),
                size(cost.table_bytes),
                size(cost.total_bytes),
                cost.percent_of_memory.map_or("-".to_owned(), percent),
                size(cost.saved_bytes),
                size(cost.once_bytes),
            ]
        })
        .collect();
    let mut text = format!(
        "{} of memory as {} pages ({}, order {}) on {} with {} base pages\n\n",
        exact(plan.memory_bytes),
        short(plan.page),
        plan.kind,
        plan.order,
        plan.arch,
        short(plan.base_page),
    );
    text += &table(["scheme", "data", "tables", "total", "of memory", "saved", "once per zone"], rows, 1);
    if !plan.optimisable {
        text += &format!(
            "\nnot optimisable: the descriptors of a {} page are {}, and a page of {} is the least that can be shared\n",
            short(plan.page),
            exact(plan.vmemmap_bytes_per_page),
            exact(plan.base_page),
        );
    }
    text
}

/// To at least two digits that are not zero, so that `0.00076 %` is not rounded away.
fn percent(value: f64) -> String {
    let digits = if value >= 0.1 || value == 0.0 { 4 } else { 5 };
    format!("{value:.digits$} %")
}

/// Every plan of the whole table, for 1 TiB.
#[derive(Serialize)]
struct All {
    memory_bytes: u64,
    plans: Vec<Plan>,
}

fn all(args: &PlanArgs) -> Result<(), Failure> {
    let geometries = Geometry::ALL.iter().filter(|&known| args.arch.is_none_or(|wanted| wanted == known));
    let plans: Vec<_> = geometries
        .flat_map(|geometry| {
            geometry.huge_pages().iter().filter_map(move |huge| Plan::new(geometry, huge.bytes(), TIB))
        })
        .collect();
    if args.json {
        return print_json(&All { memory_bytes: TIB, plans });
    }
    let rows = plans.iter().map(row);
    let head = [
        "arch",
        "base",
        "page",
        "kind",
        "order",
        "vmemmap",
        "saved by 2",
        "by 1",
        "flat/TiB",
        "keep-2/TiB",
        "keep-1/TiB",
        "shared tables/TiB",
    ];
    print(&table(head, rows, 4))
}

fn row(plan: &Plan) -> [String; 12] {
    let total = |scheme| match plan.total(scheme) {
        Some(bytes) => exact(bytes),
        None if plan.optimisable => "-".to_owned(),
        None => "not optimisable".to_owned(),
    };
    [
        plan.arch.to_owned(),
        short(plan.base_page),
        short(plan.page),
        plan.kind.clone(),
        plan.order.to_string(),
        exact(plan.vmemmap_bytes_per_page),
        plan.saved_pages_keep_2.to_string(),
        plan.saved_pages_keep_1.to_string(),
        total(Scheme::Flat),
        total(Scheme::KeepTwo),
        total(Scheme::KeepOne),
        total(Scheme::KeepOneSharedTables),
    ]
}
