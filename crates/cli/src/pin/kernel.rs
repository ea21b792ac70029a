// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel's side.

use mmkit_oracle::Root;
use mmkit_oracle::pin::{self, Measurement, Options, Outcome, Shape};
use serde::Serialize;

use super::PinArgs;
use crate::failure::Failure;
use crate::machine;
use crate::progress::Progress;

/// What the running kernel takes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kernel {
    pub(super) pages: u64,
    /// How: `io_uring` or `vmsplice`.
    pub(super) by: &'static str,
    /// Nanoseconds for each page to pin it: the median. (For `vmsplice`: to get it and put it.)
    pub(super) ns: f64,
    /// The shortest of them.
    pub(super) best_ns: Option<f64>,
    /// Nanoseconds for each page to unpin what was left: one pin for each folio.
    pub(super) unpin_ns: Option<f64>,
    /// Pages by the counters of the machine, the first time: pinned, and unpinned at once.
    pub(super) acquired: Option<i64>,
    pub(super) released_at_once: Option<i64>,
}

impl Kernel {
    fn new(result: &Measurement, get: bool) -> Option<Self> {
        let pins = result.samples.first()?.pins.filter(|_| !get);
        Some(Self {
            pages: result.pages(),
            by: if get { "vmsplice" } else { "io_uring" },
            ns: if get { result.get_and_put_ns() } else { result.pin_ns() }?,
            best_ns: result.best_pin_ns().filter(|_| !get),
            unpin_ns: result.unpin_ns().filter(|_| !get),
            acquired: pins.map(|pins| pins.acquired),
            released_at_once: pins.map(|pins| pins.released_at_once),
        })
    }
}

/// Measures it, or says why not.
pub(super) fn measure(
    args: &PinArgs,
    shape: Shape,
    progress: &mut Progress,
) -> Result<Result<Kernel, String>, Failure> {
    let batch_bytes = args.batch.map(|pages| pages.saturating_mul(machine::page_bytes()));
    let options = Options { batch_bytes, repeats: args.repeat, ..Options::new(args.size.0, shape) };
    let step = || {
        progress.advance(1);
        true
    };
    match pin::measure(&Root::system(), &options, step) {
        Ok(Outcome::Measured(result)) => {
            Ok(Kernel::new(&result, args.get).ok_or_else(|| "nothing was measured".to_owned()))
        }
        Ok(Outcome::Skipped(why)) => Ok(Err(why.to_string())),
        Err(error) => Err(Failure::run(error)),
    }
}
