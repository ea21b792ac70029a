// SPDX-License-Identifier: MIT OR Apache-2.0
//! The task runner, called as `cargo xtask COMMAND` through the alias in `.cargo/config.toml`.
//!
//! Parse ([`flags`]), match, run: one file per command. The commands only call tools that also run without them; each
//! prints the command line of what it ran when that fails.

mod bench;
mod cargo;
mod demo;
mod flags;
mod job;
mod loom;
mod table;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser;

use crate::flags::{Command, Flags};

fn main() -> ExitCode {
    let done = match Flags::parse().command {
        Command::Demo(flags) => demo::run(&flags),
        Command::Test(flags) => test::run(&flags),
        Command::Loom(flags) => loom::run(&flags),
        Command::Bench(flags) => bench::run(&flags),
        Command::Tidy => tidy::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
