// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting a batch of mappings and uncounting it again, whatever its size.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mmkit_addr::{Order, Pfn};
use mmkit_folio::{
    CountWords, Mapping, MmId, PageMapcount, PowerSums, Rmap, Tracker, TwoSlots, Untracked, map_new_anon,
};
use mmkit_page::{Folio, MemMap, Page, Place, SliceMap};

use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::pair::{Effort, Paired, pair, quantile};

/// Sizes of batches: one entry, a contiguous run of arm64, a 2M page.
const SIZES: [u32; 3] = [1, 16, 512];
const OPS: u64 = 1024;
const LOCK: u64 = 1 << 31;

/// Adds `k` mappings and removes them, over and over. Another address space maps the folio all the time.
fn batches<T: Tracker>(k: u32) -> impl FnMut() {
    let words = CountWords::new();
    let ids = [1, 2].map(MmId::new);
    move || {
        let [Some(mine), Some(other)] = ids else { return };
        let words = black_box(&words).words();
        if words.half[0].load(Ordering::Relaxed) == 0 {
            let _ = T::add(&words, other, 512);
        }
        for _ in 0..OPS {
            black_box(T::add(&words, mine, k).is_ok());
            black_box(T::remove(&words, mine, k).is_ok());
        }
    }
}

/// Two rounds of `fetch_or` and store, on one word: what two batches cannot do without.
fn bare() -> impl FnMut() {
    let word = AtomicU64::new(0);
    move || {
        let word = black_box(&word);
        for _ in 0..OPS {
            for _ in 0..2 {
                let data = word.fetch_or(LOCK, Ordering::Acquire);
                word.store(black_box(data) & !LOCK, Ordering::Release);
            }
        }
    }
}

fn worst(paired: impl IntoIterator<Item = Paired>) -> Option<Paired> {
    paired.into_iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio))
}

/// `rmap_batch_ratio`, `rmap_flatness`.
pub(crate) fn against_locks(effort: Effort) -> Vec<Figure> {
    let per_size = SIZES.map(|k| pair(effort, OPS, batches::<TwoSlots>(k), bare()));
    let flat = pair(effort, OPS, batches::<TwoSlots>(512), batches::<TwoSlots>(1));
    let batch = worst(per_size).map(|paired| {
        Figure::timed(
            "rmap_batch_ratio",
            "add and remove k mappings, TwoSlots, worst of k = 1, 16, 512 / two rounds of fetch_or and store",
            Some(1.5),
            paired,
        )
    });
    let what = "add and remove 512 mappings / the same of one";
    batch.into_iter().chain([Figure::timed("rmap_flatness", what, Some(1.1), flat)]).collect()
}

/// `powersums_vs_twoslots`.
pub(crate) fn power_sums_against_two_slots(effort: Effort) -> Figure {
    let per_size = SIZES.map(|k| pair(effort, OPS, batches::<PowerSums>(k), batches::<TwoSlots>(k)));
    let [first, ..] = per_size;
    Figure::timed(
        "powersums_vs_twoslots",
        "the same batches, PowerSums / TwoSlots, worst of the three",
        Some(1.1),
        worst(per_size).unwrap_or(first),
    )
}

type Base<'a> = SliceMap<'a, PageMapcount<Untracked>>;

/// A line of memory as a descriptor is one, with the two words of it that are counted in.
#[repr(align(64))]
struct Line {
    references: AtomicU64,
    count: AtomicU32,
}

/// Adds and removes the same batch over and over, and sees the time of each half.
trait Halves {
    fn add(&self, times: u64);
    fn remove(&self, times: u64);
}

/// Folios that batches take turns at, as those of neighbours do: who comes back to the same one at once waits for its own
/// last atomic to read what the folio is.
const TURNS: u64 = 2;

/// The baseline of everything: a count for each page, no owners.
struct Counted<'f, 'm, 'a> {
    folios: &'f [Folio<'m, Base<'a>>],
    mm: MmId,
    mapping: Mapping,
}

impl Halves for Counted<'_, '_, '_> {
    fn add(&self, times: u64) {
        for _ in 0..times / TURNS {
            for folio in black_box(self.folios) {
                let _ = black_box(folio.add_mappings(self.mm, black_box(self.mapping)).is_ok());
            }
        }
    }

    fn remove(&self, times: u64) {
        for _ in 0..times / TURNS {
            for folio in black_box(self.folios) {
                drop(folio.remove_mappings(self.mm, black_box(self.mapping)));
            }
        }
    }
}

/// What it cannot do without, on lines of the same layout: the references, T, each page; every sum is used.
struct Bare<'l> {
    lines: &'l [Box<[Line]>],
    k: u32,
}

impl Bare<'_> {
    /// One addition of `by` to each word, in the order in which the operation comes to them.
    fn batch(first: &AtomicU32, pages: &[Line], by: u32) -> u32 {
        let mut turned =
            u32::from(first.fetch_add(by.wrapping_mul(pages.len() as u32), Ordering::Relaxed) == 0);
        for line in pages {
            turned += u32::from(line.count.fetch_add(by, Ordering::Relaxed) == 0);
        }
        turned
    }
}

impl Halves for Bare<'_> {
    fn add(&self, times: u64) {
        for _ in 0..times / TURNS {
            for lines in black_box(self.lines) {
                let [head, tail, pages @ ..] = &lines[..2 + black_box(self.k) as usize] else { return };
                let before = head.references.fetch_add(u64::from(self.k) << 32, Ordering::Relaxed);
                black_box(u64::from(Self::batch(&tail.count, pages, 1)) + u64::from(before >> 32 == 0));
            }
        }
    }

    fn remove(&self, times: u64) {
        for _ in 0..times / TURNS {
            for lines in black_box(self.lines) {
                let [head, tail, pages @ ..] = &lines[..2 + black_box(self.k) as usize] else { return };
                let turned = Self::batch(&tail.count, pages, u32::MAX);
                let before = head.references.fetch_sub(u64::from(self.k) << 32, Ordering::Release);
                black_box(u64::from(turned) + u64::from(before >> 32 == 1));
            }
        }
    }
}

/// Nanoseconds per operation of both halves.
fn time(side: &dyn Halves, times: u64) -> [f64; 2] {
    let halves: [&dyn Fn(); 2] = [&|| side.add(times), &|| side.remove(times)];
    halves.map(|half| {
        let start = ThreadTime::now();
        half();
        start.elapsed_ns() / times as f64
    })
}

/// Both halves of both sides, in turn.
fn pair_halves(effort: Effort, times: u64, thing: &dyn Halves, baseline: &dyn Halves) -> [Paired; 2] {
    let mut rounds = Vec::with_capacity(effort.rounds);
    for round in 0..=effort.rounds {
        let pair = if round % 2 == 0 {
            let a = time(thing, times);
            (a, time(baseline, times))
        } else {
            let b = time(baseline, times);
            (time(thing, times), b)
        };
        // The first one warms up.
        if round > 0 {
            rounds.push(pair);
        }
    }
    [0, 1].map(|half| {
        let of = |value: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            rounds.iter().map(|(a, b)| value(a[half], b[half])).collect()
        };
        let mut ratios = of(&|a, b| a / b);
        Paired {
            thing_ns: quantile(&mut of(&|a, _| a), 0.5),
            baseline_ns: quantile(&mut of(&|_, b| b), 0.5),
            ratio: quantile(&mut ratios, 0.5),
            quartiles: (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)),
        }
    })
}

/// `base_vs_bare` and one figure for each half and size: `None` where the folio could not be made.
pub(crate) fn base_against_bare(effort: Effort) -> Option<Vec<Figure>> {
    const KEYS: [[&str; 2]; 3] = [
        ["base_vs_bare_add_1", "base_vs_bare_remove_1"],
        ["base_vs_bare_add_16", "base_vs_bare_remove_16"],
        ["base_vs_bare_add_512", "base_vs_bare_remove_512"],
    ];
    const GOAL: Option<f64> = Some(1.1);
    let order = Order::new(10)?;
    let mut pages: Vec<Page> = (0..TURNS * order.frames()).map(|_| Page::new()).collect();
    let map = Base::counted(&mut pages, Pfn::ZERO)?;
    map.initialise(map.range(), Place::default()).ok()?;
    // Another address space maps all of it, so that no page becomes mapped, or unmapped.
    let [mm, other] = [MmId::new(1)?, MmId::new(2)?];
    let all = Mapping::Ptes { first: 0, count: order.frames() };
    let mut folios = Vec::new();
    for turn in 0..TURNS {
        let head = Pfn::new(turn * order.frames())?;
        let new = map.claim_joined(head, order).ok()?.allocate().prep().ok()?;
        let _ = map_new_anon(new, other, all).ok()?;
        folios.push(map.try_get(head).ok()?);
    }
    let line = || Line { references: AtomicU64::new(1 << 62), count: AtomicU32::new(1 << 30) };
    let lines: Vec<Box<[Line]>> = (0..TURNS).map(|_| (0..order.frames()).map(|_| line()).collect()).collect();
    let mut timed = Vec::new();
    for (k, keys) in SIZES.into_iter().zip(KEYS) {
        let thing = Counted { folios: &folios, mm, mapping: Mapping::Ptes { first: 2, count: k.into() } };
        let bare = Bare { lines: &lines, k };
        // References and counts have room for so many batches at once.
        let times = (effort.sample.as_nanos() as u64 / (20 + 6 * u64::from(k))).clamp(16, 1 << 16);
        timed.extend(keys.into_iter().zip(pair_halves(effort, times, &thing, &bare)));
    }
    for folio in &folios {
        drop(folio.remove_mappings(other, all));
    }
    let what =
        "a batch counted by PageMapcount and Untracked / its atomics alone, on such lines, in that order";
    // The size of the folios that the table's goals are about.
    let largest = &timed[timed.len() - 2..];
    let worst = largest.iter().map(|(_, paired)| *paired).max_by(|a, b| a.ratio.total_cmp(&b.ratio))?;
    let each = timed.into_iter().map(|(key, paired)| Figure::timed(key, what, GOAL, paired));
    let worst = Figure::timed(
        "base_vs_bare",
        "the worse of adding and removing 512, as in the table's largest folios",
        GOAL,
        worst,
    );
    Some(each.chain([worst]).collect())
}
