// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model: what subsections hold, which blocks are taken, and what follows from that.

use std::collections::{BTreeMap, BTreeSet};

use mmkit_addr::{Geometry, PfnRange};
use mmkit_page::Place;
use mmkit_vmemmap::VmemmapError;

use crate::common::{order, pfn, place};

/// What a subsection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) order: u8,
    pub(crate) place: Place2,
}

/// A place that can be ordered.
pub(crate) type Place2 = (u16, u8);

pub(crate) fn of(place2: Place2) -> Place {
    place(place2.0, place2.1)
}

/// The machine under test.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) geometry: Geometry,
    /// First section, and how many.
    pub(crate) first: u64,
    pub(crate) sections: u64,
    pub(crate) orders: Vec<u8>,
    /// Look at every so many-th frame of those that did not change.
    pub(crate) stride: usize,
}

pub(crate) const PLACES: [Place2; 3] = [(0, 0), (0, 1), (1, 0)];

pub(crate) struct Model {
    pub(crate) machine: Machine,
    pub(crate) subsections: BTreeMap<u64, Kind>,
    /// Blocks by first frame: how many references, 0 for a claimed one.
    pub(crate) taken: BTreeMap<u64, u32>,
}

impl Model {
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.machine.geometry
    }

    pub(crate) fn size(&self) -> u64 {
        (2 << 20) / self.geometry().base_bytes()
    }

    pub(crate) fn section(&self) -> u64 {
        self.geometry().section_bytes() / self.geometry().base_bytes()
    }

    pub(crate) fn kind(&self, frame: u64) -> Option<Kind> {
        self.subsections.get(&(frame / self.size())).copied()
    }

    pub(crate) fn shared(&self, order: u8) -> bool {
        (64u64 << order) / self.geometry().base_bytes() >= 2
    }

    /// Frames of which a populate of larger compounds must have whole multiples: a section, or a page of descriptors.
    pub(crate) fn cap(&self) -> u64 {
        self.section().max(self.geometry().base_bytes() / 64)
    }

    pub(crate) fn unit(&self, order: u8) -> u64 {
        (1u64 << order).max(self.size()).min(self.cap())
    }

    pub(crate) fn misaligned(&self, range: PfnRange, unit: u64) -> Option<VmemmapError> {
        let ends = [range.start().get(), range.end()];
        let unit_order = order(unit.trailing_zeros() as u8);
        ends.iter().any(|end| end % unit != 0).then_some(VmemmapError::Misaligned { range, unit: unit_order })
    }

    pub(crate) fn subsections_of(&self, range: PfnRange) -> std::ops::Range<u64> {
        range.start().get() / self.size()..range.end() / self.size()
    }

    /// The kind of the tails that the section of a subsection shares.
    pub(crate) fn tails(&self, subsection: u64) -> Option<Kind> {
        let per = self.section() / self.size();
        let first = subsection / per * per;
        self.subsections.range(first..first + per).map(|(_, &kind)| kind).find(|kind| self.shared(kind.order))
    }

    /// Why a populate must be refused. `Err(())`: with one of two errors, since frames would be in two blocks.
    pub(crate) fn refuses_populate(&self, range: PfnRange, new: Kind) -> Result<Option<VmemmapError>, ()> {
        if let Some(error) = self.misaligned(range, self.unit(new.order)) {
            return Ok(Some(error));
        }
        let per = self.section() / self.size();
        let mut checked = None;
        let subsections = self.subsections_of(range);
        for first in (subsections.start / per..=(subsections.end - 1) / per).map(|section| section * per) {
            let part = subsections.start.max(first)..subsections.end.min(first + per);
            if let Some((&at, _)) = self.subsections.range(part).next() {
                checked = Some(VmemmapError::Present { pfn: pfn(at * self.size()) });
                break;
            }
            if let Some(has) = self.tails(first).filter(|&has| self.shared(new.order) && has != new) {
                checked = Some(VmemmapError::OtherTails {
                    pfn: pfn(first * self.size()),
                    order: order(has.order),
                    place: of(has.place),
                });
                break;
            }
        }
        if checked.is_some() {
            return Ok(checked);
        }
        // No frame in two blocks: every compound that crosses the edge of the range is of one kind.
        let reach = |start: u64, end: u64, order: u8| {
            let size = 1u64 << order;
            start / size * size..end.div_ceil(size) * size
        };
        let conflict = self.subsections.iter().any(|(&at, &kind)| {
            let (start, end) = (at * self.size(), (at + 1) * self.size());
            let theirs = reach(start, end, kind.order);
            let ours = reach(range.start().get(), range.end(), new.order);
            kind != new
                && (theirs.start < range.end() && range.start().get() < theirs.end
                    || ours.start < end && start < ours.end)
        });
        if conflict { Err(()) } else { Ok(None) }
    }

    pub(crate) fn refuses_remove(&self, range: PfnRange) -> Option<VmemmapError> {
        if let Some(error) = self.misaligned(range, self.size()) {
            return Some(error);
        }
        let (start, end) = (range.start().get(), range.end());
        let has = |frame| self.kind(frame).is_some();
        if let Some(at) = self.subsections_of(range).find(|at| !self.subsections.contains_key(at)) {
            return Some(VmemmapError::Absent { pfn: pfn(at * self.size()) });
        }
        for (frame, bound) in [(start, start), (end - 1, end)] {
            let Some(kind) = self.kind(frame).filter(|kind| self.shared(kind.order)) else { continue };
            let size = 1 << kind.order;
            let head = frame / size * size;
            let cut = if head >= start {
                (end / self.size()..(head + size).div_ceil(self.size()))
                    .any(|at| self.subsections.contains_key(&at))
            } else {
                has(head)
            };
            if cut {
                return Some(VmemmapError::CutsCompound { head: pfn(head), order: order(kind.order) });
            }
            if bound % self.unit(kind.order) != 0 {
                let unit = order(self.unit(kind.order).trailing_zeros() as u8);
                return Some(VmemmapError::Misaligned { range, unit });
            }
        }
        // The first frame that is not the start of a block at rest inside the range.
        let mut busy: BTreeSet<u64> = self.taken.range(start..end).map(|(&head, _)| head).collect();
        for frame in [start, end - 1] {
            let kind = self.kind(frame).expect("present");
            let size = 1 << kind.order;
            let head = frame / size * size;
            if !self.shared(kind.order) && head < start {
                busy.insert(start);
            } else if !self.shared(kind.order) && head + size > end {
                busy.insert(head);
            }
        }
        busy.first().map(|&frame| VmemmapError::Busy { pfn: pfn(frame) })
    }

    /// Frames that must be out, but for those of the space.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        let per_page = self.geometry().base_bytes() / 64;
        let mut own = BTreeSet::new();
        let mut tails = BTreeSet::new();
        for (&at, &kind) in &self.subsections {
            if self.shared(kind.order) {
                tails.insert(kind);
            }
            let frames = at * self.size()..(at + 1) * self.size();
            for page in frames.start / per_page..frames.end.div_ceil(per_page) {
                if !self.shared(kind.order) || (page * per_page).is_multiple_of(1 << kind.order) {
                    own.insert(page);
                }
            }
        }
        (own.len() as u64, tails.len() as u64, self.nodes())
    }

    /// Frames of the smallest radix tree that holds the sections that there are.
    pub(crate) fn nodes(&self) -> u64 {
        let words = self.geometry().base_bytes() / 8;
        let bitmap = (self.section() / self.size()).div_ceil(64);
        let mut numbers: BTreeSet<u64> =
            self.subsections.keys().map(|at| at * self.size() / self.section()).collect();
        let mut below = words / (1 + 2 * bitmap).next_power_of_two();
        let mut nodes = 0;
        while !numbers.is_empty() {
            numbers = numbers.into_iter().map(|number| number / below).collect();
            below = words;
            nodes += numbers.len() as u64;
            if numbers.last() == Some(&0) {
                break;
            }
        }
        nodes
    }

    pub(crate) fn frames(&self) -> std::ops::Range<u64> {
        let first = self.machine.first * self.section();
        first..first + self.machine.sections * self.section()
    }
}
