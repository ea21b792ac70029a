// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the table must show, as figures with goals.

use super::Table;
use super::ops::Op;
use super::rows::{BASE, MMID, NOMAPCOUNT, Row, Samples};
use crate::figure::Figure;

/// The size that goals are about: a PMD's.
pub(crate) const LARGEST: u64 = 2048;
/// The size for which all strategies count alike.
pub(crate) const CONTROL: u64 = 4;

/// A change of one row, with what it was measured from.
fn change(samples: &Samples, row: &Row, side: usize) -> (f64, (f64, f64), f64, f64) {
    let (value, quartiles) = match side {
        MMID => (row.mmid, row.quartiles.mmid),
        _ => (row.nomapcount, row.quartiles.nomapcount),
    };
    (value, quartiles, samples.median(row.which, side), row.base_ns)
}

/// `munmap_nomapcount`, `fork_nomapcount`, `mmid_munmap_overhead`, `reuse`, `saved_vs_bare*`, from the samples at the
/// largest size.
pub(crate) fn at_the_largest(samples: &Samples) -> Vec<Figure> {
    let row = |op| Row::new(samples, LARGEST, op);
    let timed = |key, what, at_most, op, side| {
        let (value, quartiles, thing_ns, baseline_ns) = change(samples, &row(op), side);
        let figure = Figure::counted(key, what, Some(at_most), value);
        Figure {
            quartiles: Some(quartiles),
            thing_ns: Some(thing_ns),
            baseline_ns: Some(baseline_ns),
            ..figure
        }
    };
    let reuse = [Op::ReuseByte, Op::ChildReuseByte]
        .into_iter()
        .flat_map(|op| row(op).changes())
        .map(|(_, change)| change)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut figures = vec![
        timed(
            "munmap_nomapcount",
            "change of munmap's run time without counts of pages, 2M folios",
            -0.31,
            Op::Munmap,
            NOMAPCOUNT,
        ),
        timed(
            "fork_nomapcount",
            "change of fork's run time without counts of pages, 2M folios",
            -0.21,
            Op::Fork,
            NOMAPCOUNT,
        ),
        timed(
            "mmid_munmap_overhead",
            "change of munmap's run time by tracking owners, counts of pages kept, 2M folios",
            0.04,
            Op::Munmap,
            MMID,
        ),
        Figure::counted(
            "reuse",
            "change of run time where writers keep their pages, 2M folios, worst of reuse-byte and child-reuse-byte and \
             of the three trackers",
            Some(-0.64),
            reuse,
        ),
    ];
    let saved: Vec<Figure> = [("saved_vs_bare_munmap", Op::Munmap), ("saved_vs_bare_fork", Op::Fork)]
        .into_iter()
        .filter_map(|(key, op)| saved(samples, key, op))
        .collect();
    let off = |figure: &Figure| (figure.value - 1.0).abs();
    if let Some(worst) = saved.iter().max_by(|a, b| off(a).total_cmp(&off(b))) {
        figures.push(Figure {
            key: "saved_vs_bare",
            what: "the one of the two that is further from 1",
            ..worst.clone()
        });
    }
    figures.extend(saved);
    figures
}

fn saved(samples: &Samples, key: &'static str, op: Op) -> Option<Figure> {
    let spread = samples.saved_vs_bare(op)?;
    let what =
        "time that leaving out the counts of pages saves / as many bare atomics on such lines, 2M folios";
    Some(Figure {
        quartiles: Some((spread.low, spread.high)),
        thing_ns: Some(samples.median(op, BASE) - samples.median(op, NOMAPCOUNT)),
        baseline_ns: Some(samples.bare(op)),
        ..Figure::counted(key, what, Some(1.25), spread.median).at_least(0.75)
    })
}

/// `control_beyond_noise`, `cow_byte_beyond_noise`, `sign_disagreements`, and a line for each that is.
pub(crate) fn of_all(table: &Table) -> (Vec<Figure>, Vec<String>) {
    let mut notes = Vec::new();
    let mut count = |what: &str, pick: &dyn Fn(&Row) -> Vec<&'static str>| {
        let mut number = 0_u32;
        for row in &table.rows {
            for side in pick(row) {
                number += 1;
                notes.push(describe(row, side, what));
            }
        }
        f64::from(number)
    };
    let only = |keep: bool, row: &Row| if keep { row.beyond_noise() } else { Vec::new() };
    let control = count("beyond noise in the control row", &|row| only(row.size_kib == CONTROL, row));
    let copied = |row: &Row| only(row.size_kib != CONTROL && row.which == Op::CowByte, row);
    let cow_byte = count("beyond noise", &copied);
    let signs = count("not as published", &|row| row.disagreeing());
    let figures = vec![
        Figure::counted(
            "control_beyond_noise",
            "changes of the control row, of 4K pages, that Base against itself does not show",
            Some(0.0),
            control,
        ),
        Figure::counted(
            "cow_byte_beyond_noise",
            "changes of cow-byte that Base against itself does not show",
            Some(0.0),
            cow_byte,
        ),
        Figure::counted(
            "sign_disagreements",
            "changes beyond noise that have another sign than the published ones",
            Some(0.0),
            signs,
        ),
    ];
    (figures, notes)
}

fn describe(row: &Row, side: &str, what: &str) -> String {
    let change =
        row.changes().into_iter().find(|(name, _)| *name == side).map_or(f64::NAN, |(_, change)| change);
    format!(
        "{} of {}K folios, {side}: {:+.1} % is {what} (noise {:.1} %)",
        row.op,
        row.size_kib,
        change * 100.0,
        row.noise * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folio::table::rows::tests::samples;

    fn value(figures: &[Figure], key: &str) -> (f64, bool) {
        let figure = figures.iter().find(|figure| figure.key == key).unwrap();
        (figure.value, figure.met().unwrap())
    }

    #[test]
    fn goals_at_the_largest_size() {
        let figures = at_the_largest(&samples([1.0, 1.03, 0.5, 0.75, 1.0]));
        assert_eq!(value(&figures, "munmap_nomapcount"), (-0.5, true));
        assert_eq!(value(&figures, "fork_nomapcount"), (-0.5, true));
        // MM-ID is the worst of the three: no reuse at all.
        let (reuse, met) = value(&figures, "reuse");
        assert!((reuse - 0.03).abs() < 1e-9 && !met);
        assert!(value(&figures, "mmid_munmap_overhead").1);
        // 5 of 10 ns saved, and an atomic is 1 ns: more than the atomics explain.
        let (saved, met) = value(&figures, "saved_vs_bare");
        assert!((saved - 5.0).abs() < 1e-9 && !met);
    }

    #[test]
    fn saving_too_little_is_no_success_either() {
        let figures = at_the_largest(&samples([1.0, 1.0, 0.95, 0.95, 1.0]));
        let (saved, met) = value(&figures, "saved_vs_bare_fork");
        assert!((saved - 0.5).abs() < 1e-9 && !met);
        let figures = at_the_largest(&samples([1.0, 1.0, 0.9, 0.9, 1.0]));
        assert!(value(&figures, "saved_vs_bare_fork").1);
    }

    #[test]
    fn rows_beyond_noise_are_counted_and_named() {
        let samples = samples([1.0, 1.0, 1.1, 1.0, 1.0]);
        let rows = [(CONTROL, Op::Fork), (16, Op::CowByte), (16, Op::Munmap)];
        let table = Table { rows: rows.map(|(size, op)| Row::new(&samples, size, op)).into() };
        let (figures, notes) = of_all(&table);
        assert_eq!(value(&figures, "control_beyond_noise"), (1.0, false));
        assert_eq!(value(&figures, "cow_byte_beyond_noise"), (1.0, false));
        // Both have published changes, of 0 and of -8 %.
        assert_eq!(value(&figures, "sign_disagreements"), (2.0, false));
        assert_eq!(notes.len(), 4);
        assert!(notes[0].contains("fork of 4K folios, nomapcount: +10.0 %"), "{notes:?}");
    }
}
