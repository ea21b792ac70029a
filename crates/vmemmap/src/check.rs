// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused before anything happens.

use core::ops::Range;

use mmkit_addr::{Order, Pfn, PfnRange};

use crate::content::Content;
use crate::tails::TailKey;
use crate::{TailSlot, Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Whether `range` is made of whole units.
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
    fn largest_unit(&self) -> Order {
        self.geometry.section_order().max(self.page_order())
    }

    /// Whether no frame of the range is there, and its sections have no other tails.
    pub(crate) fn check_room(&self, content: &Content) -> Result<(), VmemmapError> {
        let key = TailKey { place: content.place, order: content.order };
        for (number, part) in self.shape.parts(content.range) {
            let Some(section) = self.sections.get(self.frames(), number) else { continue };
            if let Some(subsection) = section.present().first_set(part) {
                return Err(VmemmapError::Present { pfn: self.shape.first_frame(number, subsection) });
            }
            if let Some(has) = section.tails().filter(|&has| content.shared && has != key) {
                let pfn = self.shape.first_frame(number, 0);
                return Err(VmemmapError::OtherTails { pfn, order: has.order, place: has.place });
            }
        }
        self.check_reach(content, key)
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
                let Some(present) = section.present().first_set(all) else { continue };
                let pfn = self.shape.first_frame(number, 0);
                match section.tails() {
                    Some(has) if has == key && content.shared => {}
                    Some(has) if reaches(has.order, pfn) || reaches(own, pfn) => {
                        return Err(VmemmapError::OtherTails { pfn, order: has.order, place: has.place });
                    }
                    None if reaches(own, pfn) => {
                        return Err(VmemmapError::Present { pfn: self.shape.first_frame(number, present) });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether all frames of the range are there.
    pub(crate) fn check_present(&self, range: PfnRange) -> Result<(), VmemmapError> {
        for (number, part) in self.shape.parts(range) {
            let missing = match self.sections.get(self.frames(), number) {
                Some(section) => section.present().first_clear(part),
                None => Some(part.start),
            };
            if let Some(subsection) = missing {
                return Err(VmemmapError::Absent { pfn: self.shape.first_frame(number, subsection) });
            }
        }
        Ok(())
    }

    /// Whether the range has all of each compound that it has the head of, as far as that is there, and no part of one
    /// whose head stays.
    pub(crate) fn check_cuts(&self, range: PfnRange) -> Result<(), VmemmapError> {
        let Some(last) = range.last() else { return Ok(()) };
        for pfn in [range.start(), last] {
            let Some(order) = self.shared_order(pfn) else { continue };
            let compound = PfnRange::block(pfn, order);
            let head = compound.start();
            let cut = if range.contains(head) {
                Pfn::new(range.end())
                    .and_then(|end| PfnRange::new(end, compound.end().saturating_sub(range.end())))
                    .is_some_and(|rest| self.any_present(rest))
            } else {
                self.has(head)
            };
            if cut {
                return Err(VmemmapError::CutsCompound { head, order });
            }
            // Without its head a compound goes as it came: by units.
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

    /// Whether any frame of `range`, made of whole subsections, is there.
    pub(crate) fn any_present(&self, range: PfnRange) -> bool {
        !range.is_empty()
            && self.shape.parts(range).any(|(number, part)| {
                let section = self.sections.get(self.frames(), number);
                section.is_some_and(|section| section.present().first_set(part).is_some())
            })
    }

    /// The vmemmap pages of `range` that no frame outside of it has its descriptor in. Where a page is larger than the
    /// descriptors of a subsection, the first and the last page may have neighbours.
    pub(crate) fn own_pages(&self, range: PfnRange) -> Range<u64> {
        let mut pages = self.pages_of(range);
        if pages.start < pages.end && self.has_neighbours(pages.start, range) {
            pages.start += 1;
        }
        if pages.start < pages.end && self.has_neighbours(pages.end - 1, range) {
            pages.end -= 1;
        }
        pages
    }

    /// Whether frames outside of `range` that are there have descriptors in `page`.
    fn has_neighbours(&self, page: u64, range: PfnRange) -> bool {
        let frames = self.frames_of(page);
        let bounds = (frames.start().get(), range.start().get().max(frames.start().get()));
        let after = (range.end().min(frames.end()), frames.end());
        [bounds, after].into_iter().any(|(start, end)| {
            Pfn::new(start)
                .and_then(|start| PfnRange::new(start, end.saturating_sub(start.get())))
                .is_some_and(|part| self.any_present(part))
        })
    }
}
