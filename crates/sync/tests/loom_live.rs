// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live reference: killing and draining against getting.
#![cfg(mmkit_loom)]

mod both;

use core::ops::ControlFlow;

use both::both;
use loom::sync::Arc;
use loom::thread;
use mmkit_sync::atomic::{UnsafeCell, hint};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{LiveRef, Shard};

/// Something that lives, in memory that is taken away (written) once it has drained.
struct Device {
    live: LiveRef<[Shard; 2]>,
    memory: UnsafeCell<bool>,
}

// SAFETY: `memory` is read under guards and written once drained; a model that does otherwise fails.
unsafe impl Sync for Device {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Device {}

impl Device {
    fn new() -> Self {
        let live = LiveRef::new([Shard::new(), Shard::new()]);
        Self { live, memory: UnsafeCell::new(true) }
    }

    fn touch(&self) {
        // SAFETY: the caller holds a guard.
        assert!(self.memory.with(|memory| unsafe { *memory }), "used after it drained");
    }

    fn free(&self) {
        // SAFETY: the caller has seen it drained.
        self.memory.with_mut(|memory| unsafe { *memory = false });
    }

    fn look(&self, shard: usize) -> bool {
        let guard = self.live.enter(shard);
        if guard.is_some() {
            self.touch();
        }
        guard.is_some()
    }
}

/// Three threads: at most three preemptions.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn drain() {
    let drain = |device: &Device| {
        let wait = |tries| {
            hint::spin(tries);
            ControlFlow::Continue(())
        };
        device.live.drain(wait).unwrap();
        device.free();
        assert!(!device.look(0), "entered after the kill");
    };
    let look = |device: &Device| {
        device.look(1);
    };
    both(Device::new, drain, look, |device, (), ()| assert!(device.live.is_drained(), "drained stays so"));
}

#[test]
fn kill_and_drain_against_get_2_threads_blocking() {
    drain();
}

#[test]
fn kill_and_drain_mutants_fail_2_threads_blocking() {
    must_fail("live-enter-no-fence", drain);
    must_fail("live-enter-no-recheck", drain);
    must_fail("live-drain-no-fence", drain);
    must_fail("live-put-relaxed", drain);
    must_fail("live-outs-relaxed", drain);
}

fn drain_bounded() {
    bounded(|| {
        let device = Arc::new(Device::new());
        let threads: [_; 2] = core::array::from_fn(|shard| {
            let device = Arc::clone(&device);
            thread::spawn(move || device.look(shard))
        });
        device.live.kill();
        if device.live.is_drained() {
            device.free();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(device.live.is_drained());
    });
}

#[test]
fn kill_and_drain_against_get_3_threads_look_once_3_preemptions() {
    drain_bounded();
}

#[test]
fn kill_and_drain_mutants_fail_3_threads_look_once_3_preemptions() {
    must_fail("live-enter-no-recheck", drain_bounded);
    must_fail("live-put-relaxed", drain_bounded);
}

fn held_by_the_drainer() {
    loom::model(|| {
        let device = Arc::new(Device::new());
        let guard = device.live.enter(1).unwrap();
        let other = Arc::clone(&device);
        let thread = thread::spawn(move || other.look(0));
        device.live.kill();
        assert!(!device.live.is_drained(), "drained under a guard");
        drop(guard);
        thread.join().unwrap();
        assert!(device.live.is_drained());
    });
}

#[test]
fn a_refused_entry_hides_no_guard_2_threads() {
    held_by_the_drainer();
}

#[test]
fn a_refused_entry_mutants_fail_2_threads() {
    must_fail("live-ins-first", held_by_the_drainer);
}

fn seen_dead_by_another() {
    bounded(|| {
        let device = Arc::new(Device::new());
        let killer = Arc::clone(&device);
        let killer = thread::spawn(move || killer.live.kill());
        let user = Arc::clone(&device);
        let user = thread::spawn(move || user.look(1));
        // Not the thread that kills: what it sees must suffice.
        if device.live.is_drained() {
            device.free();
        }
        assert!(killer.join().unwrap());
        user.join().unwrap();
    });
}

#[test]
fn any_thread_may_see_it_drained_3_threads_look_once_3_preemptions() {
    seen_dead_by_another();
}

#[test]
fn any_thread_may_see_it_drained_mutants_fail_3_threads_look_once_3_preemptions() {
    must_fail("live-drain-no-fence", seen_dead_by_another);
    must_fail("live-enter-no-fence", seen_dead_by_another);
}
