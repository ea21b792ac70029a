// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the model files of a package and finds the models in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::model::Model;
use crate::cargo::{self, Package, add_flags};
use crate::job::Job;

/// Builds `files` of `package` and lists their models; deep ones only if asked for.
pub(super) fn models(
    job: &mut Job,
    package: &Package,
    files: &[&Path],
    deep: bool,
) -> Result<Vec<Model>, String> {
    let mut command = cargo::cargo();
    command.args(["test", "--release", "--no-run", "--message-format=json-render-diagnostics"]);
    command.args(["--package", &package.name]);
    for file in files {
        command.arg("--test").arg(file.file_stem().unwrap_or_default());
    }
    command.arg("--target-dir").arg(cargo::target_dir().join("loom"));
    add_flags(&mut command, "RUSTFLAGS", "--cfg mmkit_loom");
    let messages = job.read(command)?;
    let mut models = Vec::new();
    for (file, program) in programs(&messages) {
        let deep_ones = list(&program, &["--ignored"])?;
        for test in list(&program, &[])? {
            let is_deep = deep_ones.contains(&test);
            if deep || !is_deep {
                models.push(Model {
                    package: package.name.clone(),
                    file: file.clone(),
                    test,
                    program: program.clone(),
                    directory: package.path.clone(),
                    deep: is_deep,
                });
            }
        }
    }
    Ok(models)
}

/// The test programs in cargo's messages: target name and executable.
fn programs(messages: &str) -> Vec<(String, PathBuf)> {
    let mut programs = Vec::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    programs
}

/// The tests that `program` lists.
fn list(program: &Path, more: &[&str]) -> Result<Vec<String>, String> {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .args(more)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_between_other_messages() {
        let messages = r#"
   Compiling loom v0.7.2
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"loom"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"loom_lock"},"executable":"/t/deps/loom_lock-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(programs(messages), [("loom_lock".to_owned(), PathBuf::from("/t/deps/loom_lock-1"))]);
    }
}
