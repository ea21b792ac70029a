// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shared tails: one run of frames for each node, zone and order.

use mmkit_addr::{NodeId, Order, Pfn, ZoneId};
use mmkit_page::Place;
use mmkit_sync::atomic::{AtomicU64, Ordering};
use mmkit_sync::mutant;

use crate::TailRun;

/// Which tails: those of all compounds of one order in one zone of one node are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailKey {
    pub(crate) place: Place,
    pub(crate) order: Order,
}

impl TailKey {
    const VALID: u64 = 1 << 63;

    /// The key as a word that is not zero.
    pub(crate) const fn bits(self) -> u64 {
        let place = (self.place.node.get() as u64) << 16 | (self.place.zone.get() as u64) << 8;
        Self::VALID | place | self.order.get() as u64
    }

    /// The key in a word, if one is.
    pub(crate) fn from_bits(word: u64) -> Option<Self> {
        if word & Self::VALID == 0 {
            return None;
        }
        let node = NodeId::new((word >> 16) as u16)?;
        let zone = ZoneId::new((word >> 8) as u8)?;
        Some(Self { place: Place::new(node, zone), order: Order::new(word as u8)? })
    }
}

/// Room for the tails of one node, zone and order. All bits zero is an empty slot.
///
/// The frames exist while somebody uses them: the first user makes them, the last one gives them back. Frame number and
/// users are one word, so that both happen at one moment. Users may come from any number of threads: where two make
/// the frames at once, one of them publishes its own, and the other gives its back and uses those.
///
/// | bits of `state` | what |
/// |---|---|
/// | 24..=63 | first frame, plus one; 0 while there are no frames |
/// | 0..=23 | users |
#[derive(Debug)]
pub struct TailSlot {
    /// The key with a valid bit, and log2 of the frames of a run; 0 while nobody has the slot.
    key: AtomicU64,
    state: AtomicU64,
}

/// The tails have as many users as can be counted, or their frame number cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyUsers;

impl TailSlot {
    const USERS_BITS: u32 = 24;
    const RUN_SHIFT: u32 = 32;
    const RUN_MASK: u8 = 0x3f;
    /// Users that one slot can count. A user is a section with compounds of the slot's order.
    pub const MAX_USERS: u64 = (1 << Self::USERS_BITS) - 1;

    /// An empty slot.
    #[cfg(not(mmkit_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { key: AtomicU64::new(0), state: AtomicU64::new(0) }
    }

    /// An empty slot. Not `const` under loom, whose atomics register themselves.
    #[cfg(mmkit_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self { key: AtomicU64::new(0), state: AtomicU64::new(0) }
    }

    /// The slot of `key` with runs of `run` among `slots`: the one that has its name, or else the first that has none,
    /// which gets it. `None` when all are taken by others. Under the memory map's lock, since names come and go.
    pub(crate) fn find(slots: &[Self], key: TailKey, run: Order) -> Option<&Self> {
        let wanted = key.bits() | (run.get() as u64) << Self::RUN_SHIFT;
        let named = |name| slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == name);
        let slot = named(wanted).or_else(|| named(0))?;
        slot.key.store(wanted, Ordering::Relaxed);
        Some(slot)
    }

    /// Takes the name away where there are no tails. Under the memory map's lock.
    pub(crate) fn forget_if_unused(&self) {
        if self.state.load(Ordering::Relaxed) == 0 {
            self.key.store(0, Ordering::Relaxed);
        }
    }

    /// The tails in use: which, how many users they have, and their frames.
    pub(crate) fn used(&self) -> Option<(TailKey, u64, TailRun)> {
        let (key, state) = (self.key.load(Ordering::Relaxed), self.state.load(Ordering::Relaxed));
        let order = Order::new((key >> Self::RUN_SHIFT) as u8 & Self::RUN_MASK)?;
        let run = TailRun { first: Self::pfn(state)?, order };
        Some((TailKey::from_bits(key)?, state & Self::MAX_USERS, run))
    }

    /// The order of the compounds whose tails are in use.
    pub(crate) fn used_order(&self) -> Option<Order> {
        self.used().map(|(key, ..)| key.order)
    }

    /// The number of frames that the tails in use are made of, 0 where there are none.
    pub(crate) fn frames(&self) -> u64 {
        self.used().map_or(0, |(.., run)| run.order.frames())
    }

    /// Adds `users` users, if there are frames. `Ok(None)` means that the caller has to make them.
    pub(crate) fn join(&self, users: u64) -> Result<Option<Pfn>, TooManyUsers> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let Some(pfn) = Self::pfn(state) else { return Ok(None) };
            if users > Self::MAX_USERS - (state & Self::MAX_USERS) {
                return Err(TooManyUsers);
            }
            // Acquire: pairs with the Release of `publish`: the bytes of the frames are seen.
            let order = mutant!("tails-join-relaxed", Ordering::Acquire, Ordering::Relaxed);
            match self.state.compare_exchange_weak(state, state + users, order, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(pfn)),
                Err(now) => state = now,
            }
        }
    }

    /// Offers frames that the caller made, with `users` users. `Ok(true)` means that they are the ones; `Ok(false)`
    /// that somebody else was first: the caller gives its own back and [joins](Self::join).
    pub(crate) fn publish(&self, first: Pfn, users: u64) -> Result<bool, TooManyUsers> {
        let frame = first.get() + 1;
        if users > Self::MAX_USERS || frame >> (u64::BITS - Self::USERS_BITS) != 0 {
            return Err(TooManyUsers);
        }
        let new = frame << Self::USERS_BITS | users;
        // Release: pairs with the Acquire of `join`.
        let done = mutant!(
            "tails-publish-by-store",
            self.state.compare_exchange(0, new, Ordering::Release, Ordering::Relaxed).is_ok(),
            {
                let empty = self.state.load(Ordering::Relaxed) == 0;
                self.state.store(new, Ordering::Release);
                empty
            }
        );
        Ok(done)
    }

    /// Takes `users` users away. The last one gets the frames, to free them when nobody can reach them any more.
    pub(crate) fn leave(&self, users: u64) -> Option<Pfn> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let left = (state & Self::MAX_USERS).saturating_sub(users);
            let new = if left == 0 { 0 } else { state & !Self::MAX_USERS | left };
            // AcqRel: pairs with itself: the last to leave sees what all others did with the frames.
            let order = mutant!("tails-leave-relaxed", Ordering::AcqRel, Ordering::Relaxed);
            match self.state.compare_exchange_weak(state, new, order, Ordering::Relaxed) {
                Ok(_) => return if left == 0 { Self::pfn(state) } else { None },
                Err(now) => state = now,
            }
        }
    }

    fn pfn(state: u64) -> Option<Pfn> {
        Pfn::new((state >> Self::USERS_BITS).checked_sub(1)?)
    }
}

impl Default for TailSlot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(mmkit_loom)))]
mod tests {
    use super::*;

    fn key(node: u16, order: u8) -> TailKey {
        let place = Place::new(NodeId::new(node).unwrap(), ZoneId::MAX);
        TailKey { place, order: Order::new(order).unwrap() }
    }

    #[test]
    fn a_key_survives_its_word() {
        for node in [0, 1, NodeId::MAX.get()] {
            for order in [0, 9, 51] {
                assert_eq!(TailKey::from_bits(key(node, order).bits()), Some(key(node, order)));
            }
        }
        assert_eq!(TailKey::from_bits(0), None);
    }

    #[test]
    fn each_key_has_its_own_slot_until_none_is_left() {
        let slots = [const { TailSlot::new() }; 2];
        let first = TailSlot::find(&slots, key(0, 9), Order::ZERO).unwrap();
        let second = TailSlot::find(&slots, key(1, 9), Order::ZERO).unwrap();
        assert!(!core::ptr::eq(first, second));
        assert!(core::ptr::eq(TailSlot::find(&slots, key(0, 9), Order::ZERO).unwrap(), first));
        assert!(TailSlot::find(&slots, key(0, 18), Order::ZERO).is_none());
        // A slot without tails can be had by another key, and is found by its own wherever it stands.
        assert_eq!(second.publish(Pfn::ZERO, 1), Ok(true));
        first.forget_if_unused();
        second.forget_if_unused();
        assert!(core::ptr::eq(TailSlot::find(&slots, key(1, 9), Order::ZERO).unwrap(), second));
        assert!(core::ptr::eq(TailSlot::find(&slots, key(0, 18), Order::ZERO).unwrap(), first));
    }

    #[test]
    fn the_last_user_gets_the_frames() {
        let slot = TailSlot::new();
        let frames = Pfn::new(7).unwrap();
        assert_eq!(slot.join(1), Ok(None));
        assert_eq!(slot.publish(frames, 2), Ok(true));
        assert_eq!(slot.publish(Pfn::new(8).unwrap(), 1), Ok(false));
        assert_eq!(slot.join(1), Ok(Some(frames)));
        assert_eq!(slot.leave(2), None);
        assert_eq!(slot.leave(1), Some(frames));
        assert_eq!(slot.join(1), Ok(None));
    }

    #[test]
    fn users_are_counted_up_to_the_limit_and_not_past_it() {
        let slot = TailSlot::new();
        assert_eq!(slot.publish(Pfn::ZERO, TailSlot::MAX_USERS), Ok(true));
        assert_eq!(slot.join(1), Err(TooManyUsers));
        assert_eq!(slot.leave(1), None);
        assert_eq!(slot.join(1), Ok(Some(Pfn::ZERO)));
        assert_eq!(TailSlot::new().publish(Pfn::MAX, 1), Err(TooManyUsers));
    }
}
