// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting a batch of mappings and uncounting it again, whatever its size.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_folio::{CountWords, MmId, PowerSums, Tracker, TwoSlots};

use crate::figure::Figure;
use crate::pair::{Effort, Paired, pair};

/// Sizes of batches: one entry, a contiguous run of arm64, a 2M page.
const SIZES: [u32; 3] = [1, 16, 512];
const OPS: u64 = 1024;
const LOCK: u64 = 1 << 31;

/// Adds `k` mappings and removes them, over and over. Another address space maps the folio all the time.
fn batches<T: Tracker>(k: u32) -> impl FnMut() {
    let words = CountWords::new();
    let ids = [1, 2].map(MmId::new);
    move || {
        let [Some(mine), Some(other)] = ids else { return };
        let words = black_box(&words).words();
        if words.half[0].load(Ordering::Relaxed) == 0 {
            let _ = T::add(&words, other, 512);
        }
        for _ in 0..OPS {
            black_box(T::add(&words, mine, k).is_ok());
            black_box(T::remove(&words, mine, k).is_ok());
        }
    }
}

/// Two rounds of `fetch_or` and store, on one word: what two batches cannot do without.
fn bare() -> impl FnMut() {
    let word = AtomicU64::new(0);
    move || {
        let word = black_box(&word);
        for _ in 0..OPS {
            for _ in 0..2 {
                let data = word.fetch_or(LOCK, Ordering::Acquire);
                word.store(black_box(data) & !LOCK, Ordering::Release);
            }
        }
    }
}

fn worst(paired: impl IntoIterator<Item = Paired>) -> Option<Paired> {
    paired.into_iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))
}

/// `rmap_batch_ratio`, `rmap_flatness`.
pub(crate) fn against_locks(effort: Effort) -> Vec<Figure> {
    let per_size = SIZES.map(|k| pair(effort, OPS, batches::<TwoSlots>(k), bare()));
    let flat = pair(effort, OPS, batches::<TwoSlots>(512), batches::<TwoSlots>(1));
    let batch = worst(per_size).map(|paired| {
        Figure::timed(
            "rmap_batch_ratio",
            "add and remove k mappings, TwoSlots, worst of k = 1, 16, 512 / two rounds of fetch_or and store",
            Some(1.5),
            paired,
        )
    });
    let what = "add and remove 512 mappings / the same of one";
    batch.into_iter().chain([Figure::timed("rmap_flatness", what, Some(1.1), flat)]).collect()
}

/// `powersums_vs_twoslots`.
pub(crate) fn power_sums_against_two_slots(effort: Effort) -> Figure {
    let per_size = SIZES.map(|k| pair(effort, OPS, batches::<PowerSums>(k), batches::<TwoSlots>(k)));
    let [first, ..] = per_size;
    Figure::timed(
        "powersums_vs_twoslots",
        "the same batches, PowerSums / TwoSlots, worst of the three",
        Some(1.1),
        worst(per_size).unwrap_or(first),
    )
}
