// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that are pages of a file in memory.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Request};
use parking_lot::Mutex;

use crate::HostError;
use crate::blocks::Blocks;
use crate::memory::Memory;

/// An allocator of this process's own memory, and its direct map: frame `n` is page `n` of a file in memory.
///
/// The file is sparse: a frame takes memory once it is written, and gives it back when it is freed. So the capacity
/// may be far larger than the memory there is; it costs address space, and one bit for each frame. All frames are on
/// node 0, in zone 0.
///
/// Single frames come in ascending order without gaps, as long as none was freed between: what is allocated together
/// can be mapped as one piece.
///
/// A clone is the same allocator. The memory lives until the last clone, and the last [`HostSpace`](crate::HostSpace)
/// over it, is dropped. It is not for processes that fork: the child would share it.
///
/// ```
/// use mmkit_addr::Order;
/// use mmkit_frame::{Frames, Request};
/// use mmkit_host::HostFrames;
///
/// let host = HostFrames::new(1 << 20)?;
/// // SAFETY: a clone is the same frames, and only their owners touch them.
/// let frames = unsafe { Frames::new(host.clone(), host.clone()) };
/// assert_eq!(host.resident_bytes(), 0);
/// let block = frames.allocate_owned(Request::new(Order::ZERO).zeroed())?;
/// block.words(0).unwrap()[0].store(1, std::sync::atomic::Ordering::Relaxed);
/// assert_eq!(host.resident_bytes(), frames.frame_bytes() as u64);
/// drop(block);
/// assert_eq!(host.resident_bytes(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Cost: a lock for each call; one system call for each block given back, which frees its memory at once. Source: ours.
#[derive(Clone)]
pub struct HostFrames(Arc<Inner>);

struct Inner {
    memory: Arc<Memory>,
    blocks: Mutex<Blocks>,
}

impl HostFrames {
    /// Room for `capacity` frames, all of which may be out at once.
    ///
    /// # Errors
    ///
    /// [`HostError`] where the capacity is 0 or cannot be addressed, or the system has no files in memory.
    pub fn new(capacity: u64) -> Result<Self, HostError> {
        Self::with_budget(capacity, capacity)
    }

    /// Room for `capacity` frames, of which at most `budget` are out at once: allocations past it fail.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_budget(capacity: u64, budget: u64) -> Result<Self, HostError> {
        let memory = Arc::new(Memory::new(capacity)?);
        let blocks = Mutex::new(Blocks::new(capacity, budget.min(capacity)));
        Ok(Self(Arc::new(Inner { memory, blocks })))
    }

    /// Frame numbers end here.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.0.memory.frames()
    }

    /// Frames that may be out at once.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.0.blocks.lock().budget()
    }

    /// Frames that are out.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.0.blocks.lock().out()
    }

    /// Blocks that were given back although a frame of them was not out. They were ignored.
    #[must_use]
    pub fn bad_frees(&self) -> u64 {
        self.0.blocks.lock().refused()
    }

    /// Bytes of the frames that are in memory, as the operating system counts them (`st_blocks` of the file): those
    /// that were touched and not given back, free ones included that somebody read through the direct map.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.0.memory.resident_bytes()
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.0.memory
    }
}

// SAFETY: `Blocks` hands out aligned blocks that are not out, under a lock that also orders one owner after the other;
// an error changes nothing; a block is zero when handed out, because it is a hole of the file: it never was out, or
// was punched before it became available again; there is one node and one zone, and requests for others fail or, where
// another node was only preferred, fall back to it; `split` does nothing, since any aligned part that is out may be
// given back; clones share everything. Frame numbers end below `2^51`, as their bytes fit `isize`.
unsafe impl FrameAllocator for HostFrames {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let elsewhere = request.strict && request.node != NodeId::ZERO;
        if elsewhere || request.zone.is_some_and(|zone| zone.get() != 0) {
            return Err(AllocError { request });
        }
        let first = self.0.blocks.lock().take(request.order);
        first.and_then(Pfn::new).ok_or(AllocError { request })
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        if !self.0.blocks.lock().give(pfn.get(), order) {
            return;
        }
        // SAFETY: the caller promises that nobody uses the block, and it is not available to others yet.
        unsafe { self.0.memory.punch(pfn.get(), order.frames()) };
        self.0.blocks.lock().put(pfn.get(), order);
    }

    unsafe fn split(&self, _: Pfn, _: Order, _: Order) {}
}

// SAFETY: the mapping covers all frames, readable and writable, one page each, for as long as the `Arc` lives, at an
// address that does not change; the file cannot shrink, as it is sealed; its pages are initialised, with zeros at
// first; the page size is 4, 16 or 64 KiB, checked when the memory was made.
unsafe impl DirectMap for HostFrames {
    #[inline]
    fn base_shift(&self) -> u32 {
        self.0.memory.shift()
    }

    #[inline]
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        self.0.memory.frame(pfn.get())
    }
}

impl fmt::Debug for HostFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = self.0.blocks.lock();
        write!(
            f,
            "HostFrames({} of {} frames out, capacity {})",
            blocks.out(),
            blocks.budget(),
            self.capacity()
        )
    }
}
