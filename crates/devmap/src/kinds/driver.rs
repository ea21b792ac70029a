// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that a driver hands out and gets back: private, coherent, P2PDMA.

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_page::{Folio, Frozen, MemMap, PinRefusal, PinUse, PinVerdict};
use mmkit_sync::{RawLock, ReadSide, mutant};

use super::policy::{Policy, not_for_long};
use super::words::HeadWords;
use super::{FolioError, Held, blocks};
use crate::{Kind, Provided, Registry};

/// Memory of a driver.
pub(crate) enum Driver {}

impl Policy for Driver {
    const UNUSED: u32 = 0;

    /// At rest, then the driver's, then nothing of the pagemap's.
    fn last_put<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, frozen: Frozen<'_, M>) {
        let order = frozen.order();
        let block = PfnRange::block(frozen.pfn(), order);
        let references = held.references_of(order);
        if mutant!("driver-put-first", false, true) {
            held.put(references);
        }
        blocks::scatter(frozen, held.order(), &mut |bad| held.folios.bad.push(bad));
        if let Some(operations) = held.operations(Provided::FOLIO_FREE) {
            operations.folio_free(block);
        }
        if mutant!("driver-put-first", true, false) {
            held.put(references);
        }
    }

    fn pin(kind: Kind, usage: PinUse) -> PinVerdict {
        match kind {
            // The device gets it back soon; or it stays with the device, and its contents go. Linux: `folio_is_longterm_pinnable`.
            Kind::Coherent if usage.contains(PinUse::LONGTERM) => PinVerdict::Migrate,
            Kind::Coherent => PinVerdict::Allow,
            Kind::PciP2pdma if usage.contains(PinUse::PEER) => not_for_long(usage, PinRefusal::Peer),
            Kind::PciP2pdma => PinVerdict::Refuse(PinRefusal::Peer),
            _ => PinVerdict::Refuse(PinRefusal::Private),
        }
    }
}

const fn is_driver(kind: Kind) -> bool {
    matches!(kind, Kind::Private | Kind::Coherent | Kind::PciP2pdma)
}

/// Makes a folio of `order` of the frames from `pfn` on, with one reference and the driver's word `data`.
pub(crate) fn allocate<'m, M: MemMap, R: ReadSide, L: RawLock>(
    registry: &Registry<R, L>,
    map: &'m M,
    pfn: Pfn,
    order: Order,
    data: u64,
) -> Result<Folio<'m, M>, FolioError> {
    let found = super::block_of(registry, pfn, order, is_driver)?;
    let held = Held::take(&found, order).ok_or(FolioError::Gone { pfn })?;
    match blocks::join(map, pfn, order, held.order()) {
        Ok(free) => {
            let frozen = blocks::prepare(free);
            HeadWords::of_frozen(&frozen).write_of_driver(held.index(), data);
            Ok(frozen.into_folio())
        }
        Err(error) => {
            held.put(held.references_of(order));
            Err(super::why_taken(map, pfn, error))
        }
    }
}

/// Splits a folio into folios of order `to`, if `folio` is its only reference.
pub(crate) fn split<'m, M: MemMap, R: ReadSide, L: RawLock>(
    held: Held<'_, R, L>,
    folio: Folio<'m, M>,
    to: Order,
    mut each: impl FnMut(Folio<'m, M>),
) -> Result<(), (Folio<'m, M>, FolioError)> {
    let (pfn, order) = (folio.pfn(), folio.order());
    let (kind, least) = (held.kind(), held.order());
    if !is_driver(kind) {
        return Err((folio, FolioError::OtherKind { pfn, kind }));
    }
    if to >= order || to < least {
        return Err((folio, FolioError::OtherOrder { pfn, order: to, least, most: order }));
    }
    let frozen = match folio.freeze() {
        Ok(frozen) => frozen,
        Err(folio) => {
            let references = folio.count();
            return Err((folio, FolioError::Shared { pfn, references }));
        }
    };
    let words = HeadWords::of_frozen(&frozen);
    let data = words.data();
    match frozen.unprep() {
        Ok(frozen) => {
            let parts = Parts { held, head: pfn, to, data };
            parts.of(frozen, &mut each);
            Ok(())
        }
        Err(refused) => Err((refused.handle.into_folio(), FolioError::Busy { pfn })),
    }
}

/// What all parts of a folio have in common.
struct Parts<'r, R, L> {
    held: Held<'r, R, L>,
    head: Pfn,
    to: Order,
    data: u64,
}

impl<R: ReadSide, L: RawLock> Parts<'_, R, L> {
    /// Every part of `block`, in ascending order. The driver hears of each but the first before anybody has it.
    fn of<'m, M: MemMap>(&self, block: Frozen<'m, M>, each: &mut dyn FnMut(Folio<'m, M>)) {
        if block.order() > self.to {
            return match block.split() {
                Ok((lower, upper)) => {
                    self.of(lower, each);
                    self.of(upper, each);
                }
                // Its upper half is in the map as it is.
                Err(refused) => drop(refused.handle),
            };
        }
        let part = match block.prep() {
            Ok(part) => part,
            Err(refused) => refused.handle,
        };
        HeadWords::of_frozen(&part).write_of_driver(self.held.index(), self.data);
        if let Some(operations) = self.held.operations(Provided::FOLIO_SPLIT) {
            operations.folio_split(self.head, PfnRange::block(part.pfn(), part.order()));
        }
        each(part.into_folio());
    }
}

/// What the driver keeps with a folio of its.
pub(crate) fn data<M: MemMap, R: ReadSide, L: RawLock>(
    held: Held<'_, R, L>,
    folio: &Folio<'_, M>,
) -> Option<u64> {
    is_driver(held.kind()).then(|| HeadWords::of(folio).data())
}
