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
    cargo::hand_over(command)
}
