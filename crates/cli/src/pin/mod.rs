// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit pin`: what it costs to pin memory, by the running kernel and by this kit, in three shapes.

mod kernel;
mod kit;
mod table;

use clap::Args as ClapArgs;
use clap::builder::RangedU64ValueParser;
use mmkit_gup::{Flags, Request};
use mmkit_oracle::pin::Shape;
use serde::Serialize;

pub(crate) use kit::{Kit, measure as measure_kit};

use crate::failure::Failure;
use crate::machine;
use crate::output::{print, print_json};
use crate::progress::Progress;
use crate::size::{Size, exact};

/// Pin memory, by the running kernel and by this kit, and see what each page costs.
///
/// The same memory in three shapes: huge pages behind one entry each (2M), huge pages behind one entry for each base page
/// (pte), and base pages. The kernel pins buffers that are registered with an io_uring, always to write and for long; with
/// --get, pages go through a pipe (vmsplice), always to read. The kit pins memory of address spaces in this process, into
/// extents and into a page array. What the shapes differ by is the walk of the page tables.
///
/// It needs no privilege, as far as the limit of locked memory (ulimit -l) reaches, and changes no setting. Where io_uring
/// is not allowed, or huge pages cannot be had, it says so, and that is no failure.
#[derive(Debug, ClapArgs)]
pub(crate) struct PinArgs {
    /// How much memory: a multiple of the huge page.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    size: Size,

    /// The shape: base, 2M or pte; may be repeated. All of them if not given.
    #[arg(long = "page", value_name = "SHAPE", value_parser = shape)]
    shapes: Vec<Shape>,

    /// How often it is measured; the figures are medians.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    repeat: usize,

    /// Base pages that are pinned by one call; all of them if not given.
    #[arg(long, value_name = "PAGES", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 40))]
    batch: Option<u64>,

    /// Take references, not pins.
    #[arg(long, conflicts_with = "pin")]
    get: bool,

    /// Take pins. That is what is done if neither is given.
    #[arg(long)]
    pin: bool,

    /// To write, not only to read. (The kit's side; the kernel's is as it is.)
    #[arg(long)]
    write: bool,

    /// For as long as one likes. (The kit's side; the kernel's is as it is.)
    #[arg(long)]
    longterm: bool,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Both sides in all shapes.
#[derive(Debug, Serialize)]
struct Report {
    arch: &'static str,
    /// Bytes of memory.
    size: u64,
    base_page: u64,
    /// What the kit was asked for, such as `PIN | WRITE`.
    flags: String,
    batch: Option<u64>,
    repeat: usize,
    shapes: Vec<ShapeReport>,
    /// Nanoseconds for each page that huge folios behind PTEs take longer than behind PMDs, into a page array: the walk alone.
    kernel_walk_ns: Option<f64>,
    kit_walk_ns: Option<f64>,
    /// What was not done, and why.
    skipped: Vec<String>,
}

/// One shape.
#[derive(Debug, Serialize)]
struct ShapeReport {
    shape: Shape,
    kernel: Option<kernel::Kernel>,
    kit: Option<Kit>,
}

fn shape(name: &str) -> Result<Shape, String> {
    match name {
        "base" => Ok(Shape::Base),
        "2M" | "2m" | "pmd" => Ok(Shape::Pmd),
        "pte" | "ptes" => Ok(Shape::Ptes),
        _ => Err("use base, 2M or pte".to_owned()),
    }
}

/// `mmkit pin`.
pub(crate) fn run(args: &PinArgs) -> Result<(), Failure> {
    let geometry = machine::geometry_or_default();
    let request = request(args)?;
    let shapes = if args.shapes.is_empty() { Shape::ALL.to_vec() } else { args.shapes.clone() };
    let mut report = Report {
        arch: geometry.name(),
        size: args.size.0,
        base_page: machine::page_bytes(),
        flags: flags(request.flags()),
        batch: args.batch,
        repeat: args.repeat,
        shapes: Vec::new(),
        kernel_walk_ns: None,
        kit_walk_ns: None,
        skipped: Vec::new(),
    };
    check_size(args.size)?;
    let mut progress =
        Progress::new("pinning".to_owned(), shapes.len() as u64 * (args.repeat as u64 + 2) * 2);
    for shape in shapes {
        let kernel = kernel::measure(args, shape, &mut progress)?;
        let kernel = kernel.map_err(|why| report.skipped.push(format!("{shape}: kernel: {why}"))).ok();
        let kit = kit::measure(args.size.0, shape, request, args.batch, args.repeat, &mut progress)?;
        let kit = kit.map_err(|why| report.skipped.push(format!("{shape}: mmkit: {why}"))).ok();
        report.shapes.push(ShapeReport { shape, kernel, kit });
    }
    drop(progress);
    report.kernel_walk_ns = walk(&report, |one| Some(one.kernel.as_ref()?.ns));
    report.kit_walk_ns = walk(&report, |one| Some(one.kit.as_ref()?.pages_ns));
    if args.json { print_json(&report) } else { print(&table::text(&report)) }
}

/// What huge folios take longer behind PTEs than behind PMDs.
fn walk(report: &Report, ns: fn(&ShapeReport) -> Option<f64>) -> Option<f64> {
    let of = |shape| ns(report.shapes.iter().find(|one| one.shape == shape)?);
    Some(of(Shape::Ptes)? - of(Shape::Pmd)?)
}

fn request(args: &PinArgs) -> Result<Request, Failure> {
    let mut flags = if args.get { Flags::GET } else { Flags::PIN };
    flags.set(Flags::WRITE, args.write);
    flags.set(Flags::LONGTERM, args.longterm);
    Request::new(flags).map_err(|error| Failure::usage(format_args!("{}: use other flags", error.rule)))
}

fn flags(flags: Flags) -> String {
    let names: Vec<_> = flags.iter_names().map(|(name, _)| name).collect();
    names.join(" | ")
}

/// Whether the memory is whole huge pages, as most shapes need.
fn check_size(size: Size) -> Result<(), Failure> {
    let huge = kit::HUGE_BYTES;
    if size.0.is_multiple_of(huge) {
        return Ok(());
    }
    let near = [size.0 / huge * huge, (size.0 / huge).saturating_add(1).saturating_mul(huge)];
    let near: Vec<_> = near.into_iter().filter(|&bytes| bytes > 0).map(exact).collect();
    Err(Failure::usage(format_args!(
        "--size {size} is not a multiple of {}; give {}",
        exact(huge),
        near.join(" or ")
    )))
}
