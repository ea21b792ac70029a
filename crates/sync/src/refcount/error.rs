// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a reference could not be taken or dropped.

use core::fmt;

/// Why [`RefCount::try_get`](crate::RefCount::try_get) took no reference. Nothing has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetError {
    /// The count is 0: there is no object to refer to, or its owner wants no company.
    Zero,
    /// The tag, given here, was not accepted.
    Refused(u32),
    /// The count would exceed [`RefCount::MAX`](crate::RefCount::MAX), or is saturated.
    Overflow {
        /// The count found.
        count: u32,
        /// How many references were asked for.
        n: u32,
    },
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Zero => f.write_str("the reference count is 0"),
            Self::Refused(tag) => write!(f, "the tag {tag:#x} was not accepted"),
            Self::Overflow { count, n } => {
                write!(f, "{n} more references than {count} would exceed {}", crate::RefCount::MAX)
            }
        }
    }
}

impl core::error::Error for GetError {}

/// More references were dropped than were held. The count is saturated: the object is never freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underflow {
    /// The count found; above [`RefCount::MAX`](crate::RefCount::MAX) if it was saturated before.
    pub count: u32,
    /// How many references were to be dropped.
    pub n: u32,
}

impl fmt::Display for Underflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count > crate::RefCount::MAX {
            write!(f, "{} references dropped from a saturated count ({:#x})", self.n, self.count)
        } else {
            write!(f, "{} references dropped where {} were held", self.n, self.count)
        }
    }
}

impl core::error::Error for Underflow {}
