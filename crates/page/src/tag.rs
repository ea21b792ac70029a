// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tag: what the low half of a descriptor's `info` word says the frame is.

use core::fmt;

use mmkit_addr::{Order, Pfn};

/// The low 32 bits of a descriptor's `info` word; the count is the high 32.
///
/// | bits | name | meaning |
/// |---|---|---|
/// | 0..=5 | inner | of a tail: log2 of the frames of its compound, at least 1; 0 on every other descriptor |
/// | 7 | ready | the descriptor was initialised; clear on every tail |
/// | 8 | free | the block is its allocator's |
/// | 9 | parked | no handle to the block exists: [`MemMap::claim`](crate::MemMap::claim) may make one |
/// | 10 | compound | the other descriptors of the block are tails of this head |
/// | 11 | shared | only the first descriptors of the compound are its own; the others are read-only and shared |
/// | 12 | inside | the frame lies in a block that is no compound, and is not its first |
/// | 16..=21 | order | of a head: log2 of the frames of the block; 0 on every other descriptor |
///
/// Zero is "not initialised". A tail is its order and nothing else, so all tails of one order look the same. Heads keep
/// their order elsewhere, so that *inner* says how many low bits of the frame number to clear whatever the frame is:
/// looking up a head asks no question, and the processor shifts by the word as it was loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    pub(crate) const UNINITIALISED: Self = Self(0);
    const ORDER_SHIFT: u32 = 16;
    const ORDER_MASK: u32 = 0x3f;
    const READY: u32 = 1 << 7;
    const FREE: u32 = 1 << 8;
    const PARKED: u32 = 1 << 9;
    const COMPOUND: u32 = 1 << 10;
    const SHARED: u32 = 1 << 11;
    const INSIDE: u32 = 1 << 12;

    /// A frame in a block that is no compound, behind the first. Nobody can take it by itself: its count is 0, and it
    /// is neither free nor parked.
    pub(crate) const INSIDE_BLOCK: Self = Self(Self::READY | Self::INSIDE);

    /// A frame by itself, with a handle in somebody's hands.
    pub(crate) const SINGLE: Self = Self::head(Order::ZERO);

    /// A head of `order` whose descriptors are all its own, with a handle in somebody's hands.
    pub(crate) const fn head(order: Order) -> Self {
        Self(Self::READY | (order.get() as u32) << Self::ORDER_SHIFT)
    }

    /// A tail of a compound of `order`.
    pub(crate) const fn tail(order: Order) -> Self {
        Self(order.get() as u32)
    }

    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    const fn with(self, bit: u32, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }

    pub(crate) const fn with_free(self, on: bool) -> Self {
        self.with(Self::FREE, on)
    }

    pub(crate) const fn with_parked(self, on: bool) -> Self {
        self.with(Self::PARKED, on)
    }

    pub(crate) const fn with_compound(self, on: bool) -> Self {
        self.with(Self::COMPOUND, on)
    }

    pub(crate) const fn with_shared(self, on: bool) -> Self {
        self.with(Self::SHARED, on)
    }

    pub(crate) const fn is_tail(self) -> bool {
        self.0 & Self::ORDER_MASK != 0
    }

    pub(crate) const fn is_ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    pub(crate) const fn is_free(self) -> bool {
        self.0 & Self::FREE != 0
    }

    pub(crate) const fn is_parked(self) -> bool {
        self.0 & Self::PARKED != 0
    }

    pub(crate) const fn is_compound(self) -> bool {
        self.0 & Self::COMPOUND != 0
    }

    pub(crate) const fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    pub(crate) const fn is_inside(self) -> bool {
        self.0 & Self::INSIDE != 0
    }

    /// The order of the block or compound. The six bits of a tag that this crate wrote always make an [`Order`].
    #[inline]
    pub(crate) const fn order(self) -> Order {
        // One of the two is 0.
        let order = (self.0 | self.0 >> Self::ORDER_SHIFT) & Self::ORDER_MASK;
        match Order::new(order as u8) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// The head of the compound that `pfn`, the frame with this tag, lies in, or `pfn` itself. No branch.
    #[inline]
    pub(crate) const fn head_of(self, pfn: Pfn) -> Pfn {
        // As many ones as a frame number has bits, and not 64: compilers make two dependent shifts of the frame number
        // out of a mask that is all ones above, which takes longer than one shift beside the load of `pfn`.
        let kept = Pfn::MAX.get() << (self.0 & Self::ORDER_MASK);
        pfn.clear(!kept)
    }

    /// Whether this is the head of a block that `pfn` lies in, where `head` is the frame that has this tag.
    #[inline]
    pub(crate) const fn is_head_over(self, head: Pfn, pfn: Pfn) -> bool {
        !self.is_tail() && self.is_ready() && pfn.get().wrapping_sub(head.get()) < self.order().frames()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNINITIALISED {
            return f.write_str("uninitialised");
        }
        if self.is_inside() {
            return f.write_str("inside a block");
        }
        f.write_str(if self.is_tail() { "tail" } else { "head" })?;
        write!(f, " of {:?}", self.order())?;
        for (on, name) in [
            (self.is_free(), " free"),
            (self.is_parked(), " parked"),
            (self.is_compound(), " compound"),
            (self.is_shared(), " shared"),
        ] {
            if on {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: u8) -> Order {
        Order::new(order).unwrap()
    }

    #[test]
    fn a_tail_is_its_order() {
        for k in 1..=51 {
            let tail = Tag::tail(order(k));
            assert_eq!(tail.bits(), u32::from(k));
            assert!(tail.is_tail());
            assert_eq!(tail.order(), order(k));
            assert_eq!(tail.head_of(Pfn::MAX), Pfn::MAX.align_down(order(k)));
            assert_eq!(tail.head_of(Pfn::new(1 << k | 1).unwrap()).get(), 1 << k);
            assert!(!tail.is_ready());
        }
    }

    #[test]
    fn a_head_is_its_own_head() {
        for k in 0..=51 {
            let head = Tag::head(order(k)).with_free(true).with_parked(true).with_shared(true);
            assert_eq!(head.head_of(Pfn::MAX), Pfn::MAX);
            assert_eq!(head.order(), order(k));
            assert!(head.is_free() && head.is_parked() && head.is_shared() && !head.is_compound());
        }
    }

    #[test]
    fn zero_is_neither_head_nor_tail() {
        let zero = Tag::UNINITIALISED;
        assert!(!zero.is_tail() && !zero.is_ready());
        assert!(!zero.is_head_over(Pfn::ZERO, Pfn::ZERO));
        assert_eq!(zero.head_of(Pfn::MAX), Pfn::MAX);
        assert_eq!(Tag::INSIDE_BLOCK.head_of(Pfn::MAX), Pfn::MAX);
    }
}
