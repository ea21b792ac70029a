// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a small memory map over a space, and children that do what ends a process.
#![cfg(target_os = "linux")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::process::{Command, Output};
use std::ptr::NonNull;

use mmkit_addr::{Geometry, NodeId, Order, Pfn};
use mmkit_frame::{Bare, DirectMap, Env, FrameAllocator, Frames, Request};
use mmkit_host::{HostError, HostFrames, HostSpace, MappingBudget, mapping_budget};
use mmkit_page::{MemMap, Page, Place, Template};
use mmkit_sync::{Immovable, Readers, SpinLock};
use mmkit_vmemmap::{Backing, TailRun, TailSlot, Unmapped, VmemmapEnv, VmemmapSpace};

/// Order of a compound whose descriptors fill 8 pages, whatever the page size: 2M with 4K pages.
pub(crate) fn compound_order(frames: &HostFrames) -> Order {
    Order::new(frames.base_shift() as u8 - 3).unwrap()
}

pub(crate) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(crate) fn pfn(pfn: u64) -> Pfn {
    Pfn::new(pfn).unwrap()
}

/// Frames, a space for `limit` descriptors and a budget; `None`, with a line that says so, where the system has not
/// what it takes.
pub(crate) fn host(limit: u64, tails: u8) -> Option<(HostFrames, HostSpace)> {
    let make = || -> Result<_, HostError> {
        let budget = mapping_budget()?;
        if budget.mappings() < 1000 {
            println!("skipped: only {} mappings are left to this process", budget.mappings());
            return Ok(None);
        }
        let frames = HostFrames::new(1 << 16)?;
        let space = HostSpace::new(&frames, limit, order(tails), budget)?;
        Ok(Some((frames, space)))
    };
    make().unwrap_or_else(|error| {
        println!("skipped: {error}");
        None
    })
}

pub(crate) fn unlimited() -> MappingBudget {
    MappingBudget { limit: u64::MAX, others: 0 }
}

/// A frame whose every word is `word`.
pub(crate) fn filled(frames: &HostFrames, word: u64) -> Pfn {
    let first = frames.allocate(Request::new(Order::ZERO)).unwrap();
    fill(frames, first, word);
    first
}

pub(crate) fn fill(frames: &HostFrames, frame: Pfn, word: u64) {
    let to = frames.frame(frame).unwrap().cast::<u64>();
    for index in 0..(1_usize << frames.base_shift()) / 8 {
        // SAFETY: inside the frame.
        let to = unsafe { to.add(index) };
        // SAFETY: the tests write frames that they allocated, before anybody else reads them.
        unsafe { to.write_volatile(word) };
    }
}

/// A run of frames with the tails of compounds of `compound`.
pub(crate) fn tails(frames: &HostFrames, order: Order, compound: Order) -> TailRun {
    let first = frames.allocate(Request::new(order)).unwrap();
    for index in 0..order.frames() {
        let to = frames.frame(pfn(first.get() + index)).unwrap();
        // SAFETY: a frame that was just allocated.
        unsafe { Template::tail(compound, Place::default()).fill(to, 1 << (frames.base_shift() - 6)) };
    }
    TailRun { first, order }
}

/// Maps pages. The tests keep what they map allocated until it is flushed.
pub(crate) fn map(
    space: &HostSpace,
    pages: Range<u64>,
    backing: Backing,
) -> Result<(), mmkit_vmemmap::MapError> {
    // SAFETY: see above.
    unsafe { space.map(pages, backing, NodeId::ZERO) }
}

/// Unmaps pages. The tests use no descriptor in them any more.
pub(crate) fn unmap(
    space: &HostSpace,
    pages: Range<u64>,
) -> Result<Vec<(u64, Backing)>, mmkit_vmemmap::MapError> {
    // SAFETY: see above.
    let unmapped = unsafe { space.unmap(pages) }?;
    Ok(flushed(unmapped))
}

pub(crate) fn flushed(unmapped: impl Unmapped) -> Vec<(u64, Backing)> {
    let mut found = vec![];
    unmapped.flush(&mut |pages, backing| found.push((pages, backing)));
    found
}

/// Where a descriptor is, if its page is mapped. The tests that ask unmap nothing meanwhile.
pub(crate) fn descriptor(space: &HostSpace, frame: u64) -> Option<NonNull<Page>> {
    let page = frame >> (space.base_shift() - 6);
    if page < space.pages() && !space.is_mapped(page) {
        return None;
    }
    // SAFETY: mapped, or past the end.
    unsafe { space.descriptor(pfn(frame)) }
}

/// The eight words of a descriptor, as they are in the space.
pub(crate) fn words(space: &HostSpace, frame: u64) -> Option<[u64; 8]> {
    let page = descriptor(space, frame)?;
    // SAFETY: the space says that it is mapped; 64 bytes, aligned; the tests write nothing meanwhile.
    Some(unsafe { page.cast::<[u64; 8]>().read_volatile() })
}

/// The first word of page `page` of the space.
pub(crate) fn first_word(space: &HostSpace, page: u64) -> Option<u64> {
    words(space, page << (space.base_shift() - 6)).map(|words| words[0])
}

/// A memory map over one space, all of whose pages are mapped for as long as it exists.
pub(crate) struct Map<'a>(pub(crate) &'a HostSpace);

// SAFETY: in these tests every page is mapped before the map is made, with descriptors written from templates, and
// unmapped after it was dropped. Pages are only replaced by such as hold the same tails, read-only where nobody holds
// one of their frames, and by the original ones. Each frame has one address.
unsafe impl MemMap for Map<'_> {
    type Read = Immovable;
    type Counts = mmkit_page::Uncounted;

    fn read_side(&self) -> &Immovable {
        &Immovable
    }

    unsafe fn descriptor(&self, pfn: Pfn) -> Option<NonNull<Page>> {
        // SAFETY: nothing is unmapped while the map exists.
        unsafe { self.0.descriptor(pfn) }
    }
}

/// The parts of a `Vmemmap` over host frames.
pub(crate) struct HostEnv {
    bare: Bare<HostFrames, HostFrames>,
    slots: [TailSlot; 8],
}

impl HostEnv {
    pub(crate) fn new(frames: &HostFrames) -> Self {
        // SAFETY: clones are the same frames, and the tests touch only those that they allocated.
        let frames = unsafe { Frames::new(frames.clone(), frames.clone()) };
        Self { bare: Bare::new(frames), slots: [const { TailSlot::new() }; 8] }
    }
}

// SAFETY: every call is passed on to one field.
unsafe impl Env for HostEnv {
    type Allocator = HostFrames;
    type Map = HostFrames;
    type Lock = SpinLock;
    type Read = Readers;
    type Events = ();

    fn frames(&self) -> &Frames<HostFrames, HostFrames> {
        self.bare.frames()
    }

    fn read_side(&self) -> &Readers {
        self.bare.read_side()
    }

    fn events(&self) -> &() {
        &()
    }
}

// SAFETY: the slots are a field, made together with the frames.
unsafe impl VmemmapEnv for HostEnv {
    type Counts = mmkit_page::Uncounted;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }
}

/// A geometry with this process's page size.
pub(crate) fn geometry(frames: &HostFrames) -> Geometry {
    match frames.base_shift() {
        12 => Geometry::X86_64,
        14 => Geometry::ARM64_16K,
        _ => Geometry::ARM64_64K,
    }
}

/// What a child is told to do.
const ROLE: &str = "MMKIT_HOST_CHILD";

/// Whether this process is the child that `child` started for the test `name`.
pub(crate) fn is_child(name: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|role| role == name)
}

/// Runs the test `name` of this binary again in a child.
pub(crate) fn child(name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, name)
        .output()
        .unwrap()
}

/// What the kernel says of the addresses: for each mapping its access, and the file's page behind its first page.
pub(crate) fn kernel_view(space: &HostSpace) -> Vec<(Range<u64>, String, u64)> {
    let range = space.addresses();
    let shift = space.base_shift();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = vec![];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (from, to) = fields.next().unwrap().split_once('-').unwrap();
        let parse = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let (from, to) = (parse(from).max(range.start), parse(to).min(range.end));
        let access = fields.next().unwrap().to_string();
        let offset = u64::from_str_radix(fields.next().unwrap(), 16).unwrap() >> shift;
        if from < to {
            let page = |at: usize| ((at - range.start) >> shift) as u64;
            found.push((page(from)..page(to), access, offset));
        }
    }
    found
}
