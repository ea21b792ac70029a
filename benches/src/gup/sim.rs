// SPDX-License-Identifier: MIT OR Apache-2.0
//! 1 GiB of an address space in each of the three shapes, and pins of all of it.

use std::error::Error;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mmkit_addr::{Order, Pfn, VirtAddr, VirtRange};
use mmkit_folio::{Hold, NoPageMapcount, PIN_BIAS, PowerSums};
use mmkit_gup::{Extent, Extents, Flags, PageRef, Pages, Request, Sink, Span};
use mmkit_sim::{AddressSpace, Area, PMD_ORDER};
use mmkit_sync::prefetch;

use crate::clock::ThreadTime;
use crate::huge::Huge;

/// Base pages of the memory.
pub(super) const PAGES: u64 = 1 << 18;
/// Frames of the world: what the memory takes, and its page tables, twice.
pub(super) const FRAMES: u64 = PAGES + (1 << 13);
const START: VirtAddr = VirtAddr::new(1 << 30);
const BYTES: u64 = PAGES << 12;
const BYTES_OF_PMD: u64 = 2 << 20;

pub(super) type Counts = NoPageMapcount<PowerSums>;
pub(super) type World<'i> = mmkit_sim::World<'i, Counts>;
pub(super) type Space<'w> = AddressSpace<'w, Counts>;

/// How the memory is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// 2M folios, each behind a PMD.
    Pmd,
    /// 2M folios, each behind 512 PTEs.
    Ptes,
    /// The same, read-only, each page the address space's own: it was forked, and the child is gone.
    PtesReadOnly,
    /// Folios of one page, in the order of their addresses as far as the allocator goes.
    Base,
    /// The same, touched in no order, so that neighbours have frames far from each other.
    Scattered,
}

/// What is pinned, and with what.
pub(super) struct Scene<'w, 'i> {
    world: &'w World<'i>,
    space: Space<'w>,
    shape: Shape,
    pub(super) span: Span,
    extents: Huge<Extent>,
    pages: Huge<Option<PageRef>>,
}

impl<'w, 'i> Scene<'w, 'i> {
    /// An address space with the memory, all of it present.
    pub(super) fn new(world: &'w World<'i>, shape: Shape) -> Result<Self, Box<dyn Error>> {
        let space = world.spawn()?;
        let range = VirtRange::new(START, BYTES).ok_or("no range")?;
        let area = match shape {
            Shape::Pmd => Area::anonymous(PMD_ORDER),
            Shape::Ptes | Shape::PtesReadOnly => Area::anonymous(PMD_ORDER).by_ptes(),
            Shape::Base | Shape::Scattered => Area::anonymous(Order::ZERO).by_ptes(),
        };
        space.mmap(range, area)?;
        if shape == Shape::Scattered {
            // An odd factor: each page once.
            let pages = (0..PAGES).map(|nth| nth.wrapping_mul(0x9e37_79b9 | 1) % PAGES);
            space.write_each(pages.map(|page| VirtAddr::new(START.get() + (page << 12))), 1)?;
        }
        space.populate(range)?;
        if shape == Shape::PtesReadOnly {
            drop(space.fork()?);
            // Whoever pins to read for long has the pages made the address space's own, and leaves them read-only.
            drop(space.pin_range(START, BYTES, Flags::PIN | Flags::LONGTERM)?);
        }
        let span = space.span(START, BYTES)?;
        let (extents, pages) = (Huge::new(Extent::EMPTY, PAGES as usize), Huge::new(None, PAGES as usize));
        Ok(Self { world, space, shape, span, extents, pages })
    }

    /// Reads a byte in the middle of each 2M of the memory, which has a page table of its own, somewhere between the frames. A
    /// system, or the hypervisor below it, may take memory away that was idle for some milliseconds, and then the walk's first
    /// look at the table takes longer than holding all that is behind it. Memory behind PMDs has one table.
    fn wake(&self) {
        if self.shape == Shape::Pmd {
            return;
        }
        for at in (BYTES_OF_PMD / 2..BYTES).step_by(BYTES_OF_PMD as usize) {
            let read = self.space.read(VirtAddr::new(START.get() + at), &mut [0]);
            assert!(read.is_ok(), "the memory is not there");
        }
    }

    /// Pins into extents: nanoseconds of the pin, nanoseconds of the unpin, and how many extents.
    pub(super) fn extents(&mut self, request: Request) -> (f64, f64, usize) {
        self.wake();
        let mut sink = Extents::new(&mut self.extents);
        let pin = hold(&self.space, self.span, request, &mut sink);
        let count = sink.extents().len();
        let start = ThreadTime::now();
        // SAFETY: all of them were just pinned, and are given back once.
        let released = unsafe { self.world.release_extents(Hold::Pin, &self.extents[..count]) };
        let unpin = start.elapsed_ns();
        assert_eq!((released.frames, released.refused), (PAGES, None));
        (pin, unpin, count)
    }

    /// Pins into extents and unpins, untimed.
    pub(super) fn there_and_back(&mut self, request: Request) {
        let mut sink = Extents::new(&mut self.extents);
        let held = self.space.hold(self.span, request, &mut sink);
        let count = sink.extents().len();
        // SAFETY: as for `extents`.
        let released = unsafe { self.world.release_extents(Hold::Pin, &self.extents[..count]) };
        assert!(held.is_ok() && released.frames == PAGES, "not all of it was pinned and unpinned");
    }

    /// The same into a page array.
    pub(super) fn pages(&mut self, request: Request) -> (f64, f64) {
        self.wake();
        let pin = hold(&self.space, self.span, request, &mut Pages::new(&mut self.pages));
        let start = ThreadTime::now();
        // SAFETY: as for extents.
        let released = unsafe { self.world.release_pages(Hold::Pin, &self.pages) };
        let unpin = start.elapsed_ns();
        assert_eq!((released.frames, released.refused), (PAGES, None));
        (pin, unpin)
    }

    /// After a pin and an unpin that are not timed, writes to the page array what the pin wrote there: nanoseconds of it. So
    /// both sides find the array as an unpin leaves it, and both ask for what they write next.
    pub(super) fn write_array(&mut self, request: Request) -> f64 {
        self.pages(request);
        let words = words(&mut self.pages);
        let heads: Vec<u64> = words.iter().step_by(512).copied().collect();
        let start = ThreadTime::now();
        for (words, head) in black_box(words).chunks_mut(512).zip(heads) {
            prefetch(words.as_ptr().wrapping_add(words.len()));
            for (word, number) in words.iter_mut().zip(head..) {
                *word = number;
            }
        }
        start.elapsed_ns()
    }

    /// After the same and a write that are not timed, reads the page array once and compares neighbours: nanoseconds. So both
    /// sides find it as it is when it was just written.
    pub(super) fn read_array(&mut self, request: Request) -> f64 {
        self.write_array(request);
        let start = ThreadTime::now();
        black_box(neighbours(black_box(words(&mut self.pages))));
        start.elapsed_ns()
    }

    /// The words that a pin of each 2M folio changes: the head's references and the first tail's pins.
    pub(super) fn lines(&mut self, request: Request) -> Option<Vec<(&'w AtomicU64, &'w AtomicU32)>> {
        self.pages(request);
        let heads = self.pages.iter().step_by(512);
        heads.map(|page| Some((self.references((*page)?.pfn())?, self.pins((*page)?.pfn())?))).collect()
    }

    /// The references of each page that is a folio by itself.
    pub(super) fn references_of_pages(&mut self, request: Request) -> Option<Vec<&'w AtomicU64>> {
        self.pages(request);
        self.pages.iter().map(|page| self.references((*page)?.pfn())).collect()
    }

    fn references(&self, head: Pfn) -> Option<&'w AtomicU64> {
        let descriptor = self.world.descriptor(head)?.cast::<AtomicU64>();
        // SAFETY: the second word of a descriptor of 64 bytes.
        let word = unsafe { descriptor.add(1) };
        // SAFETY: descriptors live as long as the world, and have an atomic of this size there.
        Some(unsafe { word.as_ref() })
    }

    fn pins(&self, head: Pfn) -> Option<&'w AtomicU32> {
        let descriptor = self.world.descriptor(head.checked_add(1)?)?.cast::<AtomicU32>();
        // SAFETY: the seventh half of a word of a descriptor of 64 bytes.
        let half = unsafe { descriptor.add(6) };
        // SAFETY: as above.
        Some(unsafe { half.as_ref() })
    }
}

/// Pins single pages as far as their references go: one addition for each, on the words that are told, in the same order; and
/// back, untimed. Nanoseconds.
pub(super) fn bare_pins(words: &[&AtomicU64]) -> f64 {
    let pin = u64::from(PIN_BIAS) << 32;
    let start = ThreadTime::now();
    for word in words {
        word.fetch_add(pin, Ordering::Acquire);
    }
    let ns = start.elapsed_ns();
    for word in words {
        word.fetch_sub(pin, Ordering::Release);
    }
    ns
}

/// Holds all of it: nanoseconds.
fn hold(space: &Space<'_>, span: Span, request: Request, sink: &mut impl Sink) -> f64 {
    let start = ThreadTime::now();
    let held = space.hold(span, request, sink);
    let ns = start.elapsed_ns();
    assert!(held.is_ok_and(|held| held.pages == PAGES && held.is_complete()), "not all of it is pinned");
    ns
}

/// The words of a page array, which are one more than the frames' numbers.
fn words(pages: &mut [Option<PageRef>]) -> &mut [u64] {
    // SAFETY: a reference to a page is a `NonZeroU64` and nothing else, so an optional one has its size and alignment, and each
    // number is one; the borrow goes on in the result.
    unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast::<u64>(), pages.len()) }
}

/// How many words are one more than the one before.
fn neighbours(words: &[u64]) -> u64 {
    words.windows(2).map(|pair| u64::from(pair[0].wrapping_add(1) == pair[1])).sum()
}

/// The least that 512 pins and 512 unpins of folios cannot do without: four additions for each, on the words of the folios, in
/// the same order. What comes soon is asked for, as the kit does.
pub(super) fn bare_adds(lines: &[(&AtomicU64, &AtomicU32)]) {
    let ask_for = |nth: usize| {
        if let Some((references, pins)) = lines.get(nth) {
            prefetch(ptr::from_ref(*references));
            prefetch(ptr::from_ref(*pins));
        }
    };
    for (nth, (references, pins)) in lines.iter().enumerate() {
        ask_for(nth + 8);
        references.fetch_add(512 << 32, Ordering::Acquire);
        pins.fetch_add(512, Ordering::Relaxed);
    }
    for (nth, (references, pins)) in lines.iter().enumerate() {
        ask_for(nth + 8);
        pins.fetch_sub(512, Ordering::Relaxed);
        references.fetch_sub(512 << 32, Ordering::Release);
    }
}
