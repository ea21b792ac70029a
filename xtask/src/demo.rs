// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: the main job on this machine.

use std::process::ExitCode;

use crate::cargo;
use crate::flags::DemoFlags;

/// Runs `mmkit demo` in release with the caller's arguments, terminal and exit code.
pub(crate) fn run(flags: &DemoFlags) -> Result<ExitCode, String> {
    let mut command = cargo::cargo();
    command.args(["run", "--release", "--package", "mmkit-cli", "--bin", "mmkit", "--", "demo"]);
    command.args(&flags.args);
    cargo::hand_over(command)
}
