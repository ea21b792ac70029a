// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: a device that looks at a page for as long as it likes.

use std::fmt;

use mmkit_addr::{Order, Pfn, VirtAddr};
use mmkit_folio::{Kind, Mapcounts, Rmap};
use mmkit_pgtable::{Prot, Walk};
use mmkit_sync::atomic::{Ordering, fence};

use crate::access::page_of;
use crate::arena::BYTES;
use crate::contents::Contents;
use crate::fault::{Access, is_own};
use crate::{AddressSpace, Area, Error, World};

/// Any area of anonymous memory.
const ANONYMOUS: Area = Area::anonymous(Order::ZERO);

/// A page that is pinned: it stays where it is, and a fork does not take it from its address space. Linux: `FOLL_PIN`.
///
/// Dropping it takes the pin back.
pub struct Pin<'w, C: Mapcounts> {
    world: &'w World<'w, C>,
    pfn: Pfn,
}

impl<'w, C: Mapcounts> AddressSpace<'w, C> {
    /// Pins the page at `va` to write to it, after a write fault where it needs one.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); [`Error::Counts`] at the limit of references.
    pub fn pin(&self, va: VirtAddr) -> Result<Pin<'w, C>, Error> {
        self.pin_for(va, Access::Write)
    }

    /// Pins the page at `va` to read it: what the address space writes later is seen. A page that is shared since a fork
    /// is made its own for that, but stays read-only.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); [`Error::Counts`] at the limit of references.
    pub fn pin_to_read(&self, va: VirtAddr) -> Result<Pin<'w, C>, Error> {
        self.pin_for(va, Access::Unshare)
    }

    fn pin_for(&self, va: VirtAddr, access: Access) -> Result<Pin<'w, C>, Error> {
        if let Some(pin) = self.pin_lockless(va, access)? {
            return Ok(pin);
        }
        loop {
            self.fault_in(va.get(), access)?;
            if let Some(pin) = self.pin_locked(va, access)? {
                return Ok(pin);
            }
        }
    }

    /// Pins what is mapped, if it is what is asked for and nobody is changing it. Takes no lock. Linux: GUP-fast.
    fn pin_lockless(&self, va: VirtAddr, access: Access) -> Result<Option<Pin<'w, C>>, Error> {
        let Some(sample) = self.write_protect.sample() else { return Ok(None) };
        let reader = self.tables.read();
        let walk = reader.walk(va)?;
        let Walk::Mapped(leaf) = walk else { return Ok(None) };
        let writable = leaf.prot.contains(Prot::WRITE);
        if access == Access::Write && !writable {
            return Ok(None);
        }
        let pfn = page_of(&leaf, va);
        // The entry may be gone, and the frame somebody else's by now: that shows below.
        let Ok(folio) = self.world.folio(pfn) else { return Ok(None) };
        folio.pin(1)?;
        let pin = Pin { world: self.world, pfn };
        // SeqCst: pairs with the fence of `write_protecting`. Either that thread sees the pin, or this one sees its count.
        fence(Ordering::SeqCst);
        // Whether a read-only page of a file is a private mapping's, only its area knows.
        let own = writable || folio.kind() == Kind::Anon && is_own(&folio, &leaf, &ANONYMOUS);
        let same = reader.walk(va)? == walk && self.write_protect.unchanged(sample);
        Ok((same && own).then_some(pin))
    }

    /// Pins what is mapped, if it is what is asked for, while nobody can change it. Linux: `follow_page_mask`.
    fn pin_locked(&self, va: VirtAddr, access: Access) -> Result<Option<Pin<'w, C>>, Error> {
        let vmas = self.vmas.read();
        let area = vmas.at(va)?.area;
        let _locked = self.locks.lock(va.get());
        let Walk::Mapped(leaf) = self.tables.walk(va)? else { return Ok(None) };
        let folio = self.world.folio(leaf.pfn)?;
        let writable = leaf.prot.contains(Prot::WRITE);
        if !writable && (access == Access::Write || !is_own(&folio, &leaf, &area)) {
            return Ok(None);
        }
        folio.pin(1)?;
        Ok(Some(Pin { world: self.world, pfn: page_of(&leaf, va) }))
    }
}

impl<C: Mapcounts> Pin<'_, C> {
    /// Reads bytes of the page; those past its end stay as they were in `out`.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let len = out.len().min((BYTES as usize).saturating_sub(offset));
        // SAFETY: the pin has a reference, and pinned folios are accessed through `Contents` alone.
        let contents = unsafe { Contents::of(&self.world.memory, self.pfn) };
        contents.inspect(|contents| contents.read(offset, &mut out[..len]));
    }
}

impl<C: Mapcounts> Drop for Pin<'_, C> {
    fn drop(&mut self) {
        // The pin has a reference, so there is a folio; one that cannot be had at the limit of references stays pinned.
        if let Ok(folio) = self.world.folio(self.pfn) {
            // SAFETY: the pin was made with this value, which is gone now.
            drop(unsafe { folio.unpin(1) });
        }
    }
}

impl<C: Mapcounts> fmt::Debug for Pin<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({:?})", self.pfn)
    }
}

#[cfg(test)]
mod tests {
    use mmkit_addr::VirtRange;
    use mmkit_folio::{NoPageMapcount, PowerSums};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn pinners_without_locks_keep_out_while_pages_are_taken() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(64, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        let va = VirtAddr::new(1 << 20);
        space.mmap(VirtRange::new(va, 4 * BYTES).unwrap(), ANONYMOUS).unwrap();
        for access in [Access::Write, Access::Unshare] {
            assert!(space.pin_lockless(va, access).unwrap().is_none() || access == Access::Unshare);
            space.write(va, b"x").unwrap();
            let sample = space.write_protect.sample();
            let writer = space.write_protecting();
            assert!(space.pin_lockless(va, access).unwrap().is_none());
            drop(writer);
            assert!(space.pin_lockless(va, access).unwrap().is_some());
            assert!(
                sample.is_some_and(|sample| !space.write_protect.unchanged(sample)),
                "it would have noticed"
            );
        }
        let pfn = space.page(va).unwrap().unwrap().pfn;
        assert_eq!(world.folio(pfn).unwrap().pins(), 0, "no pin is left");
    }

    #[test]
    fn a_pin_to_read_is_of_a_page_that_stays() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(256, &mut ids).unwrap();
        let file = world.create_file(b"file", Order::ZERO).unwrap();
        let space = world.spawn().unwrap();
        let [anon, private, shared] = [1 << 20, 2 << 20, 3 << 20].map(VirtAddr::new);
        let range = |va| VirtRange::new(va, BYTES).unwrap();
        space.mmap(range(anon), ANONYMOUS).unwrap();
        space.mmap(range(private), Area::file(file, 0, false)).unwrap();
        space.mmap(range(shared), Area::file(file, 0, true)).unwrap();
        space.write(anon, b"x").unwrap();
        let child = space.fork().unwrap();
        for va in [anon, private, shared] {
            let pin = space.pin_to_read(va).unwrap();
            space.write(va, b"y").unwrap();
            let mut seen = [0];
            pin.read(0, &mut seen);
            assert_eq!(&seen, b"y", "{va:?}");
        }
        // Read-only from the beginning.
        space.munmap(range(shared)).unwrap();
        space.mmap(range(shared), Area::file(file, 0, true).read_only()).unwrap();
        let mut seen = [0; 4];
        space.pin_to_read(shared).unwrap().read(0, &mut seen);
        assert_eq!(&seen, b"yile");
        child.read(anon, &mut seen[..1]).unwrap();
        assert_eq!(&seen[..1], b"x");
    }
}
