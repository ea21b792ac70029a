// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual addresses and ranges of virtual bytes.

use core::fmt;

use crate::bytes::byte_addresses;

byte_addresses! {
    /// A virtual address: any 64-bit number. Which of them an architecture can translate is its tables' affair.
    VirtAddr, 64, "virt";
    /// `bytes` virtual bytes from `start`. May be empty; may end with the last byte of the address space; does not wrap.
    ///
    /// ```
    /// use mmkit_addr::{VirtAddr, VirtRange};
    ///
    /// let range = VirtRange::new(VirtAddr::new(0x1f_f000), 0x2000).unwrap();
    /// let pieces: Vec<_> = range.pieces(21).map(|piece| (piece.start().get(), piece.bytes())).collect();
    /// assert_eq!(pieces, [(0x1f_f000, 0x1000), (0x20_0000, 0x1000)]);
    /// ```
    VirtRange;
    /// A [`VirtRange`] cut at every multiple of a power of two; from [`VirtRange::pieces`].
    VirtPieces;
}

impl VirtAddr {
    /// Address `addr`.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }
}

impl VirtRange {
    /// One past the last byte, or `None` where the range ends with the address space.
    #[must_use]
    pub const fn end(self) -> Option<VirtAddr> {
        self.start.checked_add(self.bytes)
    }
}

impl fmt::Debug for VirtRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt {:#x}+{:#x}", self.start.0, self.bytes)
    }
}
