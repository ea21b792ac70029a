// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads, two address spaces, one folio.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mmkit_folio::{CountWords, MmId, PowerSums, Tracker, TwoSlots};
use parking_lot::Mutex;

use crate::figure::Figure;
use crate::pair::{Effort, quantile};

/// The state of `TwoSlots`, plain, behind a mutex: what one would write without a bit lock.
#[derive(Default)]
struct Plain {
    total: u64,
    slots: [(u32, u64); 2],
    shared: bool,
}

impl Plain {
    fn add(&mut self, mm: u32, k: u64) {
        self.total += k;
        let slot = self.slots.iter().position(|slot| slot.0 == mm);
        if let Some(slot) = slot.or_else(|| self.slots.iter().position(|slot| slot.0 == 0)) {
            self.slots[slot].0 = mm;
            self.slots[slot].1 += k;
        }
        self.shared |= self.slots.iter().all(|slot| slot.1 != self.total);
    }

    fn remove(&mut self, mm: u32, k: u64) {
        self.total -= k;
        for slot in self.slots.iter_mut().filter(|slot| slot.0 == mm) {
            slot.1 -= k;
            if slot.1 == 0 {
                slot.0 = 0;
            }
        }
        self.shared &= self.slots.iter().all(|slot| slot.1 != self.total);
    }
}

/// Operations per second of two threads that each run `work(number of the thread)` for `time`.
fn rate(time: Duration, work: impl Fn(u32) + Sync) -> f64 {
    const STEP: u64 = 64;
    let (start, stop, done) = (Barrier::new(3), AtomicBool::new(false), AtomicU64::new(0));
    let seconds = thread::scope(|scope| {
        for number in 1..=2 {
            let (start, stop, done, work) = (&start, &stop, &done, &work);
            scope.spawn(move || {
                let mut mine = 0;
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..STEP {
                        work(number);
                    }
                    mine += STEP;
                }
                done.fetch_add(mine, Ordering::Relaxed);
            });
        }
        start.wait();
        let begin = Instant::now();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        begin.elapsed().as_secs_f64()
    });
    done.load(Ordering::Relaxed) as f64 / seconds
}

fn tracker<T: Tracker>(time: Duration) -> f64 {
    let words = CountWords::new();
    rate(time, |number| {
        let Some(mm) = MmId::new(number) else { return };
        let words = words.words();
        let _ = T::add(&words, mm, 16);
        let _ = T::remove(&words, mm, 16);
    })
}

fn mutex(time: Duration) -> f64 {
    let state = Mutex::new(Plain::default());
    rate(time, |number| {
        state.lock().add(number, 16);
        state.lock().remove(number, 16);
    })
}

/// `contended_2_*`: operations per second, an operation being one batch added and removed again.
pub(crate) fn two_threads(effort: Effort) -> Vec<Figure> {
    let rounds = effort.rounds.div_ceil(10);
    let mut rates = [vec![], vec![], vec![]];
    for _ in 0..rounds {
        for (rates, run) in rates.iter_mut().zip([tracker::<TwoSlots>, tracker::<PowerSums>, mutex]) {
            rates.push(run(effort.sample * 10));
        }
    }
    let what = "batches added and removed per second by two threads for two address spaces";
    ["contended_2_twoslots", "contended_2_powersums", "contended_2_mutex"]
        .into_iter()
        .zip(&mut rates)
        .map(|(key, rates)| Figure::counted(key, what, None, quantile(rates, 0.5)))
        .collect()
}
