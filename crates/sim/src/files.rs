// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files, each of which is its page cache.

use std::collections::BTreeMap;

use mmkit_addr::{Order, Pfn};
use mmkit_folio::{Mapcounts, Rmap};
use mmkit_page::Folio;
use parking_lot::Mutex;

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::memory::{Home, Memory};
use crate::{Error, PMD_ORDER, World};

/// The name of a file of a [`World`]: a number, which in another world is refused or names another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(usize);

impl FileId {
    #[cfg(test)]
    pub(crate) fn for_test(id: usize) -> Self {
        Self(id)
    }
}

/// The folios of a file, each by the first of its pages, naturally aligned. Each has one reference, kept as a number, from
/// here.
#[derive(Debug)]
struct File {
    pages: u64,
    heads: BTreeMap<u64, Pfn>,
}

/// All files of a world.
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<Vec<File>>);

impl Files {
    /// Heads of the folios of all files.
    pub(crate) fn heads(&self) -> Vec<Pfn> {
        self.0.lock().iter().flat_map(|file| file.heads.values().copied()).collect()
    }

    /// Gives the references of all files back.
    pub(crate) fn clear<C: Mapcounts>(&mut self, memory: &Memory<C>) {
        self.0
            .get_mut()
            .drain(..)
            .for_each(|file| file.heads.into_values().for_each(|head| put(memory, head)));
    }
}

/// Gives the reference of a file's folio back.
fn put<C: Mapcounts>(memory: &Memory<C>, head: Pfn) {
    // SAFETY: `create_file` and `collapse_file` kept one reference of each folio of a file with `into_raw`; all callers have the
    // number from a list that they have taken it off.
    drop(unsafe { Folio::from_raw(memory, head) });
}

impl<C: Mapcounts> World<'_, C> {
    /// A file of `bytes`, with zeroes up to the end of the last folio, in folios of `order`. It lives as long as the world.
    ///
    /// # Errors
    ///
    /// [`Error::BadOrder`], [`Error::Alloc`].
    pub fn create_file(&self, bytes: &[u8], order: Order) -> Result<FileId, Error> {
        if order > PMD_ORDER {
            return Err(Error::BadOrder { order, max: PMD_ORDER });
        }
        let mut file = File { pages: 0, heads: BTreeMap::new() };
        for chunk in bytes.chunks((BYTES << order.get()) as usize) {
            let frozen = match self.memory.take_zeroed(order, Home::Fixed) {
                Ok(frozen) => frozen,
                Err(error) => {
                    file.heads.into_values().for_each(|head| put(&self.memory, head));
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
            file.heads.insert(file.pages, frozen.into_folio().into_raw());
            file.pages += order.frames();
        }
        let mut files = self.files.0.lock();
        files.push(file);
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
            let (folio, index) = self.file_folio(file, page)?;
            let pfn = folio.pfn().checked_add(index).unwrap_or(folio.pfn());
            // SAFETY: `folio` is a reference, and file contents are accessed through `Contents` alone.
            let contents = unsafe { Contents::of(&self.memory, pfn) };
            contents.inspect(|contents| contents.read(inside, &mut out[done..done + len]));
            done += len;
        }
        Ok(())
    }

    /// Pages that a file has.
    pub(crate) fn file_pages(&self, file: FileId) -> Result<u64, Error> {
        let files = self.files.0.lock();
        Ok(files.get(file.0).ok_or(Error::NoFile { file })?.pages)
    }

    /// The folio with a page of a file, and the page's index in it. Linux: `filemap_get_folio`.
    pub(crate) fn file_folio(&self, file: FileId, page: u64) -> Result<(Folio<'_, Memory<C>>, u64), Error> {
        let files = self.files.0.lock();
        let File { pages, heads } = files.get(file.0).ok_or(Error::NoFile { file })?;
        let found = heads.range(..=page).next_back().filter(|_| page < *pages);
        let Some((&first, &head)) = found else {
            let end = page.saturating_add(1).saturating_mul(BYTES);
            return Err(Error::PastEnd { file, end, bytes: pages << SHIFT });
        };
        // With the lock held: the file has a reference.
        Ok((self.folio(head)?, page - first))
    }

    /// Puts one folio of [`PMD_ORDER`] in the place of those that hold as many pages of a file from `first` on, if there is
    /// not one already; returns its head. Linux: `collapse_file`.
    ///
    /// `mapped` says how many mappings of a folio `unmap` takes away. While others have mappings or references, nothing is
    /// done, and the first page of the folio is the error.
    pub(crate) fn collapse_file(
        &self,
        file: FileId,
        first: u64,
        mapped: impl Fn(Pfn) -> u32,
        unmap: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Pfn, CollapseError> {
        // Held all the time: nobody comes to the pages through the file.
        let mut files = self.files.0.lock();
        let File { pages, heads } = files.get_mut(file.0).ok_or(Error::NoFile { file })?;
        let end = first + PMD_ORDER.frames();
        if end > *pages {
            let (end, bytes) = (end.saturating_mul(BYTES), *pages << SHIFT);
            return Err(Error::PastEnd { file, end, bytes }.into());
        }
        let mut old = Vec::new();
        for (&page, &head) in heads.range(first..end) {
            old.push((page, self.folio(head)?));
        }
        if let [(_, folio)] = &old[..] {
            let head = folio.pfn();
            unmap()?;
            return Ok(head);
        }
        for (page, folio) in &old {
            // The file's, and the one that this takes to look.
            if folio.count() != mapped(folio.pfn()) + 2 {
                return Err(CollapseError::Busy { page: *page, pinned: folio.pins() > 0 });
            }
        }
        let new = self.memory.take(PMD_ORDER, Home::Fixed).map_err(Error::from)?;
        // From here on nobody writes to the old pages.
        if let Err(error) = unmap() {
            mmkit_page::MemMap::release(&self.memory, new);
            return Err(error.into());
        }
        for (page, folio) in old {
            for index in 0..folio.order().frames() {
                let (from, nth) = (folio.pfn().checked_add(index), page - first + index);
                if let (Some(from), Some(to)) = (from, new.pfn().checked_add(nth)) {
                    self.copy_frame(from, to);
                }
            }
            heads.remove(&page);
            put(&self.memory, folio.pfn());
        }
        let head = new.into_folio().into_raw();
        heads.insert(first, head);
        Ok(head)
    }
}

/// Why pages of a file stay where they are.
pub(crate) enum CollapseError {
    /// Somebody else has this page.
    Busy { page: u64, pinned: bool },
    /// Something else.
    Other(Error),
}

impl From<Error> for CollapseError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
