// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the references of each kind's folios mean.

use mmkit_page::{Frozen, MemMap, PinRefusal, PinUse, PinVerdict};
use mmkit_sync::{RawLock, ReadSide};

use super::Held;
use super::driver::Driver;
use super::fsdax::FsDax;
use super::generic::Generic;
use crate::Kind;

/// The life of one kind's folios, from the reference that they are handed out with to the last one that is put.
///
/// | kind | references while nobody uses it | when the last one is put |
/// |---|---|---|
/// | generic | 1, the pagemap's | it is ready again, with 1; of a pagemap that is going, it rests |
/// | fs-dax | 0 | its compound is broken up, its frames rest, waiters are woken |
/// | private, coherent, P2PDMA | 0 | the same without waiters; the driver hears of it |
///
/// References of the pagemap are put after all of that: it is what a folio in use keeps there.
pub(crate) trait Policy {
    /// References that a folio has which nobody uses.
    const UNUSED: u32;

    /// Takes a folio whose last reference was put.
    fn last_put<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, frozen: Frozen<'_, M>);

    /// What may be pinned, while the pagemap lives.
    fn pin(kind: Kind, usage: PinUse) -> PinVerdict;
}

/// The last reference of a folio of the pagemap was put.
pub(crate) fn last_put<M: MemMap, R: ReadSide, L: RawLock>(held: Held<'_, R, L>, frozen: Frozen<'_, M>) {
    match held.kind() {
        Kind::Generic => Generic::last_put(held, frozen),
        Kind::FsDax => FsDax::last_put(held, frozen),
        Kind::Private | Kind::Coherent | Kind::PciP2pdma => Driver::last_put(held, frozen),
    }
}

/// Whether a folio of `kind` may be pinned.
pub(crate) fn pin(kind: Kind, usage: PinUse) -> PinVerdict {
    match kind {
        Kind::Generic => Generic::pin(kind, usage),
        Kind::FsDax => FsDax::pin(kind, usage),
        Kind::Private | Kind::Coherent | Kind::PciP2pdma => Driver::pin(kind, usage),
    }
}

/// References that a folio of `kind` has while nobody uses it. Linux: those that `memmap_init_zone_device` leaves.
#[must_use]
pub const fn unused_references(kind: Kind) -> u32 {
    match kind {
        Kind::Generic => Generic::UNUSED,
        Kind::FsDax => FsDax::UNUSED,
        Kind::Private | Kind::Coherent | Kind::PciP2pdma => Driver::UNUSED,
    }
}

/// Refuses what is for long, because of `reason`.
pub(crate) fn not_for_long(usage: PinUse, reason: PinRefusal) -> PinVerdict {
    if usage.contains(PinUse::LONGTERM) { PinVerdict::Refuse(reason) } else { PinVerdict::Allow }
}
