// SPDX-License-Identifier: MIT OR Apache-2.0
//! The descriptor: 64 bytes for each frame.

use core::ptr::NonNull;

use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use mmkit_sync::{RefCount, mutant};

use crate::tag::Tag;

/// The descriptor of one frame: 64 bytes, aligned to 64. Linux: `struct page`.
///
/// | byte | field | in a head | in a tail |
/// |---|---|---|---|
/// | 0 | `flags` | [`PageFlags`](crate::PageFlags), node and zone | node and zone |
/// | 8 | `info` | count << 32, kind and order | order |
/// | 16 | `half` | 4 words of 4 bytes | the same, in the tails that the folio owns |
/// | 32 | `word` | 4 words of 8 bytes | the same, in the tails that the folio owns |
///
/// All bytes zero is a valid descriptor, of a frame that was not initialised. No word is ever an address, so a
/// descriptor means the same wherever it is mapped. Every word is always accessed at its own size: accesses of
/// different sizes to the same bytes are not defined by the language.
///
/// A `Page` is not an interface. What may be done to a frame depends on its state, so it is done through
/// [`PageView`](crate::PageView), [`Folio`](crate::Folio), [`Frozen`](crate::Frozen) and [`Free`](crate::Free).
///
/// ```compile_fail,E0616
/// fn forge(page: &mmkit_page::Page) {
///     let _ = &page.info; // no word can be reached around the states
/// }
/// ```
///
/// And none can be made but of zeroes, or copied:
///
/// ```compile_fail,E0277
/// fn copy(page: &mmkit_page::Page) -> mmkit_page::Page {
///     mmkit_page::Page::clone(page)
/// }
/// ```
#[repr(C, align(64))]
pub struct Page {
    pub(crate) flags: AtomicU64,
    pub(crate) info: RefCount,
    pub(crate) half: [AtomicU32; Self::HALVES],
    pub(crate) word: [AtomicU64; Self::WORDS],
    #[cfg(mmkit_loom)]
    writable: core::sync::atomic::AtomicBool,
}

impl Page {
    /// Words of 4 bytes that a descriptor has beside its flags and its info.
    pub const HALVES: usize = 4;
    /// Words of 8 bytes that a descriptor has beside its flags and its info.
    pub const WORDS: usize = 4;

    /// A descriptor that was not initialised: all bytes zero.
    #[cfg(not(mmkit_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            flags: AtomicU64::new(0),
            info: RefCount::new(0, 0),
            half: [const { AtomicU32::new(0) }; Self::HALVES],
            word: [const { AtomicU64::new(0) }; Self::WORDS],
        }
    }

    /// A descriptor that was not initialised. Not `const` under loom, whose atomics register themselves.
    #[cfg(mmkit_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            flags: AtomicU64::new(0),
            info: RefCount::new(0, 0),
            half: core::array::from_fn(|_| AtomicU32::new(0)),
            word: core::array::from_fn(|_| AtomicU64::new(0)),
            writable: core::sync::atomic::AtomicBool::new(true),
        }
    }

    /// The tag and the count in one load, ordered before every later load of the descriptor.
    ///
    /// A Relaxed load of 8 bytes and a fence: all that the language defines on memory that may be mapped read-only.
    #[inline]
    pub(crate) fn snapshot(&self) -> (Tag, u32) {
        let info = self.info.load();
        // pairs with the Release of `RefCount::put`, `unfreeze` and `store_unique`: what was written to the descriptor
        // before it got this tag is seen by whoever saw the tag.
        mutant!("page-snapshot-no-fence", fence(Ordering::Acquire), ());
        (Tag::from_bits(info.tag), info.count)
    }

    /// Sets every word beside flags and info to zero.
    pub(crate) fn clear_words(&self) {
        self.written();
        for half in &self.half {
            half.store(0, Ordering::Relaxed);
        }
        for word in &self.word {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a write. Under loom a write to a descriptor that was made read-only fails the model, as it would fault.
    #[inline(always)]
    pub(crate) fn written(&self) {
        #[cfg(mmkit_loom)]
        assert!(
            self.writable.load(core::sync::atomic::Ordering::Relaxed),
            "a descriptor that is mapped read-only was written"
        );
    }

    /// Makes the descriptor read-only, until it has [memory of its own](Self::write_unprotect) again.
    #[cfg(mmkit_loom)]
    pub fn write_protect(&self) {
        self.writable.store(false, core::sync::atomic::Ordering::Relaxed);
        self.info.write_protect(true);
    }

    /// Undoes [`write_protect`](Self::write_protect).
    #[cfg(mmkit_loom)]
    pub fn write_unprotect(&self) {
        self.writable.store(true, core::sync::atomic::Ordering::Relaxed);
        self.info.write_protect(false);
    }

    /// The descriptor behind `page`.
    ///
    /// # Safety
    ///
    /// `page` points to a descriptor that stays readable for `'a`.
    #[inline]
    pub(crate) unsafe fn from_ptr<'a>(page: NonNull<Self>) -> &'a Self {
        // SAFETY: readable for 'a by the caller's promise; all fields are atomics, so a shared reference is all that
        // is ever made, and it may alias any other.
        unsafe { page.as_ref() }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(mmkit_loom))]
mod layout {
    use super::Page;
    use core::mem::{align_of, offset_of, size_of};
    use static_assertions::{assert_impl_all, assert_not_impl_any, const_assert_eq};

    const_assert_eq!(size_of::<Page>() as u64, mmkit_addr::DESCRIPTOR_BYTES);
    const_assert_eq!(align_of::<Page>(), 64);
    const_assert_eq!(offset_of!(Page, flags), 0);
    const_assert_eq!(offset_of!(Page, info), 8);
    const_assert_eq!(offset_of!(Page, half), 16);
    const_assert_eq!(offset_of!(Page, word), 32);
    assert_impl_all!(Page: Send, Sync);
    assert_not_impl_any!(Page: Copy, Clone);
}
