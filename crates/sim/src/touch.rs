// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many pages at once: made present, or written to one by one, without a call for each.

use mmkit_addr::{VirtAddr, VirtRange};
use mmkit_folio::Mapcounts;

use crate::arena::BYTES;
use crate::fault::Access;
use crate::vma::bounds;
use crate::{AddressSpace, Error};

impl<C: Mapcounts> AddressSpace<'_, C> {
    /// Makes every page of `range` present and its own, as a write to each of them would, and writes nothing. Linux:
    /// `madvise(MADV_POPULATE_WRITE)`.
    ///
    /// Cost: one walk for each page, and one fault for each folio that was missing and each page that was read-only.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`], [`Error::NoArea`], [`Error::ReadOnly`], and those of a fault: [`Error::Alloc`],
    /// [`Error::Tables`]. Pages before the one that the error is about are present.
    pub fn populate(&self, range: VirtRange) -> Result<(), Error> {
        let (start, end) = bounds(range)?;
        (start..end).step_by(BYTES as usize).try_for_each(|page| self.fault_in(page, Access::Write))
    }

    /// Writes `byte` to each of `addresses`, in their order, with a fault where one is due: the sequence of accesses of a
    /// program that touches its memory.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); the addresses before the one that the error is about have been written.
    pub fn write_each(&self, addresses: impl IntoIterator<Item = VirtAddr>, byte: u8) -> Result<(), Error> {
        addresses.into_iter().try_for_each(|va| self.write(va, &[byte]))
    }
}

#[cfg(test)]
mod tests {
    use mmkit_addr::Order;
    use mmkit_folio::{NoPageMapcount, PowerSums};
    use mmkit_sync::atomic::AtomicU64;

    use super::*;
    use crate::{Area, World};

    const START: u64 = 1 << 30;

    fn range(pages: u64) -> VirtRange {
        VirtRange::new(VirtAddr::new(START), pages * BYTES).unwrap()
    }

    #[test]
    fn what_is_populated_can_be_written_without_a_fault_and_is_zero() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(256, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        space.mmap(range(40), Area::anonymous(Order::new(4).unwrap())).unwrap();
        space.populate(range(40)).unwrap();
        for page in 0..40 {
            let info = space.page(VirtAddr::new(START + page * BYTES)).unwrap().unwrap();
            // The last folio would reach out of the area.
            assert_eq!((info.write, info.order.get()), (true, if page < 32 { 4 } else { 3 }), "{page}");
        }
        let mut bytes = [1; 8];
        space.read(VirtAddr::new(START + 5 * BYTES), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8]);

        // After a fork, pages become the parent's own again: all are copied.
        let child = space.fork().unwrap();
        space.populate(range(40)).unwrap();
        assert_eq!(world.statistics().copied, 40);
        drop(child);
        assert_eq!(space.populate(range(41)), Err(Error::NoArea { va: VirtAddr::new(START + 40 * BYTES) }));
    }

    #[test]
    fn each_address_is_written_up_to_the_first_that_cannot_be() {
        let mut ids = [AtomicU64::new(0)];
        let world = World::<NoPageMapcount<PowerSums>>::new(64, &mut ids).unwrap();
        let space = world.spawn().unwrap();
        space.mmap(range(2), Area::anonymous(Order::ZERO)).unwrap();
        let address = |page: u64| VirtAddr::new(START + page * BYTES + 3);
        let refused = space.write_each([1, 2, 0].map(address), 7);
        assert_eq!(refused, Err(Error::NoArea { va: address(2) }));
        let byte = |page| {
            let mut byte = [0];
            space.read(address(page), &mut byte).unwrap();
            byte[0]
        };
        assert_eq!((byte(0), byte(1)), (0, 7));
    }
}
