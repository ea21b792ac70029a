// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a geometry: from the few facts that determine it, with every contradiction refused.

use core::fmt;

use super::{Geometry, HugeKind, HugePage, Level, TableShape};
use crate::{DESCRIPTOR_BYTES, Order, Pfn, PhysAddr};

/// The facts that determine a [`Geometry`]; everything else follows from them.
#[derive(Clone, Copy, Debug)]
pub struct GeometrySpec {
    /// What [`Geometry::by_name`] finds, and what is printed.
    pub name: &'static str,
    /// Other names for the same.
    pub aliases: &'static [&'static str],
    /// log2 of the bytes of a base page, 10..=20.
    pub base_shift: u8,
    /// Index bits of each level **from the leaf up**, 1..=16 each; empty for a hashed page table.
    pub index_bits: &'static [u8],
    /// log2 of the bytes and kind of each huge-page size, smallest first; at most [`Geometry::MAX_HUGE_PAGES`].
    pub huge_pages: &'static [(u8, HugeKind)],
    /// log2 of the bytes of a memory section, at least [`Geometry::SUBSECTION_SHIFT`].
    pub section_shift: u8,
    /// Bits of a physical address.
    pub physical_bits: u8,
}

/// Why a [`GeometrySpec`] describes no geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeometryError {
    /// Base pages of `2^base_shift` bytes: not in 10..=20.
    BaseShift {
        /// The shift given.
        base_shift: u8,
    },
    /// More levels than [`Level::COUNT`].
    TooManyLevels {
        /// The number of levels given.
        levels: usize,
    },
    /// A level with 0 or more than 16 index bits.
    IndexBits {
        /// The level, 0 at the leaf.
        level: u8,
        /// The bits given.
        index_bits: u8,
    },
    /// The levels together translate more than 64 bits.
    VirtualBits {
        /// Base shift and index bits together.
        bits: u32,
    },
    /// More huge-page sizes than [`Geometry::MAX_HUGE_PAGES`].
    TooManyHugePages {
        /// The number given.
        huge_pages: usize,
    },
    /// A huge page whose size does not fit its kind, is not above the size before it, or is not below the physical
    /// address space.
    HugePage {
        /// log2 of the bytes given.
        shift: u8,
    },
    /// A section that is smaller than a subsection or than a base page, or not below the physical address space.
    SectionShift {
        /// log2 of the bytes given.
        section_shift: u8,
    },
    /// Physical addresses that are not larger than a base page, or whose frame numbers pass [`Pfn::MAX`], or that
    /// pass [`PhysAddr::MAX`].
    PhysicalBits {
        /// The bits given.
        physical_bits: u8,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BaseShift { base_shift } => {
                write!(f, "base pages of 2^{base_shift} bytes are not in 2^10..=2^20")
            }
            Self::TooManyLevels { levels } => write!(f, "{levels} levels are more than {}", Level::COUNT),
            Self::IndexBits { level, index_bits } => {
                write!(f, "level {level} has {index_bits} index bits, not 1..=16")
            }
            Self::VirtualBits { bits } => write!(f, "the levels translate {bits} bits, more than 64"),
            Self::TooManyHugePages { huge_pages } => {
                write!(f, "{huge_pages} huge-page sizes are more than {}", Geometry::MAX_HUGE_PAGES)
            }
            Self::HugePage { shift } => {
                write!(f, "a huge page of 2^{shift} bytes is out of order or does not fit its kind")
            }
            Self::SectionShift { section_shift } => {
                write!(
                    f,
                    "a section of 2^{section_shift} bytes is smaller than a subsection or larger than memory"
                )
            }
            Self::PhysicalBits { physical_bits } => {
                write!(
                    f,
                    "{physical_bits} bits of physical address do not fit frame numbers of {} bits",
                    Pfn::BITS
                )
            }
        }
    }
}

impl core::error::Error for GeometryError {}

const NO_TABLE: TableShape = TableShape::new(Level::LAST, 0, 0, false);
const NO_HUGE_PAGE: HugePage = HugePage::new(0, Order::ZERO, HugeKind::Hash);

impl Geometry {
    /// The geometry that `spec` determines. Costs no memory; meant for a `const`.
    ///
    /// ```
    /// use mmkit_addr::{Geometry, GeometrySpec, HugeKind, Level};
    ///
    /// // arm64 with 4K pages and a 39-bit address space.
    /// const SMALL: Geometry = match Geometry::new(GeometrySpec {
    ///     name: "arm64-4k-39",
    ///     aliases: &[],
    ///     base_shift: 12,
    ///     index_bits: &[9, 9, 9],
    ///     huge_pages: &[(21, HugeKind::Leaf(Level::new(1).unwrap()))],
    ///     section_shift: 27,
    ///     physical_bits: 48,
    /// }) {
    ///     Ok(geometry) => geometry,
    ///     Err(_) => panic!("a contradiction"),
    /// };
    /// assert_eq!(SMALL.virtual_bits(), Some(39));
    /// ```
    ///
    /// # Errors
    ///
    /// A [`GeometryError`] that names the first fact out of range or in contradiction to another.
    pub const fn new(spec: GeometrySpec) -> Result<Self, GeometryError> {
        let GeometrySpec { name, aliases, base_shift, index_bits, huge_pages, section_shift, physical_bits } =
            spec;
        if base_shift < 10 || base_shift > 20 {
            return Err(GeometryError::BaseShift { base_shift });
        }
        if physical_bits <= base_shift
            || physical_bits as u32 > base_shift as u32 + Pfn::BITS
            || physical_bits as u32 > PhysAddr::BITS
        {
            return Err(GeometryError::PhysicalBits { physical_bits });
        }
        if section_shift < Self::SUBSECTION_SHIFT as u8
            || section_shift < base_shift
            || section_shift >= physical_bits
        {
            return Err(GeometryError::SectionShift { section_shift });
        }
        if index_bits.len() > Level::COUNT {
            return Err(GeometryError::TooManyLevels { levels: index_bits.len() });
        }
        if huge_pages.len() > Self::MAX_HUGE_PAGES {
            return Err(GeometryError::TooManyHugePages { huge_pages: huge_pages.len() });
        }

        let mut levels = [NO_TABLE; Level::COUNT];
        let mut shift = base_shift;
        let mut number = 0;
        while number < index_bits.len() {
            let bits = index_bits[number];
            let Some(level) = Level::new(number as u8) else {
                return Err(GeometryError::TooManyLevels { levels: index_bits.len() });
            };
            if bits == 0 || bits > 16 {
                return Err(GeometryError::IndexBits { level: level.get(), index_bits: bits });
            }
            levels[number] = TableShape::new(level, bits, shift, number == 0 || has_leaf(huge_pages, level));
            if shift + bits > 64 {
                return Err(GeometryError::VirtualBits { bits: (shift + bits) as u32 });
            }
            shift += bits;
            number += 1;
        }

        let mut huge = [NO_HUGE_PAGE; Self::MAX_HUGE_PAGES];
        let mut below = base_shift;
        let mut at = 0;
        while at < huge_pages.len() {
            let (shift, kind) = huge_pages[at];
            let fits =
                shift > below && shift < physical_bits && kind_fits(&levels, index_bits.len(), shift, kind);
            let order = if fits { Order::new(shift - base_shift) } else { None };
            let Some(order) = order else {
                return Err(GeometryError::HugePage { shift });
            };
            huge[at] = HugePage::new(shift, order, kind);
            below = shift;
            at += 1;
        }

        Ok(Self {
            name,
            aliases,
            base_shift,
            level_count: index_bits.len() as u8,
            levels,
            huge_count: huge_pages.len() as u8,
            huge,
            section_shift,
            physical_bits,
        })
    }

    /// For this crate's own geometries: a contradiction fails the build.
    pub(super) const fn known(spec: GeometrySpec) -> Self {
        match Self::new(spec) {
            Ok(geometry) => geometry,
            Err(_) => panic!("a geometry of this crate contradicts itself"),
        }
    }
}

// The vmemmap of all frame numbers is smaller than the address space, so offsets into it never overflow.
static_assertions::const_assert!(Pfn::BITS + DESCRIPTOR_BYTES.ilog2() < 64);

/// Whether some huge page is a leaf of `level`.
const fn has_leaf(huge_pages: &[(u8, HugeKind)], level: Level) -> bool {
    let mut at = 0;
    while at < huge_pages.len() {
        if let HugeKind::Leaf(leaf) = huge_pages[at].1
            && leaf.get() == level.get()
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a huge page of `2^shift` bytes can be of `kind` in tables of these shapes.
const fn kind_fits(levels: &[TableShape], count: usize, shift: u8, kind: HugeKind) -> bool {
    let shift = shift as u32;
    match kind {
        HugeKind::Hash => count == 0,
        HugeKind::Leaf(level) => {
            let at = level.get() as usize;
            0 < at && at < count && shift == levels[at].entry_shift()
        }
        HugeKind::Contiguous(level) => {
            let at = level.get() as usize;
            at < count && {
                let table = levels[at];
                table.entry_shift() < shift && shift < table.entry_shift() + table.index_bits()
            }
        }
    }
}
