// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters and trace hooks, chosen by the user, nothing by default.

use core::fmt;
// Statistics order nothing: not through the facade, so that models do not branch on them and `new` is always const.
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the libraries report what they did.
///
/// Every operation that costs something countable calls [`count`](Events::count); every decision worth knowing calls
/// [`report`](Events::report). The default of both is to do nothing, and `()` is the implementation that keeps the
/// defaults, so an unobserved build has no trace of either.
///
/// Implementations of these two must not call back into the library that reports, and are called with its locks held.
pub trait Events {
    /// `by` more of `counter`.
    #[inline]
    fn count(&self, counter: Counter, by: u64) {
        let _ = (counter, by);
    }

    /// Something happened.
    #[inline]
    fn report(&self, event: &Event) {
        let _ = event;
    }

    /// Between two parts of long work, with no lock held and outside of readers: the place to let others run. Unlike the
    /// other two it may block, and call what it likes. Linux: `cond_resched`.
    #[inline]
    fn pause(&self) {}
}

impl Events for () {}

impl<E: Events + ?Sized> Events for &E {
    #[inline]
    fn count(&self, counter: Counter, by: u64) {
        (**self).count(counter, by);
    }

    #[inline]
    fn report(&self, event: &Event) {
        (**self).report(event);
    }

    #[inline]
    fn pause(&self) {
        (**self).pause();
    }
}

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Counter {
            $($(#[$meta])* $name,)*
        }

        impl Counter {
            /// Every counter, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The counter's name, in words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

counters! {
    /// A flush of the translation caches, however many addresses it covers.
    TlbFlush = "tlb flushes",
    /// A wait for readers ([`ReadSide::synchronize`](crate::ReadSide::synchronize)).
    Synchronize = "waits for readers",
    /// A call deferred until readers have left ([`ReadSide::defer`](crate::ReadSide::defer)).
    Deferred = "deferred calls",
    /// Base-page frames taken from an allocator for contents (descriptors, pages).
    FrameTaken = "frames taken",
    /// Base-page frames given back to an allocator.
    FrameGiven = "frames given",
    /// Base-page frames taken from an allocator for page tables.
    TableTaken = "table frames taken",
    /// Base-page frames of page tables given back to an allocator.
    TableGiven = "table frames given",
    /// Page-table entries written.
    EntryWritten = "entries written",
    /// Descriptors initialised.
    DescriptorWritten = "descriptors written",
    /// Bytes copied.
    ByteCopied = "bytes copied",
    /// Frames leaked on purpose, because giving them back could not be proved safe.
    FrameLeaked = "frames leaked",
}

/// What is reported: plain numbers, so that a hook needs no other crate of the kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Memory wanted on one node came from another.
    OffNode {
        /// The node that was asked for.
        wanted: u16,
        /// The node that it came from.
        got: u16,
        /// The frame number of the first frame.
        pfn: u64,
    },
    /// Frames will never be given back, because doing so could not be proved safe.
    Leaked {
        /// The frame number of the first frame.
        pfn: u64,
        /// How many base-page frames.
        frames: u64,
    },
    /// A reference count saw more puts than gets and is saturated: its object will never be freed.
    Underflow {
        /// The frame number of the object, or what identifies it.
        pfn: u64,
        /// The count that was found.
        count: u32,
        /// How many references were to be dropped.
        dropped: u32,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OffNode { wanted, got, pfn } => {
                write!(f, "pfn {pfn:#x}: wanted on node {wanted}, came from node {got}")
            }
            Self::Leaked { pfn, frames } => write!(f, "pfn {pfn:#x}: {frames} frames leaked"),
            Self::Underflow { pfn, count, dropped } => {
                write!(f, "pfn {pfn:#x}: {dropped} references dropped where {count} were held")
            }
        }
    }
}

/// Counters that can be read back: for tests, benchmarks and statistics pages.
///
/// Cost: one relaxed atomic addition per count, all on a few shared cache lines; a kernel on many processors counts per
/// processor.
///
/// ```
/// use mmkit_sync::{Counter, Events, Tally};
///
/// static TALLY: Tally = Tally::new();
/// TALLY.count(Counter::FrameTaken, 8);
/// assert_eq!(TALLY.get(Counter::FrameTaken), 8);
/// ```
pub struct Tally {
    counts: [AtomicU64; Counter::ALL.len()],
    reports: AtomicU64,
}

impl Tally {
    /// All counters at 0.
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; Counter::ALL.len()], reports: AtomicU64::new(0) }
    }

    /// How much was counted.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }

    /// How many events were reported.
    #[must_use]
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Sets every counter to 0. Counts that race with it may be lost or kept.
    pub fn reset(&self) {
        for count in self.counts.iter().chain([&self.reports]) {
            count.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Events for Tally {
    fn count(&self, counter: Counter, by: u64) {
        self.counts[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    fn report(&self, _event: &Event) {
        self.reports.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Counter::ALL.iter().map(|&counter| (counter, self.get(counter)))).finish()
    }
}
