// SPDX-License-Identifier: MIT OR Apache-2.0
//! The freestanding program is built from the same versions as the workspace: what one has fetched, the other has too.

use super::source::Problem;

/// The lock file of the freestanding program.
pub(super) const FREESTANDING: &str = "ci/freestanding/Cargo.lock";

/// Every package from the registry in `inner` is in `outer`, in the same version.
pub(super) fn same_versions(inner: &str, outer: &str) -> Vec<Problem> {
    let outer = fetched(outer);
    let strange =
        fetched(inner).into_iter().filter(|(_, package)| !outer.iter().any(|(_, known)| known == package));
    let message = |package: &str| {
        format!(
            "{package} is not what the workspace uses; cp Cargo.lock ci/freestanding/, then build it without --locked"
        )
    };
    strange.map(|(line, package)| Problem::new(FREESTANDING, line, message(&package))).collect()
}

/// The packages of a lock file that come from elsewhere: line, name and version.
fn fetched(lock: &str) -> Vec<(usize, String)> {
    let mut packages = Vec::new();
    let (mut name, mut version, mut line) = ("", "", 0);
    for (at, text) in lock.lines().enumerate() {
        if let Some(value) = text.strip_prefix("name = ") {
            (name, line) = (value.trim_matches('"'), at + 1);
        } else if let Some(value) = text.strip_prefix("version = ") {
            version = value.trim_matches('"');
        } else if text.starts_with("source = ") {
            packages.push((line, format!("{name} {version}")));
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(version: &str) -> String {
        let ours = "[[package]]\nname = \"mmkit-addr\"\nversion = \"0.1.0\"\n";
        let theirs = "[[package]]\nname = \"bitflags\"\nversion = ";
        format!("version = 4\n\n{ours}\n{theirs}\"{version}\"\nsource = \"registry\"\n")
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!(same_versions(&lock("2.13.0"), &lock("2.13.0")), []);
        let problems = same_versions(&lock("2.14.0"), &lock("2.13.0"));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, 8);
        assert!(problems[0].message.starts_with("bitflags 2.14.0 is not"));
    }
}
