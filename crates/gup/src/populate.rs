// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making pages present without holding them.

use mmkit_addr::VirtAddr;

use crate::slow::{each_row, end_of};
use crate::walk::{Need, passable};
use crate::{AddressSpace, AreaFlags, Flags, Held, Refusal, Rows, Span};

/// Faults in the pages of `span`, to read or to `write` them, as accesses would, but holds none. Linux:
/// `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`.
///
/// # Errors
///
/// [`Refusal`] where it ends early, with what was done before it: an address without an area, an area that does not allow it, a
/// fault that fails, an interruption.
pub fn populate<A: AddressSpace>(space: &A, span: Span, write: bool) -> Result<Held, (Held, Refusal)> {
    let format = space.format();
    let mut held = Held { pages: 0, next: span.start(), stopped: None };
    if !span.is_of(&format) {
        return Err((held, Refusal::OtherSpan));
    }
    let need = each_row(space, span, Flags::INTERRUPTIBLE, |at, rows, area| {
        let wanted = if write { AreaFlags::WRITE } else { AreaFlags::READ };
        if area.flags.contains(AreaFlags::NO_PAGES) {
            return (0, Some(Need::Stop(Refusal::NoPages { va: at })));
        }
        if !area.flags.contains(wanted) {
            let why = if write { Refusal::NotWritable { va: at } } else { Refusal::NotReadable { va: at } };
            return (0, Some(Need::Stop(why)));
        }
        let end = end_of(span, area);
        let left = (end.get() - at.get()) >> format.base_shift;
        let (pages, need) = passable(space, &format, rows.row(at, end), (at, left), write);
        held.pages += pages;
        held.next = VirtAddr::new(at.get() + (pages << format.base_shift));
        (pages, need)
    });
    match need {
        None => Ok(held),
        Some(Need::Stop(why)) => Err((held, why)),
        Some(_) => Err((held, Refusal::NotMapped { va: held.next })),
    }
}
