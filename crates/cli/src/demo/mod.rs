// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mmkit demo`: the memory map of this machine, built for real and checked, part by part.

mod args;
mod budget;
mod build;
mod check;
mod device;
mod env;
mod exercise;
mod kernel;
mod layout;
mod memory_map;
mod optimise;
mod owners;
mod page;
mod pins;
mod removal;
mod report;
mod tail_write;

use std::time::Instant;

use mmkit_addr::{Geometry, PfnRange};

pub(crate) use args::{DemoArgs, TAIL_WRITE};
pub(crate) use tail_write::child as write_to_a_tail;

use self::memory_map::{MemoryMap, Source};
use self::page::Page;
use self::report::Report;
use crate::failure::Failure;
use crate::machine;
use crate::output::{print, print_json};
use crate::size::{Size, exact, rough};

/// Something that the demo shows. Each takes at most ten seconds on the reference machine; the device, which touches 4 GiB,
/// takes twice as long.
struct Part {
    name: &'static str,
    about: &'static str,
    /// Does it, notes it in the report, and says it to humans.
    run: fn(&Context, &mut Report) -> Result<(), Failure>,
}

/// All parts, in their order.
const PARTS: &[Part] = &[
    Part { name: "build", about: "build, read, look up, use and tear down descriptors", run: build::run },
    Part { name: "tail-write", about: "write to a shared tail, in a child process", run: tail_write::run },
    Part {
        name: "optimise",
        about: "optimise huge pages, restore them, compare every byte",
        run: optimise::run,
    },
    Part { name: "owners", about: "who owns a folio that several address spaces mapped", run: owners::run },
    Part { name: "device", about: "add a device of 1 TiB; pull one that is in use", run: device::run },
    Part { name: "pins", about: "pin 1 GiB in three shapes", run: pins::run },
    Part { name: "kernel", about: "what the running kernel spends on descriptors", run: kernel::run },
];

/// What the parts are told.
struct Context {
    geometry: &'static Geometry,
    memory: MemoryMap,
    /// The whole frames of the memory.
    frames: Vec<PfnRange>,
    pages: Vec<Page>,
    /// The memory of a device, where it is not the usual one.
    device: Option<Size>,
    json: bool,
}

impl Context {
    fn new(args: &DemoArgs) -> Result<Self, Failure> {
        let geometry = machine::geometry().ok_or_else(|| {
            let (arch, page) = (std::env::consts::ARCH, machine::page_bytes());
            Failure::run(format_args!(
                "{arch} with base pages of {page} bytes is no machine that is known here; `mmkit plan` works anywhere"
            ))
        })?;
        let pages = page::pages(geometry, &args.pages)?;
        let memory = match args.memory {
            Some(memory) => {
                check(geometry, memory, &pages, !args.pages.is_empty())?;
                MemoryMap::given(memory)
            }
            None => MemoryMap::of_this_machine()?,
        };
        let frames = memory.frames(geometry);
        let device = device::size(args.device, args.memory);
        Ok(Self { geometry, memory, frames, pages, device, json: args.json })
    }

    /// Tells humans. What programs read is the report.
    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// Whether the user said how much memory. Then it is built as it is, or not at all.
    fn is_given(&self) -> bool {
        self.memory.source == Source::Given
    }
}

/// Whether the memory is whole base pages, and whole pages of those sizes that the user asked for.
fn check(geometry: &Geometry, memory: Size, pages: &[Page], asked: bool) -> Result<(), Failure> {
    machine::check_memory(geometry, memory)?;
    machine::check_multiple(memory, Size(geometry.base_bytes()))?;
    let pages = pages.iter().filter(|_| asked);
    pages.into_iter().try_for_each(|page| machine::check_multiple(memory, Size(page.bytes)))
}

/// `mmkit demo`.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    let context = Context::new(args)?;
    let mut report = Report::new(&context);
    context.say(&introduction(&context))?;
    let wanted = |part: &&Part| args.only.is_empty() || args.only.iter().any(|name| name == part.name);
    for part in PARTS.iter().filter(wanted) {
        (part.run)(&context, &mut report)?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    context.say(&ending(&report))?;
    if args.json {
        print_json(&report)?;
    }
    report.verdict()
}

fn introduction(context: &Context) -> String {
    let source = match context.memory.source {
        Source::Iomem => "this machine's memory, from /proc/iomem",
        Source::MemTotal => {
            "this machine's memory, by its size in /proc/meminfo (/proc/iomem does not tell where it is)"
        }
        Source::Given => "the memory that --memory says",
    };
    let bytes = context.memory.bytes();
    let mut text = format!("{}: {} on {}\n", source, rough(bytes), context.geometry);
    for range in &context.memory.ranges {
        text +=
            &format!("  {:#014x}..{:#014x}  {}\n", range.start, range.end, exact(range.end - range.start));
    }
    text
}

fn ending(report: &Report) -> String {
    let mut text = "\n".to_owned();
    for skipped in &report.skipped {
        text += &format!("skipped: {skipped}\n");
    }
    text + &format!("{:.1} s in all\n", report.seconds)
}
