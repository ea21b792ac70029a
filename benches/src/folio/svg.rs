// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table as a picture: a panel for each operation, a line for each side, the published ones dashed.

use std::error::Error;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::table::{Operation, Row, Table};

type Failure = Box<dyn Error>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Panels side by side, and one above the other. The last one is the legend's.
const COLUMNS: usize = 4;
const ROWS: usize = 2;
const SIZE: (u32, u32) = (1240, 640);
const FONT: &str = "sans-serif";

/// A side's name, colour, change, and published change.
struct Line {
    name: &'static str,
    colour: RGBColor,
    measured: fn(&Row) -> f64,
    published: fn(&Row) -> Option<f64>,
}

/// Colours that the colour-blind can tell apart (Okabe and Ito).
const LINES: [Line; 3] = [
    Line {
        name: "MM-ID: counts of pages, TwoSlots",
        colour: RGBColor(0, 114, 178),
        measured: |row| row.mmid,
        published: |row| row.published.map(|it| it.mmid),
    },
    Line {
        name: "No-Mapcount: TwoSlots",
        colour: RGBColor(230, 159, 0),
        measured: |row| row.nomapcount,
        published: |row| row.published.map(|it| it.nomapcount),
    },
    Line {
        name: "ours: no counts of pages, PowerSums",
        colour: RGBColor(0, 158, 115),
        measured: |row| row.powersums,
        published: |_| None,
    },
];

/// The table as one SVG document.
///
/// # Errors
///
/// What the drawing library refuses; nothing that a table could contain.
pub(crate) fn draw(table: &Table) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let title =
            "Change of run time against Base (counts of pages, no owners): percent, by size of folios";
        let root = root.titled(title, (FONT, 18))?;
        let mut panels = root.split_evenly((ROWS, COLUMNS)).into_iter();
        for (op, area) in Operation::ALL.into_iter().zip(panels.by_ref()) {
            let rows: Vec<&Row> = table.rows.iter().filter(|row| row.which == op).collect();
            panel(op.name(), &rows, &area)?;
        }
        if let Some(area) = panels.next() {
            legend(&area)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Where a size is on the axis: sizes double from one place to the next.
fn place(row: &Row) -> f64 {
    (row.size_kib as f64).log2()
}

fn panel(
    name: &str,
    rows: &[&Row],
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Result<(), Failure> {
    let values = || {
        rows.iter().flat_map(|row| {
            LINES.iter().flat_map(move |line| {
                [Some((line.measured)(row)), (line.published)(row)].into_iter().flatten()
            })
        })
    };
    // Room for the extremes, and at least ten percent, lest noise look like a result.
    let low = values().fold(-0.1, f64::min) * 110.0;
    let high = values().fold(0.1, f64::max) * 110.0;
    let (first, last) =
        (rows.first().map_or(2.0, |row| place(row)), rows.last().map_or(11.0, |row| place(row)));
    let mut chart: Panel<'_, '_> = ChartBuilder::on(area)
        .caption(name, (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(36)
        .build_cartesian_2d(first..last.max(first + 1.0), low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(10)
        .y_labels(8)
        .x_label_formatter(&|place| format!("{:.0}K", place.exp2()))
        .y_label_formatter(&|percent| format!("{percent:+.0}"))
        .label_style((FONT, 10))
        .draw()?;
    chart.draw_series(LineSeries::new([(first, 0.0), (last, 0.0)], BLACK.mix(0.5)))?;
    for line in &LINES {
        let published = rows.iter().filter_map(|row| Some((place(row), (line.published)(row)? * 100.0)));
        chart.draw_series(DashedLineSeries::new(published, 5, 4, line.colour.mix(0.8).stroke_width(1)))?;
        let measured: Vec<(f64, f64)> =
            rows.iter().map(|row| (place(row), (line.measured)(row) * 100.0)).collect();
        chart.draw_series(LineSeries::new(measured.iter().copied(), line.colour.stroke_width(2)))?;
        chart.draw_series(measured.iter().map(|&at| Circle::new(at, 3, line.colour.filled())))?;
    }
    Ok(())
}

fn legend(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), Failure> {
    let mut y = 60;
    let mut entry = |text: &str, style: Option<(RGBColor, bool)>| -> Result<(), Failure> {
        if let Some((colour, dashed)) = style {
            let stretches = if dashed { vec![(20, 25), (29, 34), (38, 43)] } else { vec![(20, 44)] };
            for (from, to) in stretches {
                area.draw(&PathElement::new([(from, y + 6), (to, y + 6)], colour.stroke_width(2)))?;
            }
        }
        area.draw(&Text::new(text.to_owned(), (52, y), (FONT, 12)))?;
        y += 24;
        Ok(())
    };
    for line in &LINES {
        entry(line.name, Some((line.colour, false)))?;
    }
    entry("dashed: what Linux measured in 2024", Some((BLACK, true)))?;
    entry("4K folios are the control: no difference", None)?;
    entry("median of rounds; lower is faster", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folio::table::tests_support::table;

    #[test]
    fn the_picture_is_well_formed_and_complete() {
        let text = draw(&table()).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "svg");
        assert!(root.attribute("width").is_some());
        let texts: Vec<String> = document
            .descendants()
            .filter(|node| node.has_tag_name((root.tag_name().namespace().unwrap(), "text")))
            .map(|node| node.text().unwrap_or_default().trim().to_owned())
            .collect();
        for op in Operation::ALL {
            assert!(texts.iter().any(|text| text == op.name()), "{} in {texts:?}", op.name());
        }
        for line in LINES {
            assert!(texts.iter().any(|text| text == line.name), "{texts:?}");
        }
        // A mark for each value that was measured.
        let marks = document.descendants().filter(|node| node.tag_name().name() == "circle").count();
        assert_eq!(marks, table().rows.len() * LINES.len());
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn an_empty_table_is_an_empty_picture() {
        assert!(roxmltree::Document::parse(&draw(&Table::default()).unwrap()).is_ok());
    }
}
