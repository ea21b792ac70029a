// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are exclusive, against a list of those that ought to be.
#![cfg(not(mmkit_loom))]

mod common;

use common::{mm, ptes, unpin, with_frozen};
use mmkit_folio::{
    Cow, MapError, Mapcounts, Mapping, NoPageMapcount, PageMapcount, PowerSums, Rmap, Untracked, Why,
    map_new_anon,
};
use mmkit_page::{Folio, MemMap};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Set,
    Share,
    Fork,
}

/// Runs `ops`, each on a part of a folio of `order` whose part `first` is mapped by its owner when it is new.
fn run<C: Mapcounts>(order: u8, first: (u64, u64), ops: &[(Op, u64, u64)]) {
    let pages = 1 << order;
    let part = |(start, count): (u64, u64)| (start % pages, 1 + count % (pages - start % pages));
    with_frozen::<C>(order, |map, frozen| {
        let mut expected = vec![false; pages as usize];
        let head = frozen.pfn();
        let (start, count) = part(first);
        let _ = map_new_anon(frozen, mm(1), ptes(start, count)).unwrap();
        expected[start as usize..(start + count) as usize].fill(true);
        let folio = map.try_get(head).unwrap();
        check(&folio, &expected);
        for &(op, start, count) in ops {
            let (start, count) = part((start, count));
            let mapping = ptes(start, count);
            match op {
                Op::Set => folio.set_exclusive(mapping).unwrap(),
                Op::Share => folio.try_share(mapping).unwrap(),
                Op::Fork => {
                    let _ = folio.fork(mm(2), mapping).unwrap();
                    drop(folio.remove_mappings(mm(2), mapping).unwrap());
                }
            }
            expected[start as usize..(start + count) as usize].fill(matches!(op, Op::Set));
            check(&folio, &expected);
        }
        drop(folio.remove_mappings(mm(1), ptes(start, count)).unwrap());
    });
}

fn check<M: MemMap<Counts: Mapcounts>>(folio: &Folio<'_, M>, expected: &[bool]) {
    let found: Vec<bool> = (0..expected.len() as u64).map(|page| folio.is_exclusive(page)).collect();
    assert_eq!(found, expected);
    assert!(!folio.is_exclusive(expected.len() as u64), "past the end");
}

proptest! {
    #[test]
    fn as_a_whole_and_in_part_it_is_what_was_done_to_each_page(
        order in 0u8..=5,
        first in any::<(u64, u64)>(),
        ops in proptest::collection::vec(
            (prop_oneof![Just(Op::Set), Just(Op::Share), Just(Op::Fork)], any::<u64>(), any::<u64>()),
            0..40,
        ),
    ) {
        run::<NoPageMapcount<PowerSums>>(order, first, &ops);
        run::<PageMapcount<Untracked>>(order, first, &ops);
    }
}

/// By one entry, by entries for each page, and by one again: the flags are the pages', however they are mapped.
#[test]
fn an_entry_for_the_whole_folio_is_exclusive_if_all_of_its_pages_are() {
    with_frozen::<NoPageMapcount<PowerSums>>(4, |map, frozen| {
        let head = frozen.pfn();
        let _ = map_new_anon(frozen, mm(1), Mapping::Pmd).unwrap();
        let folio = map.try_get(head).unwrap();
        check(&folio, &[true; 16]);
        let _ = folio.remap(mm(1)).unwrap();
        check(&folio, &[true; 16]);
        folio.try_share(ptes(9, 1)).unwrap();
        let expected: [bool; 16] = std::array::from_fn(|page| page != 9);
        check(&folio, &expected);
        let again = || {
            let _ = folio.add_mappings(mm(1), Mapping::Pmd).unwrap();
            drop(folio.remove_mappings(mm(1), ptes(0, 16)).unwrap());
        };
        again();
        // Page 9 may be somebody else's as well: the whole is not written because page 0 is not.
        let other = folio.try_clone().unwrap();
        let why = Why::References { mappings: 1, held: 1, references: 3 };
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Copy(why)));
        folio.pin(1).unwrap();
        let pinned = MapError::PinnedExclusive { index: 0, pins: 1 };
        assert_eq!(folio.fork(mm(2), Mapping::Pmd), Err(pinned));
        drop(unpin(&folio, 1).unwrap());
        let _ = folio.remap(mm(1)).unwrap();
        check(&folio, &expected);
        again();
        drop(other);
        assert_eq!(folio.write_fault_entire(1), Ok(Cow::Reused));
        check(&folio, &[true; 16]);
        drop(folio.remove_mappings(mm(1), Mapping::Pmd).unwrap());
    });
}

/// A compound that was exclusive in part is optimised by its last owner and used again: what the first pages, whose
/// descriptors stay its own, had for themselves tells nothing.
#[test]
fn flags_of_single_pages_tell_nothing_where_tails_are_shared() {
    with_frozen::<NoPageMapcount<PowerSums>>(7, |map, frozen| {
        let head = frozen.pfn();
        let _ = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        let folio = map.try_get(head).unwrap();
        folio.try_share(ptes(100, 1)).unwrap();
        let gone = folio.remove_mappings(mm(1), ptes(0, 128)).unwrap();
        drop(folio);
        let mut frozen = gone.references.put().unwrap();
        // SAFETY: a compound; none of its descriptors is shared in truth.
        unsafe { frozen.set_shared_tails(true) };
        let _ = map_new_anon(frozen, mm(1), ptes(0, 128)).unwrap();
        let folio = map.try_get(head).unwrap();
        check(&folio, &[true; 128]);
        let _ = folio.fork(mm(2), ptes(90, 1)).unwrap();
        check(&folio, &[false; 128]);
        folio.pin(1).unwrap();
        let _ = folio.fork(mm(2), ptes(0, 3)).unwrap();
        drop(unpin(&folio, 1).unwrap());
        assert_eq!(folio.write_fault(2, 1), Ok(Cow::Copy(Why::Shared)));
        drop(folio.remove_mappings(mm(2), ptes(90, 1)).unwrap());
        drop(folio.remove_mappings(mm(2), ptes(0, 3)).unwrap());
        drop(folio.remove_mappings(mm(1), ptes(0, 128)).unwrap());
    });
}
