// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas, and what may be held of them.

use bitflags::bitflags;
use mmkit_addr::{VirtAddr, VirtRange};

use crate::{Flags, Refusal, Request};

bitflags! {
    /// What an area is and allows. Linux: `vm_flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct AreaFlags: u16 {
        /// Users may read.
        const READ = 1 << 0;
        /// Users may write.
        const WRITE = 1 << 1;
        /// The area may be made readable.
        const MAY_READ = 1 << 2;
        /// The area may be made writable.
        const MAY_WRITE = 1 << 3;
        /// What is written is everybody's. Without it the area is private: written pages are its own.
        const SHARED = 1 << 4;
        /// Anonymous memory.
        const ANON = 1 << 5;
        /// No descriptors behind it, or none that anybody may hold: device registers. Linux: `VM_IO`, `VM_PFNMAP`.
        const NO_PAGES = 1 << 6;
        /// Huge pages of a pool.
        const HUGETLB = 1 << 7;
        /// A file whose pages have to be clean, or known to be dirty, when they are written back. Linux:
        /// `vma_needs_dirty_tracking`.
        const TRACKED = 1 << 8;
        /// A file whose pages are the file's storage. Linux: `vma_is_fsdax`.
        const FS_DAX = 1 << 9;
        /// Secret memory. Linux: `vma_is_secretmem`.
        const SECRET = 1 << 10;
        /// Return addresses, written by the processor alone. Linux: `VM_SHADOW_STACK`.
        const SHADOW_STACK = 1 << 11;
        /// Closed to this caller by the architecture: a protection key, say.
        const CLOSED = 1 << 12;
    }
}

/// An area of an address space. Linux: `struct vm_area_struct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its addresses, multiples of a base page.
    pub range: VirtRange,
    /// What it is.
    pub flags: AreaFlags,
}

impl Area {
    /// Whether what is written is the address space's own, and was somebody else's before. Linux: `is_cow_mapping`.
    #[must_use]
    pub fn is_cow(&self) -> bool {
        !self.flags.contains(AreaFlags::SHARED) && self.flags.contains(AreaFlags::MAY_WRITE)
    }

    /// Whether there are accesses at all that an entry could be there to notice. Linux: `vma_is_accessible`.
    pub(crate) fn is_accessible(&self) -> bool {
        self.flags.intersects(AreaFlags::READ.union(AreaFlags::WRITE))
    }

    /// Whether pages at `va` of this area may be held so. The order of the rules decides which is named. Linux:
    /// `check_vma_flags`.
    pub(crate) fn check(&self, request: Request, va: VirtAddr) -> Result<(), Refusal> {
        let (has, wants) = (|flag| self.flags.contains(flag), |flag| request.flags().contains(flag));
        if has(AreaFlags::NO_PAGES) {
            return Err(Refusal::NoPages { va });
        }
        if wants(Flags::ANON) && !has(AreaFlags::ANON) {
            return Err(Refusal::NotAnonymous { va });
        }
        if wants(Flags::LONGTERM) && has(AreaFlags::FS_DAX) {
            return Err(Refusal::FileSystemDax { va });
        }
        if wants(Flags::SPLIT) && has(AreaFlags::HUGETLB) {
            return Err(Refusal::CannotSplit { va });
        }
        if has(AreaFlags::SECRET) {
            return Err(Refusal::Secret { va });
        }
        if wants(Flags::WRITE) {
            if wants(Flags::LONGTERM) && has(AreaFlags::TRACKED) && has(AreaFlags::SHARED) {
                return Err(Refusal::TrackedFile { va });
            }
            let forced = wants(Flags::FORCE) && self.is_cow() && !has(AreaFlags::HUGETLB);
            if (!has(AreaFlags::WRITE) || has(AreaFlags::SHADOW_STACK)) && !forced {
                return Err(Refusal::NotWritable { va });
            }
        } else if !(has(AreaFlags::READ) || wants(Flags::FORCE) && has(AreaFlags::MAY_READ)) {
            return Err(Refusal::NotReadable { va });
        }
        if has(AreaFlags::CLOSED) {
            return Err(Refusal::Closed { va });
        }
        Ok(())
    }
}

/// What a folio that is not anonymous is a part of, as far as it decides about holding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Memory that is nowhere else: shared memory, huge pages of a pool, devices.
    Memory,
    /// A file that somebody writes back, so that a write behind its back is lost. Not to be written by who holds it for long.
    Tracked,
    /// Secret memory.
    Secret,
    /// It was cut off its file: what it was cannot be told any more.
    Unknown,
}
