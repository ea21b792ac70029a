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
}

impl fmt::Debug for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {}", self.0)
    }
}
