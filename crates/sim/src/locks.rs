// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may change entries of an address space: the locks of its page tables, and the count that pinners watch.

use mmkit_folio::Mapcounts;
use mmkit_sync::SeqWriter;
use mmkit_sync::atomic::{Ordering, fence};
use parking_lot::{Mutex, MutexGuard};

use crate::AddressSpace;
use crate::space::PMD_BYTES;

/// More than threads that fault at once.
const LOCKS: usize = 32;

/// Locks of last-level tables, some tables to a lock. Linux: split page table locks.
///
/// Whoever changes what an entry maps, and has counted it or is about to, holds the lock of the entry's table, and the areas
/// for reading; or the areas for writing, which keeps all others out. A thread holds one such lock at a time. (The tables
/// have a lock of their own, which makes single operations on them atomic.)
#[derive(Debug, Default)]
pub(crate) struct TableLocks([Mutex<()>; LOCKS]);

impl TableLocks {
    /// Takes the lock of the table with the entry of `va`, whether there is one or a PMD in its place.
    pub(crate) fn lock(&self, va: u64) -> MutexGuard<'_, ()> {
        self.0[(va / PMD_BYTES) as usize % LOCKS].lock()
    }
}

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// Until the result is dropped, whoever pins without locks notices, and takes the pin back. The pins that are
    /// seen from now on are all that count. The caller holds the areas for writing.
    ///
    /// A pinner pins, fences, and looks at the count; this changes the count, fences, and then the caller looks for pins.
    pub(crate) fn write_protecting(&self) -> SeqWriter<'_> {
        let writer = loop {
            // Writers of the areas come one at a time, so the first try succeeds.
            if let Some(writer) = self.write_protect.try_write() {
                break writer;
            }
        };
        // SeqCst: pairs with the fence of `pin_lockless`.
        fence(Ordering::SeqCst);
        writer
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mmkit_addr::{Order, VirtAddr, VirtRange};
    use mmkit_folio::{NoPageMapcount, PowerSums};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;
    use crate::{Area, Error, PMD_ORDER, World};

    type Space<'w> = AddressSpace<'w, NoPageMapcount<PowerSums>>;
    type Operation = for<'s, 'w> fn(&'s Space<'w>) -> Result<(), Error>;

    const VA: VirtAddr = VirtAddr::new(4 * PMD_BYTES);
    const AWAY: VirtAddr = VirtAddr::new(1 << 40);

    fn range() -> VirtRange {
        VirtRange::new(VA, PMD_BYTES).unwrap()
    }

    /// A new address space with a PMD in it, for each of `operations`; which must not have ended by the time that `held`
    /// returns, and ends when the lock is let go after that.
    fn wait_for(operations: &[Operation], held: impl Fn(&Space<'_>, &dyn Fn())) {
        let mut ids = [AtomicU64::new(0)];
        let world = World::new(1 << 12, &mut ids).unwrap();
        for (nth, operation) in operations.iter().enumerate() {
            let space = world.spawn().unwrap();
            space.mmap(range(), Area::anonymous(PMD_ORDER)).unwrap();
            space.write(VA, b"x").unwrap();
            // So that a write faults.
            let child = space.fork().unwrap();
            std::thread::scope(|scope| {
                let thread = std::cell::Cell::new(None);
                held(&space, &|| {
                    let running = scope.spawn(|| operation(&space));
                    std::thread::sleep(Duration::from_millis(20));
                    assert!(!running.is_finished(), "operation {nth} did not wait");
                    thread.set(Some(running));
                });
                thread.take().unwrap().join().unwrap().unwrap();
            });
            drop(child);
        }
        assert_eq!(world.free_frames(), world.frames());
    }

    #[test]
    fn who_changes_entries_waits_for_the_lock_of_their_table() {
        let operations: [Operation; 5] = [
            |space| space.write(VA, b"x"),
            |space| space.pin(VA).map(drop),
            |space| space.pin_to_read(VA).map(drop),
            |space| space.split_pmd(VA),
            |space| space.dont_need(range()),
        ];
        wait_for(&operations, |space, run| {
            let _lock = space.locks.lock(VA.get() + PMD_BYTES - 1);
            run();
        });
    }

    #[test]
    fn who_changes_areas_waits_for_faults() {
        let elsewhere: Operation =
            |space| space.mmap(VirtRange::new(AWAY, PMD_BYTES).unwrap(), Area::anonymous(Order::ZERO));
        let operations: [Operation; 5] = [
            elsewhere,
            |space| space.munmap(range()),
            |space| space.mremap(range(), AWAY),
            |space| space.fork().map(drop),
            |space| space.collapse(VA),
        ];
        wait_for(&operations, |space, run| {
            let _areas = space.vmas.read();
            run();
        });
    }
}
