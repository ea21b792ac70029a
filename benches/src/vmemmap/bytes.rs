// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the descriptors of 1 TiB take, and what optimising gives back: counted.

use std::error::Error;

use mmkit_addr::PfnRange;
use mmkit_host::memory_budget;

use super::pool::{GEOMETRY, all, memory, order_of, pages, soft};
use crate::arena::Arena;
use crate::figure::Figure;

const GIB: u64 = 1 << 30;

/// `bytes_per_tib_2m`, `bytes_per_tib_1g`, and the `section_bytes` of both.
pub(super) fn per_tib() -> Result<[Figure; 3], Box<dyn Error>> {
    let ([small, sections], [large, others]) = (taken(2 << 20)?, taken(GIB)?);
    if sections != others {
        return Err(format!("section tables of {sections} and {others} bytes for the same memory").into());
    }
    let figure = |key, what, goal, bytes: u64| Figure::counted(key, what, goal, bytes as f64);
    Ok([
        figure(
            "bytes_per_tib_2m",
            "bytes taken from the allocator for the descriptors of 1 TiB of 2M pages, tables and shared pages included",
            Some(2_181_169_152.0),
            small,
        ),
        figure("bytes_per_tib_1g", "the same of 1G pages", Some(8_519_680.0), large),
        figure("section_bytes", "beside those: the section table of 1 TiB", None, sections),
    ])
}

/// Bytes taken for the memory map of 1 TiB, and for its section table.
fn taken(page: u64) -> Result<[u64; 2], Box<dyn Error>> {
    let (range, order, shift) = (memory(1024 * GIB)?, order_of(page)?, GEOMETRY.base_shift());
    // One page for each compound, an entry for each page of descriptors, and some.
    let descriptor_pages = range.frames() >> (shift - 6);
    let room = (range.frames() >> order.get()) + (descriptor_pages >> 9) + 4096;
    let budget = memory_budget()?;
    if room << shift > budget {
        return Err(format!("{} bytes are needed, and {budget} may be used", room << shift).into());
    }
    let arena = Arena::new(room)?;
    let map = soft(|| arena.env())?;
    map.populate(range, order, Default::default())?;
    let (usage, out) = (map.usage(), arena.out());
    if usage.total() != out {
        return Err(format!("the memory map counts {} frames, its allocator {out}", usage.total()).into());
    }
    Ok([(out - usage.sections) << shift, usage.sections << shift])
}

/// `net_frames_freed_per_2m`: four sections behind huge leaves, optimised for the first time.
pub(super) fn freed_per_2m() -> Result<Figure, Box<dyn Error>> {
    let range = memory(4 * (GEOMETRY.frames_per_section() << GEOMETRY.base_shift()))?;
    let freed = freed(&[], range, 2 << 20)?;
    Ok(Figure::counted(
        "net_frames_freed_per_2m",
        "frames back in the allocator for each 2M page of 4 sections; tables of splits, copies of heads, tails counted",
        None,
        freed,
    )
    .at_least(6.98))
}

/// `net_frames_freed_per_1g`: sixteen, when one has been optimised before.
pub(super) fn freed_per_1g() -> Result<Figure, Box<dyn Error>> {
    let (first, rest) = memory(17 * GIB)?.split_at(GIB >> GEOMETRY.base_shift()).ok_or("no such frame")?;
    let freed = freed(&[first], rest, GIB)?;
    Ok(Figure::counted(
        "net_frames_freed_per_1g",
        "frames back in the allocator for each of 16 pages of 1G, when the shared table and tails are there",
        None,
        freed,
    )
    .at_least(4094.0))
}

/// What each page of `range` gives back to the allocator, where those of `before` have been optimised.
fn freed(before: &[PfnRange], range: PfnRange, page: u64) -> Result<f64, Box<dyn Error>> {
    let order = order_of(page)?;
    let frames = range.end() >> (GEOMETRY.base_shift() - 6);
    let arena = Arena::new(frames + frames / 8 + 4096)?;
    let map = soft(|| arena.env())?;
    let mut early = Vec::new();
    for &range in before {
        early.extend(pages(&map, range, order)?);
    }
    let early_count = early.len();
    if early_count > 0 {
        all(map.optimise_batch(&mut early), early_count)?;
    }
    let mut pool = pages(&map, range, order)?;
    let (full, count) = (arena.out(), pool.len());
    all(map.optimise_batch(&mut pool), count)?;
    let optimised = arena.out();
    if map.usage().total() != optimised {
        return Err("the memory map and its allocator count differently".into());
    }
    all(map.restore_batch(&mut pool), count)?;
    all(map.restore_batch(&mut early), early_count)?;
    for frozen in early.into_iter().chain(pool) {
        let apart = frozen.unprep().map_err(|_| "not taken apart")?;
        drop(apart.into_free().map_err(|_| "not given back")?);
    }
    Ok((full as f64 - optimised as f64) / count as f64)
}
