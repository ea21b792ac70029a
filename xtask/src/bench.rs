// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: the measurements.

use std::process::ExitCode;

use crate::cargo;
use crate::flags::BenchFlags;

/// Runs the benchmark binary in release with the caller's arguments, terminal and exit code.
pub(crate) fn run(flags: &BenchFlags) -> Result<ExitCode, String> {
    let mut command = cargo::cargo();
    command.args(["run", "--release", "--package", "mmkit-benches", "--bin", "mmkit-benches", "--"]);
    command.args(&flags.key);
    if flags.quick {
        command.arg("--quick");
    }
    if flags.json {
        command.arg("--json");
    }
    if let Some(path) = &flags.svg {
        command.arg("--svg").arg(path);
    }
    // Every large allocation in huge pages where the system has some, as a kernel has its memory: then no side of a comparison
    // pays for the translation of small pages, or for a system that takes those away which were idle. Only the GNU C library
    // knows this; with another one it changes nothing.
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    cargo::hand_over(command)
}
