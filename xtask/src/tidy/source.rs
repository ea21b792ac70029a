// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file of the repository, taken apart far enough for the rules: what is code, what is comment, what is a test.

use std::fs;
use std::path::Path;

/// Something that a rule refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The file, from the root.
    pub(super) path: String,
    /// Its line, from 1.
    pub(super) line: usize,
    /// What is wrong and how to mend it.
    pub(super) message: String,
}

impl Problem {
    /// A problem in line `line`, counted from 1, of `path`.
    pub(super) fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// One line of a Rust file.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// Its code; comments are left out and the insides of strings are blanks.
    pub(super) code: String,
    /// Its comments, marks included.
    pub(super) comment: String,
    /// It belongs to an item under `#[cfg(test)]`.
    pub(super) test: bool,
}

impl Line {
    /// No code, but a comment.
    pub(super) fn is_comment(&self) -> bool {
        self.code.trim().is_empty() && !self.comment.is_empty()
    }

    /// An attribute on a line of its own.
    fn is_attribute(&self) -> bool {
        let code = self.code.trim();
        code.starts_with("#[") && code.ends_with(']')
    }

    /// Does a statement end, or a block begin or end, with this line?
    fn is_boundary(&self) -> bool {
        let code = self.code.trim_end();
        code.is_empty() || code.ends_with([';', '{', '}'])
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    /// The path from the root.
    pub(super) path: String,
    /// The text as it is.
    pub(super) text: String,
    /// Line by line; empty for what is not Rust.
    pub(super) lines: Vec<Line>,
}

impl Source {
    /// Takes `text` apart; `path` is from the root.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let lines = if path.ends_with(".rs") { split(text) } else { Vec::new() };
        Self { path: path.to_owned(), text: text.to_owned(), lines }
    }

    /// Is it code that a user of the crate gets: `crates/*/src`, but not its tests?
    pub(super) fn is_shipped(&self) -> bool {
        let inside = self.path.starts_with("crates/") && self.path.contains("/src/");
        inside && !self.path.ends_with("/tests.rs") && !self.path.contains("/tests/")
    }

    /// The comments of line `at`, of the lines of its statement, and of `above` lines of code before that. A run of
    /// comment lines counts as none, so that a long comment is still near.
    pub(super) fn comments_near(&self, at: usize, above: usize) -> String {
        let mut start = self.statement_start(at);
        let mut left = above;
        while let Some(before) = start.checked_sub(1) {
            if !self.lines[before].is_comment() {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            start = before;
        }
        prose(&self.lines[start..=at])
    }

    /// The comment that stands directly above line `at` or above its statement, attributes passed over, or beside it.
    pub(super) fn comment_above(&self, at: usize) -> String {
        let mut start = self.statement_start(at);
        while start > 0 && (self.lines[start - 1].is_comment() || self.lines[start - 1].is_attribute()) {
            start -= 1;
        }
        prose(&self.lines[start..=at])
    }

    /// The first line of the statement that line `at` belongs to; the search ends after twelve lines.
    fn statement_start(&self, at: usize) -> usize {
        let mut start = at;
        while at - start < 12 {
            // Comments may stand between the lines of a statement.
            match self.lines[..start].iter().rposition(|line| !line.is_comment()) {
                Some(before) if !self.lines[before].is_boundary() && !self.lines[before].is_attribute() => {
                    start = before;
                }
                _ => break,
            }
        }
        self.mutant_around(start).unwrap_or(start)
    }

    /// The line where the `mutant!(` begins that line `at` is inside of: the bug is argued with the code that it
    /// replaces.
    fn mutant_around(&self, at: usize) -> Option<usize> {
        let mut open = 0_i32;
        for (line, text) in self.lines[..at].iter().enumerate().rev().take(30) {
            let count = |wanted: char| text.code.chars().filter(|&c| c == wanted).count() as i32;
            open += count('(') - count(')');
            if open > 0 && text.code.contains("mutant!(") {
                return Some(line);
            }
        }
        None
    }
}

/// The words of the comments in `lines`, without their marks.
fn prose(lines: &[Line]) -> String {
    let comments = lines.iter().filter(|line| !line.comment.is_empty());
    let words = comments.map(|line| line.comment.trim_matches(['/', '!', '*', ' ']));
    words.collect::<Vec<_>>().join(" ")
}

/// Where the reader is.
enum State {
    Code,
    LineComment,
    /// With its depth.
    BlockComment(u32),
    Text,
    /// With its number of `#`.
    RawText(usize),
}

/// Splits a Rust file into lines of code and comment.
fn split(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied().unwrap_or('\n'));
        if c == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let Some(line) = lines.last_mut() else { break };
        let mut used = 1;
        match state {
            State::Code => match c {
                '/' if next == '/' => {
                    state = State::LineComment;
                    line.comment.push(c);
                }
                '/' if next == '*' => {
                    state = State::BlockComment(1);
                    line.comment += "/*";
                    used = 2;
                }
                '"' => {
                    state = State::Text;
                    line.code.push(c);
                }
                'r' if !follows_word(&chars, at) && raw_hashes(&chars, at).is_some() => {
                    let hashes = raw_hashes(&chars, at).unwrap_or(0);
                    state = State::RawText(hashes);
                    line.code.push('"');
                    used = hashes + 2;
                }
                '\'' => {
                    used = char_literal(&chars, at).unwrap_or(1);
                    line.code.push(c);
                }
                _ => line.code.push(c),
            },
            State::LineComment => line.comment.push(c),
            State::BlockComment(depth) => {
                line.comment.push(c);
                if c == '*' && next == '/' {
                    line.comment.push(next);
                    used = 2;
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                } else if c == '/' && next == '*' {
                    used = 2;
                    state = State::BlockComment(depth + 1);
                }
            }
            State::Text => match c {
                '\\' if next != '\n' => used = 2,
                '"' => {
                    state = State::Code;
                    line.code.push(c);
                }
                _ => line.code.push(' '),
            },
            State::RawText(hashes) => {
                let closes = c == '"' && (1..=hashes).all(|ahead| chars.get(at + ahead) == Some(&'#'));
                if closes {
                    state = State::Code;
                    line.code.push(c);
                    used = hashes + 1;
                } else {
                    line.code.push(' ');
                }
            }
        }
        at += used;
    }
    mark_tests(&mut lines);
    lines
}

/// Is the character before `at` part of a word that `chars[at]` goes on? The `b` of `br"…"` is none.
fn follows_word(chars: &[char], at: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => at >= 2 && word(chars[at - 2]),
        Some(c) => word(c),
        None => false,
    }
}

/// The number of `#` if a raw string begins at `at`.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The length of a character literal at `at`; none for a lifetime.
fn char_literal(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        let end = chars.iter().skip(at + 3).position(|&c| c == '\'')?;
        return Some(end + 4);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(3)
}

/// Marks the items below a `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let code = lines[at].code.replace(' ', "");
        if !(code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test,")) {
            at += 1;
            continue;
        }
        let mut depth = 0_i32;
        let mut inside = false;
        while at < lines.len() {
            lines[at].test = true;
            let code = &lines[at].code;
            for c in code.chars() {
                depth += i32::from(c == '{') - i32::from(c == '}');
                inside |= c == '{';
            }
            let done = if inside { depth <= 0 } else { code.trim_end().ends_with(';') };
            at += 1;
            if done {
                break;
            }
        }
    }
}

/// Every file that the rules look at, below `root`, in a fixed order.
pub(super) fn read_all(root: &Path) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for top in [
        "crates",
        "xtask",
        "benches",
        "ci",
        ".ci",
        ".cargo",
        "docs",
        "Cargo.toml",
        "rustfmt.toml",
        "clippy.toml",
    ] {
        if root.join(top).exists() {
            read_below(root, top, &mut sources)?;
        }
    }
    sources.sort_by(|a: &Source, b: &Source| a.path.cmp(&b.path));
    Ok(sources)
}

fn read_below(root: &Path, path: &str, sources: &mut Vec<Source>) -> Result<(), String> {
    let full = root.join(path);
    let broken = |error: std::io::Error| format!("{}: {error}", full.display());
    if full.is_dir() {
        for entry in fs::read_dir(&full).map_err(broken)? {
            let name = entry.map_err(broken)?.file_name().to_string_lossy().into_owned();
            if name != "target" {
                read_below(root, &format!("{path}/{name}"), sources)?;
            }
        }
    } else if is_source(path) {
        sources.push(Source::new(path, &fs::read_to_string(&full).map_err(broken)?));
    }
    Ok(())
}

/// Rust, manifests and scripts.
fn is_source(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.ends_with(".rs") || name.ends_with(".toml") || name.ends_with(".sh") || path == ".ci/run"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        split(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        assert_eq!(codes("a(\"unsafe\\\"\"); // unsafe"), ["a(\"      \"); "]);
        assert_eq!(codes("/* unsafe /* nested */ still */ b"), [" b"]);
        assert_eq!(codes("r#\"unsafe \" {\"# c")[0].trim_start_matches(['"', ' ']), "c");
    }

    #[test]
    fn a_string_may_span_lines() {
        assert_eq!(codes("x = \"one\ntwo // three\"; y"), ["x = \"   ", "            \"; y"]);
    }

    #[test]
    fn a_quote_may_be_a_character_or_a_lifetime() {
        assert_eq!(codes("f::<'a>('\"', '\\'', '{') // x"), ["f::<'a>(', ', ') "]);
    }

    #[test]
    fn items_under_cfg_test_are_tests() {
        let source =
            Source::new("x.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        let tests: Vec<_> = source.lines.iter().map(|line| line.test).collect();
        assert_eq!(tests, [false, true, true, true, true, false, false]);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_ends_at_its_semicolon() {
        let source = Source::new("x.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert_eq!(source.lines.iter().filter(|line| line.test).count(), 2);
    }

    #[test]
    fn comments_above_a_long_statement_are_near() {
        let text = "// far\nlet a = 1;\n// one\n// two\nlet x = call(\n    here,\n    there,\n);\n";
        let source = Source::new("x.rs", text);
        assert_eq!(source.comment_above(6), "one two");
        assert!(source.comments_near(6, 1).contains("far"));
        assert!(!source.comments_near(6, 0).contains("far"));
    }

    #[test]
    fn a_seeded_bug_shares_the_comments_of_its_macro() {
        let bug = "// Here.\nlet x = mutant!(\n    \"name\",\n    good(),\n    {\n        a();\n        b();\n    }\n);\nc();\n";
        let source = Source::new("x.rs", bug);
        assert_eq!(source.comment_above(6), "Here.");
        assert_eq!(source.comment_above(9), "");
    }

    #[test]
    fn only_the_shipped_sources_of_crates_are_shipped() {
        let shipped = |path| Source::new(path, "").is_shipped();
        assert!(shipped("crates/sync/src/lock.rs"));
        assert!(!shipped("crates/sync/tests/loom_lock.rs"));
        assert!(!shipped("crates/sync/src/lock/tests.rs"));
        assert!(!shipped("xtask/src/main.rs"));
    }
}
