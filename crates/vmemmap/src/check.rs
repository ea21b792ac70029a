// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused before anything happens.

use core::ops::Range;

use mmkit_addr::{Order, Pfn, PfnRange};

use crate::content::Content;
use crate::populate::between;
use crate::section::{Flags, Section};
use crate::tails::TailKey;
use crate::{TailSlot, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Makes sure that `range` is made of whole units.
    pub(crate) fn check_range(&self, range: PfnRange, unit: Order) -> Result<(), VmemmapError> {
        let frames = self.geometry.max_frames();
        match () {
            () if range.is_empty() => Err(VmemmapError::Empty),
            () if range.end() > frames => Err(VmemmapError::TooHigh { range, frames }),
            () if !range.is_aligned(unit) => Err(VmemmapError::Misaligned { range, unit }),
            () => Ok(()),
        }
    }

    /// The unit in which compounds of `order` are populated: whole compounds, but no more than the
    /// [largest unit](Self::largest_unit), and no less than a subsection.
    pub(crate) fn unit(&self, order: Order) -> Result<Order, VmemmapError> {
        let max = self.geometry.max_huge_order();
        if order > max {
            return Err(VmemmapError::OrderTooLarge { order, max });
        }
        Ok(order.max(self.geometry.subsection_order()).min(self.largest_unit()))
    }

    /// A section, or as many as have their descriptors in one page where a page has more: a page of tails is never
    /// populated or removed in part.
    pub(crate) fn largest_unit(&self) -> Order {
        self.geometry.section_order().max(self.page_order())
    }

    /// Makes sure that no frame of the range is there, and that its sections can have what is asked for.
    pub(crate) fn check_room(&self, content: &Content) -> Result<(), VmemmapError> {
        for (number, part) in self.shape.parts(content.asked) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            let first = |subsection| self.shape.first_frame(number, subsection);
            let there = |&subsection: &u32| {
                let altmap = section.is_marked(subsection, section.altmap());
                section.is_taken(subsection) || altmap.is_some()
            };
            if let Some(subsection) = part.clone().find(there) {
                let pfn = first(subsection);
                return Err(match section.reserved().contains(subsection) {
                    true => VmemmapError::Staged { pfn },
                    false => VmemmapError::Present { pfn },
                });
            }
            self.check_kind(content, section, (first(0), part))?;
        }
        self.check_reach(content, content.tails())?;
        self.check_state(content)
    }

    /// Makes sure that `part` of a section, which is not there, goes together with what is there.
    fn check_kind(
        &self,
        content: &Content,
        section: Section<'_>,
        (pfn, part): (Pfn, Range<u32>),
    ) -> Result<(), VmemmapError> {
        let (flags, early) = (section.flags(), section.flags().contains(Flags::EARLY));
        if let Some(has) = section.tails() {
            if (content.shared && has != content.tails()) || content.altmap.is_some() {
                return Err(VmemmapError::OtherTails { pfn, order: has.order, place: has.place });
            }
            let all = part == (0..self.shape.subsections());
            if early || (flags.contains(Flags::WHOLE) && !all) {
                return Err(VmemmapError::Piecewise { pfn, order: has.order });
            }
        }
        match section.altmap().filter(|&pool| content.altmap.map_or(content.shared, |own| own != pool)) {
            Some(pool) => return Err(VmemmapError::OtherAltmap { pfn, pool }),
            None if early && content.altmap.is_some() => return Err(VmemmapError::Early { pfn }),
            None => {}
        }
        let Some(there) = (0..self.shape.subsections()).find(|&subsection| section.is_covered(subsection))
        else {
            return Ok(());
        };
        match () {
            () if content.early && !early => {
                Err(VmemmapError::Present { pfn: self.shape.first_frame(self.shape.section_of(pfn), there) })
            }
            () if flags.contains(Flags::OFFLINE) == content.offline => Ok(()),
            () if content.offline => Err(VmemmapError::Online { pfn }),
            () => Err(VmemmapError::Offline { pfn }),
        }
    }

    /// Whether compounds that reach into the range, or out of it, are made of nothing else, as far as they are there:
    /// no frame is in two blocks.
    fn check_reach(&self, content: &Content, key: TailKey) -> Result<(), VmemmapError> {
        let unit = self.largest_unit();
        let own = if content.shared { content.order } else { Order::ZERO };
        let used = self.env.tail_slots().iter().filter_map(TailSlot::used_order).max();
        let reach = own.max(used.unwrap_or(Order::ZERO));
        let (Some(last), true) = (content.range.last(), reach > unit) else { return Ok(()) };
        let reaches =
            |order: Order, pfn: Pfn| order > unit && PfnRange::block(pfn, order).overlaps(content.range);
        for bound in [content.range.start(), last] {
            for (number, all) in self.shape.parts(PfnRange::block(bound, reach)) {
                let Some(section) = self.sections.get(self.frames(), number) else { continue };
                let Some(taken) = section.first_taken(all) else { continue };
                let pfn = self.shape.first_frame(number, 0);
                match section.tails() {
                    Some(has) if has == key && content.shared => {}
                    Some(has) if reaches(has.order, pfn) || reaches(own, pfn) => {
                        return Err(VmemmapError::OtherTails { pfn, order: has.order, place: has.place });
                    }
                    None if reaches(own, pfn) => {
                        return Err(VmemmapError::Present { pfn: self.shape.first_frame(number, taken) });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Makes sure that what is there of the compounds that reach into the range, or out of it, is as online as the range
    /// will be. They are compounds of its own kind: others were refused before.
    fn check_state(&self, content: &Content) -> Result<(), VmemmapError> {
        let spans = content.shared && content.order > self.largest_unit();
        let (Some(last), true) = (content.range.last(), spans) else { return Ok(()) };
        for bound in [content.range.start(), last] {
            for (number, all) in self.shape.parts(PfnRange::block(bound, content.order)) {
                let Some(section) = self.sections.get(self.frames(), number) else { continue };
                let pfn = self.shape.first_frame(number, 0);
                match (section.flags().contains(Flags::OFFLINE), content.offline) {
                    _ if section.first_taken(all).is_none() => {}
                    (true, false) => return Err(VmemmapError::Offline { pfn }),
                    (false, true) => return Err(VmemmapError::Online { pfn }),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Makes sure that nothing of a compound that shares its tails is there outside of the range, where some of it is
    /// there inside.
    pub(crate) fn check_whole(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let Some(last) = range.last() else { return Ok(()) };
        for pfn in [range.start(), last] {
            let Some(order) = self.shared_order(pfn) else { continue };
            let compound = PfnRange::block(pfn, order);
            let below = between(compound.start().get(), range.start().get());
            if self.any_taken(below) || self.any_taken(between(range.end(), compound.end())) {
                return Err(VmemmapError::CutsCompound { head: compound.start(), order });
            }
        }
        Ok(())
    }

    /// Makes sure that all frames of the range are there.
    pub(crate) fn check_present(&self, range: PfnRange) -> Result<(), VmemmapError> {
        for (number, part) in self.shape.parts(range) {
            let section = self.sections.get(self.frames(), number);
            let missing = match section {
                Some(section) => section.present().first_clear(part),
                None => Some(part.start),
            };
            if let Some(subsection) = missing {
                let pfn = self.shape.first_frame(number, subsection);
                return Err(match section.is_some_and(|section| section.reserved().contains(subsection)) {
                    true => VmemmapError::Staged { pfn },
                    false => VmemmapError::Absent { pfn },
                });
            }
        }
        Ok(())
    }

    /// Makes sure that the range cuts no compound that is there as a whole.
    pub(crate) fn check_cuts(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let Some(last) = range.last() else { return Ok(()) };
        for pfn in [range.start(), last] {
            let Some(order) = self.shared_order(pfn) else { continue };
            let compound = PfnRange::block(pfn, order);
            let head = compound.start();
            let cut = if range.contains(head) {
                Pfn::new(range.end())
                    .and_then(|end| PfnRange::new(end, compound.end().saturating_sub(range.end())))
                    .is_some_and(|rest| self.any_taken(rest))
            } else {
                self.has(head)
            };
            if cut && self.all_present(compound) {
                return Err(VmemmapError::CutsCompound { head, order });
            }
            // A compound of which something is missing goes as it came: by units.
            let unit = self.unit(order)?;
            let bound = if pfn == range.start() { pfn.get() } else { range.end() };
            if bound & unit.mask() != 0 {
                return Err(VmemmapError::Misaligned { range, unit });
            }
        }
        Ok(())
    }

    /// The order of the compounds of the subsection of `pfn`, if they share their tails.
    pub(crate) fn shared_order(&self, pfn: Pfn) -> Option<Order> {
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn))?;
        let shared = section.shared().contains(self.shape.subsection_of(pfn));
        section.tails().filter(|_| shared).map(|tails| tails.order)
    }

    /// Whether any frame of `range`, made of whole subsections, is there, or about to be.
    pub(crate) fn any_taken(&self, range: PfnRange) -> bool {
        !range.is_empty()
            && self.shape.parts(range).any(|(number, part)| {
                let section = self.sections.get(self.frames(), number);
                section.is_some_and(|section| section.first_taken(part).is_some())
            })
    }

    fn all_present(&self, range: PfnRange) -> bool {
        self.check_present(range).is_ok()
    }

    /// Whether there is memory for the descriptor of any frame of `range`, made of whole subsections.
    fn any_covered(&self, range: PfnRange) -> bool {
        !range.is_empty()
            && self.shape.parts(range).any(|(number, mut part)| {
                let section = self.sections.get(self.frames(), number);
                section.is_some_and(|section| part.any(|subsection| section.is_covered(subsection)))
            })
    }

    /// Whether the descriptor of `pfn` is being written.
    pub(crate) fn is_reserved(&self, pfn: Pfn) -> bool {
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
        section.is_some_and(|section| section.reserved().contains(self.shape.subsection_of(pfn)))
    }

    /// Whether the descriptor of `pfn` lies in an altmap: in memory that came with the memory that it describes.
    pub(crate) fn is_hosted(&self, pfn: Pfn) -> bool {
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
        section.is_some_and(|section| {
            section.is_marked(self.shape.subsection_of(pfn), section.altmap()).is_some()
        })
    }

    /// Whether the section of `pfn` is early.
    pub(crate) fn is_early(&self, pfn: Pfn) -> bool {
        let section = self.sections.get(self.frames(), self.shape.section_of(pfn));
        section.is_some_and(|section| section.flags().contains(Flags::EARLY))
    }

    /// The vmemmap pages of `range` that no frame outside of it has its descriptor in. Where a page is larger than the
    /// descriptors of a subsection, the first and the last page may have neighbours.
    pub(crate) fn own_pages(&self, range: PfnRange) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        let mut pages = self.pages_of(range);
        if pages.start < pages.end && self.has_neighbours(pages.start, range) {
            pages.start += 1;
        }
        if pages.start < pages.end && self.has_neighbours(pages.end - 1, range) {
            pages.end -= 1;
        }
        pages
    }

    /// Whether frames outside of `range` have memory for their descriptors in `page`.
    fn has_neighbours(&self, page: u64, range: PfnRange) -> bool {
        let frames = self.frames_of(page);
        let bounds = (frames.start().get(), range.start().get().max(frames.start().get()));
        let after = (range.end().min(frames.end()), frames.end());
        [bounds, after].into_iter().any(|(start, end)| {
            Pfn::new(start)
                .and_then(|start| PfnRange::new(start, end.saturating_sub(start.get())))
                .is_some_and(|part| self.any_covered(part))
        })
    }
}
