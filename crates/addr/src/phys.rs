// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical addresses and ranges of physical bytes.

use core::fmt;
use core::iter::FusedIterator;

use crate::{Pfn, PfnRange};

/// A physical address, in bytes. At most 63 bits, so that one past the last byte is still a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Bits of an address.
    pub const BITS: u32 = 63;
    /// Address 0.
    pub const ZERO: Self = Self(0);
    /// The highest address, `2^63 - 1`.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);

    /// Address `addr`, or `None` above [`PhysAddr::MAX`].
    #[must_use]
    pub const fn new(addr: u64) -> Option<Self> {
        if addr <= Self::MAX.0 { Some(Self(addr)) } else { None }
    }

    /// The first byte of frame `pfn`, with frames of `2^base_shift` bytes; `None` past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn from_pfn(pfn: Pfn, base_shift: u32) -> Option<Self> {
        if base_shift < 63 && pfn.get() <= Self::MAX.0 >> base_shift {
            Some(Self(pfn.get() << base_shift))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame that holds this byte, with frames of `2^base_shift` bytes; `None` past [`Pfn::MAX`] or for a
    /// frame of more than the address space.
    #[must_use]
    pub const fn pfn(self, base_shift: u32) -> Option<Pfn> {
        if base_shift < 63 { Pfn::new(self.0 >> base_shift) } else { None }
    }

    /// The address `bytes` above, or `None` past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(addr) => Self::new(addr),
            None => None,
        }
    }

    /// The address `bytes` below, or `None` below [`PhysAddr::ZERO`].
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

    /// The lowest multiple of `2^shift` at or above this address, or `None` past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn align_up(self, shift: u32) -> Option<Self> {
        match self.offset_in(shift) {
            0 => Some(self),
            _ if shift >= 63 => None,
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

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}", self.0)
    }
}

impl fmt::LowerHex for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// Physical bytes `start..end`, half open. Never inverted; may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhysRange {
    start: PhysAddr,
    end: u64,
}

impl PhysRange {
    /// Bytes `start..start + bytes`, or `None` where they pass [`PhysAddr::MAX`].
    #[must_use]
    pub const fn new(start: PhysAddr, bytes: u64) -> Option<Self> {
        match start.0.checked_add(bytes) {
            Some(end) if end <= PhysAddr::MAX.0 + 1 => Some(Self { start, end }),
            _ => None,
        }
    }

    /// Bytes `start..end`, or `None` where `end` is below `start`.
    #[must_use]
    pub const fn between(start: PhysAddr, end: PhysAddr) -> Option<Self> {
        match end.offset_from(start) {
            Some(_) => Some(Self { start, end: end.0 }),
            None => None,
        }
    }

    /// The bytes of the frames of `pfns`, of `2^base_shift` bytes each; `None` where they pass [`PhysAddr::MAX`].
    #[must_use]
    pub const fn from_pfns(pfns: PfnRange, base_shift: u32) -> Option<Self> {
        match PhysAddr::from_pfn(pfns.start(), base_shift) {
            Some(start) if pfns.frames() <= u64::MAX >> base_shift => {
                Self::new(start, pfns.frames() << base_shift)
            }
            _ => None,
        }
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        self.start
    }

    /// One past the last byte's address.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.end - self.start.0
    }

    /// Whether no byte lies in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes() == 0
    }

    /// Whether the byte at `addr` lies in the range.
    #[must_use]
    pub const fn contains(self, addr: PhysAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end
    }

    /// Whether some byte lies in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The bytes that lie in both, or `None` where there are none.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Option<Self> {
        let start = if self.start.0 > other.start.0 { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start.0 < end { Some(Self { start, end }) } else { None }
    }

    /// The first `bytes` bytes and the rest, or `None` where the range is shorter, or where the empty rest would
    /// start past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn split_at(self, bytes: u64) -> Option<(Self, Self)> {
        if bytes > self.bytes() {
            return None;
        }
        match self.start.checked_add(bytes) {
            Some(middle) => {
                Some((Self { start: self.start, end: middle.0 }, Self { start: middle, end: self.end }))
            }
            None => None,
        }
    }

    /// The frames of `2^base_shift` bytes that lie wholly in the range: what a memory map may use of it. `None`
    /// where there is none, or where they pass [`Pfn::MAX`].
    #[must_use]
    pub const fn frames_inside(self, base_shift: u32) -> Option<PfnRange> {
        match self.start.align_up(base_shift) {
            Some(start) => match start.pfn(base_shift) {
                Some(first) => match (self.end >> base_shift).checked_sub(first.get()) {
                    Some(0) | None => None,
                    Some(frames) => PfnRange::new(first, frames),
                },
                None => None,
            },
            None => None,
        }
    }

    /// The frames of `2^base_shift` bytes of which some byte lies in the range. `None` of an empty range, or where
    /// they pass [`Pfn::MAX`].
    #[must_use]
    pub const fn frames_touched(self, base_shift: u32) -> Option<PfnRange> {
        if self.is_empty() {
            return None;
        }
        match self.start.pfn(base_shift) {
            Some(first) => PfnRange::new(first, ((self.end - 1) >> base_shift) - first.get() + 1),
            None => None,
        }
    }

    /// The range cut at every multiple of `2^shift`, lowest piece first.
    #[must_use]
    pub const fn pieces(self, shift: u32) -> PhysPieces {
        PhysPieces { left: self, shift }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}..{:#x}", self.start.0, self.end)
    }
}

/// A [`PhysRange`] cut at every multiple of a power of two; from [`PhysRange::pieces`].
#[derive(Clone, Debug)]
pub struct PhysPieces {
    left: PhysRange,
    shift: u32,
}

impl Iterator for PhysPieces {
    type Item = PhysRange;

    fn next(&mut self) -> Option<PhysRange> {
        if self.left.is_empty() {
            return None;
        }
        let cut = self.left.start.checked_add(1).and_then(|addr| addr.align_up(self.shift));
        match cut {
            Some(cut) if cut.0 < self.left.end => {
                let piece = PhysRange { start: self.left.start, end: cut.0 };
                self.left.start = cut;
                Some(piece)
            }
            _ => {
                let piece = self.left;
                self.left = PhysRange { start: piece.start, end: piece.start.0 };
                Some(piece)
            }
        }
    }
}

impl FusedIterator for PhysPieces {}

static_assertions::assert_eq_size!(PhysAddr, u64);
static_assertions::assert_eq_size!(PhysRange, [u64; 2]);
static_assertions::assert_impl_all!(PhysPieces: Send, Sync);
