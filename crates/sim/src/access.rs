// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads and stores: what the threads of an address space do with its memory.

use mmkit_addr::VirtAddr;
use mmkit_folio::Mapcounts;
use mmkit_pgtable::{Leaf, Prot, Walk};

use crate::arena::{BYTES, SHIFT};
use crate::contents::Contents;
use crate::fault::Access;
use crate::{AddressSpace, Error};

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// Reads bytes from `va` on, with faults where nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`], and those of a fault: [`Error::Alloc`], [`Error::Tables`]. What was read so far is in `out`.
    pub fn read(&self, va: VirtAddr, out: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < out.len() {
            let (at, offset, len) = piece(va, done, out.len())?;
            let part = &mut out[done..done + len];
            while !self.access(at, false, |contents| contents.read(offset, part))? {
                self.fault_in(at.get(), Access::Read)?;
            }
            done += len;
        }
        Ok(())
    }

    /// Writes bytes from `va` on, with faults where nothing is mapped, or where what is mapped is not to be written.
    ///
    /// # Errors
    ///
    /// [`Error::NoArea`], [`Error::ReadOnly`], and those of a fault: [`Error::Alloc`], [`Error::Tables`]. What is before the
    /// address that the error is about has been written.
    pub fn write(&self, va: VirtAddr, bytes: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let (at, offset, len) = piece(va, done, bytes.len())?;
            let part = &bytes[done..done + len];
            while !self.access(at, true, |contents| contents.write(offset, part, true))? {
                self.fault_in(at.get(), Access::Write)?;
            }
            done += len;
        }
        Ok(())
    }

    /// Reads bytes of one page without a fault: whether it is mapped. For those who look at an address space from outside.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`] where the bytes are not in one page, [`Error::Tables`] where that is no address.
    pub fn peek(&self, va: VirtAddr, out: &mut [u8]) -> Result<bool, Error> {
        let (_, offset, len) = piece(va, 0, out.len())?;
        if len < out.len() {
            let range = mmkit_addr::VirtRange::new(va, out.len() as u64);
            return Err(range.map_or(Error::NoArea { va }, |range| Error::BadRange { range }));
        }
        self.access(va, false, |contents| contents.read(offset, out))
    }

    /// One access, through the entry of `at` as it is: whether that allows it.
    ///
    /// It is what a processor does: nobody waits for it, but who changes the entry and flushes returns after it.
    fn access(&self, at: VirtAddr, write: bool, access: impl FnOnce(Contents<'_>)) -> Result<bool, Error> {
        let reader = self.tables.read();
        let Walk::Mapped(leaf) = reader.walk(at)? else { return Ok(false) };
        if write && !leaf.prot.contains(Prot::WRITE) {
            return Ok(false);
        }
        // SAFETY: the reader found the entry, whose mapping has a reference on the folio. Whoever takes the entry away waits
        // for readers before that reference goes, and this one is inside until the access is over. Contents of mapped folios
        // are accessed through `Contents` alone.
        let contents = unsafe { Contents::of(&self.world.memory, page_of(&leaf, at)) };
        contents.map(access).ok_or(Error::NoArea { va: at })?;
        Ok(true)
    }
}

/// The frame that a leaf maps `va` to.
pub(crate) fn page_of(leaf: &Leaf, va: VirtAddr) -> mmkit_addr::Pfn {
    let index = (va.get() - leaf.range.start().get()) >> SHIFT;
    leaf.pfn.checked_add(index).unwrap_or(leaf.pfn)
}

/// `va + done`, its offset in its page, and how many of `all - done` bytes are in that page.
fn piece(va: VirtAddr, done: usize, all: usize) -> Result<(VirtAddr, usize, usize), Error> {
    let at = va.checked_add(done as u64).ok_or(Error::NoArea { va: VirtAddr::MAX })?;
    let offset = (at.get() % BYTES) as usize;
    Ok((at, offset, (all - done).min(BYTES as usize - offset)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use mmkit_addr::{Order, VirtRange};
    use mmkit_folio::{NoPageMapcount, PowerSums};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;
    use crate::space::PMD_BYTES;
    use crate::{Area, World};

    type Space<'w> = AddressSpace<'w, NoPageMapcount<PowerSums>>;

    const VA: VirtAddr = VirtAddr::new(4 * PMD_BYTES);
    const AWAY: VirtAddr = VirtAddr::new(1 << 40);

    fn range() -> VirtRange {
        VirtRange::new(VA, PMD_BYTES).unwrap()
    }

    /// Runs `operation` while a store to [`VA`] is on its way, which lands once the operation has gone as far as it can.
    fn overtaken<'w, T: Send>(space: &Space<'w>, operation: impl FnOnce(&Space<'w>) -> T + Send) -> T {
        space.write(VA, b"early").unwrap();
        let (begun, tables) = (AtomicBool::new(false), space.tables.table_frames());
        std::thread::scope(|scope| {
            let mut thread = None;
            let stored = space.access(VA, true, |contents| {
                let running = scope.spawn(|| {
                    begun.store(true, Ordering::Relaxed);
                    operation(space)
                });
                while !begun.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(30));
                assert!(!running.is_finished(), "it did not wait");
                assert!(space.tables.table_frames() >= tables, "a table went under a walker");
                contents.write(0, b"late!", true);
                thread = Some(running);
            });
            assert_eq!(stored, Ok(true));
            thread.unwrap().join().unwrap()
        })
    }

    fn found(space: &Space<'_>, va: VirtAddr) -> Result<[u8; 5], Error> {
        let mut bytes = [0; 5];
        space.read(va, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn whoever_takes_pages_away_waits_for_accesses_on_their_way() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::new(1 << 12, &mut ids).unwrap();
        for order in [0, 9].map(|order| Order::new(order).unwrap()) {
            let space = world.spawn().unwrap();
            space.mmap(range(), Area::anonymous(order)).unwrap();

            let child = overtaken(&space, |space| space.fork()).unwrap();
            assert_eq!((found(&space, VA), found(&child, VA)), (Ok(*b"late!"), Ok(*b"late!")));
            drop(child);

            overtaken(&space, |space| space.mremap(range(), AWAY)).unwrap();
            assert_eq!(found(&space, AWAY), Ok(*b"late!"));
            space.mremap(VirtRange::new(AWAY, PMD_BYTES).unwrap(), VA).unwrap();

            if order == Order::ZERO {
                overtaken(&space, |space| space.collapse(VA)).unwrap();
            } else {
                overtaken(&space, |space| space.split_pmd(VA)).unwrap();
            }
            assert_eq!(found(&space, VA), Ok(*b"late!"));

            overtaken(&space, |space| space.dont_need(range())).unwrap();
            assert_eq!(found(&space, VA), Ok([0; 5]));

            overtaken(&space, |space| space.munmap(range())).unwrap();
            assert_eq!(found(&space, VA), Err(Error::NoArea { va: VA }));
            assert_eq!(space.tables.table_frames(), 1);
        }
        assert_eq!(world.free_frames(), world.frames());
    }

    #[test]
    fn a_file_moves_with_the_stores_that_are_on_their_way() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::new(1 << 12, &mut ids).unwrap();
        let file = world.create_file(&vec![0; PMD_BYTES as usize], Order::ZERO).unwrap();
        let space = world.spawn().unwrap();
        space.mmap(range(), Area::file(file, 0, true)).unwrap();
        overtaken(&space, |space| space.collapse(VA)).unwrap();
        assert_eq!(found(&space, VA), Ok(*b"late!"));
        let mut bytes = [0; 5];
        world.read_file(file, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"late!");
    }
}
