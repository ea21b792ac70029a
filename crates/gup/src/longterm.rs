// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins that stay: what has to move is moved first.

use mmkit_addr::VirtAddr;
use mmkit_folio::Hold;
use mmkit_page::{Folio, MemMap};

use crate::slow::slow;
use crate::walk::{Need, Visit, Walk};
use crate::{AddressSpace, Isolated, Migrate, MigrateError, Refusal, Request, Run, Span};

/// Rounds that do not come farther, after which it is given up.
const ROUNDS: u32 = 8;

/// Looks at what a walk holds, and sets aside what has to move.
struct Collect<'m, A: AddressSpace> {
    isolated: Isolated<'m, A::Map>,
    map: &'m A::Map,
    /// Pages that were looked at.
    pages: u64,
    /// The first of them that has to move.
    first: Option<u64>,
    /// One of them could not be set aside.
    refused: bool,
}

impl<A: AddressSpace> Visit<A> for Collect<'_, A> {
    const KEEPS: bool = false;

    fn room(&self) -> u64 {
        if self.isolated.is_full() { 0 } else { u64::MAX }
    }

    fn take(&mut self, run: Run) -> u32 {
        self.pages += u64::from(run.frames);
        run.frames
    }

    fn must_move(&mut self, space: &A, folio: &Folio<'_, A::Map>) -> bool {
        if self.isolated.is_full() {
            return false;
        }
        self.first = self.first.or(Some(self.pages));
        match self.map.try_get(folio.pfn()) {
            Ok(handle) if space.migrate().isolate(&handle) => self.isolated.push(handle),
            // Set aside already, through another of its entries; or in somebody else's hands.
            _ => self.refused = true,
        }
        true
    }
}

/// Faults the pages of `span` in, and moves what cannot be pinned where it is, until nothing has to: how many pages are ready,
/// and why not more. Nothing is held in the end. Linux: `check_and_migrate_movable_pages`.
///
/// What was set aside is moved, and everything from the first of it on is looked at again. So each round comes farther, or
/// it is one of a few that do not.
pub(crate) fn prepare<A: AddressSpace>(
    (space, map): (&A, &A::Map),
    span: Span,
    request: Request,
) -> (u64, Option<Refusal>) {
    let pages_to = |at: VirtAddr| (at.get() - span.start().get()) >> span.base_shift();
    let (mut ready, mut rounds) = (0, 0);
    loop {
        let mut collect =
            Collect::<A> { isolated: Isolated::new(), map, pages: 0, first: None, refused: false };
        let mut walk = Walk::locked(space, map, request, Hold::Get);
        let (held, need) = slow(&mut walk, span.after(ready), &mut collect);
        let Collect { isolated, first, refused, .. } = collect;
        let Some(first) = first else {
            let why = match need {
                None => None,
                Some(Need::Stop(why)) => Some(why),
                Some(_) => Some(Refusal::NotMapped { va: held.next }),
            };
            return (pages_to(held.next), why);
        };
        (ready, rounds) = (ready + first, if first > 0 { 1 } else { rounds + 1 });
        if refused {
            space.migrate().drain();
        }
        // Also in the last round: what was set aside is not to stay so.
        if !isolated.is_empty()
            && let Err(error) = space.migrate().migrate(isolated)
        {
            return (0, Some(Refusal::Migrate(error)));
        }
        if rounds > ROUNDS {
            return (0, Some(Refusal::Migrate(MigrateError::Busy)));
        }
    }
}
