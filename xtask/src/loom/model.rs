// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs models, as many at a time as there are cores, each in a process that can be stopped.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::job::Job;

/// How often a running model is looked after.
const POLL: Duration = Duration::from_millis(5);

/// One model: a test of a test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) package: String,
    pub(super) file: String,
    pub(super) test: String,
    pub(super) program: PathBuf,
    pub(super) directory: PathBuf,
    /// It runs only on demand, and then for as long as it takes.
    pub(super) deep: bool,
}

impl Model {
    /// Its name for a person.
    pub(super) fn label(&self) -> String {
        format!("{}/{}::{}", self.package, self.file, self.test)
    }
}

/// How a model ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Passed,
    Failed,
    TimedOut,
}

impl Ended {
    /// The word in the listing.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Failed => "FAIL",
            Self::TimedOut => "FAIL: took too long",
        }
    }
}

/// A model that has run.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) model: Model,
    pub(super) took: Duration,
    pub(super) ended: Ended,
    pub(super) output: String,
}

/// Runs all of `models`, in their order, each for at most `limit` unless it is a deep one.
pub(super) fn run_all(job: &Job, models: &[Model], limit: Duration) -> Vec<Timed> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(models.len());
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut timed = Vec::new();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(model) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = sender.send(run(model, limit));
                }
            });
        }
        drop(sender);
        for one in receiver {
            job.show(&format!("{} of {}: {}", timed.len() + 1, models.len(), one.model.label()));
            timed.push(one);
        }
    });
    timed
}

/// Runs `model`; a process that cannot be started or watched counts as a failure and says why.
fn run(model: &Model, limit: Duration) -> Timed {
    let start = Instant::now();
    let (ended, output) =
        watch(model, start, limit).unwrap_or_else(|error| (Ended::Failed, format!("not run: {error}")));
    Timed { model: model.clone(), took: start.elapsed(), ended, output }
}

fn watch(model: &Model, start: Instant, limit: Duration) -> io::Result<(Ended, String)> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(&model.program);
    command.args([&model.test, "--exact", "--include-ignored", "--test-threads=1"]);
    // A backtrace through the model checker says nothing about the model, and is long.
    command.env("RUST_BACKTRACE", "0").current_dir(&model.directory).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    drop(command);
    let listener = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break if status.success() { Ended::Passed } else { Ended::Failed };
        }
        if !model.deep && start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break Ended::TimedOut;
        }
        thread::sleep(POLL);
    };
    let output = listener.join().map_err(|_| io::Error::other("its output was lost"))??;
    Ok((ended, output))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A model that is a shell script; its name is the script's path.
    fn script(name: &str, body: &str, deep: bool) -> Model {
        let path = std::env::temp_dir().join(format!("xtask-model-{}-{name}", std::process::id()));
        fs::write(&path, body).unwrap();
        Model {
            package: "p".to_owned(),
            file: "f".to_owned(),
            test: path.to_str().unwrap().to_owned(),
            program: PathBuf::from("/bin/sh"),
            directory: std::env::temp_dir(),
            deep,
        }
    }

    #[test]
    fn a_model_passes_fails_or_is_stopped() {
        let models = [
            script("bad", "echo broken >&2; exit 101", false),
            script("deep", "sleep 1", true),
            script("endless", "exec sleep 30", false),
            script("good", "echo fine", false),
        ];
        let start = Instant::now();
        let mut timed = run_all(&Job::new("x"), &models, Duration::from_millis(500));
        timed.sort_by(|a, b| a.model.test.cmp(&b.model.test));
        for model in &models {
            fs::remove_file(&model.test).unwrap();
        }
        let ended: Vec<_> = timed.iter().map(|one| one.ended.clone()).collect();
        assert_eq!(ended, [Ended::Failed, Ended::Passed, Ended::TimedOut, Ended::Passed]);
        assert_eq!(timed[0].output, "broken\n");
        assert!(start.elapsed() < Duration::from_secs(20), "the endless one was not stopped");
    }

    #[test]
    fn a_model_that_cannot_start_fails() {
        let mut model = script("gone", "", false);
        fs::remove_file(&model.test).unwrap();
        model.program = PathBuf::from("/no/such/program");
        let timed = run_all(&Job::new("x"), &[model], Duration::from_secs(1));
        assert_eq!(timed[0].ended, Ended::Failed);
        assert!(timed[0].output.starts_with("not run: "), "{}", timed[0].output);
    }
}
