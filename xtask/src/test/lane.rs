// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes that stable Rust runs, and the list of all.

use std::process::Command;

use clap::ValueEnum;

use super::{nightly, targets};
use crate::cargo::{self, add_flags, cargo, works};
use crate::job::Job;
use crate::{loom, tidy};

/// What came of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and found nothing; the text says how much it looked at, if that is worth a word.
    Pass(String),
    /// It ran and found this.
    Fail(String),
    /// It did not run, for this reason.
    Skip(String),
}

impl Outcome {
    /// The word in the table.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Fail(_) => "FAIL",
            Self::Skip(_) => "skip",
        }
    }

    /// The reason in the table.
    pub(crate) fn why(&self) -> &str {
        let (Self::Pass(why) | Self::Fail(why) | Self::Skip(why)) = self;
        why
    }
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        result.map(|()| String::new()).into()
    }
}

impl From<Result<String, String>> for Outcome {
    fn from(result: Result<String, String>) -> Self {
        result.map_or_else(Self::Fail, Self::Pass)
    }
}

/// One check of the matrix. `cargo xtask test --only LANE` runs it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lane {
    Fmt,
    Clippy,
    Docs,
    Tidy,
    Tests,
    Doctests,
    Features,
    Freestanding,
    Loom,
    Miri,
    Sanitizers,
    BareMetal,
}

impl Lane {
    /// Every lane, in the order in which they run: what is quick to fail comes first.
    pub(crate) const ALL: [Self; 12] = [
        Self::Fmt,
        Self::Clippy,
        Self::Docs,
        Self::Tidy,
        Self::Tests,
        Self::Doctests,
        Self::Features,
        Self::Freestanding,
        Self::Loom,
        Self::Miri,
        Self::Sanitizers,
        Self::BareMetal,
    ];

    /// The name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Docs => "docs",
            Self::Tidy => "tidy",
            Self::Tests => "tests",
            Self::Doctests => "doctests",
            Self::Features => "features",
            Self::Freestanding => "freestanding",
            Self::Loom => "loom",
            Self::Miri => "miri",
            Self::Sanitizers => "sanitizers",
            Self::BareMetal => "bare-metal",
        }
    }

    /// What it checks, in a line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Fmt => "formatting",
            Self::Clippy => "lints, all targets and features, warnings denied",
            Self::Docs => "documentation of all features builds, warnings denied",
            Self::Tidy => "the repository's own rules (cargo xtask tidy)",
            Self::Tests => "unit and integration tests, all features",
            Self::Doctests => "the examples in the documentation, all features",
            Self::Features => "each library alone, with no default features and with all",
            Self::Freestanding => "a program without std links every no_std crate, and one with std does not",
            Self::Loom => "the concurrency models (cargo xtask loom)",
            Self::Miri => "unit tests of the no_std crates under Miri, where a nightly toolchain has it",
            Self::Sanitizers => "tests under the address sanitizer, where a nightly toolchain has it",
            Self::BareMetal => "the no_std crates build for every installed bare-metal target",
        }
    }

    /// Runs it.
    pub(crate) fn run(self, job: &mut Job) -> Outcome {
        match self {
            Self::Fmt => fmt(job),
            Self::Clippy => clippy(job),
            Self::Docs => docs(job).into(),
            Self::Tidy => tidy::check(job).into(),
            Self::Tests => tests(job).into(),
            Self::Doctests => doctests(job).into(),
            Self::Features => features(job).into(),
            Self::Freestanding => targets::freestanding(job).into(),
            Self::Loom => loom::models(job, None, false).into(),
            Self::Miri => nightly::miri(job),
            Self::Sanitizers => nightly::sanitizers(job),
            Self::BareMetal => targets::bare_metal(job),
        }
    }
}

/// A cargo command of the workspace's cargo.
pub(super) fn with_args<const N: usize>(args: [&str; N]) -> Command {
    let mut command = cargo();
    command.args(args);
    command
}

/// Is the cargo subcommand there?
fn has(subcommand: &str) -> bool {
    works(with_args([subcommand, "--version"]))
}

fn fmt(job: &mut Job) -> Outcome {
    if !has("fmt") {
        return Outcome::Skip("no rustfmt here (rustup component add rustfmt)".to_owned());
    }
    let workspace = job.run(with_args(["fmt", "--all", "--", "--check", "--color", "never"]));
    let manifest = targets::FREESTANDING;
    workspace
        .and_then(|()| {
            job.run(with_args(["fmt", "--manifest-path", manifest, "--", "--check", "--color", "never"]))
        })
        .into()
}

fn clippy(job: &mut Job) -> Outcome {
    if !has("clippy") {
        return Outcome::Skip("no clippy here (rustup component add clippy)".to_owned());
    }
    let workspace = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    let mut freestanding = with_args(["clippy", "--manifest-path", targets::FREESTANDING, "--target-dir"]);
    freestanding.arg(cargo::target_dir().join("freestanding")).args(["--", "-D", "warnings"]);
    job.run(with_args(workspace)).and_then(|()| job.run(freestanding)).into()
}

fn docs(job: &mut Job) -> Result<(), String> {
    let mut command = with_args(["doc", "--workspace", "--no-deps", "--all-features"]);
    add_flags(&mut command, "RUSTDOCFLAGS", "-D warnings");
    job.run(command)
}

fn tests(job: &mut Job) -> Result<String, String> {
    if has("nextest") {
        let args = ["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"];
        return Ok(nextest_count(&job.read(with_args(args))?));
    }
    // Documentation examples have a lane of their own.
    let args = ["test", "--workspace", "--all-features", "--lib", "--bins", "--tests", "--no-fail-fast"];
    Ok(libtest_count(&job.read(with_args(args))?))
}

fn doctests(job: &mut Job) -> Result<String, String> {
    let args = ["test", "--workspace", "--all-features", "--doc", "--no-fail-fast"];
    Ok(libtest_count(&job.read(with_args(args))?))
}

/// How many tests nextest says it ran.
fn nextest_count(text: &str) -> String {
    let summary = text.lines().find(|line| line.trim_start().starts_with("Summary"));
    let count = summary.and_then(|line| line.split("] ").nth(1));
    count.map(|count| count.trim().to_owned()).unwrap_or_default()
}

/// How many tests the `test result:` lines add up to.
fn libtest_count(text: &str) -> String {
    let passed: u64 = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("test result: ok. ")?.split_once(" passed")?.0.parse::<u64>().ok()
        })
        .sum();
    format!("{passed} tests run: {passed} passed")
}

fn features(job: &mut Job) -> Result<String, String> {
    let clippy = has("clippy");
    let libraries: Vec<_> = cargo::packages()?.into_iter().filter(|package| package.is_library()).collect();
    let mut failed = Vec::new();
    for package in &libraries {
        let mut run = |features| {
            let check = if clippy { "clippy" } else { "check" };
            let mut command = with_args([check, "--package", &package.name, "--lib", features]);
            if clippy {
                command.args(["--", "-D", "warnings"]);
            }
            job.run(command).is_ok()
        };
        match (run("--no-default-features"), run("--all-features")) {
            (true, true) => {}
            (false, true) => failed.push(format!("{} (no default features)", package.name)),
            (true, false) => failed.push(format!("{} (all features)", package.name)),
            (false, false) => failed.push(package.name.clone()),
        }
    }
    if failed.is_empty() {
        Ok(format!("{} libraries, twice each", libraries.len()))
    } else {
        Err(failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_table_is_the_name_on_the_command_line() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_str(lane.name(), false), Ok(lane));
        }
        assert_eq!(Lane::value_variants(), Lane::ALL, "every lane runs");
    }

    #[test]
    fn tests_are_counted_from_either_runner() {
        let nextest = "  PASS x\n     Summary [   1.2s] 81 tests run: 81 passed, 2 skipped\n";
        assert_eq!(nextest_count(nextest), "81 tests run: 81 passed, 2 skipped");
        let libtest =
            "test result: ok. 3 passed; 0 failed; 0 ignored\n\ntest result: ok. 4 passed; 0 failed\n";
        assert_eq!(libtest_count(libtest), "7 tests run: 7 passed");
    }
}
