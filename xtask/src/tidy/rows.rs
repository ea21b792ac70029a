// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crate rows: which crates of this repository a crate may use, and which libraries do without std.

use super::source::{Problem, Source};

/// What a crate is and may use; crates are named by their directory.
struct Row {
    krate: &'static str,
    /// It is `no_std` whatever its features are.
    no_std: bool,
    uses: &'static [&'static str],
    /// These it may use behind a feature only.
    optional: &'static [&'static str],
}

const fn row(krate: &'static str, no_std: bool, uses: &'static [&'static str]) -> Row {
    Row { krate, no_std, uses, optional: &[] }
}

const LIBRARIES: &[&str] = &["addr", "sync", "frame", "page", "folio", "pgtable", "vmemmap", "devmap", "gup"];

const WITH_HOST: &[&str] =
    &["addr", "sync", "frame", "page", "folio", "pgtable", "vmemmap", "devmap", "gup", "host"];

const EVERYTHING: &[&str] = &[
    "addr", "sync", "frame", "page", "folio", "pgtable", "vmemmap", "devmap", "gup", "host", "sim", "oracle",
    "mmkit",
];

/// The table of `docs/architecture.md`.
const ROWS: [Row; 14] = [
    row("addr", true, &[]),
    row("sync", true, &[]),
    row("frame", true, &["addr", "sync"]),
    row("page", true, &["addr", "sync"]),
    row("folio", true, &["addr", "sync", "page"]),
    row("pgtable", true, &["addr", "sync", "frame"]),
    Row { optional: &["pgtable"], ..row("vmemmap", true, &["addr", "sync", "frame", "page"]) },
    row("devmap", true, &["addr", "sync", "frame", "page", "folio", "pgtable", "vmemmap"]),
    row("gup", true, &["addr", "sync", "page", "folio"]),
    row("host", false, &["addr", "frame", "page", "vmemmap"]),
    row("sim", false, WITH_HOST),
    row("oracle", false, &["sim"]),
    row("mmkit", true, LIBRARIES),
    row("cli", false, EVERYTHING),
];

/// Which kind of dependency a section of a manifest lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Normal,
    Dev,
    Build,
    Other,
}

/// The dependencies of a manifest below `crates/` are those of its row.
pub(super) fn rows(source: &Source) -> Vec<Problem> {
    let Some(krate) = source.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml"))
    else {
        return Vec::new();
    };
    let Some(row) = ROWS.iter().find(|row| row.krate == krate) else {
        let message = "a crate without a row; add one to xtask/src/tidy/rows.rs and to docs/architecture.md";
        return vec![Problem::new(&source.path, 1, message)];
    };
    let mut problems = Vec::new();
    for (line, section, used, text) in dependencies(&source.text) {
        let fault = match section {
            Section::Normal if row.uses.contains(&used) => continue,
            Section::Normal if row.optional.contains(&used) && text.contains("optional = true") => continue,
            Section::Normal if row.optional.contains(&used) => {
                "behind a feature only; write `optional = true`"
            }
            // Tests may look further than the crate does, but not at the program that is made of it.
            Section::Dev if used != "cli" => continue,
            Section::Normal | Section::Dev | Section::Build => {
                "not in its row; use what is, or change the design"
            }
            Section::Other => continue,
        };
        problems.push(Problem::new(&source.path, line, format!("{krate} uses {used}: {fault}")));
    }
    problems
}

/// The dependencies of a manifest on crates of this repository: line, kind, directory, and the text of the line.
fn dependencies(manifest: &str) -> Vec<(usize, Section, &str, &str)> {
    let mut section = Section::Other;
    let mut found = Vec::new();
    for (at, line) in manifest.lines().enumerate() {
        let mut entry = line.trim();
        if let Some(header) = entry.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let (kind, rest) = section_of(header);
            section = kind;
            entry = rest;
        }
        if section == Section::Other || entry.starts_with('#') {
            continue;
        }
        // A renamed dependency names its package further on.
        let named = entry.split_once("package = \"").map_or(entry, |(_, package)| package);
        let name = named.split(['.', ' ', '=', '"', ']']).next().unwrap_or_default();
        if let Some(used) = crate_of(name) {
            found.push((at + 1, section, used, entry));
        }
    }
    found
}

/// The kind of a section, and what follows its last dot when the section is a single dependency.
fn section_of(header: &str) -> (Section, &str) {
    for (word, section) in [
        ("dev-dependencies", Section::Dev),
        ("build-dependencies", Section::Build),
        ("dependencies", Section::Normal),
    ] {
        if let Some((before, after)) = header.rsplit_once(word)
            && (before.is_empty() || before.ends_with('.'))
            && (after.is_empty() || after.starts_with('.'))
        {
            return (section, after.trim_start_matches('.'));
        }
    }
    (Section::Other, "")
}

/// The directory of the package `name`, if it is one of ours.
fn crate_of(name: &str) -> Option<&str> {
    if name == "mmkit" { Some(name) } else { name.strip_prefix("mmkit-") }
}

/// The library of a `no_std` row says so, and without a condition.
pub(super) fn no_std(source: &Source) -> Vec<Problem> {
    let Some(krate) = source.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/src/lib.rs"))
    else {
        return Vec::new();
    };
    let expected = ROWS.iter().any(|row| row.krate == krate && row.no_std);
    if !expected || source.lines.iter().any(|line| line.code.trim() == "#![no_std]") {
        return Vec::new();
    }
    vec![Problem::new(&source.path, 2, "no `#![no_std]`; write it below the crate's documentation")]
}

/// The freestanding program holds every `no_std` library, or it proves nothing about the one left out.
pub(super) fn freestanding(sources: &[Source]) -> Vec<Problem> {
    let path = "ci/freestanding/src/touch.rs";
    let Some(program) = sources.iter().find(|source| source.path == path) else {
        return vec![Problem::new(path, 1, "missing; it links one piece of every no_std library")];
    };
    let mut problems = Vec::new();
    for row in ROWS.iter().filter(|row| row.no_std) {
        let library = format!("crates/{}/src/lib.rs", row.krate);
        let name = if row.krate == "mmkit" { row.krate.to_owned() } else { format!("mmkit_{}", row.krate) };
        // A crate that only re-exports has nothing to call.
        let used = [format!("{name}::"), format!("use {name} as _;")];
        let exists = sources.iter().any(|source| source.path == library);
        if exists && !program.lines.iter().any(|line| used.iter().any(|used| line.code.contains(used))) {
            problems.push(Problem::new(
                path,
                1,
                format!("nothing of {name} is linked; call one of its functions here"),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(krate: &str, manifest: &str) -> Vec<String> {
        let source = Source::new(&format!("crates/{krate}/Cargo.toml"), manifest);
        rows(&source).into_iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
    }

    #[test]
    fn a_dependency_outside_the_row_is_refused_however_it_is_written() {
        for manifest in [
            "[dependencies]\nmmkit-vmemmap.workspace = true\n",
            "[dependencies]\nmmkit-vmemmap = { path = \"../vmemmap\" }\n",
            "[dependencies]\nmap = { package = \"mmkit-vmemmap\", path = \"../vmemmap\" }\n",
            "\n[dependencies.mmkit-vmemmap]\n",
            "[target.'cfg(unix)'.dependencies]\nmmkit-vmemmap.workspace = true\n",
            "[build-dependencies]\nmmkit-vmemmap.workspace = true\n",
        ] {
            let problems = refused("gup", manifest);
            assert_eq!(problems.len(), 1, "{manifest}");
            assert!(problems[0].starts_with("2: gup uses vmemmap: not in its row"), "{problems:?}");
        }
    }

    #[test]
    fn the_row_itself_and_foreign_crates_pass() {
        let manifest =
            "[features]\nmmkit-host = []\n[dependencies]\nmmkit-addr.workspace = true\nbitflags = \"2\"\n";
        assert_eq!(refused("page", manifest), [""; 0]);
    }

    #[test]
    fn tests_may_look_further_but_not_at_the_program() {
        assert_eq!(refused("addr", "[dev-dependencies]\nmmkit-vmemmap.workspace = true\n"), [""; 0]);
        assert_eq!(refused("addr", "[dev-dependencies]\nmmkit-cli.workspace = true\n").len(), 1);
    }

    #[test]
    fn a_dependency_behind_a_feature_must_be_optional() {
        let with = |more: &str| {
            refused("vmemmap", &format!("[dependencies]\nmmkit-pgtable = {{ workspace = true{more} }}\n"))
        };
        assert_eq!(with(", optional = true"), [""; 0]);
        assert!(with("")[0].contains("behind a feature only"));
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        assert!(refused("extra", "[dependencies]\n")[0].contains("without a row"));
    }

    #[test]
    fn rows_use_only_what_has_a_row_and_never_themselves() {
        for row in &ROWS {
            for used in row.uses.iter().chain(row.optional) {
                assert!(ROWS.iter().any(|row| row.krate == *used), "{used}");
                assert_ne!(*used, row.krate);
            }
        }
    }

    #[test]
    fn a_library_with_std_is_refused() {
        let refused = |path, text| no_std(&Source::new(path, text)).len();
        assert_eq!(refused("crates/sync/src/lib.rs", "//! Locks.\n"), 1);
        assert_eq!(refused("crates/sync/src/lib.rs", "#![cfg_attr(not(feature = \"std\"), no_std)]\n"), 1);
        assert_eq!(refused("crates/sync/src/lib.rs", "// #![no_std]\n"), 1);
        assert_eq!(refused("crates/sync/src/lib.rs", "//! Locks.\n#![no_std]\n"), 0);
        assert_eq!(refused("crates/host/src/lib.rs", "//! Uses the system.\n"), 0);
    }

    #[test]
    fn a_library_that_the_freestanding_program_leaves_out_is_refused() {
        let library = || Source::new("crates/sync/src/lib.rs", "#![no_std]\n");
        let program = |text| Source::new("ci/freestanding/src/touch.rs", text);
        assert_eq!(freestanding(&[library(), program("// mmkit_sync::\n")]).len(), 1);
        assert_eq!(freestanding(&[library(), program("mmkit_sync::f();\n")]), []);
        assert_eq!(freestanding(&[library(), program("use mmkit_sync as _;\n")]), []);
        assert_eq!(freestanding(&[library()]).len(), 1);
    }
}
