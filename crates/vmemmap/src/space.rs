// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trait of an address space that holds descriptors.

use core::fmt;
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

    /// Where the descriptor of `pfn` is. Lock-free.
    ///
    /// # Safety
    ///
    /// The page with the descriptor is mapped, and is not unmapped during the call.
    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>>;

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
            Self::TryAgain => f.write_str("an entry in use could not be replaced now; try again"),
        }
    }
}

impl core::error::Error for MapError {}
