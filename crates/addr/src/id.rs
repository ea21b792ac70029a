// SPDX-License-Identifier: MIT OR Apache-2.0
//! Identifiers of NUMA nodes and zones.

use core::fmt;

/// A NUMA node, 0..=1023.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(u16);

impl NodeId {
    /// Bits a descriptor spends on a node.
    pub const BITS: u32 = 10;
    /// Node 0.
    pub const ZERO: Self = Self(0);
    /// The highest node.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);
    /// Number of nodes that can be named: the length of a table indexed by [`NodeId::index`].
    pub const COUNT: usize = 1 << Self::BITS;

    /// Node `node`, or `None` above [`NodeId::MAX`].
    #[must_use]
    pub const fn new(node: u16) -> Option<Self> {
        if node <= Self::MAX.0 { Some(Self(node)) } else { None }
    }

    /// The node's number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index, below [`NodeId::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// A zone of a node, 0..=7: what zones mean is the allocator's choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ZoneId(u8);

impl ZoneId {
    /// Bits a descriptor spends on a zone.
    pub const BITS: u32 = 3;
    /// Zone 0.
    pub const ZERO: Self = Self(0);
    /// The highest zone.
    pub const MAX: Self = Self((1 << Self::BITS) - 1);
    /// Number of zones of a node that can be named: the length of a table indexed by [`ZoneId::index`].
    pub const COUNT: usize = 1 << Self::BITS;

    /// Zone `zone`, or `None` above [`ZoneId::MAX`].
    #[must_use]
    pub const fn new(zone: u8) -> Option<Self> {
        if zone <= Self::MAX.0 { Some(Self(zone)) } else { None }
    }

    /// The zone's number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index, below [`ZoneId::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {}", self.0)
    }
}

static_assertions::assert_eq_size!(NodeId, u16);
static_assertions::assert_eq_size!(ZoneId, u8);

#[cfg(test)]
mod tests {
    use super::{NodeId, ZoneId};

    #[test]
    fn ids_end_where_the_descriptor_bits_do() {
        assert_eq!(NodeId::new(1023), Some(NodeId::MAX));
        assert_eq!(NodeId::new(1024), None);
        assert_eq!(NodeId::MAX.index() + 1, NodeId::COUNT);
        assert_eq!(ZoneId::new(7), Some(ZoneId::MAX));
        assert_eq!(ZoneId::new(8), None);
        assert_eq!(ZoneId::MAX.index() + 1, ZoneId::COUNT);
    }
}
