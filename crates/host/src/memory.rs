// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file in memory that all frames are pages of.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate, major, memfd_create,
    minor,
};
use rustix::mm::ProtFlags;

use crate::HostError;
use crate::region::Region;

/// A sparse file in memory, one frame per page, and one mapping of all of it.
#[derive(Debug)]
pub(crate) struct Memory {
    file: OwnedFd,
    direct: Region,
    frames: u64,
    shift: u32,
    /// What `/proc/self/maps` calls the file: device and inode.
    identity: ((i32, i32), u64),
    /// The first page past the end of the file that no window has taken to mark its vacant pages with.
    markers: AtomicU64,
    /// Whether a fault on a hole may bring more than one page.
    huge: bool,
}

impl Memory {
    pub(crate) fn new(frames: u64) -> Result<Self, HostError> {
        let bytes = rustix::param::page_size();
        let shift = bytes.trailing_zeros();
        if !matches!(shift, 12 | 14 | 16) {
            return Err(HostError::PageSize { bytes });
        }
        let size = Self::size(frames, shift).ok_or(HostError::Size { frames })?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("mmkit frames", flags).map_err(HostError::os("memfd_create"))?;
        ftruncate(&file, size as u64).map_err(HostError::os("ftruncate"))?;
        // Nobody can cut pages off under the mappings (through /proc/PID/fd, say): that would make access fatal.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(HostError::os("fcntl(F_ADD_SEALS)"))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let direct = Region::of_file(file.as_fd(), 0, size, access).map_err(HostError::os("mmap"))?;
        direct.forbid_huge_pages();
        let stat = fstat(&file).map_err(HostError::os("fstat"))?;
        let device = (major(stat.st_dev) as i32, minor(stat.st_dev) as i32);
        Ok(Self {
            file,
            direct,
            frames,
            shift,
            identity: (device, stat.st_ino),
            markers: AtomicU64::new(frames),
            huge: crate::limits::shmem_may_be_huge(),
        })
    }

    fn size(frames: u64, shift: u32) -> Option<usize> {
        let bytes = frames.checked_mul(1 << shift)?;
        let bytes = isize::try_from(bytes).ok()?;
        (bytes > 0).then_some(bytes as usize)
    }

    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    #[inline]
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn identity(&self) -> ((i32, i32), u64) {
        self.identity
    }

    pub(crate) fn may_be_huge(&self) -> bool {
        self.huge
    }

    /// Takes `pages` page numbers past the end of the file, that nobody else gets.
    pub(crate) fn markers(&self, pages: u64) -> Option<u64> {
        let end = |first: u64| first.checked_add(pages).filter(|&end| Self::size(end, self.shift).is_some());
        self.markers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok()
    }

    /// Gives page numbers back that were taken for nothing, if no others were taken since.
    pub(crate) fn markers_unused(&self, first: u64, pages: u64) {
        let _ = self.markers.compare_exchange(first + pages, first, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The first byte of a frame.
    #[inline]
    pub(crate) fn frame(&self, frame: u64) -> Option<NonNull<u8>> {
        if frame >= self.frames {
            return None;
        }
        // SAFETY: `frame` is below the number of pages that the mapping has, and their bytes fit `isize`.
        Some(unsafe { self.direct.base().add((frame as usize) << self.shift) })
    }

    /// Gives the pages of `count` frames from `first` on back to the operating system: they read as zero from now on.
    ///
    /// # Safety
    ///
    /// Nobody uses the frames.
    pub(crate) unsafe fn punch(&self, first: u64, count: u64) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, mode, first << self.shift, count << self.shift).is_ok() {
            return;
        }
        // It may be interrupted by a signal. Then the bytes stay resident, and are cleared here.
        for frame in first..first + count {
            let Some(bytes) = self.frame(frame) else { return };
            // SAFETY: one frame of the direct map, which nobody uses by the caller's promise.
            unsafe { bytes.write_bytes(0, 1 << self.shift) };
        }
    }

    /// Bytes of the file that are in memory (or in swap), as the operating system counts them.
    pub(crate) fn resident_bytes(&self) -> u64 {
        // `st_blocks` is in units of 512 bytes whatever the page size. fstat of an open file does not fail.
        fstat(&self.file).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }
}
