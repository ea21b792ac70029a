// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising: all pages of descriptors but the first give their frames back, and become shared tails.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{DESCRIPTOR_BYTES, Order, Pfn};
use mmkit_frame::Request;
use mmkit_page::{Frozen, MemMap, OWN_DESCRIPTORS, Template};
use mmkit_sync::{ReadSide, mutant};

use super::batch::{Batch, Known};
use super::records::Records;
use super::{HvoError, HvoReport};
use crate::{Backing, Exchange, Removed, TailRun, Taken, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Whether compounds may be optimised. Linux: the sysctl `vm.hugetlb_optimize_vmemmap`.
    #[must_use]
    pub fn is_optimising(&self) -> bool {
        self.hvo.on.load(Ordering::Relaxed)
    }

    /// Says whether compounds may be optimised from now on. Those that are stay so until they are restored. At first it is
    /// as [`VmemmapEnv::optimises`] says.
    pub fn set_optimising(&self, on: bool) {
        self.hvo.on.store(on, Ordering::Relaxed);
    }

    /// Optimises one compound: a [batch](Self::optimise_batch) of one.
    ///
    /// # Errors
    ///
    /// [`HvoError`]. The compound is as before, but for [`HvoError::Partial`].
    pub fn optimise<M: MemMap>(&self, folio: &mut Frozen<'_, M>) -> Result<(), HvoError> {
        self.optimise_batch(core::slice::from_mut(folio)).ok().map(drop)
    }

    /// Optimises compounds that nobody refers to: of each, only the first page of descriptors keeps memory of its own; all
    /// others become the tails that its zone shares. Linux: `hugetlb_vmemmap_optimize_folios`.
    ///
    /// A compound that is optimised already is left alone. One that cannot be is reported and left as it was, and the
    /// batch goes on. In two passes:
    ///
    /// 1. Huge leaves of the address space that map the descriptors are *split*. One flush.
    /// 2. Each head is marked; its first page of descriptors is copied to a fresh frame, so that the old frames become free
    ///    in whole runs (where there is no frame, the old one stays); then the pages are *remapped*. One flush.
    ///
    /// Readers are waited for once: between the passes where the address space [translates](VmemmapSpace::translates),
    /// because one of them may be about to write a descriptor that becomes read-only; otherwise after the second, because one
    /// of them may hold a pointer to a frame that is given back. Frames are given back after the second flush, never before.
    ///
    /// If memory runs out, what the batch has freed so far is flushed and given back, and the compound is tried once more.
    ///
    /// It takes the memory map's lock, and must not be called inside a reader.
    ///
    /// Cost: for each compound one frame taken, `v` given back where it has `v` pages, one page copied, `v` entries written
    /// (one for each last-level table that becomes shared whole); two flushes and one wait for the batch, whatever its size.
    pub fn optimise_batch<M: MemMap>(&self, folios: &mut [Frozen<'_, M>]) -> HvoReport {
        self.optimise_all(folios)
    }

    /// The same for anything with compounds in it.
    pub(super) fn optimise_all<'m, M: MemMap + 'm>(&self, folios: &mut [impl Holds<'m, M>]) -> HvoReport {
        let mut report = HvoReport::default();
        let refused = match () {
            () if !self.is_optimising() => Some(HvoError::Off),
            // Asked before the lock is taken: who waits for this reader may have it.
            () if !self.env.read_side().may_wait() => Some(HvoError::Map(VmemmapError::InsideReader)),
            () => None,
        };
        if let Some(error) = refused {
            refuse(folios, &mut report, |_| error);
            return report;
        }
        let _lock = mutant!("hvo-no-lock", Some(self.locked()), None);
        let mut pass = Pass::default();
        if indexed(folios).any(|(_, folio)| !folio.has_shared_tails()) {
            self.split_all(folios, &mut pass);
        }
        if let Some(pages) = pass.split.take() {
            self.space.flush(pages);
            // A reader of this thread, or one that never leaves: nothing was changed that anybody can see.
            if self.space.translates()
                && let Err(error) = self.wait()
            {
                refuse(folios, &mut report, |folio| self.check_optimise(folio).err().unwrap_or(error));
                return report;
            }
        }
        let mut left = folios.iter_mut().enumerate().peekable();
        while let Some((index, folio)) = left.next() {
            // The next head comes from memory while this compound is copied.
            core::hint::black_box(
                left.peek_mut().and_then(|(_, next)| next.held()).map(|next| next.has_shared_tails()),
            );
            let Some(folio) = folio.held() else { continue };
            if folio.has_shared_tails() {
                report.already += 1;
                continue;
            }
            let mut result = self.remap_checked(folio, &mut pass);
            if result.is_err_and(|error| error.is_no_memory()) && !pass.batch.removed.is_empty() {
                self.flush_batch(&mut pass.batch);
                result = self.remap_checked(folio, &mut pass);
            }
            match result {
                Ok(()) => report.done += 1,
                Err(error) => report.fail(index, error),
            }
        }
        // Counted here for all, before what is given back is subtracted.
        self.hvo.users.fetch_add(pass.users, Ordering::Relaxed);
        self.counts.own.fetch_add(pass.own, Ordering::Relaxed);
        self.flush_batch(&mut pass.batch);
        self.refill_all();
        report
    }

    fn check_optimise<M: MemMap>(&self, folio: &Frozen<'_, M>) -> Result<(), HvoError> {
        let pfn = folio.pfn();
        self.check_compound(folio)?;
        match () {
            () if self.is_poisoned(folio) => Err(HvoError::Poisoned { pfn }),
            () if self.is_hosted(pfn) => Err(HvoError::SelfHosted { pfn }),
            () => Ok(()),
        }
    }

    /// The first pass. It stops at the first failure: what is freed later may help. Where no leaf is huge, it looks at no
    /// compound, and once at each stretch of descriptors as long as a huge leaf.
    fn split_all<'m, M: MemMap + 'm>(&self, folios: &mut [impl Holds<'m, M>], pass: &mut Pass<'_>) {
        let leaf = self.space.leaf_order().map_or(0, Order::get);
        let mut last = None;
        for (_, folio) in indexed(folios) {
            let start = self.compound_pages(folio.pfn(), Order::ZERO).start;
            let block = start >> leaf;
            if last == Some(block) {
                continue;
            }
            last = Some(block);
            let pages = block << leaf..(block + 1) << leaf;
            pass.split = Some(match pass.split.take() {
                Some(hull) => hull.start.min(pages.start)..hull.end.max(pages.end),
                None => pages,
            });
            if pass.short || !self.space.is_leaf(start + 1) {
                continue;
            }
            if folio.has_shared_tails() || self.check_optimise(folio).is_err() {
                last = None;
                continue;
            }
            // SAFETY: the pages of a compound are mapped by this memory map.
            pass.short = unsafe { self.space.split(start + 1, folio.place().node) }.is_err();
        }
    }

    /// The second pass, for one compound.
    fn remap_checked<'a, M: MemMap>(
        &'a self,
        folio: &mut Frozen<'_, M>,
        pass: &mut Pass<'a>,
    ) -> Result<(), HvoError> {
        self.check_optimise(folio)?;
        let pages = self.compound_pages(folio.pfn(), folio.order());
        if pass.short {
            // SAFETY: the pages of a compound are mapped by this memory map.
            let split = unsafe { self.space.split(pages.start + 1, folio.place().node) };
            if split.map_err(VmemmapError::from)? {
                self.space.flush(pages.clone());
            }
        }
        self.remap(folio, pages, pass)
    }

    fn remap<'a, M: MemMap>(
        &'a self,
        folio: &mut Frozen<'_, M>,
        pages: Range<u64>,
        pass: &mut Pass<'a>,
    ) -> Result<(), HvoError> {
        let key = Self::key_of(folio);
        let slot = self.slot_of(key, &mut pass.known)?;
        let tails = self.join_tails(slot, key, 1).inspect_err(|_| pass.known = None)?;
        pass.users += 1;
        // Modelled descriptors cannot be copied.
        let fresh =
            if cfg!(mmkit_loom) { None } else { self.take(Request::new(Order::ZERO), key.place).ok() };
        // SAFETY: the block is a compound, nobody else has it, and its descriptors but the first few become read-only.
        unsafe { folio.set_shared_tails(true) };
        if let Some(to) = fresh.and_then(|fresh| self.frames().frame(fresh)) {
            let from = folio.descriptor().cast::<u8>();
            let own = (OWN_DESCRIPTORS * DESCRIPTOR_BYTES) as usize;
            // SAFETY: a head of this order is the first descriptor of its page, which the handle keeps readable, and which
            // nobody writes: count 0 keeps references away, and exchanges that compare it fail. `to` is a fresh frame.
            unsafe { from.copy_to_nonoverlapping(to, own) };
            // The others are tails like those of all other pages: they need not be read.
            let rest = self.geometry.descriptors_per_page() - OWN_DESCRIPTORS;
            // SAFETY: within the frame, which has many more descriptors than those.
            let to = unsafe { to.byte_add(own) };
            // SAFETY: the rest of the fresh frame, which nobody accesses before the call below.
            unsafe { Template::tail(key.order, key.place).stream(to, rest as usize) };
            Template::finish_streams();
        }
        let range = pages.start + u64::from(fresh.is_none())..pages.end;
        let mut swap = Swap {
            fresh,
            asked: false,
            tails,
            pages: range.end - range.start,
            done: 0,
            returned: false,
            removed: &mut pass.batch.removed,
            map: self,
        };
        // SAFETY: the frame behind the first page has the same bytes as the one before, and is the caller's; tails read the
        // same as tails. Nobody writes the pages: the compound is frozen, its other descriptors are tails, and where the
        // pages become read-only, those were waited for who may have seen heads there.
        let replaced = unsafe { self.space.replace(range.clone(), key.place.node, &mut swap) };
        let (done, put) = (swap.done, swap.done > 0 && fresh.is_some());
        let unasked = fresh.filter(|_| !swap.returned && done == 0);
        if let Some(unasked) = unasked {
            // SAFETY: taken above, and never put anywhere.
            unsafe { self.give(unasked, Order::ZERO) };
        }
        if done > 0 {
            pass.batch.touch(range.clone());
        }
        pass.own += u64::from(put);
        let Err(error) = replaced else {
            self.follow(folio, fresh);
            return Ok(());
        };
        let left = self.undo(&mut pass.batch, done);
        // Unless it is back, the head's page is the copy.
        if put && left.is_some_and(|first| first == pages.start) {
            self.follow(folio, fresh);
        }
        if left.is_none_or(|first| first > pages.start)
            && let Some(fresh) = fresh.filter(|_| put)
        {
            pass.batch.removed.push_run(self.frames(), fresh, 1);
        }
        if left.is_some() {
            self.hvo.partial.fetch_add(1, Ordering::Relaxed);
            return Err(HvoError::Partial { pfn: folio.pfn(), error: error.into() });
        }
        // SAFETY: every page of the compound's descriptors has its own frame again.
        unsafe { folio.set_shared_tails(false) };
        match done {
            // Nobody has seen the tails there.
            0 => self.leave(key, 1),
            _ => self.leave_later(&mut pass.batch, key),
        }
        pass.known = None;
        Err(HvoError::Map(error.into()))
    }

    /// Has the handle follow its head to the copy, where descriptors are not translated.
    fn follow<M: MemMap>(&self, folio: &mut Frozen<'_, M>, fresh: Option<Pfn>) {
        if self.space.translates() {
            return;
        }
        if let Some(bytes) = fresh.and_then(|fresh| self.frames().frame(fresh)) {
            // SAFETY: the copy stands behind the first page of the compound's descriptors now, whose first one is the
            // head's; `reaches` has compared this pointer with what the space finds there.
            unsafe { folio.moved(bytes.cast()) };
        }
    }

    /// Puts back the last `pages` pages that were removed. The first of them that could not be is returned.
    fn undo(&self, batch: &mut Batch, mut pages: u64) -> Option<u64> {
        while pages > 0 {
            let removed = batch.removed.pop(self.frames())?;
            // SAFETY: handed out by `replace` just now; it was neither discarded nor put back, and what stands behind its
            // pages is this call's.
            let back = unsafe { self.space.put_back(removed) };
            match mutant!("hvo-no-undo", back, Err::<(), _>((removed, crate::MapError::TryAgain))) {
                Ok(()) => pages -= removed.pages,
                Err((rest, _)) => {
                    batch.removed.push(self.frames(), rest);
                    // Those below were removed before, and follow each other.
                    let below = pages - removed.pages;
                    return Some(if below > 0 { removed.page - below } else { rest.page });
                }
            }
        }
        None
    }
}

/// Something that a compound may be in.
pub(super) trait Holds<'m, M: MemMap> {
    fn held(&mut self) -> Option<&mut Frozen<'m, M>>;
}

impl<'m, M: MemMap> Holds<'m, M> for Frozen<'m, M> {
    fn held(&mut self) -> Option<&mut Frozen<'m, M>> {
        Some(self)
    }
}

impl<'m, M: MemMap> Holds<'m, M> for Option<Frozen<'m, M>> {
    fn held(&mut self) -> Option<&mut Frozen<'m, M>> {
        self.as_mut()
    }
}

pub(super) fn indexed<'f, 'm: 'f, M: MemMap + 'm>(
    folios: &'f mut [impl Holds<'m, M>],
) -> impl Iterator<Item = (usize, &'f mut Frozen<'m, M>)> {
    folios.iter_mut().enumerate().filter_map(|(index, folio)| Some((index, folio.held()?)))
}

/// Fails all compounds that are not optimised already.
fn refuse<'m, M: MemMap + 'm>(
    folios: &mut [impl Holds<'m, M>],
    report: &mut HvoReport,
    error: impl Fn(&Frozen<'m, M>) -> HvoError,
) {
    for (index, folio) in indexed(folios) {
        match folio.has_shared_tails() {
            true => report.already += 1,
            false => report.fail(index, error(folio)),
        }
    }
}

/// What one batch has got to.
#[derive(Default)]
struct Pass<'a> {
    batch: Batch,
    known: Option<Known<'a>>,
    /// Compounds that became users of tails.
    users: u64,
    /// Copies of first pages that were put in place.
    own: u64,
    /// The pages of all compounds that are to be optimised.
    split: Option<Range<u64>>,
    /// Whether a huge leaf could not be split.
    short: bool,
}

/// One compound's exchange: a copy of its first page, and tails, for what it had.
struct Swap<'a, S: VmemmapSpace, E: VmemmapEnv> {
    map: &'a Vmemmap<S, E>,
    fresh: Option<Pfn>,
    /// Whether the copy was asked for.
    asked: bool,
    /// Whether it came back.
    returned: bool,
    tails: TailRun,
    pages: u64,
    done: u64,
    removed: &'a mut Records,
}

impl<S: VmemmapSpace, E: VmemmapEnv> Exchange for Swap<'_, S, E> {
    fn next(&mut self) -> (u64, Backing) {
        match self.fresh.filter(|_| !self.asked) {
            Some(first) => {
                self.asked = true;
                (1, Backing::Own { first })
            }
            None => (self.pages - u64::from(self.fresh.is_some()), Backing::Tails(self.tails)),
        }
    }

    fn removed(&mut self, removed: Removed) {
        self.done += removed.pages;
        debug_assert!(removed.what != Taken::Tails);
        self.removed.push(self.map.frames(), removed);
    }

    fn unused(&mut self, first: Pfn, frames: u64) {
        debug_assert!(Some(first) == self.fresh && frames == 1);
        self.returned = true;
        // SAFETY: the frame was taken for this compound, and the space says that it stands nowhere.
        unsafe { self.map.give(first, Order::ZERO) };
    }
}
