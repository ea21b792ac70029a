// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folios out of resting blocks, and back.

use mmkit_addr::{Order, Pfn};
use mmkit_page::{ClaimError, Free, Frozen, MemMap, OWN_DESCRIPTORS, PageFlags};
use mmkit_sync::mutant;

/// Takes the block of `order` at `pfn` out of the blocks of `unit` that rest there: all or none.
///
/// Cost: one compare-exchange for each block, two words written for each joint.
pub(crate) fn join<M: MemMap>(
    map: &M,
    pfn: Pfn,
    order: Order,
    unit: Order,
) -> Result<Free<'_, M>, ClaimError> {
    if order <= unit {
        let free = map.claim(pfn)?;
        // Somebody else's work, who passed the pagemap by.
        return if free.order() == unit { Ok(free) } else { Err(ClaimError::Taken { pfn }) };
    }
    let half = order.checked_sub(1).ok_or(ClaimError::Taken { pfn })?;
    let upper = pfn.checked_add(half.frames()).ok_or(ClaimError::Absent { pfn })?;
    let lower = join(map, pfn, half, unit)?;
    match join(map, upper, half, unit) {
        Ok(upper) => lower.merge(upper).map_err(|refused| {
            let (lower, upper) = refused.handle;
            rest(lower, unit);
            rest(upper, unit);
            ClaimError::Taken { pfn }
        }),
        Err(error) => {
            mutant!("blocks-join-no-undo", rest(lower, unit), {
                let _ = lower.into_raw();
            });
            Err(error)
        }
    }
}

/// Lets a free block rest, as blocks of `unit`.
fn rest<M: MemMap>(free: Free<'_, M>, unit: Order) {
    if free.order() <= unit {
        return drop(free);
    }
    if let Ok((lower, upper)) = free.split() {
        rest(lower, unit);
        rest(upper, unit);
    }
}

/// Makes a compound of a block that is to be handed out, if it has several frames.
pub(crate) fn prepare<M: MemMap>(free: Free<'_, M>) -> Frozen<'_, M> {
    match free.allocate().prep() {
        Ok(compound) => compound,
        // Of one frame, or a compound since it was populated.
        Err(refused) => refused.handle,
    }
}

/// Breaks a block up into blocks of `unit`, which rest. `bad` gets those that cannot: a frame of theirs was reported by the
/// hardware.
///
/// Cost: 64 bytes written for each frame of a compound that is larger than `unit`, and as much again.
pub(crate) fn scatter<'m, M: MemMap>(frozen: Frozen<'m, M>, unit: Order, bad: &mut dyn FnMut(Frozen<'m, M>)) {
    let frozen = if frozen.order() > unit {
        match frozen.unprep() {
            Ok(frozen) => frozen,
            // No compound.
            Err(refused) => refused.handle,
        }
    } else {
        frozen
    };
    part(frozen, unit, bad);
}

fn part<'m, M: MemMap>(frozen: Frozen<'m, M>, unit: Order, bad: &mut dyn FnMut(Frozen<'m, M>)) {
    if frozen.order() <= unit {
        return match frozen.into_free() {
            Ok(free) => drop(free),
            Err(refused) => bad(refused.handle),
        };
    }
    match frozen.split() {
        Ok((lower, upper)) => {
            part(lower, unit, bad);
            part(upper, unit, bad);
        }
        Err(refused) => bad(refused.handle),
    }
}

/// Takes the mark of bad frames off all of a block's own descriptors.
pub(crate) fn forgive<M: MemMap>(frozen: &mut Frozen<'_, M>) {
    let frames = match (frozen.is_compound(), frozen.has_shared_tails()) {
        (false, _) => 1,
        (true, true) => OWN_DESCRIPTORS,
        (true, false) => frozen.order().frames(),
    };
    frozen.remove_at(0..frames, PageFlags::HWPOISON);
}
