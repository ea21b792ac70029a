// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done to a memory map, wherever it lives: build, read everything, look everything up, use everything.

use std::time::{Duration, Instant};

use mmkit_addr::{Geometry, Order, Pfn, PfnRange};
use mmkit_page::{MemMap, Place};
use mmkit_vmemmap::{Vmemmap, VmemmapSpace};

use super::check::{self, Tally};
use super::env::DemoEnv;
use super::layout::{Layout, Piece};
use crate::failure::Failure;
use crate::progress::Progress;

/// Frames between two looks at the clock.
const SLICE: u64 = 1 << 18;

/// The steps that each frame goes through.
const STEPS: u64 = 4;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) build: Duration,
    pub(super) descriptors: Tally,
    pub(super) holes: Tally,
    pub(super) lookups: Tally,
    pub(super) looking: Duration,
    pub(super) references: Tally,
}

/// Populates `map` with `layout`, and checks every frame against `expected`: the same, except in tests.
///
/// `between` is called once everything has been read through the mapping: then all page tables that will ever be there
/// are there.
pub(super) fn exercise<S: VmemmapSpace>(
    map: &Vmemmap<S, DemoEnv>,
    layout: &Layout,
    expected: &Layout,
    what: String,
    between: impl FnOnce(),
) -> Result<Outcome, Failure> {
    let mut progress = Progress::new(what, layout.frames() * STEPS);
    let geometry = map.geometry();
    let mut outcome = Outcome::default();

    let begun = Instant::now();
    for piece in &layout.pieces {
        for range in piece.slices(SLICE, geometry.subsection_order()) {
            map.populate(range, piece.order, Place::default()).map_err(|error| {
                Failure::run(format_args!("{range:?} could not be built: {error}; give a smaller --memory"))
            })?;
            progress.advance(range.frames());
        }
    }
    outcome.build = begun.elapsed();

    for slice in slices(expected) {
        let reader = map.enter();
        let read = |pfn| Some(reader.page(pfn)?.words());
        outcome.descriptors.add(check::descriptors(&slice, geometry.min_dedup_order(), read));
        progress.advance(slice.range.frames());
    }
    outcome.holes = check::holes(expected, geometry.frames_per_subsection(), |pfn| map.head(pfn).is_some());
    between();

    for slice in slices(expected) {
        let begun = Instant::now();
        let tally = check::heads(&slice, |pfn| map.head(pfn));
        outcome.looking += begun.elapsed();
        outcome.lookups.add(tally);
        progress.advance(slice.range.frames());
    }

    for slice in slices(expected) {
        outcome.references.add(references(map, geometry, &slice));
        progress.advance(slice.range.frames());
    }
    Ok(outcome)
}

/// The pieces in slices of whole blocks.
fn slices(layout: &Layout) -> impl Iterator<Item = Piece> {
    let slices = |piece: &Piece| {
        let order = piece.order;
        piece.slices(SLICE, order).map(move |range| Piece { range, order }).collect::<Vec<_>>()
    };
    layout.pieces.iter().flat_map(slices)
}

/// Hands every block out, takes a second reference through its last frame, and gives both back.
fn references<S: VmemmapSpace>(map: &Vmemmap<S, DemoEnv>, geometry: &Geometry, piece: &Piece) -> Tally {
    let mut tally = Tally::default();
    let order = piece.order;
    for head in heads(piece.range, order) {
        let shared = order >= geometry.min_dedup_order();
        let right = map.claim(head).is_ok_and(|free| {
            let folio = free.allocate().into_folio();
            let last = Pfn::new(head.get() + order.frames() - 1);
            let second = last.and_then(|last| map.try_get(last).ok());
            let second = second.is_some_and(|second| second.pfn() == head && second.count() == 2);
            second && folio.order() == order && folio.has_shared_tails() == shared && folio.count() == 1
        });
        tally.note(head, right);
    }
    tally
}

/// The first frames of the blocks of a range.
fn heads(range: PfnRange, order: Order) -> impl Iterator<Item = Pfn> {
    range.iter().step_by(order.frames() as usize)
}
