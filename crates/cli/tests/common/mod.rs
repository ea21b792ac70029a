// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running the real binary.
// Each test file uses a part of it.
#![allow(dead_code)]

use std::process::{Command, Output};

use serde_json::Value;

/// The program, with arguments.
pub(crate) fn mmkit(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmkit"));
    command.args(args);
    command
}

/// What it said and how it ended.
pub(crate) fn output(args: &[&str]) -> Output {
    mmkit(args).output().expect("the program starts")
}

/// What it wrote to stdout; it must succeed, and say nothing on stderr.
pub(crate) fn stdout(args: &[&str]) -> String {
    let output = output(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{args:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The one JSON object that it wrote to stdout.
pub(crate) fn json(args: &[&str]) -> Value {
    let value: Value = serde_json::from_str(&stdout(args)).expect("one JSON value and nothing else");
    assert!(value.is_object());
    value
}
