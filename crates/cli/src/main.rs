// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `mmkit` command: what page metadata costs, reckoned for any architecture and built for real on this machine.

mod args;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
mod demo;
mod failure;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
mod hvo;
mod machine;
mod output;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
mod pin;
mod plan;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
mod progress;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
mod report;
mod size;

use std::process::ExitCode;

use args::{Args, Command};
use failure::Failure;

fn main() -> ExitCode {
    match args::parse().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        None => output::print(&args::help()),
        Some(Command::Plan(args)) => plan::run(&args),
        #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
        Some(Command::Demo(args)) => demo::run(&args),
        #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
        Some(Command::Report(args)) => report::run(&args),
        #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
        Some(Command::Hvo(args)) => hvo::run(&args),
        #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
        Some(Command::Pin(args)) => pin::run(&args),
        #[cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]
        Some(Command::TailWrite) => demo::write_to_a_tail(),
    }
}
