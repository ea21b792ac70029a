// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the test allocator finds.

use core::fmt;

use mmkit_addr::{Order, Pfn};

/// One broken promise of a user of [`TestFrames`](super::TestFrames).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// First frame of the block that the call named, or the frame that was written.
    pub pfn: Pfn,
    /// Order that the call named; [`Order::ZERO`] for a written frame.
    pub order: Order,
    /// What is wrong with it.
    pub kind: ViolationKind,
}

/// The kinds of broken promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViolationKind {
    /// Given back while already free; it had been handed out before.
    DoubleFree,
    /// Given back, but never handed out (or no frame of this allocator).
    NeverAllocated,
    /// Given back at another order or at another first frame than it is owned at.
    WrongOrder {
        /// First frame of the block that is really out.
        owned_pfn: Pfn,
        /// Order of the block that is really out.
        owned_order: Order,
    },
    /// Split of a block that is not out at this first frame and order.
    SplitNotOwned,
    /// Split into parts larger than the block.
    SplitUpwards {
        /// Order that the parts should have had.
        to: Order,
    },
    /// The memory of a free frame was written.
    WrittenWhileFree {
        /// Byte offset in the frame of the first word that changed; a multiple of 8.
        offset: usize,
        /// What the word holds now.
        found: u64,
    },
    /// Still out when nothing should be. Never recorded; only [`TestFrames::leaks`](super::TestFrames::leaks) makes it.
    Leaked,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pfn, order, kind } = self;
        write!(f, "{pfn:?}, {order:?}: ")?;
        match kind {
            ViolationKind::DoubleFree => write!(f, "given back twice"),
            ViolationKind::NeverAllocated => write!(f, "given back but never handed out"),
            ViolationKind::WrongOrder { owned_pfn, owned_order } => {
                write!(f, "given back, but what is out is {owned_pfn:?}, {owned_order:?}")
            }
            ViolationKind::SplitNotOwned => write!(f, "split, but not out as such"),
            ViolationKind::SplitUpwards { to } => write!(f, "split upwards, to {to:?}"),
            ViolationKind::WrittenWhileFree { offset, found } => {
                write!(f, "written while free: {found:#018x} at byte {offset:#x}")
            }
            ViolationKind::Leaked => write!(f, "leaked"),
        }
    }
}

impl core::error::Error for Violation {}
