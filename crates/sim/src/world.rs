// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: memory, names for address spaces, files.

use std::fmt;

use mmkit_addr::{Order, Pfn};
use mmkit_folio::{MapError, Mapcounts, MmIds};
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::AtomicU64;
use parking_lot::Mutex;

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::memory::Memory;
use crate::statistics::Counters;
use crate::{AddressSpace, Error, PMD_ORDER, Statistics};

/// The name of a file of a [`World`]: a number, which in another world is refused or names another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(usize);

impl FileId {
    #[cfg(test)]
    pub(crate) fn for_test(id: usize) -> Self {
        Self(id)
    }
}

/// A file is its page cache: folios of one order, each of which has one reference, kept as a number, from here.
#[derive(Debug)]
struct File {
    order: Order,
    heads: Vec<Pfn>,
}

/// Physical memory whose folios are counted as `C` says, with what lives in it. Shared by all threads.
pub struct World<'i, C: Mapcounts> {
    pub(crate) memory: Memory<C>,
    pub(crate) ids: MmIds<'i>,
    pub(crate) counters: Counters,
    files: Mutex<Vec<File>>,
}

impl<'i, C: Mapcounts> World<'i, C> {
    /// `frames` frames of 4 KiB, all free, and 64 names of address spaces for each word of `ids`.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuch`].
    pub fn new(frames: u64, ids: &'i mut [AtomicU64]) -> Result<Self, Error> {
        let memory = Memory::new(frames).ok_or(Error::TooMuch { frames })?;
        let files = Mutex::default();
        Ok(Self { memory, ids: MmIds::new(ids), counters: Counters::default(), files })
    }

    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::Ids`], [`Error::Tables`].
    pub fn spawn(&self) -> Result<AddressSpace<'_, C>, Error> {
        AddressSpace::new(self)
    }

    /// A file of `bytes`, with zeroes up to the end of the last folio, in folios of `order`. It lives as long as the world.
    ///
    /// # Errors
    ///
    /// [`Error::BadOrder`], [`Error::Alloc`].
    pub fn create_file(&self, bytes: &[u8], order: Order) -> Result<FileId, Error> {
        if order > PMD_ORDER {
            return Err(Error::BadOrder { order, max: PMD_ORDER });
        }
        let mut heads = Vec::new();
        for chunk in bytes.chunks((BYTES << order.get()) as usize) {
            let frozen = match self.memory.take_zeroed(order) {
                Ok(frozen) => frozen,
                Err(error) => {
                    self.give_back(&heads);
                    return Err(error.into());
                }
            };
            for (part, index) in chunk.chunks(BYTES as usize).zip(0..) {
                if let Some(pfn) = frozen.pfn().checked_add(index) {
                    // SAFETY: the block is ours, and nobody else has seen it.
                    let contents = unsafe { Contents::of(&self.memory, pfn) };
                    contents.inspect(|contents| contents.write(0, part, false));
                }
            }
            heads.push(frozen.into_folio().into_raw());
        }
        let mut files = self.files.lock();
        files.push(File { order, heads });
        Ok(FileId(files.len() - 1))
    }

    /// Reads bytes of a file, as everybody who maps it shared left them.
    ///
    /// # Errors
    ///
    /// [`Error::NoFile`], [`Error::PastEnd`].
    pub fn read_file(&self, file: FileId, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let pages = self.file_pages(file)?;
        let end = offset.saturating_add(out.len() as u64);
        if end > pages << SHIFT {
            return Err(Error::PastEnd { file, end, bytes: pages << SHIFT });
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (inside, page) = ((at % BYTES) as usize, at >> SHIFT);
            let len = (out.len() - done).min(BYTES as usize - inside);
            let (head, _, index) = self.file_page(file, page)?;
            let pfn = head.checked_add(index).unwrap_or(head);
            // SAFETY: the file keeps a reference on its folio for as long as the world lives, and file contents are
            // accessed through `Contents` alone.
            let contents = unsafe { Contents::of(&self.memory, pfn) };
            contents.inspect(|contents| contents.read(inside, &mut out[done..done + len]));
            done += len;
        }
        Ok(())
    }

    /// Pages that a file has.
    pub(crate) fn file_pages(&self, file: FileId) -> Result<u64, Error> {
        let files = self.files.lock();
        let File { order, heads } = files.get(file.0).ok_or(Error::NoFile { file })?;
        Ok((heads.len() as u64) << order.get())
    }

    /// The folio with a page of a file: its head, its order, and the page's index in it.
    pub(crate) fn file_page(&self, file: FileId, page: u64) -> Result<(Pfn, Order, u64), Error> {
        let files = self.files.lock();
        let File { order, heads } = files.get(file.0).ok_or(Error::NoFile { file })?;
        let bytes = (heads.len() as u64) << (order.get() as u32 + SHIFT);
        let end = page.saturating_add(1).saturating_mul(BYTES);
        let head = usize::try_from(page >> order.get()).ok().and_then(|nth| heads.get(nth));
        let head = *head.ok_or(Error::PastEnd { file, end, bytes })?;
        Ok((head, *order, page & (order.frames() - 1)))
    }

    /// Heads of the folios of all files.
    pub(crate) fn file_heads(&self) -> Vec<Pfn> {
        self.files.lock().iter().flat_map(|file| file.heads.iter().copied()).collect()
    }

    /// The folio of a frame, with a reference of the caller's own.
    pub(crate) fn folio(&self, pfn: Pfn) -> Result<Folio<'_, Memory<C>>, Error> {
        self.memory.try_get(pfn).map_err(|error| Error::Counts(MapError::References(error)))
    }

    /// Frames that there are.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.memory.frames()
    }

    /// Frames that nobody uses. A sum at one moment.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.memory.free_frames()
    }

    /// What is mapped now, and what faults did so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.read()
    }

    /// Gives the references of a file's folios back.
    fn give_back(&self, heads: &[Pfn]) {
        for &head in heads {
            // SAFETY: `create_file` kept one reference of each of its folios with `into_raw`; both callers come with a list
            // that nobody uses afterwards.
            drop(unsafe { Folio::from_raw(&self.memory, head) });
        }
    }
}

impl<C: Mapcounts> Drop for World<'_, C> {
    fn drop(&mut self) {
        for file in core::mem::take(self.files.get_mut()) {
            self.give_back(&file.heads);
        }
    }
}

impl<C: Mapcounts> fmt::Debug for World<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("memory", &self.memory).field("ids", &self.ids).finish_non_exhaustive()
    }
}
