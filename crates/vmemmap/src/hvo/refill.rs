// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filling reserves again: from the allocator, or from the memory of a compound that is given back to it.

use mmkit_addr::{NodeId, Order, Pfn, PfnRange};
use mmkit_frame::FrameAllocator;
use mmkit_sync::{Counter, Events};

use super::slots::ReserveSlot;
use crate::{Vmemmap, VmemmapEnv, VmemmapSpace};

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Gives the memory of a compound of `order` on `node` back to the allocator: what the `free` of
    /// [`free_batch`](Self::free_batch) calls where others take frames at the same time.
    ///
    /// Where the [reserve](Self::set_reserve) of its node and order lacks frames or tables, and the allocator has none for it, the
    /// block itself becomes the reserve, before anybody else can have a frame of it: that is enough for the next compounds, 73 of
    /// them where 7 frames of 512 restore one. What is left of it at the end of the batch goes to the allocator frame by frame.
    ///
    /// Takes the memory map's lock where a reserve lacks something, and must not be called inside a reader then. Cost: a
    /// load for each reserve, else. Source: ours.
    ///
    /// # Safety
    ///
    /// As for [`FrameAllocator::deallocate`] of the memory map's allocator.
    pub unsafe fn free_block(&self, node: NodeId, pfn: Pfn, order: Order) {
        // SAFETY: passed on to the caller.
        if self.lacks_reserve() && unsafe { self.stock(node, pfn, order) } {
            return;
        }
        // SAFETY: passed on to the caller; it is in no reserve.
        unsafe { self.frames().deallocate(pfn, order) };
    }

    /// Whether a reserve is not full. A hint outside of the lock.
    pub(super) fn lacks_reserve(&self) -> bool {
        self.env.reserves().iter().any(ReserveSlot::is_short) || self.space.lacks_aside()
    }

    /// Fills all reserves as far as the allocator can. Under the lock.
    pub(super) fn refill_all(&self) {
        if !self.lacks_reserve() {
            return;
        }
        for slot in self.env.reserves() {
            if let Some((node, _)) = slot.named().filter(|_| slot.wanted() > 0) {
                if slot.is_short() {
                    // What could not be had now will be later.
                    let _ = self.fill(slot, node);
                }
                let _ = self.space.set_aside(self.pages_aside(), node);
            }
        }
    }

    /// Puts a block into the reserve of a node and an order, if that lacks something that the allocator does not have: tables
    /// first. Whether it did; not where the address space does not reach the block.
    ///
    /// # Safety
    ///
    /// As for [`free_block`](Self::free_block), where it did.
    unsafe fn stock(&self, node: NodeId, pfn: Pfn, order: Order) -> bool {
        let _lock = self.locked();
        self.refill_all();
        let slot = ReserveSlot::find(self.env.reserves(), node, order).filter(|slot| slot.wanted() > 0);
        let slot = slot.filter(|slot| slot.is_short() || self.space.lacks_aside());
        let block = PfnRange::block(pfn, order);
        let Some(slot) = slot.filter(|_| self.check_reached(block).is_ok()) else { return false };
        // SAFETY: handed out at this order, by the caller's promise. Its frames go back one by one.
        unsafe { self.frames().allocator().split(pfn, order, Order::ZERO) };
        // SAFETY: frames of the block, which are single now, and nobody's.
        let tables = block.iter().take_while(|&frame| unsafe { self.space.keep_aside(frame) }).count() as u64;
        let (mut frames, rest) = (slot.frames(), order.frames() - tables);
        if let Some(first) = pfn.checked_add(tables) {
            frames.push_run(self.frames(), first, rest);
        }
        slot.set_frames(&frames, slot.have() + rest);
        self.env.events().count(Counter::FrameTaken, rest);
        true
    }

    /// Gives back what reserves have more than they should.
    pub(super) fn trim_reserves(&self) {
        if !self.env.reserves().iter().any(|slot| slot.have() > slot.wanted()) {
            return;
        }
        let _lock = self.locked();
        for slot in self.env.reserves() {
            let (mut frames, mut have) = (slot.frames(), slot.have());
            while have > slot.wanted()
                && let Some((first, count)) = frames.pop_run(self.frames(), have - slot.wanted())
            {
                self.give_run(first, count);
                have -= count;
            }
            slot.set_frames(&frames, have);
        }
    }
}
