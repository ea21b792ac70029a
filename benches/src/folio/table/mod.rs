// SPDX-License-Identifier: MIT OR Apache-2.0
//! The microbenchmark by which Linux judged its counts: operations on address spaces full of folios of one size, for four
//! ways to count, as changes against the first.
//!
//! The memory is divided among several address spaces. All sides populate all of theirs; then each address space in turn is
//! a *round*: every side takes it through the same course of events, in an order that changes from round to round, so that
//! whatever the machine does meanwhile falls on all sides. Changes are taken round by round.

mod bare;
mod ops;
mod print;
mod published;
mod rows;
mod sides;
mod verdict;

use std::fs;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use mmkit_addr::Order;
use mmkit_folio::{NoPageMapcount, PageMapcount, PowerSums, TwoSlots, Untracked};
use mmkit_sim::World;
use mmkit_sync::atomic::AtomicU64;

use self::bare::Bare;
use self::ops::{Course, Op};
use self::published::SIZES;
use self::rows::{AGAIN, Samples};
use self::sides::{PAGE, Plan, Side, Spaces, shuffle};
use crate::figure::Figure;

pub(crate) use self::ops::Op as Operation;
pub(crate) use self::rows::Row;
pub(crate) use self::sides::Failure;

/// Address spaces that each side has.
const PIECES: usize = 16;
/// Bytes that each side maps.
const FULL: u64 = 1 << 30;
const QUICK: u64 = 128 << 20;
/// One of the largest folios in each address space.
const LEAST: u64 = (PIECES as u64) << 21;

type Base = PageMapcount<Untracked>;

/// All rows, by operation and size.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
}

/// Measures everything. Adds figures, and lines about what was noticed.
pub(crate) fn run(quick: bool, figures: &mut Vec<Figure>, notes: &mut Vec<String>) -> Result<Table, Failure> {
    let cores = thread::available_parallelism()?.get();
    let bytes = fitting(if quick { QUICK } else { FULL }, cores, available(), notes)?;
    let plan = Plan::new(bytes, PIECES, cores);
    // A name for each address space and its children.
    let mut names: [Vec<AtomicU64>; AGAIN + 1] =
        std::array::from_fn(|_| (0..=(PIECES + cores) / 64).map(|_| AtomicU64::new(0)).collect());
    let [base, mmid, nomapcount, powersums, again] = &mut names;
    let frames = plan.frames();
    let base = World::<Base>::new(frames, base)?;
    let mmid = World::<PageMapcount<TwoSlots>>::new(frames, mmid)?;
    let nomapcount = World::<NoPageMapcount<TwoSlots>>::new(frames, nomapcount)?;
    let powersums = World::<NoPageMapcount<PowerSums>>::new(frames, powersums)?;
    let again = World::<Base>::new(frames, again)?;
    // In the order of the indices.
    let mut sides: [Box<dyn Side + '_>; AGAIN + 1] = [
        Box::new(Spaces::new(&base)?),
        Box::new(Spaces::new(&mmid)?),
        Box::new(Spaces::new(&nomapcount)?),
        Box::new(Spaces::new(&powersums)?),
        Box::new(Spaces::new(&again)?),
    ];
    let bare = Bare::new(&plan)?;

    // What saves little in a large time needs more rounds to be seen; they are cheap.
    let more = if quick { 0 } else { 2 };
    let courses: Vec<Course> = Course::ALL.into_iter().chain((0..more).map(|_| Course::Unmap)).collect();
    let progress = progress((SIZES.len() * courses.len() * PIECES) as u64);
    let mut table = Table::default();
    for size_kib in SIZES {
        let order = u8::try_from((size_kib * 1024 / PAGE).ilog2()).ok().and_then(Order::new);
        let order = order.ok_or("no folio is that large")?;
        let mut samples = Samples::default();
        for &course in &courses {
            progress.set_message(format!("{size_kib}K, {course:?}"));
            for side in &mut sides {
                side.fill(&plan, order)?;
            }
            for piece in 0..PIECES {
                round(&plan, &mut sides, &bare, order, course, piece, &mut samples)?;
                progress.inc(1);
            }
        }
        table.rows.extend(Op::ALL.map(|op| Row::new(&samples, size_kib, op)));
        if size_kib == verdict::LARGEST {
            figures.extend(verdict::at_the_largest(&samples));
        }
    }
    progress.finish_and_clear();
    table.rows.sort_by_key(|row| (row.which as usize, row.size_kib));
    let (checks, lines) = verdict::of_all(&table);
    figures.extend(checks);
    notes.extend(lines);
    Ok(table)
}

/// Every side, and the bare atomics, on one address space.
fn round(
    plan: &Plan,
    sides: &mut [Box<dyn Side + '_>],
    bare: &Bare,
    order: Order,
    course: Course,
    piece: usize,
    samples: &mut Samples,
) -> Result<(), Failure> {
    // Who comes first finds what the last one left in the caches, so everybody follows everybody else.
    for who in shuffle(sides.len() as u32 + 1, (piece as u64) << 8 | u64::from(order.get())) {
        let who = who as usize;
        match sides.get_mut(who) {
            Some(side) => side.run(plan, course, piece, &mut |op, ns| samples.note(op, who, ns))?,
            None => {
                if let Some(op) = course.counted()
                    && let Some(ns) = bare.time(plan, piece, order, op)
                {
                    samples.note_bare(op, ns);
                }
            }
        }
    }
    Ok(())
}

/// The largest part of `bytes` for which there is memory: five sides, their copies, their descriptors.
fn fitting(
    bytes: u64,
    cores: usize,
    available: Option<u64>,
    notes: &mut Vec<String>,
) -> Result<u64, Failure> {
    // A page, its descriptor, its bare line; nothing else is large.
    let needed = |bytes| Plan::new(bytes, PIECES, cores).frames() * (AGAIN as u64 + 1) * (PAGE + 64);
    let Some(available) = available else { return Ok(bytes) };
    let mut fitting = bytes;
    while needed(fitting) > available {
        fitting /= 2;
        if fitting < LEAST {
            return Err(format!("{available} bytes of memory are too few to measure with").into());
        }
    }
    if fitting < bytes {
        let mib = fitting >> 20;
        notes.push(format!(
            "{mib} MiB on each side instead of {}: only {} MiB of memory are available",
            bytes >> 20,
            available >> 20
        ));
    }
    Ok(fitting)
}

/// Memory that this system could give us now, where it says so.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// A bar on stderr, where that is a terminal.
fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{msg:24} {wide_bar} {percent}%, {eta} left") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
pub(crate) mod tests_support {
    use super::{Operation, Row, SIZES, Table, rows};

    /// A whole table, of made-up times.
    pub(crate) fn table() -> Table {
        let samples = rows::tests::samples([1.0, 1.02, 0.7, 0.65, 1.0]);
        let rows = Operation::ALL.into_iter().flat_map(|op| SIZES.map(|size| Row::new(&samples, size, op)));
        Table { rows: rows.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_is_measured_where_there_is_not_enough() {
        let mut notes = Vec::new();
        assert_eq!(fitting(FULL, 2, None, &mut notes).unwrap(), FULL);
        assert_eq!(fitting(FULL, 2, Some(64 << 30), &mut notes).unwrap(), FULL);
        assert!(notes.is_empty());
        assert_eq!(fitting(FULL, 2, Some(4 << 30), &mut notes).unwrap(), FULL / 2);
        assert!(notes[0].starts_with("512 MiB on each side instead of 1024"), "{notes:?}");
        assert!(fitting(FULL, 2, Some(1 << 20), &mut notes).is_err());
    }

    #[test]
    fn a_row_in_json_has_the_names_that_readers_look_for() {
        let json = serde_json::json!(tests_support::table().rows);
        let rows = json.as_array().unwrap();
        assert_eq!(rows.len(), SIZES.len() * Op::ALL.len());
        for row in rows {
            for key in ["size_kib", "base_ns", "mmid", "nomapcount", "powersums", "noise"] {
                assert!(row[key].is_number(), "{key} in {row}");
            }
            assert!(Op::ALL.iter().any(|op| row["op"] == op.name()), "{row}");
        }
        let is = |row: &&serde_json::Value| row["op"] == "munmap" && row["size_kib"] == 2048;
        let row = rows.iter().find(is).unwrap();
        assert!((row["nomapcount"].as_f64().unwrap() + 0.3).abs() < 1e-9, "{row}");
        assert_eq!(row["published"]["nomapcount"], -0.31);
    }

    /// Every course for every strategy, on a small scale: each checks itself what was copied and what was kept.
    #[test]
    fn every_course_does_what_it_is_named_after() {
        let plan = Plan::new(4 << 20, 2, 2);
        let mut names = [const { AtomicU64::new(0) }; 3];
        let [a, b, c] = &mut names;
        let base = World::<Base>::new(plan.frames(), std::slice::from_mut(a)).unwrap();
        let slots = World::<PageMapcount<TwoSlots>>::new(plan.frames(), std::slice::from_mut(b)).unwrap();
        let sums = World::<NoPageMapcount<PowerSums>>::new(plan.frames(), std::slice::from_mut(c)).unwrap();
        let sides: [Box<dyn Side + '_>; 3] = [
            Box::new(Spaces::new(&base).unwrap()),
            Box::new(Spaces::new(&slots).unwrap()),
            Box::new(Spaces::new(&sums).unwrap()),
        ];
        for mut side in sides {
            for order in [0, 2, 9].map(|order| Order::new(order).unwrap()) {
                let mut noted = Vec::new();
                for course in Course::ALL {
                    side.fill(&plan, order).unwrap();
                    side.run(&plan, course, 1, &mut |op, ns| noted.push((op, ns))).unwrap();
                }
                assert!(Op::ALL.iter().all(|op| noted.iter().any(|(noted, ns)| noted == op && *ns > 0.0)));
                assert!(side.run(&plan, Course::Unmap, 1, &mut |_, _| {}).is_err(), "it is gone");
            }
        }
    }
}
