// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on behalf of who holds pages.

use core::fmt;

use bitflags::bitflags;

bitflags! {
    /// What a fault is to achieve, and how. Linux: `FAULT_FLAG_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct FaultFlags: u8 {
        /// The page can be written through its entry; without this flag, read.
        const WRITE = 1 << 0;
        /// A page that others have too is made the address space's own, but may stay read-only. Never with `WRITE`.
        const UNSHARE = 1 << 1;
        /// The area need not allow it: a page that is the address space's own is made of the one that is there, and marked
        /// dirty; its entry stays as the area allows.
        const FORCE = 1 << 2;
        /// The lock was let go in a former try for this page.
        const TRIED = 1 << 3;
        /// Waiting ends with any signal, not only with one that kills.
        const INTERRUPTIBLE = 1 << 4;
        /// A leaf of a higher level is replaced by a table.
        const SPLIT = 1 << 5;
    }
}

/// What became of the lock in a fault that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faulted<L> {
    /// It was kept all the time, and the fault is done.
    Kept(L),
    /// It was let go: look again, with a new one.
    Dropped,
}

/// Why a fault failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// No memory. Linux: `VM_FAULT_OOM`.
    NoMemory,
    /// Nothing can be there. Linux: `VM_FAULT_SIGBUS`, `VM_FAULT_SIGSEGV`.
    Bad,
    /// The hardware reported an error in the page. Linux: `VM_FAULT_HWPOISON`.
    Poisoned,
    /// A signal came while it waited.
    Interrupted(Interruption),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for the page"),
            Self::Bad => f.write_str("nothing can be mapped there"),
            Self::Poisoned => f.write_str("the hardware reported an error in the page"),
            Self::Interrupted(how) => how.fmt(f),
        }
    }
}

impl core::error::Error for FaultError {}

/// Why a thread gives up waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// It is being killed.
    Fatal,
    /// Something else wants its attention. Counts only for requests that say so.
    Signal,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fatal => "the thread is being killed",
            Self::Signal => "a signal came",
        })
    }
}
