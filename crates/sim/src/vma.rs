// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas: what an address space wants to be mapped, page by page, once somebody asks.

use std::collections::BTreeMap;
use std::ops::Bound;

use mmkit_addr::{Order, VirtAddr, VirtRange};

use crate::arena::SHIFT;
use crate::{Error, FileId};

/// The order of a folio that one PMD maps.
pub const PMD_ORDER: Order = match Order::new(9) {
    Some(order) => order,
    None => unreachable!(),
};

/// The first address above the lower half, which areas are in.
pub(crate) const TOP: u64 = 1 << 47;

/// What is behind an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Nothing: pages are zero when they are first touched, and private.
    Anonymous,
    /// A file.
    File {
        /// The file.
        file: FileId,
        /// The file's page that the area begins with.
        page: u64,
        /// Whether writes go to the file, and are seen by everyone; otherwise to a private copy of the page.
        shared: bool,
    },
}

/// What [`AddressSpace::mmap`](crate::AddressSpace::mmap) makes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// What is behind it.
    pub backing: Backing,
    /// The order of the folios that faults install, where they fit: in anonymous areas. Files have an order of their own.
    pub order: Order,
    /// Whether a folio of [`PMD_ORDER`] may be mapped by one PMD rather than by 512 PTEs.
    pub huge: bool,
    /// Whether it may be written.
    pub write: bool,
}

impl Area {
    /// Anonymous, writable, in folios of `order`, mapped by PMDs where possible.
    #[must_use]
    pub const fn anonymous(order: Order) -> Self {
        Self { backing: Backing::Anonymous, order, huge: true, write: true }
    }

    /// The pages of `file` from `page` on, writable; mapped by PMDs where possible.
    #[must_use]
    pub const fn file(file: FileId, page: u64, shared: bool) -> Self {
        Self { backing: Backing::File { file, page, shared }, order: Order::ZERO, huge: true, write: true }
    }

    /// The same, mapped by PTEs only.
    #[must_use]
    pub const fn by_ptes(mut self) -> Self {
        self.huge = false;
        self
    }

    /// The same, not to be written.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.write = false;
        self
    }

    /// Whether pages written to become the address space's own.
    pub(crate) fn is_private(&self) -> bool {
        !matches!(self.backing, Backing::File { shared: true, .. })
    }

    /// The area that begins `bytes` further.
    fn advanced(mut self, bytes: u64) -> Self {
        if let Backing::File { page, .. } = &mut self.backing {
            *page += bytes >> SHIFT;
        }
        self
    }
}

/// An area and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) area: Area,
}

impl Vma {
    pub(crate) fn contains(&self, start: u64, end: u64) -> bool {
        self.start <= start && end <= self.end
    }

    /// The page of the file behind `va`.
    pub(crate) fn file_page(&self, va: u64, first: u64) -> u64 {
        first + ((va - self.start) >> SHIFT)
    }

    /// Whether the page of the file behind `va`, which is that of a PMD, is the first of a folio that a PMD may map.
    pub(crate) fn is_in_step(&self, va: u64) -> bool {
        match self.area.backing {
            Backing::File { page, .. } => self.file_page(va, page).is_multiple_of(PMD_ORDER.frames()),
            Backing::Anonymous => true,
        }
    }

    /// The part in `start..end`, which overlaps it.
    fn part(&self, start: u64, end: u64) -> Self {
        let start = start.max(self.start);
        Self { start, end: end.min(self.end), area: self.area.advanced(start - self.start) }
    }
}

/// The areas of an address space, by their first address. They do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vmas(BTreeMap<u64, Vma>);

impl Vmas {
    /// The area with `va` in it.
    pub(crate) fn at(&self, va: VirtAddr) -> Result<Vma, Error> {
        let below = self.0.range(..=va.get()).next_back();
        below.map(|(_, vma)| *vma).filter(|vma| va.get() < vma.end).ok_or(Error::NoArea { va })
    }

    /// The area with all of `start..end` in it.
    pub(crate) fn around(&self, start: u64, end: u64) -> Result<Vma, Error> {
        let vma = self.at(VirtAddr::new(start))?;
        if vma.contains(start, end) { Ok(vma) } else { Err(Error::NoArea { va: VirtAddr::new(vma.end) }) }
    }

    /// Fails where something of `start..end` is in an area.
    pub(crate) fn check_free(&self, start: u64, end: u64) -> Result<(), Error> {
        match self.overlapping(start, end).next() {
            Some(vma) => Err(Error::Occupied { va: VirtAddr::new(vma.start.max(start)) }),
            None => Ok(()),
        }
    }

    pub(crate) fn insert(&mut self, vma: Vma) {
        self.0.insert(vma.start, vma);
    }

    /// Areas with something of `start..end` in them, ascending.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Vma> + '_ {
        let before = self.0.range(..start).next_back().filter(|(_, vma)| vma.end > start);
        let within = self.0.range((Bound::Included(start), Bound::Excluded(end)));
        before.into_iter().chain(within).map(|(_, vma)| *vma)
    }

    /// Takes `start..end` out, cutting areas that reach out of it; returns the parts that were in it.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Vec<Vma> {
        let hit: Vec<Vma> = self.overlapping(start, end).collect();
        for vma in &hit {
            self.0.remove(&vma.start);
            if vma.start < start {
                self.insert(vma.part(vma.start, start));
            }
            if vma.end > end {
                self.insert(vma.part(end, vma.end));
            }
        }
        hit.iter().map(|vma| vma.part(start, end)).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Vma> + '_ {
        self.0.values().copied()
    }
}

/// First and end of a range of whole pages in the lower half.
pub(crate) fn bounds(range: VirtRange) -> Result<(u64, u64), Error> {
    let end = range.end().map_or(0, VirtAddr::get);
    if range.is_empty() || !range.is_aligned(SHIFT) || end == 0 || end > TOP {
        return Err(Error::BadRange { range });
    }
    Ok((range.start().get(), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 1 << SHIFT;

    fn file(page: u64) -> Backing {
        Backing::File { file: FileId::for_test(1), page, shared: true }
    }

    fn vma(start: u64, end: u64) -> Vma {
        let area = Area { backing: file(100), ..Area::anonymous(Order::ZERO) };
        Vma { start: start * PAGE, end: end * PAGE, area }
    }

    #[test]
    fn a_hole_leaves_two_areas_that_know_their_place_in_the_file() {
        let mut vmas = Vmas::default();
        vmas.insert(vma(10, 20));
        let removed = vmas.remove(13 * PAGE, 15 * PAGE);
        assert_eq!(removed.len(), 1);
        assert_eq!(removed[0].area.backing, file(103));
        let left: Vec<_> =
            vmas.iter().map(|vma| (vma.start / PAGE, vma.end / PAGE, vma.area.backing)).collect();
        assert_eq!(left, [(10, 13, file(100)), (15, 20, file(105))]);
        assert_eq!(
            vmas.at(VirtAddr::new(13 * PAGE)).err(),
            Some(Error::NoArea { va: VirtAddr::new(13 * PAGE) })
        );
        assert!(vmas.at(VirtAddr::new(13 * PAGE - 1)).is_ok());
    }

    #[test]
    fn what_touches_does_not_overlap() {
        let mut vmas = Vmas::default();
        vmas.insert(vma(10, 20));
        assert_eq!(vmas.check_free(0, 10 * PAGE), Ok(()));
        assert_eq!(vmas.check_free(20 * PAGE, 30 * PAGE), Ok(()));
        let at = |page: u64| Err(Error::Occupied { va: VirtAddr::new(page * PAGE) });
        assert_eq!(vmas.check_free(0, 11 * PAGE), at(10));
        assert_eq!(vmas.check_free(19 * PAGE, 30 * PAGE), at(19));
        assert!(vmas.around(10 * PAGE, 21 * PAGE).is_err());
    }

    #[test]
    fn ranges_are_whole_pages_of_the_lower_half() {
        let range = |start, bytes| VirtRange::new(VirtAddr::new(start), bytes).unwrap();
        assert_eq!(bounds(range(PAGE, PAGE)), Ok((PAGE, 2 * PAGE)));
        for bad in [range(PAGE, 0), range(PAGE, 17), range(1, PAGE), range(TOP - PAGE, 2 * PAGE)] {
            assert_eq!(bounds(bad), Err(Error::BadRange { range: bad }));
        }
        assert!(bounds(range(u64::MAX - PAGE + 1, PAGE)).is_err());
    }
}
