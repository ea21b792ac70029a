// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operating system may refuse.

use std::fmt;

use rustix::io::Errno;

/// Why frames, or a space for descriptors, could not be had from the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// The base page is none that descriptors are made for: not 4, 16 or 64 KiB.
    PageSize {
        /// Its size.
        bytes: usize,
    },
    /// No frames at all, or more than the process can address.
    Size {
        /// Frames that were asked for.
        frames: u64,
    },
    /// A system call failed.
    Os {
        /// The call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// A file that tells a limit cannot be read.
    Unreadable {
        /// The file.
        path: &'static str,
    },
}

impl HostError {
    pub(crate) fn os(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Os { call, errno: errno.raw_os_error() }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageSize { bytes } => {
                write!(f, "base pages of {bytes} bytes; 4, 16 and 64 KiB are supported")
            }
            Self::Size { frames: 0 } => f.write_str("no frames were asked for"),
            Self::Size { frames } => write!(f, "{frames} frames are more than this process can address"),
            Self::Os { call, errno } => {
                write!(f, "{call}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Unreadable { path } => write!(f, "{path} cannot be read"),
        }
    }
}

impl std::error::Error for HostError {}
