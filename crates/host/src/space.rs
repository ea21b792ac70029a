// SPDX-License-Identifier: MIT OR Apache-2.0
//! A range of this process's addresses that holds descriptors.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use mmkit_addr::{DESCRIPTOR_BYTES, NodeId, Order, Pfn};
use mmkit_page::Page;
use mmkit_vmemmap::{
    Backing, Behind, Exchange, MapError, Removed, SpaceUsage, TailRun, Taken, Unmapped, VmemmapSpace,
};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::extents::{Change, Extents, Mapped, Piece, Stand, pieces_of};
use crate::window::Window;
use crate::{HostError, HostFrames, MappingBudget};

/// The descriptors of frames `0..limit`, in this process: the processor's own tables resolve them, and shared tails are
/// mapped read-only for real.
///
/// Descriptor `pfn` is at `base + pfn * 64`, for ever. The range of addresses is reserved whole and costs no memory;
/// pages of it are mapped by the memory map that owns the space. What is behind a page is a frame of the
/// [`HostFrames`] that the space was made for.
///
/// A process may have only so many mappings ([`MappingBudget`]). Consecutive frames are one mapping however many, and
/// identical tails are mapped in runs as long as [`tail_frames_order`](VmemmapSpace::tail_frames_order) says. What a
/// call would need is known before anything is mapped, and refused if it is too much.
///
/// # When the kernel fails in the middle
///
/// A call that needs several mappings makes them one by one, over pages that nobody can see yet. The kernel refuses
/// some system calls before it does anything (the rest of the process has used up the mappings, say). Then those made
/// already are taken back. If even that is refused, they stay mapped, invisible, and count as mappings until something
/// else is mapped there. Out of memory half way, the kernel may leave addresses unmapped; they are reserved anew, or
/// never used again if another thread was given them first. What happened is read from `/proc/self/maps`; where that
/// cannot be read, the worst is assumed.
///
/// Cost: a lock for each call that changes mappings; one system call for each mapping made, one for each range unmapped.
/// `descriptor` takes no lock: it is arithmetic and a comparison. Source: ours. (Linux: `vmemmap`, the kernel's range of
/// the same purpose; `vmemmap_populate`.)
pub struct HostSpace {
    window: Window,
    limit: u64,
    tails: Order,
    budget: MappingBudget,
    extents: Mutex<Extents>,
}

impl HostSpace {
    /// A space for the descriptors of frames `0..limit`, made of the frames of `frames`.
    ///
    /// Identical tails should come in runs of `2^tails` frames: see [`tail_frames_order`](crate::tail_frames_order).
    /// The space takes at most `budget.mappings()` mappings: see [`mapping_budget`](crate::mapping_budget).
    ///
    /// # Errors
    ///
    /// [`HostError`] where `limit` is 0 or the process has not that much address space.
    pub fn new(
        frames: &HostFrames,
        limit: u64,
        tails: Order,
        budget: MappingBudget,
    ) -> Result<Self, HostError> {
        let memory = Arc::clone(frames.memory());
        let bytes = limit.checked_mul(DESCRIPTOR_BYTES).filter(|&bytes| bytes > 0);
        let pages = bytes.ok_or(HostError::Size { frames: limit })?.div_ceil(1 << memory.shift());
        let window = Window::reserve(memory, pages)?;
        let extents = Mutex::new(Extents::new(pages, window.marker()));
        Ok(Self { window, limit, tails, budget, extents })
    }

    /// The addresses that the space has, as numbers.
    #[must_use]
    pub fn addresses(&self) -> Range<usize> {
        let base = self.window.base().as_ptr().addr();
        base..base + ((self.window.pages() as usize) << self.base_shift())
    }

    /// Pages that the space has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.window.pages()
    }

    /// Whether page `page` of the space is mapped. Takes the lock: for checks, not for lookups.
    #[must_use]
    pub fn is_mapped(&self, page: u64) -> bool {
        page < self.pages() && self.extents.lock().all_mapped(page..page + 1).is_ok()
    }

    /// Mappings that the space takes now, the vacant ranges between the mapped ones included. An upper bound: the
    /// kernel joins neighbours where their frames are consecutive by chance.
    #[must_use]
    pub fn mappings(&self) -> u64 {
        self.extents.lock().mappings()
    }

    /// Puts something else behind pages that are mapped, while others read them; what stood there is given out when
    /// the result is flushed. Linux: `vmemmap_remap_range`.
    ///
    /// It is atomic for readers, page by page: each mapping is replaced by one `mmap` over it. The kernel takes the old
    /// one away and puts the new one in place under one lock, which a page fault needs too, so that a reader gets the
    /// old frame, or waits and gets the new one. (Building aside and moving with `mremap` would do the same under the
    /// same lock, at twice the calls.)
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    ///
    /// # Aborts
    ///
    /// Where the kernel fails half way *and* refuses to put back what was there, the process is ended: others may be
    /// reading.
    ///
    /// # Safety
    ///
    /// * The caller mapped the pages. The frames of `backing` are the caller's, who leaves them to the descriptors until
    ///   the pages are unmapped or replaced again, and flushed.
    /// * Whoever reads the pages, now or later, finds in the new frames what it may rely on. So the descriptors that
    ///   anybody has a handle to read the same in both.
    /// * Nobody writes the pages during the call, and nobody writes them later if `backing` is `Tails`.
    pub unsafe fn put_over(&self, pages: Range<u64>, backing: Backing) -> Result<HostUnmapped<'_>, MapError> {
        self.check(&pages, Some(backing))?;
        if pages.is_empty() {
            return Ok(HostUnmapped::new(self, vec![]));
        }
        let mut extents = self.extents.lock();
        let was = extents.all_mapped(pages.clone()).map_err(|page| MapError::Missing { page })?;
        let change = extents.plan(pages.clone(), Some(Stand::Mapped(backing)));
        self.afford(&extents, &change)?;
        for piece in pieces_of(pages.clone(), backing) {
            // SAFETY: the pages are mapped by this window (never `Lost`, which `all_mapped` refuses), and the caller
            // promises that everybody who accesses them can do with the new frames.
            if let Err(errno) = unsafe { self.window.put(&piece) } {
                self.put_back(&extents, pages.start..piece.pages.start, piece.pages);
                return Err(os(errno));
            }
        }
        extents.apply(change);
        Ok(HostUnmapped::new(self, was))
    }

    /// Restores what the books say, after a replacement failed at the pages `failed`; those in `done` were replaced.
    fn put_back(&self, extents: &Extents, done: Range<u64>, failed: Range<u64>) {
        let old = extents.pieces(failed);
        let mut restored = self.window.holds(&old) || old.iter().all(|piece| self.window.fill(piece).is_ok());
        for piece in extents.pieces(done) {
            // SAFETY: this window replaced these pages just now; what readers could do with before the call, they
            // still can.
            restored &= unsafe { self.window.put(&piece) }.is_ok();
        }
        if !restored {
            eprintln!("mmkit-host: the kernel dropped a mapping of descriptors that may be read; giving up");
            std::process::abort();
        }
    }

    /// That the range lies in the space, and what is to stand behind it in the memory.
    fn check(&self, pages: &Range<u64>, backing: Option<Backing>) -> Result<(), MapError> {
        let inside = |first: u64, count: u64, size: u64| match first.checked_add(count) {
            Some(end) if end <= size => Ok(()),
            _ => Err(MapError::OutOfSpace { page: first.max(size), pages: size }),
        };
        let count = pages.end.saturating_sub(pages.start);
        if count == 0 {
            return Ok(());
        }
        inside(pages.start, count, self.window.pages())?;
        match backing {
            None => Ok(()),
            Some(Backing::Own { first }) => inside(first.get(), count, self.window.memory().frames()),
            Some(Backing::Tails(TailRun { first, order })) => {
                inside(first.get(), order.frames(), self.window.memory().frames())
            }
        }
    }

    /// That the process may have the mappings. A change that takes no more than there are is always fine.
    fn afford(&self, extents: &Extents, change: &Change) -> Result<(), MapError> {
        let needed = self.budget.others.saturating_add(change.mappings());
        if needed <= self.budget.limit || change.mappings() <= extents.mappings() {
            return Ok(());
        }
        Err(MapError::TooManyMappings { needed, limit: self.budget.limit })
    }

    /// Makes the books right about vacant pages over which `piece` could not be mapped.
    fn mend(&self, extents: &mut Extents, pages: Range<u64>) {
        if self.window.holds(&extents.pieces(pages.clone())) {
            return;
        }
        // The kernel left a gap, or cannot tell.
        let Some(vacant) = extents.vacant(pages.clone()) else { return };
        let stand = self.window.fill(&vacant).is_err().then_some(Stand::Lost);
        extents.set(pages, stand);
    }

    /// Takes back pages that this call mapped, and nobody has seen.
    fn take_back(&self, extents: &mut Extents, pages: Range<u64>, backing: Backing) {
        let Some(vacant) = extents.vacant(pages.clone()) else { return };
        // SAFETY: this window mapped these pages in the same call, which did not return: nobody accesses them.
        if unsafe { self.window.put(&vacant) }.is_ok() {
            return extents.set(pages, None);
        }
        let standing: Vec<Piece> = pieces_of(pages.clone(), backing).collect();
        if self.window.holds(&standing) {
            return extents.set(pages, Some(Stand::Left(backing)));
        }
        let stand = self.window.fill(&vacant).is_err().then_some(Stand::Lost);
        extents.set(pages, stand);
    }
}

fn os(errno: Errno) -> MapError {
    MapError::Os { errno: errno.raw_os_error() }
}

// SAFETY: pages are mapped to the frames that the backing names, of the memory that the window keeps alive, at
// `base + pfn * 64`, which is inside page `pfn * 64 / P`; frames of tails are mapped without write access. A range that
// is mapped or lost is refused, so no mapping that somebody may use is replaced except by `replace`, which is unsafe.
// After an error, mappings that were made are away again, or stand where by the books nothing does; the allocator is
// never called. `unmap` has removed the mapping, and the kernel all translations of it, before it returns, so before
// `flush` hands out frames. All descriptors lie in the one window. Shift and order are constants.
unsafe impl VmemmapSpace for HostSpace {
    type Unmapped<'a> = HostUnmapped<'a>;

    fn base_shift(&self) -> u32 {
        self.window.memory().shift()
    }

    fn tail_frames_order(&self) -> Order {
        self.tails
    }

    fn reaches(&self, pfn: Pfn, bytes: NonNull<u8>) -> bool {
        self.window.memory().frame(pfn.get()) == Some(bytes)
    }

    #[inline]
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        if pfn.get() >= self.limit {
            return None;
        }
        // SAFETY: below `limit` descriptors of 64 bytes, which all lie in the window; its size fits `isize`.
        Some(unsafe { self.window.base().cast::<Page>().add(pfn.get() as usize) })
    }

    #[inline]
    fn is_contiguous(&self) -> bool {
        true
    }

    unsafe fn map(&self, pages: Range<u64>, backing: Backing, _: NodeId) -> Result<(), MapError> {
        self.check(&pages, Some(backing))?;
        if pages.is_empty() {
            return Ok(());
        }
        let mut extents = self.extents.lock();
        if let Some(page) = extents.first_taken(pages.clone()) {
            return Err(MapError::Occupied { page });
        }
        let change = extents.plan(pages.clone(), Some(Stand::Mapped(backing)));
        self.afford(&extents, &change)?;
        for piece in pieces_of(pages.clone(), backing) {
            // SAFETY: the pages are this window's, and vacant: nobody accesses them.
            if let Err(errno) = unsafe { self.window.put(&piece) } {
                self.mend(&mut extents, piece.pages.clone());
                self.take_back(&mut extents, pages.start..piece.pages.start, backing);
                return Err(os(errno));
            }
        }
        extents.apply(change);
        Ok(())
    }

    unsafe fn unmap(&self, pages: Range<u64>) -> Result<HostUnmapped<'_>, MapError> {
        self.check(&pages, None)?;
        let mut extents = self.extents.lock();
        let was = match pages.is_empty() {
            true => vec![],
            false => extents.all_mapped(pages.clone()).map_err(|page| MapError::Missing { page })?,
        };
        let Some(vacant) = extents.vacant(pages.start..pages.end.max(pages.start)) else {
            return Ok(HostUnmapped::new(self, was));
        };
        let change = extents.plan(pages.clone(), None);
        self.afford(&extents, &change)?;
        // SAFETY: the pages are mapped by this window (never `Lost`, which `all_mapped` refuses), and the caller
        // promises that nobody uses a descriptor in them any more.
        if let Err(errno) = unsafe { self.window.put(&vacant) } {
            if self.window.holds(&extents.pieces(pages.clone())) {
                return Err(os(errno));
            }
            // Nothing at all is mapped there any more, which was the point, if it can be reserved anew. Otherwise
            // nobody knows what is: the frames leak.
            if self.window.fill(&vacant).is_err() {
                extents.set(pages, Some(Stand::Lost));
                return Err(os(errno));
            }
            extents.set(pages, None);
        } else {
            extents.apply(change);
        }
        Ok(HostUnmapped::new(self, was))
    }

    fn replaces(&self) -> bool {
        true
    }

    unsafe fn replace(
        &self,
        pages: Range<u64>,
        _: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), MapError> {
        let mut at = pages.start;
        while at < pages.end {
            let (count, backing) = exchange.next();
            let part = at..pages.end.min(at.saturating_add(count));
            // SAFETY: the caller's promise covers every part of the range.
            match unsafe { self.put_over(part.clone(), backing) } {
                Ok(old) => {
                    for (old, backing) in old.was {
                        let what = match backing {
                            Backing::Own { first } => Taken::Own { first },
                            Backing::Tails(_) => Taken::Tails,
                        };
                        exchange.removed(Removed { page: old.start, pages: old.end - old.start, what });
                    }
                }
                Err(error) => {
                    if let Backing::Own { first } = backing {
                        exchange.unused(first, count);
                    }
                    return Err(error);
                }
            }
            at = part.end;
        }
        Ok(())
    }

    unsafe fn put_back(&self, removed: Removed) -> Result<(), (Removed, MapError)> {
        let Taken::Own { first } = removed.what else { return Ok(()) };
        let pages = removed.page..removed.page + removed.pages;
        // SAFETY: the caller's promise; the frames that stand there now are the caller's to keep.
        match unsafe { self.put_over(pages, Backing::Own { first }) } {
            Ok(_) => Ok(()),
            Err(error) => Err((removed, error)),
        }
    }

    fn behind(&self, page: u64) -> Behind {
        let found = match page < self.pages() {
            true => self.extents.lock().all_mapped(page..page + 1).ok(),
            false => None,
        };
        match found.and_then(|found| found.first().map(|&(_, backing)| backing)) {
            Some(Backing::Own { first }) => Behind::Own(first),
            Some(Backing::Tails(run)) => {
                // A run is a range of frames, checked when it was mapped.
                Behind::Tails(run.first.checked_add(page % run.order.frames()).unwrap_or(run.first))
            }
            None => Behind::Nothing,
        }
    }

    fn runs(&self, pages: Range<u64>, each: &mut dyn FnMut(u64, u64, Behind)) {
        if self.check(&pages, None).is_err() || pages.is_empty() {
            return;
        }
        // Not under the lock: `each` may ask the space.
        let found = self.extents.lock().all_mapped(pages);
        for (pages, backing) in found.into_iter().flatten() {
            match backing {
                Backing::Own { first } => each(pages.start, pages.end - pages.start, Behind::Own(first)),
                Backing::Tails(_) => pages.for_each(|page| each(page, 1, self.behind(page))),
            }
        }
    }

    /// Nothing: the tables are the kernel's. See [`page_table_bytes`](crate::page_table_bytes) for those.
    fn usage(&self) -> SpaceUsage {
        SpaceUsage::default()
    }
}

impl Drop for HostSpace {
    fn drop(&mut self) {
        let mut at = 0;
        for lost in self.extents.get_mut().lost() {
            // SAFETY: not lost, so the window's; the space is being dropped, so nobody accesses it any more.
            unsafe { self.window.remove(at..lost.start) };
            at = lost.end;
        }
        // SAFETY: as above.
        unsafe { self.window.remove(at..self.window.pages()) };
    }
}

impl fmt::Debug for HostSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostSpace({:#x} pages, {} mappings)", self.pages(), self.mappings())
    }
}

/// Pages that a [`HostSpace`] does not map any more; the frames that stood behind them are in here.
///
/// The kernel made every processor forget the translations when it took the mapping away, so
/// [`flush`](Unmapped::flush) only gives the frames out. Dropped without it, they leak.
#[must_use = "the frames leak unless this is flushed"]
#[derive(Debug)]
pub struct HostUnmapped<'a> {
    _space: &'a HostSpace,
    was: Vec<Mapped>,
}

impl<'a> HostUnmapped<'a> {
    fn new(space: &'a HostSpace, was: Vec<Mapped>) -> Self {
        Self { _space: space, was }
    }
}

impl Unmapped for HostUnmapped<'_> {
    fn flush(self, release: &mut dyn FnMut(u64, Backing)) {
        for (pages, backing) in self.was {
            release(pages.end - pages.start, backing);
        }
    }
}

#[cfg(test)]
mod tests;
