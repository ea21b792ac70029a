// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it takes to write the descriptors of a device, on one thread and on two.

use std::error::Error;
use std::ptr::NonNull;
use std::sync::{Barrier, Mutex};
use std::thread;

use mmkit_addr::{Order, Pfn, PfnRange};
use mmkit_frame::DirectMap;
use mmkit_page::Place;
use mmkit_sync::SpinLock;
use mmkit_vmemmap::{Executor, Populate, Serial};

use super::Size;
use super::env::{DeviceMap, GEOMETRY, Kinds, device, device_map, room};
use crate::arena::Arena;
use crate::clock::ThreadTime;
use crate::figure::Figure;
use crate::fill::{Fill, fills, winner};
use crate::pair::{Paired, quantile};

/// The type of the device's pageblocks.
const KIND: u8 = 3;

/// Memory for everything that is measured here.
struct Bench {
    arena: Arena,
    kinds: Kinds,
    range: PfnRange,
    /// The frame of the arena that is used first. Not all memory is equally fast, and what takes little of it must not always
    /// have the same.
    first: u64,
}

/// Two threads that do half of the jobs each, and start together.
///
/// Each half is as long as the other, so the processor time of the longer one is what both take on two idle processors.
struct Two {
    longest_ns: Mutex<f64>,
}

impl Two {
    fn new() -> Self {
        Self { longest_ns: Mutex::new(0.0) }
    }

    /// The processor time of the longer half.
    fn ns(self) -> Result<f64, &'static str> {
        self.longest_ns.into_inner().map_err(|_| "a thread failed")
    }
}

impl Executor for Two {
    fn run(&self, jobs: u64, job: &(dyn Fn(u64) + Sync)) {
        let together = Barrier::new(2);
        let half = |from: u64, to: u64| {
            together.wait();
            let begun = ThreadTime::now();
            (from..to).for_each(job);
            let ns = begun.elapsed_ns();
            if let Ok(mut longest) = self.longest_ns.lock() {
                *longest = longest.max(ns);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| half(0, jobs / 2));
            half(jobs / 2, jobs);
        });
    }
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    One,
    Two,
}

impl Bench {
    fn new(size: Size) -> Result<Self, Box<dyn Error>> {
        let range = device(size.init_bytes)?;
        let frames = room(range, Order::ZERO);
        super::afford(frames << GEOMETRY.base_shift())?;
        Ok(Self { arena: Arena::resident(frames)?, kinds: Kinds::new(range.frames()), range, first: 0 })
    }

    /// Begins another round, with another part of the memory.
    fn turn(&mut self, round: usize, rounds: usize) {
        self.first = self.arena.frames() / rounds.max(1) as u64 * (round % rounds.max(1)) as u64;
    }

    /// Bytes of descriptors of base pages.
    fn bytes(&self) -> usize {
        (self.range.frames() * 64) as usize
    }

    /// Time to write the descriptors of all of it as pages of `order`, and the types of all pageblocks, and to show them.
    /// Memory was taken, and tables filled, before.
    fn init(&self, order: Order, by: By) -> Result<f64, Box<dyn Error>> {
        let map: DeviceMap<'_, SpinLock> = device_map(&self.arena, self.first, &self.kinds)?;
        let request = Populate::new(self.range).compounds(order).at(Place::default()).pageblocks(KIND);
        let staged = map.stage(request)?;
        let ns = match by {
            By::One => {
                let begun = ThreadTime::now();
                staged.write(&Serial);
                staged.publish();
                begun.elapsed_ns()
            }
            By::Two => {
                let two = Two::new();
                staged.write(&two);
                staged.publish();
                two.ns()?
            }
        };
        let (first, last) = (self.range.start(), self.range.last().ok_or("no frames")?);
        if !map.is_present(first) || !map.is_present(last) {
            return Err("not all of it is there".into());
        }
        let (found, all) = (self.kinds.take(KIND), (self.range.frames() >> 9) as usize);
        if found != all {
            return Err(format!("{found} of {all} pageblocks have their type").into());
        }
        Ok(ns)
    }

    /// Time to fill as many bytes, in the same frames.
    fn fill(&self, fill: &Fill, by: By) -> Result<f64, Box<dyn Error>> {
        self.arena.rewind();
        let base = self.arena.frame(Pfn::ZERO).ok_or("no frames")?.as_ptr() as usize;
        let bytes = self.bytes();
        let part = |from: usize, to: usize| {
            let Some(to_fill) = NonNull::new((base + from) as *mut u8) else { return };
            // SAFETY: the arena's frames are in one piece, more than these, and none is out: the memory map is gone. The
            // parts that two threads fill have nothing in common.
            unsafe { (fill.run)(to_fill, to - from) };
        };
        match by {
            By::One => {
                let begun = ThreadTime::now();
                part(0, bytes);
                Ok(begun.elapsed_ns())
            }
            By::Two => {
                let two = Two::new();
                let middle = bytes / 2 / 4096 * 4096;
                two.run(2, &|half| if half == 0 { part(0, middle) } else { part(middle, bytes) });
                Ok(two.ns()?)
            }
        }
    }
}

/// `init_ns_per_descriptor_base`, `init_bandwidth_ratio`, `init_2m_vs_base`, `init_1g_vs_base`, `init_parallel_ratio`.
pub(super) fn all(size: Size) -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut bench = Bench::new(size)?;
    let orders = [21_u32, 30].map(|shift| Order::new((shift - GEOMETRY.base_shift()) as u8));
    let [Some(order_2m), Some(order_1g)] = orders else { return Err("no such pages".into()) };
    let fills = fills();
    let (mut base, mut two, mut of_2m, mut of_1g) = (vec![], vec![], vec![], vec![]);
    let mut filled = vec![Vec::new(); fills.len()];
    for round in 0..=size.rounds {
        bench.turn(round, size.rounds);
        let mut results = vec![];
        // Who goes first changes every round.
        for turn in 0..4 + fills.len() {
            let which = (turn + round) % (4 + fills.len());
            let ns = match which {
                0 => bench.init(Order::ZERO, By::One)?,
                1 => bench.init(Order::ZERO, By::Two)?,
                2 => bench.init(order_2m, By::One)?,
                3 => bench.init(order_1g, By::One)?,
                fill => bench.fill(&fills[fill - 4], By::One)?,
            };
            results.push((which, ns));
        }
        // The first round warms up.
        for (which, ns) in results.into_iter().filter(|_| round > 0) {
            match which {
                0 => base.push(ns),
                1 => two.push(ns),
                2 => of_2m.push(ns),
                3 => of_1g.push(ns),
                fill => filled[fill - 4].push(ns),
            }
        }
    }
    let winner = winner(&filled).ok_or("no way to fill")?;
    let fill = &fills[winner];
    let mut ratios = vec![];
    for round in 0..=size.rounds {
        let mut serial = vec![];
        for turn in 0..2 {
            // The two of one kind follow each other; which kind goes first changes.
            let by_init = (turn + round) % 2 == 0;
            let one = |by| if by_init { bench.init(Order::ZERO, by) } else { bench.fill(fill, by) };
            serial.push((by_init, one(By::One)? / one(By::Two)?));
        }
        let of = |init: bool| serial.iter().find(|found| found.0 == init).map_or(f64::NAN, |found| found.1);
        if round > 0 {
            ratios.push((of(true), of(false)));
        }
    }
    Ok(figures(&bench, fill, [base, filled.swap_remove(winner), of_2m, of_1g], ratios))
}

fn figures(
    bench: &Bench,
    fill: &Fill,
    [base, filled, of_2m, of_1g]: [Vec<f64>; 4],
    speed_ups: Vec<(f64, f64)>,
) -> Vec<Figure> {
    let descriptors = bench.range.frames() as f64;
    let per = |mut ns: Vec<f64>| quantile(&mut ns, 0.5) / descriptors;
    let quartiles = |mut values: Vec<f64>| {
        let at = |values: &mut [f64], part| quantile(values, part);
        (at(&mut values, 0.5), (at(&mut values, 0.25), at(&mut values, 0.75)))
    };
    let bandwidth = quartiles(filled.iter().zip(&base).map(|(fill, base)| fill / base).collect());
    let parallel = quartiles(speed_ups.iter().map(|(init, fill)| init / fill).collect());
    let of_init = quantile(&mut speed_ups.iter().map(|up| up.0).collect::<Vec<_>>(), 0.5);
    let of_fill = quantile(&mut speed_ups.iter().map(|up| up.1).collect::<Vec<_>>(), 0.5);
    let gib = (bench.range.frames() << GEOMETRY.base_shift()) >> 30;
    let text = |text: String| -> &'static str { text.leak() };
    let vs_base = |key, what: String, goal, times: Vec<f64>| {
        let per_frame = |times: &[f64]| times.iter().map(|ns| ns / descriptors).collect();
        Figure::timed(key, text(what), Some(goal), Paired::of(per_frame(&times), per_frame(&base)))
    };
    vec![
        Figure::counted(
            "init_ns_per_descriptor_base",
            text(format!("nanoseconds for each of the descriptors of {gib} GiB of base pages, pre-faulted")),
            Some(10.0),
            per(base.clone()),
        ),
        Figure {
            quartiles: Some(bandwidth.1),
            thing_ns: Some(per(base.clone())),
            baseline_ns: Some(per(filled)),
            ..Figure::counted(
                "init_bandwidth_ratio",
                fill.compared("bytes a second of the same / those of the fastest fill of the same memory, here "),
                None,
                bandwidth.0,
            )
            .at_least(0.8)
        },
        vs_base(
            "init_2m_vs_base",
            format!("{gib} GiB as 2M pages, every pageblock's type included / as base pages"),
            0.14,
            of_2m,
        ),
        vs_base("init_1g_vs_base", "the same as 1G pages / as base pages; times are of a frame".to_owned(), 0.002, of_1g),
        Figure {
            quartiles: Some(parallel.1),
            ..Figure::counted(
                "init_parallel_ratio",
                text(format!(
                    "how much faster two threads are, {of_init:.2} times / how much faster with the fill, {of_fill:.2} times; \
                     of two threads the longer one's processor time"
                )),
                None,
                parallel.0,
            )
            .at_least(0.9)
        },
    ]
}
