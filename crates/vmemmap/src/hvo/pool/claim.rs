// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a block of the allocator to a block of the memory map.

use mmkit_addr::{Order, Pfn};
use mmkit_page::{ClaimError, Free, MemMap, State};

/// Takes the free block of `order` at `pfn`: joined from smaller ones that rest there, or cut out of a larger one. What is
/// left of that rests again.
///
/// One caller at a time: a second one would find the larger block taken.
///
/// # Errors
///
/// [`ClaimError`] where no free block at rest has all of the frames.
pub(super) fn claim<M: MemMap>(map: &M, pfn: Pfn, order: Order) -> Result<Free<'_, M>, ClaimError> {
    let refused = match map.claim_joined(pfn, order) {
        Ok(free) => return Ok(free),
        Err(error @ ClaimError::Taken { .. }) => error,
        Err(error) => return Err(error),
    };
    let larger = (order.get() + 1..=Order::MAX.get()).filter_map(Order::new).find_map(|larger| {
        let head = pfn.align_down(larger);
        let reader = map.enter();
        let whole = State::Free { order: larger, parked: true };
        reader.page(head).filter(|page| page.state() == whole).map(|_| head)
    });
    let mut free = map.claim(larger.ok_or(refused)?)?;
    while free.order() > order {
        // A compound cannot be cut; it rests again.
        let (low, high) = free.split().map_err(|_| refused)?;
        free = if pfn < high.pfn() { low } else { high };
    }
    if free.pfn() == pfn && free.order() == order { Ok(free) } else { Err(refused) }
}
