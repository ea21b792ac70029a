// SPDX-License-Identifier: MIT OR Apache-2.0
//! The descriptors of one compound: where they lie and what they cost.

use core::fmt;

use super::{Keep, Resident, Scheme};
use crate::{DESCRIPTOR_BYTES, Geometry, Order, Pfn, TableShape};

/// The descriptors of a compound (a naturally aligned block of frames that is handled as one) of some order, on some
/// architecture; from [`Geometry::compound`].
///
/// The compound's `2^order` descriptors fill `V = 2^order * 64` bytes of vmemmap, `v = V / P` pages of `P` bytes.
/// Only the descriptors in the first of these pages differ: every other page holds nothing but tails, the same in all
/// compounds of the order. With `v >= 2` there is such a page, and the compound can be deduplicated.
///
/// Sizes count whole compounds and cost no memory; everything that does not apply is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compound {
    order: Order,
    base_shift: u8,
    last_table: Option<TableShape>,
}

impl Geometry {
    /// The smallest order worth deduplicating: the one whose descriptors fill two pages (7, 9 and 11 with 4K, 16K and
    /// 64K base pages; Linux: `VMEMMAP_TAIL_MIN_ORDER`).
    #[must_use]
    pub const fn min_dedup_order(&self) -> Order {
        match Order::of_frames(2 * self.descriptors_per_page()) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// The arithmetic of compounds of `order`, or `None` where one is larger than the physical address space.
    #[must_use]
    pub const fn compound(&self, order: Order) -> Option<Compound> {
        if order.frames() <= self.max_frames() {
            Some(Compound { order, base_shift: self.base_shift() as u8, last_table: self.last_table() })
        } else {
            None
        }
    }
}

impl Compound {
    /// log2 of the frames.
    #[must_use]
    pub const fn order(self) -> Order {
        self.order
    }

    /// Bytes of memory that the compound is.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        // A compound is at most the physical address space, which is at most 2^63.
        self.order.frames() << self.base_shift
    }

    const fn page_bytes(self) -> u64 {
        1 << self.base_shift
    }

    /// Bytes of vmemmap that hold the descriptors.
    #[must_use]
    pub const fn vmemmap_bytes(self) -> u64 {
        self.order.frames() * DESCRIPTOR_BYTES
    }

    /// Pages of vmemmap that hold the descriptors, or `None` where they do not fill one (see
    /// [`Compound::per_vmemmap_page`]).
    #[must_use]
    pub const fn vmemmap_pages(self) -> Option<u64> {
        match self.vmemmap_bytes() >> self.base_shift {
            0 => None,
            pages => Some(pages),
        }
    }

    /// Compounds whose descriptors lie in one page of vmemmap, or `None` where they fill more than one.
    #[must_use]
    pub const fn per_vmemmap_page(self) -> Option<u64> {
        match self.page_bytes() / self.vmemmap_bytes() {
            0 => None,
            compounds => Some(compounds),
        }
    }

    /// Whether deduplication saves anything: the descriptors fill at least two pages.
    #[must_use]
    pub const fn is_optimisable(self) -> bool {
        self.saved_pages(Keep::One).is_some()
    }

    /// Pages of vmemmap that each compound gives back when deduplicated, or `None` where that is none.
    #[must_use]
    pub const fn saved_pages(self, keep: Keep) -> Option<u64> {
        match self.vmemmap_pages() {
            Some(pages) if pages > keep.pages() => Some(pages - keep.pages()),
            _ => None,
        }
    }

    /// Bytes of last-level tables whose entries map the descriptors by base pages: 8 for each page. `None` where the
    /// descriptors do not fill a page, or the architecture hashes.
    #[must_use]
    pub const fn last_level_bytes(self) -> Option<u64> {
        match (self.vmemmap_pages(), self.last_table) {
            (Some(pages), Some(_)) => Some(pages * TableShape::ENTRY_BYTES),
            _ => None,
        }
    }

    /// Last-level tables that the descriptors fill, or `None` where they do not fill one (see
    /// [`Compound::per_last_level_table`]) or the architecture hashes.
    #[must_use]
    pub const fn last_level_tables(self) -> Option<u64> {
        match (self.last_level_bytes(), self.last_table) {
            (Some(bytes), Some(table)) if bytes >= table.table_bytes() => Some(bytes / table.table_bytes()),
            _ => None,
        }
    }

    /// Compounds whose descriptors one last-level table maps, or `None` where one compound needs more than one table,
    /// does not fill a page, or the architecture hashes.
    #[must_use]
    pub const fn per_last_level_table(self) -> Option<u64> {
        match (self.last_level_bytes(), self.last_table) {
            (Some(bytes), Some(table)) if bytes <= table.table_bytes() => Some(table.table_bytes() / bytes),
            _ => None,
        }
    }

    /// Last-level tables of the compound that map tail pages only, and so can be shared: all but the first. 0 where
    /// the compound does not fill two tables.
    #[must_use]
    pub const fn tail_only_tables(self) -> u64 {
        match self.last_level_tables() {
            Some(tables) => tables - 1,
            None => 0,
        }
    }

    /// What the descriptors of `compounds` neighbouring compounds occupy, from the start of a vmemmap page; a started
    /// page counts a whole entry. What they share with others is not counted: that is [`Compound::shared_once`].
    ///
    /// `None` where the scheme does not apply (nothing to deduplicate; last-level tables on an architecture that
    /// hashes) or the sum passes 64 bits.
    #[must_use]
    pub const fn resident(self, scheme: Scheme, compounds: u64) -> Option<Resident> {
        let Some(flat) = self.vmemmap_bytes().checked_mul(compounds) else { return None };
        let Some(keep) = scheme.keep() else {
            let tables = match (scheme, self.last_table) {
                (Scheme::FlatBase, Some(table)) => table.entry_bytes_for(flat),
                (Scheme::FlatBase, None) => return None,
                _ => 0,
            };
            return Some(Resident { data_bytes: flat, table_bytes: tables });
        };
        if self.saved_pages(keep).is_none() {
            return None;
        }
        let tables = match (self.last_table, self.last_level_bytes()) {
            (Some(table), Some(own)) => {
                let shared = table.table_bytes() * keep.pages();
                if scheme.shares_tables() && shared < own { shared } else { own }
            }
            _ if scheme.shares_tables() => return None,
            _ => 0,
        };
        match ((keep.pages() << self.base_shift).checked_mul(compounds), tables.checked_mul(compounds)) {
            (Some(data_bytes), Some(table_bytes)) => Some(Resident { data_bytes, table_bytes }),
            _ => None,
        }
    }

    /// What the descriptors of 1 TiB of such compounds occupy. `None` as in [`Compound::resident`], or where a
    /// compound is larger.
    #[must_use]
    pub const fn resident_per_tib(self, scheme: Scheme) -> Option<Resident> {
        match (1u64 << 40) / self.bytes() {
            0 => None,
            compounds => self.resident(scheme, compounds),
        }
    }

    /// What a scheme occupies once per node, zone and order beside [`Compound::resident`]: the shared tail page, and
    /// the shared table of it where there are tables to share. `None` as in [`Compound::resident`].
    #[must_use]
    pub const fn shared_once(self, scheme: Scheme) -> Option<Resident> {
        if self.resident(scheme, 1).is_none() {
            return None;
        }
        let data_bytes = match scheme.keep() {
            Some(Keep::One) => self.page_bytes(),
            _ => 0,
        };
        let table_bytes = match (scheme, self.last_table) {
            (Scheme::KeepOneSharedTables, Some(table)) if self.tail_only_tables() > 0 => table.table_bytes(),
            _ => 0,
        };
        Some(Resident { data_bytes, table_bytes })
    }

    /// The head of the compound that `pfn` lies in.
    #[must_use]
    pub const fn head(self, pfn: Pfn) -> Pfn {
        pfn.align_down(self.order)
    }

    /// Whether `pfn` is the head of its compound.
    #[must_use]
    pub const fn is_head(self, pfn: Pfn) -> bool {
        pfn.is_aligned(self.order)
    }

    /// The number of `pfn` within its compound, 0 for the head.
    #[must_use]
    pub const fn index(self, pfn: Pfn) -> u64 {
        pfn.index_in(self.order)
    }

    /// The number, within the compound's vmemmap pages, of the page that holds the descriptor of `pfn`. `None` where
    /// the descriptors do not fill a page.
    #[must_use]
    pub const fn vmemmap_page(self, pfn: Pfn) -> Option<u64> {
        match self.vmemmap_pages() {
            Some(_) => Some((self.index(pfn) * DESCRIPTOR_BYTES) >> self.base_shift),
            None => None,
        }
    }

    /// Frames of a deduplicated compound whose descriptors lie in pages that it keeps, counted from the head: these
    /// may differ from those of other compounds. `None` where there is nothing to deduplicate.
    #[must_use]
    pub const fn kept_frames(self, keep: Keep) -> Option<u64> {
        match self.saved_pages(keep) {
            Some(_) => Some((keep.pages() << self.base_shift) / DESCRIPTOR_BYTES),
            None => None,
        }
    }

    /// Whether the descriptor of `pfn` lies, by its own address, in a page that its deduplicated compound keeps. With
    /// [`Keep::One`] a descriptor that does not must never be written. `None` where there is nothing to deduplicate.
    #[must_use]
    pub const fn is_kept(self, pfn: Pfn, keep: Keep) -> Option<bool> {
        match self.kept_frames(keep) {
            Some(frames) => Some(self.index(pfn) < frames),
            None => None,
        }
    }
}

impl fmt::Debug for Compound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "compound of {:?}, base {}", self.order, self.page_bytes())
    }
}

static_assertions::assert_impl_all!(Compound: Copy, Send, Sync);
