// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a benchmark reports: a key, a value, the goal, and where the value comes from.

use serde::Serialize;

use crate::pair::Paired;

/// One measured or counted figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Its name.
    pub(crate) key: &'static str,
    /// What was measured.
    pub(crate) value: f64,
    /// What it should be at most; `None` where it is only printed.
    pub(crate) at_most: Option<f64>,
    /// What it should be at least, for goals with two ends.
    pub(crate) at_least: Option<f64>,
    /// First and third quartile over the rounds, for what was timed.
    pub(crate) quartiles: Option<(f64, f64)>,
    /// Median of the thing, ns per operation.
    pub(crate) thing_ns: Option<f64>,
    /// Median of the baseline, ns per operation.
    pub(crate) baseline_ns: Option<f64>,
    /// Thing / baseline, in words.
    pub(crate) what: &'static str,
}

impl Figure {
    /// A ratio of two times.
    pub(crate) fn timed(key: &'static str, what: &'static str, at_most: Option<f64>, paired: Paired) -> Self {
        Self {
            key,
            value: paired.ratio,
            at_most,
            at_least: None,
            quartiles: Some(paired.quartiles),
            thing_ns: Some(paired.thing_ns),
            baseline_ns: Some(paired.baseline_ns),
            what,
        }
    }

    /// A ratio of two counts.
    pub(crate) fn counted(key: &'static str, what: &'static str, at_most: Option<f64>, value: f64) -> Self {
        Self { key, value, at_most, at_least: None, quartiles: None, thing_ns: None, baseline_ns: None, what }
    }

    /// The same with a lower end to its goal.
    pub(crate) fn at_least(mut self, goal: f64) -> Self {
        self.at_least = Some(goal);
        self
    }

    /// Whether the goal is met; `None` where there is none.
    pub(crate) fn met(&self) -> Option<bool> {
        let enough = self.at_least.map(|goal| self.value >= goal);
        let not_more = self.at_most.map(|goal| self.value <= goal);
        // What is not a number meets no goal.
        enough.into_iter().chain(not_more).reduce(|a, b| a && b)
    }

    /// Why the run has failed because of this figure, if it has: a baseline that is slower than what it consists of makes
    /// everything that is compared with it look good.
    pub(crate) fn failure(&self) -> Option<String> {
        let baseline = self.key == "base_vs_bare";
        (baseline && self.met() == Some(false)).then(|| {
            format!(
                "{} is {:.3}, and at most {:.3} is allowed: {}. The baseline is slower than its own bare operations, so nothing \
                 compared with it counts",
                self.key,
                self.value,
                self.at_most.unwrap_or(f64::NAN),
                self.what
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_have_one_end_or_two_or_none() {
        let figure = |value| Figure::counted("key", "what", Some(1.25), value);
        assert_eq!([0.0, 1.25, 1.3].map(|value| figure(value).met()), [Some(true), Some(true), Some(false)]);
        let range = |value| figure(value).at_least(0.75).met();
        assert_eq!([0.7, 0.75, 1.25, 1.3].map(range), [Some(false), Some(true), Some(true), Some(false)]);
        assert_eq!(range(f64::NAN), Some(false));
        assert_eq!(Figure::counted("key", "what", None, 5.0).met(), None);
    }

    #[test]
    fn a_baseline_slower_than_its_operations_fails_the_run_and_says_which() {
        let figure = |key, value| Figure::counted(key, "what", Some(1.1), value);
        assert_eq!(figure("base_vs_bare", 1.05).failure(), None);
        assert_eq!(figure("base_vs_bare_add_1", 1.2).failure(), None);
        let why = figure("base_vs_bare", 1.2).failure().unwrap();
        assert!(why.contains("base_vs_bare is 1.200"), "{why}");
    }
}
