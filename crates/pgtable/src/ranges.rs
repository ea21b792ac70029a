// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small set of ranges that may be imprecise, but never too small.

use crate::node::Span;

/// The most ranges kept apart.
pub(crate) const RANGES: usize = 6;

/// Spans, ascending and apart. Where more than [`RANGES`] would be needed, the two with the smallest gap become one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges {
    spans: [Span; RANGES],
    len: usize,
}

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self { spans: [Span { from: 0, last: 0 }; RANGES], len: 0 }
    }

    pub(crate) fn of(span: Span) -> Self {
        let mut ranges = Self::new();
        ranges.add(span);
        ranges
    }

    pub(crate) fn as_slice(&self) -> &[Span] {
        &self.spans[..self.len]
    }

    /// Adds `span`, and perhaps some of what lies between it and others.
    pub(crate) fn add(&mut self, mut span: Span) {
        let mut all = [Span { from: 0, last: 0 }; RANGES + 1];
        let mut len = 0;
        for &other in self.as_slice() {
            // Touching or overlapping spans become one.
            if other.last.saturating_add(1) >= span.from && span.last.saturating_add(1) >= other.from {
                span = Span { from: span.from.min(other.from), last: span.last.max(other.last) };
            } else {
                all[len] = other;
                len += 1;
            }
        }
        all[len] = span;
        len += 1;
        all[..len].sort_unstable_by_key(|span| span.from);
        if len > RANGES {
            let gap = |at: &usize| all[at + 1].from - all[*at].last;
            let at = (0..RANGES).min_by_key(gap).unwrap_or(0);
            all[at].last = all[at + 1].last;
            all.copy_within(at + 2..len, at + 1);
            len -= 1;
        }
        self.spans.copy_from_slice(&all[..RANGES]);
        self.len = len;
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    fn of(ranges: &Ranges) -> std::vec::Vec<(u64, u64)> {
        ranges.as_slice().iter().map(|span| (span.from, span.last)).collect()
    }

    #[test]
    fn neighbours_become_one() {
        let mut ranges = Ranges::new();
        ranges.add(Span { from: 10, last: 19 });
        ranges.add(Span { from: 30, last: 39 });
        assert_eq!(of(&ranges), [(10, 19), (30, 39)]);
        ranges.add(Span { from: 20, last: 29 });
        assert_eq!(of(&ranges), [(10, 39)]);
        ranges.add(Span { from: 0, last: u64::MAX });
        ranges.add(Span { from: 5, last: 5 });
        assert_eq!(of(&ranges), [(0, u64::MAX)]);
    }

    #[test]
    fn the_smallest_gap_is_given_up_first() {
        let mut ranges = Ranges::new();
        for at in [900, 100, 300, 500, 700, 1100, 1201] {
            ranges.add(Span { from: at, last: at + 9 });
        }
        assert_eq!(of(&ranges).len(), RANGES);
        assert_eq!(of(&ranges)[RANGES - 1], (1100, 1210));
        assert_eq!(of(&ranges)[0], (100, 109));
    }
}
