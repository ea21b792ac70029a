// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the descriptors of memory are written when it is populated.

use std::error::Error;
use std::ptr::NonNull;

use mmkit_addr::Pfn;
use mmkit_frame::DirectMap;

use super::arena::Arena;
use super::pool::{GEOMETRY, memory, order_of, soft};
use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::pair::{Effort, quantile};

/// 128 GiB of 2M pages: 256 MiB of descriptors.
const PAGES: u64 = 65536;
/// How often it is done at least.
const ROUNDS: usize = 5;

/// A way to write the same eight bytes all over.
struct Fill {
    /// What the figure is, where this one is the fastest.
    what: &'static str,
    /// Fills so many bytes, a multiple of 4096, from an address that is aligned to 4096 on.
    ///
    /// # Safety
    ///
    /// They are valid for writes, and nobody else accesses them.
    run: unsafe fn(NonNull<u8>, usize),
}

macro_rules! what {
    ($fill:literal) => {
        concat!(
            "bytes a second of populate, 128 GiB of 2M pages / those of the fastest fill, here ",
            $fill,
            "; times are of 64 bytes"
        )
    };
}

/// All that this processor can do.
fn fills() -> Vec<Fill> {
    let mut fills = vec![
        Fill { what: what!("memset"), run: memset },
        Fill { what: what!("ordinary stores"), run: ordinary },
    ];
    #[cfg(target_arch = "x86_64")]
    {
        fills.push(Fill { what: what!("non-temporal stores of 16 bytes"), run: streamed_16 });
        if is_x86_feature_detected!("avx512f") {
            fills.push(Fill { what: what!("non-temporal stores of 64 bytes"), run: streamed_64 });
        }
    }
    fills
}

const PATTERN: u64 = 0x0101_0101_0101_0101;

unsafe fn memset(to: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { to.write_bytes(PATTERN as u8, bytes) };
}

unsafe fn ordinary(to: NonNull<u8>, bytes: usize) {
    let to = to.cast::<[u64; 8]>();
    for index in 0..bytes / 64 {
        // SAFETY: below the number of lines.
        let line = unsafe { to.add(index) };
        // SAFETY: passed on to the caller; volatile, so that this does not become `memset`.
        unsafe { line.write_volatile([PATTERN; 8]) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
unsafe fn streamed_16(to: NonNull<u8>, bytes: usize) {
    use std::arch::x86_64::{_mm_set1_epi64x, _mm_sfence, _mm_stream_si128};

    let value = _mm_set1_epi64x(PATTERN as i64);
    for offset in (0..bytes).step_by(16) {
        // SAFETY: below the number of bytes.
        let part = unsafe { to.byte_add(offset) };
        // SAFETY: aligned and valid by the caller's promise; SSE2 is part of x86-64.
        unsafe { _mm_stream_si128(part.as_ptr().cast(), value) };
    }
    _mm_sfence();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn streamed_64(to: NonNull<u8>, bytes: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm512_set1_epi64, _mm512_stream_si512};

    let value = _mm512_set1_epi64(PATTERN as i64);
    for offset in (0..bytes).step_by(64) {
        // SAFETY: below the number of bytes.
        let line = unsafe { to.byte_add(offset) };
        // SAFETY: aligned and valid by the caller's promise; whoever calls this has looked for AVX-512.
        unsafe { _mm512_stream_si512(line.as_ptr().cast(), value) };
    }
    _mm_sfence();
}

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
    let winner = (0..fills.len())
        .min_by(|&a, &b| {
            quantile(&mut times[a].clone(), 0.5).total_cmp(&quantile(&mut times[b].clone(), 0.5))
        })
        .ok_or("no way to fill")?;
    let mut ratios: Vec<f64> =
        times[winner].iter().zip(&populate).map(|(fill, populate)| fill / populate).collect();
    let per_line = |mut ns: Vec<f64>| quantile(&mut ns, 0.5) / (bytes / 64) as f64;
    let value = quantile(&mut ratios, 0.5);
    Ok(Figure {
        quartiles: Some((quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75))),
        thing_ns: Some(per_line(populate)),
        baseline_ns: Some(per_line(times.swap_remove(winner))),
        ..Figure::counted("populate_init_ratio", fills[winner].what, None, value).at_least(0.8)
    })
}
