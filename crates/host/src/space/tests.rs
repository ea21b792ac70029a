// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel does only when it runs out of memory half way, done by hand.

use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::*;

const NODE: NodeId = NodeId::ZERO;

fn space() -> Option<(HostFrames, HostSpace)> {
    let frames = HostFrames::new(64).map_err(|error| println!("skipped: {error}")).ok()?;
    let budget = MappingBudget { limit: u64::MAX, others: 0 };
    let limit = 16 << (frames.memory().shift() - 6);
    let space = HostSpace::new(&frames, limit, Order::ZERO, budget).unwrap();
    Some((frames, space))
}

fn own(first: u64) -> Backing {
    Backing::Own { first: Pfn::new(first).unwrap() }
}

#[test]
fn pages_that_are_as_they_should_be_are_left_alone() {
    let Some((_frames, space)) = space() else { return };
    let mut extents = space.extents.lock();
    space.mend(&mut extents, 3..9);
    assert_eq!((extents.mappings(), extents.first_taken(0..16)), (1, None));
}

#[test]
fn a_gap_is_reserved_again() {
    let Some((_frames, space)) = space() else { return };
    // Another thread of this test may be given the gap before it is filled; then the space has lost it.
    let filled = (0..16).any(|page| {
        // SAFETY: nobody uses the page, and `mend` is told of it at once.
        unsafe { space.window.remove(page..page + 1) };
        let mut extents = space.extents.lock();
        space.mend(&mut extents, page..page + 1);
        extents.first_taken(page..page + 1).is_none() && space.window.holds(&extents.pieces(page..page + 1))
    });
    assert!(filled);
}

#[test]
fn what_another_was_given_is_never_touched_again() {
    let Some((_frames, mut space)) = space() else { return };
    let page = 1 << space.base_shift();
    let address = space.addresses().start + 4 * page;
    let at = ptr::with_exposed_provenance_mut(address);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: a page of the space that nobody uses; from here on it plays the part of somebody else's memory.
    let theirs = unsafe { mmap_anonymous(at, page, ProtFlags::READ | ProtFlags::WRITE, flags) }.unwrap();
    // SAFETY: mapped above for writing.
    unsafe { theirs.cast::<u64>().write(42) };
    {
        let mut extents = space.extents.lock();
        space.mend(&mut extents, 4..5);
        assert_eq!(extents.first_taken(0..16), Some(4));
    }
    // SAFETY: refused.
    assert_eq!(unsafe { space.map(3..6, own(0), NODE) }, Err(MapError::Occupied { page: 4 }));
    // SAFETY: frames of this test.
    assert_eq!(unsafe { space.map(3..4, own(0), NODE) }, Ok(()));
    // SAFETY: refused.
    assert_eq!(unsafe { space.unmap(3..5) }.err(), Some(MapError::Missing { page: 4 }));
    // SAFETY: refused.
    assert_eq!(unsafe { space.put_over(3..5, own(8)) }.err(), Some(MapError::Missing { page: 4 }));
    assert_eq!(space.extents.get_mut().lost().collect::<Vec<_>>(), vec![4..5]);
    drop(space);
    // SAFETY: mapped above; the space left it alone.
    assert_eq!(unsafe { theirs.cast::<u64>().read() }, 42);
    // SAFETY: mapped above, and used no more.
    unsafe { munmap(theirs, page) }.unwrap();
}

#[test]
fn a_failed_replacement_is_put_back() {
    let Some((frames, space)) = space() else { return };
    // SAFETY: frames of this test, which nobody else knows.
    unsafe { space.map(0..8, own(0), NODE) }.unwrap();
    let new: Vec<Piece> = pieces_of(0..4, own(20)).collect();
    // SAFETY: pages of the space, read by nobody now.
    unsafe { space.window.put(&new[0]) }.unwrap();
    let extents = space.extents.lock();
    assert!(!space.window.holds(&extents.pieces(0..8)));
    // As if the second half could not be mapped, and was left as it was.
    space.put_back(&extents, 0..4, 4..8);
    assert!(space.window.holds(&extents.pieces(0..16)));
    drop(frames);
}

#[test]
fn what_cannot_be_taken_back_is_covered_by_the_next() {
    let Some((_frames, space)) = space() else { return };
    let mut extents = space.extents.lock();
    // SAFETY: pages of the space that nobody uses.
    unsafe { space.window.put(&pieces_of(2..6, own(9)).next().unwrap()) }.unwrap();
    extents.set(2..6, Some(Stand::Left(own(9))));
    assert!(space.window.holds(&extents.pieces(0..16)));
    drop(extents);
    assert!(!space.is_mapped(2));
    // SAFETY: frames of this test.
    unsafe { space.map(0..4, own(30), NODE) }.unwrap();
    let mut extents = space.extents.lock();
    assert_eq!(extents.all_mapped(0..6), Err(4));
    assert!(space.window.holds(&extents.pieces(0..16)));
    space.take_back(&mut extents, 4..6, own(11));
    assert_eq!(extents.mappings(), 2);
    assert!(space.window.holds(&extents.pieces(0..16)));
}
