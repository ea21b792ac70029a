// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the descriptors of memory are written when it is populated.

use std::error::Error;

use mmkit_addr::Pfn;
use mmkit_frame::DirectMap;

use super::pool::{GEOMETRY, memory, order_of, soft};
use crate::arena::Arena;
use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::fill::{fills, winner};
use crate::pair::{Effort, quantile};

/// 128 GiB of 2M pages: 256 MiB of descriptors.
const PAGES: u64 = 65536;
/// How often it is done at least.
const ROUNDS: usize = 5;

/// `populate_init_ratio`.
pub(super) fn populate(effort: Effort) -> Result<Figure, Box<dyn Error>> {
    let (range, order) = (memory(PAGES * (2 << 20))?, order_of(2 << 20)?);
    let bytes = (PAGES << GEOMETRY.base_shift()) as usize;
    let arena = Arena::resident(PAGES + 4096)?;
    let base = arena.frame(Pfn::ZERO).ok_or("no frames")?;
    let fills = fills();
    let rounds = ROUNDS.max(effort.rounds / 5);
    let mut times = vec![Vec::new(); fills.len() + 1];
    for round in 0..=rounds {
        for turn in 0..times.len() {
            let which = (turn + round) % times.len();
            let begun;
            let ns = match fills.get(which) {
                Some(fill) => {
                    begun = ThreadTime::now();
                    // SAFETY: the frames are in one piece, more than these, and none is out.
                    unsafe { (fill.run)(base, bytes) };
                    begun.elapsed_ns()
                }
                None => {
                    arena.rewind();
                    let map = soft(|| arena.env())?;
                    begun = ThreadTime::now();
                    map.populate(range, order, Default::default())?;
                    let took = begun.elapsed_ns();
                    if map.usage().own != PAGES {
                        return Err("other pages were written than were to be".into());
                    }
                    took
                }
            };
            if round > 0 {
                times[which].push(ns);
            }
        }
    }
    let populate = times.pop().unwrap_or_default();
    let winner = winner(&times).ok_or("no way to fill")?;
    let mut ratios: Vec<f64> =
        times[winner].iter().zip(&populate).map(|(fill, populate)| fill / populate).collect();
    let per_line = |mut ns: Vec<f64>| quantile(&mut ns, 0.5) / (bytes / 64) as f64;
    let value = quantile(&mut ratios, 0.5);
    let what = fills[winner]
        .compared("bytes a second of populate, 128 GiB of 2M pages / those of the fastest fill, here ");
    Ok(Figure {
        quartiles: Some((quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75))),
        thing_ns: Some(per_line(populate)),
        baseline_ns: Some(per_line(times.swap_remove(winner))),
        ..Figure::counted("populate_init_ratio", what, None, value).at_least(0.8)
    })
}
