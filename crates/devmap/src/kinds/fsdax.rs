// SPDX-License-Identifier: MIT OR Apache-2.0
//! The storage of a file system: folios are made where a file maps its blocks, and broken up when nobody uses them.

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Folio, Frozen, GetError, MemMap, PageFlags, PinRefusal, PinUse, PinVerdict};
use mmkit_sync::{RawLock, ReadSide, mutant};

use super::policy::{Policy, not_for_long};
use super::words::{FilePlace, HeadWords, ShareError};
use super::{FolioError, Held, blocks};
use crate::{Kind, Registry};

/// Storage of a file system.
pub(crate) enum FsDax {}

impl Policy for FsDax {
    const UNUSED: u32 = 0;

    /// The compound is broken up, and then whoever waits is told.
    fn last_put<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, mut frozen: Frozen<'_, M>) {
        let block = PfnRange::block(frozen.pfn(), frozen.order());
        if frozen.order() > Order::ZERO && !HeadWords::of_frozen(&frozen).is_head_bad() {
            // The head had the mark for another of its frames, which has one of its own.
            frozen.remove_at(0..1, PageFlags::HWPOISON);
        }
        let references = held.references_of(frozen.order());
        mutant!("fsdax-idle-first", {}, held.tell_idle(block));
        blocks::scatter(frozen, held.order(), &mut |bad| held.folios.bad.push(bad));
        mutant!("fsdax-idle-first", held.tell_idle(block), ());
        held.put(references);
    }

    /// Not for long: the file system has to get its blocks back.
    fn pin(_: Kind, usage: PinUse) -> PinVerdict {
        not_for_long(usage, PinRefusal::FileSystemDax)
    }
}

/// A folio of the blocks of a file, and what had to be done to get it.
#[derive(Debug)]
pub struct Associated<'m, M: MemMap> {
    /// The folio, with one reference more.
    pub folio: Folio<'m, M>,
    /// It was made just now: nobody had these frames.
    pub made: bool,
    /// How many files have it now.
    pub files: u32,
}

/// Takes, or makes, the folio of `order` at `pfn`, and counts the file that has it there.
pub(crate) fn associate<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
    order: Order,
    place: FilePlace,
) -> Result<Associated<'m, M>, FolioError> {
    let found = super::block_of(registry, pfn, order, |kind| kind == Kind::FsDax)?;
    match map.try_get(pfn) {
        Ok(folio) if folio.pfn() == pfn && folio.order() == order => {
            if folio.flags().contains(PageFlags::HWPOISON) {
                return Err(FolioError::Poisoned { pfn });
            }
            // A folio of these frames, which were found to be the pagemap's: what stands in its words is this module's.
            let words = HeadWords::of(&folio);
            if words.pagemap() != Some(found.index()) {
                return Err(FolioError::Busy { pfn });
            }
            match words.share(place) {
                Ok(files) => Ok(Associated { folio, made: false, files }),
                Err(_) => Err(FolioError::References { pfn }),
            }
        }
        Ok(folio) => Err(FolioError::Conflict { folio: PfnRange::block(folio.pfn(), folio.order()) }),
        Err(GetError::Overflow { .. }) => Err(FolioError::References { pfn }),
        Err(_) => {
            let held = Held::take(&found, order).ok_or(FolioError::Gone { pfn })?;
            match blocks::join(map, pfn, order, Order::ZERO) {
                Ok(free) => {
                    let frozen = blocks::prepare(free);
                    HeadWords::of_frozen(&frozen).write_of_file(held.index(), place);
                    Ok(Associated { folio: frozen.into_folio(), made: true, files: 1 })
                }
                Err(error) => {
                    held.put(held.references_of(order));
                    Err(super::why_taken(map, pfn, error))
                }
            }
        }
    }
}

/// One file fewer has the folio.
pub(crate) fn disassociate<M: MemMap, R: ReadSide, L: RawLock>(
    held: Held<'_, R, L>,
    folio: &Folio<'_, M>,
    place: FilePlace,
) -> Result<u32, FolioError> {
    let pfn = folio.pfn();
    let kind = held.kind();
    if kind != Kind::FsDax {
        return Err(FolioError::OtherKind { pfn, kind });
    }
    HeadWords::of(folio).unshare(place).map_err(|error| match error {
        ShareError::NotOne => FolioError::NotAssociated { pfn },
        ShareError::TooMany => FolioError::References { pfn },
    })
}
