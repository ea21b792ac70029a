// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running kernel's side.

use std::path::Path;

use mmkit_oracle::hvo::{self, Error, Freed, Measurement, Options, Outcome, Restored};
use mmkit_oracle::{Root, Signals};
use serde::Serialize;

use super::{HvoArgs, Side};
use crate::failure::Failure;

/// What the running kernel does and takes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kernel {
    #[serde(flatten)]
    pub(super) side: Side,
    /// The node of the pool, where there are nodes.
    pub(super) node: Option<u32>,
    /// Huge pages that were asked for; fewer could be had where memory is in pieces.
    pub(super) pages_wanted: u64,
    /// Where it was not the same each time: the least and the most that a huge page freed.
    pub(super) freed_between: Option<[f64; 2]>,
    /// The first time: pages of descriptors from boot that came to use, and pages taken for them since. Below 0: given
    /// back.
    pub(super) first_boot_pages: Option<i64>,
    pub(super) first_later_pages: Option<i64>,
    /// Microseconds for a huge page to enter the pool, with HVO off and on, and to leave it.
    pub(super) grow_off_us: Option<f64>,
    pub(super) grow_on_us: Option<f64>,
    pub(super) shrink_off_us: Option<f64>,
    pub(super) shrink_on_us: Option<f64>,
    /// Bytes of free memory that a huge page costs less with HVO. All else that the machine does is in it.
    pub(super) free_gain_bytes: Option<f64>,
    /// Huge pages that could not be given back: the kernel had no memory for their descriptors.
    pub(super) left_surplus: u64,
}

impl Kernel {
    fn new(result: &Measurement) -> Self {
        let first = result.first.grow.memmap;
        Self {
            side: Side {
                pages: result.pages(),
                freed_per_page: exactly(result.freed_per_page()),
                taken_per_page: exactly(result.taken_per_page()),
                optimise_us: result.optimise_us(),
                restore_us: result.restore_us(),
            },
            node: result.node,
            pages_wanted: result.pages_wanted,
            freed_between: match result.freed_per_page() {
                Freed::Between(least, most) => Some([least, most]),
                Freed::Exactly(_) | Freed::Unknown => None,
            },
            first_boot_pages: first.map(|change| change.boot),
            first_later_pages: first.map(|change| change.later),
            grow_off_us: result.grow_us(false),
            grow_on_us: result.grow_us(true),
            shrink_off_us: result.shrink_us(false),
            shrink_on_us: result.shrink_us(true),
            free_gain_bytes: result.free_gain_bytes(),
            left_surplus: result.left_surplus,
        }
    }
}

fn exactly(freed: Freed) -> Option<i64> {
    match freed {
        Freed::Exactly(pages) => Some(pages),
        Freed::Between(..) | Freed::Unknown => None,
    }
}

/// Measures it, or says why not. A signal ends the program, after the settings are back.
pub(super) fn measure(args: &HvoArgs, page_bytes: u64) -> Result<Result<Kernel, String>, Failure> {
    let signals =
        Signals::catch().map_err(|error| Failure::run(format_args!("cannot hold back signals: {error}")))?;
    let options =
        Options { page_bytes, pages: args.pages, repeats: args.repeat, state_file: args.state_file.clone() };
    let outcome = hvo::measure(&Root::system(), &options, &signals);
    match outcome {
        Err(error @ Error::Interrupted { .. }) => {
            eprintln!("mmkit: {error}");
            signals.obey().map_err(Failure::run)?;
            Err(Failure::run(error))
        }
        Err(error) => Err(failure(&error, &args.state_file)),
        // It came too late to interrupt anything.
        Ok(_) if signals.seen().is_some() => {
            signals.obey().map_err(Failure::run)?;
            Err(Failure::run("interrupted"))
        }
        Ok(Outcome::Measured(result)) => Ok(Ok(Kernel::new(&result))),
        Ok(Outcome::Skipped(why)) => Ok(Err(why.to_string())),
    }
}

/// Puts back what a killed run left behind, and says what that was.
pub(super) fn restore(state_file: &Path) -> Result<String, Failure> {
    let path = state_file.display();
    let restored = hvo::restore(&Root::system(), state_file).map_err(|error| failure(&error, state_file))?;
    Ok(match restored {
        Restored::NoStateFile => format!("nothing to restore: there is no {path}\n"),
        Restored::EarlierBoot => {
            format!("nothing to restore: {path} is from before this machine was started; removed\n")
        }
        Restored::PutBack { optimise, page_bytes, node, pages } => {
            let node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
            format!(
                "restored: vm.hugetlb_optimize_vmemmap = {}, {pages} pages of {} kB{node}; {path} removed\n",
                u8::from(optimise),
                page_bytes / 1024
            )
        }
    })
}

/// What to do about it, where that is another call of this program.
fn failure(error: &Error, state_file: &Path) -> Failure {
    let command = if state_file == hvo::default_path() {
        "mmkit hvo --restore".to_owned()
    } else {
        format!("mmkit hvo --restore --state-file {}", state_file.display())
    };
    match error {
        Error::Stale { .. } | Error::NotPutBack { .. } => {
            Failure::run(format_args!("{error}; use `{command}`"))
        }
        Error::State { .. } => Failure::run(format_args!("{error}; give another --state-file")),
        _ => Failure::run(error),
    }
}
