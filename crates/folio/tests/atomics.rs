// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomic read-modify-writes of each operation, counted, for each strategy and batch.
#![cfg(not(mmkit_loom))]

mod common;

use common::{mm, ptes, unpin, with_frozen};
use mmkit_folio::{
    Mapcounts, Mapping, NoPageMapcount, PageMapcount, PowerSums, Rmap, Tracker, TwoSlots, Untracked,
    map_new_anon,
};
use mmkit_page::{Folio, MemMap};
use mmkit_sync::atomic::read_modify_writes;

/// What `op` returns, and its atomics.
fn count<R>(op: impl FnOnce() -> R) -> (R, u64) {
    let before = read_modify_writes();
    let result = op();
    (result, read_modify_writes() - before)
}

/// Atomics of `op`, which succeeds.
fn of<R, E: core::fmt::Debug>(op: impl FnOnce() -> Result<R, E>) -> u64 {
    let (result, atomics) = count(op);
    drop(result.unwrap());
    atomics
}

/// One atomic for the references, one for the mappings; with `PageMapcount` one for each of `n` pages too, and one if
/// the number of mapped pages changes.
fn batches<C: Mapcounts>() {
    let per_page = u64::from(C::PER_PAGE);
    for n in [1, 2, 16, 512] {
        with_frozen::<C>(9, |map, frozen| {
            let head = frozen.pfn();
            let (account, new) = count(|| map_new_anon(frozen, mm(1), ptes(0, 512)));
            let _ = account.unwrap();
            assert_eq!(new, 0, "a new folio takes no lock and no atomic");
            let folio = map.try_get(head).unwrap();
            // The folio was exclusive, and the pages that still are have to be told from the others: a lock and its end, a
            // note that tails have flags, and these.
            let shared = if n < 512 { 3 + 512 - n } else { 1 };
            assert_eq!(of(|| folio.fork(mm(2), ptes(0, n))), 2 + shared + n * per_page, "fork of {n}");
            assert_eq!(of(|| folio.fork(mm(3), ptes(0, n))), 2 + n * per_page, "second fork of {n}");
            unmap(&folio, 3, ptes(0, n), 1 + n * per_page);
            unmap(&folio, 2, ptes(0, n), 1 + n * per_page);
            // The pages of the first are mapped by nobody else, so that fewer are mapped.
            unmap(&folio, 1, ptes(0, n), 1 + (n + 1) * per_page + u64::from(n < 512));
        });
        with_frozen::<C>(9, |_, frozen| {
            let folio = frozen.into_folio();
            assert_eq!(of(|| folio.add_mappings(mm(1), ptes(0, n))), 2 + (n + 1) * per_page, "file, {n}");
            assert_eq!(of(|| folio.fork(mm(2), ptes(0, n))), 2 + n * per_page, "file, fork of {n}");
        });
    }
}

/// `atomics` to unmap, one to give the references back. The first time that an anonymous folio is found mapped in part it
/// is flagged: with `NoPageMapcount` as soon as fewer mappings than pages are left, too.
fn unmap<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, who: u32, mapping: Mapping, atomics: u64) {
    let (unmapped, counted) = count(|| folio.remove_mappings(mm(who), mapping).unwrap());
    assert_eq!(counted, atomics, "unmap of {mapping:?} by {who}");
    let references = unmapped.references;
    assert_eq!(count(|| drop(references)).1, 1);
}

/// One for the references and one for the lock, under which the entry is counted too; `Untracked` has no lock, and takes
/// one for each.
fn entire<C: Mapcounts>() {
    let per_page = u64::from(C::PER_PAGE);
    let counts = if C::Tracker::NAME == "Untracked" { 2 } else { 1 };
    with_frozen::<C>(9, |map, frozen| {
        let head = frozen.pfn();
        assert_eq!(of(|| map_new_anon(frozen, mm(1), Mapping::Pmd)), 0);
        let folio = map.try_get(head).unwrap();
        assert_eq!(of(|| folio.fork(mm(2), Mapping::Pmd)), 1 + counts + 1, "and the flag");
        assert_eq!(of(|| folio.fork(mm(3), Mapping::Pmd)), 1 + counts);
        unmap(&folio, 3, Mapping::Pmd, counts);
        // With `PageMapcount` 512 pages and their number.
        assert_eq!(of(|| folio.remap(mm(2))), 1 + counts + 513 * per_page);
        // The last entry of its kind: its pages are mapped by nothing but PTEs now.
        unmap(&folio, 1, Mapping::Pmd, counts + per_page);
    });
}

fn write_faults<T: Tracker>() {
    with_frozen::<NoPageMapcount<T>>(4, |map, frozen| {
        let head = frozen.pfn();
        let _ = map_new_anon(frozen, mm(1), ptes(0, 16)).unwrap();
        let folio = map.try_get(head).unwrap();
        assert_eq!(of(|| folio.write_fault(3, 1)), 0, "exclusive");
        let _ = folio.fork(mm(2), ptes(0, 16)).unwrap();
        assert_eq!(of(|| folio.write_fault(3, 1)), 0, "shared is seen without the lock");
        drop(folio.remove_mappings(mm(2), ptes(0, 16)).unwrap());
        assert_eq!(of(|| folio.write_fault(3, 0)), 0, "so is a reference too many");
        let tracked = T::NAME != "Untracked";
        assert_eq!(
            of(|| folio.write_fault(3, 1)),
            if tracked { 3 } else { 0 },
            "once, a note that tails have flags"
        );
        assert_eq!(of(|| folio.write_fault(4, 1)), if tracked { 2 } else { 0 }, "the lock and the flag");
    });
}

#[test]
fn a_batch_costs_two_atomics_and_one_for_each_page_that_is_counted_singly() {
    batches::<NoPageMapcount<Untracked>>();
    batches::<NoPageMapcount<TwoSlots>>();
    batches::<NoPageMapcount<PowerSums>>();
    batches::<PageMapcount<Untracked>>();
    batches::<PageMapcount<TwoSlots>>();
    batches::<PageMapcount<PowerSums>>();
}

#[test]
fn an_entry_that_maps_everything_costs_two_and_one_more_without_a_lock() {
    entire::<NoPageMapcount<Untracked>>();
    entire::<NoPageMapcount<TwoSlots>>();
    entire::<NoPageMapcount<PowerSums>>();
    entire::<PageMapcount<Untracked>>();
    entire::<PageMapcount<TwoSlots>>();
    entire::<PageMapcount<PowerSums>>();
}

#[test]
fn a_write_fault_takes_the_lock_only_when_the_peeks_leave_it_open() {
    write_faults::<Untracked>();
    write_faults::<TwoSlots>();
    write_faults::<PowerSums>();
}

#[test]
fn a_folio_of_one_page_costs_two() {
    with_frozen::<NoPageMapcount<PowerSums>>(0, |_, frozen| {
        let folio = frozen.into_folio();
        assert_eq!(of(|| folio.add_mappings(mm(1), ptes(0, 1))), 2);
        unmap(&folio, 1, ptes(0, 1), 1);
        assert_eq!(of(|| folio.pin(1)), 1, "pins are references");
        assert_eq!(of(|| unpin(&folio, 1).map(drop)), 1);
    });
}

/// One for the whole folio. Where a part differs, one for each page: those outside are written out once, with a lock, its
/// end, and a note that tails have flags.
#[test]
fn sharing_costs_one_or_one_for_each_page_that_differs_from_the_others() {
    with_frozen::<NoPageMapcount<PowerSums>>(9, |map, frozen| {
        let head = frozen.pfn();
        let _ = map_new_anon(frozen, mm(1), ptes(0, 512)).unwrap();
        let folio = map.try_get(head).unwrap();
        assert_eq!(of(|| folio.try_share(ptes(0, 512))), 1);
        assert_eq!(of(|| folio.set_exclusive(ptes(0, 512))), 1);
        assert_eq!(of(|| folio.set_exclusive(ptes(3, 4))), 0, "it is already");
        assert_eq!(of(|| folio.try_share(ptes(100, 30))), 3 + 482);
        assert_eq!(of(|| folio.try_share(ptes(100, 31))), 1, "of which thirty are not exclusive any more");
        assert_eq!(of(|| folio.try_share(ptes(0, 512))), 481);
        assert_eq!(of(|| folio.try_share(ptes(0, 512))), 0);
        assert_eq!(of(|| folio.set_exclusive(ptes(7, 2))), 2);
        assert_eq!(of(|| folio.set_exclusive(ptes(0, 512))), 1);
        assert_eq!(
            of(|| folio.try_share(ptes(0, 512))),
            3,
            "the mark, and what the two pages have since before"
        );
    });
}

#[test]
fn pins_cost_two_whatever_their_number() {
    with_frozen::<NoPageMapcount<PowerSums>>(9, |_, frozen| {
        let folio = frozen.into_folio();
        for n in [1, 512, 60_000] {
            assert_eq!(of(|| folio.pin(n)), 2);
            assert_eq!(of(|| unpin(&folio, n).map(drop)), 2, "and the references");
        }
    });
}
