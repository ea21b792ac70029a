// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mapped, added up from what the operations on map counts report.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use mmkit_folio::{Account, Kind};

/// Pages that are mapped, over all address spaces, and what faults did.
///
/// With `PageMapcount` a page counts while an entry maps it; with `NoPageMapcount` all pages of a folio count while
/// an entry maps one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Pages of anonymous memory. Linux: `AnonPages` of /proc/meminfo.
    pub anon: i64,
    /// Pages of files. Linux: `Mapped`.
    pub file: i64,
    /// Of the anonymous ones, those that a PMD maps. Linux: `AnonHugePages`.
    pub anon_pmd: i64,
    /// Of those of files, those that a PMD maps. Linux: `FilePmdMapped`.
    pub file_pmd: i64,
    /// Folios that were found to be mapped in part. Linux: `thp_deferred_split_page`.
    pub partially_mapped: u64,
    /// Write faults that found their page exclusive.
    pub exclusive: u64,
    /// Write faults that made their page exclusive.
    pub reused: u64,
    /// Write faults that copied their page.
    pub copied: u64,
    /// Folios that moved to other frames before they were pinned for long.
    pub moved: u64,
}

/// The same, live.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    mapped: [AtomicI64; 2],
    pmd_mapped: [AtomicI64; 2],
    partially_mapped: AtomicU64,
    pub(crate) exclusive: AtomicU64,
    pub(crate) reused: AtomicU64,
    pub(crate) copied: AtomicU64,
    pub(crate) moved: AtomicU64,
}

impl Counters {
    pub(crate) fn account(&self, account: Account) {
        let kind = usize::from(account.kind == Kind::File);
        if account.mapped != 0 {
            self.mapped[kind].fetch_add(account.mapped, Relaxed);
        }
        if account.pmd_mapped != 0 {
            self.pmd_mapped[kind].fetch_add(account.pmd_mapped, Relaxed);
        }
        if account.became_partially_mapped {
            self.partially_mapped.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Statistics {
        Statistics {
            anon: self.mapped[0].load(Relaxed),
            file: self.mapped[1].load(Relaxed),
            anon_pmd: self.pmd_mapped[0].load(Relaxed),
            file_pmd: self.pmd_mapped[1].load(Relaxed),
            partially_mapped: self.partially_mapped.load(Relaxed),
            exclusive: self.exclusive.load(Relaxed),
            reused: self.reused.load(Relaxed),
            copied: self.copied.load(Relaxed),
            moved: self.moved.load(Relaxed),
        }
    }
}
