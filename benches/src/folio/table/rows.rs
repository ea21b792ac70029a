// SPDX-License-Identifier: MIT OR Apache-2.0
//! From times to changes: rounds are compared one by one, and the median of the comparisons is told.

use serde::Serialize;

use super::ops::Op;
use super::published::{Published, published};
use crate::pair::quantile;

/// The sides, as indices. The last is the first again, in a world of its own.
pub(crate) const BASE: usize = 0;
pub(crate) const MMID: usize = 1;
pub(crate) const NOMAPCOUNT: usize = 2;
pub(crate) const POWERSUMS: usize = 3;
pub(crate) const AGAIN: usize = 4;
pub(crate) const SIDES: usize = 5;

/// Changes smaller than this are none, however quiet the machine: the published ones have a standard deviation of one to
/// two percent.
const LEAST_NOISE: f64 = 0.02;

/// Nanoseconds per page for one size of folios. What has the same index was measured in the same round.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    times: [[Vec<f64>; SIDES]; Op::ALL.len()],
    bare: [Vec<f64>; Op::ALL.len()],
}

impl Samples {
    pub(crate) fn note(&mut self, op: Op, side: usize, ns: f64) {
        self.times[op as usize][side].push(ns);
    }

    pub(crate) fn note_bare(&mut self, op: Op, ns: f64) {
        self.bare[op as usize].push(ns);
    }

    pub(crate) fn median(&self, op: Op, side: usize) -> f64 {
        quantile(&mut self.times[op as usize][side].clone(), 0.5)
    }

    /// The change of run time against Base, round by round.
    fn changes(&self, op: Op, side: usize) -> Vec<f64> {
        let times = &self.times[op as usize];
        times[side].iter().zip(&times[BASE]).map(|(time, base)| time / base - 1.0).collect()
    }

    /// What leaving the counts of pages out saves, in bare atomics of the same number, round by round.
    pub(crate) fn saved_vs_bare(&self, op: Op) -> Option<Spread> {
        let times = &self.times[op as usize];
        let saved = times[BASE].iter().zip(&times[NOMAPCOUNT]).map(|(base, less)| base - less);
        let mut ratios: Vec<f64> =
            saved.zip(&self.bare[op as usize]).map(|(saved, bare)| saved / bare).collect();
        (!ratios.is_empty()).then(|| Spread::of(&mut ratios))
    }

    /// The median cost of the bare atomics, ns per page.
    pub(crate) fn bare(&self, op: Op) -> f64 {
        quantile(&mut self.bare[op as usize].clone(), 0.5)
    }
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    fn of(values: &mut [f64]) -> Self {
        Self { median: quantile(values, 0.5), low: quantile(values, 0.25), high: quantile(values, 0.75) }
    }
}

/// First and third quartile of each change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quartiles {
    pub(crate) mmid: (f64, f64),
    pub(crate) nomapcount: (f64, f64),
    pub(crate) powersums: (f64, f64),
}

/// One operation on folios of one size: changes of run time against Base, as fractions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) size_kib: u64,
    pub(crate) op: &'static str,
    /// Median of Base, ns per page.
    pub(crate) base_ns: f64,
    pub(crate) mmid: f64,
    pub(crate) nomapcount: f64,
    pub(crate) powersums: f64,
    pub(crate) quartiles: Quartiles,
    /// Eight of ten rounds of Base against itself change by less.
    pub(crate) noise: f64,
    pub(crate) published: Option<Published>,
    #[serde(skip)]
    pub(crate) which: Op,
}

impl Row {
    pub(crate) fn new(samples: &Samples, size_kib: u64, op: Op) -> Self {
        let [mmid, nomapcount, powersums] =
            [MMID, NOMAPCOUNT, POWERSUMS].map(|side| Spread::of(&mut samples.changes(op, side)));
        let ends = |spread: Spread| (spread.low, spread.high);
        Self {
            size_kib,
            op: op.name(),
            base_ns: samples.median(op, BASE),
            mmid: mmid.median,
            nomapcount: nomapcount.median,
            powersums: powersums.median,
            quartiles: Quartiles {
                mmid: ends(mmid),
                nomapcount: ends(nomapcount),
                powersums: ends(powersums),
            },
            noise: noise(&mut samples.changes(op, AGAIN)),
            published: published(op, size_kib),
            which: op,
        }
    }

    /// The measured changes, with their names.
    pub(crate) fn changes(&self) -> [(&'static str, f64); 3] {
        [("mmid", self.mmid), ("nomapcount", self.nomapcount), ("powersums", self.powersums)]
    }

    /// The sides whose change is beyond noise and not in the published direction.
    pub(crate) fn disagreeing(&self) -> Vec<&'static str> {
        let Some(published) = self.published else { return Vec::new() };
        [("mmid", self.mmid, published.mmid), ("nomapcount", self.nomapcount, published.nomapcount)]
            .into_iter()
            .filter(|&(_, measured, published)| !agrees(measured, published, self.noise))
            .map(|(side, ..)| side)
            .collect()
    }

    /// The sides that differ from Base by more than noise.
    pub(crate) fn beyond_noise(&self) -> Vec<&'static str> {
        self.changes()
            .into_iter()
            .filter(|(_, change)| change.abs() > self.noise)
            .map(|(side, _)| side)
            .collect()
    }
}

/// How much rounds of the same differ, but for the tenth at each end.
fn noise(again: &mut [f64]) -> f64 {
    [0.1, 0.9].map(|part| quantile(again, part).abs()).into_iter().fold(LEAST_NOISE, f64::max)
}

/// Whether two changes have the same sign, or do not differ by more than noise, or the first is noise.
fn agrees(measured: f64, published: f64, noise: f64) -> bool {
    measured.abs() <= noise || measured * published > 0.0 || (measured - published).abs() <= noise
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Rounds of each side: Base takes 10, 20, 40 ns; the others so many times as long.
    pub(crate) fn samples(factors: [f64; SIDES]) -> Samples {
        let mut samples = Samples::default();
        for op in Op::ALL {
            for (side, factor) in factors.into_iter().enumerate() {
                [10.0, 20.0, 40.0].into_iter().for_each(|base| samples.note(op, side, base * factor));
            }
            [1.0, 2.0, 4.0].into_iter().for_each(|bare| samples.note_bare(op, bare));
        }
        samples
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_change_is_the_median_of_the_rounds() {
        let mut samples = samples([1.0, 1.5, 0.5, 0.75, 1.0]);
        // A round that was disturbed moves the median by one place, here by nothing.
        samples.note(Op::Fork, BASE, 10.0);
        samples.note(Op::Fork, MMID, 1000.0);
        let row = Row::new(&samples, 2048, Op::Fork);
        assert_eq!((row.mmid, row.nomapcount, row.powersums), (0.5, -0.5, -0.25));
        assert_eq!((row.base_ns, row.noise), (20.0, LEAST_NOISE));
        assert_eq!(row.quartiles.nomapcount, (-0.5, -0.5));
        assert_eq!(row.published.map(|it| it.nomapcount), Some(-0.21));
    }

    #[test]
    fn what_is_saved_is_told_in_bare_atomics() {
        let saved = samples([1.0, 1.0, 0.9, 1.0, 1.0]).saved_vs_bare(Op::Munmap).unwrap();
        assert!(close(saved.median, 1.0) && close(saved.low, 1.0) && close(saved.high, 1.0), "{saved:?}");
        assert_eq!(Samples::default().saved_vs_bare(Op::Munmap), None);
    }

    #[test]
    fn noise_is_base_against_itself() {
        assert_eq!(noise(&mut [0.0; 5]), LEAST_NOISE);
        assert_eq!(noise(&mut [-0.08, 0.0, 0.05]), 0.08);
        // One wild round of eleven is none.
        let mut rounds = [0.03; 11];
        rounds[4] = 0.9;
        assert_eq!(noise(&mut rounds), 0.03);
    }

    #[test]
    fn signs_agree_unless_they_differ_beyond_noise() {
        assert!(agrees(-0.2, -0.31, 0.02), "the same sign");
        assert!(agrees(0.01, -0.31, 0.02), "no change");
        assert!(agrees(-0.015, 0.02, 0.04), "close");
        assert!(!agrees(0.05, -0.31, 0.02));
        assert!(!agrees(-0.05, 0.0, 0.02), "nothing was to change");
        let row = Row::new(&samples([1.0, 1.3, 1.3, 1.3, 1.0]), 2048, Op::Munmap);
        assert_eq!(row.disagreeing(), ["mmid", "nomapcount"]);
        assert_eq!(row.beyond_noise(), ["mmid", "nomapcount", "powersums"]);
    }
}
