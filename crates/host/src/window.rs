// SPDX-License-Identifier: MIT OR Apache-2.0
//! The address range that a space lives in, and the one place that maps over it.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use procfs::process::{MMPermissions, Process};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::HostError;
use crate::extents::{Access, Piece};
use crate::memory::Memory;

/// A reserved range of addresses, all of whose pages are mappings of one file.
///
/// Vacant pages are mappings too, which nobody can access: the addresses stay ours, whatever else the process maps.
/// They are marked with pages past the end of the file, each window with its own, so that `/proc/self/maps` tells for
/// every page whether it is still what this window put there.
#[derive(Debug)]
pub(crate) struct Window {
    memory: Arc<Memory>,
    base: NonNull<u8>,
    pages: u64,
    marker: u64,
}

// SAFETY: a window is an address range and a shared file; system calls on both may come from any thread.
unsafe impl Send for Window {}
// SAFETY: as for `Send`; whoever changes mappings through `&Window` promises to be alone (see `put`).
unsafe impl Sync for Window {}

impl Window {
    /// Reserves addresses for `pages` pages, all vacant.
    pub(crate) fn reserve(memory: Arc<Memory>, pages: u64) -> Result<Self, HostError> {
        let size = || HostError::Size { frames: pages };
        let bytes = pages.checked_shl(memory.shift()).filter(|bytes| bytes >> memory.shift() == pages);
        let bytes = bytes.and_then(|bytes| isize::try_from(bytes).ok()).ok_or_else(size)? as usize;
        let marker = memory.markers(pages).ok_or_else(size)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let offset = marker << memory.shift();
        // SAFETY: no address is asked for, so the kernel takes one that is free: no memory of others is touched.
        let base =
            unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags, memory.file(), offset) };
        let base =
            base.inspect_err(|_| memory.markers_unused(marker, pages)).map_err(HostError::os("mmap"))?;
        let base = NonNull::new(base.cast()).ok_or(HostError::Os { call: "mmap", errno: 0 })?;
        Ok(Self { memory, base, pages, marker })
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    pub(crate) fn marker(&self) -> u64 {
        self.marker
    }

    /// Puts a piece in place, whatever was there, with one system call. A thread that accesses a page meanwhile finds
    /// the old mapping or the new one: the kernel does both halves under the lock that a page fault takes.
    ///
    /// After an error the pages are as before or, where the kernel ran out of memory half way, not mapped at all.
    ///
    /// # Safety
    ///
    /// * The pages belong to this window still.
    /// * Whoever accesses them, now or later, can do with the new mapping.
    pub(crate) unsafe fn put(&self, piece: &Piece) -> Result<(), Errno> {
        // SAFETY: the caller promises both that the addresses are ours and that the change is welcome.
        unsafe { self.mmap(piece, MapFlags::FIXED) }?;
        Ok(())
    }

    /// Puts a piece where nothing is mapped at all, and otherwise fails and changes nothing.
    pub(crate) fn fill(&self, piece: &Piece) -> Result<(), Errno> {
        // SAFETY: nothing is replaced: with this flag the kernel refuses to.
        let at = unsafe { self.mmap(piece, MapFlags::FIXED_NOREPLACE) }?;
        if at == self.address(piece.pages.start) {
            return Ok(());
        }
        // A kernel older than the flag took the address for a hint.
        // SAFETY: mapped just above, elsewhere, and nobody knows of it.
        let _ = unsafe { munmap(at, self.bytes(&piece.pages)) };
        Err(Errno::EXIST)
    }

    /// # Safety
    ///
    /// What `flags` replace may be replaced.
    unsafe fn mmap(&self, piece: &Piece, flags: MapFlags) -> Result<*mut c_void, Errno> {
        let access = match piece.access {
            Access::None => ProtFlags::empty(),
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let (address, bytes) = (self.address(piece.pages.start), self.bytes(&piece.pages));
        let flags = flags | MapFlags::SHARED | MapFlags::NORESERVE;
        let offset = piece.offset << self.memory.shift();
        // SAFETY: passed on to the caller.
        let at = unsafe { mmap(address, bytes, access, flags, self.memory.file(), offset) }?;
        if self.memory.may_be_huge() && piece.access != Access::None && at == address {
            // SAFETY: mapped just above; the advice changes what the pages cost, not what they hold.
            let _ = unsafe { madvise(at, bytes, Advice::LinuxNoHugepage) };
        }
        Ok(at)
    }

    /// Whether all `pieces` are mapped as they say, by the kernel's own account. `false` where it cannot be had.
    ///
    /// Cost: reads `/proc/self/maps`. For when something went wrong.
    pub(crate) fn holds(&self, pieces: &[Piece]) -> bool {
        let Some(maps) = Process::myself().and_then(|process| process.maps()).ok() else { return false };
        let (device, inode) = self.memory.identity();
        pieces.iter().all(|piece| {
            let mut at = self.address(piece.pages.start) as u64;
            let end = at + self.bytes(&piece.pages) as u64;
            for map in &maps.0 {
                let (from, to) = map.address;
                if to <= at {
                    continue;
                }
                let offset =
                    (piece.offset << self.memory.shift()) + (at - self.address(piece.pages.start) as u64);
                let access = if map.perms.contains(MMPermissions::WRITE) {
                    Access::Write
                } else if map.perms.contains(MMPermissions::READ) {
                    Access::Read
                } else {
                    Access::None
                };
                let same = map.dev == device && map.inode == inode && access == piece.access;
                if from > at || !same || map.offset + (at - from) != offset {
                    return false;
                }
                at = to.min(end);
                if at == end {
                    return true;
                }
            }
            false
        })
    }

    /// Unmaps pages for good.
    ///
    /// # Safety
    ///
    /// They belong to this window still, and nobody will access them, nor this window map them again.
    pub(crate) unsafe fn remove(&self, pages: Range<u64>) {
        if !pages.is_empty() {
            // SAFETY: passed on to the caller. Where it fails, the address space leaks.
            let _ = unsafe { munmap(self.address(pages.start), self.bytes(&pages)) };
        }
    }

    fn address(&self, page: u64) -> *mut c_void {
        debug_assert!(page <= self.pages);
        self.base.as_ptr().wrapping_add((page as usize) << self.memory.shift()).cast()
    }

    fn bytes(&self, pages: &Range<u64>) -> usize {
        ((pages.end - pages.start) as usize) << self.memory.shift()
    }
}
