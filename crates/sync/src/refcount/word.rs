// SPDX-License-Identifier: MIT OR Apache-2.0
//! The word of a reference count: packing, and the one place that writes it.

use crate::atomic::{AtomicU64, Ordering};

/// A snapshot of a [`RefCount`](crate::RefCount).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// How many references there are.
    pub count: u32,
    /// What the object is.
    pub tag: u32,
}

impl Counted {
    /// Unpacks a word: the count in bits 63..32, the tag in bits 31..0.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self { count: (raw >> 32) as u32, tag: raw as u32 }
    }

    /// Packs a word.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        (self.count as u64) << 32 | self.tag as u64
    }
}

/// The atomic word. In a model it can be write-protected; then every write, successful or not, fails the model.
#[cfg_attr(not(mmkit_loom), repr(transparent))]
pub(super) struct Word {
    word: AtomicU64,
    // Not loom's: it stands for the page table entry, which the processor checks as part of the access.
    #[cfg(mmkit_loom)]
    protected: core::sync::atomic::AtomicBool,
}

impl Word {
    const_unless_loom! {
        pub(super) fn new(raw: u64) -> Self {
            Self {
                word: AtomicU64::new(raw),
                #[cfg(mmkit_loom)]
                protected: core::sync::atomic::AtomicBool::new(false),
            }
        }
    }

    #[inline]
    pub(super) fn load(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn store(&self, raw: u64, order: Ordering) {
        self.word.store(raw, order);
        self.written();
    }

    #[inline]
    pub(super) fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        let result = self.word.compare_exchange(old, new, order, Ordering::Relaxed);
        self.written();
        result
    }

    #[inline]
    pub(super) fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
        let old = self.word.fetch_sub(n, order);
        self.written();
        old
    }

    /// Only mutants add without looking.
    #[cfg(mmkit_loom)]
    pub(super) fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        let old = self.word.fetch_add(n, order);
        self.written();
        old
    }

    /// Only mutants write without need.
    #[cfg(mmkit_loom)]
    pub(super) fn touch(&self) {
        self.word.fetch_add(0, Ordering::Relaxed);
        self.written();
    }

    /// Called right after each write, before another thread can run.
    #[inline]
    fn written(&self) {
        #[cfg(mmkit_loom)]
        assert!(!self.protected.load(Ordering::Relaxed), "write to a write-protected word");
    }

    #[cfg(mmkit_loom)]
    pub(super) fn write_protect(&self, protect: bool) {
        self.protected.store(protect, Ordering::Relaxed);
    }
}
