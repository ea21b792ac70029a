// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors in the memory that they describe.

use mmkit_addr::{Pfn, PfnRange};

/// Frames set aside, in a device's own memory as a rule, for the descriptors of that device's memory.
///
/// ```text
///   base                 base + reserve              base + reserve + free
///    | reserve: not ours  | pool: pages of descriptors | usable frames ..
/// ```
///
/// Pages are handed out from the start of the pool upwards, blocks at multiples of their size; what is skipped for that is
/// lost ([`align`](Self::align)). There is no way back to the frame allocator: what does not fit is refused, and what
/// is taken out of the memory map is only counted. When the last page has come back, the pool is as new.
///
/// Where a range is populated that begins with the frames that are set aside, these are absent from the memory map:
/// nobody can claim them.
///
/// One value may serve several ranges, and several memory maps. A memory map that is dropped does not count off what it
/// had: the pool stays as full as it was.
///
/// Source: Linux: `vmem_altmap`, with the same `reserve`, `free`, `alloc` and `align`. (There a page that comes back is
/// subtracted from what was handed out, so that the next one may be handed out twice; here the position only moves up
/// until all are back.)
#[derive(Debug, PartialEq, Eq)]
pub struct Altmap {
    base: Pfn,
    reserve: u64,
    free: u64,
    alloc: u64,
    align: u64,
    /// Frames from the start of the pool that were handed out or skipped since it was last empty.
    next: u64,
}

/// A pool's counters, to go back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    alloc: u64,
    align: u64,
    next: u64,
}

impl Altmap {
    /// A pool of `free` frames, `reserve` frames above `base`. `None` where they pass [`Pfn::MAX`] or `free` is 0.
    ///
    /// # Safety
    ///
    /// The memory map writes descriptors to the frames of the pool, and trusts them to stay. So nobody else accesses
    /// them, no allocator hands them out, and no second value is made for any of them, until everything that was
    /// populated with this one has been removed, or the memory map is gone.
    #[must_use]
    pub const unsafe fn new(base: Pfn, reserve: u64, free: u64) -> Option<Self> {
        let Some(frames) = reserve.checked_add(free) else { return None };
        if free == 0 || PfnRange::new(base, frames).is_none() {
            return None;
        }
        Some(Self { base, reserve, free, alloc: 0, align: 0, next: 0 })
    }

    /// The first frame that is set aside.
    #[must_use]
    pub const fn base(&self) -> Pfn {
        self.base
    }

    /// The first frame of the pool, and its name: no two pools have a frame in common, though they may have a base.
    #[must_use]
    pub fn pool(&self) -> Pfn {
        // Checked by `new`.
        self.base.checked_add(self.reserve).unwrap_or(self.base)
    }

    /// Frames before the pool, which are somebody else's.
    #[must_use]
    pub const fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Frames of the pool.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Frames that hold descriptors now.
    #[must_use]
    pub const fn alloc(&self) -> u64 {
        self.alloc
    }

    /// Frames that were skipped so that blocks begin at multiples of their size.
    #[must_use]
    pub const fn align(&self) -> u64 {
        self.align
    }

    /// The frames from `base` up to the first that is not set aside: `reserve` and `free` together, used or not.
    #[must_use]
    pub fn set_aside(&self) -> PfnRange {
        // Checked by `new`.
        PfnRange::new(self.base, self.reserve + self.free)
            .unwrap_or(PfnRange::block(self.base, mmkit_addr::Order::ZERO))
    }

    /// The first frame behind the pool.
    #[must_use]
    pub fn usable(&self) -> u64 {
        self.set_aside().end()
    }

    /// Takes `frames` frames, from a multiple of the largest power of two that divides their number.
    pub(crate) fn take(&mut self, frames: u64) -> Option<Pfn> {
        let at = self.pool().checked_add(self.next)?;
        let unit = 1 << frames.trailing_zeros();
        let skip = at.get().wrapping_neg() & (unit - 1);
        let next = self.next.checked_add(skip)?.checked_add(frames)?;
        if next > self.free {
            return None;
        }
        self.align += skip;
        self.alloc += frames;
        self.next = next;
        at.checked_add(skip)
    }

    /// Takes back `frames` frames that nobody can reach any more.
    pub(crate) fn give(&mut self, frames: u64) {
        self.alloc = self.alloc.saturating_sub(frames);
        if self.alloc == 0 {
            (self.align, self.next) = (0, 0);
        }
    }

    pub(crate) const fn mark(&self) -> Mark {
        Mark { alloc: self.alloc, align: self.align, next: self.next }
    }

    /// Forgets what was taken since `mark`.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        Mark { alloc: self.alloc, align: self.align, next: self.next } = mark;
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    fn pool(base: u64, reserve: u64, free: u64) -> Altmap {
        // SAFETY: nothing is populated with it.
        unsafe { Altmap::new(Pfn::new(base).unwrap(), reserve, free) }.unwrap()
    }

    /// Scenario 16: 512 frames asked for one frame above a multiple of 512.
    #[test]
    fn blocks_begin_at_multiples_of_their_size() {
        let mut altmap = pool(1 << 15, 1, 1023);
        assert_eq!(altmap.take(512).map(Pfn::get), Some((1 << 15) + 512));
        assert_eq!((altmap.alloc(), altmap.align(), altmap.usable()), (512, 511, (1 << 15) + 1024));
        assert_eq!(altmap.take(1), None);
        altmap.give(512);
        assert_eq!((altmap.alloc(), altmap.align()), (0, 0));
        // Three frames need no more than a multiple of one.
        assert_eq!(altmap.take(3).map(Pfn::get), Some((1 << 15) + 1));
        assert_eq!(altmap.take(6).map(Pfn::get), Some((1 << 15) + 4));
        assert_eq!(altmap.take(8).map(Pfn::get), Some((1 << 15) + 16));
        assert_eq!((altmap.alloc(), altmap.align()), (17, 6));
    }

    #[test]
    fn nothing_is_handed_out_twice_while_something_is_out() {
        let mut altmap = pool(0, 0, 4);
        let first: std::vec::Vec<_> = (0..3).filter_map(|_| altmap.take(1)).collect();
        altmap.give(2);
        let mark = altmap.mark();
        let last = altmap.take(1).unwrap();
        assert!(!first.contains(&last));
        assert_eq!((altmap.take(1), altmap.alloc()), (None, 2));
        altmap.rewind(mark);
        assert_eq!((altmap.alloc(), altmap.take(1)), (1, Some(last)));
    }

    #[test]
    fn pools_that_cannot_be() {
        for (base, reserve, free) in [(0, 5, 0), (Pfn::MAX.get(), 1, 1), (0, u64::MAX, 1)] {
            // SAFETY: nothing is populated with it.
            assert!(unsafe { Altmap::new(Pfn::new(base).unwrap(), reserve, free) }.is_none());
        }
    }
}
