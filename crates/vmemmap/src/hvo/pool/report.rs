// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pool says it did, and why it did not.

use core::fmt;

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_frame::AllocError;
use mmkit_page::ClaimError;

use super::PoolCounts;
use crate::HvoError;

/// How far an operation on many pages came. What it did stays done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says what was not done, and why"]
pub struct PoolReport {
    /// Pages that came into the pool, or left it, as asked.
    pub done: u64,
    /// Of those that came, pages that keep all their descriptors. They are as good as others, but cost more.
    pub full: u64,
    /// Why the first of those does.
    pub why_full: Option<HvoError>,
    /// What stopped the operation before its end.
    pub error: Option<PoolError>,
    /// The pages of the node and order afterwards.
    pub counts: PoolCounts,
}

impl PoolReport {
    /// `Ok` where everything was done.
    ///
    /// # Errors
    ///
    /// What stopped the operation.
    pub fn ok(self) -> Result<Self, PoolError> {
        match self.error {
            None => Ok(self),
            Some(error) => Err(error),
        }
    }
}

/// Why a pool refused something, or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The pool was made without pages of this order on this node.
    NoClass {
        /// The node.
        node: NodeId,
        /// The order.
        order: Order,
    },
    /// The pool was to be made with this node and order twice.
    Twice {
        /// The node.
        node: NodeId,
        /// The order.
        order: Order,
    },
    /// A single frame is no huge page.
    SingleFrame,
    /// No page is free.
    Empty {
        /// The node.
        node: NodeId,
        /// The order.
        order: Order,
    },
    /// No free or poisoned page of the pool has this frame. It may be in use.
    NotHere {
        /// The frame.
        pfn: Pfn,
    },
    /// The page has more bad frames than one call can set apart. It stays in the pool, and is never given back.
    TooManyBad {
        /// The page's first frame.
        pfn: Pfn,
        /// The most there may be.
        max: usize,
    },
    /// The allocator has no block.
    Alloc(AllocError),
    /// The allocator gave a block whose descriptors are not free ones of the memory map.
    Claim(ClaimError),
    /// The page's descriptors could not be restored, so it was not given back.
    Hvo(HvoError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClass { node, order } => write!(f, "the pool has no pages of {order:?} on {node:?}"),
            Self::Twice { node, order } => write!(f, "{order:?} on {node:?} was named twice"),
            Self::SingleFrame => f.write_str("a single frame is no huge page"),
            Self::Empty { node, order } => write!(f, "no page of {order:?} is free on {node:?}"),
            Self::NotHere { pfn } => write!(f, "{pfn:?} is in no free or poisoned page of the pool"),
            Self::TooManyBad { pfn, max } => {
                write!(f, "the page at {pfn:?} has more than {max} bad frames")
            }
            Self::Alloc(error) => error.fmt(f),
            Self::Claim(error) => error.fmt(f),
            Self::Hvo(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PoolError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Alloc(error) => Some(error),
            Self::Claim(error) => Some(error),
            Self::Hvo(error) => Some(error),
            _ => None,
        }
    }
}

impl From<AllocError> for PoolError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<ClaimError> for PoolError {
    fn from(error: ClaimError) -> Self {
        Self::Claim(error)
    }
}

impl From<HvoError> for PoolError {
    fn from(error: HvoError) -> Self {
        Self::Hvo(error)
    }
}
