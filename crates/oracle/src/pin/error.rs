// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why no pin was measured.

use std::{fmt, io};

use super::{Mapped, Shape};
use crate::root::ReadError;

/// Why this machine, or this user, cannot. Everything is as before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skip {
    /// The system refuses this user a call.
    NotAllowed {
        /// The call.
        what: &'static str,
        /// What the system says.
        why: String,
    },
    /// The kernel does not have a call.
    NotSupported {
        /// The call.
        what: &'static str,
    },
    /// The memory is not whole pages of the shape, or none.
    BadSize {
        /// Bytes that were asked for.
        bytes: u64,
        /// What they must be a multiple of.
        multiple: u64,
    },
    /// The memory is in more pieces than can be registered.
    TooManyPieces {
        /// Pieces.
        pieces: u64,
        /// The most that can be.
        most: u64,
    },
    /// More than half of the memory that is available.
    NotEnoughMemory {
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes that may be used.
        most: u64,
    },
    /// More than this user may lock in memory (`RLIMIT_MEMLOCK`).
    Locked {
        /// Bytes that were asked for.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The kernel mapped the memory in another way: huge pages are switched off, or memory is in pieces.
    Shape {
        /// What was asked for.
        wanted: Shape,
        /// What it is.
        got: Mapped,
    },
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { what, why } => write!(f, "{what} is not allowed here ({why})"),
            Self::NotSupported { what } => write!(f, "this kernel has no {what}"),
            Self::BadSize { bytes, multiple } => {
                write!(f, "{bytes} bytes are not one or more pieces of {multiple} bytes")
            }
            Self::TooManyPieces { pieces, most } => {
                write!(f, "{pieces} pieces of memory are more than can be registered; use at most {most}")
            }
            Self::NotEnoughMemory { bytes, most } => {
                write!(f, "{bytes} bytes are more than half of the available memory; use at most {most}")
            }
            Self::Locked { bytes, limit } => write!(
                f,
                "{bytes} bytes are more than RLIMIT_MEMLOCK allows ({limit}); raise it with `ulimit -l`, or use less"
            ),
            Self::Shape { wanted, got } => write!(
                f,
                "the kernel does not map this memory as {wanted}: {} of {} pages are mapped by PMDs{}",
                got.by_pmd,
                got.pages,
                match got.large {
                    Some(large) => format!(", {large} belong to folios of their size"),
                    None => String::new(),
                }
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
    /// What `/proc` says of this process could not be read.
    Process(String),
    /// A call failed that works elsewhere.
    Call {
        /// The call.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The caller asked for an end.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Process(what) => write!(f, "cannot read how this process's memory is mapped: {what}"),
            Self::Call { what, source } => write!(f, "{what} failed: {source}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Call { source, .. } => Some(source),
            Self::Process(_) | Self::Stopped => None,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// What ends a measurement before it has a result.
#[derive(Debug)]
pub(super) enum Stop {
    Skip(Skip),
    Error(Error),
}

impl From<Skip> for Stop {
    fn from(skip: Skip) -> Self {
        Self::Skip(skip)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Error(error.into())
    }
}

/// What a failed call of the kernel means: that it is not there, not allowed, or an error.
pub(super) fn refused(what: &'static str, source: io::Error) -> Stop {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => Skip::NotSupported { what }.into(),
        Some(libc::EPERM | libc::EACCES) => Skip::NotAllowed { what, why: source.to_string() }.into(),
        _ => Error::Call { what, source }.into(),
    }
}
