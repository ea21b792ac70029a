// SPDX-License-Identifier: MIT OR Apache-2.0
//! This process's own memory as frames, and a memory map that the processor deduplicates.
//!
//! A memory map is a range of addresses: the descriptor of frame `pfn` is at `base + pfn * 64`. Most of those that
//! describe huge pages are tails, the same bytes over and over, and one page of tails can stand behind many pages of
//! addresses. A kernel arranges that in its own page tables. A process can have the same from the kernel it runs on:
//!
//! 1. [`HostFrames`]: *frames* are the pages of a sparse file in memory (`memfd_create`). They are handed out, reached
//!    through one mapping of the whole file, and given back by punching holes.
//! 2. [`HostSpace`]: a *range of addresses* is reserved, and pages of the file are mapped into it, wherever they are
//!    needed and as often as they are needed. The processor resolves the aliases. Tails are mapped read-only: a stray
//!    write to one is a fault, not a corruption of everybody's tails.
//! 3. What that costs is not computed but read: [`HostFrames::resident_bytes`] from the file,
//!    [`page_table_bytes`] and [`mapping_slab_bytes`] from the kernel's accounts.
//!
//! So a memory map can be built, measured and tested where no kernel is at hand, by any user, at real sizes.
//!
//! # Mappings are scarce
//!
//! A process may have 65530 mappings, unless the administrator says otherwise (`vm.max_map_count`). One mapping for
//! each page of tails would use that up at 16 GiB of 2M pages. So identical tails come in runs of consecutive frames,
//! each run one mapping: [`tail_frames_order`] chooses how long, [`mapping_budget`] tells what there is, and a
//! [`HostSpace`] refuses what would not fit before it maps anything.
//!
//! # Example
//!
//! The memory map of 64 MiB in 2M pages: 32 compounds, one own page of descriptors each, the other seven shared.
//!
//! ```
//! use mmkit_addr::{Geometry, NodeId, Order, Pfn};
//! use mmkit_frame::{DirectMap, FrameAllocator, Request};
//! use mmkit_host::{HostFrames, HostSpace, mapping_budget, mappings_per_compound, tail_frames_order};
//! use mmkit_page::{Place, Template};
//! use mmkit_vmemmap::{Backing, TailRun, Unmapped, VmemmapSpace};
//!
//! let order = Order::new(9).unwrap();
//! let compound = Geometry::X86_64.compound(order).unwrap();
//! let (frames, budget) = (HostFrames::new(1 << 16)?, mapping_budget()?);
//! # if frames.base_shift() != 12 { return Ok(()) }
//! let tails = tail_frames_order(compound, 32, budget.mappings()).unwrap();
//! let space = HostSpace::new(&frames, 32 * order.frames(), tails, budget)?;
//!
//! // A run of identical frames of tails, and 32 with a head and its first 63 tails.
//! let (head, tail) = (Template::head_of_shared(order, Place::default()), Template::tail(order, Place::default()));
//! let run = TailRun { first: frames.allocate(Request::new(tails))?, order: tails };
//! for index in 0..tails.frames() {
//!     let to = frames.frame(run.first.checked_add(index).unwrap()).unwrap();
//!     // SAFETY: a frame that was just allocated, and that nobody else knows.
//!     unsafe { tail.fill(to, 64) };
//! }
//! for index in 0..32 {
//!     let first = frames.allocate(Request::new(Order::ZERO))?;
//!     let to = frames.frame(first).unwrap();
//!     // SAFETY: as above.
//!     unsafe { tail.fill(to, 64) };
//!     // SAFETY: as above.
//!     unsafe { head.fill(to, 1) };
//!     let page = index * 8;
//!     // SAFETY: the frame is written, and stays allocated while it is mapped.
//!     unsafe { space.map(page..page + 1, Backing::Own { first }, NodeId::ZERO) }?;
//!     // SAFETY: the tails are written, and stay allocated while they are mapped.
//!     unsafe { space.map(page + 1..page + 8, Backing::Tails(run), NodeId::ZERO) }?;
//! }
//!
//! // 256 pages of descriptors, of which 32 and the run are in memory.
//! assert_eq!(space.pages(), 256);
//! assert_eq!(frames.resident_bytes(), (32 + tails.frames()) * 4096);
//! assert_eq!(space.mappings(), 32 * mappings_per_compound(compound, tails));
//!
//! // The last descriptor of all, through a mapping of the tails.
//! let pfn = Pfn::new(32 * 512 - 1).unwrap();
//! // SAFETY: nothing is unmapped meanwhile.
//! let page = unsafe { space.descriptor(pfn) }.unwrap();
//! // SAFETY: its page is mapped, 64 bytes aligned to 8, and nobody writes it.
//! assert_eq!(unsafe { page.cast::<[u64; 8]>().read() }, tail.words());
//!
//! // Unmapped and flushed, frames can be freed, and the memory is gone.
//! // SAFETY: mapped above; no descriptor is used any more.
//! let unmapped = unsafe { space.unmap(0..256) }?;
//! unmapped.flush(&mut |pages, backing| {
//!     if let Backing::Own { first } = backing {
//!         assert_eq!(pages, 1);
//!         // SAFETY: allocated above at this order, not mapped any more, and given back once.
//!         unsafe { frames.deallocate(first, Order::ZERO) };
//!     }
//! });
//! assert_eq!(frames.resident_bytes(), tails.frames() * 4096);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In practice a `Vmemmap` of `mmkit-vmemmap` does all this, and hands out descriptors by type.
//!
//! # Where it works
//!
//! On 64-bit Linux, unprivileged; elsewhere the crate is empty. Transparent huge pages are kept out of the file where
//! the kernel lets a process say so, because they would make resident bytes coarse.
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(mmkit_loom)))]

mod blocks;
mod error;
mod extents;
mod frames;
mod limits;
mod memory;
mod plan;
mod region;
mod space;
mod threads;
mod window;

pub use error::HostError;
pub use frames::HostFrames;
pub use limits::{MappingBudget, mapping_budget, mapping_slab_bytes, memory_budget, page_table_bytes};
pub use plan::{MAPPING_BYTES, mappings_per_compound, tail_frames_order};
pub use space::{HostSpace, HostUnmapped};
pub use threads::Threads;
