// SPDX-License-Identifier: MIT OR Apache-2.0
//! A piece of address space that belongs to one value.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Whole pages of this process's address space, unmapped when dropped. What lies behind them is the owner's business.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region is two numbers; all that it does by itself is unmapping its pages, once, from whatever thread.
unsafe impl Send for Region {}
// SAFETY: through `&Region` only the two numbers can be had.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` of the file, from `offset` on, shared, somewhere. Nothing is reserved or populated.
    pub(crate) fn of_file(
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
        access: ProtFlags,
    ) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so the kernel takes one that is free: no memory of others is touched.
        let base = unsafe { mmap(ptr::null_mut(), bytes, access, flags, file, offset) }?;
        Self::new(base, bytes)
    }

    fn new(base: *mut c_void, bytes: usize) -> Result<Self, Errno> {
        Ok(Self { base: NonNull::new(base.cast()).ok_or(Errno::FAULT)?, bytes })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Keeps the kernel from backing the pages with anything larger than base pages. A kernel without huge pages
    /// refuses, and then there is nothing to keep it from.
    pub(crate) fn forbid_huge_pages(&self) {
        // SAFETY: the pages are mapped and ours; the advice changes what they cost, not what they hold.
        let _ = unsafe { madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxNoHugepage) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the owner is being dropped, so nothing uses the pages any more; they are ours since `mmap`.
        // The call cannot fail for whole mappings; where it does, the address space leaks.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
