// SPDX-License-Identifier: MIT OR Apache-2.0
//! A frame allocator for tests: real memory, checks on its users, failures on demand.
//!
//! Code that takes frames and gives them back goes wrong in a few ways: it frees twice, at the wrong order, or never; it
//! uses a frame that it gave back; it forgets what it took when the third of five allocations fails. [`TestFrames`] is
//! an allocator, and the direct map of its frames, that notices each of these as a [`Violation`] or a leak, and that
//! makes any allocation fail on demand, so that a test can fail each one in turn.
//!
//! * *A machine* is a [`TestConfig`]: ranges of frame numbers, with nodes and zones, any distance apart.
//! * *Memory* is poisoned: [`POISON_FREE`] in free frames, [`POISON_FRESH`] in new ones that were not asked to be zero.
//!   A free frame that no longer holds its poison was written by somebody.
//! * *Failures*: [`fail_nth`](TestFrames::fail_nth), [`fail_every`](TestFrames::fail_every),
//!   [`set_budget`](TestFrames::set_budget), [`set_node_budget`](TestFrames::set_node_budget); and
//!   [`for_each_failure`](TestFrames::for_each_failure), which runs an operation with its first, second, .. allocation
//!   failing and checks that it leaves nothing behind.
//! * *Balance*: [`snapshot`](TestFrames::snapshot) is what is out, [`contents`](TestFrames::contents) what is in it,
//!   [`stats`](TestFrames::stats) the counters.
//!
//! # Example
//!
//! An operation that takes two blocks, or none:
//!
//! ```
//! use mmkit_addr::{Order, Pfn};
//! use mmkit_frame::test_util::{Sweep, TestFrames};
//! use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Frames, Request};
//!
//! fn pair<A: FrameAllocator, D: DirectMap>(frames: &Frames<A, D>) -> Result<[Pfn; 2], AllocError> {
//!     let first = frames.allocate_owned(Request::new(Order::ZERO))?;
//!     let second = frames.allocate_owned(Request::new(Order::ZERO))?; // on error, `first` goes back
//!     Ok([first.release(), second.release()])
//! }
//!
//! let t = TestFrames::with_frames(64);
//! let frames = t.frames();
//! let sweep = t.for_each_failure(|_| {
//!     for pfn in pair(&frames)? {
//!         // SAFETY: `pair` took it at this order, and nobody uses it.
//!         unsafe { frames.deallocate(pfn, Order::ZERO) };
//!     }
//!     Ok::<_, AllocError>(())
//! });
//! assert_eq!(sweep, Sweep { refused: 2, survived: 0 });
//! t.assert_no_leaks();
//! ```

mod config;
mod faults;
mod frames;
mod intervals;
mod memory;
mod snapshot;
mod state;
mod sweep;
mod violation;

pub use config::{TestConfig, TestRange};
pub use frames::{Outstanding, POISON_FREE, POISON_FRESH, TestFrames};
pub use snapshot::{Changes, Contents, Snapshot};
pub use state::Stats;
pub use sweep::Sweep;
pub use violation::{Violation, ViolationKind};
