// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces in a process: what a kernel does with pages, made of the mmkit crates, without a kernel.
//!
//! A [`World`] is physical memory: frames with real contents, their descriptors, an allocator, and files. An
//! [`AddressSpace`] has areas and page tables. Nothing is mapped before it is touched: an access *faults*, and the fault
//! installs a folio of the order that the area asked for, behind one entry for each page or behind one for all (a PMD).
//! A fork shares all private pages, read-only, and the first who writes gets a copy, unless it is alone by then. Who is
//! alone is what `mmkit-folio` knows; the strategy `C` says how.
//!
//! There is no hardware in it. An access is [`AddressSpace::read`] or [`AddressSpace::write`], which walk the tables.
//!
//! # Example
//!
//! ```
//! use mmkit_addr::{Order, VirtAddr, VirtRange};
//! use mmkit_folio::{NoPageMapcount, PowerSums};
//! use mmkit_sim::{Area, World};
//! use mmkit_sync::atomic::AtomicU64;
//!
//! let mut ids = [AtomicU64::new(0)];
//! let world = World::<NoPageMapcount<PowerSums>>::new(256, &mut ids)?;
//! let parent = world.spawn()?;
//! let range = VirtRange::new(VirtAddr::new(0x10000), 0x10000).unwrap();
//! parent.mmap(range, Area::anonymous(Order::new(4).unwrap()))?;
//! parent.write(range.start(), b"before")?;
//!
//! let child = parent.fork()?;
//! child.write(range.start(), b"child!")?;
//! let mut seen = [0; 6];
//! parent.read(range.start(), &mut seen)?;
//! assert_eq!(&seen, b"before");
//! assert_eq!(world.statistics().copied, 1);
//!
//! // Alone again: the parent keeps its pages.
//! drop(child);
//! parent.write(range.start(), b"after!")?;
//! assert_eq!(world.statistics().reused, 1);
//!
//! drop(parent);
//! assert_eq!(world.free_frames(), world.frames());
//! # Ok::<(), mmkit_sim::Error>(())
//! ```
//!
//! # Pins
//!
//! A device that accesses pages by itself *pins* them first ([`AddressSpace::pin_range`]): through the walkers of `mmkit-gup`,
//! which take no lock where everything is mapped as needed. A pinned page stays where it is. It is never copied away from its
//! address space, forks or not, so the device sees what the threads write, and they what the device writes. Some of the memory
//! may be kept for what can be moved ([`World::with_movable`]); who pins for long has pages moved out of it first.
//!
//! ```
//! use mmkit_addr::{Order, VirtAddr, VirtRange};
//! use mmkit_folio::{NoPageMapcount, PowerSums};
//! use mmkit_gup::Flags;
//! use mmkit_sim::{Area, World};
//! use mmkit_sync::atomic::AtomicU64;
//!
//! let mut ids = [AtomicU64::new(0)];
//! let world = World::<NoPageMapcount<PowerSums>>::with_movable(4096, 2048, &mut ids)?;
//! let space = world.spawn()?;
//! let start = VirtAddr::new(0x10000);
//! space.mmap(VirtRange::new(start, 0x10000).unwrap(), Area::anonymous(Order::new(4).unwrap()))?;
//!
//! let pin = space.pin_range(start, 0x10000, Flags::PIN | Flags::WRITE | Flags::LONGTERM)?;
//! assert_eq!(pin.extents().len(), 1);
//! let child = space.fork()?;
//! pin.write(0x1ffe, b"by a device")?;
//! let mut seen = [0; 11];
//! space.read(VirtAddr::new(0x11ffe), &mut seen)?;
//! assert_eq!(&seen, b"by a device");
//! child.read(VirtAddr::new(0x11ffe), &mut seen)?;
//! assert_eq!(seen, [0; 11]);
//! # Ok::<(), mmkit_sim::Error>(())
//! ```
//!
//! # Threads
//!
//! A world is shared by any number of threads, and so is an address space, as by the threads of a process: all calls take
//! `&self`. Who changes areas, or takes pages from their writers, has the areas to itself; faults share them, and hold the
//! lock of the last-level table that they work in. Loads and stores hold nothing: they walk inside a reader, as a
//! processor does, and a flush waits for readers. Address spaces that share folios meet in the map counts, as on a real
//! machine.

mod access;
mod arena;
mod audit;
mod buddy;
mod contents;
mod error;
mod fault;
mod files;
mod fork;
mod hold;
mod huge;
mod locks;
mod machine;
mod memory;
mod migrate;
mod pin;
mod runs;
mod space;
mod statistics;
mod table_frames;
mod touch;
mod view;
mod vma;
mod world;

pub use audit::{Audit, Discrepancy, FolioInfo, PageInfo};
pub use error::Error;
pub use files::FileId;
pub use pin::Pin;
pub use space::AddressSpace;
pub use statistics::Statistics;
pub use vma::{Area, Backing, PMD_ORDER};
pub use world::World;
