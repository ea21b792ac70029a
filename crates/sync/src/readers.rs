// SPDX-License-Identifier: MIT OR Apache-2.0
//! A read side of four counters, for where there is no RCU.

use core::fmt;
use core::marker::PhantomData;

use crate::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use crate::lock::Lock;
use crate::mutant;
use crate::raw_lock::SpinLock;
use crate::read_side::{InsideReader, ReadSide};
use crate::spin::{Spin, SpinEnv};

/// A read side that needs nothing: no threads to register, no memory, no operating system.
///
/// Entering costs an addition to a shared counter and a full fence, leaving an addition: fit for boot, for tests and
/// for a few processors. Many processors that look up often want their kernel's RCU, or `Epoch` (feature `epoch`).
///
/// It cannot tell which thread waits: [`synchronize`](ReadSide::synchronize) called inside a reader never returns, like taking a
/// lock twice. It spins.
///
/// # Why it works
///
/// Readers come in and go out at one of two pairs of upward counters, chosen by the current phase; as in
/// [`LiveRef`](crate::LiveRef), adding up `outs` first and `ins` after it shows whether a pair is empty. A reader's fence after
/// its `ins`, and the fence with which `synchronize` begins, are in one order. If the reader's is first, its `ins` is
/// seen, and `synchronize` does not return before the pair was seen empty, its `outs` included. If `synchronize`'s is first, the
/// reader sees everything that came before it. The change of phase in between sends new readers to the other pair, so
/// that the wait ends although readers keep coming.
///
/// Source: sleepable RCU, with one shard.
///
/// ```
/// use mmkit_sync::{ReadSide, Readers};
///
/// static READERS: Readers = Readers::new();
///
/// let guard = READERS.enter();
/// // What is found here stays.
/// drop(guard);
/// assert_eq!(READERS.synchronize(), Ok(()));
/// ```
pub struct Readers {
    phase: AtomicUsize,
    pairs: [Pair; 2],
    /// Held by the one that waits.
    turn: Lock<SpinLock, ()>,
}

struct Pair {
    ins: AtomicU64,
    outs: AtomicU64,
}

impl Pair {
    const_unless_loom! {
        fn new() -> Self {
            Self { ins: AtomicU64::new(0), outs: AtomicU64::new(0) }
        }
    }

    fn wait_until_empty(&self) {
        let mut tries = 0u32;
        loop {
            // Acquire: pairs with the release with which a reader leaves.
            let order = mutant!("readers-outs-relaxed", Ordering::Acquire, Ordering::Relaxed);
            let outs = self.outs.load(order);
            if self.ins.load(Ordering::Relaxed) == outs {
                return;
            }
            Spin.relax(tries);
            tries = tries.saturating_add(1);
        }
    }
}

impl Readers {
    const_unless_loom! {
        /// A read side that nobody has entered.
        #[must_use]
        pub fn new() -> Self {
            Self {
                phase: AtomicUsize::new(0),
                pairs: [Pair::new(), Pair::new()],
                turn: Lock::from_raw(SpinLock::new(), ()),
            }
        }
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the proof is in the type's documentation.
// * Guards entered before are waited for: both pairs are seen empty after the fence, and the acquire of `outs` orders
//   what was done under them before the return.
// * Guards entered later: their fence comes after the fence of `synchronize`, so they see what came before it.
// * Calls are not deferred. Guards may be dropped anywhere in principle, and do not leave their thread.
unsafe impl ReadSide for Readers {
    type Guard<'a> = ReaderGuard<'a>;

    #[inline]
    fn enter(&self) -> ReaderGuard<'_> {
        let phase = self.phase.load(Ordering::Relaxed) & 1;
        let pair = &self.pairs[phase];
        pair.ins.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the first fence of `synchronize`.
        mutant!("readers-enter-no-fence", fence(Ordering::SeqCst), ());
        ReaderGuard { pair, not_send: PhantomData }
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        let turn = self.turn.lock();
        // SeqCst: pairs with the fence of `enter`.
        mutant!("readers-synchronize-no-fence", fence(Ordering::SeqCst), ());
        let phase = self.phase.load(Ordering::Relaxed) & 1;
        // Readers that chose their pair before the last change, and came late.
        mutant!("readers-one-pair", self.pairs[phase ^ 1].wait_until_empty(), ());
        self.phase.store(phase ^ 1, Ordering::Relaxed);
        self.pairs[phase].wait_until_empty();
        drop(turn);
        Ok(())
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("phase", &self.phase.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

/// A reader of [`Readers`]: what it found stays until the guard is dropped.
///
/// A guard that is forgotten makes every later wait endless.
#[must_use = "the reader ends when the guard is dropped"]
pub struct ReaderGuard<'a> {
    pair: &'a Pair,
    not_send: PhantomData<*mut ()>,
}

// SAFETY: a shared guard can do nothing.
unsafe impl Sync for ReaderGuard<'_> {}

impl Drop for ReaderGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the acquire load of `outs` in `synchronize`.
        let order = mutant!("readers-leave-relaxed", Ordering::Release, Ordering::Relaxed);
        self.pair.outs.fetch_add(1, order);
    }
}

impl fmt::Debug for ReaderGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReaderGuard")
    }
}
