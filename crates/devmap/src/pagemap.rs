// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver says of its memory, checked.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::Place;
use mmkit_vmemmap::Altmap;

use crate::{Kind, Operations, Owner, PagemapBuilder, Provided};

/// Memory of one device, as its driver describes it: checked, and not registered. Linux: `struct dev_pagemap`.
///
/// Made by a [builder](Self::builder); what it says is read through [`PagemapInfo`], to which it dereferences.
/// Registering takes it, and taking the memory away gives it back.
#[derive(Debug)]
pub struct DevPagemap {
    pub(crate) info: Box<PagemapInfo>,
    pub(crate) altmap: Option<Altmap>,
}

impl DevPagemap {
    /// A description of memory of `kind`, to be completed.
    pub const fn builder(kind: Kind) -> PagemapBuilder {
        PagemapBuilder::new(kind)
    }

    /// The altmap, and the description without it; the description where it has none.
    ///
    /// # Errors
    ///
    /// The description, unchanged, where it has none.
    pub fn into_altmap(mut self) -> Result<Altmap, Self> {
        self.altmap.take().ok_or(self)
    }
}

impl Deref for DevPagemap {
    type Target = PagemapInfo;

    fn deref(&self) -> &PagemapInfo {
        &self.info
    }
}

/// What is said of a device's memory, and does not change.
pub struct PagemapInfo {
    pub(crate) kind: Kind,
    /// In ascending order, disjoint.
    pub(crate) ranges: Vec<PfnRange>,
    pub(crate) order: Order,
    pub(crate) place: Place,
    pub(crate) owner: Option<Owner>,
    pub(crate) operations: Option<Arc<dyn Operations>>,
    /// The frames that the altmap sets aside.
    pub(crate) set_aside: Option<PfnRange>,
    pub(crate) pageblocks: Option<u8>,
}

impl PagemapInfo {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The frames, what an altmap sets aside among them: in ascending order and disjoint.
    #[must_use]
    pub fn ranges(&self) -> &[PfnRange] {
        &self.ranges
    }

    /// The order of its compounds; 0 for single frames, and where compounds are made on demand. Linux:
    /// `vmemmap_shift`.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Node and zone.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// The frames that the altmap sets aside: they have no descriptors that anybody finds.
    #[must_use]
    pub const fn set_aside(&self) -> Option<PfnRange> {
        self.set_aside
    }

    /// The driver's operations, if `wanted` are among them.
    #[must_use]
    pub fn operations(&self, wanted: Provided) -> Option<&dyn Operations> {
        self.operations.as_deref().filter(|operations| operations.provided().contains(wanted))
    }

    /// Whether `pfn` is a frame with a descriptor of this pagemap: inside a range, and not set aside. Linux:
    /// `pgmap_pfn_valid`.
    ///
    /// Cost: a binary search of the ranges.
    #[must_use]
    pub fn has(&self, pfn: Pfn) -> bool {
        let set_aside = self.set_aside.is_some_and(|set_aside| set_aside.contains(pfn));
        !set_aside && self.range_of(pfn).is_some()
    }

    /// Whether all frames of `block` are such frames, and lie in one range.
    ///
    /// Cost: a binary search of the ranges.
    #[must_use]
    pub fn holds(&self, block: PfnRange) -> bool {
        let set_aside = self.set_aside.is_some_and(|set_aside| set_aside.overlaps(block));
        let all = self.range_of(block.start()).is_some_and(|range| range.contains_range(block));
        !block.is_empty() && !set_aside && all
    }

    /// The range that has `pfn`.
    fn range_of(&self, pfn: Pfn) -> Option<PfnRange> {
        // Ascending and disjoint: the last one that begins at or below it.
        let after = self.ranges.partition_point(|range| range.start() <= pfn);
        let range = self.ranges[..after].last().copied();
        range.filter(|range| range.contains(pfn))
    }

    /// The frames of `range`, one of the pagemap's, that have descriptors: what an altmap sets aside is its beginning.
    pub(crate) fn described(&self, range: PfnRange) -> PfnRange {
        let start = match self.set_aside {
            Some(set_aside) if set_aside.start() == range.start() => set_aside.end(),
            _ => range.start().get(),
        };
        let described = Pfn::new(start).and_then(|pfn| PfnRange::new(pfn, range.end().saturating_sub(start)));
        described.unwrap_or(range)
    }

    /// The first frame of each block of [`order`](Self::order), in ascending order, but those that are set aside.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Pfn> {
        let (order, set_aside) = (self.order, self.set_aside);
        let blocks = self.ranges.iter().flat_map(move |range| {
            (range.start().get()..range.end()).step_by(order.frames() as usize).filter_map(Pfn::new)
        });
        blocks.filter(move |&pfn| !set_aside.is_some_and(|set_aside| set_aside.contains(pfn)))
    }

    /// The references that stand for the memory while it is registered: one for each block of [`order`](Self::order) that
    /// is not set aside. None for kinds whose folios bring all of theirs.
    #[must_use]
    pub fn bulk_references(&self) -> u64 {
        if matches!(self.kind, Kind::Private | Kind::Coherent) {
            return 0;
        }
        let frames: u64 = self.ranges.iter().map(|range| range.frames()).sum();
        (frames - self.set_aside.map_or(0, PfnRange::frames)) >> self.order.get()
    }

    /// The references of a folio of `order`: one for each block of the pagemap's order, at least one.
    #[must_use]
    pub fn references_of(&self, order: Order) -> u32 {
        let blocks = order.frames() >> self.order.get();
        u32::try_from(blocks).unwrap_or(u32::MAX).max(1)
    }
}

impl fmt::Debug for PagemapInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagemapInfo")
            .field("kind", &self.kind)
            .field("ranges", &self.ranges)
            .field("order", &self.order)
            .field("place", &self.place)
            .field("owner", &self.owner)
            .field("set_aside", &self.set_aside)
            .finish_non_exhaustive()
    }
}
