// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking and giving back a reference, and what it must cost at least.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_sync::RefCount;

use crate::figure::Figure;
use crate::pair::{Effort, pair};

const OPS: u64 = 1024;
const ONE: u64 = 1 << 32;

/// `refcount_try_get_ratio`: a reference taken and given back, with all refusals looked for.
pub(crate) fn try_get(effort: Effort) -> Figure {
    let count = RefCount::new(1, 0);
    let thing = || {
        let count = black_box(&count);
        for _ in 0..OPS {
            black_box(count.try_get(1, |tag| tag & 1 == 0).is_ok());
            black_box(count.put(1).is_ok());
        }
    };
    let word = AtomicU64::new(ONE);
    let baseline = || {
        let word = black_box(&word);
        for _ in 0..OPS {
            let seen = word.load(Ordering::Relaxed);
            black_box(word.compare_exchange(seen, seen + ONE, Ordering::Acquire, Ordering::Relaxed).is_ok());
            black_box(word.fetch_sub(ONE, Ordering::Release));
        }
    };
    let paired = pair(effort, OPS, thing, baseline);
    Figure::timed(
        "refcount_try_get_ratio",
        "try_get and put / one load and compare-exchange, and one fetch_sub",
        Some(1.25),
        paired,
    )
}
