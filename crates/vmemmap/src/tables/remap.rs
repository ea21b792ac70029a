// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages of a table space that get other frames while they are read.

use core::ops::Range;
use core::sync::atomic::Ordering;

use mmkit_addr::{Level, NodeId, Pfn};
use mmkit_frame::Env;
use mmkit_pgtable::{Backing as Leaves, Entry, Error, Prot, Share, TableEnv, Target};
use mmkit_sync::{Event, Events};

use super::TableSpace;
use crate::{Backing, Exchange, MapError, Removed, Taken};

/// Empty tables, linked through their first words: the frame number plus one of the next.
#[derive(Debug, Default)]
pub(super) struct Spare {
    first: Option<Pfn>,
    count: u64,
    /// As many as there should be.
    wanted: u64,
}

/// What comes from an [`Exchange`], page by page, and what goes to it, in runs.
pub(super) struct Cursor<'e> {
    exchange: &'e mut dyn Exchange,
    /// How many pages go on as the next one: behind which stands this frame, own memory or tails.
    left: u64,
    own: bool,
    first: Pfn,
    /// What was removed and not told yet.
    run: Option<Removed>,
    /// The page that is replaced next.
    page: u64,
}

impl<'e> Cursor<'e> {
    pub(super) fn new(exchange: &'e mut dyn Exchange, page: u64) -> Self {
        Self { exchange, left: 0, own: false, first: Pfn::ZERO, run: None, page }
    }

    /// The page that is next.
    pub(super) const fn page(&self) -> u64 {
        self.page
    }

    /// What stands behind the next pages, and behind how many of them, but for at most `most`.
    #[inline]
    pub(super) fn piece(&mut self, most: u64) -> (Leaves, Prot, u64) {
        let (first, prot) = self.leaf();
        let leaves = if self.own { Leaves::Run(first) } else { Leaves::Repeat(first) };
        (leaves, prot, self.left.min(most))
    }

    /// Those pages from `page` on that have theirs do not have it after all.
    pub(super) const fn back_to(&mut self, page: u64) {
        self.page = page;
    }

    /// Gives frames back that stand behind no page.
    pub(super) fn unused(&mut self, first: Pfn, frames: u64) {
        self.exchange.unused(first, frames);
    }

    /// Asks for more where nothing is left.
    #[inline]
    fn refill(&mut self) {
        if self.left == 0 {
            // Field by field: a copy of the whole, as wide as it can be, would wait for every store before it.
            match self.exchange.next() {
                (left, Backing::Own { first }) => (self.left, self.own, self.first) = (left, true, first),
                (left, Backing::Tails(run)) => (self.left, self.own, self.first) = (left, false, run.first),
            }
        }
    }

    /// The leaf for the next page.
    #[inline]
    fn leaf(&mut self) -> (Pfn, Prot) {
        self.refill();
        (self.first, if self.own { Prot::WRITE | Prot::GLOBAL } else { Prot::GLOBAL })
    }

    /// The frame of tails behind the next `pages` pages, if they are all tails.
    pub(super) fn tails(&mut self, pages: u64) -> Option<Pfn> {
        self.refill();
        (!self.own && self.left >= pages).then_some(self.first)
    }

    /// The next `pages` pages, no more than there are left of this backing, have theirs.
    pub(super) fn advance(&mut self, pages: u64) {
        self.left -= pages;
        self.page += pages;
        if self.own {
            self.first = self.first.checked_add(pages).unwrap_or(Pfn::MAX);
        }
    }

    /// What the next page was, now that it has been replaced.
    fn replaced(&mut self, pfn: Pfn, prot: Prot) {
        let own = prot.contains(Prot::WRITE);
        match &mut self.run {
            Some(Removed { pages, what: Taken::Tails, .. }) if !own => *pages += 1,
            Some(Removed { pages, what: Taken::Own { first }, .. })
                if own && first.checked_add(*pages) == Some(pfn) =>
            {
                *pages += 1;
            }
            _ => {
                self.tell();
                let what = if own { Taken::Own { first: pfn } } else { Taken::Tails };
                self.run = Some(Removed { page: self.page, pages: 1, what });
            }
        }
        self.advance(1);
    }

    /// Hands out what was removed so far.
    fn tell(&mut self) {
        if let Some(run) = self.run.take() {
            self.exchange.removed(run);
        }
    }

    /// Hands out what was removed, and gives back what was not used.
    pub(super) fn finish(&mut self) {
        self.tell();
        if self.own && self.left > 0 {
            self.exchange.unused(self.first, self.left);
        }
    }
}

impl<E: Entry, V: TableEnv> TableSpace<E, V> {
    pub(super) fn replace_all(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), MapError> {
        let mut cursor = Cursor::new(exchange, pages.start);
        let mut result = Ok(());
        while result.is_ok() && cursor.page < pages.end {
            let end = pages.end.min((cursor.page / self.span + 1) * self.span);
            let whole = end - cursor.page == self.span;
            result = match whole.then(|| cursor.tails(self.span)).flatten() {
                Some(tail) => self.replace_by_share(tail, node, &mut cursor),
                None => self.replace_leaves(end, node, whole, &mut cursor),
            };
        }
        cursor.finish();
        result
    }

    /// Replaces pages up to `end`, which one table maps; by a table that is built aside where that one is shared.
    fn replace_leaves(
        &self,
        end: u64,
        node: NodeId,
        whole: bool,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), MapError> {
        let range = self.range(&(cursor.page..end))?;
        let replaced = self.tables.swap_leaves(
            range,
            cursor,
            |cursor, _| cursor.leaf(),
            |cursor, _, pfn, prot| cursor.replaced(pfn, prot),
        );
        match replaced {
            Err(Error::Shared { .. }) if whole && cursor.page < end => self.replace_by_table(node, cursor),
            replaced => replaced.map_err(|error| self.error(error)),
        }
    }

    /// Puts the shared table of `tail` behind the pages of one table.
    fn replace_by_share(&self, tail: Pfn, node: NodeId, cursor: &mut Cursor<'_>) -> Result<(), MapError> {
        let va = self.address(cursor.page).ok_or(MapError::Missing { page: cursor.page })?;
        let share = self.share(tail, node)?;
        let shared = self.tables.share_table(share).map_err(|error| self.error(error))?;
        // SAFETY: no table is handed over. Shared tables are given back by `free_unused`, for pages that were
        // unmapped and flushed, and by `reclaim`, after the flush and the wait.
        let was = unsafe { self.tables.swap_table(va, Target::Shared { pfn: shared }) };
        let was = was.map_err(|error| {
            self.loose.store(true, Ordering::Relaxed);
            self.error(error)
        })?;
        let what = match was {
            Target::Leaf { pfn, .. } => Taken::Own { first: pfn },
            Target::Shared { .. } => {
                self.loose.store(true, Ordering::Relaxed);
                Taken::Tails
            }
            Target::Table { pfn } => {
                let mut first = None;
                // SAFETY: the table was just taken out, and is not given back before it was discarded.
                unsafe {
                    self.tables.read_table(pfn, |_, frame, prot| {
                        if prot.contains(Prot::WRITE) && first.is_none() {
                            first = Some(frame);
                        }
                    })
                };
                match first {
                    Some(first) => Taken::Table { first, table: pfn },
                    // A private table of tails only. There is no frame to keep its record in.
                    None => {
                        self.tables.env().events().report(&Event::Leaked { pfn: pfn.get(), frames: 1 });
                        Taken::Tails
                    }
                }
            }
        };
        cursor.tell();
        cursor.exchange.removed(Removed { page: cursor.page, pages: self.span, what });
        cursor.advance(self.span);
        Ok(())
    }

    /// The shared table of `tail`.
    pub(super) fn share(&self, tail: Pfn, node: NodeId) -> Result<Share, MapError> {
        let leaves = Leaves::Repeat(tail);
        match self.tables.share_of(Level::LAST, leaves, Self::TAILS) {
            Some(share) => Ok(share),
            None => {
                self.tables.share(Level::LAST, leaves, Self::TAILS, node).map_err(|error| self.error(error))
            }
        }
    }

    /// Puts a table of its own in the place of the shared one behind the next pages.
    fn replace_by_table(&self, node: NodeId, cursor: &mut Cursor<'_>) -> Result<(), MapError> {
        let page = cursor.page;
        let va = self.address(page).ok_or(MapError::Missing { page })?;
        let table = self.take_table(node)?;
        let swapped = self.fill_aside(table, cursor).and_then(|()| {
            // SAFETY: the table was taken above, filled, and nothing leads to it. The share that goes is given back by
            // `reclaim`, after the flush and the wait.
            unsafe { self.tables.swap_table(va, Target::Table { pfn: table }) }
                .map_err(|error| self.error(error))
        });
        cursor.back_to(page);
        match swapped {
            Ok(_) => {
                self.loose.store(true, Ordering::Relaxed);
                cursor.tell();
                cursor.exchange.removed(Removed { page, pages: self.span, what: Taken::Tails });
                cursor.page += self.span;
                Ok(())
            }
            Err(error) => {
                // SAFETY: the table was taken above, nothing ever led to it, and it is not used any more.
                unsafe { self.discard_table(table, &mut |first, frames| cursor.unused(first, frames)) };
                Err(error)
            }
        }
    }

    pub(super) fn put_back_all(&self, removed: Removed) -> Result<(), (Removed, MapError)> {
        let Removed { page, pages, what } = removed;
        let missing = (removed, MapError::Missing { page });
        let (Some(va), Ok(range)) = (self.address(page), self.range(&(page..page + pages))) else {
            return Err(missing);
        };
        let swap = |target| {
            // SAFETY: a table in `target` was returned by `swap_table` of these tables, and nothing leads to it: the
            // caller got it from `replace`, and has it still. Shares are given back by `reclaim`.
            let was = unsafe { self.tables.swap_table(va, target) };
            match was {
                Ok(_) => {
                    self.loose.store(true, Ordering::Relaxed);
                    Ok(())
                }
                Err(error) => Err((removed, self.error(error))),
            }
        };
        let first = match what {
            Taken::Own { first } => first,
            Taken::Table { table, .. } => return swap(Target::Table { pfn: table }),
            Taken::Tails => return Ok(()),
        };
        let mut done = 0;
        let frame = |nth| first.checked_add(nth).unwrap_or(Pfn::MAX);
        let result = self.tables.swap_leaves(
            range,
            &mut done,
            |_, nth| (frame(nth), Self::OWN),
            |done, nth, _, _| *done = nth + 1,
        );
        match result {
            Ok(()) => Ok(()),
            // It was a huge leaf.
            Err(Error::Shared { .. }) if done == 0 => swap(Target::Leaf { pfn: first, prot: Self::OWN }),
            Err(error) => {
                let what = Taken::Own { first: frame(done) };
                Err((Removed { page: page + done, pages: pages - done, what }, self.error(error)))
            }
        }
    }

    /// Hands out the own frames in a table, in runs, and gives the table back.
    ///
    /// # Safety
    ///
    /// As for [`Tables::give_table`](mmkit_pgtable::Tables::give_table).
    pub(super) unsafe fn discard_table(&self, table: Pfn, give: &mut dyn FnMut(Pfn, u64)) {
        let mut run: Option<(Pfn, u64)> = None;
        let each = |_, pfn: Pfn, prot: Prot| {
            if !prot.contains(Prot::WRITE) {
                return;
            }
            match &mut run {
                Some((first, frames)) if first.checked_add(*frames) == Some(pfn) => *frames += 1,
                run => {
                    if let Some((first, frames)) = run.replace((pfn, 1)) {
                        give(first, frames);
                    }
                }
            }
        };
        // SAFETY: passed on to the caller.
        unsafe { self.tables.read_table(table, each) };
        if let Some((first, frames)) = run {
            give(first, frames);
        }
        // SAFETY: passed on to the caller.
        unsafe { self.tables.give_table(table) };
    }

    /// A table from the allocator, or else one that was set aside.
    fn take_table(&self, node: NodeId) -> Result<Pfn, MapError> {
        let taken = self.tables.take_table(node);
        taken.or_else(|error| self.pop_spare().ok_or_else(|| self.error(error)))
    }

    fn pop_spare(&self) -> Option<Pfn> {
        let mut spare = self.spare.lock();
        let table = spare.first?;
        // SAFETY: the table is in the list: nothing leads to it, and only the list's lock does.
        let words = unsafe { self.tables.env().frames().words(table) }?;
        spare.first =
            words.first().and_then(|next| Pfn::new(next.swap(0, Ordering::Relaxed).checked_sub(1)?));
        spare.count -= 1;
        Some(table)
    }

    /// Whether the list of empty tables is shorter than it should be.
    pub(super) fn lacks_spare(&self) -> bool {
        let spare = self.spare.lock();
        spare.count < spare.wanted
    }

    /// Makes the list of empty tables `count` long.
    pub(super) fn fill_spare(&self, count: u64, node: NodeId) -> Result<(), MapError> {
        let before = self.spare.lock().count;
        while self.spare.lock().count < count {
            match self.tables.take_table(node) {
                Ok(table) => self.push_spare(table),
                Err(error) => {
                    self.shrink_spare(before);
                    return Err(self.error(error));
                }
            }
        }
        self.spare.lock().wanted = count;
        self.shrink_spare(count);
        Ok(())
    }

    pub(super) fn push_spare(&self, table: Pfn) {
        // SAFETY: the table is the caller's, who hands it over: nothing leads to it.
        let Some(words) = (unsafe { self.tables.env().frames().words(table) }) else { return };
        let mut spare = self.spare.lock();
        if let Some(next) = words.first() {
            next.store(spare.first.map_or(0, |next| next.get() + 1), Ordering::Relaxed);
        }
        spare.first = Some(table);
        spare.count += 1;
    }

    pub(super) fn shrink_spare(&self, count: u64) {
        while self.spare.lock().count > count {
            let Some(table) = self.pop_spare() else { return };
            // SAFETY: it was in the list: nothing ever led to it, or not since a flush.
            unsafe { self.tables.give_table(table) };
        }
    }
}

impl<E: Entry, V: TableEnv> Drop for TableSpace<E, V> {
    fn drop(&mut self) {
        self.shrink_spare(0);
    }
}
