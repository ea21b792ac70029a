// SPDX-License-Identifier: MIT OR Apache-2.0
//! Huge-page sizes of an architecture.

use core::fmt;

use super::Level;
use crate::Order;

/// How the hardware maps a huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HugeKind {
    /// One leaf entry of this level, 1 or higher.
    Leaf(Level),
    /// A run of entries of this level, marked as one (arm64: contiguous bit; riscv: NAPOT).
    Contiguous(Level),
    /// One entry of a hashed page table; no levels are involved (ppc64 hash).
    Hash,
}

/// A huge-page size: how large, of which order, and how it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HugePage {
    shift: u8,
    order: Order,
    kind: HugeKind,
}

impl HugePage {
    pub(super) const fn new(shift: u8, order: Order, kind: HugeKind) -> Self {
        Self { shift, order, kind }
    }

    /// Bytes of one huge page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// log2 of [`HugePage::bytes`].
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }

    /// log2 of the base pages in one huge page.
    #[must_use]
    pub const fn order(self) -> Order {
        self.order
    }

    /// How the hardware maps it.
    #[must_use]
    pub const fn kind(self) -> HugeKind {
        self.kind
    }
}

impl fmt::Debug for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2^{} bytes ({:?}, {:?})", self.shift, self.order, self.kind)
    }
}
