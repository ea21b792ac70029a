// SPDX-License-Identifier: MIT OR Apache-2.0
//! The four words of a device folio's head.

use core::num::NonZeroU64;

use mmkit_page::{Folio, Frozen, MemMap, Page};
use mmkit_sync::atomic::{AtomicU64, Ordering, fence};
use mmkit_sync::mutant;

use crate::PagemapIndex;

/// A file, or whatever else maps memory by position: a number that means something to the address spaces. Linux: `struct
/// address_space`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingId(pub NonZeroU64);

/// Where in a file a folio is. Linux: `folio->mapping` and `folio->index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilePlace {
    /// The file.
    pub mapping: MappingId,
    /// Position of the folio's first frame, in frames.
    pub index: u64,
}

/// The words of the head, once the folio was made of the frames of a pagemap.
///
/// | word | generic | fs-dax | private, coherent, P2PDMA |
/// |---|---|---|---|
/// | 0 | the pagemap's index | the same | the same |
/// | 1, 2 | mapping and index, if named | mapping and index of the first file | - |
/// | 3 | [`NAMED`], [`NAMING`], [`READY`], [`HEAD_BAD`] | files that have it, [`NAMED`], [`NAMING`], [`TOUCHED`], [`HEAD_BAD`], [`NAMINGS`] | the driver's |
pub(crate) struct HeadWords<'f>(&'f [AtomicU64; Page::WORDS]);

const MAPPING: usize = 1;
const INDEX: usize = 2;
const STATE: usize = 3;

/// Mapping and index can be read: of fs-dax, while one file has the folio.
const NAMED: u64 = 1 << 63;
/// Somebody is writing mapping and index.
const NAMING: u64 = 1 << 62;
/// One of the folio's references is that of the pagemap: the folio is ready to be used.
const READY: u64 = 1 << 61;
/// The head's frame itself is bad, and not one behind it.
const HEAD_BAD: u64 = 1 << 60;
/// While mapping and index were being written, the number of files changed: they are nobody's alone.
const TOUCHED: u64 = 1 << 59;
/// How often mapping and index were written again, so that who reads them finds out. It wraps.
const NAMINGS: u64 = ((1 << 24) - 1) << 32;
const ONE_NAMING: u64 = 1 << 32;
/// The number of files.
const FILES: u64 = (1 << 32) - 1;

/// Why a file was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareError {
    /// There are too many already.
    TooMany,
    /// It is none of those that have the folio.
    NotOne,
}

/// The words of a generic folio that the pagemap has the only reference to.
pub(crate) const fn ready_words(pagemap: PagemapIndex) -> [u64; Page::WORDS] {
    [pagemap.word(), 0, 0, READY]
}

/// The state of a folio that `files` have, none of them alone; whoever is writing a place is told.
fn shared(state: u64, files: u64) -> u64 {
    let touched = if state & NAMING == 0 { 0 } else { mutant!("fsdax-name-untouched", TOUCHED, 0) };
    state & (HEAD_BAD | NAMINGS | NAMING) | touched | files
}

impl<'f> HeadWords<'f> {
    pub(crate) fn of<M: MemMap>(folio: &'f Folio<'_, M>) -> Self {
        // SAFETY: called for folios of frames that a registered pagemap has, whose memory this crate looks after; and to
        // find out whether a folio is one, for which word 0 is read only.
        Self(unsafe { folio.owner_words() })
    }

    pub(crate) fn of_frozen<M: MemMap>(frozen: &'f Frozen<'_, M>) -> Self {
        // SAFETY: as above.
        Self(unsafe { frozen.owner_words() })
    }

    /// Which pagemap the folio is of.
    pub(crate) fn pagemap(&self) -> Option<PagemapIndex> {
        PagemapIndex::of_word(self.0[PagemapIndex::HEAD_WORD].load(Ordering::Relaxed))
    }

    /// Writes all of them, for a block that nobody else can see.
    fn write(&self, pagemap: PagemapIndex, place: Option<FilePlace>, state: u64) {
        self.0[PagemapIndex::HEAD_WORD].store(pagemap.word(), Ordering::Relaxed);
        self.0[MAPPING].store(place.map_or(0, |place| place.mapping.0.get()), Ordering::Relaxed);
        self.0[INDEX].store(place.map_or(0, |place| place.index), Ordering::Relaxed);
        self.0[STATE].store(state, Ordering::Relaxed);
    }

    /// Of a generic folio that the pagemap has the only reference to. That its first frame is bad stays.
    pub(crate) fn write_ready(&self, pagemap: PagemapIndex) {
        let bad = self.0[STATE].load(Ordering::Relaxed) & HEAD_BAD;
        self.write(pagemap, None, READY | bad);
    }

    /// Of an fs-dax folio of one file.
    pub(crate) fn write_of_file(&self, pagemap: PagemapIndex, place: FilePlace) {
        self.write(pagemap, Some(place), NAMED | 1);
    }

    /// Of a folio of a driver.
    pub(crate) fn write_of_driver(&self, pagemap: PagemapIndex, data: u64) {
        self.write(pagemap, None, data);
    }

    /// The driver's word.
    pub(crate) fn data(&self) -> u64 {
        self.0[STATE].load(Ordering::Relaxed)
    }

    /// Takes the pagemap's own reference of a generic folio: whoever is told so has it.
    pub(crate) fn take_ready(&self) -> bool {
        let state = &self.0[STATE];
        // Relaxed: the mark says who has a reference, and references order what is done under them.
        let before = mutant!("generic-take-look-then-store", state.fetch_and(!READY, Ordering::Relaxed), {
            let before = state.load(Ordering::Relaxed);
            state.store(before & !READY, Ordering::Relaxed);
            before
        });
        before & READY != 0
    }

    /// Where the folio is in a file, if one and only one has it.
    pub(crate) fn place(&self) -> Option<FilePlace> {
        self.look().1
    }

    /// The state, and the place that it stands for.
    fn look(&self) -> (u64, Option<FilePlace>) {
        loop {
            // Acquire: pairs with the Release of `name` and `name_again`.
            let state = self.0[STATE].load(Ordering::Acquire);
            if state & NAMED == 0 {
                return (state, None);
            }
            let mapping = NonZeroU64::new(self.0[MAPPING].load(Ordering::Relaxed)).map(MappingId);
            let index = self.0[INDEX].load(Ordering::Relaxed);
            // Acquire: pairs with the Release fence of `name_again`: who has read a word of a later naming sees its number.
            fence(Ordering::Acquire);
            let changed = (state ^ self.0[STATE].load(Ordering::Relaxed)) & (NAMINGS | NAMED);
            if mutant!("fsdax-place-torn", changed == 0, true) {
                return (state, mapping.map(|mapping| FilePlace { mapping, index }));
            }
        }
    }

    /// Says where a generic folio is in a file, unless that was said before; whether it was not.
    pub(crate) fn name(&self, place: FilePlace) -> bool {
        let state = &self.0[STATE];
        if state.load(Ordering::Relaxed) & (NAMED | NAMING) != 0 {
            return false;
        }
        let before = mutant!("generic-name-look-only", state.fetch_or(NAMING, Ordering::Relaxed), 0);
        if before & (NAMED | NAMING) != 0 {
            return false;
        }
        self.0[MAPPING].store(place.mapping.0.get(), Ordering::Relaxed);
        self.0[INDEX].store(place.index, Ordering::Relaxed);
        // Release: pairs with the Acquire of `place`: who sees the mark reads what was written.
        let order = mutant!("generic-name-relaxed", Ordering::Release, Ordering::Relaxed);
        state.fetch_or(NAMED, order);
        true
    }

    /// How many files have the folio.
    pub(crate) fn files(&self) -> u32 {
        (self.0[STATE].load(Ordering::Relaxed) & FILES) as u32
    }

    /// One more file has the folio; how many there are. The one that is there alone, at the same place, is not counted
    /// again. Where no file has it, its place is that of this one.
    pub(crate) fn share(&self, place: FilePlace) -> Result<u32, ShareError> {
        if self.place() == Some(place) {
            return Ok(1);
        }
        let state = self.change(|state, _| match state & FILES {
            FILES => Err(ShareError::TooMany),
            0 if state & (NAMED | NAMING) == 0 => {
                let number = state.wrapping_add(ONE_NAMING) & NAMINGS;
                Ok(state & HEAD_BAD | number | NAMING | 1)
            }
            files => Ok(shared(state, files + 1)),
        })?;
        if state & (NAMING | TOUCHED) == NAMING {
            // The mark was set just now: whoever finds it adds the other one.
            self.name_again(place);
        }
        Ok((state & FILES) as u32)
    }

    /// One file fewer; how many are left.
    pub(crate) fn unshare(&self, place: FilePlace) -> Result<u32, ShareError> {
        let state = self.change(|state, named| match state & FILES {
            _ if named.is_some_and(|named| named != place) => Err(ShareError::NotOne),
            0 => Err(ShareError::NotOne),
            files => Ok(shared(state, files - 1)),
        })?;
        Ok((state & FILES) as u32)
    }

    /// Writes the place of the one file that has the folio, for who has set [`NAMING`].
    fn name_again(&self, place: FilePlace) {
        // Release: pairs with the Acquire fence of `look`.
        fence(Ordering::Release);
        self.0[MAPPING].store(place.mapping.0.get(), Ordering::Relaxed);
        self.0[INDEX].store(place.index, Ordering::Relaxed);
        let state = &self.0[STATE];
        // Release: pairs with the Acquire of `look`, and with that of `change`, for who writes the next place.
        let order = mutant!("fsdax-name-relaxed", Ordering::Release, Ordering::Relaxed);
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            let named = if seen & TOUCHED == 0 { NAMED } else { 0 };
            let new = seen & !(NAMING | TOUCHED) | named;
            match state.compare_exchange_weak(seen, new, order, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Changes the state to `next` of it and of the place that it stands for. The new state.
    fn change(
        &self,
        next: impl Fn(u64, Option<FilePlace>) -> Result<u64, ShareError>,
    ) -> Result<u64, ShareError> {
        let state = &self.0[STATE];
        loop {
            let (seen, named) = self.look();
            let new = next(seen, named)?;
            // Acquire: pairs with the Release of `name_again`: the words of one naming are written after those of the one
            // before. The number and the marks are one word.
            let exchanged = mutant!(
                "fsdax-share-load-then-store",
                state.compare_exchange_weak(seen, new, Ordering::Acquire, Ordering::Relaxed),
                {
                    state.store(new, Ordering::Relaxed);
                    Ok::<u64, u64>(seen)
                }
            );
            if exchanged.is_ok() {
                return Ok(new);
            }
        }
    }

    /// Notes that the head's frame itself is bad; whether that was noted before.
    pub(crate) fn set_head_bad(&self) -> bool {
        self.0[STATE].fetch_or(HEAD_BAD, Ordering::Relaxed) & HEAD_BAD != 0
    }

    pub(crate) fn is_head_bad(&self) -> bool {
        self.0[STATE].load(Ordering::Relaxed) & HEAD_BAD != 0
    }
}
