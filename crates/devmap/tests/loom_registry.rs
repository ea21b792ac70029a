// SPDX-License-Identifier: MIT OR Apache-2.0
//! The registry, and pagemaps on their way out, against those who look, hold and map.
//!
//! The memory is the model checker's: one cell, read by who may use it, written by who gives it back. Lookups, references,
//! waiting and revoking are the code of [`Registry`] and of `unregister`.
#![cfg(mmkit_loom)]

use core::ops::ControlFlow;
use core::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::{Pfn, PfnRange};
use mmkit_devmap::models::{Entry, get, put, reserve};
use mmkit_devmap::{DevmapError, Pagemap, Registry};
use mmkit_sync::atomic::{AtomicBool, Ordering, UnsafeCell, hint};
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{ReadSide, Readers, SpinLock, mutant};

type Devices = Registry<Readers, SpinLock>;

/// A machine with a piece of device memory.
struct Machine {
    registry: Devices,
    /// What is there of it: descriptors and contents.
    memory: UnsafeCell<bool>,
    /// A page table's entry that leads to it.
    entry: AtomicBool,
    /// The readers of the page tables.
    walkers: Readers,
}

// SAFETY: the memory is read by who holds it or is a reader, and written by who has waited for both; a model that does
// otherwise fails.
unsafe impl Sync for Machine {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Machine {}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            registry: Registry::new(Readers::new()).unwrap(),
            memory: UnsafeCell::new(false),
            entry: AtomicBool::new(false),
            walkers: Readers::new(),
        })
    }

    /// Whoever uses the memory.
    fn touch(&self) {
        // SAFETY: the caller may, or else the model checker fails.
        assert!(self.memory.with(|memory| unsafe { *memory }), "used before or after its time");
    }

    /// The memory comes, or goes.
    fn set(&self, there: bool) {
        // SAFETY: nobody uses it, or else the model checker fails.
        self.memory.with_mut(|memory| unsafe { *memory = there });
    }

    /// Registered, and visible.
    fn add(&self) -> Entry<'_, Readers, SpinLock> {
        let entry = reserve(&self.registry, range(0, 2)).unwrap();
        self.set(true);
        entry.show();
        entry
    }

    /// Waited for and gone; the memory, too.
    fn remove(&self, entry: Entry<'_, Readers, SpinLock>) {
        entry.retire(&mut false, &mut |pagemap| self.revoke(pagemap), wait).unwrap();
        self.set(false);
        assert!(entry.release());
    }

    /// Takes the entry out of the page table, flushes, and puts its reference.
    fn revoke(&self, pagemap: &Pagemap) {
        // The one that takes it out: what was done before it was put in is seen. Acquire: pairs with the Release of `map`.
        if self.entry.swap(false, Ordering::Acquire) {
            mutant!("model-revoke-no-flush", self.walkers.synchronize().unwrap(), ());
            // SAFETY: the entry's reference; the caller has the pagemap.
            unsafe { put(&self.registry, pagemap, 1) };
        }
    }

    /// Takes a reference, if it can be had.
    fn get(&self) -> Option<NonNull<Pagemap>> {
        let reader = self.registry.enter();
        reader.find(pfn(0)).filter(|pagemap| get(pagemap, 1)).map(NonNull::from)
    }

    /// Puts it.
    fn put(&self, pagemap: NonNull<Pagemap>) {
        // SAFETY: there while there is a reference.
        let pagemap = unsafe { pagemap.as_ref() };
        // SAFETY: the caller's one.
        unsafe { put(&self.registry, pagemap, 1) };
    }
}

fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}

fn range(start: u64, frames: u64) -> PfnRange {
    PfnRange::new(pfn(start), frames).unwrap()
}

fn wait(tries: u32) -> ControlFlow<()> {
    hint::spin(tries);
    ControlFlow::Continue(())
}

/// At most three preemptions.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Two threads, of which the second one has the registration.
fn two(first: fn(&Machine), second: fn(&Machine)) {
    bounded(move || {
        let machine = Machine::new();
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || first(&other));
        second(&machine);
        thread.join().unwrap();
    });
}

/// One thread that looks while the other registers: who finds it finds the memory.
fn lookup_while_it_comes() {
    two(
        |machine| {
            if machine.registry.enter().find(pfn(1)).is_some() {
                machine.touch();
            }
        },
        |machine| {
            let _entry = machine.add();
        },
    );
}

#[test]
fn lookup_against_registering_2_threads_3_preemptions() {
    lookup_while_it_comes();
}

#[test]
fn lookup_against_registering_fails_where_it_is_shown_relaxed() {
    must_fail("registry-show-relaxed", lookup_while_it_comes);
    must_fail("registry-find-relaxed", lookup_while_it_comes);
    must_fail("registry-publish-relaxed", lookup_while_it_comes);
    must_fail("registry-table-relaxed", lookup_while_it_comes);
}

/// What was registered before there is a second thread. `before` is done then, and what it answers, given to that thread, which
/// runs `first` while this one runs `second`.
fn going<T: Copy + Send + 'static>(
    before: fn(&Machine) -> T,
    first: fn(&Machine, T),
    second: for<'m> fn(&'m Machine, Entry<'m, Readers, SpinLock>),
) {
    bounded(move || {
        let machine = Machine::new();
        let entry = machine.add();
        let made = before(&machine);
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || first(&other, made));
        second(&machine, entry);
        thread.join().unwrap();
    });
}

fn remove(machine: &Machine, entry: Entry<'_, Readers, SpinLock>) {
    machine.remove(entry);
}

/// The pagemap itself is the memory here: it goes after the last step.
fn lookup_while_it_goes() {
    going(
        |_| (),
        |machine, ()| {
            let reader = machine.registry.enter();
            if reader.find(pfn(0)).is_some() {
                machine.touch();
            }
        },
        |machine, entry| {
            entry.retire(&mut false, &mut |_| (), wait).unwrap();
            assert!(entry.release());
            machine.set(false);
        },
    );
}

#[test]
fn lookup_against_teardown_2_threads_3_preemptions() {
    lookup_while_it_goes();
}

#[test]
fn lookup_against_teardown_fails_where_readers_are_not_waited_for() {
    must_fail("registry-publish-no-wait", lookup_while_it_goes);
}

/// A reference that was taken before is put while somebody waits for it.
fn last_put() {
    going(
        |machine| machine.get().map_or(0, |pagemap| pagemap.as_ptr().expose_provenance()),
        |machine, pagemap| {
            machine.touch();
            let pagemap = core::ptr::with_exposed_provenance_mut(pagemap);
            machine.put(NonNull::new(pagemap).unwrap());
        },
        remove,
    );
}

#[test]
fn last_put_against_kill_2_threads_3_preemptions() {
    last_put();
}

#[test]
fn last_put_against_kill_fails_where_nobody_waits() {
    must_fail("retire-no-wait", last_put);
}

/// A reference is taken, used and put, by somebody who comes at any time.
fn getter() {
    going(
        |_| (),
        |machine, ()| {
            if let Some(pagemap) = machine.get() {
                machine.touch();
                machine.put(pagemap);
            }
        },
        remove,
    );
}

#[test]
fn surprise_removal_against_a_getter_2_threads_3_preemptions() {
    getter();
}

#[test]
fn surprise_removal_fails_where_the_dead_give_references() {
    must_fail("live-enter-no-recheck", getter);
    must_fail("retire-no-wait", getter);
}

/// A walker who uses a translation and has no reference.
fn walker() {
    going(
        |machine| machine.entry.store(machine.get().is_some(), Ordering::Relaxed),
        |machine, ()| {
            let _walking = machine.walkers.enter();
            if machine.entry.load(Ordering::Relaxed) {
                machine.touch();
            }
        },
        remove,
    );
}

#[test]
fn surprise_removal_against_a_walker_2_threads_3_preemptions() {
    walker();
}

#[test]
fn surprise_removal_fails_where_translations_are_not_flushed() {
    must_fail("model-revoke-no-flush", walker);
}

/// Somebody who had a reference before the kill, and maps what he has after translations were revoked.
fn late_mapping() {
    bounded(|| {
        let machine = Machine::new();
        let entry = machine.add();
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || {
            if other.get().is_some() {
                // Release: pairs with the Acquire of `revoke`.
                other.entry.swap(true, Ordering::Release);
            }
        });
        // No patience, twice: the second time nobody is about who could still map.
        let (mut let_go, mut impatient) = (false, |_| ControlFlow::Break(()));
        let first = entry.retire(&mut let_go, &mut |pagemap| machine.revoke(pagemap), &mut impatient);
        thread.join().unwrap();
        let second = entry.retire(&mut let_go, &mut |pagemap| machine.revoke(pagemap), impatient);
        assert!(second.is_ok(), "held for ever, after {first:?}");
        machine.set(false);
        assert!(entry.release());
    });
}

#[test]
fn a_late_mapping_is_revoked_too_2_threads_3_preemptions() {
    late_mapping();
}

#[test]
fn a_late_mapping_holds_for_ever_where_it_is_revoked_once() {
    must_fail("retire-revoke-once", late_mapping);
}

/// One pagemap is killed while the table is replaced for another: it is hidden in whichever table is left.
fn killed_while_another_comes() {
    bounded(|| {
        let machine = Machine::new();
        let entry = machine.add();
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || assert!(reserve(&other.registry, range(4, 2)).is_ok()));
        entry.kill();
        thread.join().unwrap();
        assert!(machine.registry.enter().find(pfn(0)).is_none(), "found after it was killed");
    });
}

#[test]
fn kill_against_registering_2_threads_3_preemptions() {
    killed_while_another_comes();
}

#[test]
fn kill_against_registering_fails_where_who_registers_does_not_look_again() {
    must_fail("registry-publish-forget-killed", killed_while_another_comes);
    must_fail("registry-publish-no-fence", killed_while_another_comes);
}

/// Two pagemaps that have a frame in common: one of them is there, and is found, until it goes.
fn overlapping() {
    fn register(machine: &Machine, range: PfnRange) -> bool {
        match reserve(&machine.registry, range) {
            Ok(entry) => {
                // The frame that both have is this one's alone.
                machine.set(true);
                entry.show();
                entry.retire(&mut false, &mut |_| (), wait).unwrap();
                machine.set(false);
                assert!(entry.release());
                true
            }
            Err(error) => {
                assert!(matches!(error, DevmapError::Overlap { range: refused, .. } if refused == range));
                false
            }
        }
    }
    bounded(|| {
        let machine = Machine::new();
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || register(&other, range(1, 2)));
        let one = register(&machine, range(0, 4));
        let two = thread.join().unwrap();
        assert!(one || two, "at least the first one gets it");
        assert!(machine.registry.is_empty());
    });
}

#[test]
fn two_overlapping_registrations_2_threads_3_preemptions() {
    overlapping();
}

#[test]
fn two_overlapping_registrations_fail_where_it_is_looked_before_the_lock() {
    must_fail("registry-reserve-look-first", overlapping);
}

#[test]
fn two_overlapping_registrations_fail_where_ends_are_compared() {
    must_fail("registry-overlap-endpoints", overlapping);
}
