// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use mmkit_addr::Geometry;

#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
use crate::demo;
use crate::failure::Failure;
use crate::size::Size;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
use crate::{hvo, pin, report};

/// What page metadata costs, and what is saved by keeping one page of it for each huge page and sharing the rest.
///
/// A memory manager keeps a descriptor of 64 bytes for each frame of memory: 1/64 of it with 4K pages. Where frames are
/// used as huge pages nearly all of these are copies of each other, and can share memory.
///
/// Sizes are bytes, or have a unit: 4096, 0x200000, 2M, 16G, 1TiB (powers of 1024).
#[derive(Debug, Parser)]
#[command(name = "mmkit", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
    Demo(demo::DemoArgs),
    Plan(PlanArgs),
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
    Report(report::ReportArgs),
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
    Hvo(hvo::HvoArgs),
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
    Pin(pin::PinArgs),
    /// Writes to a shared tail, and dies of it.
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
    #[command(name = demo::TAIL_WRITE, hide = true)]
    TailWrite,
}

/// Reckon what descriptors cost: flat, keep-2, keep-1, and keep-1 with shared tables.
///
///   flat                  every frame has a descriptor with memory of its own, mapped by huge pages
///   keep-2                each huge page keeps two pages of descriptors; its others are the second one again
///   keep-1                each huge page keeps one; all others are one page for all huge pages of a size
///   keep-1-shared-tables  so are last-level page tables that map nothing else: what mmkit builds
///
/// Tables are last-level page tables, or the part of them that is used. Examples:
///
///   mmkit plan --memory 1T --page 2M
///   mmkit plan --memory 1T --page 16G --arch arm64-64k --json
///   mmkit plan --all
#[derive(Debug, ClapArgs)]
#[command(verbatim_doc_comment)]
pub(crate) struct PlanArgs {
    /// How much memory there is: a multiple of the page size.
    #[arg(long, value_name = "SIZE", required_unless_present = "all")]
    pub(crate) memory: Option<Size>,

    /// The size of the pages that it is used as: the base page, or a huge page of the architecture.
    #[arg(long, value_name = "SIZE", required_unless_present = "all")]
    pub(crate) page: Option<Size>,

    /// The architecture, such as x86-64, arm64-64k, riscv64-sv39 or s390x; this machine's if not given.
    #[arg(long, value_name = "NAME", value_parser = arch)]
    pub(crate) arch: Option<&'static Geometry>,

    /// Reckon 1 TiB of every huge page of every architecture (or of --arch).
    #[arg(long, conflicts_with_all = ["memory", "page"])]
    pub(crate) all: bool,

    /// Print one JSON object; sizes are in bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

fn arch(name: &str) -> Result<&'static Geometry, String> {
    Geometry::by_name(name).ok_or_else(|| {
        let known: Vec<_> = Geometry::ALL.iter().map(|geometry| geometry.name()).collect();
        format!("unknown architecture; use one of {}", known.join(", "))
    })
}

/// The command line of this process. Ends it where only help or the version was asked for.
pub(crate) fn parse() -> Result<Args, Failure> {
    Args::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => Failure::Usage(one_line(&error.render().to_string())),
    })
}

/// The help text of the whole program.
pub(crate) fn help() -> String {
    Args::command().render_help().to_string()
}

/// What clap says in several lines, without the parts that only repeat the usage.
fn one_line(rendered: &str) -> String {
    let said = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said: Vec<_> =
        said.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said} (see --help)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn errors_of_several_lines_become_one() {
        let error = Args::try_parse_from(["mmkit", "plan"]).unwrap_err();
        assert_eq!(
            one_line(&error.render().to_string()),
            "the following required arguments were not provided: --memory <SIZE> --page <SIZE> (see --help)"
        );
        let error = Args::try_parse_from(["mmkit", "plant"]).unwrap_err();
        let line = one_line(&error.render().to_string());
        assert!(line.contains("'plant'") && line.contains("'plan'") && !line.contains('\n'), "{line}");
    }
}
