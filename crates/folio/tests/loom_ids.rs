// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ids taken and given back by two threads, each model with the threads in both roles.
#![cfg(mmkit_loom)]

mod loom_common;

use std::sync::Mutex;

use loom_common::{mm, race};
use mmkit_folio::{MmId, MmIdGuard, MmIds};
use mmkit_sync::atomic::{AtomicU64, UnsafeCell};
use mmkit_sync::mutant::must_fail;

/// Ids 1 to 64, of which 1 is taken, and what each address space had.
struct Ids {
    ids: &'static MmIds<'static>,
    /// Of id 1. Its owner alone takes it, so nothing is to be modelled.
    first: Mutex<Option<MmIdGuard<'static>>>,
    had: [UnsafeCell<u32>; 2],
    boxed: (*mut MmIds<'static>, *mut [AtomicU64; 1]),
}

// SAFETY: the pointers are used by `drop` alone; the cells are accessed by whoever has their id.
unsafe impl Send for Ids {}
// SAFETY: as above.
unsafe impl Sync for Ids {}

impl Ids {
    fn new() -> Self {
        let memory = Box::into_raw(Box::new([AtomicU64::new(0)]));
        // SAFETY: just made from a box, used by nothing else, and freed by `drop` after the ids were used.
        let ids = Box::into_raw(Box::new(MmIds::new(unsafe { &mut *memory })));
        let boxed = (ids, memory);
        // SAFETY: as above.
        let ids: &'static MmIds<'static> = unsafe { &*ids };
        let first = Mutex::new(Some(ids.take().unwrap()));
        Self { ids, first, had: [UnsafeCell::new(0), UnsafeCell::new(0)], boxed }
    }

    fn write(&self, id: MmId) {
        // SAFETY: the models check that whoever has an id is alone with its cell.
        self.had[id.get() as usize - 1].with_mut(|had| unsafe { *had += 1 });
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        drop(self.first.lock().unwrap().take());
        // SAFETY: from a box, and nobody looks at the ids any more.
        drop(unsafe { Box::from_raw(self.boxed.0) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.boxed.1) });
    }
}

fn give_back_and_take() {
    race(
        Ids::new,
        |world| {
            world.write(mm(1));
            drop(world.first.lock().unwrap().take());
        },
        |world| {
            let id = world.ids.take().unwrap().keep();
            world.write(id);
        },
        |world| {
            let (a, b) = (world.ids.take().unwrap(), world.ids.take().unwrap());
            assert_eq!(a.id().get() + b.id().get() + world.taken(), 6, "1, 2 and 3, once each");
        },
    );
}

impl Ids {
    /// The id that the taker of `give_back_and_take` got: the one whose cell it wrote beside the first owner's.
    fn taken(&self) -> u32 {
        // SAFETY: both threads have been joined.
        let second = self.had[1].with(|had| unsafe { *had });
        if second == 1 { 2 } else { 1 }
    }
}

fn two_take() {
    race(
        Ids::new,
        |world| world.write_two(world.ids.take().unwrap().keep()),
        |world| world.write_two(world.ids.take().unwrap().keep()),
        |world| assert_eq!(world.ids.take().unwrap().id().get(), 4),
    );
}

impl Ids {
    /// Ids 2 and 3, in the cells of 1 and 2.
    fn write_two(&self, id: MmId) {
        self.write(mm(id.get() - 1));
    }
}

#[test]
fn ids_are_taken_and_given_back_2_threads_3_preemptions() {
    give_back_and_take();
    two_take();
    for mutant in ["ids-take-relaxed", "ids-give-back-relaxed", "ids-give-back-store", "ids-load-then-store"]
    {
        must_fail(mutant, give_back_and_take);
    }
    must_fail("ids-load-then-store", two_take);
}
