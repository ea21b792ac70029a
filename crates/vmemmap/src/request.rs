// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to populate, and how.

use mmkit_addr::{Order, PfnRange};
use mmkit_page::{Page, Place};

use crate::Altmap;

/// Frames that are to get descriptors: for [`Vmemmap::populate_with`](crate::Vmemmap::populate_with).
///
/// | configuration | how to ask | what stands behind the descriptors |
/// |---|---|---|
/// | base pages | `Populate::new(range)` | single frames |
/// | compounds | [`.compounds(order)`](Self::compounds) | one frame for each compound, shared tails |
/// | huge leaves | [`.huge_leaves()`](Self::huge_leaves) | blocks, each behind one huge leaf; single frames where no block can be had |
/// | altmap | [`.altmap(&mut pool)`](Self::altmap) | the pool's frames, and nothing else |
///
/// ```
/// use mmkit_addr::{NodeId, Order, Pfn, PfnRange, ZoneId};
/// use mmkit_page::Place;
/// use mmkit_vmemmap::Populate;
///
/// let section = PfnRange::new(Pfn::ZERO, 1 << 15).unwrap();
/// let node = Place::new(NodeId::new(1).unwrap(), ZoneId::new(2).unwrap());
/// let request = Populate::new(section).at(node).huge_leaves().strict().offline();
/// assert_eq!(request.range(), section);
/// ```
///
/// Source: ours. (Linux: the arguments of `sparse_add_section`, with `struct dev_pagemap` and `struct vmem_altmap`.)
#[derive(Debug)]
pub struct Populate<'a> {
    pub(crate) range: PfnRange,
    pub(crate) order: Order,
    pub(crate) place: Place,
    pub(crate) altmap: Option<&'a mut Altmap>,
    pub(crate) huge: bool,
    pub(crate) strict: bool,
    pub(crate) early: bool,
    pub(crate) offline: bool,
    pub(crate) pageblocks: Option<u8>,
    pub(crate) held: Option<[u64; Page::WORDS]>,
}

impl<'a> Populate<'a> {
    /// The frames of `range` as single frames of zone 0 of node 0, online, with descriptors in single frames of the
    /// allocator.
    #[must_use]
    pub fn new(range: PfnRange) -> Self {
        Self {
            range,
            order: Order::ZERO,
            place: Place::default(),
            altmap: None,
            huge: false,
            strict: false,
            early: false,
            offline: false,
            pageblocks: None,
            held: None,
        }
    }

    /// The frames.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// The frames as compounds of `order`. Linux: `dev_pagemap::vmemmap_shift`.
    ///
    /// Those of at least [`Geometry::min_dedup_order`](mmkit_addr::Geometry::min_dedup_order) share their tails, except
    /// with an [altmap](Self::altmap), and where boot memory is given or completed in parts of sections.
    #[must_use]
    pub const fn compounds(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Where the frames are: node and zone. The descriptors come from that node where they can.
    #[must_use]
    pub const fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Descriptors in frames of `pool`, which may be a part of the range: then the range begins with it. Linux:
    /// `vmem_altmap`.
    ///
    /// Nothing is shared, and nothing comes from the allocator instead. Frames that are set aside have no descriptors
    /// that can be looked up.
    #[must_use]
    pub const fn altmap(mut self, pool: &'a mut Altmap) -> Self {
        self.altmap = Some(pool);
        self
    }

    /// Descriptors in blocks that one huge leaf maps, wherever a whole leaf's descriptors lie in the range and are not
    /// shared. Linux: `vmemmap_populate_hugepages`.
    ///
    /// Where the allocator has no such block, single frames are taken for that leaf. An [altmap](Self::altmap) that has
    /// none is too small. Where the address space has no huge leaves, this changes nothing.
    #[must_use]
    pub const fn huge_leaves(mut self) -> Self {
        self.huge = true;
        self
    }

    /// Fails rather than take frames of descriptors from another node, shared tails among them. (Tables and the section
    /// table come from where they can, and tails that are there already are used.)
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Memory that is there at boot. Linux: an early section.
    ///
    /// Every section that the range has a part in gets descriptor memory as a whole, and keeps it until its last frame
    /// is removed. The frames that the range does not have are holes: [`is_covered`](crate::Vmemmap::is_covered), but
    /// absent, like any others. They may be populated later, and use what is there.
    ///
    /// With an [altmap](Self::altmap) it is refused, and so is an altmap for such a section: descriptors of boot memory lie
    /// in the machine's own.
    #[must_use]
    pub const fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// The frames cannot be claimed until [`Vmemmap::online`](crate::Vmemmap::online) has been called. Linux: memory that
    /// was added and not onlined.
    ///
    /// What is there of a section, and of a compound that spans sections and shares its tails, is online or offline as a
    /// whole.
    #[must_use]
    pub const fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Tells [`VmemmapEnv::set_pageblock`](crate::VmemmapEnv::set_pageblock) the type of every pageblock that the range
    /// has a part in, whether or not its descriptors are shared. Linux: `set_pageblock_migratetype`.
    #[must_use]
    pub const fn pageblocks(mut self, kind: u8) -> Self {
        self.pageblocks = Some(kind);
        self
    }

    /// Each frame or compound is in use from the beginning, with one reference that is kept by its frame number, and
    /// with `words` as its [owner's](mmkit_page::Folio::owner_words): see [`Template::held`](mmkit_page::Template::held).
    /// For memory that is never its allocator's, and so need not be claimed one by one. Where the frames are
    /// [offline](Self::offline) this changes nothing.
    ///
    /// # Safety
    ///
    /// The caller is the owner of the memory.
    #[must_use]
    pub const unsafe fn held(mut self, words: [u64; Page::WORDS]) -> Self {
        self.held = Some(words);
        self
    }
}
