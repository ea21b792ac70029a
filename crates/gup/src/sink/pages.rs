// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page arrays: one word for each page, as older consumers want them.

use core::fmt;
use core::num::NonZeroU64;

use mmkit_addr::Pfn;
use mmkit_folio::Mapcounts;
use mmkit_page::MemMap;
use mmkit_sync::prefetch;

use super::sealed::Sealed;
use crate::{Dirty, Keeper, Release, Released, Run, Sink};

/// A frame in a page array: 8 bytes, and `Option<PageRef>` too, whose `None` is all zero bytes. Linux: `struct page *`.
///
/// Kept as one more than the frame number, so that frame 0 can be told from none and consecutive frames are consecutive
/// numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PageRef(NonZeroU64);

impl PageRef {
    /// The reference to `pfn`.
    #[inline]
    #[must_use]
    pub const fn new(pfn: Pfn) -> Self {
        Self(NonZeroU64::MIN.saturating_add(pfn.get()))
    }

    /// The frame.
    #[inline]
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        match Pfn::new(self.0.get() - 1) {
            Some(pfn) => pfn,
            None => Pfn::MAX,
        }
    }
}

impl fmt::Debug for PageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRef({:#x})", self.pfn().get())
    }
}

/// One entry as a number: 0 where there is none.
#[inline]
pub(crate) const fn number(page: Option<PageRef>) -> u64 {
    match page {
        Some(page) => page.0.get(),
        None => 0,
    }
}

static_assertions::const_assert_eq!(size_of::<Option<PageRef>>(), 8);

/// How many of `pages`, from the first on, are of the `frames` frames from `head` on.
#[inline]
pub(crate) fn leading_in(pages: &[Option<PageRef>], head: Pfn, frames: u64) -> usize {
    // None is 0, which is below the number of any frame, and so outside.
    let outside = |page: &Option<PageRef>| number(*page).wrapping_sub(head.get() + 1) >= frames;
    let mut inside = 0;
    for chunk in pages.chunks_exact(16) {
        // Without a branch for each, so that several are compared at a time.
        if chunk.iter().fold(false, |any, page| any | outside(page)) {
            break;
        }
        inside += chunk.len();
    }
    inside + pages[inside..].iter().take_while(|page| !outside(page)).count()
}

/// A sink that fills a page array.
pub struct Pages<'b> {
    buffer: &'b mut [Option<PageRef>],
    len: usize,
}

impl<'b> Pages<'b> {
    /// A sink that fills `buffer` from its start.
    #[must_use]
    pub fn new(buffer: &'b mut [Option<PageRef>]) -> Self {
        Self { buffer, len: 0 }
    }

    /// What was filled.
    #[must_use]
    pub fn pages(&self) -> &[Option<PageRef>] {
        &self.buffer[..self.len]
    }
}

impl Sink for Pages<'_> {
    #[inline]
    fn room(&self) -> u64 {
        (self.buffer.len() - self.len) as u64
    }

    #[inline]
    fn push(&mut self, run: Run) -> u32 {
        let slots = &mut self.buffer[self.len..];
        let frames = slots.len().min(run.frames as usize);
        // Where the next run goes: of long runs that is another page, whose translation takes a while to find.
        prefetch(slots.as_ptr().wrapping_add(frames));
        let first = run.pfn.get() + 1;
        for (slot, number) in slots[..frames].iter_mut().zip(first..) {
            *slot = NonZeroU64::new(number).map(PageRef);
        }
        self.len += frames;
        frames as u32
    }
}

impl Sealed for Pages<'_> {}

impl Keeper for Pages<'_> {
    fn is_fresh(&self) -> bool {
        self.len == 0
    }

    unsafe fn give_back<M: MemMap<Counts: Mapcounts>, D: Dirty<M>>(
        &self,
        release: &Release<'_, M, D>,
    ) -> Released {
        // SAFETY: passed on.
        unsafe { release.pages(self.pages()) }
    }
}

impl fmt::Debug for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pages()).finish()
    }
}
