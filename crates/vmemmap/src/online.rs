// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is the case with a section, and who has its frames.

use mmkit_addr::{NodeId, Order, Pfn, PfnRange};
use mmkit_page::{MemMap, Place};
use mmkit_sync::ReadSide;

use crate::section::Flags;
use crate::{Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// What is the case with a section: a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionState {
    /// Subsections that are there.
    pub present: u32,
    /// Subsections that a section has.
    pub subsections: u32,
    /// It has descriptor memory from boot, for all of it: see [`Populate::early`](crate::Populate::early). A section that
    /// is not early was hot-added.
    pub early: bool,
    /// Its frames can be claimed.
    pub online: bool,
    /// The order and place of those of its compounds that share tails, if any do.
    pub tails: Option<(Order, Place)>,
    /// The [pool](crate::Altmap::pool) that some of its descriptors lie in, by its first frame, if any do.
    pub altmap: Option<Pfn>,
}

impl SectionState {
    /// Whether all of it is there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.present == self.subsections
    }

    /// Whether some of it is there, and some is not.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.present > 0 && self.present < self.subsections
    }
}

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// What is the case with the section of `pfn`; `None` where nothing of it is there.
    #[must_use]
    pub fn section(&self, pfn: Pfn) -> Option<SectionState> {
        let _guard = self.env.read_side().enter();
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn))?;
        let subsections = self.shape.subsections();
        let covered = (0..subsections).any(|subsection| section.is_covered(subsection));
        covered.then(|| SectionState {
            present: (0..subsections).filter(|&bit| section.present().contains(bit)).count() as u32,
            subsections,
            early: section.flags().contains(Flags::EARLY),
            online: !section.flags().contains(Flags::OFFLINE),
            tails: section.tails().map(|tails| (tails.order, tails.place)),
            altmap: section.altmap(),
        })
    }

    /// Whether there is memory for the descriptor of `pfn`, be the frame there or absent: a snapshot. Linux: `pfn_valid`,
    /// which in early sections is true of holes.
    ///
    /// Lookups find present frames and nothing else: a descriptor in a hole says nothing about anything.
    #[must_use]
    pub fn is_covered(&self, pfn: Pfn) -> bool {
        let _guard = self.env.read_side().enter();
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
        section.is_some_and(|section| section.is_covered(self.shape.subsection_of(pfn)))
    }

    /// Takes every frame of `range`, whole sections, so that nobody can claim it, until it is [`online`](Self::online)
    /// again or removed. What is absent stays absent. Linux: `offline_pages`.
    ///
    /// Compounds that share tails stay as they are: only their heads are claimed.
    ///
    /// It takes the memory map's lock, so it must not be called from inside a reader.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed: [`Busy`](VmemmapError::Busy) where a frame is in use,
    /// [`CutsCompound`](VmemmapError::CutsCompound) where some of what is there of a compound lies outside of the range,
    /// [`Offline`](VmemmapError::Offline) where a section is offline already, [`Absent`](VmemmapError::Absent) where
    /// nothing of a section is there, [`Staged`](VmemmapError::Staged) where some of a section is being staged.
    ///
    /// Cost: one compare-exchange for each free block.
    pub fn offline(&self, range: PfnRange) -> Result<(), VmemmapError> {
        self.check_range(range, self.geometry.section_order())?;
        let _lock = self.locked();
        self.check_online(range, true)?;
        self.check_whole(range)?;
        self.claim_all(range)?;
        self.set_offline(range, true);
        Ok(())
    }

    /// Lets the frames of `range`, whole sections that are offline, rest, so that they can be claimed. Linux:
    /// `online_pages`.
    ///
    /// It takes the memory map's lock, so it must not be called from inside a reader.
    ///
    /// # Errors
    ///
    /// [`VmemmapError`], with nothing changed: [`Online`](VmemmapError::Online) where a section is online already,
    /// [`Busy`](VmemmapError::Busy) where a free block reaches out of the range,
    /// [`CutsCompound`](VmemmapError::CutsCompound) where some of what is there of a compound lies outside of the range,
    /// [`Absent`](VmemmapError::Absent) where nothing of a section is there, [`Staged`](VmemmapError::Staged) where some
    /// of a section is being staged.
    ///
    /// Cost: one store for each free block.
    pub fn online(&self, range: PfnRange) -> Result<(), VmemmapError> {
        self.check_range(range, self.geometry.section_order())?;
        let _lock = self.locked();
        self.check_online(range, false)?;
        self.check_whole(range)?;
        // Claims nothing, since all of it is offline: this makes sure that no block reaches out of the range.
        self.claim_all(range)?;
        self.set_offline(range, false);
        self.unclaim(range, range.end());
        Ok(())
    }

    /// Makes sure that something of each section is there and nothing is being staged, and that all of them are online, or
    /// all offline.
    fn check_online(&self, range: PfnRange, online: bool) -> Result<(), VmemmapError> {
        for (number, part) in self.shape.parts(range) {
            let pfn = self.shape.first_frame(number, 0);
            let section = self.sections.get(self.frames(), number);
            let section = section.filter(|section| section.present().first_set(part).is_some());
            let section = section.ok_or(VmemmapError::Absent { pfn })?;
            if let Some(subsection) = section.reserved().first_set(0..self.shape.subsections()) {
                return Err(VmemmapError::Staged { pfn: self.shape.first_frame(number, subsection) });
            }
            match (section.flags().contains(Flags::OFFLINE), online) {
                (true, true) => return Err(VmemmapError::Offline { pfn }),
                (false, false) => return Err(VmemmapError::Online { pfn }),
                _ => {}
            }
        }
        Ok(())
    }

    fn set_offline(&self, range: PfnRange, offline: bool) {
        for (number, _) in self.shape.parts(range) {
            if let Some(section) = self.sections.get(self.frames(), number) {
                section.set_flags(section.flags().with(Flags::OFFLINE, offline));
            }
        }
    }

    /// Whether the section of `pfn` is offline: its blocks are claimed, and the claims are the memory map's.
    pub(crate) fn is_offline(&self, pfn: Pfn) -> bool {
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
        section.is_some_and(|section| section.flags().contains(Flags::OFFLINE))
    }

    /// The node that the first frame of `range` says it is on.
    pub(crate) fn node_of(&self, range: PfnRange) -> NodeId {
        self.enter().page(range.start()).map_or(NodeId::ZERO, |page| page.place().node)
    }
}
