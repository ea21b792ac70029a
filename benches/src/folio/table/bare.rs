// SPDX-License-Identifier: MIT OR Apache-2.0
//! What counting each page costs at least: the atomics alone, on as many lines, as cold, in the same order.

use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use mmkit_addr::{Order, Pfn};
use mmkit_frame::DirectMap;

use super::ops::Op;
use super::sides::Plan;
use super::{Failure, PAGE};
use crate::arena::Arena;
use crate::clock::ThreadTime;

/// As long as a descriptor, with a count in it.
#[repr(align(64))]
struct Line {
    count: AtomicU32,
}

/// A line for each page that a side has mapped, in memory like that of the sides' descriptors.
pub(crate) struct Bare {
    memory: Arena,
    lines: u64,
}

impl Bare {
    pub(crate) fn new(plan: &Plan) -> Result<Self, Failure> {
        let lines = plan.pages * plan.pieces as u64;
        let bytes = lines * size_of::<Line>() as u64;
        Ok(Self { memory: Arena::resident(bytes.div_ceil(PAGE))?, lines })
    }

    fn lines(&self) -> &[Line] {
        let Some(first) = self.memory.frame(Pfn::ZERO) else { return &[] };
        // SAFETY: the arena is one piece of zeroed memory, at least so long, aligned to its frames and lent for as long as `self`.
        // It is not given out otherwise, and zero is a count.
        unsafe { slice::from_raw_parts(first.cast().as_ptr(), self.lines as usize) }
    }

    /// Nanoseconds per page of the atomics that a count for each page adds to `op` on the address space `piece`, in folios
    /// of `order`; `None` where it adds none.
    pub(crate) fn time(&self, plan: &Plan, piece: usize, order: Order, op: Op) -> Option<f64> {
        let pages = plan.pages as usize;
        let lines = self.lines().get(piece * pages..)?.get(..pages)?;
        let more = extra_atomics(op, order)?.saturating_sub(order.frames()) as usize;
        let start = ThreadTime::now();
        for folio in lines.chunks(order.frames() as usize) {
            for line in folio {
                line.count.fetch_sub(1, Ordering::Relaxed);
            }
            // The folio's number of mapped pages is in its second descriptor.
            for line in folio.iter().skip(1).take(more) {
                line.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Some(start.elapsed_ns() / pages as f64)
    }
}

/// Atomics that a count for each page adds to `op` on a folio of `order` that is mapped whole: one for each page, and one
/// more where pages stop being mapped. `None` where it adds none, or where the operation is about something else.
pub(crate) fn extra_atomics(op: Op, order: Order) -> Option<u64> {
    match op {
        Op::Munmap if order > Order::ZERO => Some(order.frames() + 1),
        Op::Fork if order > Order::ZERO => Some(order.frames()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mmkit_addr::{VirtAddr, VirtRange};
    use mmkit_folio::{Mapcounts, NoPageMapcount, PageMapcount, TwoSlots, Untracked};
    use mmkit_sim::{Area, World};
    use mmkit_sync::atomic::{AtomicU64, read_modify_writes};

    use super::*;

    /// Atomics of a fork and an unmap of one folio, counted where they are done.
    fn counted<C: Mapcounts>(order: Order) -> [u64; 2] {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<C>::new(4096, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        let range = VirtRange::new(VirtAddr::new(1 << 30), 4096 << order.get()).unwrap();
        space.mmap(range, Area::anonymous(order).by_ptes()).unwrap();
        space.populate(range).unwrap();
        let before = read_modify_writes();
        let child = space.fork().unwrap();
        let fork = read_modify_writes() - before;
        drop(child);
        let before = read_modify_writes();
        space.munmap(range).unwrap();
        [fork, read_modify_writes() - before]
    }

    #[test]
    fn the_extra_atomics_are_those_that_the_crates_do() {
        for order in [2, 4, 9].map(|order| Order::new(order).unwrap()) {
            let with = counted::<PageMapcount<Untracked>>(order);
            let without = counted::<NoPageMapcount<TwoSlots>>(order);
            for (op, nth) in [(Op::Fork, 0), (Op::Munmap, 1)] {
                assert_eq!(Some(with[nth] - without[nth]), extra_atomics(op, order), "{op:?}, {order:?}");
            }
        }
        assert_eq!(extra_atomics(Op::Munmap, Order::ZERO), None);
        assert_eq!(
            counted::<PageMapcount<Untracked>>(Order::ZERO),
            counted::<NoPageMapcount<TwoSlots>>(Order::ZERO)
        );
    }
}
