// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a frame number to its pagemap, and what a search of the bare intervals takes.

use std::error::Error;
use std::hint::black_box;

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

/// `lookup_ratio`: the worst of some numbers of intervals.
pub(super) fn ratio(effort: Effort) -> Result<Figure, Box<dyn Error>> {
    let mut worst: Option<(usize, Paired)> = None;
    for intervals in [1, 16, 1024, 10_000] {
        let paired = lookups(effort, intervals)?;
        if worst.is_none_or(|(_, worst)| paired.ratio > worst.ratio) {
            worst = Some((intervals, paired));
        }
    }
    let (intervals, paired) = worst.ok_or("nothing was measured")?;
    let what = format!(
        "registry lookup inside a guard, no reference taken / binary search of the bare intervals; the worst of 1, 16, 1024 \
         and 10000 intervals: {intervals}"
    );
    Ok(Figure::timed("lookup_ratio", what.leak(), Some(1.2), paired))
}

fn lookups(effort: Effort, intervals: usize) -> Result<Paired, Box<dyn Error>> {
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
    let (mut found, mut known) = (0_u64, 0_u64);
    let paired = pair(
        effort,
        LOOKUPS as u64,
        || {
            found +=
                frames.iter().filter(|&&pfn| black_box(reader.find(black_box(pfn))).is_some()).count() as u64
        },
        || {
            known +=
                frames.iter().filter(|&&pfn| black_box(bare.find(black_box(pfn))).is_some()).count() as u64
        },
    );
    drop(reader);
    // Both were called equally often, and every frame is in an interval.
    if found != known || found == 0 || !found.is_multiple_of(LOOKUPS as u64) {
        return Err(format!("{found} frames were found by one side and {known} by the other").into());
    }
    if devmap.enter().page(frames[0]).is_none() {
        return Err("the device has no descriptors".into());
    }
    registration
        .unregister(&(), |_| std::ops::ControlFlow::Break(()))
        .map_err(|error| error.error.to_string())?;
    Ok(paired)
}
