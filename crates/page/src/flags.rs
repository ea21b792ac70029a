// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flags word: what holds for a frame, and the node and zone it belongs to.

use bitflags::bitflags;
use mmkit_addr::{NodeId, ZoneId};

bitflags! {
    /// What holds for a folio. Kept in the head's flags word, whose top 13 bits are the [`Place`].
    ///
    /// The names are the field's; mmkit itself gives meaning to those that its documentation names, the others are
    /// the user's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PageFlags: u64 {
        /// Somebody holds the folio's lock.
        const LOCKED = 1 << 0;
        /// Accessed since it was last looked at.
        const REFERENCED = 1 << 1;
        /// The contents are valid.
        const UPTODATE = 1 << 2;
        /// The contents differ from those on backing store.
        const DIRTY = 1 << 3;
        /// On a replacement list.
        const LRU = 1 << 4;
        /// On the active half of that list.
        const ACTIVE = 1 << 5;
        /// Part of the working set when it was last evicted.
        const WORKINGSET = 1 << 6;
        /// Being written to backing store.
        const WRITEBACK = 1 << 7;
        /// To be reclaimed as soon as it is written.
        const RECLAIM = 1 << 8;
        /// Backed by swap rather than by a file.
        const SWAPBACKED = 1 << 9;
        /// Never to be reclaimed.
        const UNEVICTABLE = 1 << 10;
        /// Not the allocator's to reuse: firmware, boot memory, device memory.
        const RESERVED = 1 << 11;
        /// Anonymous memory.
        const ANON = 1 << 12;
        /// Anonymous and exclusive to one address space: of each page by itself, in its own descriptor.
        const ANON_EXCLUSIVE = 1 << 13;
        /// Some, not all, of the folio's pages are mapped.
        const PARTIALLY_MAPPED = 1 << 14;
        /// Belongs to a huge-page pool.
        const HUGETLB = 1 << 15;
        /// The hardware reported an error in this frame. Of each frame by itself where it has a descriptor of its own. It
        /// survives the folio: a block with such a frame does not become free
        /// ([`Frozen::into_free`](crate::Frozen::into_free)).
        const HWPOISON = 1 << 16;
        /// May be moved to other frames.
        const MOVABLE = 1 << 17;
        /// Memory of a device, not of the machine.
        const DEVICE = 1 << 18;
        /// All pages are [`ANON_EXCLUSIVE`](Self::ANON_EXCLUSIVE), whatever their own descriptors say. Of a head.
        const ANON_EXCLUSIVE_WHOLE = 1 << 21;
        /// Held while that mark is turned into flags of pages. Of a head.
        const ANON_EXCLUSIVE_WRITING = 1 << 22;
        /// A shared page of zeroes: nobody ever writes or frees it, so pins of it are not counted. Only
        /// [`Frozen::into_zeroes`](crate::Frozen::into_zeroes) sets it, and nobody clears it.
        const ZERO = 1 << 23;
    }
}

impl PageFlags {
    /// The bits that are flags: `from_bits_retain` makes values with others, which are node and zone here.
    pub(crate) const fn known(self) -> u64 {
        self.bits() & Self::all().bits()
    }

    /// Those that may come and go while somebody holds the folio: whether pins are counted is not to change while there are some.
    pub(crate) const fn settable(self) -> u64 {
        self.difference(Self::ZERO).known()
    }
}

/// Where a frame belongs: its node and its zone.
///
/// It is written once, before anybody else sees the descriptor, and stays for as long as the memory map has the frame.
/// The section is not stored: it follows from the frame number, and shared tails could not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Place {
    /// The NUMA node.
    pub node: NodeId,
    /// The zone of that node.
    pub zone: ZoneId,
}

impl Place {
    const NODE_SHIFT: u32 = u64::BITS - NodeId::BITS;
    const ZONE_SHIFT: u32 = Self::NODE_SHIFT - ZoneId::BITS;

    /// Zone `zone` of node `node`.
    #[must_use]
    pub const fn new(node: NodeId, zone: ZoneId) -> Self {
        Self { node, zone }
    }

    /// The place as it stands in a flags word: node in bits 54..=63, zone in bits 51..=53.
    #[must_use]
    pub const fn bits(self) -> u64 {
        (self.node.get() as u64) << Self::NODE_SHIFT | (self.zone.get() as u64) << Self::ZONE_SHIFT
    }

    /// The place in a flags word.
    #[must_use]
    pub const fn from_bits(word: u64) -> Self {
        let node = NodeId::new((word >> Self::NODE_SHIFT) as u16);
        let zone = ZoneId::new((word >> Self::ZONE_SHIFT) as u8 & ZoneId::MAX.get());
        match (node, zone) {
            (Some(node), Some(zone)) => Self { node, zone },
            // Ten and three bits are always a node and a zone.
            _ => Self { node: NodeId::ZERO, zone: ZoneId::ZERO },
        }
    }
}

/// In the flags word of a head, not a flag of the folio: a tail may have flags. So a block none of whose tails has any is
/// freed and handed out without a look at them.
pub(crate) const TAILS_FLAGGED: u64 = 1 << 19;

/// The same for [`PageFlags::HWPOISON`] alone, which survives where other flags end.
pub(crate) const TAILS_POISONED: u64 = 1 << 20;

// No flag reaches into the place, nor is one of these two.
const _: () = assert!(PageFlags::all().bits() >> Place::ZONE_SHIFT == 0);
const _: () = assert!(PageFlags::all().bits() & (TAILS_FLAGGED | TAILS_POISONED) == 0);
const _: () = assert!((TAILS_FLAGGED | TAILS_POISONED) >> Place::ZONE_SHIFT == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_survives_the_word() {
        for node in 0..=NodeId::MAX.get() {
            for zone in 0..=ZoneId::MAX.get() {
                let place = Place::new(NodeId::new(node).unwrap(), ZoneId::new(zone).unwrap());
                let word = place.bits() | PageFlags::all().bits();
                assert_eq!(Place::from_bits(word), place);
                assert_eq!(PageFlags::from_bits_truncate(word), PageFlags::all());
            }
        }
    }
}
