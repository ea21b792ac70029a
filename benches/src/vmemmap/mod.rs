// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of the memory map: bytes, frames freed, time to optimise and restore, bandwidth.

pub(crate) mod arena;
mod bytes;
mod context;
mod init;
mod pool;
mod ratios;
mod waits;

use std::error::Error;

use crate::figure::Figure;
use crate::pair::Effort;

/// Measures all of them. What this machine cannot do is skipped, with a reason.
pub(crate) fn run(effort: Effort, figures: &mut Vec<Figure>, skipped: &mut Vec<String>) {
    let mut add = |keys: &str, measured: Result<Vec<Figure>, Box<dyn Error>>| match measured {
        Ok(measured) => figures.extend(measured),
        Err(error) => skipped.push(format!("{keys}: {error}")),
    };
    add("bytes_per_tib_2m, bytes_per_tib_1g, section_bytes", bytes::per_tib().map(Vec::from));
    add("net_frames_freed_per_2m", bytes::freed_per_2m().map(|figure| vec![figure]));
    add("net_frames_freed_per_1g", bytes::freed_per_1g().map(|figure| vec![figure]));
    add("flushes_per_batch, synchronizes_per_batch", waits::per_batch().map(Vec::from));
    add("optimise_ratio, restore_ratio", ratios::hvo(effort).map(Vec::from));
    add("populate_init_ratio", init::populate(effort).map(|figure| vec![figure]));
    add("host_optimise_us_2m, host_restore_us_2m", context::host(effort).map(Vec::from));
    add("kernel_optimise_us_2m, kernel_restore_us_2m", context::kernel(effort).map(Vec::from));
}
