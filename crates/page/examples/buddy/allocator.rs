// SPDX-License-Identifier: MIT OR Apache-2.0
//! A buddy allocator whose only memory, beside a few list heads, is the descriptors of the frames that are free.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mmkit_addr::{Order, Pfn};
use mmkit_page::{Folio, Free, MemMap, SliceMap, State};
use mmkit_sync::atomic::Ordering::Relaxed;

/// Blocks of orders 0 up to 10.
const ORDERS: usize = 11;

/// Which of a free block's private words says what is next and previous in its list.
const NEXT: usize = 0;
const PREV: usize = 1;

/// In a list: a frame number and one, or 0 for none.
type Link = u64;

const fn link(pfn: Pfn) -> Link {
    pfn.get() + 1
}

fn linked(link: Link) -> Option<Pfn> {
    link.checked_sub(1).and_then(Pfn::new)
}

/// The first of each list, one list for each order.
struct Lists([Link; ORDERS]);

/// A buddy allocator over the frames of a map.
///
/// # Invariant
///
/// Nobody else has the map, and handles never leave this type. While the lock is not held, each frame of the map is in a
/// block that is on the list of its order, kept there by [`Free::into_raw`], or in one that was handed out, kept by
/// [`Folio::into_raw`]. So while the lock *is* held, a block in state free is on a list, but for the one in hand.
pub(crate) struct Buddy<'a> {
    map: SliceMap<'a>,
    lists: Mutex<Lists>,
}

impl<'a> Buddy<'a> {
    /// An allocator of all frames of `map` that are at rest.
    pub(crate) fn new(map: SliceMap<'a>) -> Self {
        let buddy = Self { map, lists: Mutex::new(Lists([0; ORDERS])) };
        let range = buddy.map.range();
        let mut lists = buddy.lock();
        for pfn in (range.start().get()..range.end()).filter_map(Pfn::new) {
            if let Ok(free) = buddy.map.claim(pfn) {
                buddy.give_back(&mut lists, free);
            }
        }
        drop(lists);
        buddy
    }

    /// A block of `order`, or `None` where no block is as large. Several frames are a compound.
    pub(crate) fn allocate(&self, order: Order) -> Option<Pfn> {
        let mut lists = self.lock();
        let from = (usize::from(order.get())..ORDERS).find(|&k| lists.0[k] != 0)?;
        let first = linked(lists.0[from])?;
        let mut free = self.take(&mut lists, first);
        while free.order() > order {
            let (low, high) = free.split().ok()?;
            self.put(&mut lists, high);
            free = low;
        }
        let frozen = free.allocate();
        let frozen = if order == Order::ZERO { frozen } else { frozen.prep().ok()? };
        Some(frozen.into_folio().into_raw())
    }

    /// Takes back what `allocate` returned.
    ///
    /// # Safety
    ///
    /// `pfn` was returned by `allocate` of this allocator, and was not given back since.
    pub(crate) unsafe fn deallocate(&self, pfn: Pfn) {
        // SAFETY: `allocate` kept one reference with `into_raw`, and by the caller's promise it is still kept.
        let folio = unsafe { Folio::from_raw(&self.map, pfn) };
        let Some(frozen) = folio.and_then(Folio::put) else { return };
        let mut lists = self.lock();
        let frozen = match frozen.unprep() {
            Ok(frozen) => frozen,
            Err(single) => single.handle,
        };
        // A block with a frame that the hardware reported is lost.
        if let Ok(free) = frozen.into_free() {
            self.give_back(&mut lists, free);
        }
    }

    /// Free blocks of each order.
    pub(crate) fn free_blocks(&self) -> [usize; ORDERS] {
        let lists = self.lock();
        lists.0.map(|first| {
            let next = |pfn: &Pfn| self.with(*pfn, |free| linked(free.words()[NEXT].load(Relaxed)));
            std::iter::successors(linked(first), next).count()
        })
    }

    /// Joins `free` with the other halves that are free, and puts the result on its list.
    fn give_back<'m>(&'m self, lists: &mut Lists, mut free: Free<'m, SliceMap<'a>>) {
        while usize::from(free.order().get()) + 1 < ORDERS {
            let Some(other) = Pfn::new(free.pfn().get() ^ free.order().frames()) else { break };
            let reader = self.map.enter();
            let state = reader.page(other).map(|page| page.state());
            if state != Some(State::Free { order: free.order(), parked: false }) {
                break;
            }
            free = match free.merge(self.take(lists, other)) {
                Ok(joined) => joined,
                // Another place: they stay two.
                Err(refused) => {
                    let (free, other) = refused.handle;
                    self.put(lists, other);
                    return self.put(lists, free);
                }
            };
        }
        self.put(lists, free);
    }

    /// Puts `free` first on the list of its order.
    fn put(&self, lists: &mut Lists, free: Free<'_, SliceMap<'a>>) {
        let first = &mut lists.0[usize::from(free.order().get())];
        free.words()[NEXT].store(*first, Relaxed);
        free.words()[PREV].store(0, Relaxed);
        if let Some(next) = linked(*first) {
            self.with(next, |next| next.words()[PREV].store(link(free.pfn()), Relaxed));
        }
        *first = link(free.into_raw());
    }

    /// Takes a block off its list.
    fn take<'m>(&'m self, lists: &mut Lists, pfn: Pfn) -> Free<'m, SliceMap<'a>> {
        let free = self.listed(pfn);
        let next = free.words()[NEXT].load(Relaxed);
        let prev = free.words()[PREV].load(Relaxed);
        match linked(prev) {
            Some(prev) => self.with(prev, |prev| prev.words()[NEXT].store(next, Relaxed)),
            None => lists.0[usize::from(free.order().get())] = next,
        }
        if let Some(next) = linked(next) {
            self.with(next, |next| next.words()[PREV].store(prev, Relaxed));
        }
        free
    }

    /// Looks into a block that stays on its list.
    fn with<R>(&self, pfn: Pfn, look: impl FnOnce(&Free<'_, SliceMap<'a>>) -> R) -> R {
        let free = self.listed(pfn);
        let result = look(&free);
        let _on_its_list = free.into_raw();
        result
    }

    /// The block at `pfn`, which is on a list; the lock is held.
    fn listed(&self, pfn: Pfn) -> Free<'_, SliceMap<'a>> {
        // SAFETY: the callers have `pfn` from a link, or found it free under the lock: by the invariant it is on a
        // list, put there by `into_raw`, and the lock orders the two.
        let free = unsafe { Free::from_raw(&self.map, pfn) };
        free.expect("a block on a list is in the map")
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
