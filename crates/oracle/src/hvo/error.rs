// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why nothing was measured.

use std::path::PathBuf;
use std::{fmt, io};

use crate::root::ReadError;

/// Why this machine, or this user, cannot. Nothing was changed, or all is back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// The setting may not be changed: not root, or a container without the right.
    NotAllowed {
        /// The file that may not be written.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The kernel has no HVO, or no pages of this size while it runs.
    NotSupported {
        /// The file that is not there, or does not take a number.
        path: PathBuf,
    },
    /// The kernel has no huge pages of this size.
    NoPool {
        /// Bytes of the page.
        page_bytes: u64,
    },
    /// There is not enough free memory, or none in one piece.
    NotEnoughMemory {
        /// Bytes of a page.
        page_bytes: u64,
        /// Pages that were to be used.
        pages: u64,
        /// Pages that may be used: those of a quarter of the free memory. 0 where not one could be had.
        most: u64,
    },
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { path, why } => {
                write!(f, "{} may not be written ({why}); run it as root", path.display())
            }
            Self::NotSupported { path } => {
                write!(f, "this kernel has no {}", path.display())
            }
            Self::NoPool { page_bytes } => {
                write!(f, "this kernel has no pool of {} kB pages", page_bytes / 1024)
            }
            Self::NotEnoughMemory { page_bytes, pages, most: 0 } => {
                write!(f, "no memory could be had for pages of {} kB ({pages} wanted)", page_bytes / 1024)
            }
            Self::NotEnoughMemory { page_bytes, pages, most } => write!(
                f,
                "{pages} pages of {} kB are more than a quarter of the free memory; use at most {most}",
                page_bytes / 1024
            ),
        }
    }
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Something could not be read.
    Read(ReadError),
    /// A setting could not be written.
    Write {
        /// Its file.
        path: PathBuf,
        /// What was to be written.
        value: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The state file of a run that was cut short is there.
    Stale {
        /// The file.
        path: PathBuf,
    },
    /// The state file cannot be written, read or removed.
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: StateFault,
    },
    /// Another run is at it.
    InProgress,
    /// A signal asked for an end. The settings are back.
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// A setting is not what it was, and cannot be put back. The state file remains.
    NotPutBack {
        /// The setting's file.
        setting: PathBuf,
        /// What it was before.
        wanted: u64,
        /// What it is now.
        is: u64,
        /// The state file.
        state_file: PathBuf,
    },
}

/// What is wrong with a state file.
#[derive(Debug)]
#[non_exhaustive]
pub enum StateFault {
    /// The system refused.
    Io(io::Error),
    /// Its text is not what a run writes.
    Format(String),
    /// It is no file of this user that only this user can write: what it says is not to be trusted.
    Foreign,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Write { path, value, source } => {
                write!(f, "cannot write {value} to {}: {source}", path.display())
            }
            Self::Stale { path } => write!(
                f,
                "{} is there: a run was cut short, and settings of this machine may still be changed; put them back first",
                path.display()
            ),
            Self::State { path, fault } => write!(f, "{}: {fault}", path.display()),
            Self::InProgress => f.write_str("another run is changing the same settings; wait for its end"),
            Self::Interrupted { signal } => {
                write!(f, "interrupted by signal {signal}; all settings are back")
            }
            Self::NotPutBack { setting, wanted, is, state_file } => write!(
                f,
                "{} is {is} and could not be put back to {wanted}; {} remains for another try",
                setting.display(),
                state_file.display()
            ),
        }
    }
}

impl fmt::Display for StateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Format(what) => write!(f, "not a state file ({what})"),
            Self::Foreign => f.write_str("not a file that only this user can write; it is not trusted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Write { source, .. } | Self::State { fault: StateFault::Io(source), .. } => Some(source),
            _ => None,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
