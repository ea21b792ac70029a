// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask loom`: runs every concurrency model, each in a process of its own, and holds it to a time.
//!
//! The models are the tests of `crates/*/tests/loom_*.rs`, built with `--cfg mmkit_loom` into a target directory of
//! their own. Such a file must also show that a seeded bug is caught (`mutant::must_fail`): a model that cannot fail
//! proves nothing.

mod build;
mod model;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cargo::{self, Package};
use crate::flags::LoomFlags;
use crate::job::Job;
use crate::table::{Side, table};

use self::model::{Ended, Timed};

/// A model that takes longer is reported.
const SLOW: Duration = Duration::from_secs(10);

/// A model that takes longer is stopped and fails, unless it is a deep one.
const LIMIT: Duration = Duration::from_secs(60);

/// How many lines of a failed model's output are kept.
const SHOWN: usize = 30;

/// Runs the models of one crate or of all, and prints their seconds.
pub(crate) fn run(flags: &LoomFlags) -> Result<ExitCode, String> {
    let mut job = Job::new("loom");
    let result = models(&mut job, flags.krate.as_deref(), flags.deep);
    job.clear();
    for line in job.lines() {
        println!("{line}");
    }
    Ok(match result {
        Ok(summary) => {
            println!("\n{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAIL: {error}");
            ExitCode::FAILURE
        }
    })
}

/// The models of `krate`, or of every crate; the answer says how many there were.
pub(crate) fn models(job: &mut Job, krate: Option<&str>, deep: bool) -> Result<String, String> {
    let files = model_files(krate)?;
    let mut problems: Vec<_> = files.iter().flat_map(|(_, file)| problems_of(file)).collect();
    let mut models = Vec::new();
    for (package, files) in by_package(&files) {
        match build::models(job, package, &files, deep) {
            Ok(found) => models.extend(found),
            Err(error) => problems.push(format!("{} has no models to run: {error}", package.name)),
        }
    }
    if problems.is_empty() {
        job.forget();
    }
    let timed = model::run_all(job, &models, LIMIT);
    for line in listing(&timed).lines() {
        job.log(line);
    }
    for one in timed.iter().filter(|one| !matches!(one.ended, Ended::Passed)) {
        let problem = format!("{}: {}", one.model.label(), one.ended.word());
        job.log(format!("\n{problem}"));
        let lines: Vec<_> = one.output.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            job.log(format!("    {line}"));
        }
        problems.push(problem);
    }
    match problems.as_slice() {
        [] => Ok(summary(&timed)),
        [problem] => Err(problem.clone()),
        [first, more @ ..] => {
            job.log("");
            problems.iter().for_each(|problem| job.log(problem.clone()));
            Err(format!("{first}, and {} more", more.len()))
        }
    }
}

/// The files with models, with the package of each.
fn model_files(krate: Option<&str>) -> Result<Vec<(Package, PathBuf)>, String> {
    let packages = cargo::packages()?;
    let wanted: Vec<_> = packages
        .iter()
        .filter(|package| krate.is_none_or(|krate| krate == package.dir || krate == package.name))
        .collect();
    if let (Some(krate), []) = (krate, wanted.as_slice()) {
        let known: Vec<_> = packages.iter().map(|package| package.dir.as_str()).collect();
        return Err(format!("no crate `{krate}`; there are {}", known.join(", ")));
    }
    let mut files = Vec::new();
    for package in wanted {
        let Ok(entries) = fs::read_dir(package.path.join("tests")) else { continue };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut models: Vec<_> = paths.filter(|path| is_model_file(path)).collect();
        models.sort();
        files.extend(models.into_iter().map(|path| (package.clone(), path)));
    }
    if files.is_empty() {
        return Err("no models: there is no tests/loom_*.rs here".to_owned());
    }
    Ok(files)
}

fn is_model_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("loom_") && name.ends_with(".rs")
}

/// The files of each package, packages in their order.
fn by_package(files: &[(Package, PathBuf)]) -> Vec<(&Package, Vec<&Path>)> {
    let mut groups: Vec<(&Package, Vec<&Path>)> = Vec::new();
    for (package, file) in files {
        match groups.last_mut() {
            Some((last, paths)) if *last == package => paths.push(file),
            _ => groups.push((package, vec![file])),
        }
    }
    groups
}

/// What is wrong with a file of models, before it is even compiled.
fn problems_of(path: &Path) -> Vec<String> {
    let root = cargo::root();
    let shown = path.strip_prefix(&root).unwrap_or(path).display();
    match fs::read_to_string(path) {
        Ok(text) => faults(&text).iter().map(|fault| format!("{shown}: {fault}")).collect(),
        Err(error) => vec![format!("{shown}: {error}")],
    }
}

fn faults(text: &str) -> Vec<&'static str> {
    let code: Vec<_> = text.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
    let mut faults = Vec::new();
    if !code.iter().any(|line| line.contains("must_fail(")) {
        faults.push("no seeded bug is shown to be caught; add a test with mutant::must_fail");
    }
    if code.iter().any(|line| line.starts_with("#[ignore") && *line != "#[ignore = \"deep\"]") {
        faults.push("only deep models may be left out; write #[ignore = \"deep\"] or mend the model");
    }
    faults
}

/// The models and their seconds, slowest first.
fn listing(timed: &[Timed]) -> String {
    let mut order: Vec<_> = timed.iter().collect();
    order.sort_by_key(|one| std::cmp::Reverse(one.took));
    let rows: Vec<_> = order
        .into_iter()
        .map(|one| {
            let slow = if one.took > SLOW { " (slow)" } else { "" };
            let result = format!("{}{slow}", one.ended.word());
            [one.model.label(), format!("{:.2}", one.took.as_secs_f64()), result]
        })
        .collect();
    table([("model", Side::Left), ("seconds", Side::Right), ("result", Side::Left)], &rows)
}

/// One line about all of them; the slow ones by name.
fn summary(timed: &[Timed]) -> String {
    let seconds: f64 = timed.iter().map(|one| one.took.as_secs_f64()).sum();
    let slow: Vec<_> = timed.iter().filter(|one| one.took > SLOW).map(|one| one.model.label()).collect();
    let about_slow = if slow.is_empty() {
        String::new()
    } else {
        format!("; slower than {} s: {}", SLOW.as_secs(), slow.join(", "))
    };
    format!("{} models, {seconds:.1} s in them{about_slow}", timed.len())
}

#[cfg(test)]
mod tests {
    use super::model::Model;
    use super::*;

    #[test]
    fn a_file_without_a_mutant_is_refused() {
        assert_eq!(faults("#[test]\nfn get_meets_put_2_threads() {}\n").len(), 1);
        assert_eq!(faults("// must_fail(\n").len(), 1, "a comment is no test");
        assert_eq!(faults("#[test]\nfn x() { mutant::must_fail(\"lost put\", model); }\n").len(), 0);
    }

    #[test]
    fn a_model_is_not_left_out_for_other_reasons_than_depth() {
        let with = |attribute: &str| faults(&format!("must_fail(\n{attribute}\nfn x() {{}}\n")).len();
        assert_eq!(with("#[ignore]"), 1);
        assert_eq!(with("#[ignore = \"broken\"]"), 1);
        assert_eq!(with("#[ignore = \"deep\"]"), 0);
    }

    fn timed(name: &str, seconds: u64) -> Timed {
        let model = Model {
            package: "mmkit-sync".to_owned(),
            file: "loom_lock".to_owned(),
            test: name.to_owned(),
            program: PathBuf::new(),
            directory: PathBuf::new(),
            deep: false,
        };
        Timed { model, took: Duration::from_secs(seconds), ended: Ended::Passed, output: String::new() }
    }

    #[test]
    fn the_slow_are_named_and_come_first() {
        let timed = [timed("a", 1), timed("b", 11)];
        assert_eq!(summary(&timed), "2 models, 12.0 s in them; slower than 10 s: mmkit-sync/loom_lock::b");
        let listing = listing(&timed);
        let rows: Vec<_> = listing.lines().collect();
        assert!(rows[1].contains("::b") && rows[1].ends_with("pass (slow)"), "{listing}");
        assert!(rows[2].contains("::a") && rows[2].ends_with("pass"), "{listing}");
    }

    #[test]
    fn only_loom_files_hold_models() {
        assert!(is_model_file(Path::new("tests/loom_lock.rs")));
        assert!(!is_model_file(Path::new("tests/model.rs")));
        assert!(!is_model_file(Path::new("tests/loom_lock")));
    }
}
