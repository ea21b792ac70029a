// SPDX-License-Identifier: MIT OR Apache-2.0
//! A read side over crossbeam-epoch.

use core::fmt;
use core::marker::PhantomData;
use std::cell::RefCell;
use std::rc::Rc;
// Not through the facade: loom does not see into crossbeam-epoch, so there is nothing to model.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::vec::Vec;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use crate::read_side::{Deferred, InsideReader, ReadSide};

std::thread_local! {
    /// This thread's registrations, one per `Epoch` that it has entered.
    static HANDLES: RefCell<Vec<Registration>> = const { RefCell::new(Vec::new()) };
}

struct Registration {
    /// Dead once the `Epoch` is.
    epoch: Weak<()>,
    handle: Rc<LocalHandle>,
}

/// Epoch-based readers for programs with `std`, over a collector of its own.
///
/// crossbeam-epoch's *default* collector is a process-wide global, where anybody's long reader delays everybody's memory.
/// This type uses a [`Collector`] that belongs to the value; a thread registers with it when it first enters. What it
/// keeps per thread is a registration in a thread-local list, let go at the thread's end or when it registers with another
/// `Epoch` after this one was dropped.
///
/// Entering costs a thread-local look-up, a store and a full fence, and writes no shared memory.
///
/// [`synchronize`](ReadSide::synchronize) is ours, as crossbeam-epoch has none: it defers a flag, then helps the collector
/// along until the flag is raised. It yields the processor while readers remain.
///
/// Dropping an `Epoch` does not make the deferred calls that are left; they are made when the last thread that had entered
/// lets its registration go.
///
/// ```
/// use mmkit_sync::{Epoch, InsideReader, ReadSide};
///
/// let epoch = Epoch::new();
/// let guard = epoch.enter();
/// assert_eq!(epoch.synchronize(), Err(InsideReader));
/// drop(guard);
/// assert_eq!(epoch.synchronize(), Ok(()));
/// ```
pub struct Epoch {
    collector: Collector,
    alive: Arc<()>,
}

impl Epoch {
    /// A read side that no thread has entered.
    #[must_use]
    pub fn new() -> Self {
        Self { collector: Collector::new(), alive: Arc::new(()) }
    }

    /// Makes the deferred calls whose time has come, as far as one step goes, and moves on what delays the others. Without it
    /// they wait for a thread to enter often (crossbeam-epoch collects at every 128th time).
    pub fn flush(&self) {
        self.handle().pin().flush();
    }

    /// This thread's registration, made if there is none.
    fn handle(&self) -> Rc<LocalHandle> {
        match self.known_handle() {
            Some(Some(handle)) => handle,
            Some(None) => self.register(),
            // The thread is about to end and has let its registrations go: one for this once.
            None => Rc::new(self.collector.register()),
        }
    }

    /// This thread's registration, if it has one; `None` if that can no longer be told.
    ///
    /// The list is not borrowed when this returns: what is done with the handle may run deferred calls, and these may
    /// enter this or another `Epoch`.
    #[inline]
    fn known_handle(&self) -> Option<Option<Rc<LocalHandle>>> {
        HANDLES
            .try_with(|handles| {
                let handles = handles.borrow();
                let known = handles.iter().find(|known| *known.handle.collector() == self.collector);
                known.map(|known| Rc::clone(&known.handle))
            })
            .ok()
    }

    #[cold]
    fn register(&self) -> Rc<LocalHandle> {
        let handle = Rc::new(self.collector.register());
        let new = Registration { epoch: Arc::downgrade(&self.alive), handle: Rc::clone(&handle) };
        let forgotten = HANDLES.try_with(|handles| {
            let mut handles = handles.borrow_mut();
            handles.push(new);
            handles.extract_if(.., |known| known.epoch.strong_count() == 0).collect::<Vec<_>>()
        });
        // Outside the borrow: the last registration of a dropped `Epoch` makes the deferred calls that are left.
        drop(forgotten);
        handle
    }
}

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let own = HANDLES.try_with(|handles| {
            let mut handles = handles.borrow_mut();
            let own = handles.iter().position(|known| *known.handle.collector() == self.collector);
            own.map(|own| handles.swap_remove(own))
        });
        // Outside the borrow, as in `register`.
        drop(own);
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch").finish_non_exhaustive()
    }
}

// SAFETY: crossbeam-epoch runs what was deferred under a guard only after every guard of the same collector that was
// pinned at that time has been dropped, with these drops happening before it; a guard pinned later sees what
// happened before the deferral. All guards are of `self.collector`.
// * `synchronize` returns `Ok` only after such a call has been made, and acquires what it released.
// * `defer` passes the call on, to be made once.
// * Guards do not leave their thread: the guard is not `Send`.
unsafe impl ReadSide for Epoch {
    type Guard<'a> = EpochGuard<'a>;

    #[inline]
    fn enter(&self) -> EpochGuard<'_> {
        EpochGuard { _guard: self.handle().pin(), epoch: PhantomData }
    }

    /// Waits until every reader that has entered has left, yielding the processor.
    ///
    /// # Errors
    ///
    /// [`InsideReader`] if this thread is inside a reader of this `Epoch`, or if that cannot be told because the thread is about
    /// to end. Readers of another `Epoch` do not matter to it; two threads that each wait inside a reader of the
    /// other's `Epoch` wait for ever.
    fn synchronize(&self) -> Result<(), InsideReader> {
        let handle = match self.known_handle() {
            Some(Some(handle)) => handle,
            Some(None) => self.register(),
            None => return Err(InsideReader),
        };
        if handle.is_pinned() {
            return Err(InsideReader);
        }
        let left = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&left);
        let guard = handle.pin();
        // Release: pairs with the acquire load below.
        guard.defer(move || flag.store(true, Ordering::Release));
        guard.flush();
        drop(guard);
        // Acquire: pairs with the release store of the deferred call above.
        while !left.load(Ordering::Acquire) {
            std::thread::yield_now();
            // Each flush tries to advance the epoch; pinned anew, or this thread itself would hold it back.
            handle.pin().flush();
        }
        Ok(())
    }

    fn may_wait(&self) -> bool {
        match self.known_handle() {
            Some(Some(handle)) => !handle.is_pinned(),
            Some(None) => true,
            None => false,
        }
    }

    fn defer(&self, deferred: Deferred) -> Result<(), Deferred> {
        // SAFETY: crossbeam-epoch makes the call after a grace period that begins now.
        self.handle().pin().defer(move || unsafe { deferred.run() });
        Ok(())
    }
}

/// A reader of an [`Epoch`]: what it found stays until the guard is dropped. Stays on its thread.
///
/// A guard that is forgotten makes every later wait endless.
#[must_use = "the reader ends when the guard is dropped"]
pub struct EpochGuard<'a> {
    _guard: Guard,
    epoch: PhantomData<&'a Epoch>,
}

impl fmt::Debug for EpochGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochGuard")
    }
}
