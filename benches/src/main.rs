// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench KEY`: measures, prints a table or JSON, and says which goals were met.

mod figure;
mod folio;
mod foundation;
mod machine;
mod pair;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Head lookup, bit lock, reference count, resident bytes of a real vmemmap.
    Foundation,
    /// Map counts: batches, owners, contention.
    Folio,
}

#[derive(Tabled)]
struct Row {
    key: &'static str,
    value: String,
    #[tabled(rename = "at most")]
    goal: String,
    met: &'static str,
    quartiles: String,
    #[tabled(rename = "ns / baseline ns")]
    times: String,
}

impl Row {
    fn new(figure: &Figure) -> Self {
        let number = |value: f64| match value {
            small if small < 0.01 => format!("{small:.6}"),
            large if large >= 1000.0 => format!("{large:.0}"),
            other => format!("{other:.3}"),
        };
        let dash = || String::from("-");
        Self {
            key: figure.key,
            value: number(figure.value),
            goal: figure.at_most.map_or_else(|| String::from("printed"), number),
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
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let suites = if args.suites.is_empty() { Suite::value_variants() } else { &args.suites };
    let mut figures = Vec::new();
    let mut skipped = Vec::new();
    for suite in suites {
        match suite {
            Suite::Foundation => foundation::run(effort, &mut figures, &mut skipped),
            Suite::Folio => folio::run(effort, &mut figures),
        }
    }
    if args.json {
        let mut object = serde_json::Map::new();
        for figure in &figures {
            object.insert(figure.key.to_owned(), figure.value.into());
        }
        object.insert("figures".to_owned(), serde_json::json!(figures));
        object.insert("skipped".to_owned(), serde_json::json!(skipped));
        object.insert("machine".to_owned(), machine::describe());
        println!("{:#}", serde_json::Value::Object(object));
    } else {
        println!("{}", Table::new(figures.iter().map(Row::new)).with(Style::sharp()));
        for figure in &figures {
            println!("{}: {}", figure.key, figure.what);
        }
        for line in &skipped {
            println!("skipped: {line}");
        }
    }
    ExitCode::SUCCESS
}
