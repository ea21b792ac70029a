// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocols inside, for the models of `tests/loom_*.rs`. Exists in builds for the model checker only.

use mmkit_addr::Pfn;
use mmkit_sync::atomic::AtomicU64;

use crate::TailSlot;
use crate::bitmap::Bitmap;
use crate::stage::Parts;

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

/// The presence bitmap of a section: sets bit 0 of word `word`.
pub fn set_in(words: &[AtomicU64], word: usize) {
    Bitmap(words).set(word as u32 * 64..word as u32 * 64 + 1);
}

/// The presence bitmap of a section: whether bit 0 of word `word` is set.
pub fn contains_in(words: &[AtomicU64], word: usize) -> bool {
    Bitmap(words).contains(word as u32 * 64)
}

/// The presence bitmap of a section: sets bit 0.
pub fn set(words: &[AtomicU64]) {
    Bitmap(words).set(0..1);
}

/// The presence bitmap of a section: whether bit 0 is set.
pub fn contains(words: &[AtomicU64]) -> bool {
    Bitmap(words).contains(0)
}

/// The parts of a stage.
pub struct Work(Parts);

impl Work {
    /// So many parts, none of which is begun.
    pub fn new(parts: u64) -> Self {
        Self(Parts::new(parts))
    }

    /// Takes a part, if one is left, does it by `write` and shows it by `show`.
    pub fn step(&self, write: impl Fn(u64), show: impl Fn(u64)) -> Option<u64> {
        self.0.step(write, show)
    }

    /// Whether all parts are done.
    pub fn is_done(&self) -> bool {
        self.0.done() == self.0.total()
    }
}
