// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench KEY`: measures, prints a table or JSON, and says which goals were met.

mod arena;
mod clock;
mod devmap;
mod figure;
mod fill;
mod folio;
mod foundation;
mod gup;
mod huge;
mod machine;
mod pair;
mod vmemmap;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use tabled::{Table, Tabled, settings::Style};

use crate::figure::Figure;
use crate::pair::Effort;

/// Paired benchmarks: each thing and the least that could do its work, in turn, on the same cache lines.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    /// What to measure; everything where nothing is named.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Fewer and shorter rounds: to see that nothing is broken, not to quote.
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Also draw the table of `folio` into this file.
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Head lookup, bit lock, reference count, resident bytes of a real vmemmap.
    Foundation,
    /// Map counts: batches, owners, contention; the microbenchmark of Linux, for four ways to count.
    Folio,
    /// Pins by the run: against bare atomics and arrays, against pins by the page, beside the running kernel's.
    Gup,
    /// The memory map: its bytes, what optimising frees and takes, how fast it is written.
    Vmemmap,
    /// Device memory: its descriptors written in steps, and the lock meanwhile.
    Devmap,
}

#[derive(Tabled)]
struct Row {
    key: &'static str,
    value: String,
    goal: String,
    met: &'static str,
    quartiles: String,
    #[tabled(rename = "ns / baseline ns")]
    times: String,
}

impl Row {
    fn new(figure: &Figure) -> Self {
        let number = |value: f64| match value {
            0.0 => String::from("0"),
            small if small.abs() < 0.01 => format!("{small:.6}"),
            large if large.abs() >= 1000.0 => format!("{large:.0}"),
            other => format!("{other:.3}"),
        };
        let dash = || String::from("-");
        Self {
            key: figure.key,
            value: number(figure.value),
            goal: match (figure.at_least, figure.at_most) {
                (Some(least), Some(most)) => format!("{}..{}", number(least), number(most)),
                (Some(least), None) => format!(">= {}", number(least)),
                (None, Some(most)) => format!("<= {}", number(most)),
                (None, None) => String::from("printed"),
            },
            met: figure.met().map_or("-", |met| if met { "yes" } else { "NO" }),
            quartiles: figure
                .quartiles
                .map_or_else(dash, |(low, high)| format!("{}..{}", number(low), number(high))),
            times: figure
                .thing_ns
                .zip(figure.baseline_ns)
                .map_or_else(dash, |(thing, baseline)| format!("{} / {}", number(thing), number(baseline))),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                eprintln!("error: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; returns why the run is void, if it is.
fn run(args: &Args) -> Result<Vec<String>, Box<dyn Error>> {
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let suites = if args.suites.is_empty() { Suite::value_variants() } else { &args.suites };
    if args.svg.is_some() && !suites.contains(&Suite::Folio) {
        return Err("--svg draws the table of `folio`, which is not measured".into());
    }
    let (mut figures, mut skipped, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut table = None;
    for suite in suites {
        match suite {
            Suite::Foundation => foundation::run(effort, &mut figures, &mut skipped),
            Suite::Folio => {
                folio::run(effort, &mut figures);
                table = Some(folio::table::run(args.quick, &mut figures, &mut notes)?);
            }
            Suite::Gup => gup::run(args.quick, &mut figures, &mut skipped, &mut notes)?,
            Suite::Vmemmap => vmemmap::run(effort, &mut figures, &mut skipped),
            Suite::Devmap => devmap::run(effort, &mut figures, &mut skipped, &mut notes),
        }
    }
    if let (Some(path), Some(table)) = (&args.svg, &table) {
        fs::write(path, folio::svg::draw(table)?)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if args.json {
        let mut object = Map::new();
        for figure in &figures {
            object.insert(figure.key.to_owned(), figure.value.into());
        }
        object.insert("figures".to_owned(), json!(figures));
        object.insert("skipped".to_owned(), json!(skipped));
        object.insert("notes".to_owned(), json!(notes));
        object.insert("machine".to_owned(), machine::describe());
        if let Some(table) = &table {
            object.insert("table".to_owned(), json!(table.rows));
        }
        println!("{:#}", Value::Object(object));
    } else {
        if let Some(table) = &table {
            println!("{table}");
        }
        println!("{}", Table::new(figures.iter().map(Row::new)).with(Style::sharp()));
        for figure in &figures {
            println!("{}: {}", figure.key, figure.what);
        }
        for line in &notes {
            println!("note: {line}");
        }
        for line in &skipped {
            println!("skipped: {line}");
        }
    }
    Ok(figures.iter().filter_map(Figure::failure).collect())
}
