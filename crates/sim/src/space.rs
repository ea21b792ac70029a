// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces: areas, page tables, and the calls that change them.

use std::fmt;

use mmkit_addr::{Geometry, NodeId, VirtAddr, VirtRange};
use mmkit_folio::{Mapcounts, MmId, MmIdGuard};
use mmkit_frame::{Bare, Frames};
use mmkit_pgtable::{Software, Tables};

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::memory::Memory;
use crate::runs::Run;
use crate::table_frames::TableFrames;
use crate::vma::{TOP, Vma, Vmas, bounds};
use crate::{Area, Backing, Error, PMD_ORDER, World};

/// Bytes that a PMD maps.
pub(crate) const PMD_BYTES: u64 = BYTES << PMD_ORDER.get();

/// The environment of the page tables: frames out of the world's own memory.
type Env<'w, C> = Bare<TableFrames<'w, C>, &'w Memory<C>>;

/// One address space: what a process sees as its memory. Linux: `struct mm_struct`.
///
/// Dropping it is exit: everything is unmapped, the page tables are given back, and last the name.
pub struct AddressSpace<'w, C: Mapcounts> {
    pub(crate) world: &'w World<'w, C>,
    pub(crate) tables: Tables<Software, Env<'w, C>>,
    pub(crate) vmas: Vmas,
    pub(crate) mm: MmId,
    // Given back last, when no mapping is counted under it any more.
    id: Option<MmIdGuard<'w>>,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    pub(crate) fn new(world: &'w World<'w, C>) -> Result<Self, Error> {
        let id = world.ids.take()?;
        let table_frames = TableFrames::new(&world.memory);
        // SAFETY: the memory reaches every frame that it hands out, for it is both; and it writes a frame only while it owns
        // it. Frames that page tables own are accessed by nobody else.
        let frames = unsafe { Frames::new(table_frames, &world.memory) };
        let tables = Tables::new(Bare::new(frames), Geometry::X86_64, NodeId::ZERO)?;
        Ok(Self { world, tables, vmas: Vmas::default(), mm: id.id(), id: Some(id) })
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
    pub fn mmap(&mut self, range: VirtRange, area: Area) -> Result<(), Error> {
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
        self.vmas.check_free(start, end)?;
        self.vmas.insert(Vma { start, end, area });
        Ok(())
    }

    /// Unmaps `range`, which may have holes and may cut areas and folios.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`]; [`Error::Tables`] where there is no memory to split a PMD at an end of the range. Nothing is
    /// unmapped then.
    pub fn munmap(&mut self, range: VirtRange) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        self.zap_range(start, end)?;
        self.vmas.remove(start, end);
        Ok(())
    }

    /// Forgets the pages of `range`, and keeps its areas: what is touched next is zero, or the file's. Linux:
    /// `madvise(MADV_DONTNEED)`.
    ///
    /// # Errors
    ///
    /// As [`munmap`](Self::munmap).
    pub fn dont_need(&mut self, range: VirtRange) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        self.zap_range(start, end)
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
    pub fn mremap(&mut self, range: VirtRange, to: VirtAddr) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        let target = VirtRange::new(to, range.bytes()).ok_or(Error::BadRange { range })?;
        let (new_start, new_end) = bounds(target)?;
        self.vmas.around(start, end)?;
        self.vmas.check_free(new_start, new_end)?;
        self.split_at(start)?;
        self.split_at(end)?;
        let distance = new_start.wrapping_sub(start);
        if !distance.is_multiple_of(PMD_BYTES) {
            for run in self.runs(start, end)?.iter().filter(|run| run.huge) {
                self.split(run)?;
            }
        }
        let old = self.runs(start, end)?;
        let moved = |run: &Run| Run { start: run.start.wrapping_add(distance), ..*run };
        let new: Vec<Run> = old.iter().map(moved).collect();
        for (done, run) in new.iter().enumerate() {
            if let Err(error) = self.tables.map(run.range(), run.entries(run.prot)) {
                self.clear(&new[..done])?;
                return Err(error.into());
            }
        }
        self.clear(&old)?;
        for vma in self.vmas.remove(start, end) {
            let (start, end) = (vma.start.wrapping_add(distance), vma.end.wrapping_add(distance));
            self.vmas.insert(Vma { start, end, ..vma });
        }
        Ok(())
    }

    /// Reads bytes from `va` on, with faults where nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`], and those of a fault: [`Error::Alloc`], [`Error::Tables`]. What was read so far is in `out`.
    pub fn read(&mut self, va: VirtAddr, out: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < out.len() {
            let (contents, offset, len) = self.access(va, done, out.len(), false)?;
            contents.read(offset, &mut out[done..done + len]);
            done += len;
        }
        Ok(())
    }

    /// Writes bytes from `va` on, with faults where nothing is mapped, or where what is mapped is not to be written.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`], [`Error::ReadOnly`], and those of a fault: [`Error::Alloc`], [`Error::Tables`]. What is before the
    /// address that the error is about has been written.
    pub fn write(&mut self, va: VirtAddr, bytes: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let (contents, offset, len) = self.access(va, done, bytes.len(), true)?;
            contents.write(offset, &bytes[done..done + len], true);
            done += len;
        }
        Ok(())
    }

    /// The contents behind `va + done`, the offset in that page, and how many of `all - done` bytes are in it.
    fn access(
        &mut self,
        va: VirtAddr,
        done: usize,
        all: usize,
        write: bool,
    ) -> Result<(Contents<'_>, usize, usize), Error> {
        let at = va.checked_add(done as u64).ok_or(Error::NoArea { va: VirtAddr::MAX })?;
        let pfn = self.fault(at.get(), write)?;
        let offset = (at.get() % BYTES) as usize;
        // SAFETY: the page is mapped, and its mapping has a reference that stays while `self` is borrowed; contents of
        // mapped folios are accessed through `Contents` alone.
        let contents = unsafe { Contents::of(&self.world.memory, pfn) }.ok_or(Error::NoArea { va: at })?;
        Ok((contents, offset, (all - done).min(BYTES as usize - offset)))
    }

    fn zap_range(&mut self, start: u64, end: u64) -> Result<(), Error> {
        self.split_at(start)?;
        self.split_at(end)?;
        self.zap(&self.runs(start, end)?)
    }
}

impl<C: Mapcounts> Drop for AddressSpace<'_, C> {
    fn drop(&mut self) {
        let gone = self.runs(0, TOP).and_then(|runs| self.zap(&runs));
        if gone.is_err() {
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
