// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask tidy`: checks the repository against its own rules. `CONTRIBUTING.md` says what they are for.

mod locks;
mod proofs;
mod readme;
mod rows;
mod source;
mod text;

use std::fs;
use std::process::ExitCode;

use self::source::{Problem, Source};
use crate::cargo;
use crate::job::Job;

/// The rules that look at one file at a time.
const RULES: [fn(&Source) -> Vec<Problem>; 7] =
    [text::spdx, text::forbidden, text::length, proofs::safety, proofs::orderings, rows::rows, rows::no_std];

/// Checks everything and prints what is wrong, a line each.
pub(crate) fn run() -> Result<ExitCode, String> {
    let mut job = Job::new("tidy");
    let result = check(&mut job);
    job.clear();
    for line in job.lines() {
        println!("{line}");
    }
    match result {
        Ok(summary) => {
            println!("{summary}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            println!("FAIL: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Checks everything; the problems are in the job's output.
pub(crate) fn check(job: &mut Job) -> Result<String, String> {
    let root = cargo::root();
    job.show("reading the sources");
    let sources = source::read_all(&root)?;
    let mut problems: Vec<_> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect();
    problems.extend(rows::freestanding(&sources));

    let read = |path: &str| fs::read_to_string(root.join(path));
    match (read(locks::FREESTANDING), read("Cargo.lock")) {
        (Ok(inner), Ok(outer)) => problems.extend(locks::same_versions(&inner, &outer)),
        _ => problems.push(Problem::new(
            locks::FREESTANDING,
            1,
            "it and Cargo.lock are committed; one is missing",
        )),
    }
    job.show("trying the commands of the README");
    match read(readme::README) {
        Ok(text) => problems.extend(readme::commands(&text, readme::mmkit_accepts)),
        Err(error) => problems.push(Problem::new(readme::README, 1, format!("{error}; write it"))),
    }

    for problem in &problems {
        job.log(problem.to_string());
    }
    job.log(text::lengths(&sources));
    job.log(proofs::unsafe_count(&sources));
    match problems.len() {
        0 => Ok(format!("{} files", sources.len())),
        1 => Err(problems[0].to_string()),
        more => Err(format!("{more} problems")),
    }
}
