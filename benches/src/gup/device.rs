// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors with nothing behind them, mapped by 2M leaves: as much memory as one likes.

use std::error::Error;
use std::hint::black_box;

use mmkit_addr::{Geometry, Level, NodeId, Order, Pfn, PfnRange, VirtAddr, VirtRange};
use mmkit_folio::{Hold, RunHold};
use mmkit_frame::{Bare, DirectMap};
use mmkit_gup::{
    AddressSpace, Area, AreaFlags, Dirty, FaultError, FaultFlags, Faulted, FileKind, Format, LeafFlags,
    PageRef, Refusal, Row, Rows, Slot, Span,
};
use mmkit_page::{
    Folio, MemMap, PageFlags, PinPolicy, PinRefusal, PinUse, PinVerdict, Place, SliceMap, Template,
};
use mmkit_pgtable::{Backing, Entry, Mapping, Prot, Reader, Slot as Entries, Software, Tables, Target, Walk};
use mmkit_sync::SeqCount;
use mmkit_sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::sim::Counts;
use crate::arena::Arena;

/// The order of the folios.
pub(super) const ORDER: u8 = 9;
/// Pages of a folio.
pub(super) const FOLIO: u64 = 1 << ORDER;
const FIRST: u64 = 1 << 18;
const START: u64 = 1 << 40;
/// The words of a descriptor that have the flags and the references of a head, and the pins of the first tail.
const FLAGS: usize = 0;
const INFO: usize = 1;
const PINS: usize = 3;
/// Descriptors in a frame.
const PER_FRAME: u64 = 64;

pub(super) type Map<'a> = SliceMap<'a, Counts>;
type Env<'a> = Bare<&'a Arena, &'a Arena>;

/// What descriptors and page tables are kept in.
pub(super) struct Memory {
    descriptors: Arena,
    tables: Arena,
    pages: u64,
}

impl Memory {
    /// For `pages` base pages, a multiple of those of a folio.
    pub(super) fn new(pages: u64) -> Result<Self, Box<dyn Error>> {
        let descriptors = Arena::new(pages / PER_FRAME)?;
        // A table for each GiB, and those above.
        Ok(Self { descriptors, tables: Arena::resident((pages >> 18) + 16)?, pages })
    }
}

/// An address space that maps folios of a device, all writable, each with one reference that is kept.
pub(super) struct Device<'a, P> {
    map: Map<'a>,
    tables: Tables<Software, Env<'a>>,
    sequence: SeqCount,
    policy: P,
    pages: u64,
}

impl<'a, P> Device<'a, P> {
    /// All of `memory`, whose folios have `flags`. The borrow is exclusive: its descriptors are written.
    pub(super) fn new(memory: &'a mut Memory, flags: PageFlags, policy: P) -> Result<Self, Box<dyn Error>> {
        let memory = &*memory;
        let order = Order::new(ORDER).ok_or("no order")?;
        let base = memory.descriptors.frame(Pfn::ZERO).ok_or("no descriptors")?;
        let place = Place::default();
        let (head, tail) = (Template::head(order, place), Template::tail(order, place));
        for nth in 0..memory.pages / FOLIO {
            // SAFETY: the descriptors of one folio, inside the arena.
            let first = unsafe { base.byte_add((nth * FOLIO * 64) as usize) };
            // SAFETY: the arena's first descriptors, aligned, and nobody else's: it is borrowed exclusively.
            unsafe { head.fill(first, 1) };
            // SAFETY: the next one, inside the folio.
            let second = unsafe { first.byte_add(64) };
            // SAFETY: the others of the folio.
            unsafe { tail.fill(second, FOLIO as usize - 1) };
        }
        // As those of a kernel are: otherwise each head is a miss of the translation caches, too.
        memory.descriptors.collapse();
        let range = PfnRange::new(Pfn::new(FIRST).ok_or("no frame")?, memory.pages).ok_or("no frames")?;
        // SAFETY: one descriptor for each frame, written with templates above, in one piece of memory that is borrowed for as
        // long as the map; nobody else accesses it.
        let map = unsafe { Map::from_raw_parts(base.cast(), range) };
        for nth in 0..memory.pages / FOLIO {
            let pfn = range.start().checked_add(nth * FOLIO).ok_or("no frame")?;
            let folio = map.claim(pfn)?.allocate().into_folio();
            folio.insert(flags);
            let _kept = folio.into_raw();
        }
        let tables = Tables::new(memory.tables.env(), Geometry::X86_64, NodeId::ZERO)?;
        let addresses = VirtRange::new(VirtAddr::new(START), memory.pages << 12).ok_or("no addresses")?;
        let level = Level::new(1).ok_or("no level")?;
        tables.map(addresses, Mapping::new(Backing::Run(range.start()), Prot::WRITE).at_level(level))?;
        Ok(Self { map, tables, sequence: SeqCount::new(), policy, pages: memory.pages })
    }

    pub(super) fn map(&self) -> &Map<'a> {
        &self.map
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }
}

/// The addresses of `pages` pages from page `first` on.
pub(super) fn span<A: AddressSpace>(space: &A, first: u64, pages: u64) -> Result<Span, Box<dyn Error>> {
    Ok(Span::pages(&space.format(), VirtAddr::new(START + (first << 12)), pages)?)
}

/// A device that may go: what it answers for its folios.
#[derive(Debug, Default)]
pub(super) struct Generic {
    /// 0 while it is there.
    going: AtomicU32,
}

impl<M: MemMap> PinPolicy<M> for Generic {
    #[inline]
    fn verdict(&self, folio: &Folio<'_, M>, _: PinUse) -> PinVerdict {
        if folio.flags().contains(PageFlags::DEVICE) && self.going.load(Ordering::Relaxed) != 0 {
            PinVerdict::Refuse(PinRefusal::Gone)
        } else {
            PinVerdict::Allow
        }
    }
}

pub(super) struct Walker<'s, 'a>(Reader<'s, Software, Env<'a>>);

impl Rows for Walker<'_, '_> {
    #[inline]
    fn row(&self, at: VirtAddr, end: VirtAddr) -> Row<'_> {
        // SAFETY: a row only loads.
        let cells = unsafe { self.0.cells(at, end) };
        cells.map_or_else(|_| Row::new(&[], Order::ZERO), |cells| Row::new(cells.entries, cells.order))
    }
}

impl<'a, P: PinPolicy<Map<'a>>> AddressSpace for Device<'a, P> {
    type Map = Map<'a>;
    type Policy = P;
    type Migrate = ();
    type Reader<'s>
        = Walker<'s, 'a>
    where
        Self: 's;
    type Locked<'s>
        = ()
    where
        Self: 's;
    type Table<'s>
        = Walker<'s, 'a>
    where
        Self: 's;

    fn map(&self) -> &Map<'a> {
        &self.map
    }

    fn policy(&self) -> &P {
        &self.policy
    }

    fn migrate(&self) -> &() {
        &()
    }

    fn format(&self) -> Format {
        Format {
            base_shift: 12,
            limit: VirtAddr::new(1 << 47),
            ignored: 0,
            step_shift: Software::FRAME_SHIFT,
        }
    }

    #[inline]
    fn decode(&self, raw: u64, order: Order) -> Slot {
        let level = Level::new(order.get() / ORDER).unwrap_or(Level::LAST);
        match Software::decode(raw, level) {
            Entries::Present(Target::Leaf { pfn, prot }) => {
                let flags = if prot.contains(Prot::WRITE) { LeafFlags::WRITE } else { LeafFlags::empty() };
                Slot::Leaf { pfn, flags }
            }
            _ => Slot::Absent,
        }
    }

    fn write_protect_seq(&self) -> &SeqCount {
        &self.sequence
    }

    fn read(&self) -> Walker<'_, 'a> {
        Walker(self.tables.read())
    }

    fn lock(&self) {}

    fn area(&self, (): &(), _: VirtAddr) -> Option<Area> {
        let flags = AreaFlags::READ
            | AreaFlags::WRITE
            | AreaFlags::MAY_READ
            | AreaFlags::MAY_WRITE
            | AreaFlags::SHARED;
        let range = VirtRange::new(VirtAddr::new(START), self.pages << 12)?;
        Some(Area { range, flags })
    }

    fn table(&self, (): &(), _: VirtAddr) -> Walker<'_, 'a> {
        self.read()
    }

    fn fault_in(&self, (): (), _: VirtAddr, _: FaultFlags) -> Result<Faulted<()>, FaultError> {
        Err(FaultError::Bad)
    }

    fn file(&self, _: &Folio<'_, Map<'a>>) -> FileKind {
        FileKind::Memory
    }
}

impl<'a, P: PinPolicy<Map<'a>>> Device<'a, P> {
    /// Holds every page by itself, as walkers do that know no runs: the leaf is found, each page's descriptor is looked up, its
    /// folio found, asked about and held, and the page handed to `each`; then the leaf is looked for again.
    pub(super) fn hold_by_page(
        &self,
        span: Span,
        hold: Hold,
        mut each: impl FnMut(Pfn),
    ) -> Result<(), Refusal> {
        let (tables, frames) = (self.tables.read(), self.map.enter());
        let sample = self.sequence.sample();
        let leaf = |va| match tables.walk(va) {
            Ok(Walk::Mapped(leaf)) => Ok(leaf),
            _ => Err(Refusal::NotMapped { va }),
        };
        let mut at = span.start();
        while at < span.end() {
            let found = leaf(at)?;
            for pfn in (found.pfn.get()..found.pfn.get() + FOLIO).filter_map(Pfn::new) {
                let view = frames.page(pfn).ok_or(Refusal::NoPages { va: at })?;
                let held = RunHold::try_new(view, 1, hold).map_err(|error| Refusal::Count { pfn, error })?;
                if let Some(folio) = held.folio()
                    && let PinVerdict::Refuse(reason) = self.policy.verdict(folio, PinUse::WRITE)
                {
                    return Err(Refusal::Policy { pfn, reason });
                }
                held.into_raw();
                each(pfn);
            }
            fence(Ordering::SeqCst);
            if leaf(at)? != found {
                return Err(Refusal::NotMapped { va: at });
            }
            at = VirtAddr::new(at.get() + (FOLIO << 12));
        }
        let unchanged = sample.is_some_and(|sample| self.sequence.unchanged(sample));
        if unchanged { Ok(()) } else { Err(Refusal::NotMapped { va: span.start() }) }
    }

    /// Looks at one line in each huge page of the descriptors of `pages` pages from page `first` on, at none that holding them
    /// by the run uses. A system, or the hypervisor below it, may take memory away that was idle for a tenth of a second, and then the first
    /// look at a huge page takes longer than holding all whose descriptors are there.
    pub(super) fn wake(&self, first: u64, pages: u64) {
        let start = self.map.range().start().get() + first;
        for number in (start..start + pages).step_by(((2 << 20) / 64) as usize) {
            black_box(self.word(number + FOLIO / 2).map(|word| word[FLAGS].load(Ordering::Relaxed)));
        }
    }

    /// The least that holding every page by itself can do: each page's word is loaded, its folio's words are added to, and the
    /// page is stored, in the same order.
    pub(super) fn hold_barely(&self, first: u64, hold: Hold, pages: &mut [Option<PageRef>]) {
        let start = self.map.range().start().get() + first;
        for (folio, slots) in (start..).step_by(FOLIO as usize).zip(pages.chunks_mut(FOLIO as usize)) {
            let (references, pins) = (self.word(folio), self.word(folio + 1));
            for (number, slot) in (folio..).zip(slots) {
                // A tail says where its head is. Nothing follows from it here, but that it was loaded.
                black_box(self.word(number).map(|word| word[INFO].load(Ordering::Relaxed)));
                if let Some(words) = references {
                    words[INFO].fetch_add(1 << 32, Ordering::Acquire);
                }
                if let Some(words) = pins.filter(|_| hold == Hold::Pin) {
                    // Pins are the low half of the word, on this side of which nothing is carried.
                    words[PINS].fetch_add(1, Ordering::Relaxed);
                }
                *slot = Pfn::new(number).map(PageRef::new);
            }
        }
    }

    /// The words of a descriptor.
    #[inline]
    fn word(&self, number: u64) -> Option<&[AtomicU64; 8]> {
        // SAFETY: the map never changes, so there is no reader to be inside.
        let page = unsafe { self.map.descriptor(Pfn::new(number)?) }?;
        // SAFETY: a descriptor is 64 bytes, aligned to its size, all of them atomics, and lives as long as the map. Nobody else
        // uses it meanwhile, so it does not matter that others are of half that size.
        Some(unsafe { page.cast::<[AtomicU64; 8]>().as_ref() })
    }

    /// The least that giving back each pin by itself can do, where folios are marked that are not dirty: the page's word and the
    /// head's flags are loaded, and the folio's words are subtracted from.
    pub(super) fn unpin_barely(&self, first: u64, pages: u64) {
        for folio in (first..first + pages).step_by(FOLIO as usize) {
            let (Some(references), Some(pins)) = (self.word(folio), self.word(folio + 1)) else { continue };
            for number in folio..folio + FOLIO {
                black_box(self.word(number).map(|word| word[INFO].load(Ordering::Relaxed)));
                if references[FLAGS].load(Ordering::Relaxed) & PageFlags::DIRTY.bits() == 0 {
                    references[FLAGS].fetch_or(PageFlags::DIRTY.bits(), Ordering::Relaxed);
                }
                pins[PINS].fetch_sub(1, Ordering::Relaxed);
                references[INFO].fetch_sub(1 << 32, Ordering::Release);
            }
        }
    }
}

/// Marks folios as dirty. Nobody else has them, so there is no lock to wait for.
pub(super) struct MarkDirty;

impl<M: MemMap> Dirty<M> for MarkDirty {
    fn mark(&self, folio: &Folio<'_, M>) {
        folio.insert(PageFlags::DIRTY);
    }
}
