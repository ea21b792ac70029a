// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trackers by themselves with two threads, each model with the threads in both roles.
#![cfg(mmkit_loom)]

mod loom_common;

use loom_common::{mm, race};
use mmkit_folio::{CountWords, PowerSums, Tracker, TwoSlots};
use mmkit_sync::atomic::{AtomicU32, Ordering};
use mmkit_sync::mutant::must_fail;

/// The words of one folio, mapped as listed.
fn counted<T: Tracker>(mappings: &[(u32, u32)]) -> CountWords {
    let words = CountWords::new();
    for &(id, count) in mappings {
        T::add(&words.words(), mm(id), count).unwrap();
    }
    words
}

fn two_add_and_remove<T: Tracker>() {
    race(
        || counted::<T>(&[]),
        |words| {
            T::add(&words.words(), mm(1), 2).unwrap();
            T::remove(&words.words(), mm(1), 1).unwrap();
        },
        |words| {
            T::add(&words.words(), mm(2), 3).unwrap();
            T::remove(&words.words(), mm(2), 3).unwrap();
        },
        |words| {
            assert_eq!(T::sole_owner(&words.words()), Some(mm(1)));
            assert!(!T::maybe_mapped_shared(&words.words()));
            assert_eq!(T::remove(&words.words(), mm(1), 1), Ok(0));
        },
    );
}

#[test]
fn two_mms_add_and_remove_2_threads_3_preemptions() {
    two_add_and_remove::<TwoSlots>();
    two_add_and_remove::<PowerSums>();
    for mutant in ["bitlock-load-then-store", "bitlock-relaxed-lock", "bitlock-relaxed-unlock"] {
        must_fail(mutant, two_add_and_remove::<TwoSlots>);
        must_fail(mutant, two_add_and_remove::<PowerSums>);
    }
}

/// One leaves, a third comes: the second and the third share.
fn one_leaves_while_a_third_comes<T: Tracker>() {
    race(
        || counted::<T>(&[(1, 1), (2, 1)]),
        |words| assert!(T::remove(&words.words(), mm(1), 1).is_ok()),
        |words| assert!(T::add(&words.words(), mm(3), 1).is_ok()),
        |words| {
            assert!(T::maybe_mapped_shared(&words.words()));
            assert_eq!(T::sole_owner(&words.words()), None);
        },
    );
}

#[test]
fn one_mm_leaves_while_another_comes_2_threads_3_preemptions() {
    one_leaves_while_a_third_comes::<TwoSlots>();
    one_leaves_while_a_third_comes::<PowerSums>();
    must_fail("slots-first-slot-is-alone", one_leaves_while_a_third_comes::<TwoSlots>);
}

/// The ids of the two that stay are such that, of the sums before and after a third comes, one in between looks as if
/// all were one's.
fn peek_while_two_stay<T: Tracker>() {
    race(
        || counted::<T>(&[(1, 1), (2, 2)]),
        |words| {
            T::add(&words.words(), mm(1), 1).unwrap();
            T::add(&words.words(), mm(3), 1).unwrap();
            T::remove(&words.words(), mm(3), 1).unwrap();
        },
        |words| assert!(T::maybe_mapped_shared(&words.words()), "two map it all the time"),
        |words| assert!(T::maybe_mapped_shared(&words.words())),
    );
}

fn peek_while_one_stays<T: Tracker>() {
    race(
        || counted::<T>(&[(2, 2)]),
        |words| {
            T::add(&words.words(), mm(2), 2).unwrap();
            T::remove(&words.words(), mm(2), 1).unwrap();
        },
        |words| assert!(!T::maybe_mapped_shared(&words.words()), "one maps it all the time"),
        |words| assert!(!T::maybe_mapped_shared(&words.words())),
    );
}

#[test]
fn a_peek_during_an_update_2_threads_3_preemptions() {
    peek_while_two_stay::<TwoSlots>();
    peek_while_two_stay::<PowerSums>();
    peek_while_one_stays::<TwoSlots>();
    peek_while_one_stays::<PowerSums>();
    must_fail("slots-leaver-clears-shared", peek_while_two_stay::<TwoSlots>);
    must_fail("sums-peek-at-the-sums", peek_while_two_stay::<PowerSums>);
    must_fail("sums-peek-at-the-sums", peek_while_one_stays::<PowerSums>);
}

/// Another comes, with its reference: under the lock the references are as many as the mappings, and yet not all one's.
fn sole_user_while_another_comes<T: Tracker>() {
    race(
        || (counted::<T>(&[(1, 2)]), AtomicU32::new(2)),
        |(words, references)| {
            references.fetch_add(1, Ordering::Relaxed);
            T::add(&words.words(), mm(2), 1).unwrap();
        },
        |(words, references)| {
            let mut seen = 0;
            let sole = T::sole_user(&words.words(), 0, || {
                seen = references.load(Ordering::Relaxed);
                seen
            });
            assert!(sole.is_err() || seen == 2, "two map it, and one was told that it is alone");
        },
        |_| {},
    );
}

#[test]
fn a_decision_while_another_mm_comes_2_threads_3_preemptions() {
    sole_user_while_another_comes::<TwoSlots>();
    sole_user_while_another_comes::<PowerSums>();
    must_fail("cow-shared-not-rechecked", sole_user_while_another_comes::<TwoSlots>);
    must_fail("cow-shared-not-rechecked", sole_user_while_another_comes::<PowerSums>);
}
