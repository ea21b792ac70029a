// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of huge pages that nobody uses, linked through their own descriptors.

use core::marker::PhantomData;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Free, Frozen, MemMap};
use mmkit_sync::atomic::Ordering::Relaxed;

/// Which of a page's words names the next one of its list.
const NEXT: usize = 0;

/// What the pages of a list are.
pub(super) trait Kind {
    /// The handle of one that is on no list.
    type Page<'m, M: MemMap + 'm>;

    fn order<M: MemMap>(page: &Self::Page<'_, M>) -> Order;

    /// Forgets the handle, and has the descriptor keep the name of the next page.
    fn forget<M: MemMap>(page: Self::Page<'_, M>, next: u64) -> Pfn;

    /// Takes the handle back, and the name of the next page.
    ///
    /// # Safety
    ///
    /// [`forget`](Self::forget) returned `pfn` for a page of `map`, and the handle was not taken back since. One thread at a
    /// time has the list.
    unsafe fn recall<M: MemMap>(map: &M, pfn: Pfn) -> Option<(Self::Page<'_, M>, u64)>;
}

/// Pages to be handed out: they are free.
#[derive(Debug, Default)]
pub(super) struct Ready;

/// Pages with bad frames: they are frozen, for their marks would end with that.
#[derive(Debug, Default)]
pub(super) struct Bad;

impl Kind for Ready {
    type Page<'m, M: MemMap + 'm> = Free<'m, M>;

    fn order<M: MemMap>(page: &Free<'_, M>) -> Order {
        page.order()
    }

    fn forget<M: MemMap>(page: Free<'_, M>, next: u64) -> Pfn {
        page.words()[NEXT].store(next, Relaxed);
        page.into_raw()
    }

    unsafe fn recall<M: MemMap>(map: &M, pfn: Pfn) -> Option<(Free<'_, M>, u64)> {
        // SAFETY: the caller's promise: `into_raw` kept it.
        let page = unsafe { Free::from_raw(map, pfn) }?;
        let next = page.words()[NEXT].load(Relaxed);
        Some((page, next))
    }
}

impl Kind for Bad {
    type Page<'m, M: MemMap + 'm> = Frozen<'m, M>;

    fn order<M: MemMap>(page: &Frozen<'_, M>) -> Order {
        page.order()
    }

    fn forget<M: MemMap>(page: Frozen<'_, M>, next: u64) -> Pfn {
        page.set_apart(next)
    }

    unsafe fn recall<M: MemMap>(map: &M, pfn: Pfn) -> Option<(Frozen<'_, M>, u64)> {
        // SAFETY: the caller's promise: `set_apart` kept it.
        unsafe { Frozen::recall(map, pfn) }
    }
}

/// A stack of compounds. Its memory is a word of each of their heads, which belongs to whoever keeps them.
///
/// # Invariant
///
/// Each compound on the list was put there by [`Kind::forget`], and is taken off by [`Kind::recall`].
#[derive(Debug, Default)]
pub(super) struct List<K> {
    /// The frame number of the first head and one; 0 for none.
    first: u64,
    len: u64,
    kind: PhantomData<K>,
}

impl<K: Kind> List<K> {
    /// Compounds on the list.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Puts a compound first.
    pub(super) fn push<M: MemMap>(&mut self, page: K::Page<'_, M>) {
        self.first = K::forget::<M>(page, self.first).get() + 1;
        self.len += 1;
    }

    /// Takes the first compound off.
    ///
    /// # Safety
    ///
    /// Every compound on the list is one of `map`, and whoever has the list for writing has it alone.
    pub(super) unsafe fn pop<'m, M: MemMap>(&mut self, map: &'m M) -> Option<K::Page<'m, M>> {
        // SAFETY: the caller's promise. Every compound is as good as the other.
        unsafe { self.take(map, |_| true) }
    }

    /// Takes the first compound off that `wanted` says yes to, by its frames.
    ///
    /// Cost: a look at each compound before it.
    ///
    /// # Safety
    ///
    /// As for [`pop`](Self::pop).
    pub(super) unsafe fn take<'m, M: MemMap>(
        &mut self,
        map: &'m M,
        wanted: impl Fn(PfnRange) -> bool,
    ) -> Option<K::Page<'m, M>> {
        let mut before: Option<Pfn> = None;
        let mut link = self.first;
        while let Some(pfn) = link.checked_sub(1).and_then(Pfn::new) {
            // SAFETY: by the invariant `forget` kept the compound; that is undone by nobody but the one who has the list,
            // who forgets it again unless the compound leaves the list.
            let (page, next) = unsafe { K::recall(map, pfn) }?;
            if !wanted(PfnRange::block(pfn, K::order::<M>(&page))) {
                before = Some(K::forget::<M>(page, next));
                link = next;
                continue;
            }
            match before {
                None => self.first = next,
                Some(before) => {
                    // SAFETY: as above: it is on the list, and stays there.
                    let (before, _) = unsafe { K::recall(map, before) }?;
                    let _on_its_list = K::forget::<M>(before, next);
                }
            }
            self.len -= 1;
            return Some(page);
        }
        None
    }
}
