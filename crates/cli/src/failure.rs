// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the program says that it could not do what was asked.

use std::fmt;
use std::process::ExitCode;

/// Why the program ends early, in one line that says what is wrong and how to mend it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong. Exit code 2.
    Usage(String),
    /// The command line is fine, but the machine or the result is not. Exit code 1.
    Run(String),
    /// Nobody reads the output any more. Exit code 0, as for others in a pipeline.
    Unread,
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self::Run(message.to_string())
    }

    /// Says it on stderr, and which exit code that makes.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("mmkit: {message}");
                ExitCode::from(2)
            }
            Self::Run(message) => {
                eprintln!("mmkit: {message}");
                ExitCode::FAILURE
            }
            Self::Unread => ExitCode::SUCCESS,
        }
    }
}
