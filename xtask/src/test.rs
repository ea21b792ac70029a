// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: the matrix. Every lane runs, also after one has failed.

mod lane;
mod nightly;
mod targets;

use std::fs;
use std::process::ExitCode;

pub(crate) use self::lane::Lane;
use self::lane::Outcome;
use crate::cargo;
use crate::flags::TestFlags;
use crate::job::Job;
use crate::table::{Side, table};

/// How many lines of a failed lane's output are printed; the file named below them has the rest.
const SHOWN: usize = 150;

/// One row of the final table.
struct Row {
    lane: Lane,
    outcome: Outcome,
    seconds: f64,
}

/// Runs the lanes asked for, in the order of the matrix, and prints the table.
pub(crate) fn run(flags: &TestFlags) -> Result<ExitCode, String> {
    let lanes = Lane::ALL.into_iter().filter(|lane| flags.only.is_empty() || flags.only.contains(lane));
    if flags.list {
        let rows: Vec<_> = lanes.map(|lane| [lane.name().to_owned(), lane.about().to_owned()]).collect();
        print!("{}", table([("lane", Side::Left), ("checks", Side::Left)], &rows));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = lanes.map(run_lane).collect();
    print!("\n{}", report(&rows));
    let failed = rows.iter().any(|row| matches!(row.outcome, Outcome::Fail(_)));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs one lane and says in a line what came of it, and in some more if it failed.
fn run_lane(lane: Lane) -> Row {
    let mut job = Job::new(lane.name());
    job.show("");
    let outcome = lane.run(&mut job);
    job.clear();
    let row = Row { lane, outcome, seconds: job.seconds() };
    let why = row.outcome.why();
    let gap = if why.is_empty() { "" } else { ": " };
    println!("{} {} ({:.1} s){gap}{why}", lane.name(), row.outcome.word(), row.seconds);
    if matches!(row.outcome, Outcome::Fail(_)) {
        print!("{}", excerpt(job.lines(), &keep(lane, job.lines())));
    }
    row
}

/// Writes the whole output of a failed lane to a file and answers where it is.
fn keep(lane: Lane, lines: &[String]) -> String {
    let dir = cargo::target_dir().join("xtask");
    let path = dir.join(format!("{}.log", lane.name()));
    match fs::create_dir_all(&dir).and_then(|()| fs::write(&path, lines.join("\n") + "\n")) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("(not written: {}: {error})", path.display()),
    }
}

/// The end of a failed lane's output, indented.
fn excerpt(lines: &[String], log: &str) -> String {
    let left_out = lines.len().saturating_sub(SHOWN);
    let mut text = String::new();
    if left_out > 0 {
        text += &format!("    … {left_out} lines before this; all of it: {log}\n");
    }
    for line in &lines[left_out..] {
        text += format!("    {line}").trim_end();
        text.push('\n');
    }
    text
}

/// The closing table and the line that counts its rows.
fn report(rows: &[Row]) -> String {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let why = row.outcome.why().to_owned();
            [row.lane.name().to_owned(), row.outcome.word().to_owned(), format!("{:.1}", row.seconds), why]
        })
        .collect();
    let header =
        [("lane", Side::Left), ("result", Side::Left), ("seconds", Side::Right), ("why", Side::Left)];
    let count = |word| rows.iter().filter(|row| row.outcome.word() == word).count();
    format!(
        "{}\n{} passed, {} failed, {} skipped\n",
        table(header, &cells),
        count("pass"),
        count("FAIL"),
        count("skip")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_every_outcome() {
        let row = |lane, outcome| Row { lane, outcome, seconds: 1.25 };
        let text = report(&[
            row(Lane::Fmt, Outcome::Pass(String::new())),
            row(Lane::Clippy, Outcome::Fail("`cargo clippy` ended with exit status: 101".to_owned())),
            row(Lane::Miri, Outcome::Skip("no miri".to_owned())),
        ]);
        let expected = "\
lane    result  seconds  why
fmt     pass        1.2
clippy  FAIL        1.2  `cargo clippy` ended with exit status: 101
miri    skip        1.2  no miri

1 passed, 1 failed, 1 skipped
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_failure_is_cut_at_its_beginning() {
        let lines: Vec<_> = (0..SHOWN + 7).map(|at| format!("line {at}")).collect();
        let text = excerpt(&lines, "x.log");
        assert!(text.starts_with("    … 7 lines before this; all of it: x.log\n    line 7\n"), "{text}");
        assert!(text.ends_with(&format!("    line {}\n", SHOWN + 6)));
    }

    #[test]
    fn a_short_failure_is_shown_whole() {
        assert_eq!(excerpt(&["a".to_owned(), String::new()], "x.log"), "    a\n\n");
    }
}
