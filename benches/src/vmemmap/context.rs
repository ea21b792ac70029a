// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same by real memory, and by the running kernel: for comparison, since software tables flush no hardware.

use std::error::Error;
use std::time::Instant;

use mmkit_frame::{Bare, Frames};
use mmkit_host::{HostFrames, HostSpace, mapping_budget, tail_frames_order};
use mmkit_oracle::hvo::{Error as HvoError, Options, Outcome, measure};
use mmkit_oracle::{Root, Signals};
use mmkit_vmemmap::{Vmemmap, WithTailSlots};

use super::pool::{GEOMETRY, all, memory, order_of, pages};
use crate::figure::Figure;
use crate::pair::{Effort, quantile};

const PAGE: u64 = 2 << 20;
/// How often it is done.
const ROUNDS: usize = 5;

/// Huge pages: 2 GiB of them, or fewer where it should not take long.
fn count(effort: Effort) -> u64 {
    if effort.rounds < Effort::FULL.rounds { 256 } else { 1024 }
}

/// `host_optimise_us_2m` and `host_restore_us_2m`.
pub(super) fn host(effort: Effort) -> Result<[Figure; 2], Box<dyn Error>> {
    let (range, order) = (memory(count(effort) * PAGE)?, order_of(PAGE)?);
    let compound = GEOMETRY.compound(order).ok_or("no such pages")?;
    let budget = mapping_budget()?;
    let tails = tail_frames_order(compound, count(effort), budget.mappings()).ok_or("too many mappings")?;
    let frames = HostFrames::new(range.frames() / 32 + 4096)?;
    let space = HostSpace::new(&frames, range.frames(), tails, budget)?;
    // SAFETY: both are the same file; its frames are accessed by whoever allocated them.
    let bundle = unsafe { Frames::new(frames.clone(), frames.clone()) };
    let map = Vmemmap::new(GEOMETRY, space, WithTailSlots::<_, 1>::new(Bare::new(bundle)))?;
    let mut pool = pages(&map, range, order)?;
    let mut us = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        for (half, times) in us.iter_mut().enumerate() {
            let begun = Instant::now();
            let report = if half == 0 { map.optimise_batch(&mut pool) } else { map.restore_batch(&mut pool) };
            let took = begun.elapsed().as_secs_f64() * 1e6 / pool.len() as f64;
            all(report, pool.len())?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    for frozen in pool {
        let apart = frozen.unprep().map_err(|_| "not taken apart")?;
        drop(apart.into_free().map_err(|_| "not given back")?);
    }
    let [optimise, restore] = us.map(|mut us| quantile(&mut us, 0.5));
    Ok([
        Figure::counted(
            "host_optimise_us_2m",
            "microseconds for a 2M page in this process's memory: real mappings changed, real memory given back",
            None,
            optimise,
        ),
        Figure::counted("host_restore_us_2m", "and back", None, restore),
    ])
}

/// `kernel_optimise_us_2m` and `kernel_restore_us_2m`.
pub(super) fn kernel(effort: Effort) -> Result<[Figure; 2], Box<dyn Error>> {
    let signals = Signals::catch()?;
    let mut options = Options { repeats: ROUNDS, ..Options::new(PAGE) };
    if effort.rounds < Effort::FULL.rounds {
        options.pages = Some(count(effort));
    }
    let outcome = measure(&Root::system(), &options, &signals);
    if signals.seen().is_some() {
        // The settings are back: end as asked.
        signals.obey()?;
        return Err("interrupted".into());
    }
    let result = match outcome {
        Ok(Outcome::Measured(result)) => result,
        Ok(Outcome::Skipped(why)) => return Err(why.to_string().into()),
        Err(error @ (HvoError::Stale { .. } | HvoError::NotPutBack { .. })) => {
            return Err(format!("{error}; use `mmkit hvo --restore`").into());
        }
        Err(error) => return Err(error.into()),
    };
    let figure = |key, what, value: Option<f64>| Figure::counted(key, what, None, value.unwrap_or(f64::NAN));
    Ok([
        figure(
            "kernel_optimise_us_2m",
            "microseconds for a 2M page by the running kernel: its pool grows with HVO on, less off",
            result.optimise_us(),
        ),
        figure("kernel_restore_us_2m", "its pool shrinks with HVO on, less off", result.restore_us()),
    ])
}
