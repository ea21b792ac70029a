// SPDX-License-Identifier: MIT OR Apache-2.0
//! A piece of work whose output is kept, not shown: a terminal sees one line that says what is going on.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cargo::show;

/// How wide the live line may get.
const COLUMNS: usize = 79;

/// How often the live line is drawn again while nothing is printed.
const TICK: Duration = Duration::from_millis(250);

/// A piece of work, its captured output and its live line.
pub(crate) struct Job {
    name: String,
    start: Instant,
    lines: Vec<String>,
    live: bool,
}

/// What became of a command.
pub(crate) struct Ran {
    /// Whether it exited with zero.
    pub(crate) ok: bool,
    /// What it printed on both streams.
    pub(crate) text: String,
    /// The beginning of its command line, and its exit status. The whole command line is in the job's output.
    pub(crate) summary: String,
}

impl Job {
    /// Starts the clock of `name`.
    pub(crate) fn new(name: &str) -> Self {
        let live = io::stderr().is_terminal();
        Self { name: name.to_owned(), start: Instant::now(), lines: Vec::new(), live }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Keeps a line of output.
    pub(crate) fn log(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// Drops what was kept so far: it went well and is of no more interest.
    pub(crate) fn forget(&mut self) {
        self.lines.clear();
    }

    /// Everything kept so far.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Draws the live line, with `what` as the newest that is known.
    pub(crate) fn show(&self, what: &str) {
        if self.live {
            let line = live_line(&self.name, self.seconds(), what);
            // A terminal that cannot be written to loses its live line and nothing else.
            let _ = write!(io::stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Removes the live line.
    pub(crate) fn clear(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    /// Runs `command` to its end; an exit code other than zero is an error, and only then its output is kept.
    pub(crate) fn run(&mut self, command: Command) -> Result<(), String> {
        self.read(command).map(drop)
    }

    /// As [`run`](Self::run), and answers what the command printed.
    pub(crate) fn read(&mut self, command: Command) -> Result<String, String> {
        let before = self.lines.len();
        let ran = self.observe(command)?;
        if !ran.ok {
            return Err(ran.summary);
        }
        self.lines.truncate(before + 1);
        Ok(ran.text)
    }

    /// Runs `command` to its end, keeping what it prints; its exit code is the caller's to judge.
    pub(crate) fn observe(&mut self, mut command: Command) -> Result<Ran, String> {
        let shown = show(&command);
        self.log(format!("$ {shown}"));
        let program = words(&command);
        let broken = |error: io::Error| format!("{shown}: {error}");
        let (reader, writer) = io::pipe().map_err(broken)?;
        command.env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
        command.stdout(writer.try_clone().map_err(broken)?).stderr(writer);
        let mut child = command.spawn().map_err(broken)?;
        // The command holds our copies of the writing end; the pipe ends when the last of them is gone.
        drop(command);

        let (sender, receiver) = mpsc::channel();
        let listener = thread::spawn(move || read_lines(reader, &sender));
        let mut text = String::new();
        let mut newest = shown.clone();
        loop {
            self.show(&newest);
            match receiver.recv_timeout(TICK) {
                Ok(line) => {
                    text += &line;
                    text.push('\n');
                    // What cargo tells a program is not for people.
                    if !line.starts_with("{\"reason\":") {
                        if !line.trim().is_empty() {
                            newest.clone_from(&line);
                        }
                        self.log(line);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait().map_err(broken)?;
        let _ = listener.join();
        let summary = format!("`{}` ended with {status}", beginning(&program));
        Ok(Ran { ok: status.success(), text, summary })
    }
}

/// The program's name and its arguments.
fn words(command: &Command) -> Vec<String> {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// The first words of a command line: enough to know which it was.
fn beginning(words: &[String]) -> String {
    let shown = words.len().min(5);
    let more = if shown < words.len() { " …" } else { "" };
    format!("{}{more}", words[..shown].join(" "))
}

/// Sends every line of `reader` on, whatever its encoding.
fn read_lines(reader: impl io::Read, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes);
        if sender.send(line.trim_end().to_owned()).is_err() {
            return;
        }
        bytes.clear();
    }
}

/// The live line: the job, its seconds, and as much of `what` as fits, without control characters.
fn live_line(name: &str, seconds: f64, what: &str) -> String {
    let line = format!("{name} {seconds:.0} s  {}", what.trim());
    line.chars().filter(|c| !c.is_control()).take(COLUMNS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_kept_in_order() {
        let mut job = Job::new("x");
        job.run(shell("echo one; echo two >&2; echo three; exit 1")).unwrap_err();
        assert_eq!(job.lines()[1..], ["one", "two", "three"]);
    }

    #[test]
    fn of_a_success_only_the_command_is_kept() {
        let mut job = Job::new("x");
        job.run(shell("echo one")).unwrap();
        assert_eq!(job.lines(), ["$ sh -c echo one"]);
    }

    #[test]
    fn messages_for_programs_are_answered_but_not_kept() {
        let mut job = Job::new("x");
        let ran = job.observe(shell("echo '{\"reason\":1}'; echo shown")).unwrap();
        assert_eq!(ran.text, "{\"reason\":1}\nshown\n");
        assert_eq!(job.lines()[1..], ["shown"]);
    }

    #[test]
    fn a_failure_names_the_command_and_the_status() {
        let error = Job::new("x").run(shell("exit 3")).unwrap_err();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_long_command_line_is_summed_up_by_its_beginning() {
        let words: Vec<_> = "cargo test --workspace --doc -p a -p b".split(' ').map(str::to_owned).collect();
        assert_eq!(beginning(&words), "cargo test --workspace --doc -p …");
        assert_eq!(beginning(&words[..2]), "cargo test");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = Job::new("x").run(Command::new("no-such-program")).unwrap_err();
        assert!(error.starts_with("no-such-program: "), "{error}");
    }

    #[test]
    fn the_live_line_fits_and_holds_no_control_characters() {
        let line = live_line("fmt", 1.2, &format!("\x1b[1m{}", "y".repeat(200)));
        assert_eq!(line.chars().count(), COLUMNS);
        assert!(!line.contains('\x1b') && line.starts_with("fmt 1 s  "));
    }
}
