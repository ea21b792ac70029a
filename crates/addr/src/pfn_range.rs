// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of frames, and their tiling with naturally aligned blocks.

use core::fmt;
use core::iter::FusedIterator;

use crate::{Order, Pfn};

/// Frames `start..end`, half open. Never inverted; may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PfnRange {
    start: Pfn,
    end: u64,
}

impl PfnRange {
    /// Frames `start..start + frames`, or `None` where they pass [`Pfn::MAX`].
    #[must_use]
    pub const fn new(start: Pfn, frames: u64) -> Option<Self> {
        match start.get().checked_add(frames) {
            Some(end) if end <= Pfn::MAX.get() + 1 => Some(Self { start, end }),
            _ => None,
        }
    }

    /// Frames `start..end`, or `None` where `end` is below `start`.
    #[must_use]
    pub const fn between(start: Pfn, end: Pfn) -> Option<Self> {
        match end.offset_from(start) {
            Some(_) => Some(Self { start, end: end.get() }),
            None => None,
        }
    }

    /// The naturally aligned block of `order` that `pfn` lies in.
    #[must_use]
    pub const fn block(pfn: Pfn, order: Order) -> Self {
        let start = pfn.align_down(order);
        Self { start, end: start.get() + order.frames() }
    }

    /// First frame.
    #[must_use]
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// One past the last frame's number.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Last frame, or `None` of an empty range.
    #[must_use]
    pub const fn last(self) -> Option<Pfn> {
        if self.is_empty() { None } else { Pfn::new(self.end - 1) }
    }

    /// Frames in the range.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.end - self.start.get()
    }

    /// Whether no frame lies in the range.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.frames() == 0
    }

    /// Whether `pfn` lies in the range.
    #[must_use]
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.get() <= pfn.get() && pfn.get() < self.end
    }

    /// Whether every frame of `other` lies in the range (an empty range lies in any).
    #[must_use]
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start.get() <= other.start.get() && other.end <= self.end)
    }

    /// Whether some frame lies in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The frames that lie in both, or `None` where there are none.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Option<Self> {
        let start = if self.start.get() > other.start.get() { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start.get() < end { Some(Self { start, end }) } else { None }
    }

    /// The first `frames` frames and the rest, or `None` where the range is shorter.
    ///
    /// A range that ends at the very top of the number line cannot be split at its end: the empty rest would have
    /// no start.
    #[must_use]
    pub const fn split_at(self, frames: u64) -> Option<(Self, Self)> {
        if frames > self.frames() {
            return None;
        }
        match self.start.checked_add(frames) {
            Some(middle) => {
                Some((Self { start: self.start, end: middle.get() }, Self { start: middle, end: self.end }))
            }
            None => None,
        }
    }

    /// Whether the range begins and ends at multiples of `2^order` frames.
    #[must_use]
    pub const fn is_aligned(self, order: Order) -> bool {
        (self.start.get() | self.end) & order.mask() == 0
    }

    /// The part that consists of whole naturally aligned blocks of `order`, or `None` where no block fits.
    #[must_use]
    pub const fn aligned_part(self, order: Order) -> Option<Self> {
        match self.start.align_up(order) {
            Some(start) => {
                let end = self.end & !order.mask();
                if start.get() < end { Some(Self { start, end }) } else { None }
            }
            None => None,
        }
    }

    /// Every frame, lowest first.
    #[must_use]
    pub const fn iter(self) -> PfnIter {
        PfnIter { next: self.start.get(), end: self.end }
    }

    /// The tiling of the range with naturally aligned blocks of at most `max`, lowest first.
    ///
    /// Each block is the largest that may start where it starts: no two neighbours could be one block of at most
    /// `max`. At most two blocks of every order below `max` occur, rising at the lower edge and falling at the upper.
    ///
    /// ```
    /// use mmkit_addr::{Order, Pfn, PfnRange};
    ///
    /// let huge = Order::new(9).unwrap();
    /// let range = PfnRange::new(Pfn::new(510).unwrap(), 515).unwrap();
    /// let tiles: Vec<_> = range.blocks(huge).map(|(pfn, order)| (pfn.get(), order.get())).collect();
    /// assert_eq!(tiles, [(510, 1), (512, 9), (1024, 0)]);
    /// ```
    #[must_use]
    pub const fn blocks(self, max: Order) -> Blocks {
        Blocks { next: self.start.get(), end: self.end, max }
    }
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfns {:#x}..{:#x}", self.start.get(), self.end)
    }
}

impl IntoIterator for PfnRange {
    type Item = Pfn;
    type IntoIter = PfnIter;

    fn into_iter(self) -> PfnIter {
        self.iter()
    }
}

/// The frames of a [`PfnRange`]; from [`PfnRange::iter`].
#[derive(Clone, Debug)]
pub struct PfnIter {
    next: u64,
    end: u64,
}

impl PfnIter {
    const fn left(&self) -> u64 {
        self.end - self.next
    }
}

impl Iterator for PfnIter {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        self.nth(0)
    }

    fn nth(&mut self, n: usize) -> Option<Pfn> {
        let n = n as u64;
        if n >= self.left() {
            self.next = self.end;
            return None;
        }
        let pfn = Pfn::new(self.next + n);
        self.next += n + 1;
        pfn
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left());
        (left.unwrap_or(usize::MAX), left.ok())
    }
}

impl DoubleEndedIterator for PfnIter {
    fn next_back(&mut self) -> Option<Pfn> {
        if self.left() == 0 {
            return None;
        }
        self.end -= 1;
        Pfn::new(self.end)
    }
}

impl FusedIterator for PfnIter {}

/// Naturally aligned blocks that tile a [`PfnRange`]; from [`PfnRange::blocks`].
#[derive(Clone, Debug)]
pub struct Blocks {
    next: u64,
    end: u64,
    max: Order,
}

impl Iterator for Blocks {
    type Item = (Pfn, Order);

    fn next(&mut self) -> Option<(Pfn, Order)> {
        let fits = Order::largest_within(self.end - self.next)?;
        let pfn = Pfn::new(self.next)?;
        let order = pfn.natural_order().at_most(fits).at_most(self.max);
        self.next += order.frames();
        Some((pfn, order))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // At least the frames in blocks of `max`; at most that and two of every order below.
        let whole = (self.end - self.next) >> self.max.get();
        let lower = if self.end == self.next { 0 } else { whole.max(1) };
        let upper = whole.saturating_add(2 * u64::from(self.max.get()));
        (usize::try_from(lower).unwrap_or(usize::MAX), usize::try_from(upper).ok())
    }
}

impl FusedIterator for Blocks {}

static_assertions::assert_eq_size!(PfnRange, [u64; 2]);
static_assertions::assert_impl_all!(PfnRange: Send, Sync);
static_assertions::assert_impl_all!(PfnIter: Send, Sync);
static_assertions::assert_impl_all!(Blocks: Send, Sync);
