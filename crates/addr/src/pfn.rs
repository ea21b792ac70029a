// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame numbers and ranges of them.

use core::fmt;

use crate::Order;

/// A page frame number: physical address divided by the base page size. At most 52 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(u64);

impl Pfn {
    /// Frame 0.
    pub const ZERO: Self = Self(0);
    /// The highest frame number, `2^52 - 1`.
    pub const MAX: Self = Self((1 << 52) - 1);

    /// Frame `pfn`, or `None` above [`Pfn::MAX`].
    #[must_use]
    pub const fn new(pfn: u64) -> Option<Self> {
        if pfn <= Self::MAX.0 { Some(Self(pfn)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame `frames` above, or `None` past [`Pfn::MAX`].
    #[must_use]
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(pfn) => Self::new(pfn),
            None => None,
        }
    }

    /// The first frame of the naturally aligned block of `order` that this frame lies in.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !order.mask())
    }

    /// Whether a naturally aligned block of `order` may start here.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & order.mask() == 0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// Frames `start..end`, half open. Never inverted; may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PfnRange {
    start: Pfn,
    end: u64,
}

impl PfnRange {
    /// Frames `start..start + frames`, or `None` where they pass [`Pfn::MAX`].
    #[must_use]
    pub const fn new(start: Pfn, frames: u64) -> Option<Self> {
        match start.0.checked_add(frames) {
            Some(end) if end <= Pfn::MAX.0 + 1 => Some(Self { start, end }),
            _ => None,
        }
    }

    /// First frame.
    #[must_use]
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// One past the last frame's number.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Frames in the range.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.end - self.start.0
    }

    /// Whether `pfn` lies in the range.
    #[must_use]
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end
    }
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfns {:#x}..{:#x}", self.start.0, self.end)
    }
}
