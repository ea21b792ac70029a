// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name of an address space.

use core::fmt;
use core::num::NonZeroU32;

/// The id of a memory manager (MM): one address space. 31 bits, never 0. Linux: `mm->mm_id`.
///
/// Trackers add ids up and compare them, nothing else, so any two address spaces that exist at the same time need
/// different ids. [`MmIds`](crate::MmIds) gives them out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MmId(NonZeroU32);

impl MmId {
    /// Bits of an id.
    pub const BITS: u32 = 31;
    /// The highest id: 2^31 - 1.
    pub const MAX: Self = match NonZeroU32::new(i32::MAX as u32) {
        Some(id) => Self(id),
        None => unreachable!(),
    };

    /// The id with this number, or `None` for 0 and for numbers above [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) if id.get() >> Self::BITS == 0 => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Debug for MmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mm {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_31_bits_and_is_not_zero() {
        assert_eq!(MmId::new(0), None);
        assert_eq!(MmId::new(1).unwrap().get(), 1);
        assert_eq!(MmId::new(i32::MAX as u32), Some(MmId::MAX));
        assert_eq!(MmId::new(1 << 31), None);
    }
}
