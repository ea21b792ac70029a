// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock bit inside a word of data.

use core::fmt;
use core::marker::PhantomData;

use crate::atomic::{AtomicU64, Ordering};
use crate::mutant;
use crate::spin::{Spin, SpinEnv};

/// 63 bits of data and the lock that protects them, in one atomic word.
///
/// | bits | unlocked | locked |
/// |---|---|---|
/// | `BIT` | 0 | 1 |
/// | all others | the data | the data as of locking; the holder's copy is in its guard |
///
/// Locking is one acquire `fetch_or` that also returns the data; unlocking is one release store that also publishes the new
/// data. So a locked update of a word costs what an unlocked one costs, one read-modify-write, and may protect other
/// memory as well.
///
/// Between the two, only the holder may write the word: the unlocking store overwrites everything.
///
/// Unfair. Data that does not fit beside the bit: [`Lock`](crate::Lock). Source: ours; Linux: `bit_spin_lock`, which
/// needs a read-modify-write for the data as well.
///
/// ```
/// use mmkit_sync::BitSpinLock;
///
/// let word = <BitSpinLock>::new(40);
/// let mut guard = word.lock();
/// guard.set_data(guard.data() + 2);
/// drop(guard);
/// assert_eq!(word.peek(), 42);
/// ```
#[repr(transparent)]
pub struct BitSpinLock<const BIT: u32 = 63>(AtomicU64);

impl<const BIT: u32> BitSpinLock<BIT> {
    /// The lock bit. A `BIT` above 63 does not compile.
    const MASK: u64 = {
        assert!(BIT < 64, "the lock bit must be one of the word's 64");
        1 << BIT
    };

    const_unless_loom! {
        /// An unlocked word that holds `data`; its bit `BIT` is ignored.
        #[must_use]
        pub fn new(data: u64) -> Self {
            Self(AtomicU64::new(data & !Self::MASK))
        }
    }

    /// The lock in a word that is part of something else.
    ///
    /// Writing `word` directly while the lock is held loses that write; changing the bit directly breaks the exclusion
    /// that the guards promise.
    #[must_use]
    pub const fn from_ref(word: &AtomicU64) -> &Self {
        let pointer: *const AtomicU64 = word;
        // SAFETY: `repr(transparent)` makes the two types the same in layout, and the borrow goes on.
        unsafe { &*pointer.cast::<Self>() }
    }

    /// Takes the lock, spinning until it is free. Taking it twice in one thread never returns.
    #[inline]
    pub fn lock(&self) -> BitGuard<'_, BIT> {
        self.lock_with(&Spin)
    }

    /// The same in an environment of the caller's: preemption or interrupts off, its own way to wait.
    #[inline]
    pub fn lock_with<E: SpinEnv>(&self, env: &E) -> BitGuard<'_, BIT, E::Critical> {
        let mut tries = 0u32;
        loop {
            let critical = env.enter();
            // Acquire: pairs with the release store that unlocks, in the guard's drop.
            let order = mutant!("bitlock-relaxed-lock", Ordering::Acquire, Ordering::Relaxed);
            let old = mutant!("bitlock-load-then-store", self.0.fetch_or(Self::MASK, order), {
                let old = self.0.load(order);
                self.0.store(old | Self::MASK, Ordering::Relaxed);
                old
            });
            if old & Self::MASK == 0 {
                return BitGuard { lock: self, data: old, critical, not_send: PhantomData };
            }
            // Nobody waits inside the critical section.
            drop(critical);
            // Wait on a plain load, which does not take the cache line away from the holder. Loom would explore the
            // stale values that the load may return, so there the loop is one of read-modify-writes.
            loop {
                env.relax(tries);
                tries = tries.saturating_add(1);
                if cfg!(mmkit_loom) || self.0.load(Ordering::Relaxed) & Self::MASK == 0 {
                    break;
                }
            }
        }
    }

    /// Takes the lock if it is free; may also say no if somebody else had it just now.
    ///
    /// Cost: a load, and if that finds it free a compare-exchange. What is not free is not written.
    #[inline]
    pub fn try_lock(&self) -> Option<BitGuard<'_, BIT>> {
        self.try_lock_with(&Spin)
    }

    /// The same in an environment of the caller's, whose critical section is left at once if the lock is taken.
    #[inline]
    pub fn try_lock_with<E: SpinEnv>(&self, env: &E) -> Option<BitGuard<'_, BIT, E::Critical>> {
        let critical = env.enter();
        let data = self.0.load(Ordering::Relaxed);
        if data & Self::MASK != 0 {
            return None;
        }
        // Acquire: pairs with the release store that unlocks, in the guard's drop.
        let order = mutant!("bitlock-relaxed-try-lock", Ordering::Acquire, Ordering::Relaxed);
        let locked = data | Self::MASK;
        mutant!(
            "bitlock-try-load-then-store",
            self.0.compare_exchange(data, locked, order, Ordering::Relaxed).ok(),
            {
                self.0.store(locked, Ordering::Relaxed);
                Some(data)
            }
        )
        .map(|data| BitGuard { lock: self, data, critical, not_send: PhantomData })
    }

    /// The data as last published, without the lock bit: a snapshot, relaxed. It orders nothing and may be out of date at
    /// once.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !Self::MASK
    }

    /// Whether somebody holds the lock: a snapshot, relaxed.
    #[inline]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::MASK != 0
    }
}

impl<const BIT: u32> Default for BitSpinLock<BIT> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<const BIT: u32> fmt::Debug for BitSpinLock<BIT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BitSpinLock")
            .field("data", &format_args!("{:#x}", self.peek()))
            .field("locked", &self.is_locked())
            .finish()
    }
}

/// The lock of a [`BitSpinLock`], held. Dropping it publishes the data and unlocks, then leaves the critical section `C`.
///
/// Stays on the thread that took it:
///
/// ```compile_fail,E0277
/// let word = <mmkit_sync::BitSpinLock>::new(0);
/// let guard = word.lock();
/// std::thread::scope(|scope| scope.spawn(move || drop(guard)).join());
/// ```
///
/// A guard that is forgotten leaves the word locked for ever, with the data that it had before; its critical section
/// is not left either. A panic under the lock unlocks, with the data set so far.
#[must_use = "the lock is released when the guard is dropped"]
pub struct BitGuard<'a, const BIT: u32 = 63, C = ()> {
    lock: &'a BitSpinLock<BIT>,
    data: u64,
    /// Dropped after `drop` has unlocked.
    #[expect(dead_code, reason = "held for its drop")]
    critical: C,
    not_send: PhantomData<*mut ()>,
}

// SAFETY: a shared guard only reads a copy of the data and lends nothing of `C`.
unsafe impl<const BIT: u32, C: Sync> Sync for BitGuard<'_, BIT, C> {}

impl<const BIT: u32, C> BitGuard<'_, BIT, C> {
    /// The data: as found when locking, or as last set. The lock bit is 0.
    #[inline]
    #[must_use]
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Sets the data to be published when the guard is dropped. Bit `BIT` is ignored.
    #[inline]
    pub fn set_data(&mut self, data: u64) {
        self.data = data & !BitSpinLock::<BIT>::MASK;
    }
}

impl<const BIT: u32, C> Drop for BitGuard<'_, BIT, C> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the acquire `fetch_or` of the next `lock` or `try_lock`.
        let order = mutant!("bitlock-relaxed-unlock", Ordering::Release, Ordering::Relaxed);
        #[cfg(not(mmkit_loom))]
        self.lock.0.store(self.data, order);
        // Loom lets the `fetch_or` of a waiter read what an earlier `fetch_or` of its own wrote, time and again, as if
        // both came before this store; such a model never ends. An exchange comes after what it replaces, and orders
        // nothing else than the store does.
        #[cfg(mmkit_loom)]
        self.lock.0.swap(self.data, order);
    }
}

impl<const BIT: u32, C> fmt::Debug for BitGuard<'_, BIT, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BitGuard({:#x})", self.data)
    }
}
