// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables taken in advance, so that nothing can fail for want of memory while entries change.

use mmkit_addr::{NodeId, Pfn};

use crate::node::Node;
use crate::shape::MAX_LEVELS;
use crate::{Entry, Error, TableEnv, Tables};

/// How many tables of each level an operation wants.
pub(crate) type Need = [u64; MAX_LEVELS];

/// Empty tables that nothing leads to, by level; what is left is given back on drop.
///
/// A list needs no memory of its own: the first word of each table holds the next one's frame number plus one.
pub(crate) struct Stash<'t, E: Entry, V: TableEnv> {
    tables: &'t Tables<E, V>,
    node: NodeId,
    first: [Option<Pfn>; MAX_LEVELS],
    count: Need,
}

impl<'t, E: Entry, V: TableEnv> Stash<'t, E, V> {
    pub(crate) const fn new(tables: &'t Tables<E, V>, node: NodeId) -> Self {
        Self { tables, node, first: [None; MAX_LEVELS], count: [0; MAX_LEVELS] }
    }

    pub(crate) fn covers(&self, need: &Need) -> bool {
        self.count.iter().zip(need).all(|(have, need)| have >= need)
    }

    /// Takes what is missing. Keeps what it got where that fails, for drop to give back.
    pub(crate) fn fill(&mut self, need: &Need) -> Result<(), Error> {
        for level in 0..=self.tables.shape().root() {
            let at = usize::from(level);
            while self.count[at] < need[at] {
                let pfn = self.tables.alloc_table(level, self.node)?;
                // SAFETY: just taken for this level, and nobody else has seen it.
                let table = unsafe { Node::new(self.tables, pfn, level, 0) };
                table.set_word(0, self.first[at].map_or(0, |next| next.get() + 1));
                self.first[at] = Some(pfn);
                self.count[at] += 1;
            }
        }
        Ok(())
    }

    /// One empty table, which is now the caller's.
    pub(crate) fn pop(&mut self, level: u8) -> Option<Pfn> {
        let at = usize::from(level);
        let pfn = self.first[at]?;
        // SAFETY: it was taken for this level, and is in the list: nobody else has seen it.
        let table = unsafe { Node::new(self.tables, pfn, level, 0) };
        self.first[at] = table.word(0).checked_sub(1).and_then(Pfn::new);
        self.count[at] -= 1;
        table.set_word(0, 0);
        Some(pfn)
    }
}

impl<E: Entry, V: TableEnv> Drop for Stash<'_, E, V> {
    fn drop(&mut self) {
        for level in 0..=self.tables.shape().root() {
            while let Some(pfn) = self.pop(level) {
                // SAFETY: it was taken for this level, nothing ever led to it, and it has left the list.
                unsafe { self.tables.free_table(pfn, level) };
            }
        }
    }
}
