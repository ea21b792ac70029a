// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model: what subsections hold, which blocks are taken, and what follows from that.

use std::collections::{BTreeMap, BTreeSet};

use mmkit_addr::{Geometry, PfnRange};
use mmkit_page::Place;
use mmkit_vmemmap::VmemmapError;

use crate::common::{self, order, pfn, place};

/// What a subsection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) order: u8,
    pub(crate) place: Place2,
    /// What stands behind its descriptors.
    pub(crate) memory: Memory,
}

/// What stands behind the descriptors of a subsection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Memory {
    /// The compounds share their tails where that is worth it.
    Shared,
    /// All of it is own, as in the holes of boot memory.
    Own,
    /// The pool.
    Hosted,
}

/// How something is populated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Online,
    /// Offline, in huge leaves where there are any.
    Hidden,
    Boot,
    /// In the pool.
    Device,
}

/// The pool: its first frame, its frames, and what was handed out of it since it was last empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) first: u64,
    pub(crate) free: u64,
    pub(crate) alloc: u64,
    pub(crate) next: u64,
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
    /// Sections, by their first subsection, that were populated whole with shared compounds.
    pub(crate) whole: BTreeSet<u64>,
    /// Sections, by their first subsection, that are offline.
    pub(crate) offline: BTreeSet<u64>,
    /// Sections, by their first subsection, that have descriptor memory from boot, and what tails are in it.
    pub(crate) early: BTreeMap<u64, Option<Kind>>,
    pub(crate) pool: Pool,
    /// Blocks by first frame: how many references, 0 for a claimed one.
    pub(crate) taken: BTreeMap<u64, u32>,
}

impl Model {
    pub(crate) fn new(machine: Machine, pool: Pool) -> Self {
        Self {
            machine,
            subsections: BTreeMap::new(),
            whole: BTreeSet::new(),
            offline: BTreeSet::new(),
            early: BTreeMap::new(),
            pool,
            taken: BTreeMap::new(),
        }
    }

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

    pub(crate) fn worth_it(&self, order: u8) -> bool {
        (64u64 << order) / self.geometry().base_bytes() >= 2
    }

    pub(crate) fn shared(&self, kind: Kind) -> bool {
        kind.memory == Memory::Shared && self.worth_it(kind.order)
    }

    /// What stands behind the descriptors of compounds of `order` in `range`, and the unit of such ranges.
    pub(crate) fn memory(&self, range: PfnRange, order: u8, how: How) -> (Memory, u64) {
        let per = self.section() / self.size();
        let parts = self.subsections_of(range);
        let whole = parts.start.is_multiple_of(per) && parts.end.is_multiple_of(per);
        let early = |at: u64| self.early.contains_key(&(at / per * per));
        let reuses = early(parts.start) || early(parts.end - 1);
        let unit = (1u64 << order).max(self.size());
        match how {
            How::Device => (Memory::Hosted, unit.max(self.geometry().base_bytes() / 64)),
            _ if !self.worth_it(order) => (Memory::Shared, unit),
            How::Boot if !whole => (Memory::Own, unit),
            _ if reuses => (Memory::Own, unit),
            _ => (Memory::Shared, self.unit(order)),
        }
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

    pub(crate) fn populated(&mut self, range: PfnRange, new: Kind, how: How) {
        let hidden = how == How::Hidden;
        for at in self.subsections_of(range) {
            self.subsections.insert(at, new);
        }
        let per = self.section() / self.size();
        let subsections = self.subsections_of(range);
        if hidden {
            let sections = subsections.start / per..subsections.end.div_ceil(per);
            self.offline.extend(sections.map(|section| section * per));
        }
        if self.shared(new) {
            let sections = subsections.start.div_ceil(per)..subsections.end / per;
            self.whole.extend(sections.map(|section| section * per));
        }
        if how == How::Boot {
            let tails = Some(new).filter(|&new| self.shared(new));
            for section in subsections.start / per..subsections.end.div_ceil(per) {
                self.early.entry(section * per).or_insert(tails);
            }
        }
        if new.memory == Memory::Hosted {
            let pages = self.hosted_pages(range);
            (self.pool.alloc, self.pool.next) = (self.pool.alloc + pages, self.pool.next + pages);
        }
    }

    /// Pages of descriptors, all of them.
    fn hosted_pages(&self, range: PfnRange) -> u64 {
        range.frames() / (self.geometry().base_bytes() / 64)
    }

    pub(crate) fn removed(&mut self, range: PfnRange) {
        if self.is_hosted(range.start().get()) {
            self.pool.alloc -= self.hosted_pages(range);
            if self.pool.alloc == 0 {
                self.pool.next = 0;
            }
        }
        for at in self.subsections_of(range) {
            self.subsections.remove(&at);
        }
        let per = self.section() / self.size();
        let early = std::mem::take(&mut self.early);
        let there = |first: &u64| self.subsections.range(*first..*first + per).next().is_some();
        self.early = early.into_iter().filter(|(first, _)| there(first)).collect();
        let offline = std::mem::take(&mut self.offline);
        let there = |first: &u64| self.subsections.range(*first..*first + per).next().is_some();
        self.offline = offline.into_iter().filter(there).collect();
        let whole = std::mem::take(&mut self.whole);
        self.whole = whole.into_iter().filter(|&first| self.tails(first).is_some()).collect();
    }

    pub(crate) fn subsections_of(&self, range: PfnRange) -> std::ops::Range<u64> {
        range.start().get() / self.size()..range.end() / self.size()
    }

    /// The kind of the tails that the section of a subsection shares.
    pub(crate) fn tails(&self, subsection: u64) -> Option<Kind> {
        let per = self.section() / self.size();
        let first = subsection / per * per;
        let kinds = self.subsections.range(first..first + per).map(|(_, &kind)| kind);
        // Boot memory keeps the tails that are in it.
        let kept = self.early.get(&first).copied().flatten();
        kept.or_else(|| kinds.into_iter().find(|&kind| self.shared(kind)))
    }

    pub(crate) fn is_hosted(&self, frame: u64) -> bool {
        self.kind(frame).is_some_and(|kind| kind.memory == Memory::Hosted)
    }

    /// Whether there is memory for the descriptor of a frame.
    pub(crate) fn is_covered(&self, frame: u64) -> bool {
        let per = self.section() / self.size();
        self.kind(frame).is_some() || self.early.contains_key(&(frame / self.size() / per * per))
    }

    /// Why a populate must be refused. `Err(())`: with one of two errors, since frames would be in two blocks.
    pub(crate) fn refuses_populate(
        &self,
        range: PfnRange,
        new: Kind,
        how: How,
    ) -> Result<Option<VmemmapError>, ()> {
        let hidden = how == How::Hidden;
        if let Some(error) = self.misaligned(range, self.memory(range, new.order, how).1) {
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
            let device = new.memory == Memory::Hosted;
            let other = |has| self.shared(new) && has != new || device;
            if let Some(has) = self.tails(first).filter(|&has| other(has)) {
                checked = Some(VmemmapError::OtherTails {
                    pfn: pfn(first * self.size()),
                    order: order(has.order),
                    place: of(has.place),
                });
                break;
            }
            let all = subsections.start <= first && first + per <= subsections.end;
            let early = self.early.contains_key(&first);
            if let Some(has) = self.tails(first).filter(|_| early || !all && self.whole.contains(&first)) {
                let pfn = pfn(first * self.size());
                checked = Some(VmemmapError::Piecewise { pfn, order: order(has.order) });
                break;
            }
            let mut kinds = self.subsections.range(first..first + per);
            if self.shared(new) && kinds.any(|(_, kind)| kind.memory == Memory::Hosted) {
                let (pfn, pool) = (pfn(first * self.size()), pfn(self.pool.first));
                checked = Some(VmemmapError::OtherAltmap { pfn, pool });
                break;
            }
            if early && device {
                checked = Some(VmemmapError::Early { pfn: pfn(first * self.size()) });
                break;
            }
            let lowest = self.subsections.range(first..first + per).next();
            if let Some((&at, _)) = lowest.filter(|_| how == How::Boot && !early) {
                checked = Some(VmemmapError::Present { pfn: pfn(at * self.size()) });
                break;
            }
            let there = lowest.is_some();
            if there && self.offline.contains(&first) != hidden {
                let pfn = pfn(first * self.size());
                checked =
                    Some(if hidden { VmemmapError::Online { pfn } } else { VmemmapError::Offline { pfn } });
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
        if conflict {
            return Err(());
        }
        // What is there of a compound is online or offline as a whole.
        let compounds = reach(range.start().get(), range.end(), new.order);
        if self.shared(new) && 1 << new.order > self.cap() {
            let others = self.subsections.range(compounds.start / self.size()..compounds.end / self.size());
            let mut frames = others.map(|(&at, _)| at * self.size());
            if let Some(frame) = frames.find(|&frame| self.is_offline(frame) != hidden) {
                let pfn = pfn(frame / self.section() * self.section());
                return Ok(Some(match hidden {
                    true => VmemmapError::Online { pfn },
                    false => VmemmapError::Offline { pfn },
                }));
            }
        }
        let Pool { first, free, next, .. } = self.pool;
        let full = new.memory == Memory::Hosted && next + self.hosted_pages(range) > free;
        Ok(full.then(|| VmemmapError::AltmapFull { base: pfn(first), needed: 1, free }))
    }

    pub(crate) fn is_offline(&self, frame: u64) -> bool {
        let per = self.section() / self.size();
        self.offline.contains(&(frame / self.size() / per * per))
    }

    pub(crate) fn set_online(&mut self, range: PfnRange, online: bool) {
        let per = self.section() / self.size();
        for first in self.subsections_of(range).step_by(per as usize) {
            if online {
                self.offline.remove(&first);
            } else {
                self.offline.insert(first);
            }
        }
    }

    /// Why whole sections cannot go online or offline.
    pub(crate) fn refuses_online(&self, range: PfnRange, online: bool) -> Option<VmemmapError> {
        let per = self.section() / self.size();
        for first in self.subsections_of(range).step_by(per as usize) {
            let pfn = pfn(first * self.size());
            if self.subsections.range(first..first + per).next().is_none() {
                return Some(VmemmapError::Absent { pfn });
            }
            match (self.offline.contains(&first), online) {
                (true, false) => return Some(VmemmapError::Offline { pfn }),
                (false, true) => return Some(VmemmapError::Online { pfn }),
                _ => {}
            }
        }
        for frame in [range.start().get(), range.end() - 1] {
            let Some(kind) = self.kind(frame).filter(|&kind| self.shared(kind)) else { continue };
            let head = frame >> kind.order << kind.order;
            let parts = self.subsections.range(head / self.size()..(head + (1 << kind.order)) / self.size());
            if parts.into_iter().any(|(&at, _)| !self.subsections_of(range).contains(&at)) {
                return Some(VmemmapError::CutsCompound { head: pfn(head), order: order(kind.order) });
            }
        }
        self.busy(range)
    }

    pub(crate) fn refuses_remove(&self, range: PfnRange) -> Option<VmemmapError> {
        let start = range.start().get();
        // The caller names the pool where the first frame's descriptor lies in it.
        let hosted = self.is_hosted(start);
        let page = self.geometry().base_bytes() / 64;
        if let Some(error) = self.misaligned(range, if hosted { page.max(self.size()) } else { self.size() })
        {
            return Some(error);
        }
        if let Some(at) = self.subsections_of(range).find(|at| !self.subsections.contains_key(at)) {
            return Some(VmemmapError::Absent { pfn: pfn(at * self.size()) });
        }
        let frames = self.subsections_of(range).map(|at| at * self.size());
        if let Some(frame) = frames.into_iter().find(|&frame| self.is_hosted(frame) != hosted) {
            let pfn = pfn(frame);
            return Some(match hosted {
                true => VmemmapError::NoAltmap { pfn },
                false => VmemmapError::OtherAltmap { pfn, pool: common::pfn(self.pool.first) },
            });
        }
        if let Some(error) = self.refuses_cut(range) {
            return Some(error);
        }
        // A compound with a hole that begins before the range must be at rest too.
        if let Some(kind) = self.kind(start).filter(|&kind| self.shared(kind)) {
            let head = start >> kind.order << kind.order;
            if head < start && self.kind(head).is_some() && self.taken.contains_key(&head) {
                return Some(VmemmapError::Busy { pfn: pfn(head) });
            }
        }
        self.busy(range)
    }

    /// Why a range cannot go, where it cuts a compound that shares tails.
    fn refuses_cut(&self, range: PfnRange) -> Option<VmemmapError> {
        let (start, end) = (range.start().get(), range.end());
        let has = |frame| self.kind(frame).is_some();
        for (frame, bound) in [(start, start), (end - 1, end)] {
            let Some(kind) = self.kind(frame).filter(|&kind| self.shared(kind)) else { continue };
            let size = 1 << kind.order;
            let head = frame / size * size;
            let cut = if head >= start {
                (end / self.size()..(head + size).div_ceil(self.size()))
                    .any(|at| self.subsections.contains_key(&at))
            } else {
                has(head)
            };
            let complete = (head / self.size()..(head + size).div_ceil(self.size()))
                .all(|at| self.subsections.contains_key(&at));
            if cut && complete {
                return Some(VmemmapError::CutsCompound { head: pfn(head), order: order(kind.order) });
            }
            if bound % self.unit(kind.order) != 0 {
                let unit = order(self.unit(kind.order).trailing_zeros() as u8);
                return Some(VmemmapError::Misaligned { range, unit });
            }
        }
        None
    }

    /// The first frame that is not the start of a block at rest, or offline, inside the range.
    fn busy(&self, range: PfnRange) -> Option<VmemmapError> {
        let (start, end) = (range.start().get(), range.end());
        let mut busy: BTreeSet<u64> = self.taken.range(start..end).map(|(&head, _)| head).collect();
        for frame in [start, end - 1] {
            let Some(kind) = self.kind(frame) else { continue };
            let size = 1 << kind.order;
            let head = frame / size * size;
            if !self.shared(kind) && head < start {
                busy.insert(start);
            } else if !self.shared(kind) && head + size > end {
                busy.insert(head);
            }
        }
        busy.first().map(|&frame| VmemmapError::Busy { pfn: pfn(frame) })
    }

    /// Frames that must be out, but for those of the space, and frames of the pool that must be in use.
    pub(crate) fn usage(&self) -> (u64, u64, u64, u64) {
        let per_page = self.geometry().base_bytes() / 64;
        let (mut own, mut hosted) = (BTreeSet::new(), BTreeSet::new());
        let mut tails = BTreeSet::new();
        let mut add = |frames: std::ops::Range<u64>, kind: Option<Kind>| {
            let into =
                if kind.is_some_and(|kind| kind.memory == Memory::Hosted) { &mut hosted } else { &mut own };
            let shared = kind.filter(|&kind| self.shared(kind));
            tails.extend(shared);
            for page in frames.start / per_page..frames.end.div_ceil(per_page) {
                if shared.is_none_or(|kind| (page * per_page).is_multiple_of(1 << kind.order)) {
                    into.insert(page);
                }
            }
        };
        for (&first, &kept) in &self.early {
            add(first * self.size()..first * self.size() + self.section(), kept);
        }
        let per = self.section() / self.size();
        for (&at, &kind) in
            self.subsections.iter().filter(|&(at, _)| !self.early.contains_key(&(at / per * per)))
        {
            add(at * self.size()..(at + 1) * self.size(), Some(kind));
        }
        (own.len() as u64, hosted.len() as u64, tails.len() as u64, self.nodes())
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
