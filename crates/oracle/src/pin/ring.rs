// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered buffers: what the kernel pins for as long as a ring has them.

use std::ffi::c_void;
use std::io;
use std::ops::Range;

use io_uring::IoUring;

use super::buffer::Buffer;
use super::error::{Stop, refused};

/// The most that one registered buffer may have.
pub(super) const MOST_BYTES: usize = 1 << 30;

/// The most buffers that a ring may have.
pub(super) const MOST_PIECES: u64 = 1 << 14;

/// A ring that nothing is ever submitted to.
pub(super) struct Ring(IoUring);

/// Memory that is registered, and so pinned.
pub(super) struct Registered<'a> {
    ring: &'a Ring,
    /// What is registered may not be given back before it is unregistered: it is the ring's.
    _buffer: &'a Buffer,
}

impl Ring {
    pub(super) fn new() -> Result<Self, Stop> {
        IoUring::new(1).map(Self).map_err(|error| refused("io_uring", error))
    }

    /// Registers the bytes `range` of `buffer`, which are inside it, in pieces of `piece` bytes. Linux:
    /// `IORING_REGISTER_BUFFERS`, which pins to write and for a long time.
    pub(super) fn register<'a>(
        &'a self,
        buffer: &'a Buffer,
        range: Range<usize>,
        piece: usize,
    ) -> io::Result<Registered<'a>> {
        let (start, bytes) = (range.start, range.len());
        let pieces: Vec<libc::iovec> = (0..bytes.max(1))
            .step_by(piece)
            .map(|at| libc::iovec {
                iov_base: buffer.start().wrapping_add(start + at).cast::<c_void>(),
                iov_len: (bytes - at).min(piece),
            })
            .collect();
        // SAFETY: the pieces are in the buffer, which outlives `Registered`; and no operation that would use them is ever
        // submitted to this ring.
        unsafe { self.0.submitter().register_buffers(&pieces) }?;
        Ok(Registered { ring: self, _buffer: buffer })
    }
}

impl Registered<'_> {
    /// Takes the pins back. Linux: `IORING_UNREGISTER_BUFFERS`.
    pub(super) fn unregister(self) -> io::Result<()> {
        let result = self.ring.0.submitter().unregister_buffers();
        std::mem::forget(self);
        result
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        // Where this fails, the ring still has them, and gives them back when it ends.
        let _ = self.ring.0.submitter().unregister_buffers();
    }
}
