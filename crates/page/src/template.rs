// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors before they are published: eight plain words.

use core::ptr::NonNull;

use mmkit_addr::{DESCRIPTOR_BYTES, Order};

use crate::Place;
use crate::tag::Tag;

/// The bytes of a descriptor that a memory map writes before anybody can look the frame up.
///
/// A map that is populated page by page writes each page of descriptors once, through the direct map, and publishes it
/// then. Descriptors are never zeroed first and initialised later: a page that is shared read-only by the tails of all
/// compounds could not be.
///
/// Heads of templates are free blocks at rest, so [`MemMap::claim`](crate::MemMap::claim) finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template([u64; Template::WORDS]);

impl Template {
    /// 64-bit words in a descriptor.
    pub const WORDS: usize = DESCRIPTOR_BYTES as usize / 8;

    /// A frame of its own: a free block of order 0.
    #[must_use]
    pub const fn base(place: Place) -> Self {
        Self::of(Tag::head(Order::ZERO).with_free(true).with_parked(true), place)
    }

    /// The first frame of a compound of `order` whose descriptors are all its own.
    #[must_use]
    pub const fn head(order: Order, place: Place) -> Self {
        Self::of(Tag::head(order).with_free(true).with_parked(true).with_compound(true), place)
    }

    /// The first frame of a compound of `order` of whose descriptors only the first page is its own.
    #[must_use]
    pub const fn head_of_shared(order: Order, place: Place) -> Self {
        Self::of(
            Tag::head(order).with_free(true).with_parked(true).with_compound(true).with_shared(true),
            place,
        )
    }

    /// Any other frame of a compound of `order`: the same for all of them.
    ///
    /// A compound has at least two frames: of order 0 there is no tail, and this is a descriptor that was not initialised.
    #[must_use]
    pub const fn tail(order: Order, place: Place) -> Self {
        Self::of(Tag::tail(order), place)
    }

    const fn of(tag: Tag, place: Place) -> Self {
        let mut words = [0; Self::WORDS];
        words[0] = place.bits();
        words[1] = tag.bits() as u64;
        Self(words)
    }

    /// The eight words, lowest address first.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        self.0
    }

    /// Writes `count` copies, from `to` up.
    ///
    /// # Safety
    ///
    /// `to` is aligned to 8 and valid for writes of `count` times 64 bytes, and nobody else accesses those.
    pub unsafe fn fill(&self, to: NonNull<u8>, count: usize) {
        let to = to.cast::<[u64; Self::WORDS]>();
        for index in 0..count {
            // SAFETY: below `count` descriptors of 64 bytes, which the caller says lie in one piece of memory.
            let descriptor = unsafe { to.add(index) };
            // SAFETY: aligned, writable and unshared by the caller's promise.
            unsafe { descriptor.write(self.0) };
        }
    }
}
