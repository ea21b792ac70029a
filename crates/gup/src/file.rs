// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of memory files: pinned by the folio, without an address space.

use core::fmt;

use mmkit_folio::{MapError, Mapcounts, Rmap};
use mmkit_page::{Folio, MemMap, PinPolicy, PinRefusal, PinUse, PinVerdict};

use crate::{FolioHolds, Isolated, Migrate, MigrateError, Release};

/// Rounds in which something moves, after which it is given up.
const ROUNDS: u32 = 8;

/// A file whose pages are memory and nothing else, as far as ranges of it are pinned. Linux: a memfd, of shared memory or huge
/// pages.
pub trait MemoryFile {
    /// The memory map of its folios.
    type Map: MemMap<Counts: Mapcounts>;
    /// Who knows what may be pinned.
    type Policy: PinPolicy<Self::Map>;
    /// Who moves folios that may not be pinned where they are.
    type Migrate: Migrate<Self::Map>;

    /// The memory map.
    fn map(&self) -> &Self::Map;
    /// Who knows what may be pinned.
    fn policy(&self) -> &Self::Policy;
    /// Who moves folios.
    fn migrate(&self) -> &Self::Migrate;

    /// Bytes of the file.
    fn len(&self) -> u64;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// log2 of the bytes of a frame.
    fn base_shift(&self) -> u32;

    /// The folio with the page `index` of the file, and that page's index in the folio; `None` for a hole. Pages are base
    /// pages, whatever unit the file keeps its folios in.
    fn find(&self, index: u64) -> Option<(Folio<'_, Self::Map>, u64)>;

    /// Puts a folio of zeroes where there is a hole at the page `index`.
    ///
    /// # Errors
    ///
    /// [`AllocateError::Exists`] if somebody else did so meanwhile, who is looked for again.
    fn allocate(&self, index: u64) -> Result<(), AllocateError>;
}

/// Why a hole was not filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateError {
    /// It was filled by somebody else.
    Exists,
    /// There is no memory.
    NoMemory,
}

/// What was pinned of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the folios are pinned until they are given back"]
pub struct FilePins {
    /// Folios, each pinned once.
    pub folios: usize,
    /// The offset of the range's first byte in the first folio.
    pub offset: u64,
}

/// Why nothing of a file was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileRefusal {
    /// The last byte comes before the first.
    Inverted {
        /// The first byte.
        start: u64,
        /// The last byte.
        last: u64,
    },
    /// The last byte is not in the file.
    PastEnd {
        /// The last byte.
        last: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// There is no room for a folio.
    NoRoom,
    /// The file has a folio that is not of its memory map.
    OtherMap,
    /// There is no memory for a hole.
    NoMemory {
        /// The page.
        index: u64,
    },
    /// Who owns this kind of memory does not allow it.
    Policy(PinRefusal),
    /// A folio that had to move did not.
    Migrate(MigrateError),
    /// The folio's counts are at their limit.
    Count(MapError),
}

impl fmt::Display for FileRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inverted { start, last } => {
                write!(f, "the last byte, {last}, comes before the first, {start}")
            }
            Self::PastEnd { last, len } => write!(f, "byte {last} is past the file's {len}"),
            Self::NoRoom => f.write_str("there is no room for a folio"),
            Self::OtherMap => f.write_str("a folio of the file is not of its memory map"),
            Self::NoMemory { index } => write!(f, "no memory for page {index} of the file"),
            Self::Policy(reason) => reason.fmt(f),
            Self::Migrate(error) => error.fmt(f),
            Self::Count(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FileRefusal {}

/// Pins the folios that have bytes `start..=last` of `file` for long, each once, into `out`, as many as it has room for.
/// Holes get folios. Linux: `memfd_pin_folios`.
///
/// They are given back by [`Release::folios`].
///
/// # Errors
///
/// [`FileRefusal`]; nothing is pinned then.
pub fn pin_file<F: MemoryFile>(
    file: &F,
    start: u64,
    last: u64,
    out: &mut [FolioHolds],
) -> Result<FilePins, FileRefusal> {
    if last < start {
        return Err(FileRefusal::Inverted { start, last });
    }
    let len = file.len();
    if last >= len {
        return Err(FileRefusal::PastEnd { last, len });
    }
    if out.is_empty() {
        return Err(FileRefusal::NoRoom);
    }
    let mut pins = Pins {
        file,
        map: file.map(),
        bytes: (start, last),
        folios: 0,
        next: start >> file.base_shift(),
        offset: 0,
    };
    match pins.pin_all(out) {
        Ok(()) => Ok(FilePins { folios: pins.folios, offset: pins.offset }),
        Err(why) => {
            pins.undo(out, 0);
            Err(why)
        }
    }
}

/// What such pins are for.
const USE: PinUse = PinUse::WRITE.union(PinUse::LONGTERM);

/// What is pinned so far.
struct Pins<'f, F: MemoryFile> {
    file: &'f F,
    map: &'f F::Map,
    /// The first byte and the last.
    bytes: (u64, u64),
    folios: usize,
    /// The first page that is not pinned.
    next: u64,
    /// Of the first byte in the first folio.
    offset: u64,
}

impl<'f, F: MemoryFile> Pins<'f, F> {
    /// Pins all folios, and has those moved that have to. What was pinned before the first of those stays pinned meanwhile, so
    /// each round comes farther or is one of a few.
    fn pin_all(&mut self, out: &mut [FolioHolds]) -> Result<(), FileRefusal> {
        let (file, mut rounds) = (self.file, 0);
        loop {
            let (mut isolated, mut refused, mut ready) = (Isolated::new(), false, None);
            let before = self.folios;
            let pinned = self.pin(out, |folio, place| {
                match file.policy().verdict(folio, USE) {
                    PinVerdict::Allow => return Ok(()),
                    PinVerdict::Refuse(reason) => return Err(FileRefusal::Policy(reason)),
                    // Migrate, and what is not known yet.
                    _ => {}
                }
                ready = ready.or(Some(place));
                match folio.try_clone() {
                    _ if isolated.is_full() => {}
                    Ok(handle) if file.migrate().isolate(&handle) => isolated.push(handle),
                    _ => refused = true,
                }
                Ok(())
            });
            let Some((folios, next)) = ready else { return pinned };
            self.undo(out, folios);
            self.next = next;
            if refused {
                file.migrate().drain();
            }
            // Whatever else went wrong: those that were set aside are not to stay so.
            if !isolated.is_empty() {
                file.migrate().migrate(isolated).map_err(FileRefusal::Migrate)?;
            }
            pinned?;
            rounds = if folios > before { 1 } else { rounds + 1 };
            if rounds > ROUNDS {
                return Err(FileRefusal::Migrate(MigrateError::Busy));
            }
        }
    }

    /// Pins folio after folio, each after `look` has agreed, which also gets its place: folios and pages before it.
    fn pin(
        &mut self,
        out: &mut [FolioHolds],
        mut look: impl FnMut(&Folio<'f, F::Map>, (usize, u64)) -> Result<(), FileRefusal>,
    ) -> Result<(), FileRefusal> {
        let (shift, (start, last)) = (self.file.base_shift(), self.bytes);
        let end = last >> shift;
        while self.next <= end
            && let Some(slot) = out.get_mut(self.folios)
        {
            let (folio, first) = find(self.file, self.next)?;
            if !core::ptr::eq(folio.map(), self.map) {
                return Err(FileRefusal::OtherMap);
            }
            look(&folio, (self.folios, self.next))?;
            folio.pin(1).map_err(FileRefusal::Count)?;
            let pages = folio.order().frames().saturating_sub(first).clamp(1, end - self.next + 1);
            *slot = FolioHolds {
                head: folio.pfn(),
                first,
                pages: u32::try_from(pages).unwrap_or(u32::MAX),
                holds: 1,
            };
            if self.folios == 0 {
                self.offset = (first << shift) + (start & ((1 << shift) - 1));
            }
            self.folios += 1;
            self.next += pages;
        }
        Ok(())
    }

    /// Unpins all folios but the first `keep`.
    fn undo(&mut self, out: &[FolioHolds], keep: usize) {
        // SAFETY: `pin` pinned each of these once, in this map, and nobody else knows of those pins.
        unsafe { Release::pins(self.map).folios(&out[keep..self.folios]) };
        self.folios = keep;
    }
}

/// The folio of a page, after its hole was filled.
fn find<F: MemoryFile>(file: &F, index: u64) -> Result<(Folio<'_, F::Map>, u64), FileRefusal> {
    loop {
        if let Some(found) = file.find(index) {
            return Ok(found);
        }
        match file.allocate(index) {
            Ok(()) | Err(AllocateError::Exists) => {}
            Err(AllocateError::NoMemory) => return Err(FileRefusal::NoMemory { index }),
        }
    }
}
