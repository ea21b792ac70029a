// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: where they are counted, and runs of pages that are held.

use core::cell::Cell;
use core::fmt;
use core::mem::ManuallyDrop;

use mmkit_addr::{Order, Pfn};
use mmkit_page::{Bounds, Folio, Frozen, GetError, MemMap, PageFlags, PageView, References, Taken};
use mmkit_sync::atomic::Ordering;
use mmkit_sync::mutant;

use crate::shape::Counts;
use crate::words::{PINS, take_from};
use crate::{MapError, Mapcounts};

/// References that a pin of a folio of one page is. Such a folio has no other place for a count that walkers could change by
/// the exchange that takes the reference; so pins are many references, and many references may be taken for pins. Linux:
/// `GUP_PIN_COUNTING_BIAS`.
pub const PIN_BIAS: u32 = 1024;

/// References that `pins` pins of a folio of `order` are.
#[inline]
fn weight(order: Order, pins: u32) -> Option<u32> {
    if order == Order::ZERO { pins.checked_mul(PIN_BIAS) } else { Some(pins) }
}

/// The order that decides where a folio's pins are counted: a block that is no compound has no words but its head's.
#[inline]
fn order_of<M: MemMap>(folio: &Folio<'_, M>) -> Order {
    if folio.is_compound() { folio.order() } else { Order::ZERO }
}

/// Pins; of a folio of one page, as many as its references may be.
#[inline]
pub(crate) fn read<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>) -> u32 {
    if order_of(folio) == Order::ZERO {
        return folio.count() / PIN_BIAS;
    }
    Counts::of(folio).map_or(0, |counts| counts.words.half[PINS].load(Ordering::Relaxed))
}

/// Counts pins whose references are there.
///
/// # Safety
///
/// The folio is a compound.
#[inline]
unsafe fn count<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, n: u32) {
    // SAFETY: this crate keeps the counts of every map whose `Counts` is one of its strategies; the rest is passed on.
    let words = unsafe { folio.second_words() };
    // Each pin has a reference, and there are at most `i32::MAX` of those.
    words.half[PINS].fetch_add(n, Ordering::Relaxed);
}

/// Pins `n` pages.
#[inline]
pub(crate) fn add<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, n: u32) -> Result<(), MapError> {
    if n == 0 {
        return Err(MapError::Empty);
    }
    if folio.flags().contains(PageFlags::ZERO) {
        return Ok(());
    }
    let order = folio.order();
    if order > Order::ZERO && !folio.is_compound() {
        return Err(MapError::NotCompound { order });
    }
    let overflow = GetError::Overflow { pfn: folio.pfn(), count: folio.count() };
    folio.take_raw(weight(order, n).ok_or(overflow)?)?;
    if order > Order::ZERO {
        // SAFETY: it is a compound, as was looked at above.
        unsafe { count(folio, n) };
    }
    Ok(())
}

/// Takes `n` pins off the count, as far as there is one; how many references they are.
///
/// # Safety
///
/// The folio is a compound if `order`, which [`order_of`] says, is not 0.
#[inline]
unsafe fn uncount<M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'_, M>,
    order: Order,
    n: u32,
) -> Result<u32, MapError> {
    if order > Order::ZERO {
        // SAFETY: as in `count`.
        let words = unsafe { folio.second_words() };
        return match take_from(&words.half[PINS], n) {
            Ok(_) => Ok(n),
            Err(pins) => Err(MapError::TooFewPins { pins, removing: n }),
        };
    }
    let references = folio.count();
    match n.checked_mul(PIN_BIAS) {
        Some(weight) if weight <= references => Ok(weight),
        _ => Err(MapError::TooFewPins { pins: references / PIN_BIAS, removing: n }),
    }
}

/// Takes `n` pins back; `None` where they were not counted.
///
/// # Safety
///
/// As for [`Rmap::unpin`](crate::Rmap::unpin).
#[inline]
pub(crate) unsafe fn take<'m, M: MemMap<Counts: Mapcounts>>(
    folio: &Folio<'m, M>,
    n: u32,
) -> Result<Option<References<'m, M>>, MapError> {
    if n == 0 {
        return Err(MapError::Empty);
    }
    if folio.flags().contains(PageFlags::ZERO) {
        return Ok(None);
    }
    // SAFETY: as `order_of` says.
    let references = unsafe { uncount(folio, order_of(folio), n) }?;
    // SAFETY: the caller has `n` pins that were made on this folio, each with its references, and takes them back once. There
    // is one reference at least.
    let handle = unsafe { folio.adopt() };
    // SAFETY: the others of them.
    Ok(Some(unsafe { References::new(handle, references - 1) }))
}

/// Whether each page of a [`RunHold`] has a reference or a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// A reference. Linux: `FOLL_GET`.
    Get,
    /// A pin. Linux: `FOLL_PIN`.
    Pin,
}

/// Consecutive pages of one folio, each of them held once.
///
/// Dropping it gives all holds back: pins first, then references (so that nobody finds pins without references), by one
/// atomic each. A shared page of zeroes ([`PageFlags::ZERO`]) is held by nobody's pins, since it never goes.
#[must_use = "dropping it gives the pages back"]
pub struct RunHold<'m, M: MemMap<Counts: Mapcounts>> {
    /// As many for each frame as for the others; none of pins that are not counted.
    taken: ManuallyDrop<Taken<'m, M>>,
    pfn: Pfn,
    frames: u32,
    order: Order,
    hold: Hold,
}

impl<'m, M: MemMap<Counts: Mapcounts>> RunHold<'m, M> {
    /// Holds the frames from that of `view` on that lie in its folio, at most `most`, and at least 1. Linux:
    /// `try_grab_folio_fast`, `gup_fast_folio_allowed` comes after it.
    ///
    /// The caller needs no reference. How many frames lie in the folio is told by the same word that the references are
    /// counted in, so none is ever taken that has to be given back, whatever is done to the folio meanwhile. References
    /// come first, then pins.
    ///
    /// # Errors
    ///
    /// [`MapError::References`] where none can be had, or not so many; [`MapError::Empty`].
    ///
    /// Cost: one compare-exchange (Acquire), and for pins of a compound one atomic addition. Whoever came by way of an entry
    /// that can change looks at it again, after a `SeqCst` fence (pairs with those of who change it and look for pins).
    #[inline]
    pub fn try_new(view: PageView<'m, '_, M>, most: u32, hold: Hold) -> Result<Self, MapError> {
        Self::try_with(view, most, hold, |run| run)
    }

    /// As [`try_new`](Self::try_new); `done` gets the run. For those who hold very many: it can be put where it stays.
    ///
    /// # Errors
    ///
    /// As [`try_new`](Self::try_new).
    #[inline(always)]
    pub fn try_with<R>(
        view: PageView<'m, '_, M>,
        most: u32,
        hold: Hold,
        done: impl FnOnce(Self) -> R,
    ) -> Result<R, MapError> {
        if most == 0 {
            return Err(MapError::Empty);
        }
        let pfn = view.pfn();
        // What the last call of the first closure saw is what the second gets.
        let seen = Cell::new((0, Order::ZERO));
        let amount = |bounds: Bounds| {
            let Bounds { order, flags, .. } = bounds;
            // At most `most`.
            let frames = bounds.frames_from(pfn).min(most.into()) as u32;
            seen.set((frames, order));
            match hold {
                Hold::Get => Some(frames),
                Hold::Pin if flags.contains(PageFlags::ZERO) => Some(0),
                Hold::Pin => weight(order, frames),
            }
        };
        let taken = view.try_take(amount, |taken| {
            let (frames, order) = seen.get();
            if hold == Hold::Pin
                && order > Order::ZERO
                && let Some(folio) = taken.folio()
            {
                // SAFETY: only a compound has bounds of more than one frame.
                unsafe { count(folio, frames) };
            }
            done(Self { taken: ManuallyDrop::new(taken), pfn, frames, order, hold })
        });
        Ok(taken?)
    }

    /// Takes back holds that were [kept](Self::into_raw): as many as `n` says of the folio's bounds, on frames from that of
    /// `view` on.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`] if that is 0; [`MapError::References`] where the frame has no folio; [`MapError::TooFewPins`] if
    /// there cannot be so many.
    ///
    /// Cost: three loads.
    ///
    /// # Safety
    ///
    /// So many holds of this kind on that folio were kept, or pins made by [`Rmap::pin`](crate::Rmap::pin), or references by
    /// [`Folio::take_raw`]; and each is taken back at most once.
    #[inline(always)]
    pub unsafe fn from_raw(
        view: PageView<'m, '_, M>,
        n: impl FnOnce(&Bounds) -> u32,
        hold: Hold,
    ) -> Result<Self, MapError> {
        let pfn = view.pfn();
        // SAFETY: each hold has a reference, which the handle stands for below; but for those of the page of zeroes, which never
        // goes, and whose handle is for nothing. It is not dropped before it is known which.
        let (folio, bounds) = unsafe { view.adopt() }?;
        let folio = ManuallyDrop::new(folio);
        let (frames, order) = (n(&bounds), bounds.order);
        if frames == 0 {
            return Err(MapError::Empty);
        }
        let references = match hold {
            Hold::Get => Some(frames),
            Hold::Pin if bounds.flags.contains(PageFlags::ZERO) => Some(0),
            Hold::Pin => weight(order, frames),
        };
        let Some(references) = references else {
            return Err(MapError::TooFewPins { pins: folio.count() / PIN_BIAS, removing: frames });
        };
        // SAFETY: the references of the caller's holds; none of those that are not counted.
        let taken = unsafe { Taken::new(ManuallyDrop::into_inner(folio), references) };
        Ok(Self { taken: ManuallyDrop::new(taken), pfn, frames, order, hold })
    }

    /// The folio; `None` of pins that are not counted.
    #[inline]
    #[must_use]
    pub fn folio(&self) -> Option<&Folio<'m, M>> {
        self.taken.folio()
    }

    /// The first frame that is held.
    #[inline]
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// How many frames are held.
    #[inline]
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The folio's first frame.
    #[inline]
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.taken.head()
    }

    /// log2 of the folio's frames.
    #[inline]
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// Index of the first frame in the folio.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u64 {
        self.pfn.get() - self.head().get()
    }

    /// The frames after the first `keep`, as a value of their own; `None`, and nothing changed, unless some stay and some go.
    pub fn split_off(&mut self, keep: u32) -> Option<Self> {
        let gone = self.frames.checked_sub(keep).filter(|&gone| gone > 0 && keep > 0)?;
        let pfn = self.pfn.checked_add(keep.into())?;
        let each = self.taken.count() / self.frames;
        let taken = self.taken.split_off(each * gone)?;
        self.frames = keep;
        Some(Self { taken: ManuallyDrop::new(taken), pfn, frames: gone, order: self.order, hold: self.hold })
    }

    /// Keeps the holds without this value. They leak unless they are taken back: pins by
    /// [`Rmap::unpin`](crate::Rmap::unpin), references as those of [`Folio::take_raw`].
    #[inline]
    pub fn into_raw(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Gives the holds back; of the last reference, the folio, frozen.
    ///
    /// # Errors
    ///
    /// [`MapError::TooFewPins`] where the counts show that there were fewer pins. Nothing was given back then: the references
    /// leak.
    ///
    /// Cost: one atomic subtraction, Release; for pins of a compound one exchange before it.
    #[inline(always)]
    pub fn give_back(self) -> Result<Option<Frozen<'m, M>>, MapError> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: this is its end.
        unsafe { this.finish() }
    }

    /// # Safety
    ///
    /// `self` is neither used nor dropped afterwards.
    #[inline(always)]
    unsafe fn finish(&mut self) -> Result<Option<Frozen<'m, M>>, MapError> {
        // SAFETY: only here, at the end of `self`.
        let taken = unsafe { ManuallyDrop::take(&mut self.taken) };
        let Some(references) = taken.into_references() else { return Ok(None) };
        if self.hold == Hold::Get {
            return Ok(references.put());
        }
        let (order, n) = (self.order, self.frames);
        // SAFETY: only a compound has bounds of more than one frame, and it is one while there are references.
        mutant!("pins-references-first", unsafe { pins_first(references, order, n) }, {
            references_first(references, order, n)
        })
    }
}

/// Takes `n` pins off the count, then gives back their references.
///
/// # Safety
///
/// As for [`uncount`].
#[inline]
unsafe fn pins_first<'m, M: MemMap<Counts: Mapcounts>>(
    references: References<'m, M>,
    order: Order,
    n: u32,
) -> Result<Option<Frozen<'m, M>>, MapError> {
    // SAFETY: passed on.
    match unsafe { uncount(references.folio(), order, n) } {
        Ok(_) => Ok(references.put()),
        Err(error) => {
            let _ = references.into_raw();
            Err(error)
        }
    }
}

/// A mutant: for a moment there are pins that have no references.
#[cfg(mmkit_loom)]
fn references_first<'m, M: MemMap<Counts: Mapcounts>>(
    references: References<'m, M>,
    order: Order,
    n: u32,
) -> Result<Option<Frozen<'m, M>>, MapError> {
    // SAFETY: models do not free the memory of descriptors.
    let stale = ManuallyDrop::new(unsafe { references.folio().adopt() });
    let frozen = references.put();
    // SAFETY: nor do they take the folio apart that it is called for.
    unsafe { uncount(&stale, order, n) }?;
    Ok(frozen)
}

impl<M: MemMap<Counts: Mapcounts>> Drop for RunHold<'_, M> {
    fn drop(&mut self) {
        // SAFETY: this is its end.
        if let Ok(Some(frozen)) = unsafe { self.finish() } {
            frozen.map().release(frozen);
        }
    }
}

impl<M: MemMap<Counts: Mapcounts>> fmt::Debug for RunHold<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHold({:?}, {} frames from {:?})", self.hold, self.frames, self.pfn)
    }
}
