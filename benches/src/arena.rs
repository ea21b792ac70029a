// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames to measure with: one piece of this process's memory, and the plainest allocator for it.

use std::error::Error;
use std::ptr::{self, NonNull};

use mmkit_addr::{Order, Pfn};
use mmkit_frame::{AllocError, Bare, DirectMap, FrameAllocator, Frames, Request};
use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// log2 of the bytes of a frame: the geometry that is measured is x86-64.
const SHIFT: u32 = 12;
/// Where the memory begins: as aligned as the largest block that is ever asked for.
const ALIGN: usize = 2 << 20;

/// The memory, frame 0 first, and which of it is free.
///
/// It is in huge pages where the system has some, as the memory that a kernel reaches through its direct map.
///
/// Single frames come from a stack of those given back, or else from the end of what was ever used. So what is counted
/// is what is out, and an allocation costs a lock and a load. What is at the end of the memory goes on at its beginning,
/// where that was skipped.
#[derive(Debug)]
pub(crate) struct Arena {
    /// What was mapped, and how many bytes of it.
    mapping: NonNull<u8>,
    bytes: usize,
    /// The first frame.
    base: NonNull<u8>,
    frames: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Frames from here on, up to `end`, were never used.
    next: u64,
    end: u64,
    /// Frames below this one were never used either: they come when `end` is reached.
    skipped: u64,
    /// Frames that were ever used.
    used: u64,
    free: Vec<Pfn>,
}

impl State {
    /// All of `frames` frames are free, and the first one comes first.
    fn new(first: u64, frames: u64, free: Vec<Pfn>) -> Self {
        Self { next: first, end: frames, skipped: first, used: 0, free }
    }

    fn take(&mut self, order: Order) -> Option<Pfn> {
        if order == Order::ZERO
            && let Some(pfn) = self.free.pop()
        {
            return Some(pfn);
        }
        let first = self.next.next_multiple_of(order.frames());
        let end = first + order.frames();
        if end > self.end {
            if self.skipped == 0 {
                return None;
            }
            self.use_up(self.end);
            (self.next, self.end, self.skipped) = (0, self.skipped, 0);
            return self.take(order);
        }
        self.use_up(first);
        self.used += end - first;
        self.next = end;
        Pfn::new(first)
    }

    /// Makes the frames up to `end` single ones.
    fn use_up(&mut self, end: u64) {
        self.free.extend((self.next..end).filter_map(Pfn::new));
        self.used += end - self.next;
        self.next = end;
    }

    fn give(&mut self, pfn: Pfn, order: Order) {
        self.free.extend((0..order.frames()).filter_map(|nth| pfn.checked_add(nth)));
    }
}

impl Arena {
    /// `frames` frames, none of which is in memory yet.
    pub(crate) fn new(frames: u64) -> Result<Self, Box<dyn Error>> {
        let bytes = usize::try_from(frames.max(1) << SHIFT)?.next_multiple_of(ALIGN) + ALIGN;
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping, at addresses that the system chooses.
        let mapping = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, kind) }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or("no address space")?;
        // SAFETY: less than the alignment further, and the mapping is longer than that.
        let base = unsafe { mapping.byte_add(mapping.align_offset(ALIGN)) };
        // Where the system has no huge pages to give, the memory is small pages, for both sides of every comparison.
        // SAFETY: all of what was just mapped, which nobody uses yet; advice changes no contents.
        let _ = unsafe { madvise(mapping.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        let free = Vec::with_capacity(frames as usize);
        Ok(Self { mapping, bytes, base, frames, state: Mutex::new(State::new(0, frames, free)) })
    }

    /// The same, with all of it in memory.
    pub(crate) fn resident(frames: u64) -> Result<Self, Box<dyn Error>> {
        let arena = Self::new(frames)?;
        for pfn in (0..frames).filter_map(Pfn::new) {
            let Some(byte) = arena.frame(pfn) else { continue };
            // SAFETY: the first byte of a frame that nobody has yet.
            unsafe { byte.write_volatile(0) };
        }
        Ok(arena)
    }

    /// Puts what is in memory into huge pages, as far as the system has some, whatever its setting is.
    pub(crate) fn collapse(&self) {
        let bytes = (self.frames << SHIFT) as usize / ALIGN * ALIGN;
        // SAFETY: whole huge pages of what was mapped; the call moves their contents to other memory, and changes none.
        let _ = unsafe { libc::madvise(self.base.as_ptr().cast(), bytes, libc::MADV_COLLAPSE) };
    }

    /// Frames that are out.
    pub(crate) fn out(&self) -> u64 {
        let state = self.state.lock();
        state.used - state.free.len() as u64
    }

    /// Makes it hand out frames from the first one up again, if none is out.
    pub(crate) fn rewind(&self) {
        self.rewind_to(0);
    }

    /// Makes it hand out frames from `first` up, and then those below it, if none is out.
    pub(crate) fn rewind_to(&self, first: u64) {
        let mut state = self.state.lock();
        if state.used == state.free.len() as u64 {
            let mut free = std::mem::take(&mut state.free);
            free.clear();
            *state = State::new(first.min(self.frames), self.frames, free);
        }
    }

    /// Its frames.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// The allocator and the map of its frames.
    pub(crate) fn bundle(&self) -> Frames<&Self, &Self> {
        // SAFETY: all frames are in the map. Outside this file nothing accesses one but through its owner.
        unsafe { Frames::new(self, self) }
    }

    /// The plainest environment.
    pub(crate) fn env(&self) -> Bare<&Self, &Self> {
        Bare::new(self.bundle())
    }
}

// SAFETY: a frame is out from when it leaves the stack, or `next` passes it, which it does once, until its owner puts it on the stack, all
// under a lock; blocks are aligned, and what lies before one goes to the stack, which the owner gets never. Zeroed
// requests are zeroed. Nothing is kept about blocks, so they may be given back in any parts. There is one node, and no
// zone: what insists on others is refused.
unsafe impl FrameAllocator for Arena {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        let mut out = [Pfn::ZERO];
        self.allocate_bulk(request, &mut out).map(|()| out[0])
    }

    fn allocate_bulk(&self, request: Request, out: &mut [Pfn]) -> Result<(), AllocError> {
        let error = AllocError { request };
        if request.zone.is_some() || request.strict || request.order.frames() << SHIFT > ALIGN as u64 {
            return Err(error);
        }
        let mut state = self.state.lock();
        for taken in 0..out.len() {
            let Some(pfn) = state.take(request.order) else {
                for pfn in &out[..taken] {
                    state.give(*pfn, request.order);
                }
                return Err(error);
            };
            out[taken] = pfn;
        }
        drop(state);
        for start in out.iter().filter(|_| request.zeroed).filter_map(|&pfn| self.frame(pfn)) {
            // SAFETY: the frames of a block are neighbours here, and nobody has them yet.
            unsafe { start.write_bytes(0, (request.order.frames() << SHIFT) as usize) };
        }
        Ok(())
    }

    unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
        self.state.lock().give(pfn, order);
    }

    unsafe fn split(&self, _: Pfn, _: Order, _: Order) {}
}

// SAFETY: disjoint, aligned frames of memory that was zeroed and lives as long as the arena, at one address.
unsafe impl DirectMap for Arena {
    fn base_shift(&self) -> u32 {
        SHIFT
    }

    #[inline]
    fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        if pfn.get() >= self.frames {
            return None;
        }
        // SAFETY: below the number of frames that were allocated in one piece.
        Some(unsafe { self.base.byte_add((pfn.get() << SHIFT) as usize) })
    }
}

// SAFETY: the memory belongs to the arena, whose methods hand parts of it to one owner each.
unsafe impl Send for Arena {}
// SAFETY: all that changes is behind the lock; the memory is for the owners of its frames.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and unmapped once; whoever had a frame has borrowed the arena.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_is_counted() {
        let arena = Arena::new(1024).unwrap();
        let order = |order| Request::new(Order::new(order).unwrap());
        let single = arena.allocate(order(0)).unwrap();
        let block = arena.allocate(order(9)).unwrap();
        assert_eq!((single, block, arena.out()), (Pfn::ZERO, Pfn::new(512).unwrap(), 513));
        assert!(arena.allocate(order(9)).is_err());
        let mut rest = vec![Pfn::ZERO; 511];
        arena.allocate_bulk(order(0), &mut rest).unwrap();
        assert!(arena.allocate(order(0)).is_err());
        assert_eq!(arena.out(), 1024);
        arena.rewind();
        for pfn in rest.into_iter().chain([single]) {
            // SAFETY: allocated above, used by nobody, given back once.
            unsafe { arena.deallocate(pfn, Order::ZERO) };
        }
        assert_eq!(arena.out(), 512, "with a block out nothing was rewound");
        // SAFETY: as above.
        unsafe { arena.deallocate(block, Order::new(9).unwrap()) };
        arena.rewind();
        assert_eq!((arena.out(), arena.allocate(order(0)).unwrap()), (0, Pfn::ZERO));
    }

    #[test]
    fn it_goes_on_at_the_beginning() {
        let arena = Arena::new(1024).unwrap();
        arena.rewind_to(700);
        let mut all = vec![Pfn::ZERO; 1024];
        arena.allocate_bulk(Request::new(Order::ZERO), &mut all).unwrap();
        assert!(all.iter().map(|pfn| pfn.get()).eq((700..1024).chain(0..700)));
        assert_eq!(arena.out(), 1024);
        for pfn in all {
            // SAFETY: allocated above, used by nobody, given back once.
            unsafe { arena.deallocate(pfn, Order::ZERO) };
        }
        // A block skips what is left at the end, which single frames get.
        arena.rewind_to(900);
        let block = arena.allocate(Request::new(Order::new(9).unwrap())).unwrap();
        assert_eq!((block, arena.out()), (Pfn::ZERO, 512));
        let single = arena.allocate(Request::new(Order::ZERO)).unwrap();
        assert!(single.get() >= 900 && arena.out() == 513, "{single:?}");
    }
}
