// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules about the text of a file: its licence line, forbidden words, its length.

use super::source::{Problem, Source};

/// The licence, as every file states it.
const SPDX: &str = "SPDX-License-Identifier: MIT OR Apache-2.0";

/// What must not be left behind in a crate.
const FORBIDDEN: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// A longer file is taken apart, or stands in [`LONG`] with its reason.
const LENGTH: usize = 600;

/// The files that may be longer, and why.
const LONG: [(&str, &str); 0] = [];

/// The first line, or the second below `#!`, names the licence.
pub(super) fn spdx(source: &Source) -> Vec<Problem> {
    let mark = if source.path.ends_with(".rs") { "//" } else { "#" };
    let expected = format!("{mark} {SPDX}");
    let mut lines = source.text.lines();
    let first = lines.next().unwrap_or_default();
    let (at, line) =
        if first.starts_with("#!/") { (2, lines.next().unwrap_or_default()) } else { (1, first) };
    if line == expected {
        return Vec::new();
    }
    vec![Problem::new(&source.path, at, format!("no licence line; write `{expected}` here"))]
}

/// No unfinished work and no debugging aids in the crates.
pub(super) fn forbidden(source: &Source) -> Vec<Problem> {
    if !source.path.starts_with("crates/") {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        for word in FORBIDDEN.iter().filter(|word| has_word(&line.code, word)) {
            let message = format!("`{word}` is not for committed code; finish it or return an error");
            problems.push(Problem::new(&source.path, at + 1, message));
        }
    }
    problems
}

/// Does `word` occur in `code` other than as the end of a longer word?
fn has_word(code: &str, word: &str) -> bool {
    let mut before = code.match_indices(word).map(|(at, _)| code[..at].chars().next_back());
    before.any(|before| !before.is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

/// No Rust file is longer than [`LENGTH`] lines.
pub(super) fn length(source: &Source) -> Vec<Problem> {
    let lines = source.text.lines().count();
    let allowed = LONG.iter().any(|(path, _)| *path == source.path);
    if !source.path.ends_with(".rs") || lines <= LENGTH || allowed {
        return Vec::new();
    }
    let message =
        format!("{lines} lines; split the file by concept, or give a reason in xtask/src/tidy/text.rs");
    vec![Problem::new(&source.path, LENGTH + 1, message)]
}

/// Median and greatest length of the Rust files, in a line.
pub(super) fn lengths(sources: &[Source]) -> String {
    let rust = sources.iter().filter(|source| source.path.ends_with(".rs"));
    let mut lengths: Vec<_> =
        rust.map(|source| (source.text.lines().count(), source.path.as_str())).collect();
    lengths.sort_unstable();
    let Some((longest, path)) = lengths.last() else { return "no Rust files".to_owned() };
    let median = lengths[lengths.len() / 2].0;
    format!("{} Rust files, median {median} lines, longest {longest} ({path})", lengths.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_licence_is_refused() {
        let refused = |path, text| spdx(&Source::new(path, text)).len();
        assert_eq!(refused("crates/x/src/lib.rs", "//! Text.\n"), 1);
        assert_eq!(refused("crates/x/src/lib.rs", "\n// SPDX-License-Identifier: MIT OR Apache-2.0\n"), 1);
        assert_eq!(refused("crates/x/src/lib.rs", "// SPDX-License-Identifier: MIT OR Apache-2.0\n"), 0);
        assert_eq!(refused("ci/x.sh", "#!/bin/sh\necho\n"), 1);
        assert_eq!(refused("ci/x.sh", "#!/bin/sh\n# SPDX-License-Identifier: MIT OR Apache-2.0\n"), 0);
        assert_eq!(refused("crates/x/Cargo.toml", "[package]\n"), 1);
    }

    #[test]
    fn unfinished_work_is_refused_where_it_stands() {
        let source = Source::new("crates/x/src/lib.rs", "fn a() {\n    todo!()\n}\n");
        let problems = forbidden(&source);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 2);
        for word in FORBIDDEN {
            assert_eq!(forbidden(&Source::new("crates/x/src/lib.rs", word)).len(), 1, "{word}");
        }
    }

    #[test]
    fn speaking_of_unfinished_work_is_fine() {
        let source = Source::new("crates/x/src/lib.rs", "// todo!\nlet a = \"dbg!\"; my_dbg!(a);\n");
        assert_eq!(forbidden(&source), []);
        assert_eq!(forbidden(&Source::new("xtask/src/x.rs", "todo!()")), []);
    }

    #[test]
    fn a_long_file_is_refused() {
        assert_eq!(length(&Source::new("crates/x/src/lib.rs", &"\n".repeat(LENGTH + 1))).len(), 1);
        assert_eq!(length(&Source::new("crates/x/src/lib.rs", &"\n".repeat(LENGTH))), []);
    }

    #[test]
    fn lengths_are_summed_up() {
        let sources = [Source::new("a.rs", "\n"), Source::new("b.rs", "\n\n\n"), Source::new("c.rs", "\n\n")];
        assert_eq!(lengths(&sources), "3 Rust files, median 2 lines, longest 3 (b.rs)");
    }
}
