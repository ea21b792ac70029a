// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing what is mapped: protect, upgrade, replace, split, unshare.

mod swap;

use core::cell::Cell;
use core::fmt;

use mmkit_addr::{NodeId, Pfn, VirtAddr, VirtRange};
use mmkit_sync::InsideReader;

use crate::entry::BROKEN;
use crate::node::{Node, Span};
use crate::ranges::Ranges;
use crate::shape::named;
use crate::stash::{Need, Stash};
use crate::tables::{Locked, aligned};
use crate::{Change, ChangeKind, Entry, Error, Mmu, Prot, Released, Slot, TableEnv, Tables, Target};

/// Ranges whose former translations may still be cached. No frame waits for it.
#[must_use = "caches may hold the former translations until the flush"]
pub struct Stale<'t, E: Entry, V: TableEnv> {
    tables: &'t Tables<E, V>,
    ranges: Ranges,
}

impl<E: Entry, V: TableEnv> Stale<'_, E, V> {
    /// Flushes the caches.
    pub fn flush(self) {
        self.tables.flush_caches(&self.ranges);
    }

    /// Lets this flush serve `other` as well.
    ///
    /// # Errors
    ///
    /// `other` again, where it is of other tables.
    pub fn merge(&mut self, other: Self) -> Result<(), Self> {
        if !core::ptr::eq(self.tables, other.tables) {
            return Err(other);
        }
        for &span in other.ranges.as_slice() {
            self.ranges.add(span);
        }
        Ok(())
    }
}

/// What was replaced by something else and may still be in use until a flush: the token owns it.
///
/// Dropped unflushed it leaks: the frames are never given back, the attachment is never taken off its count.
#[must_use = "what was replaced is leaked unless the token is flushed"]
pub struct Replaced<'t, E: Entry, V: TableEnv> {
    tables: &'t Tables<E, V>,
    level: u8,
    span: Span,
    old: Target,
}

impl<'t, E: Entry, V: TableEnv> Replaced<'t, E, V> {
    /// Flushes the caches, waits for readers, and gives back what was replaced.
    ///
    /// # Errors
    ///
    /// The token again, where the read side refused to wait: the calling thread is inside a reader.
    pub fn flush(self) -> Result<Released, (Self, InsideReader)> {
        match self.tables.quiesce(&Ranges::of(self.span)) {
            Ok(()) => Ok(self.release()),
            Err(error) => Err((self, error)),
        }
    }

    /// Flushes many at once: one flush and one wait for all tokens of the same tables. The tokens are taken out of the slice.
    ///
    /// # Errors
    ///
    /// [`InsideReader`] where the read side refused to wait; tokens that are still in the slice were not flushed.
    pub fn flush_all(
        tokens: &mut [Option<Self>],
        mut release: impl FnMut(Released),
    ) -> Result<(), InsideReader> {
        while let Some(tables) = tokens.iter().flatten().map(|token| token.tables).next() {
            let same = |token: &&mut Option<Self>| {
                token.as_ref().is_some_and(|token| core::ptr::eq(token.tables, tables))
            };
            let mut ranges = Ranges::new();
            for token in tokens.iter_mut().filter(same).filter_map(|token| token.as_ref()) {
                ranges.add(token.span);
            }
            tables.quiesce(&ranges)?;
            for token in tokens.iter_mut().filter(same).filter_map(Option::take) {
                release(token.release());
            }
        }
        Ok(())
    }

    /// After the flush.
    fn release(self) -> Released {
        let mut locked = self.tables.lock();
        locked.released(self.level, self.span, self.old)
    }
}

impl<E: Entry, V: TableEnv> Tables<E, V> {
    /// Changes what every leaf of `range` allows. All of it must be mapped by private leaves that lie in it whole. Leaves that
    /// are [`Prot::GLOBAL`] stay so and others do not become so: a processor that caches a translation as one of all address
    /// spaces and finds it as one of a single space may do anything. [`replace`](Self::replace) changes that too.
    ///
    /// The change is in force once the token is flushed. Cost: two loads per entry, and one store per leaf
    /// that changes.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`], [`Error::NotMapped`], [`Error::Pending`],
    /// [`Error::Partial`], [`Error::Shared`]. Nothing has changed then.
    pub fn protect(&self, range: VirtRange, prot: Prot) -> Result<Stale<'_, E, V>, Error> {
        let span = self.span(range)?;
        let locked = self.lock();
        locked.check_mapped(locked.root(), span, false)?;
        locked.protect(locked.root(), span, |old| {
            prot.difference(Prot::GLOBAL) | old.intersection(Prot::GLOBAL)
        });
        Ok(Stale { tables: self, ranges: Ranges::of(span) })
    }

    /// Takes from every private leaf of `range` what `keep` does not allow; where nothing is mapped, nothing happens. With
    /// [`Prot::READ`] all of it becomes read-only, which is what a fork asks for. What is
    /// [`Prot::GLOBAL`] stays so, as with [`protect`](Self::protect).
    ///
    /// The change is in force once the token is flushed. Cost: one load per entry, one entry written per leaf that changes.
    /// What waits for a flush is left alone: if its batch is cancelled, it comes back as it was.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::BadRange`], [`Error::Misaligned`], [`Error::Partial`], [`Error::Shared`].
    /// Nothing has changed then.
    pub fn restrict(&self, range: VirtRange, keep: Prot) -> Result<Stale<'_, E, V>, Error> {
        let span = self.span(range)?;
        let locked = self.lock();
        locked.check_private(locked.root(), span)?;
        locked.protect(locked.root(), span, |prot| prot & (keep | Prot::GLOBAL));
        Ok(Stale { tables: self, ranges: Ranges::of(span) })
    }

    /// Lets the private leaf that maps `va` allow `more` as well, if it maps the block of frames that starts at `expected`. It does
    /// not become [`Prot::GLOBAL`], as with [`protect`](Self::protect).
    ///
    /// There is nothing to flush: who has cached what it allowed before is refused once more, and finds out. Cost: one
    /// walk, and one store if that adds something. No memory is needed. Linux: `ptep_set_access_flags`.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::NotMapped`], [`Error::Pending`], [`Error::Shared`], [`Error::Changed`] where
    /// another frame is mapped. Nothing has changed then.
    pub fn upgrade(&self, va: VirtAddr, expected: Pfn, more: Prot) -> Result<(), Error> {
        let position = self.position(va)?;
        let more = more.difference(Prot::GLOBAL);
        let locked = self.lock();
        let (node, index, slot) = locked.find(position);
        let Target::Leaf { pfn, prot } = locked.leaf(va, slot)? else { return Err(Error::NotMapped { va }) };
        if pfn != expected {
            return Err(Error::Changed { va, found: pfn });
        }
        if !prot.contains(more) {
            node.set(index, Slot::Present(Target::Leaf { pfn, prot: prot | more }));
        }
        Ok(())
    }

    /// Replaces the frames behind the private leaf at `va`, if it maps the block of frames that starts at `expected`.
    ///
    /// A [`Reader`](crate::Reader) finds the old leaf or the new one; so does a processor, or it faults for a moment
    /// where the machine breaks before it makes ([`Mmu::replace`]).
    /// The token owns the old frames. No memory is needed.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::NotMapped`], [`Error::Pending`], [`Error::Shared`], [`Error::Changed`] where
    /// another frame is mapped, [`Error::Misaligned`] (`va` or `new`, to the leaf's size), [`Error::Encode`],
    /// [`Error::TryAgain`] where the machine could not do it. Nothing has changed then.
    pub fn replace(
        &self,
        va: VirtAddr,
        expected: Pfn,
        new: Pfn,
        prot: Prot,
    ) -> Result<Replaced<'_, E, V>, Error> {
        let position = self.position(va)?;
        let locked = self.lock();
        let (node, index, slot) = locked.find(position);
        let old = locked.leaf(va, slot)?;
        let (level, found) = (node.level, old.pfn());
        aligned(va.get(), self.shape().span(level))?;
        aligned(new.get(), self.shape().leaf_order(level).frames())?;
        if found != expected {
            return Err(Error::Changed { va, found });
        }
        let target = Target::Leaf { pfn: new, prot };
        E::encode(Slot::Present(target), named(level))?;
        locked.update(node, index, old, target, ChangeKind::Leaf)?;
        Ok(Replaced { tables: self, level, span: node.span(index), old })
    }

    /// Splits the leaf that maps `va` into a table of leaves of the level below: the same frames, allowing the same.
    ///
    /// One table is taken, on `node` if possible, before the lock is. Flush before anything below is changed: a
    /// processor that caches the large leaf and finds a small one that contradicts it may do anything.
    ///
    /// There is no inverse: the leaves of a table rarely are one run of frames again. Where they are, unmap them and map the
    /// large leaf.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::NotMapped`], [`Error::Pending`], [`Error::Shared`], [`Error::BadLevel`] where the
    /// leaf is a single frame or the level below has no leaves, [`Error::Alloc`], [`Error::TryAgain`]. Nothing has
    /// changed then.
    pub fn split(&self, va: VirtAddr, node: NodeId) -> Result<Stale<'_, E, V>, Error> {
        let position = self.position(va)?;
        let mut stash = Stash::new(self, node);
        loop {
            let locked = self.lock();
            let (parent, index, slot) = locked.find(position);
            let old = locked.leaf(va, slot)?;
            let Target::Leaf { pfn: start, prot } = old else { return Err(Error::NotMapped { va }) };
            let level = parent.level.checked_sub(1).filter(|&level| self.shape().is_leaf(level));
            let level = level.ok_or(Error::BadLevel { level: named(parent.level) })?;
            let Some(pfn) = stash.pop(level) else {
                drop(locked);
                stash.fill(&one(level))?;
                continue;
            };
            // SAFETY: just popped from the stash for this level, so unpublished and ours.
            let table = unsafe { parent.child(index, pfn) };
            let step = self.shape().leaf_order(level).frames();
            for index in 0..self.shape().entries(level) {
                // The leaf's frames exist, and these are they.
                let pfn = start.checked_add(index * step).unwrap_or(Pfn::MAX);
                table.set(index, Slot::Present(Target::Leaf { pfn, prot }));
            }
            let result = locked.update(parent, index, old, Target::Table { pfn }, ChangeKind::Split);
            let span = parent.span(index);
            drop(locked);
            return self
                .published(pfn, level, result)
                .map(|()| Stale { tables: self, ranges: Ranges::of(span) });
        }
    }

    /// Replaces the shared table that `va` is mapped through by a private copy, which can then be changed.
    ///
    /// One table is taken, on `node` if possible. The token owns one attachment, which its flush takes off the count.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`], [`Error::NotMapped`], [`Error::Pending`], [`Error::NotShared`], [`Error::Alloc`],
    /// [`Error::TryAgain`]. Nothing has changed then.
    pub fn unshare(&self, va: VirtAddr, node: NodeId) -> Result<Replaced<'_, E, V>, Error> {
        let position = self.position(va)?;
        let mut stash = Stash::new(self, node);
        loop {
            let locked = self.lock();
            let (parent, index, slot) = locked.find(position);
            let shared = match slot {
                Slot::Present(Target::Shared { pfn }) => pfn,
                Slot::Present(_) => return Err(Error::NotShared { va }),
                Slot::Pending(..) => return Err(Error::Pending { va }),
                Slot::Empty => return Err(Error::NotMapped { va }),
            };
            let level = parent.level - 1;
            let Some(pfn) = stash.pop(level) else {
                drop(locked);
                stash.fill(&one(level))?;
                continue;
            };
            // SAFETY: just popped from the stash for this level, so unpublished and ours.
            let table = unsafe { parent.child(index, pfn) };
            // SAFETY: the lock is held and the entry leads to it, so it has an attachment and is not given back.
            let source = unsafe { parent.child(index, shared) };
            for index in 0..self.shape().entries(level) {
                table.set_raw(index, source.raw(index));
            }
            let old = Target::Shared { pfn: shared };
            let result = locked.update(parent, index, old, Target::Table { pfn }, ChangeKind::Unshare);
            let (parent_level, span) = (parent.level, parent.span(index));
            drop(locked);
            self.published(pfn, level, result)?;
            return Ok(Replaced { tables: self, level: parent_level, span, old });
        }
    }

    /// Gives the table back if it was not published after all.
    fn published(&self, pfn: Pfn, level: u8, result: Result<(), Error>) -> Result<(), Error> {
        if result.is_err() {
            // SAFETY: it came from the stash for this level, and an update that fails has published nothing.
            unsafe { self.free_table(pfn, level) };
        }
        result
    }
}

fn one(level: u8) -> Need {
    let mut need: Need = Default::default();
    need[usize::from(level)] = 1;
    need
}

impl<'t, E: Entry, V: TableEnv> Locked<'t, E, V> {
    /// The private leaf in a slot.
    fn leaf(&self, va: VirtAddr, slot: Slot) -> Result<Target, Error> {
        match slot {
            Slot::Present(leaf @ Target::Leaf { .. }) => Ok(leaf),
            Slot::Present(_) => Err(Error::Shared { va }),
            Slot::Pending(..) => Err(Error::Pending { va }),
            Slot::Empty => Err(Error::NotMapped { va }),
        }
    }

    /// Replaces a live entry, as the machine allows.
    fn update(
        &self,
        node: Node<'t, E, V>,
        index: u64,
        old: Target,
        new: Target,
        kind: ChangeKind,
    ) -> Result<(), Error> {
        let span = node.span(index);
        let change = Change {
            cell: node.entry_cell(index),
            broken: node.encode(Slot::Pending(old, BROKEN)),
            new: node.encode(Slot::Present(new)),
            kind,
            level: named(node.level),
            range: self.tables.va_range(span),
            cleared: Cell::new(false),
            written: Cell::new(false),
        };
        let result = self.tables.env().mmu().replace(&change);
        if change.written.get() {
            return Ok(());
        }
        match result {
            Ok(()) => node.set(index, Slot::Present(new)),
            Err(_) => {
                if change.cleared.get() {
                    node.set(index, Slot::Present(old));
                }
                return Err(Error::TryAgain { va: self.tables.va(span.from) });
            }
        }
        Ok(())
    }

    /// Changes what the private leaves of `span` allow; none of them reaches out of it.
    fn protect(&self, node: Node<'t, E, V>, span: Span, change: impl Fn(Prot) -> Prot + Copy) {
        if node.level > 0 {
            for (index, part) in node.indices(span) {
                if let Slot::Present(Target::Table { pfn }) = node.slot(index) {
                    // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under it.
                    self.protect(unsafe { node.child(index, pfn) }, part, change);
                }
            }
        }
        node.rewrite(span, |slot| match slot {
            Slot::Present(Target::Leaf { pfn, prot }) => {
                let new = change(prot);
                (new != prot).then_some(Slot::Present(Target::Leaf { pfn, prot: new }))
            }
            _ => None,
        });
    }

    /// Fails where `span` has shared tables, or begins or ends inside a leaf.
    fn check_private(&self, node: Node<'t, E, V>, span: Span) -> Result<(), Error> {
        if node.level == 0 {
            return Ok(());
        }
        for (index, part) in node.indices(span) {
            let va = self.tables.va(part.from);
            match node.slot(index) {
                Slot::Present(Target::Table { pfn }) => {
                    // SAFETY: the lock is held, and what is linked is given back only after it was unlinked under it.
                    self.check_private(unsafe { node.child(index, pfn) }, part)?;
                }
                Slot::Present(Target::Shared { .. }) => return Err(Error::Shared { va }),
                Slot::Present(Target::Leaf { .. }) if part != node.span(index) => {
                    return Err(Error::Partial { va, level: named(node.level) });
                }
                Slot::Present(_) | Slot::Pending(..) | Slot::Empty => {}
            }
        }
        Ok(())
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Stale<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.as_slice().iter().map(|&span| self.tables.va_range(span));
        f.debug_list().entries(ranges).finish()
    }
}

impl<E: Entry, V: TableEnv> fmt::Debug for Replaced<'_, E, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range: VirtRange = self.tables.va_range(self.span);
        f.debug_struct("Replaced").field("range", &range).field("old", &self.old).finish()
    }
}
