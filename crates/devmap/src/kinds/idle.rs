// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting until nobody uses a frame.

use core::fmt;
use core::ops::ControlFlow;

use mmkit_addr::{Pfn, PfnRange};
use mmkit_page::{MemMap, PageFlags, State};
use mmkit_sync::atomic::{AtomicU32, Ordering};
use mmkit_sync::mutant;

/// How often folios of a pagemap became idle. Linux: the queue behind `wake_up_var`.
#[derive(Debug)]
pub(crate) struct IdleCount(AtomicU32);

impl IdleCount {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Counts one. Its frames rest already.
    pub(crate) fn add(&self) {
        // Release: pairs with the Acquire of `wait` and `IdleWait::is_over`: who sees the number sees the frames at rest.
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// What is waited for, while some frame is in use.
#[derive(Debug)]
pub struct IdleWait<'p> {
    count: &'p IdleCount,
    seen: u32,
    /// The first frame that is in use.
    pub pfn: Pfn,
    /// References on its folio; 0 while it is being made or broken up.
    pub references: u32,
    /// How often was waited before.
    pub tries: u32,
}

impl IdleWait<'_> {
    /// Whether a folio of the pagemap has become idle since it was looked: then it is time to look again.
    ///
    /// Who sleeps until [`Operations::idle`](crate::Operations::idle) wakes him asks this under the lock that it wakes under, and
    /// misses nothing.
    #[must_use]
    pub fn is_over(&self) -> bool {
        // Acquire: pairs with the Release of `IdleCount::add`.
        self.count.0.load(Ordering::Acquire) != self.seen
    }
}

/// Waiting was given up: a frame is still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillBusy {
    /// The first frame of the range that is in use.
    pub pfn: Pfn,
    /// References on its folio; 0 while it is being made or broken up.
    pub references: u32,
}

impl fmt::Display for StillBusy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} still has {} references", self.pfn, self.references)
    }
}

impl core::error::Error for StillBusy {}

/// The first frame of `range` that is in use.
fn busy<M: MemMap>(map: &M, range: PfnRange) -> Option<StillBusy> {
    let mut next = range.start();
    while range.contains(next) {
        let reader = map.enter();
        // An absent frame has no users.
        let page = reader.page(next);
        let frames = match page.map(|page| page.state()) {
            Some(State::Tail { .. } | State::Inside) => {
                // Of a folio that begins before the range, or that changes just now.
                let head = page.map_or(next, |page| page.head());
                match reader.page(head).map(|head| head.state()) {
                    Some(State::Held { count, .. }) => {
                        return Some(StillBusy { pfn: next, references: count });
                    }
                    Some(State::Free { .. }) => 1,
                    _ => return Some(StillBusy { pfn: next, references: 0 }),
                }
            }
            Some(State::Held { count, .. }) => return Some(StillBusy { pfn: next, references: count }),
            // A bad frame that is set apart is nobody's.
            Some(State::Frozen { .. })
                if page.is_some_and(|page| page.flags().contains(PageFlags::HWPOISON)) =>
            {
                1
            }
            Some(State::Frozen { .. }) => return Some(StillBusy { pfn: next, references: 0 }),
            Some(State::Free { order, .. }) => order.frames(),
            _ => 1,
        };
        next = next.checked_add(frames)?;
    }
    None
}

/// Waits until no frame of `range` is in use.
pub(crate) fn wait<M: MemMap>(
    count: &IdleCount,
    map: &M,
    range: PfnRange,
    mut pause: impl FnMut(&IdleWait<'_>) -> ControlFlow<()>,
) -> Result<(), StillBusy> {
    let mut tries = 0u32;
    loop {
        // Acquire: pairs with the Release of `IdleCount::add`. Before the look: what becomes idle after that is not missed.
        let before = count.0.load(Ordering::Acquire);
        let Some(found) = busy(map, range) else { return Ok(()) };
        // Acquire: pairs as above.
        let seen = mutant!("idle-look-then-count", before, count.0.load(Ordering::Acquire));
        let StillBusy { pfn, references } = found;
        if pause(&IdleWait { count, seen, pfn, references, tries }).is_break() {
            return Err(found);
        }
        tries = tries.saturating_add(1);
    }
}
