// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a memory map takes from its user.

use core::marker::PhantomData;

use mmkit_frame::{Env, Frames};
use mmkit_page::{Counting, Uncounted};

use crate::TailSlot;

/// An environment that a memory map can be put together from.
///
/// # Safety
///
/// * `tail_slots` returns the same slots every time, however the value is moved.
/// * The slots serve one memory map, which finds them empty, and no other after it: what one could not give back stays
///   in them.
pub unsafe trait VmemmapEnv: Env {
    /// How the mappings of the memory map's folios are counted; [`Uncounted`] where they are not.
    type Counts: Counting;

    /// Room for the shared tails: one slot for each node, zone and order that has had compounds. A slot keeps its name
    /// when its tails are gone, and when the populate that named it failed.
    fn tail_slots(&self) -> &[TailSlot];
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
