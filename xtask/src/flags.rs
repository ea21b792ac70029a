// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `cargo xtask`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::test::Lane;

/// The task runner of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the main job on this machine: `mmkit demo`, built in release
    Demo(DemoFlags),
    /// Run every check there is, and print a table at the end
    Test(TestFlags),
    /// Run the concurrency models
    Loom(LoomFlags),
    /// Measure, each figure against its baseline in the same run
    Bench(BenchFlags),
    /// Check the repository's own rules
    Tidy,
}

/// Arguments of `demo`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct DemoFlags {
    /// Passed on to `mmkit demo` as they are, `--help` included
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Arguments of `test`.
#[derive(Args, Debug)]
pub(crate) struct TestFlags {
    /// Run this lane only (may be given more than once)
    #[arg(long, value_name = "LANE")]
    pub(crate) only: Vec<Lane>,
    /// Print the lanes and what each of them checks, and run none
    #[arg(long)]
    pub(crate) list: bool,
}

/// Arguments of `loom`.
#[derive(Args, Debug)]
pub(crate) struct LoomFlags {
    /// The crate whose models to run, as `sync` or `mmkit-sync`; every crate when left out
    #[arg(value_name = "CRATE")]
    pub(crate) krate: Option<String>,
    /// Run the models marked `#[ignore = "deep"]` too, without a time limit
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchFlags {
    /// The group of figures to measure; every group when left out
    pub(crate) key: Option<String>,
    /// Fewer rounds: for trying out, not for quoting
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the table of `folio` into this file
    #[arg(long, value_name = "PATH")]
    pub(crate) svg: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn demo_passes_everything_on() {
        let flags = Flags::try_parse_from(["xtask", "demo", "--memory", "1T", "--json", "--help"]).unwrap();
        let Command::Demo(demo) = flags.command else { panic!("not a demo: {flags:?}") };
        assert_eq!(demo.args, ["--memory", "1T", "--json", "--help"]);
    }

    #[test]
    fn lanes_are_known_by_name() {
        let flags = Flags::try_parse_from(["xtask", "test", "--only", "fmt", "--only", "loom"]).unwrap();
        let Command::Test(test) = flags.command else { panic!("not a test: {flags:?}") };
        assert_eq!(test.only, [Lane::Fmt, Lane::Loom]);
        assert!(Flags::try_parse_from(["xtask", "test", "--only", "everything"]).is_err());
    }
}
