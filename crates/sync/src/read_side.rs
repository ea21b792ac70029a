// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers that delay freeing.

use core::fmt;

/// A way for readers to keep what they look at from being freed, at next to no cost for them: interrupts off, RCU, epochs.
///
/// A reader *enters* and gets a guard; what it finds while the guard lives stays valid. Whoever takes something out of
/// reach of new readers *synchronises*: that returns when every reader that might have found it has left. Then it may
/// be freed, or made read-only.
///
/// # Safety
///
/// * [`synchronize`](ReadSide::synchronize) returns `Ok` only after every guard that was entered, and not dropped, when it
///   was called has been dropped; each of those drops happens before it returns.
/// * For every guard entered later: what happens before the call of `synchronize` happens before the guard's accesses.
/// * A call given to [`defer`](ReadSide::defer) is made, if at all, as if after a `synchronize` begun when it was given,
///   and at most once.
/// * Guards stay on the thread that entered if the implementation needs it: then [`Guard`](ReadSide::Guard) is not `Send`.
pub unsafe trait ReadSide {
    /// Keeps its holder inside a reader.
    type Guard<'a>
    where
        Self: 'a;

    /// Enters a reader. Guards nest.
    fn enter(&self) -> Self::Guard<'_>;

    /// Waits until every reader that has entered has left.
    ///
    /// # Errors
    ///
    /// [`InsideReader`] if the calling thread is itself inside a reader, so that waiting would never end; and always from a
    /// read side whose readers never leave, such as [`Immovable`]. Nothing may be freed then.
    fn synchronize(&self) -> Result<(), InsideReader>;

    /// Whether [`synchronize`](ReadSide::synchronize) would return `Ok` on this thread now, as far as can be told without
    /// waiting: for those who would have to undo much if it does not. Where it cannot be told, `true`.
    fn may_wait(&self) -> bool {
        true
    }

    /// Has `deferred` run once every reader that has entered by now has left, on whatever thread notices it.
    ///
    /// # Errors
    ///
    /// Gives the call back if this read side does not keep deferred calls: synchronise and run it, or leak what it
    /// would have freed.
    fn defer(&self, deferred: Deferred) -> Result<(), Deferred> {
        Err(deferred)
    }
}

// SAFETY: everything is passed on to an implementation that keeps the contract.
unsafe impl<R: ReadSide + ?Sized> ReadSide for &R {
    type Guard<'a>
        = R::Guard<'a>
    where
        Self: 'a;

    #[inline]
    fn enter(&self) -> Self::Guard<'_> {
        (**self).enter()
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        (**self).synchronize()
    }

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }

    fn defer(&self, deferred: Deferred) -> Result<(), Deferred> {
        (**self).defer(deferred)
    }
}

/// A grace period was asked for by a thread that is inside a reader, and so would delay it for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideReader;

impl fmt::Display for InsideReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot wait for readers from inside a reader")
    }
}

impl core::error::Error for InsideReader {}

/// The read side of memory that never moves: entering is free, and waiting for readers is refused.
///
/// Its guard is `()`: any thread may be inside at any time, for ever, so a grace period never ends. That is the right read
/// side for a map whose memory is neither freed, nor remapped, nor made read-only while anybody looks at it.
/// Tearing the whole map down needs no grace period: the exclusive borrow shows that nobody looks.
///
/// ```
/// use mmkit_sync::{Immovable, InsideReader, ReadSide};
///
/// let guard = Immovable.enter();
/// assert_eq!(Immovable.synchronize(), Err(InsideReader));
/// let () = guard;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immovable;

// SAFETY: `synchronize` never returns `Ok` and no deferred call is made, so the contract asks nothing.
unsafe impl ReadSide for Immovable {
    type Guard<'a> = ();

    #[inline]
    fn enter(&self) {}

    fn synchronize(&self) -> Result<(), InsideReader> {
        Err(InsideReader)
    }

    fn may_wait(&self) -> bool {
        false
    }
}

/// A function and its argument, to be called later, once, on any thread: a closure that needs no allocation.
///
/// Dropping it without [`run`](Deferred::run) leaks what the call would have freed.
#[must_use = "a deferred call that is dropped is never made"]
#[derive(Debug)]
pub struct Deferred {
    call: unsafe fn(*mut ()),
    data: *mut (),
}

// SAFETY: whoever made it promised that the call may be made on any thread.
unsafe impl Send for Deferred {}

impl Deferred {
    /// A call of `call(data)`.
    ///
    /// # Safety
    ///
    /// Calling `call(data)` once, at any later time and on any thread, is sound; `call` does not unwind. Never calling it is
    /// sound too.
    pub const unsafe fn new(call: unsafe fn(*mut ()), data: *mut ()) -> Self {
        Self { call, data }
    }

    /// Makes the call.
    ///
    /// # Safety
    ///
    /// What the call frees is out of every reader's reach: a grace period that began after it was taken out of reach
    /// has ended.
    pub unsafe fn run(self) {
        // SAFETY: the maker promised that one call at any time is sound, `self` is consumed by this one, and the
        // caller promises that no reader is left.
        unsafe { (self.call)(self.data) }
    }
}
