// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocols inside, for the models of `tests/loom_*.rs`. Exists in builds for the model checker only.

use mmkit_addr::Pfn;
use mmkit_sync::atomic::AtomicU64;

use crate::TailSlot;
use crate::bitmap::Bitmap;

/// [`TailSlot`]: becomes a user of the tails, if there are any.
pub fn join(slot: &TailSlot) -> Option<Pfn> {
    slot.join(1).expect("a few users")
}

/// [`TailSlot`]: offers tails, with one user; whether they are the ones.
pub fn publish(slot: &TailSlot, first: Pfn) -> bool {
    slot.publish(first, 1).expect("one user")
}

/// [`TailSlot`]: ends one use; the last one gets the tails.
pub fn leave(slot: &TailSlot) -> Option<Pfn> {
    slot.leave(1)
}

/// The presence bitmap of a section: sets bit 0.
pub fn set(words: &[AtomicU64]) {
    Bitmap(words).set(0..1);
}

/// The presence bitmap of a section: whether bit 0 is set.
pub fn contains(words: &[AtomicU64]) -> bool {
    Bitmap(words).contains(0)
}
