// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books against a plain array of pages.

use mmkit_addr::{Order, Pfn};
use proptest::prelude::*;

use super::*;

const MARKER: u64 = 1 << 20;

fn own(first: u64) -> Backing {
    Backing::Own { first: Pfn::new(first).unwrap() }
}

fn tails(first: u64, order: u8) -> Backing {
    Backing::Tails(TailRun { first: Pfn::new(first).unwrap(), order: Order::new(order).unwrap() })
}

#[test]
fn an_empty_window_is_one_mapping() {
    let extents = Extents::new(16, MARKER);
    assert_eq!(extents.mappings(), 1);
    assert_eq!(extents.pieces(3..5), [Piece { pages: 3..5, offset: MARKER + 3, access: Access::None }]);
    assert_eq!(extents.first_taken(0..16), None);
    assert_eq!(extents.all_mapped(2..4), Err(2));
    assert_eq!(extents.all_mapped(2..2), Ok(vec![]));
}

#[test]
fn neighbours_with_neighbouring_frames_are_one_mapping() {
    let mut extents = Extents::new(16, MARKER);
    extents.set(4..5, Some(Stand::Mapped(own(10))));
    assert_eq!(extents.mappings(), 3);
    extents.set(5..7, Some(Stand::Mapped(own(11))));
    assert_eq!(extents.mappings(), 3);
    assert_eq!(extents.all_mapped(4..7), Ok(vec![(4..7, own(10))]));
    extents.set(7..8, Some(Stand::Mapped(own(14))));
    assert_eq!(extents.mappings(), 4);
    // The middle of the first goes.
    extents.set(5..6, None);
    assert_eq!(extents.mappings(), 6);
    assert_eq!(extents.all_mapped(6..8), Ok(vec![(6..7, own(12)), (7..8, own(14))]));
    assert_eq!(extents.all_mapped(4..8), Err(5));
}

#[test]
fn tails_that_were_mapped_bit_by_bit_join_to_runs() {
    let mut extents = Extents::new(32, MARKER);
    for page in 1..32 {
        extents.set(page..page + 1, Some(Stand::Mapped(tails(100, 3))));
    }
    // One vacant page, and runs 1..8, 8..16, 16..24, 24..32.
    assert_eq!(extents.mappings(), 5);
    let pieces = extents.pieces(6..17);
    let parts: Vec<_> = pieces.iter().map(|piece| (piece.pages.clone(), piece.offset)).collect();
    assert_eq!(parts, [(6..8, 106), (8..16, 100), (16..17, 100)]);
    assert!(pieces.iter().all(|piece| piece.access == Access::Read));
}

#[test]
fn leftovers_count_and_are_vacant_and_lost_pages_are_neither() {
    let mut extents = Extents::new(8, MARKER);
    extents.set(0..4, Some(Stand::Left(tails(0, 1))));
    extents.set(4..5, Some(Stand::Lost));
    assert_eq!(extents.mappings(), 4);
    assert_eq!(extents.first_taken(0..4), None);
    assert_eq!(extents.first_taken(0..8), Some(4));
    assert_eq!(extents.all_mapped(0..4), Err(0));
    assert_eq!(extents.lost().collect::<Vec<_>>(), vec![4..5]);
    extents.set(0..4, Some(Stand::Mapped(own(7))));
    assert_eq!(extents.mappings(), 3);
}

/// What stands behind one page: access and page of the file.
fn model_page(stand: Option<Stand>, index: u64, page: u64) -> (Access, u64) {
    match stand {
        None => (Access::None, MARKER + page),
        Some(Stand::Mapped(Backing::Own { first })) => (Access::Write, first.get() + index),
        Some(Stand::Mapped(Backing::Tails(run))) => {
            (Access::Read, run.first.get() + page % run.order.frames())
        }
        Some(other) => unreachable!("{other:?} is not made here"),
    }
}

fn stands() -> impl Strategy<Value = Option<Stand>> {
    prop_oneof![
        Just(None),
        (0_u64..40).prop_map(|first| Some(Stand::Mapped(own(first)))),
        (0_u8..4).prop_map(|order| Some(Stand::Mapped(tails(64, order)))),
    ]
}

proptest! {
    #[test]
    fn books_agree_with_an_array(steps in prop::collection::vec((0_u64..24, 1_u64..12, stands()), 1..40)) {
        const PAGES: u64 = 24;
        let mut extents = Extents::new(PAGES, MARKER);
        let mut model: Vec<(Access, u64)> = (0..PAGES).map(|page| model_page(None, 0, page)).collect();
        for (start, length, stand) in steps {
            let range = start..(start + length).min(PAGES);
            extents.set(range.clone(), stand);
            for page in range.clone() {
                model[page as usize] = model_page(stand, page - range.start, page);
            }
            let pages: Vec<(Access, u64)> = extents
                .pieces(0..PAGES)
                .into_iter()
                .flat_map(|piece| piece.pages.clone().map(move |page| (piece.access, piece.offset + page - piece.pages.start)))
                .collect();
            prop_assert_eq!(&pages, &model);
            // Never fewer than the kernel needs: neighbours that it can join are one. Never more than pieces.
            let joints = model.windows(2).filter(|pair| pair[1] != (pair[0].0, pair[0].1 + 1)).count() as u64;
            prop_assert!(extents.mappings() > joints);
            prop_assert_eq!(extents.mappings(), extents.pieces(0..PAGES).len() as u64);
            let vacant = |page: &u64| model[*page as usize].0 == Access::None;
            prop_assert_eq!(extents.first_taken(range.clone()), range.clone().find(|page| !vacant(page)));
            prop_assert_eq!(extents.all_mapped(range.clone()).err(), range.clone().find(vacant));
        }
    }
}
