// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a device's folios: made, shared, pinned, put.

mod bad;
mod blocks;
mod driver;
mod error;
mod fsdax;
mod generic;
mod held;
mod idle;
#[cfg(mmkit_loom)]
pub mod models;
mod policy;
mod uses;
mod words;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{ClaimError, Folio, Frozen, MemMap, PageFlags, State};
use mmkit_sync::atomic::AtomicU64;
use mmkit_sync::{RawLock, ReadSide};

pub use error::FolioError;
pub use fsdax::Associated;
pub use idle::{IdleWait, StillBusy};
pub use policy::unused_references;
pub use words::{FilePlace, MappingId};

pub(crate) use generic::{put_lost, retire_all};
pub(crate) use held::Held;
pub(crate) use words::{HeadWords, ready_words};

use crate::{Kind, Pagemap, PagemapRef, Provided, Registry};

/// What a pagemap keeps for its folios.
#[derive(Debug)]
pub(crate) struct Folios {
    /// Blocks with bad frames.
    pub(crate) bad: bad::BadBlocks,
    /// For those who wait until nobody uses a frame.
    pub(crate) idle: idle::IdleCount,
    /// Generic folios whose reference on the pagemap was put, or is about to be, because they rest.
    pub(crate) rested: AtomicU64,
}

impl Folios {
    pub(crate) fn new() -> Self {
        Self { bad: bad::BadBlocks::new(), idle: idle::IdleCount::new(), rested: AtomicU64::new(0) }
    }

    /// Lets the blocks rest that were kept because of a bad frame: their device goes, and nobody uses its memory again.
    pub(crate) fn forgive<M: MemMap>(&self, map: &M) {
        self.bad.take(map, |mut frozen| {
            blocks::forgive(&mut frozen);
            drop(frozen.into_free());
        });
    }
}

impl Pagemap {
    /// Frames of a file system have no users any more, and are where others find them: whoever waits for that is woken.
    pub(crate) fn tell_idle(&self, block: PfnRange) {
        self.folios.idle.add();
        if let Some(operations) = self.operations(Provided::IDLE) {
            operations.idle(block);
        }
    }
}

/// The pagemap of the block of `order` at `pfn`, if it is of a right kind and can have such folios.
pub(crate) fn block_of<R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    pfn: Pfn,
    order: Order,
    right: impl Fn(Kind) -> bool,
) -> Result<PagemapRef<'_, R, L>, FolioError> {
    if !pfn.is_aligned(order) {
        return Err(FolioError::Misaligned { pfn, order });
    }
    let found = registry.get(pfn).ok_or(FolioError::NoPagemap { pfn })?;
    let (kind, least) = (found.kind(), found.order());
    if !right(kind) {
        return Err(FolioError::OtherKind { pfn, kind });
    }
    if order < least || (order > least && !kind.makes_compounds()) {
        return Err(FolioError::OtherOrder { pfn, order, least, most: least });
    }
    if !found.holds(PfnRange::block(pfn, order)) {
        return Err(FolioError::Outside { pfn, order });
    }
    Ok(found)
}

/// A folio of whatever kind, that nobody uses.
pub(crate) fn take<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
    order: Order,
) -> Result<Folio<'m, M>, FolioError> {
    let found = block_of(registry, pfn, order, |_| true)?;
    if found.kind() == Kind::Generic {
        return generic::hand_out(registry, map, pfn);
    }
    let held = Held::take(&found, order).ok_or(FolioError::Gone { pfn })?;
    match blocks::join(map, pfn, order, held.order()) {
        Ok(free) => {
            let frozen = blocks::prepare(free);
            HeadWords::of_frozen(&frozen).write_of_driver(held.index(), 0);
            Ok(frozen.into_folio())
        }
        Err(error) => {
            held.put(held.references_of(order));
            Err(why_taken(map, pfn, error))
        }
    }
}

/// Takes a folio whose last reference was put, if it is a device's.
pub(crate) fn release<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    frozen: Frozen<'m, M>,
) -> Option<Frozen<'m, M>> {
    match Held::of_frozen(registry, &frozen) {
        Some(held) => {
            policy::last_put(held, frozen);
            None
        }
        None => Some(frozen),
    }
}

/// Why a frame could not be claimed, from what it is now.
pub(crate) fn why_taken<M: MemMap>(map: &M, pfn: Pfn, error: ClaimError) -> FolioError {
    let pfn = match error {
        ClaimError::Absent { pfn } => return FolioError::NoPagemap { pfn },
        ClaimError::Taken { pfn } | ClaimError::Uninitialised { pfn } | ClaimError::Initialised { pfn } => {
            pfn
        }
        _ => pfn,
    };
    let reader = map.enter();
    let Some(page) = reader.page(pfn) else { return FolioError::NoPagemap { pfn } };
    let head = reader.page(page.head()).unwrap_or(page);
    match head.state() {
        State::Held { order, .. } => FolioError::Conflict { folio: PfnRange::block(head.pfn(), order) },
        State::Frozen { .. } if head.flags().contains(PageFlags::HWPOISON) => FolioError::Poisoned { pfn },
        _ => FolioError::Busy { pfn },
    }
}
