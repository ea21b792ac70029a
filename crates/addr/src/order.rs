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

    /// The order of a block of exactly `frames` frames, or `None` where that is not a power of two in range.
    #[must_use]
    pub const fn of_frames(frames: u64) -> Option<Self> {
        if frames.is_power_of_two() { Self::largest_within(frames) } else { None }
    }

    /// The largest order whose block has at most `frames` frames, capped at [`Order::MAX`]; `None` for 0 frames.
    #[must_use]
    pub const fn largest_within(frames: u64) -> Option<Self> {
        match frames.checked_ilog2() {
            Some(log2) if log2 < Self::MAX.0 as u32 => Some(Self(log2 as u8)),
            Some(_) => Some(Self::MAX),
            None => None,
        }
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

    /// Bytes of a block whose frames have `2^base_shift` bytes, or `None` where they do not fit 64 bits.
    #[must_use]
    pub const fn bytes(self, base_shift: u32) -> Option<u64> {
        if base_shift < 64 && base_shift + (self.0 as u32) < 64 {
            Some(1 << (base_shift + self.0 as u32))
        } else {
            None
        }
    }

    /// The order `by` larger, or `None` above [`Order::MAX`].
    #[must_use]
    pub const fn checked_add(self, by: u8) -> Option<Self> {
        match self.0.checked_add(by) {
            Some(order) => Self::new(order),
            None => None,
        }
    }

    /// The order `by` smaller, or `None` below [`Order::ZERO`].
    #[must_use]
    pub const fn checked_sub(self, by: u8) -> Option<Self> {
        match self.0.checked_sub(by) {
            Some(order) => Some(Self(order)),
            None => None,
        }
    }

    /// The smaller of two orders (`Ord::min` cannot be called in a `const`).
    #[must_use]
    pub const fn at_most(self, limit: Self) -> Self {
        if self.0 <= limit.0 { self } else { limit }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

static_assertions::assert_eq_size!(Order, u8);
// A block of the largest order is half of all frames that can be numbered: two tile them.
static_assertions::const_assert!(Order::MAX.0 as u32 + 1 == crate::Pfn::BITS);

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn of_frames_takes_powers_of_two_only() {
        assert_eq!(Order::of_frames(512), Order::new(9));
        assert_eq!(Order::of_frames(1), Some(Order::ZERO));
        assert_eq!(Order::of_frames(0), None);
        assert_eq!(Order::of_frames(513), None);
    }

    #[test]
    fn largest_within_rounds_down_and_caps() {
        assert_eq!(Order::largest_within(0), None);
        assert_eq!(Order::largest_within(1023), Order::new(9));
        assert_eq!(Order::largest_within(u64::MAX), Some(Order::MAX));
    }

    #[test]
    fn bytes_refuses_what_does_not_fit() {
        assert_eq!(Order::new(9).and_then(|order| order.bytes(12)), Some(2 << 20));
        assert_eq!(Order::MAX.bytes(12), Some(1 << 63));
        assert_eq!(Order::MAX.bytes(13), None);
        assert_eq!(Order::ZERO.bytes(u32::MAX), None);
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Order::MAX.checked_add(1), None);
        assert_eq!(Order::MAX.checked_add(255), None);
        assert_eq!(Order::ZERO.checked_sub(1), None);
        assert_eq!(Order::ZERO.checked_add(51), Some(Order::MAX));
        assert_eq!(Order::MAX.checked_sub(51), Some(Order::ZERO));
        assert_eq!(Order::MAX.at_most(Order::ZERO), Order::ZERO);
    }
}
