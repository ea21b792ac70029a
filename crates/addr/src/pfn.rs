// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame numbers.

use core::fmt;

use crate::{Order, PhysAddr};

/// A page frame number: physical address divided by the base page size. At most 52 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(u64);

impl Pfn {
    /// Bits of a frame number.
    pub const BITS: u32 = 52;
    /// Frame 0.
    pub const ZERO: Self = Self(0);
    /// The highest frame number, `2^52 - 1`.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);

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
        if frames <= Self::MAX.0 - self.0 { Some(Self(self.0 + frames)) } else { None }
    }

    /// The frame `frames` below, or `None` below [`Pfn::ZERO`].
    #[must_use]
    pub const fn checked_sub(self, frames: u64) -> Option<Self> {
        match self.0.checked_sub(frames) {
            Some(pfn) => Some(Self(pfn)),
            None => None,
        }
    }

    /// Frames from `origin` up to this one, or `None` where `origin` is above.
    #[must_use]
    pub const fn offset_from(self, origin: Self) -> Option<u64> {
        self.0.checked_sub(origin.0)
    }

    /// The first frame of the naturally aligned block of `order` that this frame lies in.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !order.mask())
    }

    /// The frame whose number is this one's with the bits of `mask` cleared.
    #[must_use]
    pub const fn clear(self, mask: u64) -> Self {
        Self(self.0 & !mask)
    }

    /// The first frame at or above this one where a block of `order` may start, or `None` past [`Pfn::MAX`].
    #[must_use]
    pub const fn align_up(self, order: Order) -> Option<Self> {
        Self::new((self.0 + order.mask()) & !order.mask())
    }

    /// Whether a naturally aligned block of `order` may start here.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & order.mask() == 0
    }

    /// The largest order of which a naturally aligned block may start here.
    #[must_use]
    pub const fn natural_order(self) -> Order {
        let zeros = self.0.trailing_zeros() as u8;
        match Order::new(zeros) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// Frames between the start of the naturally aligned block of `order` around this frame, and this frame.
    #[must_use]
    pub const fn index_in(self, order: Order) -> u64 {
        self.0 & order.mask()
    }

    /// The frame's first byte, with frames of `2^base_shift` bytes; `None` past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn phys(self, base_shift: u32) -> Option<PhysAddr> {
        PhysAddr::from_pfn(self, base_shift)
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::LowerHex for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

static_assertions::assert_eq_size!(Pfn, u64);

#[cfg(test)]
mod tests {
    use super::Pfn;
    use crate::Order;

    fn pfn(pfn: u64) -> Pfn {
        Pfn::new(pfn).expect("in range")
    }

    #[test]
    fn ends_of_the_number_line() {
        assert_eq!(Pfn::new(1 << 52), None);
        assert_eq!(Pfn::MAX.checked_add(1), None);
        assert_eq!(Pfn::MAX.checked_add(u64::MAX), None);
        assert_eq!(Pfn::ZERO.checked_sub(1), None);
        assert_eq!(pfn(5).offset_from(pfn(6)), None);
        assert_eq!(pfn(6).offset_from(pfn(6)), Some(0));
    }

    #[test]
    fn alignment() {
        let order = Order::new(9).expect("in range");
        assert_eq!(pfn(513).align_down(order), pfn(512));
        assert_eq!(pfn(513).align_up(order), Some(pfn(1024)));
        assert_eq!(pfn(512).align_up(order), Some(pfn(512)));
        assert_eq!(Pfn::MAX.align_up(order), None);
        assert_eq!(Pfn::MAX.align_up(Order::ZERO), Some(Pfn::MAX));
        assert_eq!(pfn(1023).index_in(order), 511);
        assert_eq!(pfn(1023).clear(order.mask()), pfn(512));
        assert_eq!(Pfn::MAX.clear(0), Pfn::MAX);
        assert!(pfn(1024).is_aligned(order));
        assert!(!pfn(1023).is_aligned(order));
    }

    #[test]
    fn natural_order_of_zero_is_the_maximum() {
        assert_eq!(Pfn::ZERO.natural_order(), Order::MAX);
        assert_eq!(Pfn::MAX.natural_order(), Order::ZERO);
        assert_eq!(pfn(0x1800).natural_order().get(), 11);
    }
}
