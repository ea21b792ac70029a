// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of this process in a shape, and what the kernel says of its shape.

use std::ffi::c_void;
use std::{fmt, io, ptr};

use procfs::KPageFlags;
use procfs::PhysicalPageFlags as Flags;
use procfs::process::{MemoryPageFlags, PageInfo, Process};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use serde::{Deserialize, Serialize};

use super::error::{Error, Skip, Stop, refused};

/// How memory is made of folios, and the folios mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Huge folios, each mapped by one entry of an upper level (a PMD).
    Pmd,
    /// Huge folios, each mapped by one entry for each of its pages.
    Ptes,
    /// Folios of one page.
    Base,
}

impl Shape {
    /// All of them, the fastest to pin first.
    pub const ALL: [Self; 3] = [Self::Pmd, Self::Ptes, Self::Base];

    /// A short name: `pmd`, `ptes`, `base`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pmd => "pmd",
            Self::Ptes => "ptes",
            Self::Base => "base",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pmd => "huge folios behind PMDs",
            Self::Ptes => "huge folios behind PTEs",
            Self::Base => "base pages",
        })
    }
}

/// How the kernel says that memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Base pages that are present.
    pub pages: u64,
    /// Those behind a PMD (`AnonHugePages` in `/proc/self/smaps`).
    pub by_pmd: u64,
    /// Those whose folio is a huge one (`/proc/kpageflags`); `None` where that may not be read.
    pub large: Option<u64>,
}

impl Mapped {
    fn is(self, shape: Shape, pages: u64) -> bool {
        let (by_pmd, large) = match shape {
            Shape::Pmd => (pages, pages),
            Shape::Ptes => (0, pages),
            Shape::Base => (0, 0),
        };
        self.pages == pages && self.by_pmd == by_pmd && self.large.is_none_or(|found| found == large)
    }
}

/// Anonymous private memory, written once, that lies alone: no other mapping touches it.
#[derive(Debug)]
pub(super) struct Buffer {
    /// What was reserved.
    reserved: *mut c_void,
    reserved_bytes: usize,
    start: *mut u8,
    bytes: usize,
    page_bytes: usize,
}

impl Buffer {
    /// `bytes`, a multiple of `huge`, in `shape`, aligned to `huge`. The system decides about the shape: see
    /// [`check`](Self::check).
    pub(super) fn new(bytes: usize, huge: usize, shape: Shape) -> Result<Self, Stop> {
        let too_much = || Stop::from(Skip::NotEnoughMemory { bytes: bytes as u64, most: 0 });
        // A gap on each side, so that the kernel keeps this mapping apart from all others.
        let reserved_bytes =
            huge.checked_mul(3).and_then(|more| more.checked_add(bytes)).ok_or_else(too_much)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no other memory.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_bytes, ProtFlags::empty(), MapFlags::PRIVATE)
        };
        let reserved = reserved.map_err(|error| refused("mmap", error.into()))?;
        let start = reserved.cast::<u8>().map_addr(|at| (at + huge).next_multiple_of(huge));
        let page_bytes = rustix::param::page_size();
        let buffer = Self { reserved, reserved_bytes, start, bytes, page_bytes };
        buffer.fill(huge, shape).map_err(|(what, error)| match error.raw_os_error() {
            Some(libc::ENOMEM) => too_much(),
            _ => refused(what, error),
        })?;
        Ok(buffer)
    }

    fn fill(&self, huge: usize, shape: Shape) -> Result<(), (&'static str, io::Error)> {
        self.protect(0, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
        let advised =
            self.advise(if shape == Shape::Base { Advice::LinuxNoHugepage } else { Advice::LinuxHugepage });
        if shape == Shape::Base {
            // A kernel without huge pages does not know the advice, and does not need it.
            advised.or_else(|error| {
                if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(("madvise", error)) }
            })?;
        }
        for offset in (0..self.bytes).step_by(self.page_bytes) {
            // SAFETY: the offset is inside the mapping.
            let byte = unsafe { self.start.add(offset) };
            // SAFETY: the mapping may be written since `protect`, is this value's own, and nobody else knows of it.
            unsafe { byte.write_volatile(1) };
        }
        if shape == Shape::Base {
            return Ok(());
        }
        // What the first touch did not make huge, this does, whatever the setting for all programs is. Where it fails the shape
        // is another, which `check` tells.
        // SAFETY: the range is a mapping of this value's own, whose contents the call keeps.
        let _ = unsafe { libc::madvise(self.start.cast(), self.bytes, libc::MADV_COLLAPSE) };
        // From here on nobody is to change it.
        let _ = self.advise(Advice::LinuxNoHugepage);
        if shape == Shape::Ptes {
            for offset in (0..self.bytes).step_by(huge) {
                // A PMD cannot allow different things for its pages, so it is split.
                self.protect(offset, self.page_bytes, MprotectFlags::READ)?;
                self.protect(offset, self.page_bytes, MprotectFlags::READ | MprotectFlags::WRITE)?;
            }
            // The first write after that faults, which is not to be measured.
            self.touch(huge);
        }
        Ok(())
    }

    fn touch(&self, step: usize) {
        for offset in (0..self.bytes).step_by(step) {
            // SAFETY: the offset is inside the mapping.
            let byte = unsafe { self.start.add(offset) };
            // SAFETY: as in `fill`.
            unsafe { byte.write_volatile(2) };
        }
    }

    /// Allows `flags` for `bytes` from `offset` on, both inside the mapping and whole pages.
    pub(super) fn protect(
        &self,
        offset: usize,
        bytes: usize,
        flags: MprotectFlags,
    ) -> Result<(), (&'static str, io::Error)> {
        // SAFETY: the callers stay inside the mapping.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: the range is in a mapping of this value's own, to which there are no references.
        let done = unsafe { rustix::mm::mprotect(start.cast(), bytes, flags) };
        done.map_err(|error| ("mprotect", error.into()))
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is a mapping of this value's own, and neither advice changes its contents.
        unsafe { rustix::mm::madvise(self.start.cast(), self.bytes, advice) }.map_err(Into::into)
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How the memory is mapped now.
    pub(super) fn mapped(&self) -> Result<Mapped, Error> {
        let fault = |error: procfs::ProcError| Error::Process(error.to_string());
        let process = Process::myself().map_err(fault)?;
        let (start, end) = (self.start.addr() as u64, (self.start.addr() + self.bytes) as u64);
        let maps = process.smaps().map_err(fault)?;
        let inside = maps.iter().filter(|map| map.address.0 >= start && map.address.1 <= end);
        let by_pmd: u64 = inside.filter_map(|map| map.extension.map.get("AnonHugePages")).sum::<u64>()
            / self.page_bytes as u64;
        let first = self.start.addr() / self.page_bytes;
        let range = first..first + self.bytes / self.page_bytes;
        let entries = process.pagemap().and_then(|mut map| map.get_range_info(range)).map_err(fault)?;
        let frames: Vec<u64> = entries.iter().filter_map(frame).collect();
        Ok(Mapped { pages: frames.len() as u64, by_pmd, large: large(&frames) })
    }

    /// Fails where the memory is not mapped as `shape` says.
    pub(super) fn check(&self, shape: Shape) -> Result<Mapped, Stop> {
        let got = self.mapped()?;
        if got.is(shape, (self.bytes / self.page_bytes) as u64) {
            Ok(got)
        } else {
            Err(Skip::Shape { wanted: shape, got }.into())
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once; no pointer into it leaves this module's users, who are done. What the kernel
        // still has pinned keeps its pages, not its addresses.
        let _ = unsafe { rustix::mm::munmap(self.reserved, self.reserved_bytes) };
    }
}

/// The frame of a page that is present; 0 where the kernel does not tell.
fn frame(entry: &PageInfo) -> Option<u64> {
    match entry {
        PageInfo::MemoryPage(page) if page.contains(MemoryPageFlags::PRESENT) => {
            Some(page.get_page_frame_number().0)
        }
        _ => None,
    }
}

/// How many of `frames` belong to transparent huge folios.
fn large(frames: &[u64]) -> Option<u64> {
    if frames.contains(&0) {
        return None;
    }
    let mut flags = KPageFlags::new().ok()?;
    let mut large = 0;
    let runs = frames.chunk_by(|a, b| a + 1 == *b);
    for run in runs {
        let (first, last) = (*run.first()?, *run.last()?);
        let range = flags.get_range_info(procfs::process::Pfn(first), procfs::process::Pfn(last + 1)).ok()?;
        large += range.iter().filter(|flags| flags.contains(Flags::THP)).count() as u64;
    }
    Some(large)
}
