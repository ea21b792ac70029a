// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables that are filled before anything leads to them.

use core::ops::Range;

use mmkit_addr::{NodeId, Pfn};
use mmkit_pgtable::{Backing as Leaves, Entry, TableEnv};

use super::TableSpace;
use super::remap::Cursor;
use crate::{Exchange, MapError};

impl<E: Entry, V: TableEnv> TableSpace<E, V> {
    pub(super) fn map_all_from(
        &self,
        pages: Range<u64>,
        node: NodeId,
        exchange: &mut dyn Exchange,
    ) -> Result<(), (u64, MapError)> {
        self.range(&pages).map_err(|error| (0, error))?;
        let mut cursor = Cursor::new(exchange, pages.start);
        let mut result = Ok(());
        while result.is_ok() && cursor.page() < pages.end {
            let left = pages.end - cursor.page();
            let whole = cursor.page().is_multiple_of(self.span) && left >= self.span;
            let shared = self.shares && cursor.tails(self.span).is_some();
            let lacks = || self.address(cursor.page()).is_some_and(|va| self.tables.lacks_table(va));
            result = match whole && !shared && lacks() {
                true => self.map_by_table(node, &mut cursor),
                false => self.map_next(left, node, &mut cursor),
            };
        }
        cursor.finish();
        result.map_err(|error| (cursor.page() - pages.start, error))
    }

    /// Maps the next of at most `left` pages, as far as one thing stands behind them.
    fn map_next(&self, left: u64, node: NodeId, cursor: &mut Cursor<'_>) -> Result<(), MapError> {
        let (leaves, prot, count) = cursor.piece(left);
        let pages = cursor.page()..cursor.page() + count;
        match leaves {
            Leaves::Run(_) => self.map_leaves(pages, leaves, prot, node),
            Leaves::Repeat(tail) => self.map_tails(pages, tail, node),
        }?;
        cursor.advance(count);
        Ok(())
    }

    /// Maps the next pages, as many as a table has entries, by one that is filled first.
    fn map_by_table(&self, node: NodeId, cursor: &mut Cursor<'_>) -> Result<(), MapError> {
        let page = cursor.page();
        let va = self.address(page).ok_or(MapError::Missing { page })?;
        let table = self.tables.take_table(node).map_err(|error| self.error(error))?;
        let linked = self.fill_aside(table, cursor).and_then(|()| {
            // SAFETY: the table was taken above, filled, and nothing leads to it.
            unsafe { self.tables.link_table(va, table, node) }.map_err(|error| self.error(error))
        });
        linked.inspect_err(|_| {
            cursor.back_to(page);
            // SAFETY: the table was taken above, nothing ever led to it, and it is not used any more.
            unsafe { self.discard_table(table, &mut |first, frames| cursor.unused(first, frames)) };
        })
    }

    /// Fills a table that nothing leads to with what stands behind the next pages.
    pub(super) fn fill_aside(&self, table: Pfn, cursor: &mut Cursor<'_>) -> Result<(), MapError> {
        let mut at = 0;
        while at < self.span {
            let (leaves, prot, count) = cursor.piece(self.span - at);
            // SAFETY: the caller's table, and it has as many entries as its span has pages.
            let filled = unsafe { self.tables.fill_table(table, at, count, leaves, prot) };
            filled.map_err(|error| self.error(error))?;
            cursor.advance(count);
            at += count;
        }
        Ok(())
    }
}
