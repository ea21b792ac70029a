// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait of an address space that holds descriptors.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::Range;
use core::ptr::NonNull;

use mmkit_addr::{NodeId, Pfn};
use mmkit_frame::AllocError;
use mmkit_page::Page;

/// What stands behind a range of vmemmap pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Consecutive frames, one for each page of the range, written by the owner of the descriptors in them.
    Own {
        /// The frame behind the first page.
        first: Pfn,
    },
    /// The tails of one zone and order: every page of the range reads the same bytes, and nobody may write them.
    Tails(TailRun),
}

/// Consecutive frames of identical tails. A space with page tables needs one frame and maps it again and again; a
/// space that pays for every mapping asks for more ([`VmemmapSpace::tail_frames_order`]) and maps them in runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailRun {
    /// The first frame.
    pub first: Pfn,
    /// log2 of the number of frames.
    pub order: mmkit_addr::Order,
}

/// What [`VmemmapSpace::behind`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The space does not say.
    Unknown,
    /// Nothing: the page is not mapped.
    Nothing,
    /// A frame, mapped for writing.
    Own(Pfn),
    /// A frame of tails, mapped for reading only.
    Tails(Pfn),
}

/// What was taken from behind some pages by [`VmemmapSpace::replace`], and may be reached until the flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The first of the pages.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// What stood behind them.
    pub what: Taken,
}

/// See [`Removed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Consecutive frames of the memory map's, from `first` on.
    Own {
        /// The frame behind the first page.
        first: Pfn,
    },
    /// Frames of the memory map's, in a table of the space's own that names them all. They stay in it until it is
    /// [discarded](VmemmapSpace::discard).
    Table {
        /// The frame behind the first page.
        first: Pfn,
        /// The table.
        table: Pfn,
    },
    /// Tails that others may use as well.
    Tails,
}

/// Where the frames for [`VmemmapSpace::replace`] and [`VmemmapSpace::map_from`] come from, and where those go that the
/// former takes away.
pub trait Exchange {
    /// What is to stand behind the next pages, and how many of them, at least one. It is asked until all pages have
    /// something, and gives no more than that.
    fn next(&mut self) -> (u64, Backing);

    /// Those pages were replaced, and this is what stood there. Called from the lowest page up, without gaps.
    fn removed(&mut self, removed: Removed);

    /// Frames that `next` gave and that were not put behind a page: the space failed before.
    fn unused(&mut self, first: Pfn, frames: u64);
}

/// How much of the frame allocator a space has taken for itself, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Last-level tables that belong to one part of the memory map alone.
    pub leaf_tables: u64,
    /// Last-level tables that hold nothing but tails, and stand in many places.
    pub shared_tables: u64,
    /// Tables of all higher levels, and what the space needs to keep its books.
    pub upper_tables: u64,
}

/// The virtual address space that holds the descriptors: descriptor `pfn` is at byte `pfn * 64` of it.
///
/// It is divided into pages of the base page size. Pages are named by their index: page `i` holds the descriptors of
/// frames `i * P/64 .. (i + 1) * P/64`. Linux: the kernel's page tables below `vmemmap`.
///
/// The memory map calls `map` and `unmap` under its own lock, one at a time; `descriptor` at any time.
///
/// # Safety
///
/// * After `map(pages, Own { first })` returned `Ok`, and until `unmap`, `descriptor` of a frame whose descriptor lies in
///   page `pages.start + i` points into the frame `first + i`, at byte `pfn * 64` modulo the page, readable and
///   writable.
/// * After `map(pages, Tails(run))` returned `Ok`, the same holds for reading, and the bytes are those of some frame
///   of `run`. The space never writes them.
/// * Between `unmap` and the flush of its [`Unmapped`](Self::Unmapped) the frames may still be reached, through
///   translations that processors remember.
/// * An error changes nothing that a caller can see: neither mappings nor what was taken from the allocator.
/// * `descriptor` may be called by any thread, at any time, whatever is mapped and unmapped elsewhere meanwhile.
/// * Pages that are mapped are refused by `map`, and pages that are not by `unmap`.
/// * [`Unmapped::flush`] hands each page that was unmapped to its callback once, with what `map` put behind it; what
///   it hands out is not reachable through the space any more.
/// * After `map_leaf(page, first)` returned `Ok`, the same holds as after `map` of as many pages as
///   [`leaf_order`](Self::leaf_order) says, with `Own { first }`, but that a part of them can be unmapped only when
///   `split` was called for the pages at its edges. `split` changes nothing else that a caller can see.
/// * [`replace`](Self::replace), [`put_back`](Self::put_back) and [`discard`](Self::discard) do what they say. Whoever reads
///   a page meanwhile finds what stood there, or what stands there now. Until a [`flush`](Self::flush) of the page
///   begun afterwards has returned, what stood there may still be reached through stale translations; where the space
///   does not [translate](Self::translates), until every reader has left that entered before.
/// * What [`behind`](Self::behind), [`runs`](Self::runs) and [`every`](Self::every) say of a page that is mapped, and is neither unmapped nor
///   replaced meanwhile, is so, or [`Behind::Unknown`]. They may be called by any thread, at any time.
/// * [`is_contiguous`](Self::is_contiguous) is `true` only where that holds for all frames that are mapped.
/// * [`reaches`](Self::reaches) is `true` only for the memory that `map` would put behind a page.
/// * [`tail_frames_order`](Self::tail_frames_order) and [`base_shift`](Self::base_shift) never change.
pub unsafe trait VmemmapSpace {
    /// Pages that were unmapped and wait for a flush.
    type Unmapped<'a>: Unmapped
    where
        Self: 'a;

    /// log2 of the bytes of a page.
    fn base_shift(&self) -> u32;

    /// log2 of the identical frames that [`Backing::Tails`] should have. 0 unless mappings are scarce.
    fn tail_frames_order(&self) -> mmkit_addr::Order {
        mmkit_addr::Order::ZERO
    }

    /// Whether frame `pfn`, if it were mapped here, would be the memory at `bytes`.
    ///
    /// Frame numbers belong to an allocator, and a space may be put together with another one than its own. The
    /// memory map asks this of every frame before it maps it. Always `true` as provided, which is right where there is
    /// one physical memory, as in a kernel.
    fn reaches(&self, pfn: Pfn, bytes: NonNull<u8>) -> bool {
        let _ = (pfn, bytes);
        true
    }

    /// log2 of the pages that one huge leaf maps, where the space has such leaves for descriptors. Linux: `PMD_SIZE`.
    fn leaf_order(&self) -> Option<mmkit_addr::Order> {
        None
    }

    /// Maps one huge leaf at `page`, which is aligned to it, to the block of frames at `first`, which is too. Tables come
    /// from `node` where they can.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed; as provided always [`MapError::Unsupported`].
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map).
    unsafe fn map_leaf(&self, page: u64, first: Pfn, node: NodeId) -> Result<(), MapError> {
        let _ = (page, first, node);
        Err(MapError::Unsupported)
    }

    /// Makes sure that no huge leaf maps both `page - 1` and `page`: one that does is split into small ones, which map
    /// the same frames. A table for that comes from `node` where it can, and stays until the pages are unmapped.
    /// Whether one was split: then the pages must be [flushed](Self::flush) before any of them is changed.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed. As provided it does nothing, which is right where there are no huge leaves.
    ///
    /// # Safety
    ///
    /// The caller mapped the pages that are mapped there.
    unsafe fn split(&self, page: u64, node: NodeId) -> Result<bool, MapError> {
        let _ = (page, node);
        Ok(false)
    }

    /// Whether one huge leaf maps both `page - 1` and `page`.
    fn is_leaf(&self, page: u64) -> bool {
        let _ = page;
        false
    }

    /// What stands behind one page now, if it is mapped: its own frame, or the frame of tails as a run of one. Not for
    /// lookups; as provided, nothing is known.
    ///
    /// The answer means something only while nobody maps or unmaps the page.
    fn behind(&self, page: u64) -> Behind {
        let _ = page;
        Behind::Unknown
    }

    /// Calls `each` for the pages of `pages`, all of which are mapped, from the lowest up: with the first page of a run,
    /// how many pages it has, and what stands behind the first one. Behind the others of a run stand the frames that
    /// follow, or it has only one. As provided, page by page as [`behind`](Self::behind) says.
    ///
    /// Cost: where a space has tables, that of reading the entries.
    fn runs(&self, pages: Range<u64>, each: &mut dyn FnMut(u64, u64, Behind)) {
        for page in pages {
            each(page, 1, self.behind(page));
        }
    }

    /// Calls `each` for the first page of `pages` and every `step`-th after it, all of which are mapped, with what stands
    /// behind it. As provided, as [`behind`](Self::behind) says.
    fn every(&self, pages: Range<u64>, step: NonZeroU64, each: &mut dyn FnMut(u64, Behind)) {
        let mut page = pages.start;
        while page < pages.end {
            each(page, self.behind(page));
            page += step.get();
        }
    }

    /// Where the descriptor of `pfn` is. Lock-free.
    ///
    /// # Safety
    ///
    /// The page with the descriptor is mapped, and is not unmapped during the call.
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>>;

    /// Whether the descriptors of all frames that follow each other lie one behind the other in one piece of memory, and the
    /// pointer to one may be moved to the others: as in an address space that descriptors are read in. It never changes.
    fn is_contiguous(&self) -> bool {
        false
    }

    /// Maps `pages`. Tables come from `node` where they can.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    ///
    /// # Safety
    ///
    /// The frames of `backing` are the caller's, who leaves them to the descriptors until the pages are unmapped and
    /// flushed.
    unsafe fn map(&self, pages: Range<u64>, backing: Backing, node: NodeId) -> Result<(), MapError>;

    /// Maps `pages`, none of which is mapped, from the lowest up, to what `exchange` says; to many different things at the
    /// price of one call. As provided it calls [`map`](Self::map) for each.
    ///
    /// # Errors
    ///
    /// [`MapError`], and how many pages are mapped: those from the lowest up.
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map), for whatever `exchange` gives.
    unsafe fn map_from(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), (u64, MapError)> {
        let mut page = pages.start;
        while page < pages.end {
            let (count, backing) = exchange.next();
            // SAFETY: passed on to the caller.
            unsafe { self.map(page..page + count, backing, node) }.map_err(|error| {
                if let Backing::Own { first } = backing {
                    exchange.unused(first, count);
                }
                (page - pages.start, error)
            })?;
            page += count;
        }
        Ok(())
    }

    /// Unmaps `pages`, all of which are mapped. What stood behind them is given out when the result is flushed.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    ///
    /// # Safety
    ///
    /// The caller mapped the pages, and nobody uses a descriptor in them any more.
    unsafe fn unmap(&self, pages: Range<u64>) -> Result<Self::Unmapped<'_>, MapError>;

    /// Whether a descriptor's address is one that processors translate, so that it leads elsewhere when its page is
    /// replaced. Otherwise the pointer of [`descriptor`](Self::descriptor) leads to the memory itself, for as long as
    /// somebody has it: then a page's memory is given back only when readers have left. It never changes.
    fn translates(&self) -> bool {
        true
    }

    /// Whether pages of tails can be replaced by own ones, and the other way round, while they are read.
    fn replaces(&self) -> bool {
        false
    }

    /// Puts other frames behind `pages`, which are mapped and may be read meanwhile. Linux: `vmemmap_remap_range`.
    ///
    /// From the lowest page up. What was behind them goes to `exchange`, and is used again only after a
    /// [`flush`](Self::flush). No huge leaf reaches out of the range: see [`split`](Self::split).
    ///
    /// # Errors
    ///
    /// [`MapError`] where a page could not be replaced. Those for which `exchange` was told what stood there are
    /// replaced, and no others: [`put_back`](Self::put_back) undoes them.
    ///
    /// # Safety
    ///
    /// * The caller mapped the pages. The frames that `exchange` gives are the caller's, who leaves them to the
    ///   descriptors until they are replaced or unmapped, and flushed.
    /// * Descriptors that anybody has a handle to read the same before and after; nobody writes one of the pages during
    ///   the call, or later, where it becomes tails.
    unsafe fn replace(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), MapError> {
        let _ = (pages, node, exchange);
        Err(MapError::Unsupported)
    }

    /// Puts back what [`replace`](Self::replace) took from behind pages. No memory is needed.
    ///
    /// # Errors
    ///
    /// [`MapError`] where an entry could not be changed. A number of pages, from the first one up, was put back: the
    /// rest is returned.
    ///
    /// # Safety
    ///
    /// `removed` was handed out by `replace` of this space, and neither discarded nor put back since. What stands behind
    /// its pages now was put there by that call; it is the caller's again, after a flush. As for `replace` otherwise.
    unsafe fn put_back(&self, removed: Removed) -> Result<(), (Removed, MapError)> {
        Err((removed, MapError::Unsupported))
    }

    /// Takes what was removed apart: calls `give` for each run of own frames, and gives a table of the space's back.
    ///
    /// # Safety
    ///
    /// `removed` was handed out by `replace` of this space, and neither discarded nor put back since. Its pages were flushed
    /// since, and nobody can reach what stood there.
    unsafe fn discard(&self, removed: Removed, give: &mut dyn FnMut(Pfn, u64)) {
        if let Taken::Own { first } = removed.what {
            give(first, removed.pages);
        }
    }

    /// Makes every processor forget what stood behind `pages` before.
    fn flush(&self, pages: Range<u64>) {
        let _ = pages;
    }

    /// Gives back what the space had shared among pages, and no page uses any more.
    ///
    /// # Safety
    ///
    /// All pages that were replaced or put back were flushed since, and nobody can reach what stood there.
    unsafe fn reclaim(&self) {}

    /// Sets tables aside, enough to replace so many pages of tails by own frames without memory: no more and no less in all,
    /// whatever was set aside before. As provided it does nothing, which is right where there are no tables.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    fn set_aside(&self, pages: u64, node: NodeId) -> Result<(), MapError> {
        let _ = (pages, node);
        Ok(())
    }

    /// Whether fewer tables are set aside than [`set_aside`](Self::set_aside) was asked for.
    fn lacks_aside(&self) -> bool {
        false
    }

    /// Makes a frame one of the tables set aside, where those are [fewer](Self::lacks_aside) than they should be: whether
    /// it did.
    ///
    /// # Safety
    ///
    /// The frame came from the allocator that tables go back to, at order 0; it is the caller's, and nobody uses it.
    unsafe fn keep_aside(&self, frame: Pfn) -> bool {
        let _ = frame;
        false
    }

    /// What the space has taken from the frame allocator for itself.
    fn usage(&self) -> SpaceUsage;
}

/// Unmapped pages whose frames may still be reached through stale translations.
///
/// Dropped without a flush, the frames leak.
pub trait Unmapped {
    /// Makes every processor forget the translations, then hands out what stood behind the pages: `release(n, backing)`
    /// for `n` consecutive pages.
    fn flush(self, release: &mut dyn FnMut(u64, Backing));
}

/// Why pages could not be mapped or unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// No frame for a table.
    NoFrame(AllocError),
    /// A page of the range is mapped already.
    Occupied {
        /// Its index.
        page: u64,
    },
    /// A page of the range is not mapped.
    Missing {
        /// Its index.
        page: u64,
    },
    /// The range passes the end of the space.
    OutOfSpace {
        /// First page.
        page: u64,
        /// Pages that the space has.
        pages: u64,
    },
    /// The process may not have that many mappings (`vm.max_map_count`).
    TooManyMappings {
        /// Mappings that would exist.
        needed: u64,
        /// Mappings that may.
        limit: u64,
    },
    /// The operating system refused.
    Os {
        /// Its error number.
        errno: i32,
    },
    /// The space has no such leaves.
    Unsupported,
    /// The hardware could not replace an entry that is in use, now.
    TryAgain,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrame(error) => write!(f, "no frame for a table: {error}"),
            Self::Occupied { page } => write!(f, "vmemmap page {page:#x} is mapped already"),
            Self::Missing { page } => write!(f, "vmemmap page {page:#x} is not mapped"),
            Self::OutOfSpace { page, pages } => {
                write!(f, "vmemmap page {page:#x} lies past the end of the space, which has {pages:#x} pages")
            }
            Self::TooManyMappings { needed, limit } => {
                write!(f, "{needed} mappings are needed, and vm.max_map_count allows {limit}")
            }
            Self::Os { errno } => write!(f, "the operating system refused with error {errno}"),
            Self::Unsupported => f.write_str("the address space has no such leaves"),
            Self::TryAgain => f.write_str("an entry in use could not be replaced now; try again"),
        }
    }
}

impl core::error::Error for MapError {}
