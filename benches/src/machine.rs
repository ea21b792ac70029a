// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that a result belongs to.

use std::fs;
use std::thread;

use serde_json::{Value, json};

/// Processor, cores, memory and kernel, as far as this system tells.
pub(crate) fn describe() -> Value {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "processor": field("/proc/cpuinfo", "model name"),
        "cores": thread::available_parallelism().map(usize::from).ok(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
        "arch": std::env::consts::ARCH,
    })
}
