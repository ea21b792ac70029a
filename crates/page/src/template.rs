// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors before they are published: eight plain words.

use core::ptr::NonNull;

use mmkit_addr::{DESCRIPTOR_BYTES, Order};

use crate::tag::Tag;
use crate::{Page, Place};

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
    #[inline]
    #[must_use]
    pub const fn base(place: Place) -> Self {
        Self::of(Tag::head(Order::ZERO).with_free(true).with_parked(true), place)
    }

    /// The first frame of a compound of `order` whose descriptors are all its own.
    #[inline]
    #[must_use]
    pub const fn head(order: Order, place: Place) -> Self {
        Self::of(Tag::head(order).with_free(true).with_parked(true).with_compound(true), place)
    }

    /// The first frame of a compound of `order` of whose descriptors only the first page is its own.
    #[inline]
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
    #[inline]
    #[must_use]
    pub const fn tail(order: Order, place: Place) -> Self {
        Self::of(Tag::tail(order), place)
    }

    /// The same head, not at rest but in the memory map's hands: as if it had claimed the block and kept it with
    /// [`Free::into_raw`](crate::Free::into_raw). [`Free::from_raw`](crate::Free::from_raw) takes it back.
    ///
    /// Tails are the same as before.
    #[inline]
    #[must_use]
    pub const fn claimed(mut self) -> Self {
        let tag = Tag::from_bits(self.0[1] as u32);
        if tag.is_parked() {
            self.0[1] = tag.with_parked(false).bits() as u64;
        }
        self
    }

    /// The same head, not at rest but in use: as if somebody had claimed the block, written `words` as its
    /// [owner](crate::Folio::owner_words), and handed it out with one reference that is kept by its frame number, as
    /// [`Folio::into_raw`](crate::Folio::into_raw) keeps it.
    ///
    /// Tails are the same as before.
    ///
    /// # Safety
    ///
    /// As for [`Folio::owner_words`](crate::Folio::owner_words).
    #[inline]
    #[must_use]
    pub const unsafe fn held(mut self, words: [u64; Page::WORDS]) -> Self {
        let tag = Tag::from_bits(self.0[1] as u32);
        if tag.is_parked() {
            self.0[1] = 1 << u32::BITS | tag.with_parked(false).with_free(false).bits() as u64;
            let [.., a, b, c, d] = &mut self.0;
            [*a, *b, *c, *d] = words;
        }
        self
    }

    #[inline]
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

    /// The same past the caches, where the processor can: for much memory that is not used at once. What is written that
    /// way need not be read first, and displaces nothing. Elsewhere it is [`fill`](Self::fill).
    ///
    /// On x86-64 these are non-temporal stores, which no later store waits for: not even the one that publishes.
    ///
    /// # Safety
    ///
    /// As [`fill`](Self::fill), and `to` is aligned to 64. Nobody, this thread included, accesses those bytes otherwise than
    /// by this method, or gives them away, before this thread has called [`finish_streams`](Self::finish_streams).
    #[inline]
    pub unsafe fn stream(&self, to: NonNull<u8>, count: usize) {
        // SAFETY: passed on to the caller.
        unsafe { stream::copies(&self.0, to.cast(), count) };
    }

    /// Ends what this thread wrote by [`stream`](Self::stream): it is ordered before everything that comes now.
    pub fn finish_streams() {
        stream::finish();
    }
}

/// Stores that go past the caches.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri)))]
mod stream {
    use core::arch::x86_64::{__m128i, _mm_set_epi64x, _mm_sfence, _mm_stream_si128};
    use core::ptr::NonNull;

    use super::Template;

    /// Words that one store writes.
    const LANES: usize = 2;
    const STORES: usize = Template::WORDS / LANES;

    /// # Safety
    ///
    /// As [`Template::stream`].
    #[inline]
    pub(super) unsafe fn copies(
        words: &[u64; Template::WORDS],
        to: NonNull<[u64; Template::WORDS]>,
        count: usize,
    ) {
        let lanes = |nth: usize| (words[nth * LANES + 1].cast_signed(), words[nth * LANES].cast_signed());
        let parts: [__m128i; STORES] = core::array::from_fn(|nth| {
            let (high, low) = lanes(nth);
            // SAFETY: SSE2 is enabled for this build.
            unsafe { _mm_set_epi64x(high, low) }
        });
        for index in 0..count {
            // SAFETY: below `count` descriptors of 64 bytes, which the caller says lie in one piece of memory.
            let descriptor = unsafe { to.add(index) }.cast::<__m128i>();
            for (nth, part) in parts.into_iter().enumerate() {
                // SAFETY: a quarter of the descriptor.
                let quarter = unsafe { descriptor.add(nth) };
                // SAFETY: SSE2 is enabled for this build; aligned to 16, since `to` is to 64; writable, and unshared until
                // `finish`, by the caller's promise.
                unsafe { _mm_stream_si128(quarter.as_ptr(), part) };
            }
        }
    }

    pub(super) fn finish() {
        // SAFETY: SSE, which SSE2 includes, is enabled for this build.
        unsafe { _mm_sfence() };
    }
}

/// Ordinary stores.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(miri))))]
mod stream {
    use core::ptr::NonNull;

    use super::Template;

    /// # Safety
    ///
    /// As [`Template::fill`].
    pub(super) unsafe fn copies(
        words: &[u64; Template::WORDS],
        to: NonNull<[u64; Template::WORDS]>,
        count: usize,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { Template(*words).fill(to.cast(), count) };
    }

    pub(super) fn finish() {}
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    #[test]
    fn streams_write_what_fills_do() {
        #[repr(align(64))]
        struct Lines([[u64; Template::WORDS]; 5]);

        let template = Template(core::array::from_fn(|nth| 0x0101_0101_0101_0101 * (nth as u64 + 1)));
        let mut lines = Lines([[7; Template::WORDS]; 5]);
        let to = NonNull::from(&mut lines.0[1]).cast();
        // SAFETY: three lines of the array, aligned to 64, that nobody accesses before the call below.
        unsafe { template.stream(to, 3) };
        Template::finish_streams();
        assert_eq!(lines.0, [[7; 8], template.0, template.0, template.0, [7; 8]]);
    }
}
