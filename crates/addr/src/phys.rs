// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical addresses and ranges of physical bytes.

use core::fmt;

use crate::bytes::byte_addresses;
use crate::{Pfn, PfnRange};

byte_addresses! {
    /// A physical address, in bytes. At most 63 bits, so that one past the last byte is still a number.
    PhysAddr, 63, "phys";
    /// `bytes` physical bytes from `start`. May be empty.
    PhysRange;
    /// A [`PhysRange`] cut at every multiple of a power of two; from [`PhysRange::pieces`].
    PhysPieces;
}

impl PhysAddr {
    /// Address `addr`, or `None` above [`PhysAddr::MAX`].
    #[must_use]
    pub const fn new(addr: u64) -> Option<Self> {
        if addr <= Self::MAX.0 { Some(Self(addr)) } else { None }
    }

    /// The first byte of frame `pfn`, with frames of `2^base_shift` bytes; `None` past [`PhysAddr::MAX`].
    #[must_use]
    pub const fn from_pfn(pfn: Pfn, base_shift: u32) -> Option<Self> {
        if base_shift < Self::BITS && pfn.get() <= Self::MAX.0 >> base_shift {
            Some(Self(pfn.get() << base_shift))
        } else {
            None
        }
    }

    /// The frame that holds this byte, with frames of `2^base_shift` bytes; `None` past [`Pfn::MAX`] or for a
    /// frame of more than the address space.
    #[must_use]
    pub const fn pfn(self, base_shift: u32) -> Option<Pfn> {
        if base_shift < Self::BITS { Pfn::new(self.0 >> base_shift) } else { None }
    }
}

impl PhysRange {
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

    /// One past the last byte's address.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.0 + self.bytes
    }

    /// The frames of `2^base_shift` bytes that lie wholly in the range: what a memory map may use of it. `None`
    /// where there is none, or where they pass [`Pfn::MAX`].
    #[must_use]
    pub const fn frames_inside(self, base_shift: u32) -> Option<PfnRange> {
        match self.start.align_up(base_shift) {
            Some(start) => match start.pfn(base_shift) {
                Some(first) => match (self.end() >> base_shift).checked_sub(first.get()) {
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
            Some(first) => PfnRange::new(first, ((self.end() - 1) >> base_shift) - first.get() + 1),
            None => None,
        }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}..{:#x}", self.start.0, self.end())
    }
}
