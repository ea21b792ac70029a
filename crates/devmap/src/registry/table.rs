// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sorted array in which frame numbers are looked up.

use alloc::boxed::Box;
use core::ptr::NonNull;

use mmkit_addr::{Pfn, PfnRange};
use mmkit_sync::atomic::{AtomicU64, Ordering, UnsafeCell};
use mmkit_sync::mutant;

use super::Pagemap;
use crate::heap::{array, boxed};
use crate::{DevmapError, PagemapIndex};

/// Intervals in ascending order, and pagemaps by index. Once published only the visible ends change.
pub(super) struct Table {
    /// Intervals that there are. In a cell, so that the model checker sees who looks while a table is made anew.
    len: UnsafeCell<usize>,
    /// Where each begins; `u64::MAX` past the last.
    starts: Box<[u64]>,
    /// What a lookup needs beside that, of each.
    spans: Box<[Span]>,
    /// One past the last frame of each, visible or not.
    ends: Box<[u64]>,
    /// The pagemaps, each in the slot that its index names.
    slots: Box<[Option<NonNull<Pagemap>>]>,
}

/// One interval beside its start: 16 bytes, so that a lookup touches one more cache line than a search.
struct Span {
    /// One past its last frame while it is visible, else 0: so no frame is below it.
    shown: AtomicU64,
    of: NonNull<Pagemap>,
}

impl Table {
    /// An empty table with room for `room` intervals, and as many pagemaps.
    pub(super) fn new(room: usize) -> Result<Box<Self>, DevmapError> {
        let spans = || Span { shown: AtomicU64::new(0), of: NonNull::dangling() };
        boxed(Self {
            len: UnsafeCell::new(0),
            starts: array(room, || u64::MAX)?,
            spans: array(room, spans)?,
            ends: array(room, || 0)?,
            slots: array(room, || None)?,
        })
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        // SAFETY: written only by `rebuild`, which has the table for itself.
        self.len.with(|len| unsafe { *len })
    }

    pub(super) const fn room(&self) -> usize {
        self.starts.len()
    }

    /// The pagemap of `pfn`, if it is visible.
    #[inline]
    pub(super) fn find(&self, pfn: Pfn) -> Option<NonNull<Pagemap>> {
        let starts = self.starts.get(..self.len())?;
        let at = last_not_above(starts, pfn.get());
        // Guessed right as a rule, so what follows does not wait for the search.
        let start = *starts.get(at)?;
        // SAFETY: `at` is below `len`, as was just seen, and there are as many spans as starts.
        let span = unsafe { self.spans.get_unchecked(at) };
        // Acquire: pairs with the Release of `show`: what was populated is seen by whoever finds it.
        let order = mutant!("registry-find-relaxed", Ordering::Acquire, Ordering::Relaxed);
        let inside = start <= pfn.get() && pfn.get() < span.shown.load(order);
        inside.then_some(span.of)
    }

    /// The pagemap of `pfn`, visible or not.
    pub(super) fn find_reserved(&self, pfn: Pfn) -> Option<NonNull<Pagemap>> {
        let at = self.starts[..self.len()].partition_point(|&start| start <= pfn.get()).checked_sub(1)?;
        (pfn.get() < self.ends[at]).then_some(self.spans[at].of)
    }

    /// The pagemap of that index, visible or not.
    #[inline]
    pub(super) fn of_index(&self, index: PagemapIndex) -> Option<NonNull<Pagemap>> {
        self.slots.get(index.slot()).copied().flatten()
    }

    /// An interval that has frames of `range`, visible or not.
    pub(super) fn overlap(&self, range: PfnRange) -> Option<PfnRange> {
        let at = self.starts[..self.len()].partition_point(|&start| start < range.end()).checked_sub(1)?;
        let start = Pfn::new(self.starts[at])?;
        let other = PfnRange::new(start, self.ends[at] - self.starts[at])?;
        let overlaps = mutant!(
            "registry-overlap-endpoints",
            other.overlaps(range),
            other.contains(range.start()) || range.last().is_some_and(|last| other.contains(last))
        );
        overlaps.then_some(other)
    }

    /// A slot that no pagemap has.
    pub(super) fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    /// Makes the intervals of `of` visible.
    pub(super) fn show(&self, of: NonNull<Pagemap>) {
        for (span, &end) in self.spans[..self.len()].iter().zip(&self.ends).filter(|(span, _)| span.of == of)
        {
            // Release: pairs with the Acquire of `find`.
            let order = mutant!("registry-show-relaxed", Ordering::Release, Ordering::Relaxed);
            span.shown.store(end, order);
        }
    }

    /// Makes them invisible: readers that found them before are waited for by others.
    pub(super) fn hide(&self, of: NonNull<Pagemap>) {
        for span in self.spans[..self.len()].iter().filter(|span| span.of == of) {
            span.shown.store(0, Ordering::Relaxed);
        }
    }

    /// Makes those invisible whose pagemap was killed: for the holder of the lock, who keeps the pagemaps of the table.
    pub(super) fn hide_dead(&self) {
        for span in &self.spans[..self.len()] {
            // SAFETY: a pagemap that the table has is freed by the holder of the lock only.
            let of = unsafe { span.of.as_ref() };
            if of.is_dead() {
                span.shown.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Makes this the same as `other`, with `added`, which is not visible, and without `removed`. There is room.
    pub(super) fn rebuild(
        &mut self,
        other: &Self,
        added: Option<(&[PfnRange], PagemapIndex, NonNull<Pagemap>)>,
        removed: Option<NonNull<Pagemap>>,
    ) {
        let (mut ranges, index, of) = match added {
            Some((ranges, index, of)) => (ranges, Some(index), of),
            None => (&[][..], None, NonNull::dangling()),
        };
        let mut len = 0;
        let mut push = |start: u64, end: u64, shown: u64, of: NonNull<Pagemap>| {
            self.starts[len] = start;
            self.spans[len] = Span { shown: AtomicU64::new(shown), of };
            self.ends[len] = end;
            len += 1;
        };
        for at in 0..other.len() {
            let (start, span) = (other.starts[at], &other.spans[at]);
            while let Some((&range, rest)) = ranges.split_first() {
                if range.start().get() > start {
                    break;
                }
                push(range.start().get(), range.end(), 0, of);
                ranges = rest;
            }
            if removed != Some(span.of) {
                push(start, other.ends[at], span.shown.load(Ordering::Relaxed), span.of);
            }
        }
        for range in ranges {
            push(range.start().get(), range.end(), 0, of);
        }
        self.starts[len..].fill(u64::MAX);
        // SAFETY: the table is borrowed for good.
        self.len.with_mut(|now| unsafe { *now = len });
        for (slot, pagemap) in self.slots.iter_mut().enumerate() {
            let kept = other.slots.get(slot).copied().flatten().filter(|&kept| removed != Some(kept));
            *pagemap = if index.is_some_and(|index| index.slot() == slot) { Some(of) } else { kept };
        }
    }

    /// Every pagemap.
    pub(super) fn pagemaps(&self) -> impl Iterator<Item = NonNull<Pagemap>> {
        self.slots.iter().copied().flatten()
    }
}

/// The last of the sorted numbers `starts` that is not above `number`; 0 where all are.
///
/// Looks at three numbers at once and keeps a quarter, with no branch that depends on what it finds: half the steps of a
/// binary search, each of which waits for the one before.
#[inline]
fn last_not_above(starts: &[u64], number: u64) -> usize {
    let (mut base, mut size) = (0, starts.len());
    let not_above = |at: usize| {
        debug_assert!(at < starts.len());
        // SAFETY: `at` is below `base + size`, which is never above the length: `base` grows by no more than `size`
        // shrinks.
        usize::from(*unsafe { starts.get_unchecked(at) } <= number)
    };
    while size >= 4 {
        let quarter = size / 4;
        let [one, two, three] = [1, 2, 3].map(|times| not_above(base + times * quarter));
        base += (one + two + three) * quarter;
        size -= 3 * quarter;
    }
    while size > 1 {
        base += not_above(base + 1);
        size -= 1;
    }
    base
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_last_that_is_not_above() {
        for len in 0..200_u64 {
            // With gaps, and neighbours.
            let starts: Vec<u64> = (0..len).map(|n| 10 + n * 3 + n / 5).collect();
            for number in 0..30 + len * 4 {
                let expected = starts.partition_point(|&start| start <= number).saturating_sub(1);
                assert_eq!(last_not_above(&starts, number), expected, "{number} in {len}");
            }
        }
    }
}
