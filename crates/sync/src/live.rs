// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reference to something that can be told to die: taking one touches only the taker's shard.

mod shard;

pub use shard::{Shard, Shards};

use core::fmt;
use core::ops::ControlFlow;

use crate::atomic::{AtomicBool, Ordering, fence};
use crate::mutant;

use shard::Cells;

/// A sharded reference count on something that lives until it is killed, and may be freed once it has drained.
///
/// While it lives, [`enter`](Self::enter) gives out guards, at the cost of one addition to a counter that other processors
/// leave alone. [`kill`](Self::kill) ends that: no new guard is given out. [`is_drained`](Self::is_drained) then tells when
/// the last guard is gone. Guards may be dropped on another thread than the one that took them.
///
/// The shards are the caller's memory, and so is the choice of one per call: the number of the processor, or of the
/// thread. Any choice is correct; a good one does not contend.
///
/// ```
/// use std::ops::ControlFlow;
/// use mmkit_sync::{LiveRef, Shard};
///
/// let device = LiveRef::new([const { Shard::new() }; 4]);
/// let guard = device.enter(2).expect("it lives");
/// device.kill();
/// assert!(device.enter(1).is_none());
/// assert!(!device.is_drained());
/// drop(guard);
/// assert_eq!(device.drain(|_| ControlFlow::Continue(())), Ok(()));
/// ```
///
/// # Why it works
///
/// Every shard counts, upwards only, who came in (`ins`) and who went out (`outs`).
///
/// * `enter`: `ins += 1`; `fence(SeqCst)`; look whether it is dead; if so, `outs += 1` and no guard.
/// * dropping: `outs += 1`, release.
/// * `is_drained`: see it dead; `fence(SeqCst)`; add up `outs` over all shards, acquire; then add up `ins`. Equal is drained.
///
/// 1. *Every guard is in the sum of `ins`.* Of the two fences one comes first in the single order of all such fences. If it
///    is the drainer's, the entering thread sees it dead and gets no guard. If it is the entering thread's, the drainer's
///    load sees its `ins`.
/// 2. *Every `outs` that is seen has its `ins` seen.* It was added after its `ins`, with release, to a counter that
///    only additions change; the acquire load that sees it, or a later value, makes that `ins` visible to the
///    loads that follow.
/// 3. So the sum of `ins` is the sum of `outs` plus the guards, and refused entries, not seen to have gone: equal only if none
///    is left. Their accesses happen before `is_drained` returns true, by 2.
///
/// No counter wraps: a shard that has seen 2^63 entries refuses, and the sums have 128 bits.
///
/// Source: ours; the two-counter sum is that of sleepable RCU. Linux: `percpu_ref`, which switches to one atomic
/// counter after an RCU grace period instead.
pub struct LiveRef<S> {
    dead: AtomicBool,
    shards: S,
}

/// [`LiveRef::drain`] was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillHeld {
    /// How many guards, and entries about to be refused, were left when it was last looked.
    pub held: u64,
}

impl fmt::Display for StillHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} references are still held", self.held)
    }
}

impl core::error::Error for StillHeld {}

impl<S: Shards> LiveRef<S> {
    /// Something alive, counted in `shards`. Without any shard every [`enter`](Self::enter) is refused.
    #[must_use]
    pub fn new(shards: S) -> Self {
        Self { dead: AtomicBool::new(false), shards }
    }

    /// Takes a reference in shard `shard` (modulo the number of shards), unless it is dead.
    ///
    /// Cost: two loads, an addition, a full fence.
    #[inline]
    #[must_use]
    pub fn enter(&self, shard: usize) -> Option<LiveGuard<'_>> {
        self.enter_many(shard, 1)
    }

    /// Takes `n` references that are dropped together.
    #[inline]
    #[must_use]
    pub fn enter_many(&self, shard: usize, n: u32) -> Option<LiveGuard<'_>> {
        let cells = self.cells(shard)?;
        // Not needed, but entries that come after the death then write nothing, and so cannot keep a drain waiting.
        if self.dead.load(Ordering::Relaxed) || !cells.add_in(n) {
            return None;
        }
        let guard = LiveGuard { cells, n };
        // SeqCst: pairs with the fence of `is_drained`: either this thread sees it dead, or the drainer sees `ins`.
        mutant!("live-enter-no-fence", fence(Ordering::SeqCst), ());
        let dead = mutant!("live-enter-no-recheck", self.dead.load(Ordering::Relaxed), false);
        // If it is dead, dropping the guard undoes the addition.
        (!dead).then_some(guard)
    }

    /// Drops `n` references whose guard was forgotten, in shard `shard` (modulo the number of shards; any will do).
    ///
    /// # Safety
    ///
    /// `n` references to this are held by forgotten guards, and these are no longer counted on.
    #[inline]
    pub unsafe fn put_many(&self, shard: usize, n: u32) {
        if let Some(cells) = self.cells(shard) {
            cells.add_out(n);
        }
    }

    /// From now on no reference is given out. Says whether it was alive. Guards that exist stay valid.
    pub fn kill(&self) -> bool {
        !self.dead.swap(true, Ordering::Relaxed)
    }

    /// Whether it was killed: a snapshot, relaxed.
    #[inline]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Whether it is dead and no guard is left. True stays true (until [`revive`](Self::revive)); everything done under every
    /// guard happens before it.
    ///
    /// Cost: two loads per shard and a full fence.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_dead() && self.held() == 0
    }

    /// Kills it and waits until no guard is left. `pause` is called, with a count from 0, whenever there still is one: to
    /// sleep, spin or give up. Waiting while holding a guard never ends.
    ///
    /// # Errors
    ///
    /// [`StillHeld`] when `pause` breaks; it stays dead, and draining may be tried again.
    pub fn drain(&self, mut pause: impl FnMut(u32) -> ControlFlow<()>) -> Result<(), StillHeld> {
        self.kill();
        let mut tries = 0u32;
        loop {
            let held = self.held();
            if held == 0 {
                return Ok(());
            }
            if pause(tries).is_break() {
                return Err(StillHeld { held });
            }
            tries = tries.saturating_add(1);
        }
    }

    /// Alive again, from the exclusive borrow that shows that no guard is about. References of forgotten guards remain.
    pub fn revive(&mut self) {
        self.dead.store(false, Ordering::Relaxed);
    }

    /// How many references are held; exact if it is 0 and this was seen dead before, else an estimate from above.
    ///
    /// Cost: two loads per shard and a full fence.
    #[must_use]
    pub fn held(&self) -> u64 {
        // SeqCst: pairs with the fence of `enter_many`.
        mutant!("live-drain-no-fence", fence(Ordering::SeqCst), ());
        let shards = self.shards.shards();
        let (outs, ins) = mutant!(
            "live-ins-first",
            {
                let outs = sum(shards, Cells::outs);
                (outs, sum(shards, Cells::ins))
            },
            {
                let ins = sum(shards, Cells::ins);
                (sum(shards, Cells::outs), ins)
            }
        );
        u64::try_from(ins.abs_diff(outs)).unwrap_or(u64::MAX)
    }

    #[inline]
    fn cells(&self, shard: usize) -> Option<&Cells> {
        let shards = self.shards.shards();
        if let Some(shard) = shards.get(shard) {
            return Some(shard.cells());
        }
        let shard = shard.checked_rem(shards.len())?;
        shards.get(shard).map(Shard::cells)
    }
}

fn sum(shards: &[Shard], count: impl Fn(&Cells) -> u64) -> u128 {
    shards.iter().map(|shard| u128::from(count(shard.cells()))).sum()
}

impl<S: Shards> fmt::Debug for LiveRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveRef").field("dead", &self.is_dead()).field("held", &self.held()).finish()
    }
}

/// A reference to what a [`LiveRef`] counts; while it exists, that does not drain. May be dropped on any thread.
///
/// Forgetting it keeps the reference for ever, or until [`LiveRef::put_many`].
#[must_use = "the reference is dropped with the guard"]
pub struct LiveGuard<'a> {
    cells: &'a Cells,
    n: u32,
}

impl LiveGuard<'_> {
    /// How many references it stands for.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.n
    }
}

impl Drop for LiveGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.cells.add_out(self.n);
    }
}

impl fmt::Debug for LiveGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveGuard({})", self.n)
    }
}
