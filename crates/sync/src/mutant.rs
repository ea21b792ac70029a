// SPDX-License-Identifier: MIT OR Apache-2.0
//! Seeded bugs, to show that a model can fail.
//!
//! A loom model that passes proves little until it is known to fail on broken code. [`mutant!`](crate::mutant!) puts a
//! broken variant beside the good one, under a name; a test chooses the name at run time and asserts that the model
//! fails. Without `--cfg mmkit_loom` the macro is the good expression and nothing else.
//!
//! The choice belongs to the thread that makes it. Loom runs all threads of a model on the thread that called it, so
//! they all see the choice, and models in other tests of the same program do not.

/// Evaluates to its second argument; in a loom build, to the third while a test has chosen the mutant so named.
///
/// ```
/// use mmkit_sync::mutant;
///
/// let sum = mutant!("doc-sum", 2 + 2, 5);
/// assert_eq!(sum, 4);
/// ```
#[cfg(not(mmkit_loom))]
#[macro_export]
macro_rules! mutant {
    ($name:literal, $good:expr, $bad:expr $(,)?) => {
        $good
    };
}

/// Evaluates to its second argument, or to the third while a test has chosen the mutant so named.
#[cfg(mmkit_loom)]
#[macro_export]
macro_rules! mutant {
    ($name:literal, $good:expr, $bad:expr $(,)?) => {
        if $crate::mutant::is_active($name) { $bad } else { $good }
    };
}

#[cfg(mmkit_loom)]
pub use active::{is_active, must_fail, with};

#[cfg(mmkit_loom)]
mod active {
    use core::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    std::thread_local! {
        static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) };
        static REACHED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether `name` is chosen on this thread; remembers that the mutant was reached.
    #[must_use]
    pub fn is_active(name: &str) -> bool {
        let active = CHOSEN.get() == Some(name);
        if active {
            REACHED.set(true);
        }
        active
    }

    /// Runs `body` with the mutant `name` chosen. No other mutant may be chosen already.
    ///
    /// # Panics
    ///
    /// If one is, or if `body` never reached the mutant: the name is misspelt or the model does not use that code.
    pub fn with<R>(name: &'static str, body: impl FnOnce() -> R) -> R {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                CHOSEN.set(None);
            }
        }
        assert_eq!(CHOSEN.get(), None, "mutant {name:?} inside another");
        let reset = Reset;
        CHOSEN.set(Some(name));
        REACHED.set(false);
        let result = body();
        drop(reset);
        assert!(REACHED.get(), "mutant {name:?} was never reached: is the name right?");
        result
    }

    /// Runs `body`, which checks a model, with the mutant `name` chosen, and asserts that it panics.
    ///
    /// # Panics
    ///
    /// If `body` returns, or never reached the mutant.
    pub fn must_fail(name: &'static str, body: impl FnOnce()) {
        let result = with(name, || catch_unwind(AssertUnwindSafe(body)));
        assert!(result.is_err(), "mutant {name:?} survived: the model does not see this bug");
    }
}
