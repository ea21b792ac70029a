// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a memory map takes from its user.

use core::marker::PhantomData;

use mmkit_addr::{Order, Pfn};
use mmkit_frame::{Env, Frames};
use mmkit_page::{Counting, Uncounted};

use crate::{FailureSlot, ReserveSlot, TailSlot};

/// An environment that a memory map can be put together from.
///
/// The memory map has its lock while it takes frames and gives them back, counts and reports events, and calls the methods of
/// this trait. What they do may look frames up, claim blocks and let them rest, as an allocator does whose blocks are
/// those of the memory map; it must not call what takes the lock: populating, removing, online and offline, restoring,
/// checks.
///
/// # Safety
///
/// * `tail_slots` returns the same slots every time, however the value is moved.
/// * The slots serve one memory map, which finds them empty, and no other after it: what one could not give back stays
///   in them.
pub unsafe trait VmemmapEnv: Env {
    /// How the mappings of the memory map's folios are counted; [`Uncounted`] where they are not.
    type Counts: Counting;

    /// Room for the shared tails: one slot for each node, zone and order that has compounds at the same time.
    fn tail_slots(&self) -> &[TailSlot];

    /// Hears the type of a pageblock, the `2^order` frames from `first` on, of a range that is about to be published with
    /// [`Populate::pageblocks`](crate::Populate::pageblocks). Does nothing as provided.
    ///
    /// Every pageblock that the range has a part in comes once, in ascending order, those in the middle of a compound
    /// like all others. It is called under the memory map's lock and must not call the memory map. Linux:
    /// `set_pageblock_migratetype`.
    fn set_pageblock(&self, first: Pfn, order: Order, kind: u8) {
        let _ = (first, order, kind);
    }

    /// Room for reserves of frames to restore optimised compounds with: one slot for each node and order that has one.
    /// None as provided. Always the same ones, as for the tail slots.
    fn reserves(&self) -> &[ReserveSlot] {
        &[]
    }

    /// Room for bad frames of compounds, until these are restored. None as provided. Always the same ones, as for the tail
    /// slots.
    fn failures(&self) -> &[FailureSlot] {
        &[]
    }

    /// Whether compounds may be optimised until somebody says otherwise. Linux: `hugetlb_free_vmemmap=`.
    fn optimises(&self) -> bool {
        true
    }

    /// Takes a frame of descriptors back that never was the allocator's to give, or not in the usual way: boot memory.
    /// `false`, as provided, leaves it to the allocator. Linux: `free_bootmem_page`.
    ///
    /// # Safety
    ///
    /// As for [`FrameAllocator::deallocate`](mmkit_frame::FrameAllocator::deallocate) of a single frame.
    unsafe fn give_boot(&self, pfn: Pfn) -> bool {
        let _ = pfn;
        false
    }
}

/// Any environment, with `SLOTS` tail slots beside it.
///
/// A memory map owns it, so the slots serve that one only.
#[derive(Debug)]
pub struct WithTailSlots<E, const SLOTS: usize, C = Uncounted> {
    env: E,
    slots: [TailSlot; SLOTS],
    counts: PhantomData<fn() -> C>,
}

impl<E, const SLOTS: usize> WithTailSlots<E, SLOTS> {
    /// `env`, with empty slots. Nobody counts mappings.
    #[must_use]
    pub fn new(env: E) -> Self {
        Self::counted(env)
    }
}

impl<E, const SLOTS: usize, C> WithTailSlots<E, SLOTS, C> {
    /// `env`, with empty slots. Mappings are counted as `C` says.
    #[must_use]
    pub fn counted(env: E) -> Self {
        Self { env, slots: core::array::from_fn(|_| TailSlot::new()), counts: PhantomData }
    }

    /// The environment without the slots.
    pub const fn env(&self) -> &E {
        &self.env
    }
}

// SAFETY: every call is passed on to one value.
unsafe impl<E: Env, const SLOTS: usize, C> Env for WithTailSlots<E, SLOTS, C> {
    type Allocator = E::Allocator;
    type Map = E::Map;
    type Lock = E::Lock;
    type Read = E::Read;
    type Events = E::Events;

    fn frames(&self) -> &Frames<E::Allocator, E::Map> {
        self.env.frames()
    }

    fn read_side(&self) -> &E::Read {
        self.env.read_side()
    }

    fn events(&self) -> &E::Events {
        self.env.events()
    }
}

// SAFETY: the slots are a field that is never exchanged. The value is neither `Clone` nor implements this trait by
// reference, so whoever has it by value, one memory map, is the only one.
unsafe impl<E: Env, const SLOTS: usize, C: Counting> VmemmapEnv for WithTailSlots<E, SLOTS, C> {
    type Counts = C;

    fn tail_slots(&self) -> &[TailSlot] {
        &self.slots
    }
}
