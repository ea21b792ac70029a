// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs against a byte model, under every strategy.

mod common;

use common::run;
use mmkit_folio::{Checked, Mapcounts, NoPageMapcount, PageMapcount, PowerSums, TwoSlots, Untracked};

fn programs<C: Mapcounts>() {
    let statistics = run::<C>(0x5eed, 1500);
    assert!(statistics.copied > 0 && statistics.exclusive > 0, "{statistics:?}");
}

macro_rules! under {
    ($($name:ident: $strategy:ty,)*) => {$(
        #[test]
        fn $name() {
            programs::<$strategy>();
        }
    )*};
}

under! {
    power_sums: NoPageMapcount<PowerSums>,
    power_sums_with_page_counts: PageMapcount<PowerSums>,
    two_slots: NoPageMapcount<TwoSlots>,
    two_slots_with_page_counts: PageMapcount<TwoSlots>,
    checked: NoPageMapcount<Checked>,
    checked_with_page_counts: PageMapcount<Checked>,
    untracked: NoPageMapcount<Untracked>,
    untracked_with_page_counts: PageMapcount<Untracked>,
}

/// What decides copy or reuse has no wrong answer in `PowerSums`, so the same program does the same.
#[test]
fn power_sums_decides_as_checked_does() {
    let exact = run::<NoPageMapcount<Checked>>(0xabcdef, 1000);
    assert_eq!(run::<NoPageMapcount<PowerSums>>(0xabcdef, 1000), exact);
}
