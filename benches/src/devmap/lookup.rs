// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a frame number to the pagemap that it belongs to.

use std::error::Error;
use std::hint::black_box;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_devmap::{DevPagemap, Devmap, Kind, RegistryReader};
use mmkit_sync::{RawLock, ReadSide, Readers, SpinLock};
use mmkit_vmemmap::Serial;

use super::env::{DeviceMap, GEOMETRY, Kinds, device_map};
use crate::arena::Arena;
use crate::figure::Figure;
use crate::foundation::head::{chained, independent};
use crate::pair::{Effort, Paired, pair};

/// How many ranges there are.
const RANGES: [u64; 4] = [1, 16, 1024, 10_000];
/// Lookups of one pass.
const PROBES: u64 = 4096;
/// Frames of a range, which is one compound, and of the hole behind it.
const RANGE: u64 = 1 << 9;

/// `lookup_ratio`, and the same of lookups that do not wait for each other.
pub(super) fn all(effort: Effort) -> Result<[Figure; 2], Box<dyn Error>> {
    let frames = RANGES[3] * 2 + 8192;
    super::afford(frames << GEOMETRY.base_shift())?;
    let (arena, kinds) = (Arena::resident(frames)?, Kinds::new(0));
    let (mut latency, mut throughput) = (Vec::new(), Vec::new());
    for ranges in RANGES {
        let map: DeviceMap<'_, SpinLock> = device_map(&arena, 0, &kinds)?;
        let devmap = Devmap::new(map, Readers::new())?;
        let mut builder = DevPagemap::builder(Kind::Generic).order(Order::new(9).ok_or("no such pages")?);
        let mut starts = Vec::new();
        for number in 0..ranges {
            let start = number * 2 * RANGE;
            let range = Pfn::new(start).and_then(|start| PfnRange::new(start, RANGE));
            builder = builder.range(range.ok_or("too many frames")?);
            starts.push(start);
        }
        let registration = devmap.register(builder.build(&GEOMETRY)?, &Serial)?;
        let reader = devmap.registry().enter();
        let probes = probes(&starts);
        let [chained, independent] = against_search(effort, &reader, &starts, &probes);
        latency.push(chained);
        throughput.push(independent);
        drop(reader);
        registration.unregister(&(), |_| std::ops::ControlFlow::Continue(())).map_err(|error| error.error)?;
    }
    Ok([
        Figure::timed(
            "lookup_ratio",
            words("each lookup needs the last", &latency),
            Some(1.2),
            worst(&latency),
        ),
        Figure::timed(
            "lookup_ratio_independent",
            words("lookups independent of each other", &throughput),
            None,
            worst(&throughput),
        ),
    ])
}

fn worst(paired: &[Paired]) -> Paired {
    paired
        .iter()
        .copied()
        .reduce(|a, b| if a.ratio >= b.ratio { a } else { b })
        .unwrap_or(Paired::of(vec![], vec![]))
}

fn words(how: &str, paired: &[Paired]) -> &'static str {
    let each: Vec<String> =
        RANGES.iter().zip(paired).map(|(ranges, paired)| format!("{ranges}: {:.2}", paired.ratio)).collect();
    format!(
        "pagemap of a frame inside a guard, no reference taken, worst of ({}) ranges / binary search of a slice of their \
         starts; {how}",
        each.join(", ")
    )
    .leak()
}

/// Frames of all ranges alike, in an order that no predictor guesses.
fn probes(starts: &[u64]) -> Vec<Pfn> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64: only the order has to be the same each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..PROBES).filter_map(|_| Pfn::new(starts[next() as usize % starts.len()] + next() % RANGE)).collect()
}

/// Times lookups against searches of `starts`: each waiting for the one before, and independent of each other.
fn against_search<R: ReadSide, L: RawLock>(
    effort: Effort,
    reader: &RegistryReader<'_, R, L>,
    starts: &[u64],
    probes: &[Pfn],
) -> [Paired; 2] {
    let find = |pfn: u64| {
        let pagemap = Pfn::new(pfn).and_then(|pfn| reader.find(pfn));
        pagemap.map_or(0, |pagemap| std::ptr::from_ref(pagemap).addr() as u64)
    };
    // Where the slice is, and how long, is not known beforehand, as it is not in a registry.
    let search = |pfn: u64| black_box(starts).partition_point(|&start| start <= pfn) as u64;
    assert!(
        probes.iter().all(|pfn| find(pfn.get()) != 0 && search(pfn.get()) != 0),
        "wrong answers are worth nothing"
    );
    [
        pair(effort, PROBES, || chained(probes, find), || chained(probes, search)),
        pair(effort, PROBES, || independent(probes, find), || independent(probes, search)),
    ]
}
