// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tables need to know of a geometry: widths by level number, and positions instead of addresses.
//!
//! A *position* is an address without the bits above those that the tables translate, so that positions rise through the
//! whole tree from 0 without a hole.

use mmkit_addr::{Geometry, Level, Order};

use crate::node::Span;

/// The most levels that a tree can have.
pub(crate) const MAX_LEVELS: usize = Level::COUNT;

/// The shape of a tree of tables. Levels are counted from 0, the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    geometry: Geometry,
    root: u8,
    /// log2 of the bytes that an entry spans.
    shift: [u8; MAX_LEVELS],
    /// log2 of the entries of a table.
    bits: [u8; MAX_LEVELS],
}

impl Shape {
    /// The shape that `geometry` asks for, or `None` where it has no tables or no leaf at the last level.
    pub(crate) fn new(geometry: Geometry) -> Option<Self> {
        let mut shape =
            Self { geometry, root: geometry.root()?.get(), shift: [0; MAX_LEVELS], bits: [0; MAX_LEVELS] };
        for table in geometry.levels() {
            let at = usize::from(table.level().get());
            // Both are at most 64.
            shape.shift[at] = table.entry_shift() as u8;
            shape.bits[at] = table.index_bits() as u8;
        }
        shape.is_leaf(0).then_some(shape)
    }

    pub(crate) const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) const fn base_shift(&self) -> u32 {
        self.geometry.base_shift()
    }

    /// The root's level.
    pub(crate) const fn root(&self) -> u8 {
        self.root
    }

    pub(crate) const fn shift(&self, level: u8) -> u32 {
        self.shift[level as usize] as u32
    }

    /// What the table of `level` around a position translates.
    pub(crate) const fn table(&self, position: u64, level: u8) -> Span {
        if level >= self.root {
            return Span { from: 0, last: self.last_position() };
        }
        let within = (1 << self.shift(level + 1)) - 1;
        Span { from: position & !within, last: position | within }
    }

    /// The bytes that one entry spans.
    pub(crate) const fn span(&self, level: u8) -> u64 {
        1 << self.shift(level)
    }

    /// The frames that a leaf maps.
    pub(crate) const fn leaf_order(&self, level: u8) -> Order {
        match Order::new((self.shift(level) - self.base_shift()) as u8) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    pub(crate) const fn entries(&self, level: u8) -> u64 {
        1 << self.bits[level as usize]
    }

    pub(crate) fn is_leaf(&self, level: u8) -> bool {
        let table = Level::new(level).and_then(|level| self.geometry.table(level));
        table.is_some_and(|table| table.may_be_leaf())
    }

    /// The block of frames that a table takes: order 0 for tables up to the size of a frame.
    pub(crate) const fn table_order(&self, level: u8) -> Order {
        let bytes_shift = self.bits[level as usize] as u32 + 3;
        match Order::new(bytes_shift.saturating_sub(self.base_shift()) as u8) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    const fn address_bits(&self) -> u32 {
        self.shift(self.root) + self.bits[self.root as usize] as u32
    }

    const fn last_position(&self) -> u64 {
        u64::MAX >> (64 - self.address_bits())
    }

    /// The position of `va`, or `None` where it is not canonical: where the bits above the translated ones are not
    /// copies of the highest of these.
    pub(crate) const fn position(&self, va: u64) -> Option<u64> {
        let position = self.canonical(va);
        if self.address(position) == va { Some(position) } else { None }
    }

    /// The position of an address that is canonical.
    pub(crate) const fn canonical(&self, va: u64) -> u64 {
        va & self.last_position()
    }

    /// The address at a position.
    pub(crate) const fn address(&self, position: u64) -> u64 {
        let unused = 64 - self.address_bits();
        (((position << unused) as i64) >> unused) as u64
    }
}

/// Level numbers come from a geometry, whose levels all have a name.
pub(crate) const fn named(level: u8) -> Level {
    match Level::new(level) {
        Some(level) => level,
        None => Level::MAX,
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses_are_sign_extended() {
        let shape = Shape::new(Geometry::X86_64).unwrap();
        assert_eq!(shape.position(0x7fff_ffff_f000), Some(0x7fff_ffff_f000));
        assert_eq!(shape.position(0x8000_0000_0000), None);
        assert_eq!(shape.position(0xffff_8000_0000_0000), Some(0x8000_0000_0000));
        assert_eq!(shape.position(0xfffe_8000_0000_0000), None);
        assert_eq!(shape.address(0x8000_0000_0000), 0xffff_8000_0000_0000);
    }

    #[test]
    fn tables_take_whole_frames() {
        let s390 = Shape::new(Geometry::S390X).unwrap();
        assert_eq!(s390.entries(0), 256);
        assert_eq!(s390.table_order(0), Order::ZERO);
        assert_eq!(s390.table_order(1).frames(), 4);
        let radix = Shape::new(Geometry::PPC64_RADIX_64K).unwrap();
        assert_eq!((0..=3).map(|level| radix.table_order(level).frames()).sum::<u64>(), 4);
        let radix = Shape::new(Geometry::PPC64_RADIX_4K).unwrap();
        assert_eq!(radix.table_order(3).frames(), 16);
        assert_eq!(radix.leaf_order(1).frames(), 512);
    }

    #[test]
    fn a_hash_has_no_shape() {
        assert!(Shape::new(Geometry::PPC64_HASH_64K).is_none());
    }
}
