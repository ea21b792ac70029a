// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are in the repository, and how to call cargo on them.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The root of the repository: the parent of this package.
pub(crate) fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// The directory that cargo builds into: `CARGO_TARGET_DIR`, or `target` in the root.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs us, in the root of the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The nightly cargo, in the root of the repository.
pub(crate) fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).current_dir(root());
    // Set by the cargo that runs us; they would send parts of the nightly build to the wrong compiler.
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTDOC");
    command
}

/// Adds flags to the variable `name` of `command`, behind those that the caller's environment has in it.
pub(crate) fn add_flags(command: &mut Command, name: &str, flags: &str) {
    let inherited = env::var(name).unwrap_or_default();
    command.env(name, format!("{inherited} {flags}").trim());
    // These would win over the plain variables.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTDOCFLAGS");
}

/// Runs `command` with our standard streams; its exit code becomes ours.
pub(crate) fn hand_over(mut command: Command) -> Result<ExitCode, String> {
    let status = command.status().map_err(|error| format!("{}: {error}", show(&command)))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Does this run and succeed? Nothing of it is shown.
pub(crate) fn works(mut command: Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// The command as one would type it, with the variables that it sets.
pub(crate) fn show(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!("{}={:?} ", name.to_string_lossy(), value.to_string_lossy());
        }
    }
    let program = Path::new(command.get_program());
    line += &program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    for arg in command.get_args() {
        line.push(' ');
        line += &arg.to_string_lossy();
    }
    line
}

/// A package below `crates/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The directory's name, as in `sync`.
    pub(crate) dir: String,
    /// The package's name, as in `mmkit-sync`.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Package {
    /// Does it have a library?
    pub(crate) fn is_library(&self) -> bool {
        self.path.join("src/lib.rs").exists()
    }

    /// Is its library `no_std`, whatever its features are?
    pub(crate) fn is_no_std(&self) -> bool {
        self.says("#![no_std]")
    }

    /// Does its library promise to have no unsafe code?
    pub(crate) fn is_safe(&self) -> bool {
        self.says("#![forbid(unsafe_code)]")
    }

    /// Is this a line of its library's first file?
    fn says(&self, attribute: &str) -> bool {
        fs::read_to_string(self.path.join("src/lib.rs"))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == attribute))
    }
}

/// Every package below `crates/`, by directory name.
pub(crate) fn packages() -> Result<Vec<Package>, String> {
    let crates = root().join("crates");
    let entries = fs::read_dir(&crates).map_err(|error| format!("{}: {error}", crates.display()))?;
    let mut packages = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", crates.display()))?.path();
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        let dir = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = package_name(&manifest).unwrap_or(&dir).to_owned();
        packages.push(Package { dir, name, path });
    }
    packages.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(packages)
}

/// The first `name = "…"` of a manifest.
fn package_name(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.toml").exists());
        assert!(root().join("xtask/src/cargo.rs").exists());
    }

    #[test]
    fn packages_are_found_by_directory_and_name() {
        let packages = packages().unwrap();
        let addr = packages.iter().find(|package| package.dir == "addr").unwrap();
        assert_eq!(addr.name, "mmkit-addr");
        assert!(addr.is_library() && addr.is_no_std() && addr.is_safe());
        let page = packages.iter().find(|package| package.dir == "page").unwrap();
        assert!(page.is_library() && page.is_no_std() && !page.is_safe());
    }

    #[test]
    fn a_shown_command_can_be_typed() {
        let mut command = Command::new("/somewhere/cargo");
        command.args(["test", "--release"]).env("RUSTFLAGS", "--cfg x");
        assert_eq!(show(&command), "RUSTFLAGS=\"--cfg x\" cargo test --release");
    }
}
