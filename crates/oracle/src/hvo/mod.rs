// SPDX-License-Identifier: MIT OR Apache-2.0
//! HugeTLB vmemmap optimization by the running kernel: how many pages of descriptors it frees for each huge page, and
//! how long that takes.
//!
//! A pool of huge pages is grown and shrunk again, in turn with HVO off and on. What the counters of descriptor pages
//! change by is exact. What the pages take longer with HVO on is the time of optimising (growing) and restoring
//! (shrinking).
//!
//! # Whatever happens, the settings come back
//!
//! 1. Whoever changes settings holds a lock on the switch's own file, so two runs never take each other's changes for
//!    the machine's settings.
//! 2. What the settings were is written to a *state file*, synced to the disk, before the first change.
//! 3. They are put back when the measurement ends, fails, or is interrupted ([`Signals`]), and then the state file is
//!    removed.
//! 4. After a kill the state file is still there: nothing more is measured until [`restore`] has put back what it says.
//!
//! Only the switch and one pool are changed, and only these are put back.
//!
//! ```no_run
//! use mmkit_oracle::hvo::{Options, Outcome, measure};
//! use mmkit_oracle::{Root, Signals};
//!
//! let signals = Signals::catch()?;
//! match measure(&Root::system(), &Options::new(2 << 20), &signals)? {
//!     Outcome::Measured(result) => println!("{:?} pages freed for each", result.freed_per_page()),
//!     Outcome::Skipped(why) => println!("skipped: {why}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod result;
mod settings;
mod state;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub use error::{Error, Skip, StateFault};
pub use result::{Cycle, Freed, Measurement, MemmapChange, Sample, median};
pub use state::default_path;

use self::settings::Settings;
use self::state::State;
use crate::memory::{Memmap, Memory};
use crate::node::{self, Node};
use crate::pool::{self, PoolName};
use crate::root::{ReadError, Root};
use crate::signals::Signals;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a huge page.
    pub page_bytes: u64,
    /// Pages that the pool grows by, at least 1. Without: 2 GiB of them, as far as a quarter of the free memory allows.
    pub pages: Option<u64>,
    /// How often it grows and shrinks, with HVO off and with HVO on. There is one more time before, which is not
    /// counted: it splits the huge mapping of descriptors that were never optimised.
    pub repeats: usize,
    /// Where the state file is written.
    pub state_file: PathBuf,
}

impl Options {
    /// Huge pages of `page_bytes`, and all else by default.
    #[must_use]
    pub fn new(page_bytes: u64) -> Self {
        Self { page_bytes, pages: None, repeats: 5, state_file: default_path() }
    }
}

/// How a measurement ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done.
    Measured(Measurement),
    /// This machine, or this user, cannot.
    Skipped(Skip),
}

/// What became of a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// There was none: no run was cut short.
    NoStateFile,
    /// It was written before the machine was started, which undid the changes. It was removed.
    EarlierBoot,
    /// The settings are as they were before the run that was cut short. The file was removed.
    PutBack {
        /// Whether HVO is on (`vm.hugetlb_optimize_vmemmap`).
        optimise: bool,
        /// Bytes of a huge page of the pool.
        page_bytes: u64,
        /// The node of the pool, where the kernel has nodes.
        node: Option<u32>,
        /// Pages of the pool (`nr_hugepages`).
        pages: u64,
    },
}

/// The share of the free memory that is used at most: 1/4.
const SHARE: u64 = 4;

/// Bytes of huge pages that are used where nobody says how many.
const DEFAULT_BYTES: u64 = 2 << 30;

/// Grows and shrinks a pool of huge pages, with HVO off and on, and puts everything back.
///
/// On a machine with nodes it is the pool of that node which has most free memory.
///
/// # Errors
///
/// [`Error`]. Also then the settings are back, except with [`Error::NotPutBack`]: there the state file remains for
/// [`restore`].
pub fn measure(root: &Root, options: &Options, signals: &Signals) -> Result<Outcome, Error> {
    let Some((name, free_bytes)) = choose(root, options.page_bytes)? else {
        return Ok(Outcome::Skipped(Skip::NoPool { page_bytes: options.page_bytes }));
    };
    let most = free_bytes / SHARE / options.page_bytes;
    let usual = (DEFAULT_BYTES / options.page_bytes).min(most);
    let pages = options.pages.unwrap_or(usual).max(1);
    if pages > most {
        let skip = Skip::NotEnoughMemory { page_bytes: options.page_bytes, pages, most };
        return Ok(Outcome::Skipped(skip));
    }
    let settings = match Settings::take(root, name, &options.state_file)? {
        Ok(settings) => settings,
        Err(skip) => return Ok(Outcome::Skipped(skip)),
    };
    let run = Run { root, name, settings: &settings, signals, pages };
    let measured = run.all(options.repeats);
    let left_surplus = settings.put_back()?;
    measured.map(|outcome| match outcome {
        Outcome::Measured(result) => Outcome::Measured(Measurement { left_surplus, ..result }),
        skipped @ Outcome::Skipped(_) => skipped,
    })
}

/// Puts back what the state file says, and removes it.
///
/// # Errors
///
/// [`Error`]: the file is not one that a run wrote, or the settings cannot be changed. The file stays.
pub fn restore(root: &Root, state_file: &Path) -> Result<Restored, Error> {
    let Some(state) = State::read(state_file)? else { return Ok(Restored::NoStateFile) };
    if state.boot_id != state::boot_id(root)? {
        state::remove(state_file)?;
        return Ok(Restored::EarlierBoot);
    }
    let settings = Settings::adopt(root, state, state_file)?;
    let State { optimise, page_bytes, node, pages, .. } = *settings.state();
    settings.put_back()?;
    Ok(Restored::PutBack { optimise, page_bytes, node, pages })
}

/// The pool to use, and the free memory that it can grow into.
fn choose(root: &Root, page_bytes: u64) -> Result<Option<(PoolName, u64)>, ReadError> {
    let has = |node| match pool::sizes(root, node) {
        Ok(sizes) => Ok(sizes.contains(&page_bytes)),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    };
    let mut best: Option<Node> = None;
    for number in node::numbers(root)? {
        if !has(Some(number))? {
            continue;
        }
        let node = Node::read(root, number)?;
        if best.is_none_or(|best| best.free_bytes < node.free_bytes) {
            best = Some(node);
        }
    }
    if let Some(node) = best {
        return Ok(Some((PoolName { page_bytes, node: Some(node.number) }, node.free_bytes)));
    }
    if !has(None)? {
        return Ok(None);
    }
    Ok(Some((PoolName { page_bytes, node: None }, Memory::read(root)?.free_bytes)))
}

/// A measurement under way: the settings are its own to change.
struct Run<'a> {
    root: &'a Root,
    name: PoolName,
    settings: &'a Settings<'a>,
    signals: &'a Signals,
    pages: u64,
}

impl Run<'_> {
    fn all(&self, repeats: usize) -> Result<Outcome, Error> {
        let first = match self.cycle(true) {
            // No pages of this size while the machine runs.
            Err(Error::Write { path, source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => {
                return Ok(Outcome::Skipped(Skip::NotSupported { path }));
            }
            first => first?,
        };
        let mut result = Measurement {
            page_bytes: self.name.page_bytes,
            node: self.name.node,
            pages_wanted: self.pages,
            first,
            off: Vec::with_capacity(repeats),
            on: Vec::with_capacity(repeats),
            left_surplus: 0,
        };
        for _ in 0..repeats {
            result.off.push(self.cycle(false)?);
            result.on.push(self.cycle(true)?);
        }
        if result.cycles().any(|cycle| cycle.grow.pages == 0) {
            let page_bytes = self.name.page_bytes;
            return Ok(Outcome::Skipped(Skip::NotEnoughMemory { page_bytes, pages: self.pages, most: 0 }));
        }
        Ok(Outcome::Measured(result))
    }

    /// Grows the pool and shrinks it again.
    fn cycle(&self, optimise: bool) -> Result<Cycle, Error> {
        self.settings.optimise(optimise)?;
        let before = self.settings.state().pages;
        let grow = self.sample(before.saturating_add(self.pages))?;
        let shrink = self.sample(before)?;
        Ok(Cycle { grow, shrink })
    }

    /// Sets the length of the pool, and sees what that changed.
    fn sample(&self, pages: u64) -> Result<Sample, Error> {
        let before = self.counters()?;
        let begun = Instant::now();
        self.settings.resize(pages)?;
        let seconds = begun.elapsed().as_secs_f64();
        let after = self.counters()?;
        match self.signals.seen() {
            Some(signal) => Err(Error::Interrupted { signal }),
            None => Ok(Sample {
                pages: after.pages.abs_diff(before.pages),
                seconds,
                memmap: before.memmap.zip(after.memmap).map(|(before, after)| MemmapChange {
                    boot: after.boot_pages.wrapping_sub(before.boot_pages).cast_signed(),
                    later: after.later_pages.wrapping_sub(before.later_pages).cast_signed(),
                }),
                free_bytes: after.free_bytes.wrapping_sub(before.free_bytes).cast_signed(),
            }),
        }
    }

    fn counters(&self) -> Result<Counters, ReadError> {
        Ok(Counters {
            memmap: Memmap::read(self.root)?,
            free_bytes: Memory::read(self.root)?.free_bytes,
            pages: self.name.read(self.root)?.pages,
        })
    }
}

/// What the machine tells at one moment.
struct Counters {
    memmap: Option<Memmap>,
    free_bytes: u64,
    pages: u64,
}

#[cfg(test)]
mod tests;
