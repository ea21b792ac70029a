// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pages of one node and one order.

use mmkit_addr::{NodeId, Order};
use mmkit_page::{Frozen, MemMap};

use super::list::{Bad, List, Ready};

/// Huge pages of one node and order, by what they are doing. Every page is in one of `free`, `in_use` and `poisoned`, and in
/// no two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Ready to be handed out. Linux: `free_hugepages`.
    pub free: u64,
    /// Handed out, and not come back.
    pub in_use: u64,
    /// Come back with a bad frame: neither handed out nor given back before they are
    /// [dissolved](super::HugePool::dissolve). Linux: `HPageRawHwpUnreliable` and pages off the free list.
    pub poisoned: u64,
    /// How many more pages there are than were asked for. They are not marked: any page that becomes free is given back
    /// while this is not 0. Linux: `surplus_hugepages`.
    pub surplus: u64,
    /// In the hands of a call that is taking them out of the pool. Those that it cannot take out come back as free.
    pub leaving: u64,
}

impl PoolCounts {
    /// All pages of the pool.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.free + self.in_use + self.poisoned
    }

    /// The pages that were asked for. Linux: `nr_hugepages`, less the surplus.
    #[must_use]
    pub const fn persistent(&self) -> u64 {
        self.total().saturating_sub(self.surplus)
    }
}

/// A class of pages. Behind the pool's lock.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) node: NodeId,
    pub(super) order: Order,
    pub(super) free: List<Ready>,
    pub(super) poisoned: List<Bad>,
    pub(super) in_use: u64,
    pub(super) surplus: u64,
    pub(super) leaving: u64,
    /// As many pages as may be surplus because somebody wanted one when none was free.
    pub(super) overcommit: u64,
}

impl Class {
    pub(super) fn new(node: NodeId, order: Order) -> Self {
        Self {
            node,
            order,
            free: List::default(),
            poisoned: List::default(),
            in_use: 0,
            surplus: 0,
            leaving: 0,
            overcommit: 0,
        }
    }

    /// Takes in a page that nobody uses. One with a bad frame is set apart.
    pub(super) fn keep<M: MemMap>(&mut self, frozen: Frozen<'_, M>) {
        match frozen.into_free() {
            Ok(free) => self.free.push::<M>(free),
            Err(refused) => self.poisoned.push::<M>(refused.handle),
        }
    }

    pub(super) fn counts(&self) -> PoolCounts {
        PoolCounts {
            free: self.free.len(),
            in_use: self.in_use,
            poisoned: self.poisoned.len(),
            surplus: self.surplus,
            leaving: self.leaving,
        }
    }
}
