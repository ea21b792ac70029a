// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of memory: where they come from and how their bytes are reached.
//!
//! Physical memory is a row of *frames*, each one base page long (4, 16 or 64 KiB) and known by its number, the *pfn*.
//! Three questions about frames have different answers in every kernel, hypervisor and test:
//!
//! 1. *Who hands them out?* A [`FrameAllocator`]: blocks of `2^order` frames, naturally aligned, chosen by a
//!    [`Request`]. Taking is safe. Giving back is `unsafe`, because only the owner knows that nothing uses a block.
//! 2. *How are their bytes reached?* Through a [`DirectMap`]: a frame number in, a pointer out, valid for one frame.
//!    Neighbouring frames need not be neighbours there.
//! 3. *Do the two belong together?* [`Frames`] is the pair, promised once, in one `unsafe` constructor. Everything that
//!    is built out of frames takes this pair, and so needs no `unsafe` to allocate and reach memory.
//!
//! Both traits are `unsafe` to implement: memory safety of page tables and memory maps rests on them. Both work
//! through `&self`, are object safe, and are implemented for references.
//!
//! # Example
//!
//! An allocator of 64 frames with one bit for each, and its direct map:
//!
//! ```
//! use core::cell::UnsafeCell;
//! use core::ptr::NonNull;
//! use core::sync::atomic::{AtomicU64, Ordering};
//!
//! use mmkit_addr::{NodeId, Order, Pfn};
//! use mmkit_frame::{AllocError, DirectMap, FrameAllocator, Frames, Request};
//!
//! #[repr(C, align(4096))]
//! struct Bytes(UnsafeCell<[[u8; 4096]; 64]>);
//!
//! /// Frames 0..64; a set bit of `taken` is a frame that is out.
//! struct Bitmap {
//!     taken: AtomicU64,
//!     bytes: &'static Bytes,
//! }
//!
//! fn bits(pfn: u64, order: Order) -> u64 {
//!     (u64::MAX >> (64 - order.frames())) << pfn
//! }
//!
//! // SAFETY: a block is aligned (`step_by`), and its bits, set by one atomic operation, keep it from others until they
//! // are cleared; an error sets none; zeroed blocks are zeroed below; blocks are freeable in any parts anyway.
//! unsafe impl FrameAllocator for Bitmap {
//!     fn allocate(&self, request: Request) -> Result<Pfn, AllocError> {
//!         let (order, error) = (request.order, AllocError { request });
//!         let elsewhere = request.node != NodeId::ZERO && request.strict;
//!         if order.get() > 6 || elsewhere || request.zone.is_some_and(|zone| zone.get() != 0) {
//!             return Err(error);
//!         }
//!         let free = |taken| (0..64).step_by(1 << order.get()).find(|&pfn| taken & bits(pfn, order) == 0);
//!         let take = |taken| free(taken).map(|pfn| taken | bits(pfn, order));
//!         // Acquire pairs with the Release in `deallocate`: the last owner's accesses are over.
//!         let before = self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, take);
//!         let pfn = before.ok().and_then(free).and_then(Pfn::new).ok_or(error)?;
//!         if request.zeroed {
//!             let start = self.frame(pfn).ok_or(error)?;
//!             // SAFETY: here the frames of a block are neighbours, and they are ours until we return.
//!             unsafe { start.write_bytes(0, 4096 << order.get()) };
//!         }
//!         Ok(pfn)
//!     }
//!
//!     unsafe fn deallocate(&self, pfn: Pfn, order: Order) {
//!         // Release pairs with the Acquire in `allocate`.
//!         self.taken.fetch_and(!bits(pfn.get(), order), Ordering::Release);
//!     }
//!
//!     unsafe fn split(&self, _: Pfn, _: Order, _: Order) {}
//! }
//!
//! // SAFETY: 64 disjoint, aligned frames of initialised bytes that live for ever, at fixed addresses.
//! unsafe impl DirectMap for Bitmap {
//!     fn base_shift(&self) -> u32 {
//!         12
//!     }
//!
//!     fn frame(&self, pfn: Pfn) -> Option<NonNull<u8>> {
//!         let index = usize::try_from(pfn.get()).ok().filter(|&index| index < 64)?;
//!         NonNull::new(self.bytes.0.get().cast::<[u8; 4096]>().wrapping_add(index).cast())
//!     }
//! }
//!
//! # fn main() -> Result<(), AllocError> {
//! let bytes = Box::leak(Box::new(Bytes(UnsafeCell::new([[0xff; 4096]; 64]))));
//! let bitmap = Bitmap { taken: AtomicU64::new(0), bytes };
//! // SAFETY: both halves are `bitmap`: it maps all 64 frames, and touches only such as are not out.
//! let frames = unsafe { Frames::new(&bitmap, &bitmap) };
//!
//! // A page table, say: one zeroed frame, seen as 512 words, given back when it goes out of scope ..
//! let table = frames.allocate_owned(Request::new(Order::ZERO).zeroed())?;
//! let words = table.words(0).expect("a block has a frame 0");
//! assert_eq!(words.len(), 512);
//! words[511].store(0x1000 | 1, Ordering::Relaxed);
//! assert_eq!(words[0].load(Ordering::Relaxed), 0);
//!
//! // .. unless it is released, to be given back by hand.
//! let pfn = table.release();
//! assert_eq!(bitmap.taken.load(Ordering::Relaxed), 1);
//! // SAFETY: `pfn` came from this allocator at this order, `words` is used no more, and this happens once.
//! unsafe { frames.deallocate(pfn, Order::ZERO) };
//! assert_eq!(bitmap.taken.load(Ordering::Relaxed), 0);
//!
//! // Four blocks of 16 frames or none: with one frame in use there is room for three.
//! let one = frames.allocate_owned(Request::new(Order::ZERO))?;
//! let mut blocks = [Pfn::ZERO; 4];
//! let sixteen = Request::new(Order::new(4).expect("a small order"));
//! assert_eq!(frames.allocate_bulk(sixteen, &mut blocks), Err(AllocError { request: sixteen }));
//! drop(one);
//! frames.allocate_bulk(sixteen, &mut blocks)?;
//! assert_eq!(blocks.map(Pfn::get), [0, 16, 32, 48]);
//! # Ok(())
//! # }
//! ```
//!
//! # Tests
//!
//! With the feature `test-util` (which needs std) the crate has a module `test_util`: an allocator and direct map over
//! real memory that notices double frees, wrong orders, leaks and writes to free frames, and fails on demand.
#![no_std]

#[cfg(any(test, feature = "test-util"))]
extern crate std;

mod allocator;
mod direct_map;
mod env;
mod frames;
mod owned;
mod request;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;

pub use allocator::{AllocError, FrameAllocator};
pub use direct_map::DirectMap;
pub use env::{Bare, Env};
pub use frames::{Frames, Word};
pub use owned::OwnedBlock;
pub use request::Request;
