// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that end a program, held back until it has put things back.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

/// The signals that end a program.
const ENDS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// While this lives, the signals that end a program (`SIGINT`, `SIGTERM`, `SIGHUP`, `SIGQUIT`) are only noted. After the
/// last one is dropped they end the program again. One that came in between is for its owner to obey: see
/// [`Signals::obey`].
#[derive(Debug)]
pub struct Signals {
    /// The last one that came; 0 is none.
    seen: Arc<AtomicUsize>,
    handlers: Vec<SigId>,
}

/// What a process does with signals is one for all of it, so this is too: how many [`Signals`] there are, and whether
/// there are none. A handler stays installed for ever; with the flag set it does what would happen without it.
static HELD: Mutex<Option<(usize, Arc<AtomicBool>)>> = Mutex::new(None);

impl Signals {
    /// Notes signals from now on.
    ///
    /// # Errors
    ///
    /// The system refuses the handlers.
    pub fn catch() -> io::Result<Self> {
        {
            let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
            if held.is_none() {
                let idle = Arc::new(AtomicBool::new(true));
                for signal in ENDS {
                    flag::register_conditional_default(signal, Arc::clone(&idle))?;
                }
                *held = Some((0, idle));
            }
            if let Some((live, idle)) = held.as_mut() {
                *live += 1;
                idle.store(false, Ordering::Relaxed);
            }
        }
        let mut signals = Self { seen: Arc::new(AtomicUsize::new(0)), handlers: Vec::new() };
        for signal in ENDS {
            let seen = Arc::clone(&signals.seen);
            signals.handlers.push(flag::register_usize(signal, seen, signal.unsigned_abs() as usize)?);
        }
        Ok(signals)
    }

    /// The number of the last signal that came.
    #[must_use]
    pub fn seen(&self) -> Option<i32> {
        match self.seen.load(Ordering::Relaxed) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// Does what the last signal would have done: ends the program, so that its parent sees which signal it was.
    /// Nothing where none came.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn obey(self) -> io::Result<()> {
        match self.seen() {
            Some(signal) => low_level::emulate_default_handler(signal),
            None => Ok(()),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((live, idle)) = held.as_mut() {
            *live -= 1;
            idle.store(*live == 0, Ordering::Relaxed);
        }
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noted_and_nothing_else() {
        drop(Signals::catch().unwrap());
        let signals = Signals::catch().unwrap();
        drop(Signals::catch().unwrap());
        assert_eq!(signals.seen(), None);
        low_level::raise(SIGHUP).unwrap();
        assert_eq!(signals.seen(), Some(SIGHUP));
    }
}
