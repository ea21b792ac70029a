// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was measured.

use std::time::Duration;

use super::{Mapped, Shape};
use crate::hvo::median;
use crate::memory::PinCounters;

/// Memory that was pinned and unpinned some times.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What the memory is made of.
    pub shape: Shape,
    /// Bytes of memory.
    pub bytes: u64,
    /// What the kernel said about its shape.
    pub mapped: Mapped,
    /// What was measured, in order.
    pub samples: Vec<Sample>,
}

/// One time. Times are of this thread's processor, for all of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// To register the buffer: a pin on every page.
    pub pin: Duration,
    /// To unregister it: the pins that were left, one for each folio.
    pub unpin: Duration,
    /// To put every page through a pipe: a reference on every page, and back.
    pub get_and_put: Duration,
    /// What the kernel counted; `None` where it does not.
    pub pins: Option<Pins>,
}

/// Pages, by the counters of the whole machine: others who pin are in it, and what is pinned last on another
/// processor may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Pinned by registering (`nr_foll_pin_acquired`).
    pub acquired: i64,
    /// Unpinned again by registering (`nr_foll_pin_released`): all but one of each folio, where folios are of one size.
    pub released_at_once: i64,
    /// Unpinned by unregistering.
    pub released: i64,
}

impl Pins {
    pub(super) fn between(
        before: Option<PinCounters>,
        between: Option<PinCounters>,
        after: Option<PinCounters>,
    ) -> Option<Self> {
        let (before, between, after) = (before?, between?, after?);
        let change = |new: u64, old: u64| new.wrapping_sub(old).cast_signed();
        Some(Self {
            acquired: change(between.acquired, before.acquired),
            released_at_once: change(between.released, before.released),
            released: change(after.released, between.released),
        })
    }
}

impl Measurement {
    /// Base pages of the memory.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.mapped.pages
    }

    /// Nanoseconds for each page to pin it: the median.
    #[must_use]
    pub fn pin_ns(&self) -> Option<f64> {
        self.median_ns(|sample| sample.pin)
    }

    /// Nanoseconds for each page to unpin what was left: the median.
    #[must_use]
    pub fn unpin_ns(&self) -> Option<f64> {
        self.median_ns(|sample| sample.unpin)
    }

    /// Nanoseconds for each page to get it and put it, by way of a pipe: the median.
    #[must_use]
    pub fn get_and_put_ns(&self) -> Option<f64> {
        self.median_ns(|sample| sample.get_and_put)
    }

    /// As [`pin_ns`](Self::pin_ns), the shortest.
    #[must_use]
    pub fn best_pin_ns(&self) -> Option<f64> {
        self.samples.iter().map(|sample| self.ns(sample.pin)).min_by(f64::total_cmp)
    }

    fn median_ns(&self, of: fn(&Sample) -> Duration) -> Option<f64> {
        median(self.samples.iter().map(|sample| self.ns(of(sample))))
    }

    fn ns(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 / self.pages() as f64
    }
}
