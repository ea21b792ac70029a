// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worked examples of two slots, as they ran on a live kernel; and the exact answer of power sums beside each.
#![cfg(not(mmkit_loom))]

mod common;

use common::{mm, order, play, ptes, with_frozen, words};
use mmkit_folio::{
    Checked, ENTIRELY_MAPPED, Mapcounts, Mapping, MmId, NoPageMapcount, PageMapcount, PowerSums, Rmap, Slots,
    TwoSlots, average, map_new_anon,
};
use mmkit_page::{Folio, MemMap};

/// `T | slot0 slot1 | SHARED`.
fn show(slots: Slots) -> String {
    let slot = |slot: Option<(MmId, u32)>| match slot {
        None => "-".to_owned(),
        Some((id, count)) => format!("{}:{count}", char::from(b'A' + id.get() as u8 - 1)),
    };
    let [first, second] = slots.slots().map(slot);
    format!("{} | {first} {second} | {}", slots.total(), u8::from(slots.is_marked_shared()))
}

/// Plays `script` on a folio of 512 pages, in a map of each strategy. If it starts with `new A+..`, those are the
/// first mappings of a folio that nobody has seen.
fn play_on<C: Mapcounts>(
    script: &str,
    look: impl for<'f, 'm> Fn(&'f dyn Fn() -> mmkit_page::Words<'f>, bool, u32),
) {
    with_frozen::<C>(9, |map, frozen| {
        let folio = start(map, frozen, script);
        play(
            &folio,
            script
                .strip_prefix("new ")
                .map_or(script, |rest| rest.split_once(' ').map_or("", |(_, rest)| rest)),
        );
        look(&|| words(&folio), folio.maybe_mapped_shared(), folio.entire_mappings());
    });
}

fn start<'m, M: MemMap<Counts: Mapcounts>>(
    map: &'m M,
    frozen: mmkit_page::Frozen<'m, M>,
    script: &str,
) -> Folio<'m, M> {
    let Some(rest) = script.strip_prefix("new ") else { return frozen.into_folio() };
    let head = frozen.pfn();
    let mapping = match rest.split_whitespace().next().unwrap() {
        "A+P" => Mapping::Pmd,
        step => ptes(0, step[2..].parse().unwrap()),
    };
    let _ = map_new_anon(frozen, mm(1), mapping).unwrap();
    map.try_get(head).unwrap()
}

/// The state of two slots after `script` is `state`, they answer `shared`, and power sums answer what is true.
#[track_caller]
fn example(script: &str, state: &str, shared: bool) {
    play_on::<NoPageMapcount<TwoSlots>>(script, |words, answer, _| {
        assert_eq!(show(TwoSlots::state(&words())), state, "{script}");
        assert_eq!(answer, shared, "{script}");
    });
    play_on::<NoPageMapcount<Checked>>(script, |words, truth, _| {
        assert_eq!(truth, Checked::counts(&words()).len() > 1);
        play_on::<NoPageMapcount<PowerSums>>(script, |_, answer, _| assert_eq!(answer, truth, "{script}"));
        assert!(shared || !truth, "a false \"exclusive\": {script}");
    });
}

const E7: &str = "A+4 B+4 C+5";
const E10: &str = "A+4 B+4 C+5 A-4 B-4";
const E13: &str = "A+4 B+4 C+5 B-4";
const E25: &str = "new A+P B+P";

#[test]
fn example_e01_a_new_folio_has_one_owner() {
    example("new A+512", "512 | A:512 - | 0", false);
}

#[test]
fn example_e02_a_fork_takes_the_second_slot() {
    example("new A+512 B+512", "1024 | A:512 B:512 | 1", true);
}

#[test]
fn example_e03_a_child_that_unmaps_some_keeps_its_slot() {
    example("new A+512 B+512 B-10", "1014 | A:512 B:502 | 1", true);
}

#[test]
fn example_e04_a_child_that_exits_leaves_one_owner() {
    example("new A+512 B+512 B-512", "512 | A:512 - | 0", false);
}

#[test]
fn example_e05_the_owner_may_have_the_second_slot() {
    example("A+4 B+4 A-4", "4 | - B:4 | 0", false);
}

#[test]
fn example_e06_a_freed_slot_is_taken_again() {
    example("A+4 B+4 A-4 C+2", "6 | C:2 B:4 | 1", true);
}

#[test]
fn example_e07_the_third_is_not_tracked() {
    example(E7, "13 | A:4 B:4 | 1", true);
}

#[test]
fn example_e08_the_third_leaves_two() {
    example("A+4 B+4 C+5 C-5", "8 | A:4 B:4 | 1", true);
}

#[test]
fn example_e09_a_tracked_survivor_is_known() {
    example("A+4 B+4 C+5 C-5 B-4", "4 | A:4 - | 0", false);
}

#[test]
fn example_e10_an_untracked_survivor_is_not() {
    example(E10, "5 | - - | 1", true);
}

#[test]
fn example_e11_one_mapping_is_never_shared() {
    example("A+4 B+4 C+5 A-4 B-4 C-4", "1 | - - | 1", false);
}

#[test]
fn example_e12_the_last_unmap_starts_anew() {
    example("A+4 B+4 C+5 A-4 B-4 C-4 C-1", "0 | - - | 0", false);
}

#[test]
fn example_e13_two_of_three_are_left() {
    example(E13, "9 | A:4 - | 1", true);
}

#[test]
fn example_e14_a_late_slot_misses_what_came_before() {
    example("A+4 B+4 C+5 B-4 C+3", "12 | A:4 C:3 | 1", true);
}

#[test]
fn example_e15_a_survivor_with_a_deficit_is_not_known() {
    example("A+4 B+4 C+5 B-4 C+3 A-4", "8 | - C:3 | 1", true);
}

#[test]
fn example_e16_nor_while_it_unmaps() {
    example("A+4 B+4 C+5 B-4 C+3 A-4 C-2", "6 | - C:1 | 1", true);
}

#[test]
fn example_e21_an_untracked_leaver_lets_the_tracked_recover() {
    example("A+4 B+4 C+5 B-4 C-5", "4 | A:4 - | 0", false);
}

#[test]
fn example_e24_mapping_a_page_twice_is_not_sharing_it() {
    example("C+2 C+2", "4 | C:4 - | 0", false);
}

#[test]
fn example_e25_a_pmd_is_one_mapping() {
    example(E25, "2 | A:1 B:1 | 1", true);
    play_on::<NoPageMapcount<TwoSlots>>(E25, |_, _, entire| assert_eq!(entire, 2));
}

#[test]
fn example_e26_a_child_splits_its_pmd() {
    example("new A+P B+P B/", "513 | A:1 B:512 | 1", true);
    with_frozen::<PageMapcount<TwoSlots>>(9, |map, frozen| {
        let folio = start(map, frozen, E25);
        play(&folio, "B+P B/");
        assert_eq!(folio.entire_mappings(), 1);
        assert_eq!(folio.pages_mapped(), (512, true));
        assert_eq!(words(&folio).half[3].load(std::sync::atomic::Ordering::Relaxed), ENTIRELY_MAPPED + 512);
        assert_eq!(folio.page_mappings(7), Some(2));
        assert_eq!(folio.count(), 514);
    });
    // In two steps, as a kernel does it, the state is the same.
    example("new A+P B+P B+512 B-P", "513 | A:1 B:512 | 1", true);
}

#[test]
fn example_e27_the_child_exits() {
    example("new A+P B+P B/ B-512", "1 | A:1 - | 0", false);
}

#[test]
fn example_e28_a_slot_of_16_bits_is_given_up() {
    let limit = 1 << 15;
    let mut slots = Slots::default();
    slots.add(mm(1), limit, limit).unwrap();
    assert_eq!(show(slots), "32768 | A:32768 - | 0");
    slots.add(mm(1), 1, limit).unwrap();
    assert_eq!(show(slots), "32769 | - - | 1");
    slots.remove(mm(1), 1).unwrap();
    assert!(slots.maybe_mapped_shared(), "false, until nobody maps it");
    slots.remove(mm(1), limit).unwrap();
    assert_eq!(show(slots), "0 | - - | 0");
}

#[test]
fn example_e29_leavers_take_turns() {
    example("C+2 B+1 C-1", "2 | C:1 B:1 | 1", true);
    example("C+2 B+1 C-1 C-1", "1 | - B:1 | 0", false);
}

#[test]
fn the_average_is_rounded_and_never_0_while_mapped() {
    for (mappings, entire, expected) in [
        (0, 0, 0),
        (1, 0, 1),
        (1, 1, 1),
        (3, 3, 3),
        (255, 0, 1),
        (768, 0, 2),
        (767, 0, 1),
        (513, 1, 2),
        (258, 2, 3),
    ] {
        assert_eq!(average(mappings, entire, order(9)), expected, "{mappings} {entire}");
    }
}
