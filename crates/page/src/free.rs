// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator's hold on a free block.

use core::fmt;
use core::mem;

use mmkit_addr::{Order, Pfn};
use mmkit_sync::atomic::{AtomicU32, AtomicU64};

use crate::block::Block;
use crate::tag::Tag;
use crate::{Frozen, MemMap, Page, Place, Reason, Refused};

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
/// fn words<M: MemMap>(frozen: &Frozen<'_, M>) {
///     let _ = frozen.words();
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

impl<'m, M: MemMap> Free<'m, M> {
    /// For a free block that was just taken.
    pub(crate) fn new(block: Block<'m, M>) -> Self {
        Self { block }
    }

    /// The map that the handle comes from.
    #[must_use]
    pub fn map(&self) -> &'m M {
        self.block.map
    }

    /// The first frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.block.pfn
    }

    /// log2 of the number of frames. Linux keeps it in `page->private` of a `PageBuddy`.
    #[must_use]
    pub fn order(&self) -> Order {
        self.block.order()
    }

    /// Node and zone.
    #[must_use]
    pub fn place(&self) -> Place {
        self.block.place()
    }

    /// Whether the block is still the compound it was, or was populated as. Only its unprepped parts can be split.
    #[must_use]
    pub fn is_compound(&self) -> bool {
        self.block.tag().is_compound()
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

    /// Takes the block out of the allocator's hands. Its words are cleared.
    ///
    /// Cost: 56 bytes written, no atomic read-modify-write.
    pub fn allocate(self) -> Frozen<'m, M> {
        let block = self.into_block();
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
        let tag = self.block.tag();
        if tag.is_compound() {
            return Err(Refused::new(self, Reason::Compound { order: tag.order() }));
        }
        let Some(order) = tag.order().get().checked_sub(1).and_then(Order::new) else {
            return Err(Refused::new(self, Reason::SingleFrame));
        };
        let buddy = self.pfn().checked_add(order.frames());
        // SAFETY: the upper half is part of this block, whose handle keeps its descriptors in place, and then its own.
        let Some(upper) = buddy.and_then(|pfn| unsafe { Block::new(self.block.map, pfn) }) else {
            return Err(Refused::new(self, Reason::Absent));
        };
        let half = Tag::head(order).with_free(true);
        upper.page().clear_words();
        upper.retag(half);
        self.block.retag(half);
        Ok((self, Self { block: upper }))
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
            && self.block.map.descriptor(other.pfn()) == Some(other.block.descriptor());
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
    /// `pfn` was returned by `into_raw` of a block of the same `map`, each call of `into_raw` is undone at most once,
    /// and the caller orders the two (by the lock of its lists, say).
    #[must_use]
    pub unsafe fn from_raw(map: &'m M, pfn: Pfn) -> Option<Self> {
        // SAFETY: the handle that `into_raw` forgot keeps the descriptors in place.
        let block = unsafe { Block::new(map, pfn) }?;
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
