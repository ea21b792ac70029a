// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads need to share frames: locks in a bit, counts in a word, readers that delay freeing.
//!
//! Memory management is full of objects that are found by arithmetic, without holding anything on them, and whose memory may
//! be read-only, remapped, or about to go. This crate has the protocols for that, each a type of its own, each checked by
//! loom over all interleavings of a small model, and each model shown to fail on seeded bugs.
//!
//! | to | use | costs |
//! |---|---|---|
//! | protect a word, and what hangs on it | [`BitSpinLock`] | one read-modify-write, one store |
//! | protect anything else | [`Lock`] over a [`RawLock`] | that of the lock |
//! | count references to what others look up | [`RefCount`] | one compare-exchange; one subtraction |
//! | keep something from being torn down while in use | [`LiveRef`] | one addition in a shard, one fence |
//! | read several words that belong together | [`SeqCount`] | readers: two loads |
//! | keep what readers look at from being freed | [`ReadSide`]: [`Immovable`], [`Readers`], `Epoch` | from nothing to one fence |
//! | change many words in a row | [`prefetch`] | an instruction |
//! | see what the libraries do | [`Events`] | nothing, unless observed |
//!
//! A reference to something found in a table that others may change, in the order in which these types work together:
//!
//! ```
//! use mmkit_sync::{Put, ReadSide, Readers, RefCount};
//!
//! static READERS: Readers = Readers::new();
//! static OBJECT: RefCount = RefCount::new(1, 0);
//!
//! // A lookup: inside a reader the word stays where it is, and writable while its count is above 0.
//! let reader = READERS.enter();
//! let got = OBJECT.try_get(1, |tag| tag == 0);
//! drop(reader);
//! assert_eq!(got, Ok(0));
//! // From here on the reference keeps the object.
//! assert_eq!(OBJECT.put(1), Ok(Put::Held));
//!
//! // The owner, holding the only reference: no new references, then no lookup in flight. Now it may go.
//! assert_eq!(OBJECT.freeze(1), Ok(0));
//! assert_eq!(READERS.synchronize(), Ok(()));
//! ```
//!
//! # Orderings
//!
//! Each type says which of its operations acquire and release, and which only count. No operation is a full
//! barrier unless it says so. Where two threads each write one thing and look at another ("store buffering"), both
//! need `atomic::fence(SeqCst)` in between. `docs/memory-model.md` numbers the claims and names the model of each.
//!
//! # Features
//!
//! None by default: no `std`, no `alloc`.
//!
//! * `epoch`: `Epoch`, a read side over crossbeam-epoch. Needs `std`.
//! * `count-atomics`: the facade's atomics count their read-modify-writes. For tests; needs `std`.
//! * `lock_api`: `LockApi`, any `lock_api::RawMutex` (0.4) as a [`RawLock`].
//!
//! Built with `--cfg mmkit_loom`, the [`atomic`] facade is loom's, and [`mutant!`] can choose seeded bugs.
#![no_std]

#[cfg(any(test, mmkit_loom, feature = "epoch"))]
extern crate std;

#[macro_use]
mod macros;

pub mod atomic;
pub mod mutant;

mod bit_lock;
#[cfg(feature = "epoch")]
mod epoch;
mod events;
mod live;
mod lock;
mod prefetch;
mod raw_lock;
mod read_side;
mod readers;
mod refcount;
mod seq;
mod spin;

pub use bit_lock::{BitGuard, BitSpinLock};
#[cfg(feature = "epoch")]
pub use epoch::{Epoch, EpochGuard};
pub use events::{Counter, Event, Events, Tally};
pub use live::{LiveGuard, LiveRef, Shard, Shards, StillHeld};
pub use lock::{Lock, LockGuard};
pub use prefetch::prefetch;
#[cfg(feature = "lock_api")]
pub use raw_lock::LockApi;
pub use raw_lock::{RawLock, SpinLock};
pub use read_side::{Deferred, Immovable, InsideReader, ReadSide};
pub use readers::{ReaderGuard, Readers};
pub use refcount::{Counted, GetError, Put, RefCount, Underflow};
pub use seq::{SeqCount, SeqSample, SeqWriter};
pub use spin::{Spin, SpinEnv};
