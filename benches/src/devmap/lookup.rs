// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a frame number to its pagemap, and what a search of the bare intervals takes.

use std::error::Error;
use std::hint::black_box;
use std::ptr;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_devmap::{DevPagemap, Devmap, Kind};
use mmkit_page::MemMap;
use mmkit_sync::{Readers, SpinLock};
use mmkit_vmemmap::Serial;

use super::env::{DeviceMap, GEOMETRY, Kinds, device_map};
use crate::arena::Arena;
use crate::figure::Figure;
use crate::pair::{Effort, Paired, pair};

/// Frames of an interval: one subsection.
const FRAMES: u64 = 512;
/// Frame numbers that are looked up, one after the other.
const LOOKUPS: usize = 4096;
/// Frames for descriptors and tables of the most intervals.
const ROOM: u64 = 32768;

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    /// One below `below`.
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Intervals as they would be kept by somebody who has nothing else to think of: where each begins, in ascending order;
/// and where it ends, and whose it is.
struct Bare {
    starts: Vec<u64>,
    rest: Vec<(u64, u64)>,
}

impl Bare {
    #[inline]
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let at = self.starts.partition_point(|&start| start <= pfn.get()).checked_sub(1)?;
        let &(end, of) = self.rest.get(at)?;
        (pfn.get() < end).then_some(of)
    }
}

/// Numbers of intervals.
const INTERVALS: [usize; 4] = [1, 16, 1024, 10_000];

/// `lookup_ratio`: the worst of some numbers of intervals, each lookup by itself. And `lookup_ratio_dependent`, each waiting for
/// the one before, which has no goal.
pub(super) fn ratios(effort: Effort) -> Result<Vec<Figure>, Box<dyn Error>> {
    let all = INTERVALS.map(|intervals| lookups(effort, intervals));
    let mut measured = Vec::new();
    for paired in all {
        measured.push(paired?);
    }
    let figure = |key, each: Vec<Paired>, goal, how| {
        let (paired, intervals) = each
            .iter()
            .zip(INTERVALS)
            .max_by(|(a, _), (b, _)| a.ratio.total_cmp(&b.ratio))
            .ok_or("nothing was measured")?;
        let ratios: Vec<String> = each.iter().map(|paired| format!("{:.2}", paired.ratio)).collect();
        let what = format!(
            "registry lookup inside a guard, no reference taken / binary search of the bare intervals, {how}; the worst of 1, \
             16, 1024 and 10000 intervals ({}): {intervals}",
            ratios.join(", ")
        );
        Ok::<Figure, Box<dyn Error>>(Figure::timed(key, what.leak(), goal, *paired))
    };
    let (apart, chained) = measured.into_iter().unzip();
    Ok(vec![
        figure("lookup_ratio", apart, Some(1.2), "independent of each other")?,
        figure("lookup_ratio_dependent", chained, None, "each waiting for the one before")?,
    ])
}

/// Lookups that are independent of each other, and such that wait for each other.
fn lookups(effort: Effort, intervals: usize) -> Result<(Paired, Paired), Box<dyn Error>> {
    let mut random = Random(intervals as u64);
    // With holes of one to four subsections between them.
    let mut next = 0;
    let ranges: Vec<PfnRange> = (0..intervals)
        .map_while(|_| {
            next += (1 + random.next(4)) * FRAMES;
            let range = PfnRange::new(Pfn::new(next)?, FRAMES);
            next += FRAMES;
            range
        })
        .collect();
    let (arena, kinds) = (Arena::new(ROOM)?, Kinds::new(FRAMES));
    let map: DeviceMap<'_, SpinLock> = device_map(&arena, 0, &kinds)?;
    let devmap = Devmap::new(map, Readers::new())?;
    let huge = Order::new(9).ok_or("no such pages")?;
    let builder = ranges
        .iter()
        .fold(DevPagemap::builder(Kind::Generic).order(huge), |builder, &range| builder.range(range));
    let registration = devmap.register(builder.build(&GEOMETRY)?, &Serial)?;
    let bare = Bare {
        starts: ranges.iter().map(|range| range.start().get()).collect(),
        rest: ranges.iter().map(|range| (range.end(), 1)).collect(),
    };
    let frames: Vec<Pfn> = (0..LOOKUPS)
        .filter_map(|_| {
            let range = ranges[random.next(intervals as u64) as usize];
            range.start().checked_add(random.next(FRAMES))
        })
        .collect();

    let reader = devmap.registry().enter();
    let (mut lost, mut unknown) = (0_u64, 0_u64);
    let apart = pair(
        effort,
        LOOKUPS as u64,
        || {
            lost +=
                frames.iter().filter(|&&pfn| black_box(reader.find(black_box(pfn))).is_none()).count() as u64
        },
        || {
            unknown +=
                frames.iter().filter(|&&pfn| black_box(bare.find(black_box(pfn))).is_none()).count() as u64
        },
    );
    // The highest bit of what the one before has found, which is 0, is added to the next frame.
    let chained = pair(
        effort,
        LOOKUPS as u64,
        || {
            let mut skip = 0;
            for &pfn in &frames {
                let it = reader.find(black_box(after(pfn, skip)));
                lost += u64::from(it.is_none());
                skip = it.map_or(0, |pagemap| ptr::from_ref(pagemap).addr() as u64 >> 63);
            }
        },
        || {
            let mut skip = 0;
            for &pfn in &frames {
                let it = bare.find(black_box(after(pfn, skip)));
                unknown += u64::from(it.is_none());
                skip = it.map_or(0, |of| of >> 63);
            }
        },
    );
    drop(reader);
    // Every frame is in an interval. (How often each side was called is not the same.)
    if (lost, unknown) != (0, 0) {
        return Err(format!("{lost} frames were not found by one side and {unknown} by the other").into());
    }
    if devmap.enter().page(frames[0]).is_none() {
        return Err("the device has no descriptors".into());
    }
    registration
        .unregister(&(), |_| std::ops::ControlFlow::Break(()))
        .map_err(|error| error.error.to_string())?;
    Ok((apart, chained))
}

/// The frame so far behind `pfn`.
#[inline]
fn after(pfn: Pfn, skip: u64) -> Pfn {
    pfn.checked_add(skip).unwrap_or(pfn)
}
