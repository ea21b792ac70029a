// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands that the README names are commands that exist.

use std::process::Command;

use clap::Parser;

use super::source::Problem;
use crate::cargo::cargo;
use crate::flags::{self, Flags};

/// The file whose commands are checked.
pub(super) const README: &str = "README.md";

/// A command in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    line: usize,
    program: Program,
    args: Vec<String>,
}

/// Whose command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Xtask,
    Mmkit,
}

/// Every `cargo xtask …` and `mmkit …` in `text` is accepted by the program that it is for. `mmkit` answers for itself.
pub(super) fn commands(text: &str, mmkit: impl Fn(&[String]) -> Result<(), String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for named in named(text) {
        let result = match named.program {
            Program::Xtask => xtask_accepts(&named.args, &mmkit),
            Program::Mmkit => mmkit(&named.args),
        };
        if let Err(reason) = result {
            let program = if named.program == Program::Xtask { "cargo xtask" } else { "mmkit" };
            let message =
                format!("`{program} {}` does not exist: {reason}; mend one of the two", named.args.join(" "));
            problems.push(Problem::new(README, named.line, message));
        }
    }
    problems
}

/// Would `cargo xtask` take these arguments? Those of `demo` go on to `mmkit`.
fn xtask_accepts(args: &[String], mmkit: &impl Fn(&[String]) -> Result<(), String>) -> Result<(), String> {
    let parsed = Flags::try_parse_from(std::iter::once("cargo xtask").chain(args.iter().map(String::as_str)));
    match parsed {
        Ok(Flags { command: flags::Command::Demo(demo) }) if !demo.args.is_empty() => mmkit(args),
        Ok(_) => Ok(()),
        Err(error) if error.use_stderr() && !args.is_empty() => Err(first_line(&error.to_string())),
        // --help and --version, and the bare name.
        Err(_) => Ok(()),
    }
}

/// Would the built `mmkit` take these arguments? Asked for help behind them, it reads them and does nothing.
pub(super) fn mmkit_accepts(args: &[String]) -> Result<(), String> {
    let mut command: Command = cargo();
    command
        .args(["run", "--quiet", "--package", "mmkit-cli", "--bin", "mmkit", "--"])
        .args(args)
        .arg("--help");
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(first_line(&String::from_utf8_lossy(&output.stderr)))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("it says nothing").trim_start_matches("error: ").to_owned()
}

/// The commands in the code of `text`: fenced blocks and `spans`.
fn named(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut fence: Option<bool> = None;
    for (at, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            // Only shell blocks hold commands; a block of output or of Rust may name them as it likes.
            let shell = matches!(language.trim(), "" | "sh" | "bash" | "console" | "shell");
            fence = if fence.is_some() { None } else { Some(shell) };
            continue;
        }
        match fence {
            Some(true) => found.extend(command(line, at + 1)),
            Some(false) => {}
            None => {
                let spans = line.split('`').skip(1).step_by(2);
                found.extend(spans.filter_map(|span| command(span, at + 1)));
            }
        }
    }
    found
}

/// The command of one line of shell, or of one span.
fn command(text: &str, line: usize) -> Option<Named> {
    let text = text.trim().trim_start_matches("$ ");
    let mut words = text.split_whitespace();
    let program = match words.next()? {
        "mmkit" => Program::Mmkit,
        "cargo" if words.next() == Some("xtask") => Program::Xtask,
        _ => return None,
    };
    // A comment, a pipe or a synopsis ends what can be tried.
    let plain = words
        .take_while(|word| !word.starts_with(['#', '|', '>', '[', '<', '&', ';', '…']) && *word != "...");
    let args: Vec<_> = plain.map(|word| word.trim_matches(['"', '\'']).to_owned()).collect();
    // `mmkit` alone is the name of a crate too.
    (!args.is_empty()).then_some(Named { line, program, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# mmkit

Run `cargo xtask demo`, or `mmkit plan --page 2M`; `mmkit` is a crate.

```sh
cargo xtask test --only fmt   # quick
cargo build
```

```rust
// cargo xtask nonsense
```
";

    #[test]
    fn commands_are_found_in_shell_blocks_and_spans() {
        let found: Vec<_> = named(TEXT).into_iter().map(|named| (named.line, named.args.join(" "))).collect();
        let expected = [(3, "demo"), (3, "plan --page 2M"), (6, "test --only fmt")];
        assert_eq!(found, expected.map(|(line, args)| (line, args.to_owned())));
    }

    #[test]
    fn a_command_that_does_not_exist_is_refused() {
        let yes = |_: &[String]| Ok(());
        let no = |_: &[String]| Err("no such command".to_owned());
        assert_eq!(commands(TEXT, yes), []);
        assert_eq!(commands(TEXT, no).len(), 1, "the plan");
        for text in
            ["`cargo xtask nonsense`", "`cargo xtask test --only nonsense`", "`cargo xtask bench a b`"]
        {
            assert_eq!(commands(text, yes).len(), 1, "{text}");
        }
    }

    #[test]
    fn arguments_of_the_demo_are_for_mmkit_to_judge() {
        let no = |args: &[String]| Err(args.join(" "));
        let problems = commands("`cargo xtask demo --nonsense`", no);
        assert!(problems[0].message.contains("demo --nonsense"), "{problems:?}");
    }

    #[test]
    fn a_synopsis_is_tried_up_to_its_first_bracket() {
        assert_eq!(named("`cargo xtask loom [CRATE]`")[0].args, ["loom"]);
    }
}
