// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving back what was held: from extents, ranges, page arrays, folios and stretches of bytes.

use mmkit_addr::Pfn;
use mmkit_folio::{Hold, MapError, Mapcounts, RunHold};
use mmkit_page::{Bounds, Folio, Frozen, GetError, MemMap, PageFlags, Reader};

use crate::sink::leading_in;
use crate::{Extent, FolioHolds, PageRef, Stretch};

/// Who marks folios as dirty that were written through their pins.
pub trait Dirty<M: MemMap> {
    /// Whether it does anything at all.
    const MARKS: bool = true;

    /// Locks `folio`, marks it, and unlocks it. Called once for each folio and run, if it is not dirty already. It may wait
    /// for the lock. Linux: `folio_lock` and `folio_mark_dirty`.
    fn mark(&self, folio: &Folio<'_, M>);
}

/// Nothing was written.
impl<M: MemMap> Dirty<M> for () {
    const MARKS: bool = false;

    fn mark(&self, _: &Folio<'_, M>) {}
}

/// What was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Released {
    /// Frames, each with its hold.
    pub frames: u64,
    /// The first frame that was refused, as its counts showed that it was not held, and why. The others were given back all
    /// the same.
    pub refused: Option<(Pfn, MapError)>,
}

impl Released {
    #[cold]
    fn refuse(&mut self, pfn: Pfn, error: MapError) {
        self.refused = self.refused.or(Some((pfn, error)));
    }
}

/// Gives holds back. Linux: `unpin_user_pages` and its kin, `release_pages`.
///
/// All of it works by the folio: the frames of a folio that come one after the other are one lookup of its head and, of
/// pins, two atomics, however many they are. Nothing but the memory map is needed: no address space, which may be gone.
///
/// The methods are unsafe, as [`Folio::put_raw`] is: they give back what the caller says that it has. What was never held is
/// refused where the counts show it. Safe code has [`Pinned`](crate::Pinned).
#[derive(Debug)]
pub struct Release<'m, M, D = ()> {
    map: &'m M,
    hold: Hold,
    dirty: D,
}

impl<'m, M: MemMap<Counts: Mapcounts>> Release<'m, M> {
    /// Gives back pins.
    #[must_use]
    pub fn pins(map: &'m M) -> Self {
        Self::of(map, Hold::Pin)
    }

    /// Gives back references.
    #[must_use]
    pub fn references(map: &'m M) -> Self {
        Self::of(map, Hold::Get)
    }

    /// Gives back holds of that kind.
    #[must_use]
    pub fn of(map: &'m M, hold: Hold) -> Self {
        Self { map, hold, dirty: () }
    }

    /// Has folios marked as dirty before their holds go. Linux: `unpin_user_pages_dirty_lock`.
    #[must_use]
    pub fn dirty<D: Dirty<M>>(self, dirty: D) -> Release<'m, M, D> {
        Release { map: self.map, hold: self.hold, dirty }
    }
}

impl<'m, M: MemMap<Counts: Mapcounts>, D: Dirty<M>> Release<'m, M, D> {
    /// `frames` consecutive frames from `pfn` on, which may begin and end within folios. Linux:
    /// `unpin_user_page_range_dirty_lock`.
    ///
    /// # Safety
    ///
    /// Each of the frames has a hold of this kind that a walk over an address space with this memory map kept in a sink, and
    /// each such hold is given back at most once.
    pub unsafe fn range(&self, pfn: Pfn, frames: u64) -> Released {
        // SAFETY: passed on.
        unsafe { self.ranges(core::iter::once((pfn, frames))) }
    }

    /// The frames of `extents`.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of the frames of each.
    pub unsafe fn extents(&self, extents: &[Extent]) -> Released {
        // SAFETY: passed on.
        unsafe { self.ranges(extents.iter().map(|extent| (extent.pfn, extent.frames.into()))) }
    }

    /// The pages of an array, some of whose entries may be empty. A page may be there as often as it is held. Linux:
    /// `unpin_user_pages`.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of each entry.
    pub unsafe fn pages(&self, pages: &[Option<PageRef>]) -> Released {
        let (mut reader, mut released) = (Some(self.map.enter()), Released::default());
        let mut rest = pages;
        while let Some((&first, others)) = rest.split_first() {
            let Some(pfn) = first.map(PageRef::pfn) else {
                rest = others;
                continue;
            };
            let inside = |bounds: &Bounds| {
                let inside = leading_in(rest, bounds.head, bounds.order.frames()).max(1);
                low(inside as u64)
            };
            // SAFETY: so many entries are of frames of that folio, each of which has a hold.
            let count = unsafe { self.give(&mut reader, pfn, inside, &mut released) } as usize;
            if let Some(&Some(soon)) = rest.get(count * AHEAD as usize) {
                prefetch(&reader, soon.pfn());
            }
            rest = &rest[count..];
        }
        released
    }

    /// Folios, each as often as it says that it is held; those that are not held at all are passed over. Linux: `unpin_folios`.
    ///
    /// # Safety
    ///
    /// Each of the folios has so many holds of this kind, kept as for [`range`](Self::range), and each is given back at most
    /// once.
    pub unsafe fn folios(&self, folios: &[FolioHolds]) -> Released {
        let (mut reader, mut released) = (Some(self.map.enter()), Released::default());
        for folio in folios.iter().filter(|folio| folio.holds > 0) {
            // SAFETY: passed on.
            unsafe { self.give(&mut reader, folio.head, |_| folio.holds, &mut released) };
        }
        released
    }

    /// Gives back all holds of each folio but one, which keeps all of its pages where they are. Linux: what io_uring does
    /// with buffers of huge pages.
    ///
    /// # Safety
    ///
    /// As for [`folios`](Self::folios).
    pub unsafe fn coalesce(&self, folios: &mut [FolioHolds]) -> Released {
        let (mut reader, mut released) = (Some(self.map.enter()), Released::default());
        for folio in folios.iter_mut().filter(|folio| folio.holds > 1) {
            // SAFETY: passed on, of all but one.
            unsafe { self.give(&mut reader, folio.head, |_| folio.holds - 1, &mut released) };
            folio.holds = 1;
        }
        released
    }

    /// The frames that stretches of bytes have a byte of, where frames have `2^base_shift` bytes.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of the frames of each.
    pub unsafe fn stretches<T: Stretch>(&self, stretches: &[T], base_shift: u32) -> Released {
        let ranges = stretches.iter().filter_map(|stretch| stretch.frames(base_shift));
        // SAFETY: passed on.
        unsafe { self.ranges(ranges.map(|range| (range.start(), range.frames()))) }
    }

    /// First frames, and how many.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of the frames of each.
    #[inline]
    unsafe fn ranges(&self, ranges: impl Iterator<Item = (Pfn, u64)> + Clone) -> Released {
        let (mut reader, mut released) = (Some(self.map.enter()), Released::default());
        let mut soon = Ahead { ranges: ranges.clone(), pfn: Pfn::ZERO, left: 0 };
        let mut steps = AHEAD;
        for (first, frames) in ranges {
            let mut done = 0;
            while let Some(pfn) = first.checked_add(done).filter(|_| done < frames) {
                let left = frames - done;
                let ours = |bounds: &Bounds| low(bounds.frames_from(pfn).min(left));
                // SAFETY: frames of the range, each of which has a hold.
                let count = u64::from(unsafe { self.give(&mut reader, pfn, ours, &mut released) });
                done += count;
                for _ in 0..=core::mem::take(&mut steps) {
                    soon.advance(count);
                }
                prefetch(&reader, soon.pfn);
            }
        }
        released
    }

    /// Gives back, or refuses, as many holds as `n` says of the folio that `pfn` lies in: how many, at least 1.
    ///
    /// # Safety
    ///
    /// The caller has so many holds of this kind on that folio, and gives each back once.
    #[inline(always)]
    unsafe fn give(
        &self,
        reader: &mut Option<Reader<'m, M>>,
        pfn: Pfn,
        n: impl FnOnce(&Bounds) -> u32,
        released: &mut Released,
    ) -> u32 {
        let inside = reader.get_or_insert_with(|| self.map.enter());
        let Some(view) = inside.page(pfn) else {
            released.refuse(pfn, GetError::Absent { pfn }.into());
            return 1;
        };
        let mut frames = 1;
        let n = |bounds: &Bounds| {
            frames = n(bounds);
            frames
        };
        // SAFETY: passed on.
        let hold = match unsafe { RunHold::from_raw(view, n, self.hold) } {
            Ok(hold) => hold,
            Err(error) => {
                released.refuse(pfn, error);
                return frames;
            }
        };
        if D::MARKS
            && let Some(folio) = hold.folio()
            && !folio.flags().contains(PageFlags::DIRTY)
        {
            // It may wait, and must not keep others waiting.
            *reader = None;
            self.dirty.mark(folio);
        }
        match hold.give_back() {
            Ok(last) => {
                released.frames += u64::from(frames);
                if let Some(frozen) = last {
                    self.last(reader, frozen);
                }
            }
            Err(error) => released.refuse(pfn, error),
        }
        frames
    }

    /// Hands a folio back whose last reference that was.
    #[cold]
    fn last(&self, reader: &mut Option<Reader<'m, M>>, frozen: Frozen<'m, M>) {
        // Where it goes, somebody may wait for readers.
        *reader = None;
        self.map.release(frozen);
    }
}

/// `n`, as far as the type goes.
#[inline]
fn low(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Folios by which descriptors are asked for before they are needed.
const AHEAD: u64 = 8;

/// A look at where the folios probably are that come later: each as long as the one that is given back meanwhile.
struct Ahead<I> {
    ranges: I,
    pfn: Pfn,
    /// Frames of its range from there on.
    left: u64,
}

impl<I: Iterator<Item = (Pfn, u64)>> Ahead<I> {
    #[inline]
    fn advance(&mut self, frames: u64) {
        if frames < self.left
            && let Some(pfn) = self.pfn.checked_add(frames)
        {
            (self.pfn, self.left) = (pfn, self.left - frames);
        } else if let Some(next) = self.ranges.next() {
            (self.pfn, self.left) = next;
        }
    }
}

/// Asks for the descriptors of the folio that `pfn` lies in, if it is its first frame.
#[inline]
fn prefetch<M: MemMap>(reader: &Option<Reader<'_, M>>, pfn: Pfn) {
    if let Some(view) = reader.as_ref().and_then(|reader| reader.page(pfn)) {
        view.prefetch(0);
    }
}
