// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at a frame that one does not own.

use core::fmt;
use core::marker::PhantomData;

use mmkit_addr::{Order, Pfn};
use mmkit_sync::{GetError as CountError, ReadSide, mutant};

use crate::block::Block;
use crate::tag::Tag;
use crate::{ClaimError, Folio, MemMap, PageFlags, Place, Taken};

/// A stay inside the read side of a memory map: its descriptors do not move while this lives.
pub struct Reader<'m, M: MemMap> {
    map: &'m M,
    _guard: <M::Read as ReadSide>::Guard<'m>,
}

impl<'m, M: MemMap> Reader<'m, M> {
    pub(crate) fn new(map: &'m M) -> Self {
        Self { map, _guard: map.read_side().enter() }
    }

    /// A view of the descriptor of `pfn`, or `None` where the map has none.
    #[inline]
    #[must_use]
    pub fn page<'g>(&'g self, pfn: Pfn) -> Option<PageView<'m, 'g, M>> {
        // SAFETY: inside the read side for as long as `self` lives; the view cannot outlive it.
        let block = unsafe { Block::new(self.map, pfn) }?;
        Some(PageView { block, _reader: PhantomData })
    }
}

impl<M: MemMap> fmt::Debug for Reader<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// What a frame is at one moment, as its descriptor tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The descriptor is all zero bytes: nobody initialised it.
    Uninitialised,
    /// Frame of a compound of `order`, not its first.
    Tail {
        /// The order of the compound.
        order: Order,
    },
    /// First frame of a free block of `order`. See [`Free`](crate::Free).
    Free {
        /// The order of the block.
        order: Order,
        /// Nobody has a handle to it.
        parked: bool,
    },
    /// In a larger block that is not a compound, and not its first frame. What the block is, its first frame tells.
    Inside,
    /// Count 0, and in one owner's hands. See [`Frozen`](crate::Frozen).
    Frozen {
        /// The order of the block.
        order: Order,
    },
    /// Referenced `count` times. See [`Folio`].
    Held {
        /// The order of the folio.
        order: Order,
        /// References, at least 1.
        count: u32,
    },
}

impl State {
    pub(crate) fn of(tag: Tag, count: u32) -> Self {
        let order = tag.order();
        match () {
            () if tag == Tag::UNINITIALISED => Self::Uninitialised,
            () if tag.is_tail() => Self::Tail { order },
            () if tag.is_inside() => Self::Inside,
            () if count > 0 => Self::Held { order, count },
            () if tag.is_free() => Self::Free { order, parked: tag.is_parked() },
            () => Self::Frozen { order },
        }
    }
}

/// What the head's word says of a folio, at the moment at which references on it are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The folio's first frame.
    pub head: Pfn,
    /// log2 of its frames. A block that is no compound has nothing in common but its first frame: 0.
    pub order: Order,
    /// Flags, as they were a moment before: only those that never change are sure.
    pub flags: PageFlags,
}

impl Bounds {
    /// Those of the folio that `block` is, which has this tag.
    #[inline(always)]
    fn of<M: MemMap>(block: &Block<'_, M>, tag: Tag) -> Self {
        let order = if tag.is_compound() { tag.order() } else { Order::ZERO };
        Self { head: block.pfn, order, flags: block.flags() }
    }

    /// How many frames there are from `pfn` to the folio's end; 0 where it does not lie in the folio.
    ///
    /// ```
    /// use mmkit_addr::{Order, Pfn};
    /// use mmkit_page::{Bounds, PageFlags};
    ///
    /// let pfn = |n| Pfn::new(n).unwrap();
    /// let bounds = Bounds { head: pfn(8), order: Order::new(2).unwrap(), flags: PageFlags::empty() };
    /// assert_eq!([7, 8, 9, 11, 12].map(|n| bounds.frames_from(pfn(n))), [0, 4, 3, 1, 0]);
    /// ```
    #[inline]
    #[must_use]
    pub fn frames_from(&self, pfn: Pfn) -> u64 {
        // Below the head the difference is more than any folio has.
        self.order.frames().saturating_sub(pfn.get().wrapping_sub(self.head.get()))
    }
}

/// A view of one descriptor, by anyone, inside a [`Reader`]. It only reads.
///
/// Everything it tells is a snapshot. What must stay true needs a reference: [`PageView::try_get`].
///
/// It has no way to write, because the frame may be merged into a compound while it is looked at, and its descriptor
/// become part of a page that is mapped read-only and shared:
///
/// ```compile_fail,E0599
/// # use mmkit_page::{MemMap, PageFlags, PageView};
/// fn write<M: MemMap>(view: &PageView<'_, '_, M>) {
///     view.insert(PageFlags::DIRTY);
/// }
/// ```
///
/// Nor does it lend the descriptor, by reference or as part of a slice:
///
/// ```compile_fail,E0616
/// # use mmkit_page::{MemMap, PageView};
/// fn descriptor<M: MemMap>(view: &PageView<'_, '_, M>) {
///     let _ = &view.block;
/// }
/// ```
///
/// It ends with the reader that it came from:
///
/// ```compile_fail,E0505
/// # use mmkit_page::{MemMap, State};
/// # use mmkit_addr::Pfn;
/// fn after<M: MemMap>(map: &M) -> Option<State> {
///     let reader = map.enter();
///     let view = reader.page(Pfn::ZERO)?;
///     drop(reader);
///     Some(view.state())
/// }
/// ```
///
/// And it cannot leave the function that entered:
///
/// ```compile_fail,E0515
/// # use mmkit_page::{MemMap, PageView};
/// # use mmkit_addr::Pfn;
/// fn escape<M: MemMap>(map: &M) -> Option<PageView<'_, '_, M>> {
///     let reader = map.enter();
///     reader.page(Pfn::ZERO)
/// }
/// ```
pub struct PageView<'m, 'g, M> {
    pub(crate) block: Block<'m, M>,
    _reader: PhantomData<&'g ()>,
}

impl<M> Clone for PageView<'_, '_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for PageView<'_, '_, M> {}

impl<'m, M: MemMap> PageView<'m, '_, M> {
    /// The frame.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.block.pfn
    }

    /// The first frame of the compound that the frame lies in, or the frame itself.
    ///
    /// Cost: one Relaxed load and a mask, no branch.
    #[inline]
    #[must_use]
    pub fn head(&self) -> Pfn {
        let tag = Tag::from_bits(self.block.page().info.load().tag);
        tag.head_of(self.block.pfn)
    }

    /// Tells the processor that the descriptor `ahead` frames further, and the one behind it, will be written soon: so that
    /// those who change many do not wait for one after the other, as loads behind an atomic operation do. It is a hint, and
    /// nothing where there is none, or where the map has that descriptor elsewhere.
    #[inline]
    pub fn prefetch(&self, ahead: u64) {
        let page = self.block.descriptor().as_ptr().wrapping_add(ahead as usize);
        mmkit_sync::prefetch(page);
        mmkit_sync::prefetch(page.wrapping_add(1));
    }

    /// What the frame is at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        let (tag, count) = self.block.page().snapshot();
        State::of(tag, count)
    }

    /// Whether this is the head of a compound of whose descriptors only the first are its own.
    #[must_use]
    pub fn has_shared_tails(&self) -> bool {
        let (tag, _) = self.block.page().snapshot();
        !tag.is_tail() && tag.is_shared()
    }

    /// The flags. Those of a tail are its own, and empty: ask the head's.
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        self.block.flags()
    }

    /// Node and zone.
    #[must_use]
    pub fn place(&self) -> Place {
        self.block.place()
    }

    /// The frame's 64 bytes as eight words, lowest address first. Words may change between the loads.
    #[must_use]
    pub fn words(&self) -> [u64; 8] {
        use mmkit_sync::atomic::Ordering::Relaxed;

        let page = self.block.page();
        let info = page.info.load();
        let pair = |i: usize| {
            let [a, b, c, d] = page.half[i].load(Relaxed).to_ne_bytes();
            let [e, f, g, h] = page.half[i + 1].load(Relaxed).to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        let word = |i: usize| page.word[i].load(Relaxed);
        let flags = page.flags.load(Relaxed);
        [flags, info.raw(), pair(0), pair(2), word(0), word(1), word(2), word(3)]
    }

    /// Takes a reference on the folio that the frame lies in. Linux: `folio_try_get`, without its second look.
    ///
    /// The head's word holds order and count, so the exchange that takes the reference also proves that the head is
    /// still the head of a folio with this frame in it; nothing has to be read again afterwards. Nothing is written
    /// where no reference can be had, so asking for a tail that is mapped read-only does not fault.
    ///
    /// # Errors
    ///
    /// [`GetError`], with nothing changed.
    ///
    /// Cost: two loads, of the frame's word and of its head's, and one compare-exchange, of Acquire ordering: pairs with
    /// the Release that gave the folio to its holders ([`Frozen::into_folio`](crate::Frozen::into_folio)). Source: ours.
    #[inline]
    pub fn try_get(&self) -> Result<Folio<'m, M>, GetError> {
        self.take(|_| Some(1), |block, _| Folio::new(block))
    }

    /// Takes references on the folio that the frame lies in, as many as `amount` says of it, and none of those that it
    /// refuses with `None`. `done` gets them. Where `amount` says 0 they are none, and nothing was written.
    ///
    /// The word that the exchange compares has the folio's bounds in it. So a number that follows from the bounds is right
    /// for the folio that the references are on, and never has to be corrected afterwards.
    ///
    /// (`done` is there so that whoever takes very many can put each where it stays: what is handed back through memory costs
    /// more than the exchange.)
    ///
    /// # Errors
    ///
    /// As [`try_get`](Self::try_get), with nothing changed; [`GetError::Unreferenced`] of what `amount` refuses.
    ///
    /// Cost: as for `try_get`, whatever the number is. `amount` is asked again whenever the word changed meanwhile.
    #[inline(always)]
    pub fn try_take<R>(
        &self,
        amount: impl FnMut(Bounds) -> Option<u32>,
        done: impl FnOnce(Taken<'m, M>) -> R,
    ) -> Result<R, GetError> {
        // SAFETY: `taken` references were taken just now, and are nobody else's; the handle has one of them, or none.
        self.take(amount, |block, taken| done(unsafe { Taken::new(Folio::new(block), taken) }))
    }

    /// A handle for a reference that is kept without one, on the folio that the frame lies in, and that folio's bounds.
    ///
    /// # Errors
    ///
    /// [`GetError::Unreferenced`] where there is no such folio: the caller's books are wrong. Nothing is changed.
    ///
    /// Cost: two loads.
    ///
    /// # Safety
    ///
    /// A reference on that folio was kept by [`Folio::take_raw`], [`Folio::into_raw`] or what says that it keeps it so, and
    /// is taken back at most once.
    #[inline(always)]
    pub unsafe fn adopt(&self) -> Result<(Folio<'m, M>, Bounds), GetError> {
        let pfn = self.block.pfn;
        let head = self.head();
        // SAFETY: inside the reader, and from then on the reference keeps the descriptors.
        let Some(block) = (unsafe { self.block.at_head(head) }) else {
            return Err(GetError::Absent { pfn: head });
        };
        let info = block.page().info.load();
        let tag = Tag::from_bits(info.tag);
        if info.count == 0 || !tag.is_head_over(head, pfn) {
            return Err(GetError::Unreferenced { pfn: head });
        }
        let bounds = Bounds::of(&block, tag);
        Ok((Folio::new(block), bounds))
    }

    /// References on the head, as many as `amount` says; `done` gets the head's block, and how many there are.
    #[inline(always)]
    fn take<R>(
        &self,
        mut amount: impl FnMut(Bounds) -> Option<u32>,
        done: impl FnOnce(Block<'m, M>, u32) -> R,
    ) -> Result<R, GetError> {
        let pfn = self.block.pfn;
        loop {
            let (seen, _) = self.block.page().snapshot();
            // The mutant takes the frame's own word for writable.
            let tag = mutant!("page-get-writes-tail", seen, {
                Tag::from_bits(self.block.page().info.swap_tag(seen.bits()))
            });
            let head = tag.head_of(pfn);
            // SAFETY: the block does not outlive this call unless a reference is taken, which keeps its descriptors; until
            // then the reader that `self` borrows does.
            let Some(block) = (unsafe { self.block.at_head(head) }) else {
                return Err(GetError::Absent { pfn: head });
            };
            let info = &block.page().info;
            let accept = |tag: u32| Tag::from_bits(tag).is_head_over(head, pfn);
            let accept = |tag: u32| mutant!("page-get-any-head", accept(tag), true);
            let wanted = |bits: u32| {
                // Frames by themselves are the most, and need no arithmetic.
                if bits == Tag::SINGLE.bits() && head == pfn {
                    return amount(Bounds::of(&block, Tag::SINGLE));
                }
                accept(bits).then(|| amount(Bounds::of(&block, Tag::from_bits(bits)))).flatten()
            };
            // The mutant looks at what the head is, and then takes a reference on whatever it is by now.
            let found = mutant!("page-get-look-then-add", info.try_get_some(wanted), {
                let mut wanted = wanted;
                match info.load_acquire() {
                    head if head.count > 0 && !accept(head.tag) => Err(CountError::Refused(head.tag)),
                    head => info.try_get_some(|_| wanted(head.tag)),
                }
            });
            match found {
                Ok((_, taken)) => {
                    if taken > 0 {
                        block.page().written();
                    }
                    return Ok(done(block, taken));
                }
                Err(CountError::Overflow { count, .. }) => {
                    return Err(GetError::Overflow { pfn: head, count });
                }
                Err(CountError::Zero) if tag == Tag::UNINITIALISED => {
                    return Err(GetError::Uninitialised { pfn });
                }
                // The frame's own word did not change since: it was so at one moment.
                Err(_) if self.block.page().snapshot().0 == tag => {
                    return Err(GetError::Unreferenced { pfn: head });
                }
                // It was merged or split meanwhile, which somebody else got done: look again.
                Err(_) => {}
            }
        }
    }

    /// Makes the frame a free block at rest, if its descriptor was not initialised.
    pub(crate) fn initialise(&self, place: Place) -> Result<(), ClaimError> {
        let page = self.block.page();
        let free = Tag::head(Order::ZERO).with_free(true);
        let tag = mutant!("page-initialise-parked", free, free.with_parked(true));
        if page.info.set_tag(Tag::UNINITIALISED.bits(), tag.bits()).is_err() {
            return Err(ClaimError::Initialised { pfn: self.block.pfn });
        }
        page.written();
        // The frame is ours now: not parked, so that nobody can claim it before its place is written.
        page.flags.store(place.bits(), mmkit_sync::atomic::Ordering::Relaxed);
        self.block.retag(free.with_parked(true));
        Ok(())
    }
}

impl<M: MemMap> fmt::Debug for PageView<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageView({:?}, {:?})", self.pfn(), self.state())
    }
}

/// Why no reference could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetError {
    /// The memory map has no such frame.
    Absent {
        /// The frame.
        pfn: Pfn,
    },
    /// Nobody initialised the descriptor.
    Uninitialised {
        /// The frame.
        pfn: Pfn,
    },
    /// The folio has no references: it is free, frozen, or being taken apart.
    Unreferenced {
        /// Its head.
        pfn: Pfn,
    },
    /// One more reference would pass the limit of `i32::MAX`.
    Overflow {
        /// The folio's head.
        pfn: Pfn,
        /// References it has.
        count: u32,
    },
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { pfn } => write!(f, "{pfn:?} is not in the memory map"),
            Self::Uninitialised { pfn } => write!(f, "{pfn:?} has a descriptor that was not initialised"),
            Self::Unreferenced { pfn } => write!(f, "{pfn:?} has no references"),
            Self::Overflow { pfn, count } => {
                write!(f, "{pfn:?} has {count} references, and cannot have more")
            }
        }
    }
}

impl core::error::Error for GetError {}
