// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of device memory: how fast its descriptors are written, who waits meanwhile, and how its owner is found.

mod env;
mod hold;
mod init;
mod lookup;

use std::error::Error;

use mmkit_host::memory_budget;

use crate::figure::Figure;
use crate::pair::Effort;

const GIB: u64 = 1 << 30;

/// How much is measured, and how often.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// The device whose descriptors are written.
    init_bytes: u64,
    /// The larger of the two devices that are added.
    hold_bytes: u64,
    rounds: usize,
}

impl Size {
    fn of(effort: Effort) -> Self {
        match effort.rounds < Effort::FULL.rounds {
            true => Self { init_bytes: 16 * GIB, hold_bytes: 64 * GIB, rounds: 3 },
            false => Self { init_bytes: 128 * GIB, hold_bytes: 1024 * GIB, rounds: 9 },
        }
    }
}

/// An error where `bytes` are more than this process should use.
fn afford(bytes: u64) -> Result<(), Box<dyn Error>> {
    let budget = memory_budget()?;
    if bytes > budget {
        return Err(format!("{bytes} bytes are needed, and {budget} may be used").into());
    }
    Ok(())
}

/// Measures all of them. What this machine cannot do is skipped, with a reason.
pub(crate) fn run(
    effort: Effort,
    figures: &mut Vec<Figure>,
    skipped: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    let size = Size::of(effort);
    let mut add = |keys: &str, measured: Result<Vec<Figure>, Box<dyn Error>>| match measured {
        Ok(measured) => figures.extend(measured),
        Err(error) => skipped.push(format!("{keys}: {error}")),
    };
    add(
        "init_ns_per_descriptor_base, init_bandwidth_ratio, init_2m_vs_base, init_1g_vs_base, init_parallel_ratio",
        init::all(size),
    );
    add("hotplug_lock_held_us_1g, hotplug_lock_held_us_1t", hold::longest(size).map(Vec::from));
    add("lookup_ratio, lookup_ratio_dependent", lookup::ratios(effort));
    notes.push(
        "altmap_vs_ram: not reproduced here, for want of slow device memory; docs/devmap.md has published figures"
            .to_owned(),
    );
}
