// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands where in the window, and how many mappings that takes. Books only: no memory is touched here.

use std::collections::BTreeMap;
use std::ops::Range;

use mmkit_vmemmap::{Backing, TailRun};

/// What stands behind some pages of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Mapped, for whoever asks.
    Mapped(Backing),
    /// Mapped still, because the kernel refused to take it away; vacant for whoever asks.
    Left(Backing),
    /// Not ours any more: the kernel dropped our mapping and the address may be somebody else's. Never used again.
    Lost,
}

/// Mapped pages, with what is to be given back for them.
pub(crate) type Mapped = (Range<u64>, Backing);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    end: u64,
    stand: Stand,
}

/// Pages of the file, and whether they may be read or written, behind pages of the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) pages: Range<u64>,
    pub(crate) offset: u64,
    pub(crate) access: Access,
}

/// What may be done to the pages of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    None,
    Read,
    Write,
}

/// Everything that stands in a window of `pages` pages, by first page. Vacant pages are in no extent.
#[derive(Debug)]
pub(crate) struct Extents {
    extents: BTreeMap<u64, Extent>,
    pages: u64,
    mappings: u64,
    /// Page 0 of the window is marked vacant with this page of the file, page 1 with the next, and so on.
    marker: u64,
}

/// A change that was worked out and not made yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct Change {
    old: Vec<u64>,
    new: Vec<(u64, Extent)>,
    mappings: u64,
}

impl Change {
    /// Mappings that the window takes afterwards.
    pub(crate) fn mappings(&self) -> u64 {
        self.mappings
    }
}

impl Extents {
    pub(crate) fn new(pages: u64, marker: u64) -> Self {
        Self { extents: BTreeMap::new(), pages, mappings: u64::from(pages > 0), marker }
    }

    /// Mappings that the window takes, the vacant ones included. The kernel may need fewer, where it can join two.
    pub(crate) fn mappings(&self) -> u64 {
        self.mappings
    }

    /// Everything that overlaps `pages`, cut to it.
    fn overlapping(&self, pages: Range<u64>) -> impl Iterator<Item = (Range<u64>, Stand)> + '_ {
        let before = self.extents.range(..pages.start).next_back();
        before.into_iter().chain(self.extents.range(pages.clone())).filter_map(move |(&start, extent)| {
            let cut = start.max(pages.start)..extent.end.min(pages.end);
            (!cut.is_empty()).then(|| (cut.clone(), cut_stand(start, extent.stand, cut.start)))
        })
    }

    /// The first page of the range that cannot be mapped.
    pub(crate) fn first_taken(&self, pages: Range<u64>) -> Option<u64> {
        self.overlapping(pages).find(|(_, stand)| !matches!(stand, Stand::Left(_))).map(|(cut, _)| cut.start)
    }

    /// What is mapped in the range, or the first page that is not.
    pub(crate) fn all_mapped(&self, pages: Range<u64>) -> Result<Vec<Mapped>, u64> {
        let mut at = pages.start;
        let mut found = vec![];
        for (cut, stand) in self.overlapping(pages.clone()) {
            match stand {
                Stand::Mapped(backing) if cut.start == at => found.push((cut.clone(), backing)),
                _ => break,
            }
            at = cut.end;
        }
        if at == pages.end { Ok(found) } else { Err(at) }
    }

    /// What the kernel should say of the range.
    pub(crate) fn pieces(&self, pages: Range<u64>) -> Vec<Piece> {
        let mut at = pages.start;
        let mut found = vec![];
        for (cut, stand) in self.overlapping(pages.clone()) {
            found.extend(self.vacant(at..cut.start));
            at = cut.end;
            match stand {
                Stand::Mapped(backing) | Stand::Left(backing) => found.extend(pieces_of(cut, backing)),
                Stand::Lost => {}
            }
        }
        found.extend(self.vacant(at..pages.end));
        found
    }

    /// The mark of vacant pages.
    pub(crate) fn vacant(&self, pages: Range<u64>) -> Option<Piece> {
        let offset = self.marker + pages.start;
        (!pages.is_empty()).then_some(Piece { pages, offset, access: Access::None })
    }

    /// Pages that are not ours any more.
    pub(crate) fn lost(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let lost = self.extents.iter().filter(|(_, extent)| extent.stand == Stand::Lost);
        lost.map(|(&start, extent)| start..extent.end)
    }

    /// Works out what putting `stand` (or nothing) over all of `pages`, which are not empty, does.
    pub(crate) fn plan(&self, pages: Range<u64>, stand: Option<Stand>) -> Change {
        // All extents that overlap or touch the range, and those next to it on either side.
        let before = self.extents.range(..pages.start).next_back();
        let inside = self.extents.range(pages.clone());
        let after = self.extents.range(pages.end..).next();
        let old: Vec<(u64, Extent)> =
            before.into_iter().chain(inside).chain(after).map(|(&start, &extent)| (start, extent)).collect();
        let edges = before.map_or(0, |(&start, _)| start)..after.map_or(self.pages, |(_, extent)| extent.end);

        let mut new = Vec::with_capacity(old.len() + 2);
        let mut rest = vec![];
        for &(start, Extent { end, stand }) in &old {
            if start < pages.start {
                push(&mut new, start, Extent { end: end.min(pages.start), stand });
            }
            let cut = start.max(pages.end);
            if cut < end {
                rest.push((cut, Extent { end, stand: cut_stand(start, stand, cut) }));
            }
        }
        if let Some(stand) = stand {
            push(&mut new, pages.start, Extent { end: pages.end, stand });
        }
        rest.into_iter().for_each(|(start, extent)| push(&mut new, start, extent));

        let mappings = self.mappings - count(&old, edges.clone()) + count(&new, edges);
        Change { old: old.into_iter().map(|(start, _)| start).collect(), new, mappings }
    }

    /// Makes a change that was planned last, with none made since.
    pub(crate) fn apply(&mut self, change: Change) {
        for start in &change.old {
            self.extents.remove(start);
        }
        self.extents.extend(change.new);
        self.mappings = change.mappings;
    }

    /// Plans and applies.
    pub(crate) fn set(&mut self, pages: Range<u64>, stand: Option<Stand>) {
        if !pages.is_empty() {
            let change = self.plan(pages, stand);
            self.apply(change);
        }
    }
}

/// Appends an extent, joined with the last one where they are one mapping.
fn push(list: &mut Vec<(u64, Extent)>, start: u64, extent: Extent) {
    if let Some((first, last)) = list.last_mut()
        && last.end == start
        && last.stand != Stand::Lost
        && cut_stand(*first, last.stand, start) == extent.stand
    {
        last.end = extent.end;
        return;
    }
    list.push((start, extent));
}

/// What stands from page `at` on, in an extent that starts at `start`. Tails stay as they are: which of the identical
/// frames stands behind a page follows from the page's number.
fn cut_stand(start: u64, stand: Stand, at: u64) -> Stand {
    let cut = |backing| match backing {
        // A range of frames that was checked before it became an extent.
        Backing::Own { first } => Backing::Own { first: first.checked_add(at - start).unwrap_or(first) },
        tails => tails,
    };
    match stand {
        Stand::Mapped(backing) => Stand::Mapped(cut(backing)),
        Stand::Left(backing) => Stand::Left(cut(backing)),
        Stand::Lost => Stand::Lost,
    }
}

/// The mappings that `backing` takes over `pages`. Runs of tails start at pages whose number the run's length divides,
/// so that what was mapped bit by bit joins to whole runs.
pub(crate) fn pieces_of(pages: Range<u64>, backing: Backing) -> impl Iterator<Item = Piece> {
    let (run, access) = match backing {
        Backing::Own { .. } => (u64::MAX, Access::Write),
        Backing::Tails(TailRun { order, .. }) => (order.frames(), Access::Read),
    };
    let mut at = pages.start;
    std::iter::from_fn(move || {
        if at >= pages.end {
            return None;
        }
        let (end, offset) = match backing {
            Backing::Own { first } => (pages.end, first.get() + (at - pages.start)),
            Backing::Tails(TailRun { first, .. }) => {
                (pages.end.min((at / run + 1).saturating_mul(run)), first.get() + at % run)
            }
        };
        let piece = Piece { pages: at..end, offset, access };
        at = end;
        Some(piece)
    })
}

/// Mappings between the `edges`: extents, and the vacant ranges around and between them.
fn count(list: &[(u64, Extent)], edges: Range<u64>) -> u64 {
    let mut at = edges.start;
    let mut mappings = 0;
    for &(start, Extent { end, stand }) in list {
        mappings += u64::from(start > at);
        mappings += match stand {
            Stand::Mapped(Backing::Tails(run)) | Stand::Left(Backing::Tails(run)) => {
                let order = run.order.get();
                ((end - 1) >> order) - (start >> order) + 1
            }
            _ => 1,
        };
        at = end;
    }
    mappings + u64::from(edges.end > at)
}

#[cfg(test)]
mod tests;
