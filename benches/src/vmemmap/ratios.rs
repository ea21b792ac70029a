// SPDX-License-Identifier: MIT OR Apache-2.0
//! Optimising and restoring 2M pages, against the work that cannot be left out.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_addr::{Order, Pfn};
use mmkit_frame::{DirectMap, FrameAllocator, Request};

use super::pool::{all, memory, order_of, pages, soft};
use crate::arena::Arena;
use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::pair::{Effort, Paired};

/// Huge pages in a batch: 8 GiB of them.
const PAGES: u64 = 4096;
/// Pages of descriptors that each has.
const VMEMMAP_PAGES: usize = 8;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Bytes that are written before each side begins.
const SCRATCH: usize = 32 << 20;
/// How often it is done at least.
const ROUNDS: usize = 7;

/// The bare work: a table of as many entries, and as many frames of the same kind of allocator.
struct Bare<'a> {
    arena: &'a Arena,
    /// In the tables, one line for each huge page.
    entries: Vec<[AtomicU64; VMEMMAP_PAGES]>,
    tail: Pfn,
    /// The frames that were taken out of the entries, until all entries are changed.
    out: Vec<[u64; VMEMMAP_PAGES]>,
}

impl<'a> Bare<'a> {
    /// Bits of an entry below the frame number.
    const FLAGS: u32 = 12;

    fn new(arena: &'a Arena) -> Result<Self, Box<dyn Error>> {
        let tail = arena.allocate(Request::new(Order::ZERO))?;
        let mut entries = Vec::with_capacity(PAGES as usize);
        for _ in 0..PAGES {
            let mut frames = [Pfn::ZERO; VMEMMAP_PAGES];
            arena.allocate_bulk(Request::new(Order::ZERO), &mut frames)?;
            entries.push(frames.map(|pfn| AtomicU64::new(pfn.get() << Self::FLAGS | 3)));
        }
        Ok(Self { arena, entries, tail, out: vec![[0; VMEMMAP_PAGES]; PAGES as usize] })
    }

    /// One frame taken and one page copied, eight entries written; when all are, eight frames given back.
    fn optimise(&mut self) -> Option<()> {
        for (entries, out) in self.entries.iter().zip(&mut self.out) {
            let fresh = self.arena.allocate(Request::new(Order::ZERO)).ok()?;
            let old = entries.each_ref().map(|entry| entry.load(Ordering::Relaxed) >> Self::FLAGS);
            copy(self.arena, Pfn::new(old[0])?, fresh)?;
            let (head, tails) = entries.split_first()?;
            head.store(fresh.get() << Self::FLAGS | 3, Ordering::Relaxed);
            for entry in tails {
                entry.store(self.tail.get() << Self::FLAGS | 1, Ordering::Relaxed);
            }
            *out = old;
        }
        // Last come, first go, as in the thing.
        for pfn in self.out.iter().rev().flatten().filter_map(|&pfn| Pfn::new(pfn)) {
            // SAFETY: allocated by `new` or `restore`, and taken out of the entries above.
            unsafe { self.arena.deallocate(pfn, Order::ZERO) };
        }
        Some(())
    }

    /// Seven frames taken, each filled from the page of tails, seven entries written.
    fn restore(&mut self) -> Option<()> {
        for entries in &self.entries {
            let mut fresh = [Pfn::ZERO; VMEMMAP_PAGES - 1];
            self.arena.allocate_bulk(Request::new(Order::ZERO), &mut fresh).ok()?;
            for (&fresh, entry) in fresh.iter().zip(&entries[1..]) {
                copy(self.arena, self.tail, fresh)?;
                entry.store(fresh.get() << Self::FLAGS | 3, Ordering::Relaxed);
            }
        }
        Some(())
    }
}

fn copy(arena: &Arena, from: Pfn, to: Pfn) -> Option<()> {
    let (from, to) = (arena.frame(from)?, arena.frame(to)?);
    // SAFETY: two frames that are the bare work's own, one of them just allocated: they do not overlap.
    unsafe { from.copy_to_nonoverlapping(to, PAGE) };
    Some(())
}

/// `optimise_ratio` and `restore_ratio`.
pub(super) fn hvo(effort: Effort) -> Result<[Figure; 2], Box<dyn Error>> {
    // Descriptors of their own, one page more for each, tables.
    let frames = PAGES * (VMEMMAP_PAGES as u64 + 1) + 4096;
    let (arena, other) = (Arena::resident(frames)?, Arena::resident(frames)?);
    let map = soft(|| arena.env())?;
    let mut pool = pages(&map, memory(PAGES * (2 << 20))?, order_of(2 << 20)?)?;
    let mut bare = Bare::new(&other)?;

    let rounds = ROUNDS.max(effort.rounds / 3);
    // More than a core's own caches: neither side finds there what it used last, whoever went before.
    let mut scratch = vec![0_u64; SCRATCH / 8];
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..=rounds {
        // Each side does both halves in turn with the other; who goes first changes every round.
        for (half, times) in times.iter_mut().enumerate() {
            for turn in 0..2 {
                let side = (turn + round) % 2;
                scratch.iter_mut().for_each(|word| *word = word.wrapping_add(1));
                let begun = ThreadTime::now();
                match (side, half) {
                    (0, 0) => all(map.optimise_batch(&mut pool), PAGES as usize)?,
                    (0, _) => all(map.restore_batch(&mut pool), PAGES as usize)?,
                    (_, 0) => bare.optimise().ok_or("the bare work found no frame")?,
                    (_, _) => bare.restore().ok_or("the bare work found no frame")?,
                }
                let ns = begun.elapsed_ns() / PAGES as f64;
                // The first round splits huge leaves, and warms up.
                if round > 0 {
                    times[side].push(ns);
                }
            }
        }
    }
    for frozen in pool {
        let apart = frozen.unprep().map_err(|_| "not taken apart")?;
        drop(apart.into_free().map_err(|_| "not given back")?);
    }
    let [optimise, restore] = times.map(|[thing, baseline]| Paired::of(thing, baseline));
    Ok([
        Figure::timed(
            "optimise_ratio",
            "a 2M page optimised, 4096 in a batch / 8 entries written, a page copied, 1 frame taken and 8 given back",
            Some(1.5),
            optimise,
        ),
        Figure::timed(
            "restore_ratio",
            "a 2M page restored, 4096 in a batch / 7 frames taken, 7 pages copied, 7 entries written",
            Some(1.5),
            restore,
        ),
    ])
}
