// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules about what has to be argued: unsafe code and memory orderings.

use super::source::{Problem, Source};

/// How many lines of code may stand between an ordering's statement and its comment.
const NEAR: usize = 3;

/// The orderings that have a partner.
const ORDERINGS: [&str; 4] = ["Acquire", "Release", "AcqRel", "SeqCst"];

/// Every unsafe block and every `unsafe impl` has its proof above it.
pub(super) fn safety(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, what) in unsafe_places(source) {
        if !source.comment_above(at).contains("SAFETY:") {
            let message =
                format!("{what} without a proof; write `// SAFETY: …` above it, one reason per obligation");
            problems.push(Problem::new(&source.path, at + 1, message));
        }
    }
    problems
}

/// How much unsafe there is, in a line.
pub(super) fn unsafe_count(sources: &[Source]) -> String {
    let places: Vec<_> = sources.iter().flat_map(unsafe_places).collect();
    let impls = places.iter().filter(|(_, what)| *what == "an unsafe impl").count();
    format!("{} unsafe blocks, {impls} unsafe impls", places.len() - impls)
}

/// The lines, from 0, with an unsafe block or an `unsafe impl`.
fn unsafe_places(source: &Source) -> Vec<(usize, &'static str)> {
    let mut places = Vec::new();
    for (at, line) in source.lines.iter().enumerate() {
        for (column, word) in line.code.match_indices("unsafe") {
            let (before, after) = (&line.code[..column], line.code[column + word.len()..].trim_start());
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let next_line = || source.lines.get(at + 1).map_or("", |line| line.code.trim_start());
            if after.starts_with('{') || (after.is_empty() && next_line().starts_with('{')) {
                places.push((at, "an unsafe block"));
            } else if after.starts_with("impl") {
                places.push((at, "an unsafe impl"));
            }
        }
    }
    places
}

/// Every ordering other than `Relaxed` names its partner; `SeqCst` is for fences only.
pub(super) fn orderings(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !source.is_shipped() {
        return problems;
    }
    let mut refuse = |at: usize, message: &str| problems.push(Problem::new(&source.path, at + 1, message));
    for (at, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.test) {
        if imports_an_ordering(&line.code) {
            refuse(
                at,
                "orderings are not imported by name; write `Ordering::Acquire` in full, so that it is found",
            );
            continue;
        }
        for name in ORDERINGS {
            for (column, word) in line.code.match_indices(&format!("Ordering::{name}")) {
                if line.code[column + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                if name == "SeqCst" && !is_fence(source, at, column) {
                    refuse(at, "a SeqCst access; use fence(Ordering::SeqCst) beside a Relaxed access");
                }
                if !source.comments_near(at, NEAR).contains("pairs with") {
                    refuse(at, &format!("{name} without its partner; say `pairs with …` in a comment above"));
                }
            }
        }
    }
    problems
}

/// A `use` that makes orderings known by their bare names.
fn imports_an_ordering(code: &str) -> bool {
    let code = code.trim().trim_start_matches("pub ").replace(' ', "");
    let Some((_, after)) = code.split_once("Ordering::").filter(|_| code.starts_with("use")) else {
        return false;
    };
    after.starts_with(['{', '*']) || ORDERINGS.iter().any(|name| after.starts_with(name))
}

/// Is the ordering in column `column` of line `at` the argument of `fence(`?
fn is_fence(source: &Source, at: usize, column: usize) -> bool {
    // The path of the ordering itself, as in core::sync::atomic::Ordering::SeqCst.
    let path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let before = source.lines[at].code[..column].trim_end_matches(path).trim_end();
    if !before.is_empty() {
        return before.ends_with("fence(");
    }
    at > 0 && source.lines[at - 1].code.trim_end().ends_with("fence(")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rule: fn(&Source) -> Vec<Problem>, text: &str) -> Vec<usize> {
        let source = Source::new("crates/x/src/lib.rs", text);
        rule(&source).into_iter().map(|problem| problem.line).collect()
    }

    fn passes(rule: fn(&Source) -> Vec<Problem>, text: &str) -> bool {
        refused(rule, text).is_empty()
    }

    #[test]
    fn unsafe_without_a_proof_is_refused() {
        assert_eq!(refused(safety, "fn a() {\n    unsafe { b() }\n}\n"), [2]);
        assert_eq!(refused(safety, "unsafe impl Send for A {}\n"), [1]);
        assert_eq!(refused(safety, "// It is fine.\nlet a =\n    unsafe { b() };\n"), [3]);
        assert_eq!(refused(safety, "// SAFETY: of another.\nb();\nunsafe { c() }\n"), [3]);
    }

    #[test]
    fn unsafe_with_a_proof_passes() {
        assert!(passes(safety, "// SAFETY: b asks for nothing.\nunsafe { b() }\n"));
        assert!(passes(safety, "// SAFETY: long,\n// and longer.\n#[cfg(x)]\nunsafe impl Send for A {}\n"));
        assert!(passes(safety, "// SAFETY: as above.\nlet a = call(\n    1,\n    unsafe { b() },\n);\n"));
    }

    #[test]
    fn what_only_names_unsafe_needs_no_proof() {
        let text = "unsafe fn a() {}\nunsafe trait B {}\n#[unsafe(no_mangle)]\nfn c() {}\n// unsafe {\n\"unsafe {\";\n";
        assert!(passes(safety, text));
    }

    #[test]
    fn unsafe_is_counted() {
        let source = Source::new("a.rs", "unsafe { b() }\nunsafe impl Send for A {}\nunsafe fn c() {}\n");
        assert_eq!(unsafe_count(&[source]), "1 unsafe blocks, 1 unsafe impls");
    }

    #[test]
    fn an_ordering_without_a_partner_is_refused() {
        assert_eq!(refused(orderings, "a.load(Ordering::Acquire);\n"), [1]);
        assert_eq!(refused(orderings, "// Publishes.\na.store(1, Ordering::Release);\n"), [2]);
        assert_eq!(refused(orderings, "fence(Ordering::SeqCst);\n"), [1]);
        let far = "// pairs with b.\nx();\nx();\nx();\nx();\na.load(Ordering::Acquire);\n";
        assert_eq!(refused(orderings, far), [6]);
    }

    #[test]
    fn an_ordering_with_a_partner_passes() {
        assert!(passes(orderings, "a.load(Ordering::Acquire); // pairs with b\n"));
        assert!(passes(
            orderings,
            "// Acquire: pairs\n// with the store in b.\nx();\na.load(Ordering::Acquire);\n"
        ));
        let long = "// pairs with b.\na.compare_exchange(\n    1,\n    2,\n    Ordering::AcqRel,\n    Ordering::Relaxed,\n);\n";
        assert!(passes(orderings, long));
        assert!(passes(orderings, "a.load(Ordering::Relaxed);\n"));
    }

    #[test]
    fn a_sequentially_consistent_access_is_refused_even_with_a_partner() {
        assert_eq!(refused(orderings, "// pairs with b\na.load(Ordering::SeqCst);\n"), [2]);
        assert!(passes(orderings, "// pairs with b\nfence(Ordering::SeqCst);\n"));
        assert!(passes(orderings, "// pairs with b\nfence(\n    atomic::Ordering::SeqCst,\n);\n"));
    }

    #[test]
    fn importing_an_ordering_is_refused() {
        assert_eq!(refused(orderings, "use core::sync::atomic::Ordering::{Acquire, Release};\n"), [1]);
        assert_eq!(refused(orderings, "pub use core::sync::atomic::Ordering::*;\n"), [1]);
        assert!(passes(orderings, "use core::sync::atomic::Ordering::Relaxed;\n"));
        assert!(passes(orderings, "use core::cmp::Ordering;\n"));
    }

    #[test]
    fn tests_may_order_as_they_like() {
        assert!(passes(orderings, "#[cfg(test)]\nmod tests {\n    a.load(Ordering::SeqCst);\n}\n"));
    }
}
