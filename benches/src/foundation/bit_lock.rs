// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locking a bit of a word, and what it must cost at least.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_sync::BitSpinLock;

use crate::figure::Figure;
use crate::pair::{Effort, pair};

const OPS: u64 = 1024;

/// `bitlock_ratio`: lock, change the data, unlock; nobody else wants it.
pub(crate) fn uncontended(effort: Effort) -> Figure {
    let lock: BitSpinLock = BitSpinLock::new(0);
    let thing = || {
        let lock = black_box(&lock);
        for _ in 0..OPS {
            let mut guard = lock.lock();
            let data = guard.data();
            guard.set_data(data + 1);
        }
    };
    let word = AtomicU64::new(0);
    let baseline = || {
        let word = black_box(&word);
        for _ in 0..OPS {
            let data = word.fetch_or(1 << 63, Ordering::Acquire) & !(1 << 63);
            word.store((data + 1) & !(1 << 63), Ordering::Release);
        }
    };
    let paired = pair(effort, OPS, thing, baseline);
    Figure::timed(
        "bitlock_ratio",
        "uncontended lock and unlock / one fetch_or and one store",
        Some(1.25),
        paired,
    )
}
