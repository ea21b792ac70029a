// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can be wrong with a description, found before anything is done.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use mmkit_addr::{Geometry, Order, PfnRange};
use mmkit_page::Place;
use mmkit_vmemmap::Altmap;

use crate::heap::boxed;
use crate::{DevPagemap, DevmapError, Kind, Operations, Owner, PagemapInfo, Provided};

/// A description of device memory that is being put together. Made by [`DevPagemap::builder`].
///
/// ```
/// use mmkit_addr::{Geometry, Order, Pfn, PfnRange};
/// use mmkit_devmap::{DevPagemap, DevmapError, Kind};
///
/// let range = PfnRange::new(Pfn::new(1 << 20).unwrap(), 1 << 18).unwrap();
/// let huge = Order::new(9).unwrap();
/// let pagemap = DevPagemap::builder(Kind::Generic).range(range).order(huge).build(&Geometry::X86_64)?;
/// assert_eq!(pagemap.bulk_references(), 512);
///
/// let error = DevPagemap::builder(Kind::Private).range(range).build(&Geometry::X86_64).unwrap_err();
/// assert_eq!(error.error, DevmapError::MissingOwner { kind: Kind::Private });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a description is checked by `build`"]
pub struct PagemapBuilder {
    kind: Kind,
    ranges: Vec<PfnRange>,
    /// A range found no room.
    no_memory: bool,
    order: Order,
    place: Place,
    owner: Option<Owner>,
    operations: Option<Arc<dyn Operations>>,
    altmap: Option<Altmap>,
    pageblocks: Option<u8>,
}

/// A description that was refused, and why.
#[derive(Debug)]
pub struct BuildError {
    /// Why.
    pub error: DevmapError,
    /// The altmap, if one was given: its frames are still good for another description.
    pub altmap: Option<Altmap>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for BuildError {}

impl PagemapBuilder {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            ranges: Vec::new(),
            no_memory: false,
            order: Order::ZERO,
            place: Place { node: mmkit_addr::NodeId::ZERO, zone: mmkit_addr::ZoneId::ZERO },
            owner: None,
            operations: None,
            altmap: None,
            pageblocks: None,
        }
    }

    /// One more range of frames. They may come in any order.
    pub fn range(mut self, range: PfnRange) -> Self {
        match self.ranges.try_reserve(1) {
            Ok(()) => self.ranges.push(range),
            Err(_) => self.no_memory = true,
        }
        self
    }

    /// Compounds of `order`, for all of the memory. Linux: `vmemmap_shift`.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Node and zone. Linux: the node of `memremap_pages`, and always `ZONE_DEVICE`.
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Whose memory it is.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// What the driver does for it.
    pub fn operations(mut self, operations: Arc<dyn Operations>) -> Self {
        self.operations = Some(operations);
        self
    }

    /// Descriptors in frames of `altmap`: those at the beginning of the one range, or frames elsewhere.
    pub fn altmap(mut self, altmap: Altmap) -> Self {
        self.altmap = Some(altmap);
        self
    }

    /// The type that pageblocks of the memory are said to be of. See [`mmkit_vmemmap::Populate::pageblocks`].
    pub fn pageblocks(mut self, kind: u8) -> Self {
        self.pageblocks = Some(kind);
        self
    }

    /// Checks all of it, for a machine of `geometry`.
    ///
    /// # Errors
    ///
    /// [`DevmapError`] at the first thing that is wrong: of the description as a whole, then of each range, in ascending
    /// order, then of the altmap. The altmap is given back.
    ///
    /// Cost: one allocation, and a sort of the ranges.
    pub fn build(mut self, geometry: &Geometry) -> Result<DevPagemap, BuildError> {
        match self.check(geometry) {
            Ok(set_aside) => self.finish(set_aside),
            Err(error) => Err(BuildError { error, altmap: self.altmap }),
        }
    }

    fn finish(self, set_aside: Option<PfnRange>) -> Result<DevPagemap, BuildError> {
        let info = PagemapInfo {
            kind: self.kind,
            ranges: self.ranges,
            order: self.order,
            place: self.place,
            owner: self.owner,
            operations: self.operations,
            set_aside,
            pageblocks: self.pageblocks,
        };
        match boxed(info) {
            Ok(info) => Ok(DevPagemap { info, altmap: self.altmap }),
            Err(error) => Err(BuildError { error, altmap: self.altmap }),
        }
    }

    /// The frames of the one range that the altmap sets aside, if all is well.
    fn check(&mut self, geometry: &Geometry) -> Result<Option<PfnRange>, DevmapError> {
        let (kind, order) = (self.kind, self.order);
        if self.no_memory {
            return Err(DevmapError::NoMemory);
        }
        let max = geometry.max_huge_order();
        if order > max {
            return Err(DevmapError::OrderTooLarge { order, max });
        }
        if kind.makes_compounds() && order > Order::ZERO {
            return Err(DevmapError::OrderOfKind { kind, order });
        }
        if kind.needs_owner() && self.owner.is_none() {
            return Err(DevmapError::MissingOwner { kind });
        }
        let provided = self.operations.as_ref().map_or(Provided::empty(), |operations| operations.provided());
        let missing = Provided::needed_by(kind).difference(provided);
        if !missing.is_empty() {
            return Err(DevmapError::MissingOperations { kind, missing });
        }
        // A page of descriptors in an altmap is all of one pagemap.
        let pages = self.altmap.as_ref().map_or(Order::ZERO, |_| geometry.vmemmap_page_order());
        let unit = order.max(geometry.subsection_order()).max(pages);
        self.check_ranges(geometry, unit)?;
        self.check_altmap(unit)
    }

    fn check_ranges(&mut self, geometry: &Geometry, unit: Order) -> Result<(), DevmapError> {
        if self.ranges.is_empty() {
            return Err(DevmapError::NoRange);
        }
        if let Some(number) = self.ranges.iter().position(|range| range.is_empty()) {
            return Err(DevmapError::Empty { number, range: self.ranges[number] });
        }
        let frames = geometry.max_frames();
        self.ranges.sort_unstable_by_key(|range| range.start());
        let mut before: Option<PfnRange> = None;
        for &range in &self.ranges {
            if range.end() > frames {
                return Err(DevmapError::TooHigh { range, frames });
            }
            if !range.is_aligned(unit) {
                return Err(DevmapError::Misaligned { range, unit });
            }
            if let Some(before) = before.filter(|before| before.overlaps(range)) {
                return Err(DevmapError::SelfOverlap { range: before, other: range });
            }
            before = Some(range);
        }
        Ok(())
    }

    fn check_altmap(&self, unit: Order) -> Result<Option<PfnRange>, DevmapError> {
        let Some(altmap) = &self.altmap else { return Ok(None) };
        if let Some(&range) = self.ranges.get(1) {
            return Err(DevmapError::AltmapOfMany { range });
        }
        let (range, set_aside) = (self.ranges[0], altmap.set_aside());
        if !range.overlaps(set_aside) {
            return Ok(None);
        }
        if !self.kind.is_reachable() {
            return Err(DevmapError::AltmapOfKind { kind: self.kind, set_aside });
        }
        if range.start() != set_aside.start() || set_aside.end() >= range.end() {
            return Err(DevmapError::AltmapCut { set_aside, range });
        }
        if !set_aside.is_aligned(unit) {
            return Err(DevmapError::Misaligned { range: set_aside, unit });
        }
        Ok(Some(set_aside))
    }
}

impl fmt::Debug for PagemapBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagemapBuilder")
            .field("kind", &self.kind)
            .field("ranges", &self.ranges)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}
