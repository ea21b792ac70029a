// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sequence count: readers that never write, and retry when a writer was about.

use core::fmt;
use core::marker::PhantomData;

use crate::atomic::{AtomicU64, Ordering, fence};
use crate::mutant;
use crate::spin::{Spin, SpinEnv};

/// A count that is odd while a writer is at work, and that has moved on when it is done.
///
/// It protects a payload of *atomics*, all accessed relaxed: a reader may see half of a write, but then it is told
/// so and throws away what it read. Readers write nothing, so any number of them cost each other nothing.
///
/// ```
/// use mmkit_sync::SeqCount;
/// use mmkit_sync::atomic::{AtomicU64, Ordering::Relaxed};
///
/// let (seq, low, high) = (SeqCount::new(), AtomicU64::new(1), AtomicU64::new(10));
///
/// let writer = seq.try_write().expect("no other writer");
/// low.store(2, Relaxed);
/// high.store(20, Relaxed);
/// drop(writer);
///
/// let pair = seq.read(|| (low.load(Relaxed), high.load(Relaxed)));
/// assert_eq!(pair, (2, 20));
/// ```
///
/// # Why it works
///
/// Writer: count to odd; release fence; payload; count to even with release. Reader: count with acquire; payload; acquire
/// fence; count again. If any of the reader's payload loads saw a store of a writer, that writer's fence and the
/// reader's synchronise, so that its second load sees at least the odd count, and differs from the first. If the first load
/// saw the even count of a writer, all of that writer's stores are visible. The count has 64 bits and does not come round.
///
/// Source: Boehm, "Can seqlocks get along with programming language memory models?", 2012. Linux: `seqcount_t`.
///
/// # What it does not order
///
/// What the reader *wrote* between the two loads, such as a reference that it took, may become visible after
/// the second. Where the writer looks for that, both sides need `fence(SeqCst)` in between.
#[derive(Default)]
#[repr(transparent)]
pub struct SeqCount(AtomicU64);

/// A count seen while no writer was at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqSample(u64);

impl SeqCount {
    const_unless_loom! {
        /// A count that no writer has touched.
        #[must_use]
        pub fn new() -> Self {
            Self(AtomicU64::new(0))
        }
    }

    /// Begins a read: what is loaded after this, relaxed, may be checked with [`unchanged`](Self::unchanged). `None` while
    /// a writer is at work.
    #[inline]
    #[must_use]
    pub fn sample(&self) -> Option<SeqSample> {
        // Acquire: pairs with the release store in the drop of the writer's guard.
        let order = mutant!("seq-relaxed-sample", Ordering::Acquire, Ordering::Relaxed);
        let count = self.0.load(order);
        let even = mutant!("seq-ignore-odd", count.is_multiple_of(2), true);
        even.then_some(SeqSample(count))
    }

    /// Ends a read: whether no writer was at work since `sample`, so that what was loaded since belongs together.
    #[inline]
    #[must_use]
    pub fn unchanged(&self, sample: SeqSample) -> bool {
        // Acquire: pairs with the writer's release fence, through any payload store that was seen.
        mutant!("seq-no-acquire-fence", fence(Ordering::Acquire), ());
        self.0.load(Ordering::Relaxed) == sample.0
    }

    /// Reads once. `None` if a writer was about.
    ///
    /// `read` loads the payload, relaxed; what it sees may not belong together, so it must be ready for anything.
    #[inline]
    pub fn try_read<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let sample = self.sample()?;
        let value = read();
        self.unchanged(sample).then_some(value)
    }

    /// Reads until no writer was about; see [`try_read`](Self::try_read). Never returns if a writer's guard is forgotten, or
    /// if it is called by the writer.
    #[inline]
    pub fn read<T>(&self, read: impl FnMut() -> T) -> T {
        self.read_with(&Spin, read)
    }

    /// The same with the caller's way to wait; its critical section is not entered.
    #[inline]
    pub fn read_with<E: SpinEnv, T>(&self, env: &E, mut read: impl FnMut() -> T) -> T {
        let mut tries = 0u32;
        loop {
            if let Some(value) = self.try_read(&mut read) {
                return value;
            }
            env.relax(tries);
            tries = tries.saturating_add(1);
        }
    }

    /// Begins a write if no other writer is at work.
    ///
    /// Cost: a load, a compare-exchange and a fence; a store when the guard is dropped.
    #[inline]
    #[must_use]
    pub fn try_write(&self) -> Option<SeqWriter<'_>> {
        let count = self.0.load(Ordering::Relaxed);
        if !count.is_multiple_of(2) {
            return None;
        }
        // Acquire: pairs with the release store in the drop of the previous writer's guard.
        let order = Ordering::Acquire;
        mutant!(
            "seq-writers-together",
            self.0.compare_exchange(count, count + 1, order, Ordering::Relaxed).ok()?,
            self.0.swap(count + 1, order)
        );
        Some(self.begun(count))
    }

    /// Begins a write under a lock of the caller's.
    ///
    /// Cost: a load, a store and a fence; a store when the guard is dropped.
    ///
    /// # Safety
    ///
    /// No other writer is at work until the guard is dropped, and the end of the last one happens before this.
    #[inline]
    pub unsafe fn write_unchecked(&self) -> SeqWriter<'_> {
        let even = self.0.load(Ordering::Relaxed) & !1;
        self.0.store(even + 1, Ordering::Relaxed);
        self.begun(even)
    }

    #[inline]
    fn begun(&self, even: u64) -> SeqWriter<'_> {
        // Release: pairs with the acquire fence of `unchanged`, so that whoever sees the payload sees the odd count.
        mutant!("seq-no-release-fence", fence(Ordering::Release), ());
        SeqWriter { seq: self, even, not_send: PhantomData }
    }
}

impl fmt::Debug for SeqCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeqCount({})", self.0.load(Ordering::Relaxed))
    }
}

/// A write to what a [`SeqCount`] protects, in progress. Dropping it ends the write.
///
/// A guard that is forgotten keeps every reader and writer out for ever. Stays on its thread.
#[must_use = "the write ends when the guard is dropped"]
#[derive(Debug)]
pub struct SeqWriter<'a> {
    seq: &'a SeqCount,
    even: u64,
    not_send: PhantomData<*mut ()>,
}

impl Drop for SeqWriter<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the acquire loads of `sample` and `try_write`.
        let order = mutant!("seq-relaxed-end", Ordering::Release, Ordering::Relaxed);
        self.seq.0.store(self.even + 2, order);
    }
}
