// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two-thread models, run both ways round.

use loom::sync::Arc;
use loom::thread;

/// Models `first` against `second` on what `new` makes, then lets `check` see both results: once with `second` on a spawned
/// thread, and once with `first` on one.
///
/// Loom 0.7.2 does not explore every order in which a spawned thread overtakes the one that spawned it: with a reader of
/// a sequence count in front of a spawned writer, the read never came after the whole write. The other way round it did.
pub(crate) fn both<S: Send + Sync + 'static, A: Send + 'static, B: Send + 'static>(
    new: fn() -> S,
    first: fn(&S) -> A,
    second: fn(&S) -> B,
    check: fn(&S, A, B),
) {
    loom::model(move || {
        let shared = Arc::new(new());
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || second(&other));
        let a = first(&shared);
        check(&shared, a, thread.join().unwrap());
    });
    loom::model(move || {
        let shared = Arc::new(new());
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || first(&other));
        let b = second(&shared);
        check(&shared, thread.join().unwrap(), b);
    });
}
