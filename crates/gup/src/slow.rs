// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk that takes locks, and makes the faults that it meets.

use mmkit_addr::VirtAddr;
use mmkit_page::MemMap;

use crate::walk::{Need, Visit, Walk};
use crate::{
    AddressSpace, Area, AreaFlags, FaultError, FaultFlags, Faulted, Flags, Held, Interruption, Refusal, Rows,
    Span,
};

/// Walks `span` with locks: how far it came, and what it needs to go on, if it cannot. Linux: `__get_user_pages`.
pub(crate) fn slow<A: AddressSpace, V: Visit<A>>(
    walk: &mut Walk<'_, A>,
    span: Span,
    visit: &mut V,
) -> (Held, Option<Need>) {
    let mut held = Held { pages: 0, next: span.start(), stopped: None };
    let shift = walk.format.base_shift;
    let need = each_row(walk.space, span, walk.request.flags(), |at, rows, area| {
        if walk.area != Some(area) {
            if let Err(why) = area.check(walk.request, at) {
                return (0, Some(Need::Stop(why)));
            }
            walk.area = Some(area);
        }
        let end = end_of(span, area);
        let row = rows.row(at, end);
        let frames = walk.map.enter();
        let step = walk.row(&frames, row, (at, (end.get() - at.get()) >> shift), visit);
        held.pages += step.pages;
        held.next = VirtAddr::new(at.get() + (step.pages << shift));
        (step.pages, step.need)
    });
    (held, need)
}

/// Where a walk of `span` in `area` ends.
pub(crate) fn end_of(span: Span, area: Area) -> VirtAddr {
    area.range.end().map_or(span.end(), |end| end.min(span.end()))
}

/// Calls `row` again and again, with the table of the place where it is locked, and makes the faults that it needs, until the
/// end of `span`; or what it needs, where that cannot be done. It answers by how many pages it came farther.
pub(crate) fn each_row<A: AddressSpace>(
    space: &A,
    span: Span,
    flags: Flags,
    mut row: impl FnMut(VirtAddr, &A::Table<'_>, Area) -> (u64, Option<Need>),
) -> Option<Need> {
    let mut at = span.start();
    let mut locked = space.lock();
    let (mut area, mut tried): (Option<Area>, _) = (None, FaultFlags::empty());
    while at < span.end() {
        if let Some(how) = interrupted(space, flags) {
            return Some(Need::Stop(Refusal::Interrupted(how)));
        }
        let known = area.filter(|area| area.range.contains(at));
        let Some(here) = known.or_else(|| space.area(&locked, at)) else {
            return Some(Need::Stop(Refusal::NoArea { va: at }));
        };
        area = Some(here);
        let (pages, need) = row(at, &space.table(&locked, at), here);
        if pages > 0 {
            tried = FaultFlags::empty();
        }
        at = VirtAddr::new(at.get() + (pages << span.base_shift()));
        let fault = match need {
            None => continue,
            Some(Need::Fault(fault)) if !flags.contains(Flags::NOFAULT) => fault,
            need => return need,
        };
        let mut how = fault | tried;
        how.set(FaultFlags::INTERRUPTIBLE, flags.contains(Flags::INTERRUPTIBLE));
        let allowed = here.flags.contains(AreaFlags::WRITE) || !flags.contains(Flags::FORCE);
        how.set(FaultFlags::FORCE, fault.contains(FaultFlags::WRITE) && !allowed);
        locked = match space.fault_in(locked, at, how) {
            Ok(Faulted::Kept(locked)) => locked,
            Ok(Faulted::Dropped) => {
                (area, tried) = (None, FaultFlags::TRIED);
                space.lock()
            }
            Err(FaultError::Interrupted(how)) => return Some(Need::Stop(Refusal::Interrupted(how))),
            Err(error) => return Some(Need::Stop(Refusal::Fault { va: at, error })),
        };
    }
    None
}

/// Whether the thread gives up.
fn interrupted<A: AddressSpace>(space: &A, flags: Flags) -> Option<Interruption> {
    space.interrupted().filter(|how| *how == Interruption::Fatal || flags.contains(Flags::INTERRUPTIBLE))
}
