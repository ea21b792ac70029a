// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extents: runs of frames, across folios.

use core::fmt;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_folio::Mapcounts;
use mmkit_page::MemMap;

use super::sealed::Sealed;
use crate::{Dirty, Keeper, Release, Released, Run, Sink};

/// Consecutive frames, each held once. It may have parts of several folios.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first frame.
    pub pfn: Pfn,
    /// Frames.
    pub frames: u32,
}

impl Extent {
    /// No frames: what a buffer is filled with before it is used.
    pub const EMPTY: Self = Self { pfn: Pfn::ZERO, frames: 0 };

    /// The frames.
    #[must_use]
    pub fn range(self) -> Option<PfnRange> {
        PfnRange::new(self.pfn, self.frames.into())
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({:?} + {})", self.pfn, self.frames)
    }
}

/// A sink of extents, in a buffer of the caller's. Linux: the `pfn_batch` of IOMMUFD.
///
/// A run that continues the last extent makes it longer, whatever folio it is of. When the buffer is full the walk stops;
/// the caller takes the extents out and goes on where it stopped. With [`carry`](Self::carry) what belongs together stays
/// together across that.
pub struct Extents<'b> {
    buffer: &'b mut [Extent],
    len: usize,
}

impl<'b> Extents<'b> {
    /// An empty sink over `buffer`.
    #[must_use]
    pub fn new(buffer: &'b mut [Extent]) -> Self {
        Self { buffer, len: 0 }
    }

    /// What it has.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.buffer[..self.len]
    }

    /// What it has, for as long as the buffer is lent.
    #[must_use]
    pub fn into_extents(self) -> &'b [Extent] {
        let Self { buffer, len } = self;
        &buffer[..len]
    }

    /// Frames of all extents.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.extents().iter().map(|extent| u64::from(extent.frames)).sum()
    }

    /// Hands the extents out, and is empty.
    pub fn take(&mut self) -> &[Extent] {
        let len = core::mem::take(&mut self.len);
        &self.buffer[..len]
    }

    /// Hands the extents out to `flush`, but for the frames at the very end that do not complete an aligned block of
    /// `order`: those stay, and are continued. So a device that can translate blocks of `order` gets whole ones.
    ///
    /// A buffer of one extent has no room beside what stays. What is left in the end is [taken](Self::take).
    pub fn carry(&mut self, order: Order, flush: impl FnOnce(&[Extent])) {
        let Some(last) = self.buffer[..self.len].last_mut() else { return };
        let open = last.pfn.checked_add(last.frames.into()).map_or(0, |end| end.index_in(order));
        // No more than the extent has.
        let open = open.min(last.frames.into()) as u32;
        last.frames -= open;
        let tail = last.pfn.checked_add(last.frames.into()).map(|pfn| Extent { pfn, frames: open });
        let len = self.len - usize::from(last.frames == 0);
        flush(&self.buffer[..len]);
        self.len = 0;
        if let (Some(tail), Some(slot)) = (tail.filter(|tail| tail.frames > 0), self.buffer.first_mut()) {
            *slot = tail;
            self.len = 1;
        }
    }
}

impl Sink for Extents<'_> {
    #[inline]
    fn room(&self) -> u64 {
        if self.len < self.buffer.len() {
            return u64::MAX;
        }
        // Whether the next frames continue the last extent is not known yet.
        self.buffer.last().map_or(0, |last| u64::from(u32::MAX - last.frames))
    }

    #[inline]
    fn push(&mut self, run: Run) -> u32 {
        let Run { pfn, frames, .. } = run;
        if let Some(last) = self.len.checked_sub(1).and_then(|at| self.buffer.get_mut(at))
            && last.pfn.get() + u64::from(last.frames) == pfn.get()
            && let Some(sum) = last.frames.checked_add(frames)
        {
            last.frames = sum;
            return frames;
        }
        match self.buffer.get_mut(self.len) {
            Some(slot) => {
                *slot = Extent { pfn, frames };
                self.len += 1;
                frames
            }
            None => 0,
        }
    }
}

impl Sealed for Extents<'_> {}

impl Keeper for Extents<'_> {
    fn is_fresh(&self) -> bool {
        self.len == 0
    }

    unsafe fn give_back<M: MemMap<Counts: Mapcounts>, D: Dirty<M>>(
        &self,
        release: &Release<'_, M, D>,
    ) -> Released {
        // SAFETY: passed on.
        unsafe { release.extents(self.extents()) }
    }
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.extents()).finish()
    }
}
