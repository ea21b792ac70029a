// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the entries of a row to runs that are held.
//!
//! The same walk serves with and without the table's lock. Without, every entry is looked at again under the references
//! that were taken because of it.

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_folio::{Hold, MapError, Rmap, RunHold};
use mmkit_page::{Folio, GetError, PageFlags, PinPolicy, PinUse, PinVerdict, Reader};
use mmkit_sync::atomic::{AtomicU64, Ordering, fence};
use mmkit_sync::{SeqSample, mutant};

use crate::batch::{Batch, Piece};
use crate::{
    AddressSpace, Area, AreaFlags, FaultFlags, FileKind, Flags, Format, LeafFlags, Refusal, Request, Row,
    Run, Slot,
};

/// Folios, or entries, by which descriptors are asked for before they are needed.
const AHEAD: u64 = 8;

/// What a walk does with what it holds.
pub(crate) trait Visit<A: AddressSpace> {
    /// The most pages that it can take now.
    fn room(&self) -> u64;

    /// Whether what is taken stays held, instead of being given back at once.
    const KEEPS: bool = true;

    /// Takes the first pages of `run`; how many.
    fn take(&mut self, run: Run) -> u32;

    /// Whether the walk goes on past a folio that has to move before it can be held.
    fn must_move(&mut self, space: &A, folio: &Folio<'_, A::Map>) -> bool {
        let _ = (space, folio);
        false
    }
}

/// Why a walk of a row ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A fault of this kind.
    Fault(FaultFlags),
    /// An entry changed, or what it led to went.
    Again,
    /// A folio has to move.
    Move,
    /// Nothing helps.
    Stop(Refusal),
}

/// How far a walk of a row came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Pages that were taken, or passed over as the visitor wanted.
    pub(crate) pages: u64,
    /// Why not more; `None` at the end of the row.
    pub(crate) need: Option<Need>,
}

/// A walk of one address space.
pub(crate) struct Walk<'m, A: AddressSpace> {
    pub(crate) space: &'m A,
    /// The memory map, asked for once: what is held of it is also given back to it.
    pub(crate) map: &'m A::Map,
    pub(crate) request: Request,
    /// What each page gets.
    pub(crate) hold: Hold,
    pub(crate) format: Format,
    usage: PinUse,
    /// Without locks: a count of [`AddressSpace::write_protect_seq`], if pages are pinned.
    lockless: Option<Option<SeqSample>>,
    /// With locks: the area.
    pub(crate) area: Option<Area>,
}

/// A run of entries, as far as nothing is held of it yet: consecutive frames, with one permission.
struct EntryRun {
    pfn: Pfn,
    pages: u64,
    flags: LeafFlags,
    /// The first entry, but for bits that are ignored.
    raw: u64,
}

impl EntryRun {
    const NONE: Self = Self { pfn: Pfn::ZERO, pages: 0, flags: LeafFlags::empty(), raw: 0 };
}

impl<'m, A: AddressSpace> Walk<'m, A> {
    /// A walk with the tables locked. The area comes with each row.
    pub(crate) fn locked(space: &'m A, map: &'m A::Map, request: Request, hold: Hold) -> Self {
        let (format, usage) = (space.format(), request.usage());
        Self { space, map, request, hold, format, usage, lockless: None, area: None }
    }

    /// A walk without locks; `None` while somebody takes pages away from their writers.
    pub(crate) fn lockless(space: &'m A, map: &'m A::Map, request: Request) -> Option<Self> {
        let hold = if request.is_pin() { Hold::Pin } else { Hold::Get };
        let sample = match hold {
            Hold::Pin => Some(space.write_protect_seq().sample()?),
            Hold::Get => None,
        };
        Some(Self { lockless: Some(sample), ..Self::locked(space, map, request, hold) })
    }

    /// Walks `row`, whose first entry translates `at`, for at most `pages` pages.
    pub(crate) fn row<V: Visit<A>>(
        &self,
        frames: &Reader<'m, A::Map>,
        row: Row<'_>,
        (at, pages): (VirtAddr, u64),
        visit: &mut V,
    ) -> Step {
        let span = row.order().frames();
        let mut batch = Batch::new();
        let mut done = 0;
        // From the first frame that the row maps on.
        let skip = (at.get() >> self.format.base_shift) & (span - 1);
        let pages = pages.min((row.len() as u64).saturating_mul(span).saturating_sub(skip));
        let mut need = None;
        let mut ahead = EntryRun::NONE;
        while done < pages && need.is_none() {
            let mut held = 0;
            let most = (pages - done).min(visit.room());
            if most == 0 {
                return Step { pages: done, need: Some(Need::Stop(Refusal::NoRoom)) };
            }
            while held < most && !batch.is_full() {
                let place = skip + done + held;
                if ahead.pages == 0 {
                    let va = self.address(at, done + held);
                    if let Err(why) = self.entries(row, place, pages - done - held, va, &mut ahead) {
                        need = Some(why);
                        break;
                    }
                }
                held += self.grab(frames, &mut ahead, (row, place), most - held, &mut batch, &mut need);
                if need.is_some() {
                    break;
                }
            }
            if !batch.is_empty() {
                done += self.commit(row, (at, done), &mut batch, visit, &mut need);
            }
        }
        let need = match need {
            None if row.is_empty() => Some(Need::Fault(self.wanted())),
            need => need,
        };
        Step { pages: done, need }
    }

    fn address(&self, at: VirtAddr, pages: u64) -> VirtAddr {
        VirtAddr::new(at.get().wrapping_add(pages << self.format.base_shift))
    }

    /// The fault that makes a page at all accessible as asked.
    fn wanted(&self) -> FaultFlags {
        if self.request.is_write() { FaultFlags::WRITE } else { FaultFlags::empty() }
    }

    /// The run of entries that begins `place` frames after the start of the row, for at most `most` pages, goes to `run`; or
    /// why there is none. No descriptor is looked at.
    #[inline]
    fn entries(
        &self,
        row: Row<'_>,
        place: u64,
        most: u64,
        va: VirtAddr,
        run: &mut EntryRun,
    ) -> Result<(), Need> {
        let (order, cells) = (row.order(), row.cells());
        let (first, skip) = ((place >> order.get()) as usize, place & order.mask());
        let Some((cell, rest)) = cells.get(first..).and_then(<[_]>::split_first) else {
            return Err(Need::Again);
        };
        let raw = cell.load(Ordering::Relaxed) & self.format.mask();
        let (pfn, flags) = match self.space.decode(raw, order) {
            Slot::Leaf { pfn, flags } => (pfn, flags),
            Slot::Absent => return Err(Need::Fault(self.wanted())),
            Slot::Special => return Err(Need::Stop(Refusal::NoPages { va })),
        };
        if let Some(fault) = self.fault_of(flags, order) {
            return Err(Need::Fault(fault));
        }
        let Some(pfn) = pfn.checked_add(skip) else { return Err(Need::Stop(Refusal::NoPages { va })) };
        let last = ((place + most - 1) >> order.get()) as usize - first;
        let step = self.step(order);
        let more = matching(&rest[..rest.len().min(last)], raw.wrapping_add(step), step, self.format.mask());
        // Acquire: pairs with the Release stores that made the entries: what was done to the pages before is seen by those who
        // hold them.
        fence(Ordering::Acquire);
        let pages = (((more as u64 + 1) << order.get()) - skip).min(most);
        *run = EntryRun { pfn, pages, flags, raw };
        Ok(())
    }

    /// The fault that a leaf needs before its pages can be held.
    #[inline]
    fn fault_of(&self, leaf: LeafFlags, order: Order) -> Option<FaultFlags> {
        let wants = |flag| self.request.flags().contains(flag);
        let honoured = self.lockless.is_some()
            || wants(Flags::HONOR_HINT) && self.area.is_none_or(|area| area.is_accessible());
        let noticed = leaf.contains(LeafFlags::HINT) && honoured;
        let read_only = wants(Flags::WRITE) && !leaf.contains(LeafFlags::WRITE) && !self.may_force(leaf);
        if noticed || read_only {
            return Some(self.wanted());
        }
        (order > Order::ZERO && wants(Flags::SPLIT)).then_some(FaultFlags::SPLIT)
    }

    /// What the next entry of a run is more than the one before it.
    #[inline]
    fn step(&self, order: Order) -> u64 {
        order.frames() << self.format.step_shift
    }

    /// Whether a read-only entry may do for a write, if its page turns out to be the address space's own. Linux:
    /// `can_follow_write_common`.
    fn may_force(&self, flags: LeafFlags) -> bool {
        self.request.flags().contains(Flags::FORCE)
            && !flags.contains(LeafFlags::WATCHED)
            && self.area.is_some_and(|area| {
                area.is_cow()
                    && (!area.flags.contains(AreaFlags::WRITE)
                        || area.flags.contains(AreaFlags::SHADOW_STACK))
            })
    }

    /// Takes holds on the folios of `run`, which begins at `place`, for at most `most` pages and as the batch has room: how many
    /// pages. Why not more goes to `need`, where that is another reason.
    #[inline]
    fn grab(
        &self,
        frames: &Reader<'m, A::Map>,
        run: &mut EntryRun,
        (row, place): (Row<'_>, u64),
        most: u64,
        batch: &mut Batch<'m, A::Map>,
        need: &mut Option<Need>,
    ) -> u64 {
        let (most, flags) = (most.min(run.pages), run.flags);
        // What the first entry of the row would be, if the run began with it.
        let base = run.raw.wrapping_sub(self.distance(row, place));
        let mut done = 0;
        while done < most
            && let Some(vacancy) = batch.vacancy()
            && let Some(pfn) = run.pfn.checked_add(done)
        {
            let Some(view) = frames.page(pfn) else {
                let error = MapError::References(GetError::Absent { pfn });
                *need = Some(Need::Stop(Refusal::Count { pfn, error }));
                break;
            };
            let here = place + done;
            let left = u32::try_from(most - done).unwrap_or(u32::MAX);
            let taken = RunHold::try_with(view, left, self.hold, |hold| {
                let frames = hold.frames();
                let raw = base.wrapping_add(self.distance(row, here));
                // Looked at here, where the line is at hand: memory is made anonymous before anybody refers to it.
                let anon = hold.folio().is_some_and(|folio| folio.flags().contains(PageFlags::ANON));
                vacancy.fill(Piece { hold, raw, flags, anon });
                u64::from(frames)
            });
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    *need = Some(self.refused(pfn, error));
                    break;
                }
            };
            // Where those are likely to be that come soon: in the same run, or where their entries lead.
            let soon = taken * AHEAD;
            if done + soon < run.pages {
                view.prefetch(soon);
            } else if let Some(view) = self.leaf_at(row, here + soon).and_then(|pfn| frames.page(pfn)) {
                view.prefetch(0);
            }
            done += taken;
        }
        run.raw = base.wrapping_add(self.distance(row, place + done));
        run.pages -= done;
        match run.pfn.checked_add(done) {
            Some(next) => run.pfn = next,
            None => run.pages = 0,
        }
        done
    }

    /// Why no hold is taken.
    #[cold]
    fn refused(&self, pfn: Pfn, error: MapError) -> Need {
        match error {
            MapError::References(GetError::Overflow { .. }) => Need::Stop(Refusal::Count { pfn, error }),
            // What the entry led to is gone, and so is the entry.
            _ if self.lockless.is_some() => Need::Again,
            _ => Need::Stop(Refusal::Count { pfn, error }),
        }
    }

    /// What the entry of a place is more than the first of its row, in a run of both.
    #[inline]
    fn distance(&self, row: Row<'_>, place: u64) -> u64 {
        (place & !row.order().mask()) << self.format.step_shift
    }

    /// The frame that the entry of a place leads to, if it is a leaf now.
    #[inline]
    fn leaf_at(&self, row: Row<'_>, place: u64) -> Option<Pfn> {
        let cell = row.cells().get((place >> row.order().get()) as usize)?;
        match self.space.decode(cell.load(Ordering::Relaxed) & self.format.mask(), row.order()) {
            Slot::Leaf { pfn, .. } => Some(pfn),
            Slot::Absent | Slot::Special => None,
        }
    }

    /// Looks again at what the holds of a batch follow from, and hands them to `visit`: how many pages. What is not
    /// handed over is given back, and why goes to `need`.
    #[inline]
    fn commit<V: Visit<A>>(
        &self,
        row: Row<'_>,
        (at, before): (VirtAddr, u64),
        batch: &mut Batch<'m, A::Map>,
        visit: &mut V,
        need: &mut Option<Need>,
    ) -> u64 {
        let start = ((at.get() >> self.format.base_shift) & row.order().mask()) + before;
        if let Some(sample) = self.lockless {
            // SeqCst: pairs with the fences of those who clear an entry, or change the count, and then look for references or
            // pins: either they see ours, or we see what they did.
            mutant!("gup-no-fence", fence(Ordering::SeqCst), ());
            let unchanged = sample.is_none_or(|sample| {
                mutant!("gup-no-sequence", self.space.write_protect_seq().unchanged(sample), true)
            });
            if !unchanged || !row.is_linked(&self.format) {
                batch.finish(0);
                *need = Some(Need::Again);
                return 0;
            }
        }
        let mut done = 0;
        // Whatever the policy or the sink does, what a sink has is not given back here.
        let mut batch = batch.deliver(V::KEEPS);
        while let Some(piece) = batch.next() {
            let frames = piece.hold.frames();
            let (mut good, mut ends) = (frames, false);
            let place = start + done;
            if !self.is_plain((row, place), piece) {
                let va = self.address(at, before + done);
                let (some, why) = self.look((row, place), piece, va, visit);
                good = some;
                if why.is_some() {
                    (*need, ends) = (why, true);
                }
                if good == 0 {
                    break;
                }
            }
            if self.request.flags().contains(Flags::TOUCH) {
                touch(&piece.hold);
            }
            let run = Run {
                pfn: piece.hold.pfn(),
                frames: good,
                head: piece.hold.head(),
                order: piece.hold.order(),
                writable: piece.flags.contains(LeafFlags::WRITE),
            };
            let taken = visit.take(run);
            done += u64::from(taken);
            if taken < good {
                *need = Some(Need::Stop(Refusal::NoRoom));
            }
            if taken < frames {
                batch.delivered_in_part(taken);
                break;
            }
            batch.delivered();
            if ends {
                break;
            }
        }
        done
    }

    /// Whether all of a piece may be held, and nothing but one look at each thing is needed to see it.
    #[inline(always)]
    fn is_plain(&self, (row, place): (Row<'_>, u64), piece: &Piece<'m, A::Map>) -> bool {
        let Some(folio) = piece.hold.folio() else { return false };
        let same = self.lockless.is_none() || self.is_unchanged((row, place), piece);
        if !mutant!("gup-no-recheck", same, true) || !piece.anon {
            return false;
        }
        let all = u64::from(piece.hold.frames());
        let own = piece.flags.contains(LeafFlags::WRITE)
            || !self.request.is_write()
                && (!self.request.is_pin() || folio.exclusive_pages(piece.hold.index(), all) == all);
        own && self.space.policy().verdict(folio, self.usage) == PinVerdict::Allow
    }

    /// Whether all entries of a piece still are what they were.
    #[inline(always)]
    fn is_unchanged(&self, (row, place): (Row<'_>, u64), piece: &Piece<'m, A::Map>) -> bool {
        let (order, frames, mask) = (row.order(), u64::from(piece.hold.frames()), self.format.mask());
        let first = (place >> order.get()) as usize;
        let more = (((place & order.mask()) + frames - 1) >> order.get()) as usize;
        let Some(cells) = row.cells().get(first..=first + more) else { return false };
        let Some((cell, rest)) = cells.split_first() else { return false };
        // Folios of one page are many, and have one entry each.
        (cell.load(Ordering::Relaxed) ^ piece.raw) & mask == 0
            && (more == 0 || {
                let step = self.step(order);
                matching(rest, piece.raw.wrapping_add(step), step, mask) == more
            })
    }

    /// How many pages of a piece may be held, and why not more.
    #[inline(never)]
    fn look<V: Visit<A>>(
        &self,
        (row, place): (Row<'_>, u64),
        piece: &Piece<'m, A::Map>,
        va: VirtAddr,
        visit: &mut V,
    ) -> (u32, Option<Need>) {
        let (good, why) = if self.lockless.is_some() {
            self.again((row, place), piece)
        } else {
            (piece.hold.frames(), None)
        };
        match self.allowed(&piece.hold, piece.flags, va, visit) {
            (pages, other @ Some(_)) if pages < good => (pages, other),
            _ => (good, why),
        }
    }

    /// How many frames of a piece are still mapped as they were.
    fn again(&self, (row, place): (Row<'_>, u64), piece: &Piece<'m, A::Map>) -> (u32, Option<Need>) {
        let (order, frames) = (row.order(), piece.hold.frames());
        let (cell, skip) = ((place >> order.get()) as usize, place & order.mask());
        let cells = ((skip + u64::from(frames) - 1) >> order.get()) as usize + 1;
        let found =
            matching(&row.cells()[cell..cell + cells], piece.raw, self.step(order), self.format.mask());
        let same = mutant!("gup-no-recheck", found, cells);
        if same == cells {
            return (frames, None);
        }
        let good = ((same as u64) << order.get()).saturating_sub(skip).min(frames.into());
        (good as u32, Some(Need::Again))
    }

    /// How many pages of `hold` may be held, by what its folio is, and why not more.
    fn allowed<V: Visit<A>>(
        &self,
        hold: &RunHold<'m, A::Map>,
        flags: LeafFlags,
        va: VirtAddr,
        visit: &mut V,
    ) -> (u32, Option<Need>) {
        let read_only = !flags.contains(LeafFlags::WRITE);
        // A shared page of zeroes never goes, so it may be held wherever it is. Pins of it are not counted: there is no folio then.
        let Some(folio) = hold.folio().filter(|folio| !folio.flags().contains(PageFlags::ZERO)) else {
            return match self.of_file(None, read_only, va) {
                Ok(()) => (hold.frames(), None),
                Err(need) => (0, Some(need)),
            };
        };
        match self.space.policy().verdict(folio, self.usage) {
            PinVerdict::Allow => {}
            PinVerdict::Refuse(reason) => {
                return (0, Some(Need::Stop(Refusal::Policy { pfn: hold.pfn(), reason })));
            }
            // Migrate, and what is not known yet.
            _ if visit.must_move(self.space, folio) => {}
            _ => return (0, Some(Need::Move)),
        }
        if !folio.flags().contains(PageFlags::ANON) {
            return match self.of_file(Some(folio), read_only, va) {
                Ok(()) => (hold.frames(), None),
                Err(need) => (0, Some(need)),
            };
        }
        let forced = self.request.is_write();
        if !read_only || !(self.request.is_pin() || forced) {
            return (hold.frames(), None);
        }
        let all = u64::from(hold.frames());
        let exclusive = mutant!("gup-pins-shared", folio.exclusive_pages(hold.index(), all), all);
        if exclusive >= all {
            return (hold.frames(), None);
        }
        let fault = if forced { FaultFlags::WRITE | FaultFlags::FORCE } else { FaultFlags::UNSHARE };
        (exclusive as u32, Some(Need::Fault(fault)))
    }

    /// Whether a page of a file (or the page of zeroes: `None`) may be held.
    fn of_file(&self, folio: Option<&Folio<'m, A::Map>>, read_only: bool, va: VirtAddr) -> Result<(), Need> {
        let longterm = self.request.is_longterm();
        if read_only && self.request.is_write() {
            // By force, and the page is not the address space's own yet.
            return Err(Need::Fault(FaultFlags::WRITE | FaultFlags::FORCE));
        }
        if let Some(folio) = folio {
            match self.space.file(folio) {
                FileKind::Memory => {}
                FileKind::Secret => return Err(Need::Stop(Refusal::Secret { va })),
                FileKind::Tracked | FileKind::Unknown if longterm && self.request.is_write() => {
                    return Err(Need::Stop(Refusal::TrackedFile { va }));
                }
                FileKind::Tracked | FileKind::Unknown => {}
            }
        }
        // Whoever reads for long reads what the area's next writer leaves behind, unless it is copied now.
        if longterm && read_only && self.area.is_none_or(|area| area.is_cow()) {
            return Err(Need::Fault(FaultFlags::UNSHARE));
        }
        Ok(())
    }
}

/// How many of at most `most` pages from `at` on, where `row` begins, are mapped so that an access does not fault, and what the
/// next one needs. Nothing is held.
pub(crate) fn passable<A: AddressSpace>(
    space: &A,
    format: &Format,
    row: Row<'_>,
    (at, most): (VirtAddr, u64),
    write: bool,
) -> (u64, Option<Need>) {
    let order = row.order();
    let skip = (at.get() >> format.base_shift) & order.mask();
    let fault = Need::Fault(if write { FaultFlags::WRITE } else { FaultFlags::empty() });
    if row.is_empty() {
        return (0, Some(fault));
    }
    let pages = |cells: usize| ((cells as u64) << order.get()).saturating_sub(skip).min(most);
    let (step, mask) = (order.frames() << format.step_shift, !format.ignored);
    let mut cell = 0;
    while cell < row.len() && pages(cell) < most {
        let raw = row.cells()[cell].load(Ordering::Relaxed) & mask;
        let (need, flags) = match space.decode(raw, order) {
            Slot::Leaf { flags, .. } => (fault, flags),
            Slot::Absent => return (pages(cell), Some(fault)),
            // Nothing to fault in.
            Slot::Special => (fault, LeafFlags::WRITE),
        };
        if write && !flags.contains(LeafFlags::WRITE) || flags.contains(LeafFlags::HINT) {
            return (pages(cell), Some(need));
        }
        cell += 1 + matching(&row.cells()[cell + 1..], raw.wrapping_add(step), step, mask);
    }
    (pages(cell), None)
}

/// Marks the folio as referenced, where it is not yet.
fn touch<M: mmkit_page::MemMap<Counts: mmkit_folio::Mapcounts>>(hold: &RunHold<'_, M>) {
    if let Some(folio) = hold.folio()
        && !folio.flags().contains(PageFlags::REFERENCED)
    {
        folio.insert(PageFlags::REFERENCED);
    }
}

/// How many of `cells`, from the first on, hold `first`, `first + step` and so on in the bits of `mask`.
#[inline(always)]
fn matching(cells: &[AtomicU64], first: u64, step: u64, mask: u64) -> usize {
    // Most runs are of one entry or of very many.
    match cells.first() {
        Some(cell) if (cell.load(Ordering::Relaxed) ^ first) & mask == 0 => many(cells, first, step, mask),
        _ => 0,
    }
}

/// [`matching`], where there is more than one.
#[inline(never)]
fn many(cells: &[AtomicU64], first: u64, step: u64, mask: u64) -> usize {
    let differs = |cell: &AtomicU64, nth: u64, from: u64| {
        (cell.load(Ordering::Relaxed) & mask) ^ (from.wrapping_add(nth.wrapping_mul(step)) & mask)
    };
    let (mut same, mut from) = (0, first);
    let mut chunks = cells.chunks_exact(8);
    for chunk in chunks.by_ref() {
        let mut difference = 0;
        for (nth, cell) in (0..).zip(chunk) {
            difference |= differs(cell, nth, from);
        }
        if difference != 0 {
            break;
        }
        same += 8;
        from = from.wrapping_add(step.wrapping_mul(8));
    }
    let rest = &cells[same..];
    same + (0..).zip(rest).take_while(|&(nth, cell)| differs(cell, nth, from) == 0).count()
}
