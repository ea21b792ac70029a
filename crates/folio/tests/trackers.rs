// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trackers against a plain count for each address space.
//!
//! Claims about two slots, cited by the checks:
//!
//! * I1: a slot has an id exactly while it has a count, and no two slots have one id.
//! * I2: a slot counts no more than its address space maps; both together no more than T.
//! * I3: a slot that counts T belongs to the only owner: SHARED is never clear while two map the folio.
//! * I4: two taken slots, or two owners, mean SHARED.
//! * I5: where nobody maps the folio, everything is 0.
//! * I6: who maps nothing has no slot.
//! * I7: while there were never more than two at a time since T was 0, SHARED is exact.
//! * I8: a batch is as good as its parts.
//! * I9: SHARED is stale, with one owner of more than one mapping, exactly if that one has no slot or one that counts
//!   less than it maps.
#![cfg(not(mmkit_loom))]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use common::mm;
use mmkit_folio::{
    Checked, CountWords, MapError, MmId, PowerSums, Slots, Sums, Tracker, TwoSlots, Untracked,
};
use proptest::prelude::*;

const MAX: u32 = i32::MAX as u32;

fn owners(counts: &[u32]) -> usize {
    counts.iter().filter(|&&count| count > 0).count()
}

/// I1 to I7 and I9 for address spaces 1, 2, .. with `counts` mappings. `crowded`: more than two mapped at a time since T
/// was 0.
fn check(slots: &Slots, counts: &[u32], crowded: bool) {
    let context = || format!("{slots:?} of {counts:?}");
    let count_of = |id: MmId| counts[id.get() as usize - 1];
    let (total, taken) = (slots.total(), slots.slots());
    assert_eq!(total, counts.iter().sum::<u32>(), "T: {}", context());
    for (id, count) in taken.into_iter().flatten() {
        assert!(count > 0, "I1: {}", context());
        assert!(count <= count_of(id), "I2: {}", context());
        assert!(count_of(id) > 0, "I6: {}", context());
        assert!(count < total || owners(counts) == 1, "I3: {}", context());
    }
    if let [Some(first), Some(second)] = taken {
        assert_ne!(first.0, second.0, "I1: {}", context());
        assert!(first.1 + second.1 <= total, "I2: {}", context());
        assert!(slots.is_marked_shared(), "I4: {}", context());
    }
    assert!(slots.is_marked_shared() || owners(counts) < 2, "I4, no false \"exclusive\": {}", context());
    assert!(slots.maybe_mapped_shared() || owners(counts) < 2, "the answer: {}", context());
    if total == 0 {
        assert_eq!(*slots, Slots::default(), "I5");
    }
    if !crowded {
        assert_eq!(slots.is_marked_shared(), owners(counts) == 2, "I7: {}", context());
    }
    if owners(counts) == 1 && total > 1 {
        let survivor = mm(counts.iter().position(|&count| count > 0).unwrap() as u32 + 1);
        let counted = taken.into_iter().flatten().find(|slot| slot.0 == survivor).map(|slot| slot.1);
        assert_eq!(slots.is_marked_shared(), counted != Some(count_of(survivor)), "I9: {}", context());
    }
}

/// Every state that three address spaces can bring a folio of three pages into, each page mapped once at most by each.
/// `step` returns the next state, or `None` where the tracker refused.
fn explore<S: Copy + Ord + Default>(
    add: impl Fn(S, MmId, u32) -> S,
    remove: impl Fn(S, MmId, u32) -> Result<S, MapError>,
    check: impl Fn(&S, &[u32; 3], bool),
) -> usize {
    let start = (S::default(), [0_u32; 3], false);
    let mut seen = BTreeSet::from([start]);
    let mut queue = VecDeque::from([start]);
    while let Some((state, counts, crowded)) = queue.pop_front() {
        check(&state, &counts, crowded);
        for who in 0..3 {
            for k in 1..=3 {
                let id = mm(who as u32 + 1);
                let mut next = Vec::new();
                if counts[who] + k <= 3 {
                    next.push((add(state, id, k), counts[who] + k));
                }
                match remove(state, id, k) {
                    Ok(left) if k <= counts[who] => next.push((left, counts[who] - k)),
                    // What it never mapped, and cannot be seen.
                    Ok(_) => {}
                    Err(error) => assert!(k > counts[who], "{error}"),
                }
                for (state, count) in next {
                    let mut counts = counts;
                    counts[who] = count;
                    let total: u32 = counts.iter().sum();
                    let next = (state, counts, total > 0 && (crowded || owners(&counts) > 2));
                    if seen.insert(next) {
                        queue.push_back(next);
                    }
                }
            }
        }
    }
    seen.len()
}

#[test]
fn two_slots_never_say_exclusive_of_what_is_shared_in_any_state_of_3_mms_and_3_pages() {
    let states = explore(
        |mut slots: Slots, id, k| {
            slots.add(id, k, MAX).unwrap();
            slots
        },
        |mut slots, id, k| slots.remove(id, k).map(|_| slots),
        |slots, counts, crowded| check(slots, counts, crowded),
    );
    // 64 combinations of counts, most of them with several histories.
    assert!(states > 200, "{states}");
}

#[test]
fn power_sums_are_exact_in_every_state_of_3_mms_and_3_pages() {
    let states = explore(
        |mut sums: Sums, id, k| {
            sums.add(id, k).unwrap();
            sums
        },
        |mut sums, id, k| sums.remove(id, k).map(|_| sums),
        |sums, counts, _| {
            assert_eq!(sums.mapped_shared(), owners(counts) > 1, "{sums:?} of {counts:?}");
            let owner = counts.iter().position(|&count| count > 0).map(|at| mm(at as u32 + 1));
            assert_eq!(sums.owner(), owner.filter(|_| owners(counts) == 1));
        },
    );
    // The sums depend on the counts alone: 64 of them, 27 of which are reached with and without a crowd before.
    assert_eq!(states, 64 + crowd_free());
}

/// Counts with one or two owners, which were reached both with and without a third before. (No owner: always afresh.
/// Three: always crowded.)
fn crowd_free() -> usize {
    (0..64_u32)
        .filter(|n| (1..=2).contains(&[n & 3, n >> 2 & 3, n >> 4].iter().filter(|c| **c > 0).count()))
        .count()
}

/// What one address space does: `who`, how many, and whether it maps or unmaps.
type Step = (usize, u32, bool);

/// Plays steps, each as one batch or one by one; unmaps at most what there is. `look` sees the counts after each.
fn play<T: Tracker>(
    words: &CountWords,
    ids: &[MmId],
    steps: &[Step],
    singly: bool,
    mut look: impl FnMut(&[u32], bool),
) {
    let mut counts = vec![0; ids.len()];
    let mut crowded = false;
    for &(who, k, map) in steps {
        let who = who % ids.len();
        let k = if map { k } else { k.min(counts[who]) };
        if k == 0 {
            continue;
        }
        let (times, each) = if singly { (k, 1) } else { (1, k) };
        for _ in 0..times {
            if map {
                T::add(&words.words(), ids[who], each).unwrap();
                counts[who] += each;
            } else {
                T::remove(&words.words(), ids[who], each).unwrap();
                counts[who] -= each;
            }
        }
        crowded = owners(&counts) > 0 && (crowded || owners(&counts) > 2);
        look(&counts, crowded);
    }
}

fn steps(who: usize, most: u32, len: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..who, 1..=most, prop::bool::weighted(0.48)), 1..len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(64)))]

    #[test]
    fn two_slots_keep_their_invariants(steps in steps(5, 12, 600)) {
        let ids: Vec<_> = (1..=5).map(mm).collect();
        let words = CountWords::new();
        play::<TwoSlots>(&words, &ids, &steps, false, |counts, crowded| {
            let slots = TwoSlots::state(&words.words());
            check(&slots, counts, crowded);
            assert_eq!(TwoSlots::maybe_mapped_shared(&words.words()), slots.maybe_mapped_shared());
            assert!(TwoSlots::sole_owner(&words.words()).is_none() || owners(counts) == 1);
        });
    }

    #[test]
    fn power_sums_are_exact_after_every_step_of_up_to_64_mms(
        ids in prop::collection::btree_set(prop_oneof![1..=80_u32, 1..=MAX, MAX - 40..=MAX], 1..=64),
        steps in steps(64, 700, 300),
    ) {
        let ids: Vec<_> = ids.into_iter().map(mm).collect();
        let words = CountWords::new();
        let truth = CountWords::new();
        let mut last: BTreeMap<MmId, u32> = BTreeMap::new();
        play::<PowerSums>(&words, &ids, &steps, false, |counts, _| {
            for (id, &count) in ids.iter().zip(counts) {
                let before = last.insert(*id, count).unwrap_or(0);
                if count > before {
                    Checked::add(&truth.words(), *id, count - before).unwrap();
                } else if count < before {
                    Checked::remove(&truth.words(), *id, before - count).unwrap();
                }
            }
            let (words, truth) = (words.words(), truth.words());
            let owners = Checked::counts(&truth);
            assert_eq!(PowerSums::maybe_mapped_shared(&words), owners.len() > 1);
            assert_eq!(PowerSums::maybe_mapped_shared(&words), Checked::maybe_mapped_shared(&truth));
            assert_eq!(PowerSums::sole_owner(&words), Checked::sole_owner(&truth));
            assert_eq!(PowerSums::state(&words).total(), owners.values().sum::<u32>());
        });
    }

    #[test]
    fn a_batch_is_as_good_as_its_parts(steps in steps(5, 9, 200)) {
        let ids: Vec<_> = (1..=5).map(mm).collect();
        let [a, b, c, d] = core::array::from_fn(|_| CountWords::new());
        // I8, at the end of every prefix that `steps` can be.
        play::<TwoSlots>(&a, &ids, &steps, false, |_, _| {});
        play::<TwoSlots>(&b, &ids, &steps, true, |_, _| {});
        prop_assert_eq!(TwoSlots::state(&a.words()), TwoSlots::state(&b.words()));
        play::<PowerSums>(&c, &ids, &steps, false, |_, _| {});
        play::<PowerSums>(&d, &ids, &steps, true, |_, _| {});
        prop_assert_eq!(PowerSums::state(&c.words()), PowerSums::state(&d.words()));
    }

    #[test]
    fn remapping_is_adding_and_removing(steps in steps(4, 9, 40), who in 0..4_usize, adding in 1..600_u32) {
        fn both<T: Tracker, S: PartialEq + core::fmt::Debug>(
            steps: &[Step], id: MmId, adding: u32, state: impl Fn(&CountWords) -> S,
        ) {
            let ids: Vec<_> = (1..=4).map(mm).collect();
            let [once, twice] = core::array::from_fn(|_| CountWords::new());
            for words in [&once, &twice] {
                play::<T>(words, &ids, steps, false, |_, _| {});
                assert!(T::add_entire(&words.words(), id).unwrap().1, "the first");
            }
            let (total, last) = T::remap(&once.words(), id, adding).unwrap();
            T::add(&twice.words(), id, adding).unwrap();
            assert_eq!(T::remove_entire(&twice.words(), id).unwrap(), (total, last));
            assert!(last);
            assert_eq!(state(&once), state(&twice));
            assert_eq!(dump(&once).0, dump(&twice).0, "T and E");
        }
        let id = mm(who as u32 + 1);
        both::<TwoSlots, _>(&steps, id, adding, |words| TwoSlots::state(&words.words()));
        both::<PowerSums, _>(&steps, id, adding, |words| PowerSums::state(&words.words()));
        both::<Checked, _>(&steps, id, adding, |words| Checked::counts(&words.words()));
        both::<Untracked, _>(&steps, id, adding, |_| ());
    }
}

/// All words, as numbers.
fn dump(words: &CountWords) -> ([u32; 4], [u64; 4]) {
    use std::sync::atomic::Ordering::Relaxed;
    let words = words.words();
    (
        words.half.each_ref().map(|half| half.load(Relaxed)),
        words.word.each_ref().map(|word| word.load(Relaxed)),
    )
}

/// `op` is refused as `error`, and no word changes.
#[track_caller]
fn refused(words: &CountWords, op: impl FnOnce() -> Result<u32, MapError>, error: MapError) {
    let before = dump(words);
    assert_eq!(op(), Err(error));
    assert_eq!(dump(words), before, "{error}");
}

fn refuses_limits<T: Tracker>() {
    let words = CountWords::new();
    let lent = words.words();
    refused(&words, || T::add(&lent, mm(1), 0), MapError::Empty);
    refused(&words, || T::remove(&lent, mm(1), 0), MapError::Empty);
    refused(&words, || T::remove(&lent, mm(1), 1), MapError::TooFew { mappings: 0, removing: 1 });
    let over = |mappings, adding: u32| MapError::Overflow { mappings, adding: adding.into() };
    refused(&words, || T::add(&lent, mm(1), MAX + 1), over(0, MAX + 1));
    assert_eq!(T::add(&lent, MmId::MAX, MAX), Ok(MAX));
    assert!(T::NAME == "Untracked" || !T::maybe_mapped_shared(&lent), "{}", T::NAME);
    refused(&words, || T::add(&lent, mm(1), 1), over(MAX, 1));
    refused(&words, || T::add(&lent, MmId::MAX, MAX), over(MAX, MAX));
    refused(
        &words,
        || T::remove(&lent, mm(1), MAX + 1),
        MapError::TooFew { mappings: MAX, removing: MAX + 1 },
    );
    let entire = |result: Result<(u32, bool), MapError>| result.map(|(total, _)| total);
    refused(&words, || entire(T::add_entire(&lent, MmId::MAX)), over(MAX, 1));
    refused(&words, || entire(T::remove_entire(&lent, MmId::MAX)), MapError::EntireNotMapped);
    refused(&words, || entire(T::remap(&lent, MmId::MAX, 2)), MapError::EntireNotMapped);
    assert_eq!(T::remove(&lent, MmId::MAX, 1), Ok(MAX - 1));
    assert_eq!(T::add_entire(&lent, MmId::MAX), Ok((MAX, true)));
    refused(&words, || entire(T::remap(&lent, MmId::MAX, MAX)), over(MAX, MAX));
    assert_eq!(dump(&words).0[..2], [MAX, 1]);
    assert_eq!(T::remove(&lent, MmId::MAX, 2), Ok(MAX - 2));
    assert_eq!(T::remap(&lent, MmId::MAX, 2), Ok((MAX - 1, true)));
    assert_eq!(T::add(&lent, MmId::MAX, 1), Ok(MAX));
    assert_eq!(T::remove(&lent, MmId::MAX, MAX), Ok(0));
    let untouched = dump(&words);
    assert_eq!((untouched.0[0], untouched.1), (0, [0; 4]), "{}", T::NAME);
}

#[test]
fn limits_are_refused_and_nothing_is_changed() {
    refuses_limits::<Untracked>();
    refuses_limits::<TwoSlots>();
    refuses_limits::<PowerSums>();
    refuses_limits::<Checked>();
}

#[test]
fn mappings_of_others_are_not_removed_where_the_state_shows_it() {
    fn shown<T: Tracker>(has: &[(u32, u32)], who: u32, removing: u32) {
        let words = CountWords::new();
        let mut mappings = 0;
        for &(id, count) in has {
            mappings = T::add(&words.words(), mm(id), count).unwrap();
        }
        let error = MapError::NotTheirs { mm: mm(who), removing, mappings };
        refused(&words, || T::remove(&words.words(), mm(who), removing), error);
        if removing == 1 {
            // The owner's entry for the whole folio is not anybody's to take, nor to replace.
            let owner = mm(has[0].0);
            T::add_entire(&words.words(), owner).unwrap();
            T::remove(&words.words(), owner, 1).unwrap();
            let entire = |result: Result<(u32, bool), MapError>| result.map(|(total, _)| total);
            refused(&words, || entire(T::remove_entire(&words.words(), mm(who))), error);
            refused(&words, || entire(T::remap(&words.words(), mm(who), 8)), error);
        }
    }
    // Slots of others that would count more than there is.
    shown::<TwoSlots>(&[(1, 4), (2, 4)], 1, 5);
    shown::<TwoSlots>(&[(1, 4), (2, 4)], 2, 5);
    shown::<TwoSlots>(&[(1, 4)], 2, 1);
    shown::<TwoSlots>(&[(1, 4), (2, 4), (3, 5)], 3, 6);
    // A sum below zero: the first power, the second, and mappings gone but not their sum.
    shown::<PowerSums>(&[(1, 4)], 2, 3);
    shown::<PowerSums>(&[(1, 9)], 4, 2);
    shown::<PowerSums>(&[(2, 4)], 1, 4);
    // No ids have such sums: one of four equal ones replaced.
    shown::<PowerSums>(&[(2, 4)], 1, 1);
    shown::<PowerSums>(&[(5, 512)], 6, 1);
    shown::<PowerSums>(&[(1, 2), (3, 1)], 3, 2);
    for removing in 1..=4 {
        shown::<Checked>(&[(1, 4), (2, 4)], 3, removing);
    }
    shown::<Checked>(&[(1, 4), (2, 4)], 1, 5);
}

#[test]
fn constant_space_does_not_show_every_wrong_removal() {
    // 1 and 3 have two each; 2 has none, and 1 + 3 = 2 + 2.
    fn removed<T: Tracker>() -> Result<u32, MapError> {
        let words = CountWords::new();
        for id in [1, 3, 4] {
            T::add(&words.words(), mm(id), 10).unwrap();
        }
        T::remove(&words.words(), mm(2), 1)
    }
    assert_eq!(removed::<Untracked>(), Ok(29));
    assert_eq!(removed::<TwoSlots>(), Ok(29));
    assert_eq!(removed::<PowerSums>(), Ok(29));
    assert_eq!(removed::<Checked>(), Err(MapError::NotTheirs { mm: mm(2), removing: 1, mappings: 30 }));
}

/// Each removal alone looks possible: two ids go and twice the one half-way between them. The sum of squares grows with
/// every round, until no ids below 2^31 have such a sum.
#[test]
fn wrong_removals_do_not_lead_the_sums_out_of_their_bounds() {
    let k = 1 << 28;
    let (high, middle) = (MmId::MAX, mm(1 << 30));
    let words = CountWords::new();
    let lent = words.words();
    PowerSums::add(&lent, mm(1), k).unwrap();
    PowerSums::add(&lent, high, k).unwrap();
    let mut refused = 0;
    for _ in 0..200 {
        PowerSums::add(&lent, mm(1), k).unwrap();
        PowerSums::add(&lent, high, k).unwrap();
        if let Err(error) = PowerSums::remove(&lent, middle, 2 * k) {
            assert!(matches!(error, MapError::NotTheirs { .. }));
            refused += 1;
            PowerSums::remove(&lent, mm(1), k).unwrap();
            PowerSums::remove(&lent, high, k).unwrap();
        }
        let sums = PowerSums::state(&lent);
        let (total, (s1, s2)) = (sums.total(), sums.powers());
        assert!(total <= MAX && s1 < 1 << 62 && s2 < 1 << 93, "{total} {s1} {s2}");
    }
    assert!(refused > 0);
}

/// Ids 4 and nine times 1, of which 3 goes twice: T = 8, S1 = 7, S2 = 7, and 7 * 7 <= 8 * 7. No eight ids are so few.
#[test]
fn ids_are_not_below_one() {
    let words = CountWords::new();
    for (id, count) in [(1, 9), (4, 1)] {
        PowerSums::add(&words.words(), mm(id), count).unwrap();
    }
    let error = MapError::NotTheirs { mm: mm(3), removing: 2, mappings: 10 };
    refused(&words, || PowerSums::remove(&words.words(), mm(3), 2), error);
}

#[test]
fn a_new_folio_is_as_if_it_were_mapped() {
    fn same<T: Tracker, S: PartialEq + core::fmt::Debug>(state: impl Fn(&CountWords) -> S) {
        for (id, count) in [(1, 1), (7, 512), (MAX, MAX)] {
            let [started, added] = core::array::from_fn(|_| CountWords::new());
            T::start(&started.words(), mm(id), count);
            T::add(&added.words(), mm(id), count).unwrap();
            assert_eq!(state(&started), state(&added));
        }
    }
    same::<TwoSlots, _>(dump);
    same::<PowerSums, _>(dump);
    same::<Untracked, _>(dump);
    same::<Checked, _>(|words| Checked::counts(&words.words()));
}
