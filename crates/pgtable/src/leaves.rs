// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaves side by side, told as one.

use mmkit_addr::{Level, Pfn, PfnRange, VirtAddr, VirtRange};
use mmkit_sync::atomic::AtomicU64;

use crate::node::{Node, Span, load};
use crate::shape::named;
use crate::{Entry, Prot, Slot, TableEnv, Tables, Target};

/// Leaves of one level that follow each other, map frames that follow each other, and allow the same: as many as there
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// The first address.
    pub va: VirtAddr,
    /// Their level.
    pub level: Level,
    /// Their frames.
    pub frames: PfnRange,
    /// What they allow.
    pub prot: Prot,
}

impl Leaves {
    /// The addresses, in tables whose frames have `2^base_shift` bytes.
    #[must_use]
    pub fn range(&self, base_shift: u32) -> VirtRange {
        let range = VirtRange::new(self.va, self.frames.frames() << base_shift);
        range.unwrap_or_else(|| unreachable!("{self:?} wraps"))
    }

    /// Takes `next` in if it goes on where these end.
    fn extend(&mut self, next: &Self, base_shift: u32) -> bool {
        let frames = self.frames.frames();
        let follows = self.va.checked_add(frames << base_shift) == Some(next.va)
            && self.frames.end() == next.frames.start().get()
            && (self.level, self.prot) == (next.level, next.prot);
        match PfnRange::new(self.frames.start(), frames + next.frames.frames()) {
            Some(all) if follows => {
                self.frames = all;
                true
            }
            _ => false,
        }
    }
}

/// Puts leaves together that come in pieces.
pub(crate) struct Merge {
    open: Option<Leaves>,
    base_shift: u32,
}

impl Merge {
    pub(crate) const fn new(base_shift: u32) -> Self {
        Self { open: None, base_shift }
    }

    /// Takes `next` in. What it does not continue is complete.
    #[inline]
    pub(crate) fn push(&mut self, next: Leaves) -> Option<Leaves> {
        if self.open.as_mut().is_some_and(|open| open.extend(&next, self.base_shift)) {
            return None;
        }
        self.open.replace(next)
    }

    pub(crate) const fn finish(&mut self) -> Option<Leaves> {
        self.open.take()
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// The leaf of `level` at a position.
    pub(crate) fn leaf_at(&self, level: u8, position: u64, pfn: Pfn, prot: Prot) -> Leaves {
        let frames = PfnRange::block(pfn, self.shape().leaf_order(level));
        Leaves { va: self.va(position), level: named(level), frames, prot }
    }

    /// Single frames from a position on, in one table.
    pub(crate) fn leaves_at(&self, position: u64, pfn: Pfn, count: usize, prot: Prot) -> Leaves {
        let frames = PfnRange::new(pfn, count as u64);
        // Each of them was found in an entry.
        let frames = frames.unwrap_or_else(|| unreachable!("{count} frames from {pfn:?}"));
        Leaves { va: self.va(position), level: Level::LAST, frames, prot }
    }
}

impl<'t, E: Entry, V: TableEnv> Node<'t, E, V> {
    /// Calls `each` for runs of consecutive leaves in the part `span` of a last-level table, of those that `wanted` wants:
    /// with the first one's position, the entries, and what the first one says. Stops where it returns `false`, and returns that
    /// position.
    #[inline]
    pub(crate) fn last_runs(
        &self,
        span: Span,
        wanted: impl Fn(Slot) -> Option<Target>,
        mut each: impl FnMut(u64, &'t [AtomicU64], Pfn, Prot) -> bool,
    ) -> Option<u64> {
        let decode = |cell| match wanted(E::decode(load(cell), Level::LAST)) {
            Some(Target::Leaf { pfn, prot }) => Some((pfn, prot)),
            _ => None,
        };
        for (from, cells) in self.rows(span) {
            let mut at = 0;
            while let Some(first) = cells.get(at) {
                let Some((pfn, prot)) = decode(first) else {
                    at += 1;
                    continue;
                };
                let follows = |&(cell, nth): &(&'t AtomicU64, u64)| {
                    decode(cell).is_some_and(|(next, other)| next.get() == pfn.get() + nth && other == prot)
                };
                let end = at + 1 + cells[at + 1..].iter().zip(1..).take_while(follows).count();
                let position = self.span(from + at as u64).from;
                if !each(position, &cells[at..end], pfn, prot) {
                    return Some(position);
                }
                at = end;
            }
        }
        None
    }
}
