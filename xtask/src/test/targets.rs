// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes that prove `no_std`: the freestanding link and the bare-metal targets.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::lane::{Outcome, with_args};
use crate::cargo;
use crate::job::Job;

/// The manifest of the program that links without std.
pub(super) const FREESTANDING: &str = "ci/freestanding/Cargo.toml";

/// Bare-metal targets with the 64-bit atomics that the crates need.
const BARE_METAL: [&str; 7] = [
    "x86_64-unknown-none",
    "aarch64-unknown-none",
    "aarch64-unknown-none-softfloat",
    "riscv64gc-unknown-none-elf",
    "riscv64imac-unknown-none-elf",
    "loongarch64-unknown-none",
    "loongarch64-unknown-none-softfloat",
];

/// Links the program without std, then shows that the same link refuses a dependency with std.
pub(super) fn freestanding(job: &mut Job) -> Result<String, String> {
    let build = || {
        let mut command = with_args(["build", "--release", "--locked", "--manifest-path", FREESTANDING]);
        command.arg("--target-dir").arg(cargo::target_dir().join("freestanding"));
        command
    };
    let ran = job.observe(build())?;
    if !ran.ok {
        return Err(if ran.text.contains("because --locked was passed") {
            "its lock file is stale: cp Cargo.lock ci/freestanding/, then build it once without --locked"
                .to_owned()
        } else {
            ran.summary
        });
    }
    job.forget();
    let mut with_std = build();
    with_std.args(["--features", "pulls-std"]);
    let ran = job.observe(with_std)?;
    refused_because_of_std(ran.ok, &ran.text)?;
    Ok("links; refuses std".to_owned())
}

/// The negative counts only if the build failed, and failed because std came in.
fn refused_because_of_std(built: bool, text: &str) -> Result<(), String> {
    if built {
        return Err("the program still links when a dependency uses std: the lane proves nothing".to_owned());
    }
    if text.contains("panic_impl")
        || text.contains("undefined symbol")
        || text.contains("undefined reference")
    {
        return Ok(());
    }
    Err("the build with std failed, but not because of std".to_owned())
}

/// Builds every `no_std` crate, with default features, for each bare-metal target that is installed.
pub(super) fn bare_metal(job: &mut Job) -> Outcome {
    let targets: Vec<_> = BARE_METAL.into_iter().filter(|target| is_installed(target)).collect();
    if targets.is_empty() {
        return Outcome::Skip(format!("none installed (rustup target add {})", BARE_METAL[0]));
    }
    build_for(job, &targets).into()
}

fn build_for(job: &mut Job, targets: &[&str]) -> Result<String, String> {
    for target in targets {
        for package in cargo::packages()?.iter().filter(|package| package.is_no_std()) {
            job.run(with_args(["build", "--target", target, "--package", &package.name]))?;
        }
    }
    Ok(targets.join(", "))
}

/// Does the compiler have `core` for `target`?
fn is_installed(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    let Ok(output) = rustc.args(["--print", "target-libdir", "--target", target]).output() else {
        return false;
    };
    let libdir = String::from_utf8_lossy(&output.stdout);
    let Ok(files) = fs::read_dir(Path::new(libdir.trim())) else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_negative_must_fail_and_for_the_right_reason() {
        assert!(refused_because_of_std(true, "").unwrap_err().contains("proves nothing"));
        assert!(
            refused_because_of_std(false, "no space left on device").unwrap_err().contains("not because")
        );
        assert_eq!(
            refused_because_of_std(false, "error[E0152]: found duplicate lang item `panic_impl`"),
            Ok(())
        );
    }

    #[test]
    fn a_target_that_does_not_exist_is_not_installed() {
        assert!(!is_installed("no-such-target"));
    }
}
