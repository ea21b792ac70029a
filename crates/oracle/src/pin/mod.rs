// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs the running kernel to pin memory, in three shapes.
//!
//! A buffer that is *registered* with an `io_uring` is pinned, to be written and for a long time, until it is unregistered
//! (`pin_user_pages_fast` with `FOLL_WRITE | FOLL_LONGTERM`). Nothing else happens then, but for one thing: where all of
//! the buffer is folios of one size, the kernel keeps one pin of each and gives the others back at once. So registering
//! is pinning each page; unregistering is unpinning each *folio*.
//!
//! A page that goes through a pipe as it is (`vmsplice`) gets a plain reference, which goes when the pipe is emptied:
//! `get_user_pages_fast` and `put_page`.
//!
//! Same memory, three [`Shape`]s: what the shapes differ by is the walk of the page tables. The shape is made with
//! `madvise` and `mprotect` on memory of this process alone; no setting of the machine is read or changed. What the kernel
//! made of it is read back, before and after, and where it is another shape nothing is measured.
//!
//! Times are of this thread's processor ([`Sample`]), so what other programs do in between does not count.
//!
//! ```no_run
//! use mmkit_oracle::pin::{Options, Outcome, Shape, measure};
//! use mmkit_oracle::Root;
//!
//! match measure(&Root::system(), &Options::new(1 << 30, Shape::Ptes), || true)? {
//!     Outcome::Measured(result) => println!("{:?} ns for each page", result.pin_ns()),
//!     Outcome::Skipped(why) => println!("skipped: {why}"),
//! }
//! # Ok::<(), mmkit_oracle::pin::Error>(())
//! ```

mod buffer;
mod error;
mod result;
mod ring;
mod splice;

use std::time::Duration;

use rustix::process::Resource;
use rustix::time::ClockId;

pub use buffer::{Mapped, Shape};
pub use error::{Error, Skip};
pub use result::{Measurement, Pins, Sample};

use self::buffer::Buffer;
use self::error::{Stop, refused};
use self::ring::Ring;
use self::splice::Pipe;
use crate::memory::{Memory, PinCounters};
use crate::root::Root;

/// Bytes of a huge folio, where the kernel has another size or none.
const USUAL_HUGE_BYTES: u64 = 2 << 20;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of memory: huge folios in whole, for the shapes that have them, and whole pages otherwise.
    pub bytes: u64,
    /// What the memory is made of.
    pub shape: Shape,
    /// Bytes that are pinned by one walk: the memory is registered in so many pieces. One piece, as far as the kernel allows
    /// (1 GiB), if not given.
    pub batch_bytes: Option<u64>,
    /// How often; there is one more time before, which is not counted.
    pub repeats: usize,
}

impl Options {
    /// `bytes` in `shape`, seven times.
    #[must_use]
    pub fn new(bytes: u64, shape: Shape) -> Self {
        Self { bytes, shape, batch_bytes: None, repeats: 7 }
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

/// Pins and unpins memory of this process, and sees how long that takes.
///
/// `go_on` is asked before each step, for a program that shows its progress or is to be interrupted.
///
/// # Errors
///
/// [`Error`]. Whatever happens, all memory is given back.
pub fn measure(root: &Root, options: &Options, mut go_on: impl FnMut() -> bool) -> Result<Outcome, Error> {
    match run(root, options, &mut go_on) {
        Ok(result) => Ok(Outcome::Measured(result)),
        Err(Stop::Skip(skip)) => Ok(Outcome::Skipped(skip)),
        Err(Stop::Error(error)) => Err(error),
    }
}

fn run(root: &Root, options: &Options, go_on: &mut dyn FnMut() -> bool) -> Result<Measurement, Stop> {
    let mut step = || if go_on() { Ok(()) } else { Err(Stop::from(Error::Stopped)) };
    let (bytes, huge) = (options.bytes, huge_bytes(root));
    let multiple = if options.shape == Shape::Base { rustix::param::page_size() as u64 } else { huge };
    let len = usize::try_from(bytes).ok().filter(|_| bytes > 0 && bytes.is_multiple_of(multiple));
    let len = len.ok_or(Skip::BadSize { bytes, multiple })?;
    let page = rustix::param::page_size() as u64;
    let batch = options.batch_bytes.unwrap_or(bytes);
    if batch == 0 || !batch.is_multiple_of(page) {
        return Err(Skip::BadSize { bytes: batch, multiple: page }.into());
    }
    let piece = usize::try_from(batch).map_or(ring::MOST_BYTES, |batch| batch.min(ring::MOST_BYTES));
    let most = Memory::available_bytes(root)? / 2;
    if bytes > most {
        return Err(Skip::NotEnoughMemory { bytes, most }.into());
    }
    let pieces = bytes.div_ceil(piece as u64);
    if pieces > ring::MOST_PIECES {
        return Err(Skip::TooManyPieces { pieces, most: ring::MOST_PIECES }.into());
    }
    let ring = Ring::new()?;
    let pipe = Pipe::new()?;
    step()?;
    let buffer = Buffer::new(len, huge as usize, options.shape)?;
    let mapped = buffer.check(options.shape)?;
    let mut samples = Vec::with_capacity(options.repeats);
    for repeat in 0..=options.repeats {
        step()?;
        let sample = sample(root, &ring, &pipe, &buffer, piece)?;
        if repeat > 0 {
            samples.push(sample);
        }
    }
    // The kernel may have changed it meanwhile, and then the figures are of something else.
    buffer.check(options.shape)?;
    Ok(Measurement { shape: options.shape, bytes, mapped, samples })
}

fn sample(root: &Root, ring: &Ring, pipe: &Pipe, buffer: &Buffer, piece: usize) -> Result<Sample, Stop> {
    let before = PinCounters::read(root)?;
    let begun = thread_time();
    let registered = ring.register(buffer, 0..buffer.bytes(), piece).map_err(|error| {
        let limit = rustix::process::getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
        let bytes = buffer.bytes() as u64;
        if error.raw_os_error() == Some(libc::ENOMEM) && limit < bytes {
            Skip::Locked { bytes, limit }.into()
        } else {
            refused("IORING_REGISTER_BUFFERS", error)
        }
    })?;
    let pin = thread_time().saturating_sub(begun);
    let between = PinCounters::read(root)?;
    let begun = thread_time();
    registered.unregister().map_err(|error| refused("IORING_UNREGISTER_BUFFERS", error))?;
    let unpin = thread_time().saturating_sub(begun);
    let after = PinCounters::read(root)?;
    let begun = thread_time();
    pipe.pass(buffer, piece).map_err(|error| refused("vmsplice", error))?;
    let get_and_put = thread_time().saturating_sub(begun);
    Ok(Sample { pin, unpin, get_and_put, pins: Pins::between(before, between, after) })
}

/// Bytes of a huge folio of this machine.
fn huge_bytes(root: &Root) -> u64 {
    let read = root.number("sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    read.ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(USUAL_HUGE_BYTES)
}

/// What this thread has used of its processor.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests;
