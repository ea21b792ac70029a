// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compounds that give back most of their descriptor memory, and get it again.

mod batch;
mod demote;
mod error;
mod failure;
mod optimise;
mod pool;
mod queries;
mod records;
mod refill;
mod reserve;
mod restore;
mod slots;

use core::sync::atomic::{AtomicBool, AtomicU64};

use mmkit_sync::RawLock;

pub use batch::{HvoReport, HvoState};
pub use error::HvoError;
pub use failure::Failure;
pub use pool::{HugePage, HugePool, PoolCounts, PoolError, PoolMap, PoolReport};
pub use slots::{FailureSlot, ReserveSlot, WithReserves};

/// What a memory map keeps of the compounds that were optimised.
pub(crate) struct State<L> {
    /// Whether compounds may be optimised.
    pub(crate) on: AtomicBool,
    /// Compounds that use tails by themselves, because they were optimised after they were populated. Changed under the
    /// lock.
    pub(crate) users: AtomicU64,
    /// Those of them that are optimised in part.
    pub(crate) partial: AtomicU64,
    /// Bad frames in the environment's slots. Changed under the lock.
    pub(crate) bad: AtomicU64,
    /// Held by whoever restores, until the reserve is full again or the call ends. Taken before the memory map's lock.
    pub(crate) restoring: L,
}

impl<L: RawLock> State<L> {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on: AtomicBool::new(on),
            users: AtomicU64::new(0),
            partial: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            restoring: L::unlocked(),
        }
    }
}
