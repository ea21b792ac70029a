// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries as they lie in memory, for those who look at them again and again.

use core::fmt;

use mmkit_addr::{Order, VirtAddr};
use mmkit_sync::atomic::AtomicU64;
use mmkit_sync::prefetch;

use crate::node::Node;
use crate::{Entry, Error, Reader, Slot, TableEnv, Target};

/// Consecutive entries of one table, none of which leads to a table.
#[derive(Clone, Copy)]
pub struct Cells<'r> {
    /// The entries, by address. [`Entry::decode`] and [`Slot::for_readers`] tell what they say.
    pub entries: &'r [AtomicU64],
    /// log2 of the frames that each of them would map: 0 in a last-level table.
    pub order: Order,
}

impl fmt::Debug for Cells<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells")
            .field("len", &self.entries.len())
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}

impl<'t, E: Entry, V: TableEnv> Reader<'t, E, V> {
    /// The entries from the one that translates `at` on, as many as lie one behind the other in one frame of a table, are no
    /// tables, and translate addresses below `end`. There is at least that one.
    ///
    /// They are the entries themselves: whoever holds no lock may find them changed at the next look, and what they lead to is
    /// kept only as long as the reader. Where the addresses go on behind the table, the processor is asked for the next one, which
    /// whoever reads on needs when he is through with this one. Cost: one acquire load for each level above, and in those for
    /// each entry.
    ///
    /// # Errors
    ///
    /// [`Error::NotCanonical`].
    ///
    /// # Safety
    ///
    /// The entries are loaded, and never stored to.
    pub unsafe fn cells(&self, at: VirtAddr, end: VirtAddr) -> Result<Cells<'_>, Error> {
        let position = self.tables.position(at)?;
        // Addresses below the end, in the same half; `whole` cuts the rest.
        let past = end.get().saturating_sub(at.get()).max(1) - 1;
        let (mut node, mut above) = (self.root(), None);
        loop {
            let index = node.index(position);
            if let Slot::Present(Target::Table { pfn } | Target::Shared { pfn }) =
                node.slot(index).for_readers()
            {
                above = Some((node, index));
                node = self.child(node, index, pfn);
                continue;
            }
            let (wanted, whole) = (position.saturating_add(past), node.whole().last);
            if let Some((above, index)) = above
                && wanted > whole
                && above.whole().last > whole
            {
                self.ask_for(above, index + 1);
            }
            let last = wanted.min(whole);
            // The span touches one frame of the table, or several, of which this is the first.
            let (_, entries) = node.first_row(position, last);
            let is_table = |index: u64| {
                matches!(
                    node.slot(index).for_readers(),
                    Slot::Present(Target::Table { .. } | Target::Shared { .. })
                )
            };
            let len = if node.level == 0 {
                entries.len()
            } else {
                (index..).zip(entries).take_while(|&(index, _)| !is_table(index)).count().max(1)
            };
            return Ok(Cells { entries: &entries[..len], order: self.tables.shape().leaf_order(node.level) });
        }
    }

    /// Asks the processor for the first entries of the table that an entry leads to, if it does.
    #[inline]
    fn ask_for(&self, node: Node<'t, E, V>, index: u64) {
        if let Slot::Present(Target::Table { pfn } | Target::Shared { pfn }) = node.slot(index).for_readers()
        {
            prefetch(self.child(node, index, pfn).entry_cell(0));
        }
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use std::vec::Vec;

    use mmkit_addr::{Geometry, Level, NodeId, Pfn, VirtRange};
    use mmkit_frame::Bare;
    use mmkit_frame::test_util::TestFrames;
    use mmkit_sync::atomic::Ordering;

    use super::*;
    use crate::{Backing, Mapping, Prot, Tables, X86_64};

    fn va(va: u64) -> VirtAddr {
        VirtAddr::new(va)
    }

    #[test]
    fn a_row_ends_with_its_table_before_a_lower_one_and_at_the_end() {
        let frames = TestFrames::with_frames(64);
        let tables =
            Tables::<X86_64, _>::new(Bare::new(frames.frames()), Geometry::X86_64, NodeId::ZERO).unwrap();
        let map = |start: u64, bytes: u64, frame: u64, level: u8| {
            let backing = Backing::Run(Pfn::new(frame).unwrap());
            let mapping = Mapping::new(backing, Prot::WRITE).at_level(Level::new(level).unwrap());
            tables.map(VirtRange::new(va(start), bytes).unwrap(), mapping).unwrap();
        };
        // PMDs, a table of PTEs, and a PMD.
        map(0, 4 << 20, 0x1000, 1);
        map(4 << 20, 3 << 12, 0x2345, 0);
        map(6 << 20, 2 << 20, 0x3000, 1);
        let reader = tables.read();
        let row = |at: u64, end: u64| {
            // SAFETY: they are only loaded.
            let cells = unsafe { reader.cells(va(at), va(end)) }.unwrap();
            let level = Level::new(cells.order.get() / 9).unwrap();
            let says = cells.entries.iter().map(|cell| X86_64::decode(cell.load(Ordering::Relaxed), level));
            (
                cells.order.get(),
                says.map(|slot| match slot {
                    Slot::Present(target) => target.pfn().get(),
                    _ => 0,
                })
                .collect::<Vec<_>>(),
            )
        };
        assert_eq!(row(0, 8 << 20), (9, [0x1000, 0x1200].to_vec()));
        assert_eq!(row(0x1f_f000, 2 << 20), (9, [0x1000].to_vec()), "an entry that reaches past the end");
        assert_eq!(row(4 << 20, (4 << 20) + (5 << 12)), (0, [0x2345, 0x2346, 0x2347, 0, 0].to_vec()));
        let (order, entries) = row((4 << 20) + (2 << 12), u64::MAX);
        assert_eq!(
            (order, entries.len(), entries[0], entries[1]),
            (0, 510, 0x2347, 0),
            "to the end of the table"
        );
        assert_eq!(row(6 << 20, 10 << 20), (9, [0x3000, 0].to_vec()));
        let (order, entries) = row(1 << 30, u64::MAX);
        assert_eq!((order, entries.len()), (18, 511), "nothing, at the level where that shows");
        // The last table below the first table of PMDs, with one behind it that another table leads to.
        map((1 << 30) - (1 << 12), 2 << 12, 0x4444, 0);
        assert_eq!(row((1 << 30) - (1 << 12), u64::MAX), (0, [0x4444].to_vec()));
        assert_eq!(row(1 << 30, (1 << 30) + (1 << 12)), (0, [0x4445].to_vec()));
        // SAFETY: they are only loaded.
        assert!(matches!(unsafe { reader.cells(va(1 << 47), va(1 << 48)) }, Err(Error::NotCanonical { .. })));
    }
}
