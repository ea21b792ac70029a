// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces: areas, page tables, and the calls that change them.

use std::fmt;

use mmkit_addr::{Geometry, NodeId, VirtAddr, VirtRange};
use mmkit_folio::{Mapcounts, MmId, MmIdGuard};
use mmkit_pgtable::{Backing as Leaf, Mapping, Software, Tables};
use mmkit_sync::SeqCount;
use parking_lot::RwLock;

use crate::arena::{BYTES, SHIFT};
use crate::locks::TableLocks;
use crate::machine::Machine;
use crate::vma::{TOP, Vma, Vmas, bounds};
use crate::{Area, Backing, Error, PMD_ORDER, World};

/// Bytes that a PMD maps.
pub(crate) const PMD_BYTES: u64 = BYTES << PMD_ORDER.get();

/// One address space: what a process sees as its memory, and its threads share. Linux: `struct mm_struct`.
///
/// Dropping it is exit, in an order that matters: everything is unmapped, the caches are flushed, the references of the
/// mappings are given back; only then the name goes back to where it came from, for the next address space to be counted
/// under. A name that came back with mappings still counted under it would make two address spaces one, and each would be
/// shown what the other writes.
pub struct AddressSpace<'w, C: Mapcounts> {
    pub(crate) world: &'w World<'w, C>,
    pub(crate) tables: Tables<Software, Machine<'w, C>>,
    /// Linux: the VMAs, and `mmap_lock`.
    pub(crate) vmas: RwLock<Vmas>,
    pub(crate) locks: TableLocks,
    /// Who pins without locks looks whether pages were taken from their writers meanwhile. Linux: `write_protect_seq`.
    pub(crate) write_protect: SeqCount,
    pub(crate) mm: MmId,
    /// The last field, so dropped last: when nothing is counted under it any more, as `Drop` has seen to.
    id: Option<MmIdGuard<'w>>,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    pub(crate) fn new(world: &'w World<'w, C>) -> Result<Self, Error> {
        let id = world.ids.take()?;
        let tables = Tables::new(Machine::new(&world.memory), Geometry::X86_64, NodeId::ZERO)?;
        Ok(Self {
            world,
            tables,
            vmas: RwLock::default(),
            locks: TableLocks::default(),
            write_protect: SeqCount::new(),
            mm: id.id(),
            id: Some(id),
        })
    }

    /// The name that its mappings are counted under.
    #[must_use]
    pub fn id(&self) -> MmId {
        self.mm
    }

    /// Makes `range`, in which there is nothing, an area. Nothing is mapped yet.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`], [`Error::BadOrder`], [`Error::Occupied`], [`Error::NoFile`], [`Error::PastEnd`].
    pub fn mmap(&self, range: VirtRange, area: Area) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        if area.order > PMD_ORDER {
            return Err(Error::BadOrder { order: area.order, max: PMD_ORDER });
        }
        if let Backing::File { file, page, .. } = area.backing {
            let pages = self.world.file_pages(file)?;
            let last = page.saturating_add((end - start) >> SHIFT);
            if last > pages {
                return Err(Error::PastEnd { file, end: last.saturating_mul(BYTES), bytes: pages << SHIFT });
            }
        }
        let mut vmas = self.vmas.write();
        vmas.check_free(start, end)?;
        vmas.insert(Vma { start, end, area });
        Ok(())
    }

    /// Unmaps `range`, which may have holes and may cut areas and folios.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`]; [`Error::Tables`] where there is no memory to split a PMD at an end of the range. Nothing is
    /// unmapped then.
    pub fn munmap(&self, range: VirtRange) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        let mut vmas = self.vmas.write();
        self.split_at(start)?;
        self.split_at(end)?;
        self.zap(start, end)?;
        vmas.remove(start, end);
        Ok(())
    }

    /// Forgets the pages of `range`, and keeps its areas: what is touched next is zero, or the file's. Linux:
    /// `madvise(MADV_DONTNEED)`.
    ///
    /// Other threads fault meanwhile. A page that one touches may be forgotten or not.
    ///
    /// # Errors
    ///
    /// As [`munmap`](Self::munmap). (Where another thread makes a PMD at an end of the range meanwhile, what is before it
    /// may have been forgotten.)
    pub fn dont_need(&self, range: VirtRange) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        let _vmas = self.vmas.read();
        for end in [start, end] {
            let _locked = self.locks.lock(end);
            self.split_at(end)?;
        }
        // One PMD's worth at a time, which is what one lock covers.
        let mut at = start;
        while at < end {
            let next = end.min((at & !(PMD_BYTES - 1)) + PMD_BYTES);
            let _locked = self.locks.lock(at);
            self.split_at(at)?;
            self.split_at(next)?;
            self.zap(at, next)?;
            at = next;
        }
        Ok(())
    }

    /// Moves the pages of `range`, which is in one area, to `to`, where there is nothing. Linux: `mremap` with
    /// `MREMAP_FIXED`.
    ///
    /// Map counts do not change, but where a PMD no longer fits. New entries are written before the old ones go.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`], [`Error::NoArea`], [`Error::Occupied`] (by the range itself, too), [`Error::Tables`] where
    /// there is no memory for page tables. Nothing has moved then.
    pub fn mremap(&self, range: VirtRange, to: VirtAddr) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        let target = VirtRange::new(to, range.bytes()).ok_or(Error::BadRange { range })?;
        let (new_start, new_end) = bounds(target)?;
        let mut vmas = self.vmas.write();
        vmas.around(start, end)?;
        vmas.check_free(new_start, new_end)?;
        self.split_at(start)?;
        self.split_at(end)?;
        let distance = new_start.wrapping_sub(start);
        if !distance.is_multiple_of(PMD_BYTES) {
            for run in self.runs(start, end)?.iter().filter(|run| run.huge) {
                self.split(run)?;
            }
        }
        let mut moved = Vec::new();
        self.tables.read().leaves(range, |leaves| {
            let at = leaves.range(SHIFT);
            let to = VirtAddr::new(at.start().get().wrapping_add(distance));
            let entries = Mapping::new(Leaf::Run(leaves.frames.start()), leaves.prot).at_level(leaves.level);
            moved.extend(VirtRange::new(to, at.bytes()).map(|to| (to, entries)));
        })?;
        self.tables.map_all(&moved)?;
        self.clear(start, end)?;
        for vma in vmas.remove(start, end) {
            let (start, end) = (vma.start.wrapping_add(distance), vma.end.wrapping_add(distance));
            vmas.insert(Vma { start, end, ..vma });
        }
        Ok(())
    }
}

impl<C: Mapcounts> Drop for AddressSpace<'_, C> {
    fn drop(&mut self) {
        if self.zap(0, TOP).is_err() {
            // Mappings are still counted under the name, so nobody else may have it. The folios leak.
            let _ = self.id.take().map(MmIdGuard::keep);
        }
    }
}

impl<C: Mapcounts> fmt::Debug for AddressSpace<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("id", &self.mm).field("vmas", &self.vmas).finish_non_exhaustive()
    }
}
