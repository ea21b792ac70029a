// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something of every library crate, behind `black_box` so that the linker has to keep it.

use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;
use core::ptr::NonNull;

use mmkit_addr::{Geometry, NodeId, Order, Pfn};
use mmkit_devmap::Registry;
use mmkit_folio::{CountWords, MmId, NoPageMapcount, PowerSums, Tracker};
use mmkit_frame::Bare;
use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Frames, Request};
use mmkit_gup::{Extent, Extents, Flags, Release, Run, Sink};
use mmkit_page::{MemMap, Page, SliceMap};
use mmkit_pgtable::{Arm64_4K, Tables, X86_64};
use mmkit_sync::{Readers, SpinLock};

// The facade has no functions of its own.
use mmkit as _;

/// Makes the linker resolve something of every library crate, and the byte routines that a Linux target takes from
/// libc.
pub fn every_crate() {
    black_box(mmkit_sync::RefCount::new(1, 0).try_get(black_box(1), |_| true).is_ok());
    black_box(mmkit_vmemmap::TailSlot::new());
    black_box(memory_map());
    black_box(map_counts());
    black_box(pins());
    black_box(page_tables());
    black_box(devices());

    let mut bytes = black_box([1_u8; 192]);
    let others = black_box([2_u8; 192]);
    let len = black_box(100);
    black_box(bytes[..len] == others[..len]);
    bytes[..len].copy_from_slice(&others[..len]);
    black_box(&mut bytes)[..len].fill(0);

    #[cfg(feature = "pulls-std")]
    black_box(pulls_std::copied_len(&bytes));
}

/// Looks up a frame in a memory map of four.
fn memory_map() -> Option<bool> {
    let mut pages = [const { Page::new() }; 4];
    let first = Pfn::new(black_box(512))?;
    let map = SliceMap::new(&mut pages, first)?;
    Some(map.try_get(first).is_ok())
}

/// Counts mappings of one address space.
fn map_counts() -> Option<bool> {
    let words = CountWords::new();
    let mm = MmId::new(black_box(7))?;
    PowerSums::add(&words.words(), mm, black_box(3)).ok()?;
    Some(PowerSums::maybe_mapped_shared(&words.words()))
}

/// Gives back a pin that nobody has.
fn pins() -> Option<u64> {
    let mut pages = [const { Page::new() }; 4];
    let first = Pfn::new(black_box(512))?;
    let map = SliceMap::<NoPageMapcount<PowerSums>>::counted(&mut pages, first)?;
    let mut buffer = [Extent::EMPTY; 1];
    let mut sink = Extents::new(&mut buffer);
    let writable = mmkit_gup::Request::new(Flags::from_bits_retain(black_box(6))).ok()?.is_write();
    sink.push(Run { pfn: first, frames: 1, head: first, order: Order::ZERO, writable });
    // SAFETY: the frame is free, so there is nothing that could be given back, and it is refused.
    Some(unsafe { Release::pins(&map).extents(sink.extents()) }.frames)
}

/// Asks for page tables where there is no memory for them.
fn page_tables() -> bool {
    // SAFETY: the allocator hands out no frame, so there is none that the map could get wrong.
    let env = || Bare::new(unsafe { Frames::new(NoMemory, NoMemory) });
    Tables::<X86_64, _>::new(env(), Geometry::X86_64, NodeId::ZERO).is_ok()
        || Tables::<Arm64_4K, _>::new(env(), Geometry::ARM64_4K, NodeId::ZERO).is_ok()
}

/// Asks for a registry of devices where there is no heap.
fn devices() -> Option<usize> {
    let registry = Registry::<_, SpinLock>::new(Readers::new()).ok()?;
    Some(registry.len())
}

/// A heap without memory: the registry has lists, and asks for all of them.
struct NoHeap;

// SAFETY: nothing is ever given, so nothing is given twice, too small, or in the wrong place.
unsafe impl GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: NoHeap = NoHeap;

/// A machine without memory.
struct NoMemory;

// SAFETY: no frame is ever handed out, so none is handed out twice.
unsafe impl FrameAllocator for NoMemory {
    fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
        Err(AllocError { request })
    }

    unsafe fn deallocate(&self, _: Pfn, _: Order) {}

    unsafe fn split(&self, _: Pfn, _: Order, _: Order) {}
}

// SAFETY: no frame is mapped, so no pointer is given that could be wrong.
unsafe impl DirectMap for NoMemory {
    fn base_shift(&self) -> u32 {
        12
    }

    fn frame(&self, _: Pfn) -> Option<NonNull<u8>> {
        None
    }
}
