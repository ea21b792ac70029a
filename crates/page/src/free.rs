// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator's hold on a free block.

use core::fmt;
use core::mem;

use mmkit_addr::{Order, Pfn};
use mmkit_sync::atomic::{AtomicU32, AtomicU64};

use crate::block::{Block, tell};
use crate::tag::Tag;
use crate::{Frozen, MemMap, Page, Reason, Refused};

/// The one handle to a free block. It belongs to an allocator, and so do the descriptor's words.
///
/// While a frame is free its descriptor has 48 bytes that nobody else reads or writes: list links, the time it was
/// freed, what the allocator likes. [`Free::allocate`] takes them back, so a frame in use cannot be corrupted by the
/// allocator, nor its lists by the frame's user:
///
/// ```compile_fail,E0505
/// # use mmkit_page::{Free, MemMap};
/// # use mmkit_sync::atomic::Ordering;
/// fn linked<M: MemMap>(free: Free<'_, M>) {
///     let link = &free.words()[0];
///     let frozen = free.allocate(); // moves the block out from under `link`
///     link.store(1, Ordering::Relaxed);
/// }
/// ```
///
/// A frame in use has no private words:
///
/// ```compile_fail,E0599
/// # use mmkit_page::{Frozen, MemMap};
/// fn halves<M: MemMap>(frozen: &Frozen<'_, M>) {
///     let _ = frozen.halves();
/// }
/// ```
///
/// Dropping the handle lets the block rest ("parked"): it stays free, keeps its words, and
/// [`MemMap::claim`] finds it. An allocator that serialises access by a lock of its own saves that compare-exchange
/// with [`Free::into_raw`] and [`Free::from_raw`].
#[must_use = "dropping a free block lets it rest, for anyone to claim"]
pub struct Free<'m, M: MemMap> {
    block: Block<'m, M>,
}

tell!(Free);

impl<'m, M: MemMap> Free<'m, M> {
    /// For a free block that was just taken.
    pub(crate) fn new(block: Block<'m, M>) -> Self {
        Self { block }
    }

    /// The allocator's four words of 4 bytes.
    #[must_use]
    pub fn halves(&self) -> &[AtomicU32; Page::HALVES] {
        &self.block.page().half
    }

    /// The allocator's four words of 8 bytes.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; Page::WORDS] {
        &self.block.page().word
    }

    /// Takes the block out of the allocator's hands. Its words are cleared, and what its former user left of flags in the
    /// tails of a compound.
    ///
    /// Cost: 56 bytes written, no atomic read-modify-write; of a compound whose tails had flags, 8 bytes for each frame.
    pub fn allocate(self) -> Frozen<'m, M> {
        let block = self.into_block();
        block.clear_tail_flags();
        block.page().clear_words();
        block.retag(block.tag().with_free(false));
        Frozen::new(block)
    }

    /// Splits the block into its two halves, lower first.
    ///
    /// # Errors
    ///
    /// The block, unchanged: of one frame, or a compound.
    ///
    /// Cost: 72 bytes written in the upper half's first descriptor, 8 in the lower's.
    pub fn split(self) -> Result<(Self, Self), Refused<Self>> {
        match self.block.split(|order| Tag::head(order).with_free(true)) {
            Ok((lower, upper)) => {
                let _ = self.into_block();
                Ok((Self { block: lower }, Self { block: upper }))
            }
            Err(reason) => Err(Refused::new(self, reason)),
        }
    }

    /// Joins two halves of one block. The words of the lower stay, those of the upper are lost.
    ///
    /// # Errors
    ///
    /// Both, unchanged and in the order of the call: of different orders, not neighbours in one naturally aligned block, of different places or
    /// maps, or a compound.
    ///
    /// Cost: two words written.
    pub fn merge(self, other: Self) -> Result<Self, Refused<(Self, Self)>> {
        let joined = match self.joined_order(&other) {
            Ok(joined) => joined,
            Err(reason) => return Err(Refused::new((self, other), reason)),
        };
        let (lower, upper) = if self.pfn() < other.pfn() { (self, other) } else { (other, self) };
        // From now on a frame inside the lower block, which nobody can get at.
        upper.into_block().retag(Tag::INSIDE_BLOCK);
        lower.block.retag(Tag::head(joined).with_free(true));
        Ok(lower)
    }

    /// The order of the block of which these two are the halves.
    fn joined_order(&self, other: &Self) -> Result<Order, Reason> {
        let (pfn, order) = (self.pfn(), self.order());
        if let Some(compound) = [self, other].into_iter().find(|block| block.is_compound()) {
            return Err(Reason::Compound { order: compound.order() });
        }
        // The other half has the same number but for one bit, and is in this map too: by its descriptor, since what
        // counts is not which reference to the map the handles were made with.
        let is_half = other.order() == order
            && other.pfn().get() == pfn.get() ^ order.frames()
            && self.block.shares_map_with(&other.block);
        if !is_half {
            return Err(Reason::NotBuddies { pfn, other: other.pfn() });
        }
        if self.place() != other.place() {
            return Err(Reason::OtherPlace { pfn, other: other.pfn() });
        }
        order.checked_add(1).ok_or(Reason::TooLarge { order })
    }

    /// Forgets the handle and keeps the block from being claimed: the allocator remembers it by its frame number.
    #[must_use = "the block is lost unless `from_raw` takes it back"]
    pub fn into_raw(self) -> Pfn {
        self.into_block().pfn
    }

    /// Takes back a block that [`into_raw`](Self::into_raw) kept.
    ///
    /// # Safety
    ///
    /// `pfn` was returned by `into_raw` of a block of the same `map`, or is the head of a block whose descriptors were
    /// written from [`Template::claimed`](crate::Template::claimed), which counts as such a call. Each call of `into_raw`
    /// is undone at most once, and the caller orders the two (by the lock of its lists, say).
    #[must_use]
    pub unsafe fn from_raw(map: &'m M, pfn: Pfn) -> Option<Self> {
        // SAFETY: the handle that `into_raw` forgot keeps the descriptors in place.
        let block = unsafe { Block::find(map, pfn) }?;
        Some(Self { block })
    }

    fn into_block(self) -> Block<'m, M> {
        mem::ManuallyDrop::new(self).block
    }
}

impl<M: MemMap> Drop for Free<'_, M> {
    fn drop(&mut self) {
        // `retag` stores with Release, which pairs with the Acquire of `claim`: whoever claims the block sees its words.
        self.block.retag(self.block.tag().with_parked(true));
    }
}

impl<M: MemMap> fmt::Debug for Free<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Free({:?}, {:?})", self.pfn(), self.block.tag())
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use core::ptr::NonNull;

    use mmkit_sync::Immovable;

    use super::*;

    /// A map of two frames, which do not have to be neighbours.
    struct Two([(Pfn, Page); 2]);

    // SAFETY: each of the two frames has a descriptor of its own, which stays where it is while the map is borrowed.
    unsafe impl MemMap for Two {
        type Counts = crate::Uncounted;
        type Read = Immovable;

        fn read_side(&self) -> &Immovable {
            &Immovable
        }

        unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
            self.0.iter().find(|(frame, _)| *frame == pfn).map(|(_, page)| NonNull::from(page))
        }
    }

    fn two(first: u64, second: u64, order: Order) -> Two {
        let frames = [first, second].map(|frame| (Pfn::new(frame).unwrap(), Page::new()));
        for (_, page) in &frames {
            page.info.store_unique(0, Tag::head(order).with_free(true).with_parked(true).bits());
        }
        Two(frames)
    }

    #[test]
    fn no_block_is_larger_than_the_largest_order() {
        let map = two(0, 1 << Order::MAX.get(), Order::MAX);
        let [low, high] = map.0.each_ref().map(|(pfn, _)| map.claim(*pfn).unwrap());
        let refused = low.merge(high).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge { order: Order::MAX });
        let (low, high) = refused.handle;
        assert_eq!((low.order(), high.order()), (Order::MAX, Order::MAX));
        assert_eq!((low.pfn(), high.pfn()), (map.0[0].0, map.0[1].0));
    }

    #[test]
    fn a_block_whose_upper_half_is_absent_stays_whole() {
        let order = Order::new(3).unwrap();
        let map = two(8, 24, order);
        let refused = map.claim(Pfn::new(8).unwrap()).unwrap().split().unwrap_err();
        assert_eq!(refused.reason, Reason::Absent);
        assert_eq!(refused.handle.order(), order);
    }

    #[test]
    fn a_tail_whose_head_is_absent_has_no_references() {
        let map = two(8, 24, Order::ZERO);
        map.0[1].1.info.store_unique(0, Tag::tail(Order::new(4).unwrap()).bits());
        let head = Pfn::new(16).unwrap();
        assert_eq!(map.try_get(map.0[1].0).unwrap_err(), crate::GetError::Absent { pfn: head });
    }
}
