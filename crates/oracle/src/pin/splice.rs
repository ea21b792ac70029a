// SPDX-License-Identifier: MIT OR Apache-2.0
//! References without pins: pages that go into a pipe as they are.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::{io, slice};

use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, SpliceFlags};

use super::buffer::Buffer;
use super::error::{Stop, refused};

/// What a pipe may have where nobody changed that: 256 pages of 4 KiB.
const PIPE_BYTES: usize = 1 << 20;

/// A pipe, and where its contents go.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    null: File,
    bytes: usize,
}

impl Pipe {
    pub(super) fn new() -> Result<Self, Stop> {
        let (read, write) = rustix::pipe::pipe().map_err(|error| refused("pipe", error.into()))?;
        // A smaller one does as well.
        let bytes = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&write))
            .map_err(|error| refused("F_GETPIPE_SZ", error.into()))?;
        let null =
            OpenOptions::new().write(true).open("/dev/null").map_err(|error| refused("/dev/null", error))?;
        Ok(Self { read, write, null, bytes })
    }

    /// Takes a reference on each page of `buffer`, `piece` bytes at a time or as many as fit, and gives it back. Linux: `vmsplice`, which gets pages to
    /// read, and `splice` to nowhere, which puts them.
    pub(super) fn pass(&self, buffer: &Buffer, piece: usize) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.bytes() {
            done += self.pass_once(buffer, done, piece)?;
        }
        Ok(())
    }

    /// As much of `buffer` from `done` on as goes at once, `piece` bytes at most; how many bytes that was.
    pub(super) fn pass_once(&self, buffer: &Buffer, done: usize, piece: usize) -> io::Result<usize> {
        let len = buffer.bytes().saturating_sub(done).min(self.bytes).min(piece);
        let start = buffer.start().wrapping_add(done);
        // SAFETY: the part is inside the buffer, whose bytes were written when it was made, and nobody writes them while this
        // runs. (Where it may not be read, the kernel finds that out; nothing here reads it.)
        let bytes = unsafe { slice::from_raw_parts(start, len) };
        let pieces = [IoSliceRaw::from_slice(bytes)];
        // SAFETY: the pages are only read, are out of the pipe before anything else is done with them, and are not given away
        // (no `GIFT`).
        let passed = unsafe { rustix::pipe::vmsplice(&self.write, &pieces, SpliceFlags::empty()) }?;
        self.empty(passed)?;
        Ok(passed)
    }

    fn empty(&self, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            match rustix::pipe::splice(&self.read, None, &self.null, None, bytes, SpliceFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(out) => bytes = bytes.saturating_sub(out),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
