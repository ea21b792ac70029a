// SPDX-License-Identifier: MIT OR Apache-2.0
//! Orders: blocks of a power of two of frames.

use core::fmt;

/// log2 of a number of frames, 0..=51: a block of order `k` has `2^k` frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const ZERO: Self = Self(0);
    /// The largest order: frame numbers have 52 bits.
    pub const MAX: Self = Self(51);

    /// Order `order`, or `None` above [`Order::MAX`].
    #[must_use]
    pub const fn new(order: u8) -> Option<Self> {
        if order <= Self::MAX.0 { Some(Self(order)) } else { None }
    }

    /// log2 of the number of frames.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames in a block of this order.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << self.0
    }

    /// `frames() - 1`: the bits of a frame number inside a block of this order.
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.frames() - 1
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}
