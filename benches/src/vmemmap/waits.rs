// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often a batch flushes and waits for readers: counted by those who are asked to.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use mmkit_frame::{Env, Frames};
use mmkit_pgtable::{Mmu, TableEnv};
use mmkit_sync::{Counter, InsideReader, ReadSide, Readers, SpinLock, Tally};

use super::pool::{all, memory, order_of, pages, soft};
use crate::arena::Arena;
use crate::figure::Figure;

/// What happened, as it was told and as it was done.
#[derive(Debug, Default)]
struct Counts {
    tally: Tally,
    flushes: AtomicU64,
    waits: AtomicU64,
}

impl Counts {
    /// Flushes and waits since the last call; an error where those that were reported are not those that were made.
    fn take(&self) -> Result<[u64; 2], Box<dyn Error>> {
        let made = [&self.flushes, &self.waits].map(|count| count.swap(0, Ordering::Relaxed));
        let told = [Counter::TlbFlush, Counter::Synchronize].map(|counter| self.tally.get(counter));
        self.tally.reset();
        if told == made { Ok(made) } else { Err(format!("reported {told:?}, done {made:?}").into()) }
    }
}

/// Processors that are asked to flush, and do nothing else.
#[derive(Debug)]
struct CountingMmu<'a>(&'a AtomicU64);

impl Mmu for CountingMmu<'_> {
    fn flush(&self, _: &[mmkit_addr::VirtRange]) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Readers that count how often they are waited for.
#[derive(Debug)]
struct CountingReaders<'a> {
    readers: Readers,
    waits: &'a AtomicU64,
}

// SAFETY: everything is passed on to one read side.
unsafe impl ReadSide for CountingReaders<'_> {
    type Guard<'g>
        = <Readers as ReadSide>::Guard<'g>
    where
        Self: 'g;

    fn enter(&self) -> Self::Guard<'_> {
        self.readers.enter()
    }

    fn synchronize(&self) -> Result<(), InsideReader> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.readers.synchronize()
    }

    fn may_wait(&self) -> bool {
        self.readers.may_wait()
    }
}

#[derive(Debug)]
struct CountingEnv<'a> {
    frames: Frames<&'a Arena, &'a Arena>,
    readers: CountingReaders<'a>,
    mmu: CountingMmu<'a>,
    tally: &'a Tally,
}

impl<'a> CountingEnv<'a> {
    fn new(arena: &'a Arena, counts: &'a Counts) -> Self {
        Self {
            frames: arena.bundle(),
            readers: CountingReaders { readers: Readers::new(), waits: &counts.waits },
            mmu: CountingMmu(&counts.flushes),
            tally: &counts.tally,
        }
    }
}

// SAFETY: every method returns a field, which is never exchanged; the frames came from `Frames::new`.
unsafe impl<'a> Env for CountingEnv<'a> {
    type Allocator = &'a Arena;
    type Map = &'a Arena;
    type Lock = SpinLock;
    type Read = CountingReaders<'a>;
    type Events = Tally;

    fn frames(&self) -> &Frames<&'a Arena, &'a Arena> {
        &self.frames
    }

    fn read_side(&self) -> &CountingReaders<'a> {
        &self.readers
    }

    fn events(&self) -> &Tally {
        self.tally
    }
}

// SAFETY: the field is never exchanged.
unsafe impl<'a> TableEnv for CountingEnv<'a> {
    type Mmu = CountingMmu<'a>;

    fn mmu(&self) -> &CountingMmu<'a> {
        &self.mmu
    }
}

/// `flushes_per_batch` and `synchronizes_per_batch`: the most of batches of 1, 64 and 1024 pages, of huge leaves and of
/// small ones.
pub(super) fn per_batch() -> Result<[Figure; 2], Box<dyn Error>> {
    let (mut flushes, mut waits) = (0, 0);
    for count in [1_u64, 64, 1024] {
        // Whole sections.
        let range = memory((count * (2 << 20)).next_multiple_of(128 << 20))?;
        let arena = Arena::new(range.frames() / 32 + 4096)?;
        let counts = Counts::default();
        let map = soft(|| CountingEnv::new(&arena, &counts))?;
        let mut pool = pages(&map, range, order_of(2 << 20)?)?;
        let batch = &mut pool[..count as usize];
        for _ in 0..2 {
            counts.take()?;
            all(map.optimise_batch(batch), batch.len())?;
            let [flushed, waited] = counts.take()?;
            (flushes, waits) = (flushed.max(flushes), waited.max(waits));
            all(map.restore_batch(batch), batch.len())?;
        }
        for frozen in pool {
            let apart = frozen.unprep().map_err(|_| "not taken apart")?;
            drop(apart.into_free().map_err(|_| "not given back")?);
        }
    }
    let figure =
        |key, what, value: u64, goal| Figure::counted(key, what, Some(goal), value as f64).at_least(goal);
    Ok([
        figure("flushes_per_batch", "flushes of the processors for a batch that is optimised", flushes, 2.0),
        figure("synchronizes_per_batch", "waits for readers for a batch that is optimised", waits, 1.0),
    ])
}
