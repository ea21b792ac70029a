// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors of reserved frames, written without the lock.

use core::num::NonZeroU64;
use core::ptr::NonNull;

use mmkit_addr::{DESCRIPTOR_BYTES, Order};
use mmkit_page::Template;

use crate::content::Content;
use crate::{Behind, Vmemmap, VmemmapEnv, VmemmapSpace};

/// Compounds whose pages are looked up together: with 4K pages, and eight of them for a compound's descriptors, those of one
/// table.
const HEADS: usize = 64;

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Writes the descriptors of `content`, and what stands in those that an altmap sets aside. How many of the former were
    /// written: of compounds that share their tails, those of each one's own page.
    ///
    /// # Safety
    ///
    /// The frames are reserved, and stay so during the call, in which nobody else writes them.
    pub(super) unsafe fn write_reserved(&self, content: &Content) -> u64 {
        let pages = self.pages_of(content.asked);
        let finish = Finish;
        let mut written = 0;
        let mut write = |page: u64, memory: Option<NonNull<u8>>| {
            let Some(memory) = memory else { return };
            // SAFETY: the memory behind `page`, which stays there while frames with descriptors in it are reserved.
            written += unsafe { self.write_into(content, page, memory) };
        };
        if content.shared {
            let step = self.pages_of_compound(content.order);
            let heads = pages.start.next_multiple_of(step.get())..pages.end;
            // Looked up together, so that one entry is not waited for after the other.
            let mut found = [(0, None); HEADS];
            let mut count = 0;
            self.space.every(heads, step, &mut |page, behind| {
                found[count] = (page, self.memory_behind(page, behind));
                count += 1;
                if count == HEADS {
                    found.iter().for_each(|&(page, memory)| write(page, memory));
                    count = 0;
                }
            });
            found[..count].iter().for_each(|&(page, memory)| write(page, memory));
        } else {
            self.space.runs(pages, &mut |first, count, behind| match behind {
                Behind::Own(frame) => {
                    for nth in 0..count {
                        let frame = frame.checked_add(nth);
                        write(first + nth, frame.and_then(|frame| self.frames().frame(frame)));
                    }
                }
                behind => write(first, self.memory_behind(first, behind)),
            });
        }
        drop(finish);
        written
    }

    /// The pages of a compound that is large enough to share some.
    fn pages_of_compound(&self, order: Order) -> NonZeroU64 {
        let pages = order.frames() >> self.page_order().get();
        NonZeroU64::new(pages).unwrap_or(NonZeroU64::MIN)
    }

    /// The memory behind a page that holds reserved descriptors, where it may be written.
    fn memory_behind(&self, page: u64, behind: Behind) -> Option<NonNull<u8>> {
        match behind {
            Behind::Own(frame) => self.frames().frame(frame),
            Behind::Unknown => {
                let first = self.frames_of(page).start();
                // SAFETY: the page is mapped, and not unmapped while frames with descriptors in it are reserved.
                unsafe { self.space.descriptor(first) }.map(NonNull::cast)
            }
            Behind::Tails(_) | Behind::Nothing => None,
        }
    }

    /// Writes what `content` has in `page` into its memory. How many descriptors were written.
    ///
    /// # Safety
    ///
    /// `memory` is that of the page, and may be written. As for [`write_reserved`](Self::write_reserved) otherwise.
    unsafe fn write_into(&self, content: &Content, page: u64, memory: NonNull<u8>) -> u64 {
        let frames = self.frames_of(page);
        let Some(asked) = frames.intersection(content.asked) else { return 0 };
        let part = frames.intersection(content.range);
        // SAFETY: the first descriptor of `asked`, which lies in the page.
        let at = |pfn: mmkit_addr::Pfn| unsafe {
            memory.byte_add(((pfn.get() - frames.start().get()) * DESCRIPTOR_BYTES) as usize)
        };
        if part != Some(asked) || self.poison.is_some() {
            // SAFETY: the page has room for them; they are reserved, so nobody else accesses them.
            unsafe { self.fill_absent(at(asked.start()), asked.frames()) };
        }
        let Some(part) = part else { return 0 };
        // SAFETY: as above. The caller asks for no page that is all tails, and ends the stream before anybody gets at the
        // page's descriptors.
        unsafe { content.stream(part, at(part.start())) };
        part.frames()
    }
}

/// Ends the streams of this thread, also where the address space panics: before anybody can look anything up, or is given
/// what was written.
struct Finish;

impl Drop for Finish {
    fn drop(&mut self) {
        Template::finish_streams();
    }
}
