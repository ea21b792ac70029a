// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a failed transaction must leave as it was.

use core::fmt;
use std::collections::BTreeMap;
use std::vec::Vec;

use mmkit_addr::{Order, Pfn};

/// Which blocks are out, and at which orders they must be given back.
///
/// Two snapshots are equal if and only if an allocator balance is: the same blocks at the same orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) blocks: BTreeMap<Pfn, Order>,
}

impl Snapshot {
    /// Frames out.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.blocks.values().map(|order| order.frames()).sum()
    }

    /// The blocks that are out, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        self.blocks.iter().map(|(&pfn, &order)| (pfn, order))
    }

    /// What changed from this snapshot to a `later` one. A split block counts as given back, its parts as taken.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Changes {
        let missing = |from: &Self, of: &Self| {
            from.blocks().filter(|(pfn, order)| of.blocks.get(pfn) != Some(order)).collect()
        };
        Changes { taken: missing(later, self), given_back: missing(self, later) }
    }
}

/// The difference of two [`Snapshot`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Blocks that only the later one has.
    pub taken: Vec<(Pfn, Order)>,
    /// Blocks that only the earlier one has.
    pub given_back: Vec<(Pfn, Order)>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "taken and kept: {:?}; given back: {:?}", self.taken, self.given_back)
    }
}

/// The contents of every frame that is out, as digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Per block its order and the byte that it was filled with.
    pub(super) filled: BTreeMap<Pfn, (Order, u8)>,
    /// Per frame that no longer holds that byte alone, a digest.
    pub(super) written: BTreeMap<Pfn, u64>,
}

impl Contents {
    /// Frames and blocks whose contents differ from this to a `later` one, ascending; blocks that came or went among
    /// them.
    #[must_use]
    pub fn changed(&self, later: &Self) -> Vec<Pfn> {
        let mut changed = differing(&self.filled, &later.filled);
        changed.extend(differing(&self.written, &later.written));
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

/// Keys that are not in both with the same value.
fn differing<V: PartialEq>(a: &BTreeMap<Pfn, V>, b: &BTreeMap<Pfn, V>) -> Vec<Pfn> {
    let only = |from: &BTreeMap<Pfn, V>, of: &BTreeMap<Pfn, V>| -> Vec<Pfn> {
        from.iter().filter(|(pfn, value)| of.get(pfn) != Some(value)).map(|(&pfn, _)| pfn).collect()
    };
    let mut keys = only(a, b);
    keys.extend(only(b, a));
    keys
}
