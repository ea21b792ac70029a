// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paired timing: two pieces of work in turn, in one run, on the same machine state. Times are processor times.

use std::time::Duration;

use crate::clock::ThreadTime;

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds that count; each runs both sides.
    pub(crate) rounds: usize,
    /// What one side of a round should take at least.
    pub(crate) sample: Duration,
}

impl Effort {
    /// Enough for a figure to quote.
    pub(crate) const FULL: Self = Self { rounds: 101, sample: Duration::from_millis(4) };
    /// Enough to see that nothing is broken.
    pub(crate) const QUICK: Self = Self { rounds: 21, sample: Duration::from_millis(2) };
}

/// Medians of both sides, in nanoseconds per operation, and the ratio of the two in each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paired {
    /// The thing.
    pub(crate) thing_ns: f64,
    /// The least that could do its work.
    pub(crate) baseline_ns: f64,
    /// Median of thing / baseline, round by round.
    pub(crate) ratio: f64,
    /// First and third quartile of the same.
    pub(crate) quartiles: (f64, f64),
}

impl Paired {
    /// Medians of times of both sides, round by round, and of what one took of the other in the same round.
    pub(crate) fn of(mut thing: Vec<f64>, mut baseline: Vec<f64>) -> Self {
        let mut ratios: Vec<f64> =
            thing.iter().zip(&baseline).map(|(thing, baseline)| thing / baseline).collect();
        Self {
            thing_ns: quantile(&mut thing, 0.5),
            baseline_ns: quantile(&mut baseline, 0.5),
            ratio: quantile(&mut ratios, 0.5),
            quartiles: (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)),
        }
    }
}

/// Times `thing` against `baseline`; each call does `ops` operations.
///
/// The sides take turns at going first, so that drift of the machine falls on both. A round whose ratio is an outlier
/// moves the median by one place at most.
pub(crate) fn pair(effort: Effort, ops: u64, thing: impl FnMut(), baseline: impl FnMut()) -> Paired {
    pair_by(effort, ops, whole(thing), whole(baseline))
}

/// As [`pair`], of sides that say themselves how many nanoseconds count: those that undo, between two times, what is to be timed
/// once more.
pub(crate) fn pair_parts(
    effort: Effort,
    ops: u64,
    thing: impl FnMut() -> f64,
    baseline: impl FnMut() -> f64,
) -> Paired {
    pair_by(effort, ops, parts(thing), parts(baseline))
}

/// Nanoseconds per operation in each round of a side that says itself how many count.
pub(crate) fn each_part(effort: Effort, ops: u64, thing: impl FnMut() -> f64) -> Vec<f64> {
    let mut thing = parts(thing);
    let repeat = repeats(effort, &mut thing);
    (0..effort.rounds).map(|_| thing(repeat) / (repeat * ops) as f64).collect()
}

/// Nanoseconds that so many times take, all in all.
fn whole(mut side: impl FnMut()) -> impl FnMut(u64) -> f64 {
    move |repeat| {
        let start = ThreadTime::now();
        for _ in 0..repeat {
            side();
        }
        start.elapsed_ns()
    }
}

/// The same, of those that count.
fn parts(mut side: impl FnMut() -> f64) -> impl FnMut(u64) -> f64 {
    move |repeat| (0..repeat).map(|_| side()).sum()
}

fn pair_by(
    effort: Effort,
    ops: u64,
    mut thing: impl FnMut(u64) -> f64,
    mut baseline: impl FnMut(u64) -> f64,
) -> Paired {
    let repeat = repeats(effort, &mut baseline).max(repeats(effort, &mut thing));
    let mut rounds = Vec::with_capacity(effort.rounds);
    for round in 0..effort.rounds {
        let (a, b) = if round % 2 == 0 {
            let a = thing(repeat);
            (a, baseline(repeat))
        } else {
            let b = baseline(repeat);
            (thing(repeat), b)
        };
        rounds.push((a, b));
    }
    let per_op = |ns: f64| ns / (repeat * ops) as f64;
    let mut ratios: Vec<f64> = rounds.iter().map(|(a, b)| a / b).collect();
    let mut things: Vec<f64> = rounds.iter().map(|&(a, _)| per_op(a)).collect();
    let mut baselines: Vec<f64> = rounds.iter().map(|&(_, b)| per_op(b)).collect();
    Paired {
        thing_ns: quantile(&mut things, 0.5),
        baseline_ns: quantile(&mut baselines, 0.5),
        ratio: quantile(&mut ratios, 0.5),
        quartiles: (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)),
    }
}

/// How often a side must run to take a sample's time. Also warms it up.
fn repeats(effort: Effort, side: &mut impl FnMut(u64) -> f64) -> u64 {
    let mut repeat = 1;
    while side(repeat) < effort.sample.as_secs_f64() * 1e9 {
        repeat *= 2;
    }
    repeat
}

/// The value below which `part` of `values` lie. Sorts them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_work_takes_about_twice_the_time() {
        // Work that cannot be skipped or overlapped: each step needs the one before.
        let chain = |steps: u64| {
            move || {
                let mut x = std::hint::black_box(1u64);
                for _ in 0..steps {
                    x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17));
                }
            }
        };
        let paired = pair(Effort::QUICK, 1, chain(20_000), chain(10_000));
        assert!((1.5..2.5).contains(&paired.ratio), "{paired:?}");
    }

    #[test]
    fn only_the_parts_that_a_side_names_count() {
        let side = |ns: f64| move || std::hint::black_box(ns);
        let paired = pair_parts(Effort::QUICK, 10, side(3e6), side(1e6));
        assert_eq!((paired.ratio, paired.thing_ns, paired.baseline_ns), (3.0, 3e5, 1e5));
        assert_eq!(each_part(Effort::QUICK, 10, side(3e6)), [3e5; 21]);
    }

    #[test]
    fn quantiles_of_a_few_values() {
        let mut values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(
            (quantile(&mut values, 0.0), quantile(&mut values, 0.5), quantile(&mut values, 1.0)),
            (1.0, 3.0, 5.0)
        );
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
