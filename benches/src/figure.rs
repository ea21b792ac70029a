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
            quartiles: Some(paired.quartiles),
            thing_ns: Some(paired.thing_ns),
            baseline_ns: Some(paired.baseline_ns),
            what,
        }
    }

    /// A ratio of two counts.
    pub(crate) fn counted(key: &'static str, what: &'static str, at_most: Option<f64>, value: f64) -> Self {
        Self { key, value, at_most, quartiles: None, thing_ns: None, baseline_ns: None, what }
    }

    /// Whether the goal is met; `None` where there is none.
    pub(crate) fn met(&self) -> Option<bool> {
        self.at_most.map(|goal| self.value <= goal)
    }
}
