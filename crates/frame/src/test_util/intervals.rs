// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of frame numbers as coalesced intervals.

use std::collections::BTreeMap;

use mmkit_addr::Order;

/// Disjoint, never adjacent, half-open intervals: start to end.
#[derive(Debug, Default)]
pub(super) struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Adds `start..end`, whatever of it is there already.
    pub(super) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start == end {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..=end).next_back()
            && e >= start
        {
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    /// Removes `start..end`, whatever of it is there.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        while let Some((&s, &e)) = self.0.range(..end).next_back()
            && e > start
        {
            self.0.remove(&s);
            if s < start {
                self.0.insert(s, start);
            }
            if e > end {
                self.0.insert(end, e);
            }
        }
    }

    /// Whether `at` is in the set.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(_, &end)| at < end)
    }

    /// The lowest naturally aligned block of `order`.
    pub(super) fn first_fit(&self, order: Order) -> Option<u64> {
        self.0.iter().find_map(|(&start, &end)| {
            let aligned = start.checked_next_multiple_of(order.frames())?;
            (aligned.checked_add(order.frames())? <= end).then_some(aligned)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn list(set: &Intervals) -> Vec<(u64, u64)> {
        set.0.iter().map(|(&s, &e)| (s, e)).collect()
    }

    #[test]
    fn inserts_coalesce_and_removals_cut() {
        let mut set = Intervals::default();
        set.insert(0, 4);
        set.insert(8, 12);
        set.insert(20, 24);
        assert_eq!(list(&set), [(0, 4), (8, 12), (20, 24)]);
        set.insert(4, 8);
        assert_eq!(list(&set), [(0, 12), (20, 24)], "both neighbours");
        set.insert(2, 22);
        assert_eq!(list(&set), [(0, 24)], "overlaps");
        set.insert(5, 5);
        assert_eq!(list(&set), [(0, 24)], "an empty interval adds nothing");
        set.remove(3, 5);
        assert_eq!(list(&set), [(0, 3), (5, 24)]);
        set.remove(2, 6);
        assert_eq!(list(&set), [(0, 2), (6, 24)]);
        set.remove(30, 40);
        assert_eq!(list(&set), [(0, 2), (6, 24)]);
        assert!(set.contains(1) && !set.contains(2) && set.contains(6) && !set.contains(24));
    }

    #[test]
    fn first_fit_is_lowest_and_aligned() {
        let order = |k| Order::new(k).unwrap();
        let mut set = Intervals::default();
        set.insert(1, 4);
        set.insert(6, 17);
        assert_eq!(set.first_fit(order(0)), Some(1));
        assert_eq!(set.first_fit(order(1)), Some(2));
        assert_eq!(set.first_fit(order(2)), Some(8));
        assert_eq!(set.first_fit(order(3)), Some(8));
        assert_eq!(set.first_fit(order(4)), None);
        assert_eq!(set.first_fit(Order::MAX), None);
    }
}
