// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books against the page tables: everything that is counted, counted again from the entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_folio::{Kind, Mapcounts, MmId, PIN_BIAS, Rmap};
use mmkit_pgtable::{Prot, Walk};

use crate::access::page_of;
use crate::runs::PMD;
use crate::vma::TOP;
use crate::{AddressSpace, Error, World};

/// What an address maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageInfo {
    /// The frame.
    pub pfn: Pfn,
    /// The first frame of its folio.
    pub head: Pfn,
    /// The folio's order.
    pub order: Order,
    /// Whose memory it is.
    pub kind: Kind,
    /// Whether a PMD maps it.
    pub by_pmd: bool,
    /// Whether it can be written without a fault.
    pub write: bool,
    /// Whether the page is exclusive.
    pub exclusive: bool,
    /// References on the folio.
    pub references: u32,
    /// Mappings of the folio.
    pub mappings: u32,
}

/// A folio, as all page tables together show it, and what its counts say of its owners.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FolioInfo {
    /// The first frame.
    pub head: Pfn,
    /// log2 of the number of frames.
    pub order: Order,
    /// Entries, of any size.
    pub mappings: u32,
    /// The address spaces that have them.
    pub owners: BTreeSet<MmId>,
    /// Who the tracker says has all of them.
    pub sole_owner: Option<MmId>,
    /// Whether the tracker says that several may have some.
    pub maybe_shared: bool,
}

/// What an audit found, of books that are right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// Folios that are mapped, by their first frame.
    pub folios: BTreeMap<Pfn, FolioInfo>,
    /// Frames that are neither free nor in page tables, mapped folios or files: pinned or leaked.
    pub missing: u64,
}

/// A number in the books that the page tables contradict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discrepancy {
    /// Which number.
    pub what: &'static str,
    /// The folio, of a number that belongs to one.
    pub folio: Option<Pfn>,
    /// What the books say.
    pub counted: i64,
    /// What the page tables say.
    pub expected: i64,
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the books say {}, the page tables {}", self.what, self.counted, self.expected)?;
        self.folio.map_or(Ok(()), |head| write!(f, ", for the folio at {head:?}"))
    }
}

impl std::error::Error for Discrepancy {}

fn same(what: &'static str, folio: Option<Pfn>, counted: i64, expected: i64) -> Result<(), Discrepancy> {
    if counted == expected { Ok(()) } else { Err(Discrepancy { what, folio, counted, expected }) }
}

/// Entries of one folio.
#[derive(Default)]
struct Seen {
    mappings: u32,
    entire: u32,
    /// PTEs by page.
    pages: BTreeMap<u64, u32>,
    owners: BTreeSet<MmId>,
}

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// What is mapped at `va`, if something is.
    ///
    /// # Errors
    ///
    /// [`Error::Tables`] where that is no address.
    pub fn page(&self, va: VirtAddr) -> Result<Option<PageInfo>, Error> {
        let _vmas = self.vmas.read();
        let _locked = self.locks.lock(va.get());
        let Walk::Mapped(leaf) = self.tables.walk(va)? else { return Ok(None) };
        let pfn = page_of(&leaf, va);
        let folio = self.world.folio(leaf.pfn)?;
        let (head, order, by_pmd) = (folio.pfn(), folio.order(), leaf.level == PMD);
        Ok(Some(PageInfo {
            pfn,
            head,
            order,
            kind: folio.kind(),
            by_pmd,
            write: leaf.prot.contains(Prot::WRITE),
            exclusive: folio.is_exclusive(if by_pmd { 0 } else { pfn.get() - head.get() }),
            // Without the one that this takes to look.
            references: folio.count() - 1,
            mappings: folio.mappings(),
        }))
    }
}

impl<C: Mapcounts> World<'_, C> {
    /// Compares map counts, references and statistics with the page tables of `spaces`, which must be all there are,
    /// while nobody else works.
    ///
    /// # Errors
    ///
    /// The first [`Discrepancy`].
    pub fn audit(&self, spaces: &[&AddressSpace<'_, C>]) -> Result<Audit, Discrepancy> {
        let mut seen: BTreeMap<Pfn, Seen> = BTreeMap::new();
        let mut missing = self.frames() - self.free_frames();
        for space in spaces {
            missing -= space.tables.table_frames();
            for run in space.runs(0, TOP).unwrap_or_default() {
                let entry = seen.entry(run.head).or_default();
                entry.owners.insert(space.mm);
                if run.huge {
                    entry.mappings += 1;
                    entry.entire += 1;
                } else {
                    entry.mappings += run.pages as u32;
                    for index in run.index..run.index + run.pages {
                        *entry.pages.entry(index).or_default() += 1;
                    }
                }
            }
        }
        let cached: BTreeSet<Pfn> = self.files.heads().into_iter().collect();
        for &head in &cached {
            seen.entry(head).or_default();
        }
        let mut folios = BTreeMap::new();
        let mut totals = [[0; 2]; 2];
        for (&head, seen) in &seen {
            let info = self.check_folio(head, seen, cached.contains(&head), &mut totals)?;
            missing = missing.saturating_sub(info.order.frames());
            if seen.mappings > 0 {
                folios.insert(head, info);
            }
        }
        let statistics = self.statistics();
        same("anonymous pages mapped", None, statistics.anon, totals[0][0])?;
        same("file pages mapped", None, statistics.file, totals[1][0])?;
        same("anonymous pages mapped by PMDs", None, statistics.anon_pmd, totals[0][1])?;
        same("file pages mapped by PMDs", None, statistics.file_pmd, totals[1][1])?;
        Ok(Audit { folios, missing })
    }

    fn check_folio(
        &self,
        head: Pfn,
        seen: &Seen,
        cached: bool,
        totals: &mut [[i64; 2]; 2],
    ) -> Result<FolioInfo, Discrepancy> {
        let at = Some(head);
        let Ok(folio) = self.folio(head) else {
            return Err(Discrepancy {
                what: "references",
                folio: at,
                counted: 0,
                expected: seen.mappings.into(),
            });
        };
        let (order, pages) = (folio.order(), folio.order().frames());
        same("mappings", at, folio.mappings().into(), seen.mappings.into())?;
        let pin = if order == Order::ZERO { PIN_BIAS } else { 1 };
        let others = folio.pins() * pin + u32::from(cached) + 1;
        same("references", at, folio.count().into(), (seen.mappings + others).into())?;
        if order > Order::ZERO {
            same("mappings as a whole", at, folio.entire_mappings().into(), seen.entire.into())?;
        }
        let mapped = match (C::PER_PAGE, seen.entire) {
            (true, 0) => seen.pages.len() as u64,
            _ => pages * u64::from(seen.mappings > 0),
        };
        if C::PER_PAGE {
            for index in 0..pages {
                let singly = seen.pages.get(&index).copied().unwrap_or(0);
                let counted = folio.page_mappings(index).unwrap_or(0);
                same("mappings of a page", at, counted.into(), (singly + seen.entire).into())?;
            }
        }
        let several = seen.owners.len() > 1;
        if several {
            same("perhaps shared", at, folio.maybe_mapped_shared().into(), 1)?;
        }
        let sole_owner = folio.sole_owner();
        if let Some(owner) = sole_owner {
            let right = !several && seen.owners.contains(&owner);
            same("the only owner", at, owner.get().into(), if right { owner.get().into() } else { 0 })?;
        }
        let totals = &mut totals[usize::from(folio.kind() == Kind::File)];
        totals[0] += mapped as i64;
        totals[1] += if seen.entire > 0 { pages as i64 } else { 0 };
        Ok(FolioInfo {
            head,
            order,
            mappings: seen.mappings,
            owners: seen.owners.clone(),
            sole_owner,
            maybe_shared: folio.maybe_mapped_shared(),
        })
    }
}
