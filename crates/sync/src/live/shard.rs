// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters of one shard, on a cache line of their own.

use crossbeam_utils::CachePadded;

use crate::atomic::{AtomicU64, Ordering};
use crate::mutant;

/// Entries after which a shard refuses more: never reached in practice, and it keeps the counters from coming round.
const LIMIT: u64 = 1 << 63;

/// One shard of a [`LiveRef`](crate::LiveRef): two counters on a cache line of their own (128 bytes on most machines).
#[derive(Debug)]
pub struct Shard(CachePadded<Cells>);

#[derive(Debug)]
pub(crate) struct Cells {
    ins: AtomicU64,
    outs: AtomicU64,
}

impl Shard {
    const_unless_loom! {
        /// A shard that has seen nobody.
        #[must_use]
        pub fn new() -> Self {
            Self(CachePadded::new(Cells { ins: AtomicU64::new(0), outs: AtomicU64::new(0) }))
        }
    }

    #[inline]
    pub(crate) fn cells(&self) -> &Cells {
        &self.0
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::new()
    }
}

impl Cells {
    /// `n` came in; false, and nothing written, if too many have.
    ///
    /// Additions that race past the limit do not reach 2^64: each adds less than 2^32, and 2^31 processors would be needed.
    #[inline]
    pub(crate) fn add_in(&self, n: u32) -> bool {
        let room = self.ins.load(Ordering::Relaxed) < LIMIT;
        if room {
            self.ins.fetch_add(u64::from(n), Ordering::Relaxed);
        }
        room
    }

    /// `n` went out.
    #[inline]
    pub(crate) fn add_out(&self, n: u32) {
        // Release: pairs with the acquire load of `outs`.
        let order = mutant!("live-put-relaxed", Ordering::Release, Ordering::Relaxed);
        self.outs.fetch_add(u64::from(n), order);
    }

    #[inline]
    pub(crate) fn ins(&self) -> u64 {
        self.ins.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn outs(&self) -> u64 {
        // Acquire: pairs with the release of `add_out`.
        self.outs.load(mutant!("live-outs-relaxed", Ordering::Acquire, Ordering::Relaxed))
    }
}

/// Memory that holds shards: an array, a reference to an array or a slice.
///
/// # Safety
///
/// [`shards`](Shards::shards) returns the same slice every time, also after `self` was moved: the same number of shards, with
/// the counters that they had.
pub unsafe trait Shards {
    /// The shards.
    fn shards(&self) -> &[Shard];
}

// SAFETY: an array is its shards, and they move along.
unsafe impl<const N: usize> Shards for [Shard; N] {
    #[inline]
    fn shards(&self) -> &[Shard] {
        self
    }
}

// SAFETY: a slice is its shards.
unsafe impl Shards for [Shard] {
    #[inline]
    fn shards(&self) -> &[Shard] {
        self
    }
}

// SAFETY: passed on to an implementation that keeps the contract, for a borrow during which it stays in place.
unsafe impl<T: Shards + ?Sized> Shards for &T {
    #[inline]
    fn shards(&self) -> &[Shard] {
        (**self).shards()
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_shard_refuses_and_stays_as_it_is() {
        let shard = Shard::new();
        shard.cells().ins.store(LIMIT - 1, Ordering::Relaxed);
        assert!(shard.cells().add_in(u32::MAX));
        assert!(!shard.cells().add_in(1));
        assert_eq!(shard.cells().ins(), LIMIT - 1 + u64::from(u32::MAX));
    }
}
