// SPDX-License-Identifier: MIT OR Apache-2.0
//! Free lists by order, kept in the private words of the free frames' own descriptors.

use mmkit_addr::{Order, Pfn};
use mmkit_page::{Free, Frozen, MemMap, State};
use mmkit_sync::atomic::Ordering::Relaxed;

/// Blocks of orders 0 up to 10.
pub(crate) const ORDERS: usize = 11;

/// Which private word names the next block of a list, and which the one before.
const NEXT: usize = 0;
const PREV: usize = 1;

/// A frame number plus one, or 0 for none.
const fn link(pfn: Option<Pfn>) -> u64 {
    match pfn {
        Some(pfn) => pfn.get() + 1,
        None => 0,
    }
}

fn linked(link: u64) -> Option<Pfn> {
    link.checked_sub(1).and_then(Pfn::new)
}

/// The first block of each list, and of each list of compounds. Every block on a list was put there with
/// [`Free::into_raw`].
///
/// A compound stays one, for the next who wants one of its order, and its tails are not touched. It is broken up when
/// there is nothing else left.
///
/// All methods must get the one map that the lists belong to.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    first: [Option<Pfn>; ORDERS],
    whole: [Option<Pfn>; ORDERS],
    frames: u64,
}

impl Lists {
    /// Frames on the lists.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes a compound of `order`, if there is one.
    pub(crate) fn take_whole<'m, M: MemMap>(&mut self, map: &'m M, order: Order) -> Option<Frozen<'m, M>> {
        let pfn = (*self.whole.get(usize::from(order.get()))?)?;
        Some(self.remove(map, pfn).allocate())
    }

    /// Takes a block of `order`, which is no compound, splitting a larger one where needed.
    pub(crate) fn take<'m, M: MemMap>(&mut self, map: &'m M, order: Order) -> Option<Frozen<'m, M>> {
        let from = loop {
            let fits = (usize::from(order.get())..ORDERS).find(|&k| self.first[k].is_some());
            match fits {
                Some(from) => break from,
                None => self.break_up(map)?,
            }
        };
        let mut free = self.remove(map, self.first[from]?);
        while free.order() > order {
            match free.split() {
                Ok((low, high)) => {
                    self.put(map, high);
                    free = low;
                }
                // Blocks on lists are no compounds.
                Err(refused) => {
                    self.put(map, refused.handle);
                    return None;
                }
            }
        }
        Some(free.allocate())
    }

    /// Makes a plain block of the largest compound; `None` where no compound is left.
    fn break_up<M: MemMap>(&mut self, map: &M) -> Option<()> {
        let pfn = self.whole.iter().rev().find_map(|&first| first)?;
        let frozen = self.remove(map, pfn).allocate();
        // A free compound has tails of its own and no bad frame, so neither step is refused.
        let free = frozen.unprep().ok()?.into_free().ok()?;
        self.give_back(map, free);
        Some(())
    }

    /// Joins `free` with the other halves that are free, and puts the result on its list. A compound is not joined.
    pub(crate) fn give_back<'m, M: MemMap>(&mut self, map: &'m M, mut free: Free<'m, M>) {
        while !free.is_compound() && usize::from(free.order().get()) + 1 < ORDERS {
            let Some(other) = Pfn::new(free.pfn().get() ^ free.order().frames()) else { break };
            let state = map.enter().page(other).map(|page| page.state());
            let joins = state == Some(State::Free { order: free.order(), parked: false });
            if !joins || listed_whole(map, other) {
                break;
            }
            free = match free.merge(self.remove(map, other)) {
                Ok(joined) => joined,
                Err(refused) => {
                    let (free, other) = refused.handle;
                    self.put(map, other);
                    return self.put(map, free);
                }
            };
        }
        self.put(map, free);
    }

    fn lists(&mut self, whole: bool) -> &mut [Option<Pfn>; ORDERS] {
        if whole { &mut self.whole } else { &mut self.first }
    }

    fn put<'m, M: MemMap>(&mut self, map: &'m M, free: Free<'m, M>) {
        let order = free.order();
        let first = &mut self.lists(free.is_compound())[usize::from(order.get())];
        free.words()[NEXT].store(link(*first), Relaxed);
        free.words()[PREV].store(0, Relaxed);
        if let Some(next) = *first {
            let next = listed(map, next);
            next.words()[PREV].store(link(Some(free.pfn())), Relaxed);
            let _stays = next.into_raw();
        }
        *first = Some(free.into_raw());
        self.frames += order.frames();
    }

    fn remove<'m, M: MemMap>(&mut self, map: &'m M, pfn: Pfn) -> Free<'m, M> {
        let free = listed(map, pfn);
        let order = free.order();
        let [next, prev] = [NEXT, PREV].map(|word| linked(free.words()[word].load(Relaxed)));
        match prev {
            Some(prev) => {
                let prev = listed(map, prev);
                prev.words()[NEXT].store(link(next), Relaxed);
                let _stays = prev.into_raw();
            }
            None => self.lists(free.is_compound())[usize::from(order.get())] = next,
        }
        if let Some(next) = next {
            let next = listed(map, next);
            next.words()[PREV].store(link(prev), Relaxed);
            let _stays = next.into_raw();
        }
        self.frames -= order.frames();
        free
    }
}

/// The block at `pfn`, which is on a list; the lists are locked.
fn listed<M: MemMap>(map: &M, pfn: Pfn) -> Free<'_, M> {
    // SAFETY: the callers have the number from a list or a link, or found the block free and not parked while the lists
    // are locked, which by `Memory`'s invariant only blocks on lists are: `put` kept it with `into_raw`, and the
    // lock orders the two.
    let free = unsafe { Free::from_raw(map, pfn) };
    free.unwrap_or_else(|| unreachable!("{pfn:?} is on a free list and not in the map"))
}

/// Whether the block at `pfn`, which is on a list, is a compound; the lists are locked.
fn listed_whole<M: MemMap>(map: &M, pfn: Pfn) -> bool {
    let free = listed(map, pfn);
    let whole = free.is_compound();
    let _stays = free.into_raw();
    whole
}
