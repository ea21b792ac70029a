// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit hvo`: huge pages whose descriptors are optimised and restored, by the running kernel and by this kit.

pub(crate) mod frames;
mod kernel;
mod kit;
mod table;

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::RangedU64ValueParser;
use mmkit_addr::{Geometry, Keep};
use mmkit_oracle::hvo::default_path;
use mmkit_oracle::{Pool, Root};
use serde::Serialize;

use crate::failure::Failure;
use crate::machine;
use crate::output::{print, print_json};
use crate::size::{Size, short};

/// Optimise and restore descriptors of huge pages, by the running kernel and by this kit.
///
/// The kernel's side needs root. It grows and shrinks the pool of huge pages, with vm.hugetlb_optimize_vmemmap off and
/// on in turn, counts the pages of descriptors that this frees, and takes the time. What the settings were is written
/// to a file first, and they are put back at the end, also on Ctrl-C. If the program is killed, that file is still
/// there: `mmkit hvo --restore` puts back what it says. The kit's side does the same in software tables, with no
/// hardware to flush.
///
/// Without the right to change the settings, or without HVO in the kernel, it says so, and that is no failure.
#[derive(Debug, ClapArgs)]
pub(crate) struct HvoArgs {
    /// Huge pages to use: 2 GiB of them if not given. Never more than a quarter of the free memory.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pages: Option<u64>,

    /// Their size; the smallest that can be optimised if not given.
    #[arg(long, value_name = "SIZE")]
    page: Option<Size>,

    /// How often it is measured, with HVO and without; the figures are medians.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    repeat: usize,

    /// Put back the settings of a run that was killed, and do nothing else.
    #[arg(long, conflicts_with_all = ["pages", "page", "repeat", "json"])]
    restore: bool,

    /// Where the settings are written before they are changed.
    #[arg(long, value_name = "PATH", default_value_os_t = default_path())]
    state_file: PathBuf,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Both sides.
#[derive(Debug, Serialize)]
struct Report {
    arch: &'static str,
    /// Bytes of a huge page.
    page: u64,
    /// Pages of descriptors that each huge page can do without, by arithmetic.
    can_be_freed_per_page: u64,
    kernel: Option<kernel::Kernel>,
    kit: Option<kit::Kit>,
    /// What was not done, and why.
    skipped: Vec<String>,
}

/// What one side does and takes.
#[derive(Clone, Debug, Serialize)]
struct Side {
    /// Huge pages that were optimised and restored.
    pages: u64,
    /// Pages of descriptors freed for each huge page by optimising; `None` where that is not known, or was not the same
    /// each time.
    freed_per_page: Option<i64>,
    /// Pages of descriptors taken for each huge page by restoring.
    taken_per_page: Option<i64>,
    /// Microseconds to optimise a huge page: the median.
    optimise_us: Option<f64>,
    /// Microseconds to restore a huge page: the median.
    restore_us: Option<f64>,
}

/// `mmkit hvo`.
pub(crate) fn run(args: &HvoArgs) -> Result<(), Failure> {
    if args.restore {
        return print(&kernel::restore(&args.state_file)?);
    }
    let geometry = machine::geometry().ok_or_else(|| {
        let (arch, page) = (std::env::consts::ARCH, machine::page_bytes());
        Failure::run(format_args!("{arch} with base pages of {page} bytes is no machine that is known here"))
    })?;
    let page = page(geometry, args.page)?;
    let mut report = Report {
        arch: geometry.name(),
        page,
        can_be_freed_per_page: freed(geometry, page),
        kernel: None,
        kit: None,
        skipped: Vec::new(),
    };
    match kernel::measure(args, page)? {
        Ok(kernel) => report.kernel = Some(kernel),
        Err(why) => report.skipped.push(why),
    }
    let pages = report.kernel.as_ref().map(|kernel| kernel.side.pages).or(args.pages);
    match kit::measure(geometry, page, pages, args.repeat)? {
        Ok(kit) => report.kit = Some(kit),
        Err(why) => report.skipped.push(why),
    }
    if args.json { print_json(&report) } else { print(&table::text(&report)) }
}

/// Pages of descriptors that a page of `bytes` can do without.
fn freed(geometry: &Geometry, bytes: u64) -> u64 {
    let compound = geometry.order_of_bytes(bytes).and_then(|order| geometry.compound(order));
    compound.and_then(|compound| compound.saved_pages(Keep::One)).unwrap_or(0)
}

/// The size asked for, or the smallest that can be optimised: of those that the kernel has, or of all.
fn page(geometry: &'static Geometry, asked: Option<Size>) -> Result<u64, Failure> {
    let all: Vec<_> =
        machine::page_sizes(geometry).into_iter().filter(|&page| freed(geometry, page) > 0).collect();
    let Some(asked) = asked else {
        let pools = Pool::read_all(&Root::system()).items;
        let known = all.iter().copied().find(|&page| pools.iter().any(|pool| pool.page_bytes == page));
        return known.or_else(|| all.first().copied()).ok_or_else(|| {
            Failure::run(format_args!("{geometry} has no huge pages whose descriptors could be shared"))
        });
    };
    if all.contains(&asked.0) {
        return Ok(asked.0);
    }
    let all: Vec<_> = all.into_iter().map(short).collect();
    Err(Failure::usage(format_args!(
        "--page {asked} is no page of {geometry} that can be optimised; use one of {}",
        all.join(", ")
    )))
}
