// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual addresses and ranges of virtual bytes.

use core::fmt;
use core::iter::FusedIterator;

/// A virtual address: any 64-bit number. Which of them an architecture can translate is its tables' affair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Address 0.
    pub const ZERO: Self = Self(0);
    /// The highest address, `2^64 - 1`.
    pub const MAX: Self = Self(u64::MAX);

    /// Address `addr`.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` above, or `None` past [`VirtAddr::MAX`].
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// The address `bytes` below, or `None` below [`VirtAddr::ZERO`].
    #[must_use]
    pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
        match self.0.checked_sub(bytes) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// Bytes from `origin` up to this address, or `None` where `origin` is above.
    #[must_use]
    pub const fn offset_from(self, origin: Self) -> Option<u64> {
        self.0.checked_sub(origin.0)
    }

    /// The highest multiple of `2^shift` at or below this address (0 for a shift of 64 or more).
    #[must_use]
    pub const fn align_down(self, shift: u32) -> Self {
        Self(self.0 - self.offset_in(shift))
    }

    /// The lowest multiple of `2^shift` at or above this address, or `None` past [`VirtAddr::MAX`].
    #[must_use]
    pub const fn align_up(self, shift: u32) -> Option<Self> {
        match self.offset_in(shift) {
            0 => Some(self),
            _ if shift >= 64 => None,
            offset => self.checked_add((1 << shift) - offset),
        }
    }

    /// Whether this address is a multiple of `2^shift`.
    #[must_use]
    pub const fn is_aligned(self, shift: u32) -> bool {
        self.offset_in(shift) == 0
    }

    /// Bytes above the multiple of `2^shift` at or below this address.
    #[must_use]
    pub const fn offset_in(self, shift: u32) -> u64 {
        if shift < 64 { self.0 & ((1 << shift) - 1) } else { self.0 }
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt {:#x}", self.0)
    }
}

impl fmt::LowerHex for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// `bytes` virtual bytes from `start`. May be empty; may end with the last byte of the address space; does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtRange {
    start: VirtAddr,
    bytes: u64,
}

impl VirtRange {
    /// `bytes` bytes from `start`, or `None` where they wrap around the end of the address space.
    #[must_use]
    pub const fn new(start: VirtAddr, bytes: u64) -> Option<Self> {
        if bytes == 0 || start.checked_add(bytes - 1).is_some() { Some(Self { start, bytes }) } else { None }
    }

    /// Bytes `start..end`, or `None` where `end` is below `start`.
    #[must_use]
    pub const fn between(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        match end.offset_from(start) {
            Some(bytes) => Some(Self { start, bytes }),
            None => None,
        }
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// One past the last byte, or `None` where the range ends with the address space.
    #[must_use]
    pub const fn end(self) -> Option<VirtAddr> {
        self.start.checked_add(self.bytes)
    }

    /// The last byte, or `None` of an empty range.
    #[must_use]
    pub const fn last(self) -> Option<VirtAddr> {
        match self.bytes.checked_sub(1) {
            Some(offset) => self.start.checked_add(offset),
            None => None,
        }
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// Whether no byte lies in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes == 0
    }

    /// Whether the byte at `addr` lies in the range.
    #[must_use]
    pub const fn contains(self, addr: VirtAddr) -> bool {
        match addr.offset_from(self.start) {
            Some(offset) => offset < self.bytes,
            None => false,
        }
    }

    /// Whether some byte lies in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The bytes that lie in both, or `None` where there are none.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Option<Self> {
        let (low, high) = if self.start.0 <= other.start.0 { (self, other) } else { (other, self) };
        // Bytes of `low` at or above the start of `high`.
        let left = match low.bytes.checked_sub(high.start.0 - low.start.0) {
            Some(left) => left,
            None => 0,
        };
        let bytes = if left < high.bytes { left } else { high.bytes };
        if bytes == 0 { None } else { Some(Self { start: high.start, bytes }) }
    }

    /// The first `bytes` bytes and the rest, or `None` where the range is shorter, or where the empty rest would
    /// start past [`VirtAddr::MAX`].
    #[must_use]
    pub const fn split_at(self, bytes: u64) -> Option<(Self, Self)> {
        match (self.bytes.checked_sub(bytes), self.start.checked_add(bytes)) {
            (Some(left), Some(middle)) => {
                Some((Self { start: self.start, bytes }, Self { start: middle, bytes: left }))
            }
            _ => None,
        }
    }

    /// Whether the range begins and ends at multiples of `2^shift`.
    #[must_use]
    pub const fn is_aligned(self, shift: u32) -> bool {
        self.start.is_aligned(shift) && VirtAddr(self.bytes).is_aligned(shift)
    }

    /// The range cut at every multiple of `2^shift`, lowest piece first: how a table walker visits entries.
    ///
    /// ```
    /// use mmkit_addr::{VirtAddr, VirtRange};
    ///
    /// let range = VirtRange::new(VirtAddr::new(0x1f_f000), 0x2000).unwrap();
    /// let pieces: Vec<_> = range.pieces(21).map(|piece| (piece.start().get(), piece.bytes())).collect();
    /// assert_eq!(pieces, [(0x1f_f000, 0x1000), (0x20_0000, 0x1000)]);
    /// ```
    #[must_use]
    pub const fn pieces(self, shift: u32) -> VirtPieces {
        VirtPieces { left: self, shift }
    }
}

impl fmt::Debug for VirtRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt {:#x}+{:#x}", self.start.0, self.bytes)
    }
}

/// A [`VirtRange`] cut at every multiple of a power of two; from [`VirtRange::pieces`].
#[derive(Clone, Debug)]
pub struct VirtPieces {
    left: VirtRange,
    shift: u32,
}

impl Iterator for VirtPieces {
    type Item = VirtRange;

    fn next(&mut self) -> Option<VirtRange> {
        if self.left.is_empty() {
            return None;
        }
        let start = self.left.start;
        let cut = start.checked_add(1).and_then(|addr| addr.align_up(self.shift));
        let step = cut.and_then(|cut| cut.offset_from(start)).unwrap_or(self.left.bytes);
        if let Some((piece, rest)) = self.left.split_at(step) {
            self.left = rest;
            return Some(piece);
        }
        let piece = self.left;
        self.left.bytes = 0;
        Some(piece)
    }
}

impl FusedIterator for VirtPieces {}

static_assertions::assert_eq_size!(VirtAddr, u64);
static_assertions::assert_eq_size!(VirtRange, [u64; 2]);
static_assertions::assert_impl_all!(VirtPieces: Send, Sync);
