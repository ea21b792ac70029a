// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an architecture's memory looks like: base page, tables per level, huge pages, sections.

mod arch;
mod build;
mod huge;
mod level;

use core::fmt;

pub use build::{GeometryError, GeometrySpec};
pub use huge::{HugeKind, HugePage};
pub use level::{Level, TableShape};

use crate::{DESCRIPTOR_BYTES, Order, Pfn, PhysAddr};

/// The shape of one architecture's memory: base page size, page-table widths **per level**, huge-page sizes, section
/// size.
///
/// A plain value, passed by copy or as `&'static`; two geometries can live in one program. This crate knows those in
/// [`Geometry::ALL`]; [`Geometry::new`] makes others.
///
/// Sections are the granule in which memory is known to a sparse memory map (Linux: `SECTION_SIZE_BITS`), subsections
/// the 2 MiB granule in which a part of one may be present.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    name: &'static str,
    aliases: &'static [&'static str],
    base_shift: u8,
    level_count: u8,
    levels: [TableShape; Level::COUNT],
    huge_count: u8,
    huge: [HugePage; Self::MAX_HUGE_PAGES],
    section_shift: u8,
    physical_bits: u8,
}

impl Geometry {
    /// Most huge-page sizes that a geometry can have.
    pub const MAX_HUGE_PAGES: usize = 6;
    /// log2 of [`Geometry::SUBSECTION_BYTES`].
    pub const SUBSECTION_SHIFT: u32 = 21;
    /// Bytes of memory in a subsection: 2 MiB on every architecture (Linux: `SUBSECTION_SHIFT`).
    pub const SUBSECTION_BYTES: u64 = 1 << Self::SUBSECTION_SHIFT;

    /// The geometry of [`Geometry::ALL`] called `name`, or `None`. Names are compared without regard to ASCII case;
    /// aliases like `x86_64` and `aarch64` are known.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        Self::ALL.iter().find(|geometry| is(geometry.name) || geometry.aliases.iter().any(|alias| is(alias)))
    }

    /// The name, such as `"x86-64"`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Other names that [`Geometry::by_name`] takes for it.
    #[must_use]
    pub const fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    /// log2 of [`Geometry::base_bytes`].
    #[must_use]
    pub const fn base_shift(&self) -> u32 {
        self.base_shift as u32
    }

    /// Bytes of a base page, which is a frame.
    #[must_use]
    pub const fn base_bytes(&self) -> u64 {
        1 << self.base_shift
    }

    /// The shapes of the tables, from the leaf (level 0) up to the root. Empty where the architecture hashes.
    #[must_use]
    pub const fn levels(&self) -> &[TableShape] {
        self.levels.split_at(self.level_count as usize).0
    }

    /// The shape of the tables at `level`, or `None` above the root.
    #[must_use]
    pub const fn table(&self, level: Level) -> Option<TableShape> {
        if level.get() < self.level_count { Some(self.levels[level.get() as usize]) } else { None }
    }

    /// The shape of the tables whose entries map base pages, or `None` where the architecture hashes.
    #[must_use]
    pub const fn last_table(&self) -> Option<TableShape> {
        self.table(Level::LAST)
    }

    /// The level of the root table, or `None` where the architecture hashes.
    #[must_use]
    pub const fn root(&self) -> Option<Level> {
        match self.level_count.checked_sub(1) {
            Some(root) => Level::new(root),
            None => None,
        }
    }

    /// Bits of a virtual address that the tables translate, page offset included; `None` where the architecture
    /// hashes.
    #[must_use]
    pub const fn virtual_bits(&self) -> Option<u32> {
        match self.root() {
            Some(root) => match self.table(root) {
                Some(table) => Some(table.entry_shift() + table.index_bits()),
                None => None,
            },
            None => None,
        }
    }

    /// The level whose leaf entry maps exactly a naturally aligned block of `order`, or `None`. Order 0 is level 0.
    #[must_use]
    pub const fn leaf_level(&self, order: Order) -> Option<Level> {
        let mut at = 0;
        while at < self.level_count as usize {
            let table = self.levels[at];
            if table.may_be_leaf() && table.entry_shift() == self.base_shift() + order.get() as u32 {
                return Some(table.level());
            }
            at += 1;
        }
        None
    }

    /// The huge-page sizes, smallest first.
    #[must_use]
    pub const fn huge_pages(&self) -> &[HugePage] {
        self.huge.split_at(self.huge_count as usize).0
    }

    /// The huge page of `bytes` bytes, or `None`.
    #[must_use]
    pub const fn huge_page(&self, bytes: u64) -> Option<HugePage> {
        let mut at = 0;
        while at < self.huge_count as usize {
            if self.huge[at].bytes() == bytes {
                return Some(self.huge[at]);
            }
            at += 1;
        }
        None
    }

    /// The order of the largest huge page; order 0 where there is none.
    #[must_use]
    pub const fn max_huge_order(&self) -> Order {
        match self.huge_count.checked_sub(1) {
            Some(last) => self.huge[last as usize].order(),
            None => Order::ZERO,
        }
    }

    /// The order of a block of `bytes` bytes, or `None` where that is not a power of two of base pages.
    #[must_use]
    pub const fn order_of_bytes(&self, bytes: u64) -> Option<Order> {
        if bytes & (self.base_bytes() - 1) == 0 { Order::of_frames(bytes >> self.base_shift) } else { None }
    }

    /// Bits of a physical address.
    #[must_use]
    pub const fn physical_bits(&self) -> u32 {
        self.physical_bits as u32
    }

    /// Frame numbers are below this.
    #[must_use]
    pub const fn max_frames(&self) -> u64 {
        1 << (self.physical_bits - self.base_shift)
    }

    /// The frame that holds the byte at `addr`, or `None` past [`Geometry::physical_bits`].
    #[must_use]
    pub const fn pfn(&self, addr: PhysAddr) -> Option<Pfn> {
        if addr.get() >> self.physical_bits == 0 { addr.pfn(self.base_shift()) } else { None }
    }

    /// The first byte of frame `pfn`, or `None` past [`Geometry::physical_bits`].
    #[must_use]
    pub const fn phys(&self, pfn: Pfn) -> Option<PhysAddr> {
        if pfn.get() < self.max_frames() { pfn.phys(self.base_shift()) } else { None }
    }

    /// log2 of [`Geometry::section_bytes`].
    #[must_use]
    pub const fn section_shift(&self) -> u32 {
        self.section_shift as u32
    }

    /// Bytes of memory in a section.
    #[must_use]
    pub const fn section_bytes(&self) -> u64 {
        1 << self.section_shift
    }

    /// Order of a section: log2 of its frames.
    #[must_use]
    pub const fn section_order(&self) -> Order {
        match Order::new(self.section_shift - self.base_shift) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// Frames in a section.
    #[must_use]
    pub const fn frames_per_section(&self) -> u64 {
        self.section_order().frames()
    }

    /// Order of a subsection: log2 of its frames.
    #[must_use]
    pub const fn subsection_order(&self) -> Order {
        match Order::new(Self::SUBSECTION_SHIFT as u8 - self.base_shift) {
            Some(order) => order,
            None => Order::ZERO,
        }
    }

    /// Frames in a subsection.
    #[must_use]
    pub const fn frames_per_subsection(&self) -> u64 {
        self.subsection_order().frames()
    }

    /// Subsections in a section: 8 to 256 on the architectures known here, so one word of bits is not always enough.
    #[must_use]
    pub const fn subsections_per_section(&self) -> u64 {
        1 << (self.section_shift() - Self::SUBSECTION_SHIFT)
    }

    /// Sections of the whole physical address space.
    #[must_use]
    pub const fn max_sections(&self) -> u64 {
        1 << (self.physical_bits - self.section_shift)
    }

    /// The number of the section that `pfn` lies in.
    #[must_use]
    pub const fn section_of(&self, pfn: Pfn) -> u64 {
        pfn.get() >> self.section_order().get()
    }

    /// The number of the subsection that `pfn` lies in, within its section.
    #[must_use]
    pub const fn subsection_of(&self, pfn: Pfn) -> u64 {
        pfn.index_in(self.section_order()) >> self.subsection_order().get()
    }

    /// Page descriptors in one page of vmemmap.
    #[must_use]
    pub const fn descriptors_per_page(&self) -> u64 {
        self.base_bytes() / DESCRIPTOR_BYTES
    }

    /// The order of the block of frames that one page of vmemmap describes.
    #[must_use]
    pub const fn vmemmap_page_order(&self) -> Order {
        match Order::of_frames(self.descriptors_per_page()) {
            Some(order) => order,
            None => Order::ZERO,
        }
    }

    /// Bytes of vmemmap below the descriptor of `pfn`: its offset from the descriptor of frame 0.
    #[must_use]
    pub const fn vmemmap_offset(&self, pfn: Pfn) -> u64 {
        pfn.get() * DESCRIPTOR_BYTES
    }

    /// The number of the vmemmap page that holds the descriptor of `pfn`, counted from the descriptor of frame 0.
    #[must_use]
    pub const fn vmemmap_page(&self, pfn: Pfn) -> u64 {
        self.vmemmap_offset(pfn) >> self.base_shift
    }

    /// Bytes of vmemmap of a section.
    #[must_use]
    pub const fn section_vmemmap_bytes(&self) -> u64 {
        self.frames_per_section() * DESCRIPTOR_BYTES
    }

    /// Bytes of vmemmap of a subsection; less than a page with 16K and 64K base pages.
    #[must_use]
    pub const fn subsection_vmemmap_bytes(&self) -> u64 {
        self.frames_per_subsection() * DESCRIPTOR_BYTES
    }
}

impl fmt::Debug for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Geometry({})", self.name)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

static_assertions::assert_impl_all!(Geometry: Copy, Send, Sync);
