// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of user addresses that were checked.

use core::fmt;

use mmkit_addr::VirtAddr;

use crate::Format;

/// log2 of the bytes of the largest page: bytes of a page are counted in 32 bits.
const MAX_SHIFT: u32 = 31;

/// Bytes of an address space, checked against its limits, and the pages that they lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: VirtAddr,
    end: VirtAddr,
    shift: u32,
    head: u32,
    tail: u32,
}

impl Span {
    /// `pages` pages from `start` on, which is a multiple of a page. There may be none.
    ///
    /// # Errors
    ///
    /// [`BadSpan`].
    pub fn pages(format: &Format, start: VirtAddr, pages: u64) -> Result<Self, BadSpan> {
        if format.base_shift <= MAX_SHIFT && !start.is_aligned(format.base_shift) {
            return Err(BadSpan::Unaligned { start, base_shift: format.base_shift });
        }
        let bytes = 1_u64.checked_shl(format.base_shift).and_then(|bytes| pages.checked_mul(bytes));
        let bytes = bytes.ok_or(BadSpan::Overflow { start, len: pages })?;
        Self::bytes(format, start, bytes)
    }

    /// `len` bytes from `start` on, wherever they begin and end: the pages that have one of them. There may be none.
    ///
    /// # Errors
    ///
    /// [`BadSpan`].
    pub fn bytes(format: &Format, start: VirtAddr, len: u64) -> Result<Self, BadSpan> {
        let shift = format.base_shift;
        if shift > MAX_SHIFT {
            return Err(BadSpan::Pages { base_shift: shift });
        }
        let end = start.checked_add(len).ok_or(BadSpan::Overflow { start, len })?;
        let first = start.align_down(shift);
        let rounded = if len == 0 { Some(first) } else { end.align_up(shift) };
        let rounded = rounded.ok_or(BadSpan::Overflow { start, len })?;
        if rounded > format.limit {
            return Err(BadSpan::PastEnd { end: rounded, limit: format.limit });
        }
        let (head, tail) =
            if len == 0 { (0, 0) } else { (start.get() - first.get(), rounded.get() - end.get()) };
        // Each is less than a page.
        Ok(Self { first, end: rounded, shift, head: head as u32, tail: tail as u32 })
    }

    /// The first page's address.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.first
    }

    /// The address after the last page.
    #[must_use]
    pub fn end(&self) -> VirtAddr {
        self.end
    }

    /// How many pages.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        (self.end.get() - self.first.get()) >> self.shift
    }

    /// Bytes of the first page that come before the range, and bytes of the last that come after it.
    #[must_use]
    pub fn margins(&self) -> (u32, u32) {
        (self.head, self.tail)
    }

    /// log2 of the bytes of a page.
    #[must_use]
    pub fn base_shift(&self) -> u32 {
        self.shift
    }

    /// Whether it was checked for entries of this format: pages are as large, and its end is not past the limit.
    pub(crate) fn is_of(&self, format: &Format) -> bool {
        self.shift == format.base_shift && self.end <= format.limit
    }

    /// Its first pages, at most so many.
    #[must_use]
    pub fn at_most(&self, pages: u64) -> Self {
        if pages >= self.page_count() {
            return *self;
        }
        Self { end: VirtAddr::new(self.first.get() + (pages << self.shift)), tail: 0, ..*self }
    }

    /// What is left of it after its first `pages` pages.
    #[must_use]
    pub fn after(&self, pages: u64) -> Self {
        let pages = pages.min(self.page_count());
        self.from(VirtAddr::new(self.first.get() + (pages << self.shift)))
    }

    /// What is left of it from the page of `next` on, where a walk stopped.
    #[must_use]
    pub fn from(&self, next: VirtAddr) -> Self {
        let first = next.align_down(self.shift).clamp(self.first, self.end);
        Self { first, head: if first == self.first { self.head } else { 0 }, ..*self }
    }
}

/// Why a range cannot be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadSpan {
    /// The start is no multiple of a page.
    Unaligned {
        /// The start.
        start: VirtAddr,
        /// log2 of the bytes of a page.
        base_shift: u32,
    },
    /// Pages are not as large as that.
    Pages {
        /// log2 of the bytes of a page.
        base_shift: u32,
    },
    /// The end cannot be expressed.
    Overflow {
        /// The start.
        start: VirtAddr,
        /// Bytes, or pages where those were given.
        len: u64,
    },
    /// The range reaches past what users can have.
    PastEnd {
        /// The end of the last page.
        end: VirtAddr,
        /// The limit.
        limit: VirtAddr,
    },
}

impl fmt::Display for BadSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { start, base_shift } => {
                write!(f, "{start:?} is no multiple of {} bytes", 1_u64 << base_shift)
            }
            Self::Pages { base_shift } => {
                write!(f, "a page has at most 2^{MAX_SHIFT} bytes, not 2^{base_shift}")
            }
            Self::Overflow { start, len } => write!(f, "{len} from {start:?} on reach past all addresses"),
            Self::PastEnd { end, limit } => write!(f, "the range ends at {end:?}, past {limit:?}"),
        }
    }
}

impl core::error::Error for BadSpan {}
