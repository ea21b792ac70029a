// SPDX-License-Identifier: MIT OR Apache-2.0
//! Byte ranges: what a device is told, with unaligned ends.

use core::fmt;

use mmkit_addr::{Pfn, PfnRange, PhysAddr};
use mmkit_folio::Mapcounts;
use mmkit_page::MemMap;

use crate::{Dirty, Keeper, Release, Released, Run, Sink, Span};

/// Consecutive bytes of physical memory. Linux: the `phyr` that was proposed; an entry of a scatter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first byte.
    pub phys: PhysAddr,
    /// Bytes.
    pub len: u64,
}

impl Segment {
    /// No bytes: what a buffer is filled with before it is used.
    pub const EMPTY: Self = Self { phys: PhysAddr::ZERO, len: 0 };
}

/// Consecutive bytes, by the frame that they begin in. Linux: `struct bio_vec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BioVec {
    /// The frame of the first byte.
    pub pfn: Pfn,
    /// The first byte in that frame.
    pub offset: u32,
    /// Bytes, as many frames as that takes.
    pub len: u32,
}

impl BioVec {
    /// No bytes: what a buffer is filled with before it is used.
    pub const EMPTY: Self = Self { pfn: Pfn::ZERO, offset: 0, len: 0 };
}

mod sealed {
    /// The two ways of writing stretches down.
    pub trait Sealed {}
}

/// How a stretch of bytes is written down: [`Segment`] or [`BioVec`].
pub trait Stretch: sealed::Sealed + Copy {
    /// `len` bytes from byte `offset` of `pfn` on; `None` where that cannot be said.
    #[doc(hidden)]
    fn new(pfn: Pfn, offset: u32, len: u64, base_shift: u32) -> Option<Self>;

    /// Makes it longer by `len` bytes from the start of `pfn` on, if they follow it; whether they did.
    #[doc(hidden)]
    fn extend(&mut self, pfn: Pfn, len: u64, base_shift: u32) -> bool;

    /// Makes it shorter by `by` bytes at its end, of which it has more.
    #[doc(hidden)]
    fn shorten(&mut self, by: u32);

    /// Bytes.
    fn bytes(&self) -> u64;

    /// The frames that it has a byte of.
    fn frames(&self, base_shift: u32) -> Option<PfnRange>;
}

impl sealed::Sealed for Segment {}
impl sealed::Sealed for BioVec {}

impl Stretch for Segment {
    #[inline]
    fn new(pfn: Pfn, offset: u32, len: u64, base_shift: u32) -> Option<Self> {
        Some(Self { phys: pfn.phys(base_shift)?.checked_add(offset.into())?, len })
    }

    #[inline]
    fn extend(&mut self, pfn: Pfn, len: u64, base_shift: u32) -> bool {
        // What cannot be said follows nothing.
        let end = self.phys.checked_add(self.len);
        if end.is_none() || end != pfn.phys(base_shift) {
            return false;
        }
        self.len += len;
        true
    }

    fn shorten(&mut self, by: u32) {
        self.len -= u64::from(by);
    }

    fn bytes(&self) -> u64 {
        self.len
    }

    fn frames(&self, base_shift: u32) -> Option<PfnRange> {
        let last = self.phys.checked_add(self.len.checked_sub(1)?)?.pfn(base_shift)?;
        let first = self.phys.pfn(base_shift)?;
        PfnRange::new(first, last.get() - first.get() + 1)
    }
}

impl Stretch for BioVec {
    #[inline]
    fn new(pfn: Pfn, offset: u32, len: u64, _: u32) -> Option<Self> {
        Some(Self { pfn, offset, len: u32::try_from(len).ok()? })
    }

    #[inline]
    fn extend(&mut self, pfn: Pfn, len: u64, base_shift: u32) -> bool {
        let end = u64::from(self.offset) + u64::from(self.len);
        let follows = self.pfn.get() + (end >> base_shift) == pfn.get() && end.trailing_zeros() >= base_shift;
        match u64::from(self.len).checked_add(len).and_then(|sum| u32::try_from(sum).ok()) {
            Some(sum) if follows => {
                self.len = sum;
                true
            }
            _ => false,
        }
    }

    fn shorten(&mut self, by: u32) {
        self.len -= by;
    }

    fn bytes(&self) -> u64 {
        self.len.into()
    }

    fn frames(&self, base_shift: u32) -> Option<PfnRange> {
        let last = (u64::from(self.offset) + u64::from(self.len.checked_sub(1)?)) >> base_shift;
        PfnRange::new(self.pfn, last + 1)
    }
}

/// A sink of stretches of bytes, in a buffer of the caller's, for the bytes of one [`Span`].
///
/// The first stretch begins, and the last ends, where the range does, wherever in a page that is. What continues the last
/// stretch makes it longer, across folios. A walk that stopped because the buffer was full goes on with the same sink, after
/// [`take`](Self::take).
///
/// The holds are of whole pages: a stretch stands for those of every page that it has a byte of.
pub struct Bytes<'b, T> {
    buffer: &'b mut [T],
    len: usize,
    shift: u32,
    /// Bytes to leave out at the start of the next page.
    head: u32,
    /// Bytes to leave out at the end of the last page.
    tail: u32,
    /// Pages that are still to come.
    left: u64,
    /// It took something.
    used: bool,
}

impl<'b, T: Stretch> Bytes<'b, T> {
    /// An empty sink over `buffer` for the bytes of `span`.
    #[must_use]
    pub fn new(buffer: &'b mut [T], span: &Span) -> Self {
        let (head, tail) = span.margins();
        Self { buffer, len: 0, shift: span.base_shift(), head, tail, left: span.page_count(), used: false }
    }

    /// What it has.
    #[must_use]
    pub fn stretches(&self) -> &[T] {
        &self.buffer[..self.len]
    }

    /// Hands the stretches out, and is empty.
    pub fn take(&mut self) -> &[T] {
        let len = core::mem::take(&mut self.len);
        &self.buffer[..len]
    }

    /// Takes `pages` pages from `pfn` on into one stretch; whether that could be done.
    #[inline]
    fn add(&mut self, pfn: Pfn, pages: u32) -> bool {
        let bytes = u64::from(pages) << self.shift;
        let at_end = u64::from(pages) == self.left;
        let last = self.len.checked_sub(1).and_then(|at| self.buffer.get_mut(at));
        let extended = self.head == 0 && last.is_some_and(|last| last.extend(pfn, bytes, self.shift));
        if !extended {
            let stretch = T::new(pfn, self.head, bytes - u64::from(self.head), self.shift);
            let (Some(slot), Some(stretch)) = (self.buffer.get_mut(self.len), stretch) else { return false };
            *slot = stretch;
            self.len += 1;
        }
        (self.head, self.used) = (0, true);
        self.left = self.left.saturating_sub(pages.into());
        if at_end && let Some(last) = self.len.checked_sub(1).and_then(|at| self.buffer.get_mut(at)) {
            last.shorten(self.tail);
        }
        true
    }
}

impl<T: Stretch> Sink for Bytes<'_, T> {
    #[inline]
    fn room(&self) -> u64 {
        if self.len < self.buffer.len() || self.len > 0 && self.head == 0 { self.left } else { 0 }
    }

    #[inline]
    fn push(&mut self, run: Run) -> u32 {
        // What one stretch can say at most, in whole pages.
        let most = (u32::MAX >> self.shift).max(1);
        let frames = u64::from(run.frames).min(self.left) as u32;
        let mut done = 0;
        while done < frames {
            let pages = (frames - done).min(most);
            let Some(pfn) = run.pfn.checked_add(done.into()) else { break };
            if !self.add(pfn, pages) {
                break;
            }
            done += pages;
        }
        done
    }
}

impl<T: Stretch> super::sealed::Sealed for Bytes<'_, T> {}

impl<T: Stretch> Keeper for Bytes<'_, T> {
    fn is_fresh(&self) -> bool {
        self.len == 0 && !self.used
    }

    unsafe fn give_back<M: MemMap<Counts: Mapcounts>, D: Dirty<M>>(
        &self,
        release: &Release<'_, M, D>,
    ) -> Released {
        // SAFETY: passed on.
        unsafe { release.stretches(self.stretches(), self.shift) }
    }
}

impl<T: Stretch + fmt::Debug> fmt::Debug for Bytes<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stretches()).finish()
    }
}
