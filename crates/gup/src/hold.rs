// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holding the pages of a range: without locks as far as that goes, then with them.

use mmkit_addr::VirtAddr;
use mmkit_folio::Hold;
use mmkit_page::MemMap;

use crate::longterm::prepare;
use crate::slow::slow;
use crate::walk::{Need, Visit, Walk};
use crate::{AddressSpace, Flags, Held, Refusal, Request, Rows, Run, Sink, Span};

/// Tries of a request for long, where folios that may not be pinned keep coming.
const TRIES: u32 = 8;

/// Puts what a walk holds into a sink.
pub(crate) struct Into<'s, S>(pub(crate) &'s mut S);

impl<A: AddressSpace, S: Sink> Visit<A> for Into<'_, S> {
    #[inline]
    fn room(&self) -> u64 {
        self.0.room()
    }

    #[inline]
    fn take(&mut self, run: Run) -> u32 {
        // A sink cannot take more than there is.
        self.0.push(run).min(run.frames)
    }
}

/// Holds the pages of `span`, one hold each, and hands them to `sink` in order. Linux: `pin_user_pages_fast`,
/// `get_user_pages_fast` and, for another's address space, `pin_user_pages_remote`.
///
/// What is mapped as needed is held without any lock. From the first page on that is not, locks are taken and faults made, as
/// far as the request allows it. The result says how far it came, and why not farther; the walk can be continued there.
///
/// # Errors
///
/// [`Refusal`], if not a single page is held. So an error never leaves pages behind; a request that gets a part is a success.
/// (With [`Flags::FAST_ONLY`] it is a success also without a page, but for [`Refusal::OtherSpan`].)
pub fn hold<A: AddressSpace, S: Sink>(
    space: &A,
    span: Span,
    request: Request,
    sink: &mut S,
) -> Result<Held, Refusal> {
    hold_in((space, space.map()), span, request, sink)
}

/// An address space, and its memory map.
type At<'m, A> = (&'m A, &'m <A as AddressSpace>::Map);

/// [`hold`], where the memory map was asked for already.
pub(crate) fn hold_in<A: AddressSpace, S: Sink>(
    at: At<'_, A>,
    span: Span,
    request: Request,
    sink: &mut S,
) -> Result<Held, Refusal> {
    let (space, _) = at;
    if !span.is_of(&space.format()) {
        return Err(Refusal::OtherSpan);
    }
    let flags = request.flags();
    let mut held = Held { pages: 0, next: span.start(), stopped: None };
    if span.page_count() == 0 {
        return Ok(held);
    }
    if sink.room() == 0 {
        let none = Held { stopped: Some(Refusal::NoRoom), ..held };
        return if flags.contains(Flags::FAST_ONLY) { Ok(none) } else { Err(Refusal::NoRoom) };
    }
    if request.is_pin() {
        space.will_pin();
    }
    if !flags.intersects(Flags::ANON | Flags::SPLIT) {
        held = lockless(at, span, request, sink);
    }
    let full = held.stopped == Some(Refusal::NoRoom);
    if held.next < span.end() && !flags.contains(Flags::FAST_ONLY) && !full {
        let rest = locked(at, span.from(held.next), request, sink);
        held = Held { pages: held.pages + rest.pages, ..rest };
    }
    match held.stopped {
        Some(why) if held.pages == 0 && !flags.contains(Flags::FAST_ONLY) => Err(why),
        _ => Ok(held),
    }
}

/// The part that takes no lock. Linux: GUP-fast.
fn lockless<A: AddressSpace, S: Sink>(
    (space, map): At<'_, A>,
    span: Span,
    request: Request,
    sink: &mut S,
) -> Held {
    let (mut at, end) = (span.start(), span.end());
    let stopped = |at| Some(Refusal::NotMapped { va: at });
    let Some(walk) = Walk::lockless(space, map, request) else {
        return Held { pages: 0, next: at, stopped: stopped(at) };
    };
    let mut visit = Into(sink);
    let tables = space.read();
    let frames = map.enter();
    let mut held = Held { pages: 0, next: at, stopped: None };
    while at < end && held.stopped.is_none() {
        let row = tables.row(at, end);
        let left = (end.get() - at.get()) >> walk.format.base_shift;
        let step = walk.row(&frames, row, (at, left), &mut visit);
        held.pages += step.pages;
        at = VirtAddr::new(at.get() + (step.pages << walk.format.base_shift));
        held.next = at;
        held.stopped = match step.need {
            None => None,
            Some(Need::Stop(why)) => Some(why),
            Some(Need::Fault(_) | Need::Again | Need::Move) => stopped(at),
        };
    }
    held
}

/// The part that takes locks, and faults. Linux: `__gup_longterm_locked`.
fn locked<A: AddressSpace, S: Sink>(
    (space, map): At<'_, A>,
    span: Span,
    request: Request,
    sink: &mut S,
) -> Held {
    let hold = if request.is_pin() { Hold::Pin } else { Hold::Get };
    if !request.is_longterm() {
        let (held, need) = slow(&mut Walk::locked(space, map, request, hold), span, &mut Into(sink));
        return finish(held, need);
    }
    let mut all = Held { pages: 0, next: span.start(), stopped: None };
    for _ in 0..TRIES {
        let rest = span.from(all.next).at_most(sink.room());
        // Everything that has to move does so before the first page is pinned: a request that cannot have it all for that reason
        // gets nothing.
        let (ready, why) = prepare((space, map), rest, request);
        if let Some(why @ Refusal::Migrate(_)) = why {
            return Held { stopped: Some(why), ..all };
        }
        let (held, need) =
            slow(&mut Walk::locked(space, map, request, hold), rest.at_most(ready), &mut Into(sink));
        all = Held { pages: all.pages + held.pages, next: held.next, stopped: None };
        match need {
            // A folio that has to move came after the look.
            Some(Need::Move) => {}
            Some(_) => return finish(all, need),
            None if why.is_some() => return Held { stopped: why, ..all },
            None if all.next == span.end() => return all,
            None => return Held { stopped: Some(Refusal::NoRoom), ..all },
        }
    }
    Held { stopped: Some(Refusal::Migrate(crate::MigrateError::Busy)), ..all }
}

fn finish(held: Held, need: Option<Need>) -> Held {
    let stopped = need.map(|need| match need {
        Need::Stop(why) => why,
        Need::Move => Refusal::Migrate(crate::MigrateError::Busy),
        Need::Fault(_) | Need::Again => Refusal::NotMapped { va: held.next },
    });
    Held { stopped, ..held }
}
