// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames set aside, so that one compound of a node and an order can always be restored.

use mmkit_addr::{NodeId, Order, Pfn};
use mmkit_frame::Request;
use mmkit_page::Place;

use super::records::Records;
use super::slots::ReserveSlot;
use crate::tails::TailKey;
use crate::{Vmemmap, VmemmapEnv, VmemmapError, VmemmapSpace};

/// Frames that are asked for at once.
const BULK: usize = 16;

impl<S: VmemmapSpace, E: VmemmapEnv> Vmemmap<S, E> {
    /// Sets frames aside, or gives them back, so that one compound of `order` on `node` can be restored when the allocator
    /// has nothing left: the pages that it lacks, and the tables.
    ///
    /// That is enough for any number of them, if they are given to [`free_batch`](Self::free_batch): each one that is
    /// restored and freed pays for the next, as its memory is many times that of its descriptors. The reserve is refilled
    /// as soon as there are frames, from a freed compound's own where need be ([`free_block`](Self::free_block)), and counts in [`Usage`](crate::Usage). Source: ours. (Linux has none: a huge page that
    /// cannot be restored stays in its pool as a surplus page.)
    ///
    /// Takes the memory map's lock, and must not be called inside a reader.
    ///
    /// # Errors
    ///
    /// [`VmemmapError::NoFrame`], [`VmemmapError::OrderTooLarge`], [`VmemmapError::NoReserveSlot`] where the environment has
    /// no room for one more reserve. Nothing has changed then. An order that cannot be optimised needs nothing.
    pub fn set_reserve(&self, node: NodeId, order: Order, on: bool) -> Result<(), VmemmapError> {
        let max = self.geometry.max_huge_order();
        if order > max {
            return Err(VmemmapError::OrderTooLarge { order, max });
        }
        let pages = order.frames() >> self.page_order().get();
        if order < self.geometry.min_dedup_order() {
            return Ok(());
        }
        let _lock = self.locked();
        let slots = self.env.reserves();
        if !on {
            if let Some(slot) = ReserveSlot::find(slots, node, order) {
                slot.want(0);
                self.empty(slot);
                slot.forget();
                // Fewer are wanted now.
                let _ = self.space.set_aside(self.pages_aside(), node);
            }
            return Ok(());
        }
        let slot = ReserveSlot::find_or_name(slots, node, order)
            .ok_or(VmemmapError::NoReserveSlot { slots: slots.len() })?;
        let before = slot.wanted();
        slot.want(pages - 1);
        let filled =
            self.fill(slot, node).and_then(|()| Ok(self.space.set_aside(self.pages_aside(), node)?));
        filled.inspect_err(|_| {
            slot.want(before);
            if before == 0 {
                self.empty(slot);
                slot.forget();
            }
        })
    }

    /// Pages of tails that the address space sets tables aside for: those of all reserves, with the pages that the
    /// compounds own.
    pub(super) fn pages_aside(&self) -> u64 {
        let pages = |slot: &ReserveSlot| if slot.wanted() > 0 { slot.wanted() + 1 } else { 0 };
        self.env.reserves().iter().map(pages).sum()
    }

    /// Takes what a reserve lacks, or as much as there is.
    pub(super) fn fill(&self, slot: &ReserveSlot, node: NodeId) -> Result<(), VmemmapError> {
        let (mut frames, mut have) = (slot.frames(), slot.have());
        let mut result = Ok(());
        while have < slot.wanted() && result.is_ok() {
            match self.take(Request::new(Order::ZERO), Place { node, ..Place::default() }) {
                Ok(pfn) => {
                    frames.push_run(self.frames(), pfn, 1);
                    have += 1;
                }
                Err(error) => result = Err(error),
            }
        }
        slot.set_frames(&frames, have);
        result
    }

    /// Gives all reserves back.
    pub(crate) fn drop_reserves(&self) {
        for slot in self.env.reserves() {
            slot.want(0);
            self.empty(slot);
            slot.forget();
        }
    }

    /// Gives a reserve's frames back.
    fn empty(&self, slot: &ReserveSlot) {
        self.give_rest(slot.frames());
        slot.set_frames(&Records::default(), 0);
    }

    /// Gives a list of frames back that stand behind no page.
    pub(super) fn give_rest(&self, mut frames: Records) {
        while let Some((pfn, _)) = frames.pop_run(self.frames(), 1) {
            // SAFETY: frames in a list were taken one by one, and nobody else has them.
            unsafe { self.give(pfn, Order::ZERO) };
        }
    }

    /// Takes `wanted` frames for a compound's descriptors, from the allocator and then from the reserve, or none.
    pub(super) fn gather(&self, wanted: u64, key: TailKey) -> Result<Records, VmemmapError> {
        let mut frames = Records::default();
        let mut have = 0;
        let mut run: Option<(Pfn, u64)> = None;
        let mut result = Ok(());
        while have < wanted && result.is_ok() {
            let mut some = [Pfn::ZERO; BULK];
            let count = (wanted - have).min(BULK as u64);
            let some = &mut some[..count as usize];
            result = self.take_all(Request::new(Order::ZERO), key.place, some);
            if result.is_err() {
                break;
            }
            have += count;
            // In order they make longer runs; allocators often give back last what came first.
            some.sort_unstable();
            for &pfn in some.iter() {
                match &mut run {
                    Some((first, count)) if first.checked_add(*count) == Some(pfn) => *count += 1,
                    run => {
                        if let Some((first, count)) = run.replace((pfn, 1)) {
                            frames.push_run(self.frames(), first, count);
                        }
                    }
                }
            }
        }
        if let Some((first, count)) = run {
            frames.push_run(self.frames(), first, count);
        }
        if let Err(error) = result {
            let slot = ReserveSlot::find(self.env.reserves(), key.place.node, key.order);
            let Some(slot) = slot.filter(|slot| slot.have() >= wanted - have) else {
                self.give_rest(frames);
                return Err(error);
            };
            let (mut reserve, mut left) = (slot.frames(), slot.have());
            while have < wanted
                && let Some((first, count)) = reserve.pop_run(self.frames(), wanted - have)
            {
                frames.push_run(self.frames(), first, count);
                have += count;
                left -= count;
            }
            slot.set_frames(&reserve, left);
        }
        Ok(frames)
    }
}
