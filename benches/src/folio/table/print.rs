// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table for people: what was measured, and in brackets what was published.

use std::fmt;

use tabled::{Table as Lines, Tabled, settings::Style};

use super::Table;
use super::rows::Row;

#[derive(Tabled)]
struct Line {
    operation: &'static str,
    folios: String,
    #[tabled(rename = "Base, ns/page")]
    base: String,
    #[tabled(rename = "MM-ID")]
    mmid: String,
    #[tabled(rename = "No-Mapcount")]
    nomapcount: String,
    #[tabled(rename = "ours")]
    powersums: String,
    noise: String,
}

fn percent(change: f64) -> String {
    format!("{:+.1}%", change * 100.0)
}

impl Line {
    fn new(row: &Row) -> Self {
        let disagreeing = row.disagreeing();
        let beside = |side: &str, change: f64, published: Option<f64>| {
            let mark = if disagreeing.contains(&side) { " !" } else { "" };
            let published = published.map_or_else(String::new, |it| format!(" ({:+.0}%)", it * 100.0));
            format!("{}{published}{mark}", percent(change))
        };
        Self {
            operation: row.op,
            folios: format!("{}K", row.size_kib),
            base: format!("{:.1}", row.base_ns),
            mmid: beside("mmid", row.mmid, row.published.map(|it| it.mmid)),
            nomapcount: beside("nomapcount", row.nomapcount, row.published.map(|it| it.nomapcount)),
            powersums: percent(row.powersums),
            noise: format!("{:.1}%", row.noise * 100.0),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Change of run time against Base; in brackets what Linux measured, with ! where the sign is another."
        )?;
        Lines::new(self.rows.iter().map(Line::new)).with(Style::sharp()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folio::table::{Op, rows::tests::samples};

    #[test]
    fn a_row_shows_what_was_published_and_where_it_differs() {
        let row = Row::new(&samples([1.0, 1.02, 1.3, 0.5, 1.0]), 2048, Op::Munmap);
        let text = Table { rows: vec![row] }.to_string();
        assert!(text.contains("+30.0% (-31%) !") && text.contains("+2.0% (+0%)"), "{text}");
        assert!(text.contains("-50.0%") && text.contains("20.0"), "{text}");
    }
}
