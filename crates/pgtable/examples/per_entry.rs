// SPDX-License-Identifier: MIT OR Apache-2.0
//! What page tables cost per entry, against a bare loop over as many words:
//! `cargo run --release -p mmkit-pgtable --example per_entry`.
//!
//! Each line is one pass over 128 MiB of single frames, in folios of 512: the median of 31 passes, in nanoseconds per entry.
//! The bare loop reads a word, looks at a bit, and writes the word if the pass writes entries.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mmkit_addr::{Geometry, NodeId, Pfn, VirtAddr, VirtRange};
use mmkit_frame::{Bare, test_util::TestFrames};
use mmkit_pgtable::{Backing, Entry, Mapping, Prot, Software, TableEnv, Tables, X86_64};

const PAGE: u64 = 4096;
const PAGES: u64 = 32768;
const FOLIO: u64 = 512;
const SMALL: u64 = 4;
const ROUNDS: usize = 31;
const COUNT: usize = 10;

/// The passes, and what they do to a word: clear these bits, set those.
const PASSES: [(&str, u64, u64); COUNT] = [
    ("map", 0, 3),
    ("visit", 0, 0),
    ("leaves", 0, 0),
    ("protect", 2, 0),
    ("unmap", 1, 4),
    ("flush", u64::MAX, 0),
    // The same in folios of four pages, as a fork and an exit do it.
    ("map_all", 0, 3),
    ("restrict", 2, 0),
    ("zap", 1, 4),
    ("flush", u64::MAX, 0),
];

fn range(page: u64, pages: u64) -> VirtRange {
    VirtRange::new(VirtAddr::new(page * PAGE), pages * PAGE).expect("a small range")
}

fn passes<E: Entry, V: TableEnv>(tables: &Tables<E, V>) -> [f64; COUNT] {
    let all = range(0, PAGES);
    let mut at = Instant::now();
    let mut lap = || {
        let took = at.elapsed();
        at = Instant::now();
        took.as_nanos() as f64 / PAGES as f64
    };
    for folio in 0..PAGES / FOLIO {
        // Folios do not follow each other.
        let mapping = Mapping::new(Backing::Run(pfn((2 * folio + 1) * FOLIO)), Prot::WRITE);
        tables.map(range(folio * FOLIO, FOLIO), mapping).expect("nothing is there");
    }
    let map = lap();
    let mut seen = 0;
    tables.read().visit(all, |entry| seen += entry.range.bytes()).expect("a good range");
    assert_eq!(black_box(seen), PAGES * PAGE);
    let visit = lap();
    let mut seen = 0;
    tables.read().leaves(all, |leaves| seen += leaves.frames.frames()).expect("a good range");
    assert_eq!(black_box(seen), PAGES);
    let leaves = lap();
    tables.protect(all, Prot::READ).expect("all is mapped").flush();
    let protect = lap();
    let batch = tables.unmap(all).expect("all is mapped");
    let unmap = lap();
    let mut back = 0;
    assert!(batch.flush(|_| back += 1).is_ok());
    assert_eq!(black_box(back), PAGES / FOLIO);
    let flush = lap();
    for first in (0..PAGES).step_by(64 * SMALL as usize) {
        let part = |nth: u64| {
            let page = first + nth * SMALL;
            let mapping = Mapping::new(Backing::Run(pfn(2 * page)), Prot::WRITE);
            (range(page, SMALL), mapping)
        };
        let parts: [_; 64] = core::array::from_fn(|nth| part(nth as u64));
        tables.map_all(&parts).expect("nothing is there");
    }
    let map_all = lap();
    tables.restrict(all, Prot::READ).expect("nothing is cut").flush();
    let restrict = lap();
    let mut batch = tables.batch().expect("it is the only one");
    batch.zap(all).expect("nothing is cut");
    let zap = lap();
    let mut back = 0;
    assert!(batch.flush(|_| back += 1).is_ok());
    assert_eq!(black_box(back), PAGES / SMALL);
    [map, visit, leaves, protect, unmap, flush, map_all, restrict, zap, lap()]
}

fn pfn(number: u64) -> Pfn {
    Pfn::new(number).expect("a small frame")
}

fn bare(words: &[AtomicU64]) -> [f64; COUNT] {
    PASSES.map(|(_, clear, set)| {
        let at = Instant::now();
        for word in words {
            let raw = word.load(Ordering::Acquire);
            if clear | set == 0 {
                black_box(raw & 1);
            } else if raw & 0xff0 == 0 {
                word.store((raw & !clear) | set, Ordering::Release);
            }
        }
        at.elapsed().as_nanos() as f64 / PAGES as f64
    })
}

fn median(rounds: &mut [[f64; COUNT]], pass: usize) -> f64 {
    rounds.sort_by(|a, b| a[pass].total_cmp(&b[pass]));
    rounds[rounds.len() / 2][pass]
}

fn measure<E: Entry>() {
    let frames = TestFrames::with_frames(256);
    let tables = Tables::<E, _>::new(Bare::new(frames.frames()), Geometry::X86_64, NodeId::ZERO)
        .expect("frames for the root");
    let words: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let (mut ours, mut bares): (Vec<_>, Vec<_>) =
        (0..ROUNDS).map(|_| (passes(&tables), bare(&words))).unzip();
    println!("{:<8} {:>8} {:>8}", E::NAME, "ns", "bare ns");
    for (pass, (name, ..)) in PASSES.iter().enumerate() {
        println!("{name:<8} {:>8.2} {:>8.2}", median(&mut ours, pass), median(&mut bares, pass));
    }
}

fn main() {
    measure::<Software>();
    measure::<X86_64>();
}
