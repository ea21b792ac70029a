// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving back what was held: from extents, ranges, page arrays, folios and stretches of bytes.

use core::mem::ManuallyDrop;

use mmkit_addr::Pfn;
use mmkit_folio::{Hold, MapError, Mapcounts, Rmap};
use mmkit_page::{Folio, Frozen, GetError, MemMap, PageFlags, Reader, References};

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
    fn note(&mut self, pfn: Pfn, frames: u32, given: Result<(), MapError>) {
        match given {
            Ok(()) => self.frames += u64::from(frames),
            Err(error) => self.refused = self.refused.or(Some((pfn, error))),
        }
    }

    fn and(self, other: Self) -> Self {
        Self { frames: self.frames + other.frames, refused: self.refused.or(other.refused) }
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
        let mut reader = Some(self.map.enter());
        // SAFETY: passed on.
        unsafe { self.range_in(&mut reader, pfn, frames) }
    }

    /// The frames of `extents`.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of the frames of each.
    pub unsafe fn extents(&self, extents: &[Extent]) -> Released {
        let mut reader = Some(self.map.enter());
        let mut released = Released::default();
        for (nth, extent) in extents.iter().enumerate() {
            if let Some(soon) = extents.get(nth + AHEAD as usize) {
                prefetch(&reader, soon.pfn, 0, 1);
            }
            // SAFETY: passed on.
            released = released.and(unsafe { self.range_in(&mut reader, extent.pfn, extent.frames.into()) });
        }
        released
    }

    /// The pages of an array, some of whose entries may be empty. A page may be there as often as it is held. Linux:
    /// `unpin_user_pages`.
    ///
    /// # Safety
    ///
    /// As for [`range`](Self::range), of each entry.
    pub unsafe fn pages(&self, pages: &[Option<PageRef>]) -> Released {
        let mut reader = Some(self.map.enter());
        let mut released = Released::default();
        let mut rest = pages;
        while let Some((&first, others)) = rest.split_first() {
            let Some(pfn) = first.map(PageRef::pfn) else {
                rest = others;
                continue;
            };
            // SAFETY: the frame is held, and its hold is given back below, or kept for good.
            match unsafe { self.folio(&mut reader, pfn) } {
                Ok(folio) => {
                    let inside = leading_in(rest, folio.pfn(), span(&folio)).max(1);
                    let count = u32::try_from(inside).unwrap_or(u32::MAX);
                    if let Some(&Some(soon)) = rest.get(count as usize * AHEAD as usize) {
                        prefetch(&reader, soon.pfn(), 0, 1);
                    }
                    // SAFETY: so many holds of its frames.
                    let given = unsafe { self.give(&mut reader, folio, count) };
                    released.note(pfn, count, given);
                    rest = &rest[count as usize..];
                }
                Err(error) => {
                    released.note(pfn, 1, Err(error.into()));
                    rest = others;
                }
            }
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
        let mut reader = Some(self.map.enter());
        let mut released = Released::default();
        for folio in folios.iter().filter(|folio| folio.holds > 0) {
            // SAFETY: passed on.
            let given = unsafe { self.holds(&mut reader, folio.head, folio.holds) };
            released.note(folio.head, folio.holds, given);
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
        let mut reader = Some(self.map.enter());
        let mut released = Released::default();
        for folio in folios.iter_mut().filter(|folio| folio.holds > 1) {
            // SAFETY: passed on, of all but one.
            let given = unsafe { self.holds(&mut reader, folio.head, folio.holds - 1) };
            released.note(folio.head, folio.holds - 1, given);
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
        let mut reader = Some(self.map.enter());
        let ranges = stretches.iter().filter_map(|stretch| stretch.frames(base_shift));
        ranges.fold(Released::default(), |released, range| {
            // SAFETY: passed on.
            released.and(unsafe { self.range_in(&mut reader, range.start(), range.frames()) })
        })
    }

    /// # Safety
    ///
    /// As for [`range`](Self::range).
    #[inline]
    unsafe fn range_in(&self, reader: &mut Option<Reader<'m, M>>, pfn: Pfn, frames: u64) -> Released {
        let (mut released, mut done) = (Released::default(), 0);
        while let Some(pfn) = pfn.checked_add(done).filter(|_| done < frames) {
            // SAFETY: the frame is held, and its hold is given back below, or kept for good.
            match unsafe { self.folio(reader, pfn) } {
                Ok(folio) => {
                    let left = span(&folio) - (pfn.get() - folio.pfn().get());
                    let count = u32::try_from(left.min(frames - done)).unwrap_or(u32::MAX);
                    prefetch(reader, pfn, u64::from(count) * AHEAD, frames - done);
                    // SAFETY: so many holds of its frames.
                    let given = unsafe { self.give(reader, folio, count) };
                    released.note(pfn, count, given);
                    done += u64::from(count);
                }
                Err(error) => {
                    released.note(pfn, 1, Err(error.into()));
                    done += 1;
                }
            }
        }
        released
    }

    /// # Safety
    ///
    /// The folio with the head `pfn` has `n` holds, at least one, that are given back by this.
    unsafe fn holds(&self, reader: &mut Option<Reader<'m, M>>, pfn: Pfn, n: u32) -> Result<(), MapError> {
        // SAFETY: passed on.
        let folio = unsafe { self.folio(reader, pfn) }?;
        // SAFETY: passed on.
        unsafe { self.give(reader, folio, n) }
    }

    /// The folio of a frame that is held.
    ///
    /// # Safety
    ///
    /// The hold is given back after the result was used for the last time.
    #[inline]
    unsafe fn folio(
        &self,
        reader: &mut Option<Reader<'m, M>>,
        pfn: Pfn,
    ) -> Result<ManuallyDrop<Folio<'m, M>>, GetError> {
        let reader = reader.get_or_insert_with(|| self.map.enter());
        let view = reader.page(pfn).ok_or(GetError::Absent { pfn })?;
        // SAFETY: a hold has a reference, and the handle is not dropped: it ends with the hold.
        unsafe { view.adopt() }.map(ManuallyDrop::new)
    }

    /// Gives back `n` holds of a folio.
    ///
    /// # Safety
    ///
    /// The caller has `n` holds of it, at least one, and gives each back once.
    #[inline]
    unsafe fn give(
        &self,
        reader: &mut Option<Reader<'m, M>>,
        folio: ManuallyDrop<Folio<'m, M>>,
        n: u32,
    ) -> Result<(), MapError> {
        if D::MARKS && !folio.flags().contains(PageFlags::DIRTY) {
            // It may wait, and must not keep others waiting.
            *reader = None;
            self.dirty.mark(&folio);
        }
        let references = match self.hold {
            // SAFETY: the caller has so many pins.
            Hold::Pin => unsafe { folio.unpin(n) }?,
            Hold::Get => {
                let (folio, others) = (ManuallyDrop::into_inner(folio), n.saturating_sub(1));
                // SAFETY: the caller has so many references, of which one is the handle's.
                Some(unsafe { References::new(folio, others) })
            }
        };
        if let Some(frozen) = references.and_then(References::put) {
            self.last(reader, frozen);
        }
        Ok(())
    }

    /// Hands a folio back whose last reference that was.
    #[cold]
    fn last(&self, reader: &mut Option<Reader<'m, M>>, frozen: Frozen<'m, M>) {
        // Where it goes, somebody may wait for readers.
        *reader = None;
        self.map.release(frozen);
    }
}

/// Folios by which descriptors are asked for before they are needed.
const AHEAD: u64 = 8;

/// Asks for the descriptors of the folio `distance` frames on, if that is within `frames`.
#[inline]
fn prefetch<M: MemMap>(reader: &Option<Reader<'_, M>>, pfn: Pfn, distance: u64, frames: u64) {
    if distance < frames
        && let Some(reader) = reader
        && let Some(view) = pfn.checked_add(distance).and_then(|pfn| reader.page(pfn))
    {
        view.prefetch();
    }
}

/// Frames that share the folio's counts.
#[inline]
fn span<M: MemMap>(folio: &Folio<'_, M>) -> u64 {
    if folio.is_compound() { folio.order().frames() } else { 1 }
}
