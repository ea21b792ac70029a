// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes that need a nightly toolchain, and say so where there is none.
//!
//! There is no thread sanitizer lane: it does not know `fence`, on which the protocols here rest. Loom does.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::lane::Outcome;
use crate::cargo::{self, Package, add_flags, nightly_cargo, works};
use crate::job::Job;

/// The oldest compiler that the workspace supports.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A program with one fault that the address sanitizer must see.
const PROBE: &str = "\
fn main() {
    let bytes = vec![1_u8; 8];
    let past = std::hint::black_box(bytes.as_ptr()).wrapping_add(std::hint::black_box(8));
    println!(\"{}\", unsafe { past.read_volatile() });
}
";

/// Unit tests of the `no_std` crates under Miri.
pub(super) fn miri(job: &mut Job) -> Outcome {
    if let Err(reason) = usable_nightly() {
        return Outcome::Skip(reason);
    }
    let mut version = nightly_cargo();
    version.args(["miri", "--version"]);
    let source = sysroot().is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library").exists());
    if !works(version) || !source {
        let mend = "rustup component add --toolchain nightly miri rust-src";
        return Outcome::Skip(format!("nightly has no miri or no rust-src ({mend})"));
    }
    run_miri(job).into()
}

fn run_miri(job: &mut Job) -> Result<(), String> {
    let mut command = nightly_cargo();
    command.args(["miri", "test", "--lib", "--all-features"]);
    command.arg("--target-dir").arg(cargo::target_dir().join("miri"));
    for package in cargo::packages()?.iter().filter(|package| package.is_no_std()) {
        command.args(["--package", &package.name]);
    }
    // The random tests look for a file of past failures, and Miri is a hundred times slower than the machine.
    add_flags(&mut command, "MIRIFLAGS", "-Zmiri-disable-isolation");
    command.env("PROPTEST_CASES", "4");
    job.run(command)
}

/// Packages that the sanitizer does not look at: random programs over whole machines take minutes under it, and what they reach
/// of memory is reached by the tests of the crates below.
const NOT_SANITIZED: [&str; 1] = ["sim"];

/// Parts of the names of tests that the sanitizer does not look at: they fail every step of an operation in turn, so the same
/// accesses come hundreds of times, and all memory is compared after each.
const NOT_SWEPT: [&str; 4] =
    ["survives_every_failure", "the_kth_", "an_entry_and_a_frame", "a_failure_at_every_place"];

/// Unit and integration tests of the libraries with unsafe code under the address sanitizer.
///
/// Most of its time goes into building: everything is compiled once more. So it leaves out what cannot fail here, and debug
/// information: a report names functions without it. Random tests have few cases, since each tests the same accesses.
pub(super) fn sanitizers(job: &mut Job) -> Outcome {
    let host = match usable_nightly().and_then(|host| sanitizer_works(job, &host).map(|()| host)) {
        Ok(host) => host,
        Err(reason) => return Outcome::Skip(reason),
    };
    run_sanitizer(job, &host).into()
}

fn run_sanitizer(job: &mut Job, host: &str) -> Result<String, String> {
    let mut command = nightly_cargo();
    // Naming the target keeps build scripts and derive macros out of it.
    command.args(["test", "--lib", "--tests", "--all-features", "--no-fail-fast", "--target", host]);
    command.arg("--target-dir").arg(cargo::target_dir().join("asan"));
    for package in cargo::packages()?.iter().filter(is_sanitized) {
        command.args(["--package", &package.name]);
    }
    command.arg("--").args(NOT_SWEPT.iter().flat_map(|&name| ["--skip", name]));
    command.env("CARGO_PROFILE_DEV_DEBUG", "none");
    add_flags(&mut command, "RUSTFLAGS", "-Zsanitizer=address");
    // Some tests die of a stray write on purpose, and leaks are what the test allocator looks for.
    command.env("ASAN_OPTIONS", "handle_segv=0:handle_sigbus=0:detect_leaks=0");
    command.env("PROPTEST_CASES", "8");
    job.run(command)?;
    Ok("address".to_owned())
}

fn is_sanitized(package: &&Package) -> bool {
    package.is_library() && !package.is_safe() && !NOT_SANITIZED.contains(&&*package.dir)
}

/// The host triple of a nightly toolchain that is new enough, or why there is none.
fn usable_nightly() -> Result<String, String> {
    let missing = "no nightly toolchain (rustup toolchain install nightly)";
    let output = Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]).output();
    let output = output.ok().filter(|output| output.status.success()).ok_or(missing)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    let release = field("release: ");
    if minor(&release) < minor(OLDEST) {
        return Err(format!("nightly is {release}, older than {OLDEST} (rustup update nightly)"));
    }
    Ok(field("host: "))
}

/// The 95 of 1.95.0-nightly.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

fn sysroot() -> Option<String> {
    let output =
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Compiles and runs the probe: the sanitizer must stop it.
fn sanitizer_works(job: &mut Job, host: &str) -> Result<(), String> {
    let dir = cargo::target_dir().join("xtask");
    let (source, program) = (dir.join("asan_probe.rs"), dir.join("asan_probe"));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&source, PROBE))
        .map_err(|error| format!("no place for the probe: {}: {error}", source.display()))?;
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "-Zsanitizer=address", "--edition=2024", "--target", host]);
    rustc.arg("-o").arg(&program).arg(&source);
    if !job.observe(rustc)?.ok {
        return Err(format!("nightly has no address sanitizer for {host}"));
    }
    let ran = job.observe(Command::new(&program))?;
    if ran.ok || !ran.text.contains("AddressSanitizer") {
        return Err("the address sanitizer of nightly does not see a read past the end".to_owned());
    }
    job.forget();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sanitizer_looks_at_what_can_be_unsafe() {
        let packages = cargo::packages().unwrap();
        let looked_at: Vec<_> = packages.iter().filter(is_sanitized).map(|package| &*package.dir).collect();
        for dir in ["frame", "host", "page", "pgtable", "vmemmap"] {
            assert!(looked_at.contains(&dir), "{dir}");
        }
        for dir in ["addr", "cli", "sim"] {
            assert!(!looked_at.contains(&dir), "{dir}");
        }
    }

    #[test]
    fn versions_compare_by_their_minor_number() {
        assert_eq!(minor("1.97.0-nightly"), Some(97));
        assert!(minor("1.9.0") < minor("1.95.0"));
        assert!(minor("nonsense") < minor(OLDEST));
    }
}
