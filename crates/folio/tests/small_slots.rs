// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two slots as a machine of 32 bits has them: ids of 15 bits, counts of 16, all in two words.
#![cfg(not(mmkit_loom))]

mod common;

use common::mm;
use mmkit_folio::{MmId, Slots};
use proptest::prelude::*;

/// The highest count of a slot: one more than the highest number of 16 bits with a sign, since what is stored is one less.
const LIMIT: u32 = 1 << 15;
const MAX_ID: u32 = (1 << 15) - 1;

/// Ids with LOCK (bit 15) and SHARED (bit 31), and counts less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    ids: u32,
    counts: [i16; 2],
}

impl Packed {
    const LOCK: u32 = 1 << 15;
    const SHARED: u32 = 1 << 31;

    /// Fails where something does not fit.
    fn new(slots: &Slots) -> Self {
        let [first, second] = slots.slots().map(|slot| match slot {
            None => (0, -1),
            Some((id, count)) => {
                assert!(id.get() <= MAX_ID, "{id:?}");
                (id.get(), i16::try_from(count - 1).expect("a slot that would not fit was given up"))
            }
        });
        let shared = if slots.is_marked_shared() { Self::SHARED } else { 0 };
        let ids = first.0 | second.0 << 16 | shared;
        assert_eq!(ids & Self::LOCK, 0, "no id reaches the lock");
        Self { ids, counts: [first.1, second.1] }
    }

    fn slots(self) -> [Option<(MmId, u32)>; 2] {
        let slot = |at: usize| {
            let id = self.ids >> (16 * at) & MAX_ID;
            Some((MmId::new(id)?, (i32::from(self.counts[at]) + 1) as u32))
        };
        [slot(0), slot(1)]
    }

    fn is_shared(self) -> bool {
        self.ids & Self::SHARED != 0
    }
}

#[test]
fn the_highest_id_and_the_highest_count_fit_beside_lock_and_shared() {
    let mut slots = Slots::default();
    slots.add(mm(MAX_ID), LIMIT, LIMIT).unwrap();
    slots.add(mm(MAX_ID - 1), LIMIT, LIMIT).unwrap();
    let packed = Packed::new(&slots);
    assert_eq!(packed, Packed { ids: 0xfffe_7fff, counts: [0x7fff, 0x7fff] });
    assert_eq!((packed.slots(), packed.is_shared()), (slots.slots(), true));
    assert_eq!(Packed::new(&Slots::default()), Packed { ids: 0, counts: [-1, -1] });
}

/// A batch that fits no slot takes none; the slot of one who has one is given up, and a newcomer takes its place.
#[test]
fn a_count_that_does_not_fit_gives_the_slot_up_until_nobody_maps() {
    let (a, b) = (mm(MAX_ID), mm(7));
    let mut slots = Slots::default();
    slots.add(a, LIMIT + 1, LIMIT).unwrap();
    assert_eq!((slots.slots(), slots.is_marked_shared()), ([None, None], true));
    slots.add(b, 5, LIMIT).unwrap();
    assert_eq!(slots.slots(), [Some((b, 5)), None]);
    slots.add(b, LIMIT - 4, LIMIT).unwrap();
    assert_eq!(slots.slots(), [None, None]);
    slots.remove(a, LIMIT + 1).unwrap();
    assert!(slots.maybe_mapped_shared(), "b alone, and nobody knows");
    slots.remove(b, LIMIT + 1).unwrap();
    assert_eq!(slots, Slots::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(64)))]

    /// What holds with wide ids and counts holds here, but for what is exact there (I7, I9) and batches (I8).
    #[test]
    fn no_false_exclusive_however_often_slots_are_given_up(
        steps in prop::collection::vec((0..5_usize, prop_oneof![1..9_u32, 1..40_000_u32], any::<bool>()), 1..300),
    ) {
        let ids: Vec<MmId> = [1, 2, 300, MAX_ID - 1, MAX_ID].map(mm).into();
        let mut counts = [0_u32; 5];
        let mut slots = Slots::default();
        for (who, k, map) in steps {
            let k = if map { k } else { k.min(counts[who]) };
            if k == 0 {
                continue;
            }
            if map {
                slots.add(ids[who], k, LIMIT).unwrap();
                counts[who] += k;
            } else {
                slots.remove(ids[who], k).unwrap();
                counts[who] -= k;
            }
            let packed = Packed::new(&slots);
            prop_assert_eq!(packed.slots(), slots.slots());
            prop_assert_eq!(packed.is_shared(), slots.is_marked_shared());
            let total: u32 = counts.iter().sum();
            prop_assert_eq!(slots.total(), total);
            let owners = counts.iter().filter(|&&count| count > 0).count();
            prop_assert!(slots.maybe_mapped_shared() || owners < 2, "{:?} of {:?}", slots, counts);
            for (id, count) in slots.slots().into_iter().flatten() {
                let at = ids.iter().position(|&other| other == id).unwrap();
                prop_assert!(count > 0 && count <= counts[at].min(LIMIT), "I1, I2, I6: {:?} of {:?}", slots, counts);
                prop_assert!(count < total || owners == 1, "I3");
            }
            if let [Some(first), Some(second)] = slots.slots() {
                prop_assert!(first.0 != second.0 && slots.is_marked_shared(), "I1, I4");
            }
            if total == 0 {
                prop_assert_eq!(slots, Slots::default(), "I5");
            }
        }
    }
}
