// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads and one tail page: who makes it, who uses it, who frees it.
#![cfg(mmkit_loom)]

use loom::sync::Arc;
use loom::thread;
use mmkit_addr::Pfn;
use mmkit_sync::atomic::UnsafeCell;
use mmkit_sync::mutant::must_fail;
use mmkit_vmemmap::{TailSlot, models};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Frame {
    Untouched,
    Tails,
    Free,
}

/// A slot, and a frame for each thread to make tails in.
struct Shared {
    slot: TailSlot,
    frames: [UnsafeCell<Frame>; 2],
}

// SAFETY: frames are written by their makers before they are published and by whoever freed them, and read by users in
// between; the model checker fails where that is not so.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Arc<Self> {
        let frames = [UnsafeCell::new(Frame::Untouched), UnsafeCell::new(Frame::Untouched)];
        Arc::new(Self { slot: TailSlot::new(), frames })
    }

    fn at(&self, pfn: Pfn) -> &UnsafeCell<Frame> {
        &self.frames[pfn.get() as usize]
    }

    fn write(&self, pfn: Pfn, from: Frame, to: Frame) {
        self.at(pfn).with_mut(|frame| {
            // SAFETY: the writer has the frame for itself.
            let found = unsafe { frame.replace(to) };
            assert_eq!(found, from, "{pfn:?}");
        });
    }

    /// What `populate` does: becomes a user of the tails that there are, or of its own. Whether they were its own.
    fn enter(&self, own: u64) -> bool {
        let own = Pfn::new(own).unwrap();
        loop {
            if models::join(&self.slot).is_some() {
                return false;
            }
            self.write(own, Frame::Untouched, Frame::Tails);
            if models::publish(&self.slot, own) {
                return true;
            }
            self.write(own, Frame::Tails, Frame::Untouched);
        }
    }

    /// What a user may do: read the tails that are published.
    fn look(&self, pfn: Pfn) {
        // SAFETY: the caller is a user.
        let found = self.at(pfn).with(|frame| unsafe { frame.read() });
        assert_eq!(found, Frame::Tails, "{pfn:?}");
    }

    /// What `remove` does.
    fn leave(&self) {
        if let Some(pfn) = models::leave(&self.slot) {
            self.write(pfn, Frame::Tails, Frame::Free);
        }
    }

    fn count(&self, what: Frame) -> usize {
        // SAFETY: all other threads have ended.
        self.frames.iter().filter(|frame| frame.with(|frame| unsafe { frame.read() }) == what).count()
    }
}

/// Both populate; then both remove.
fn two_makers() {
    loom::model(|| {
        let shared = Shared::new();
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || other.enter(1));
        let mine = shared.enter(0);
        let theirs = thread.join().unwrap();
        assert!(mine != theirs, "one of two is the maker: {mine}, {theirs}");
        assert_eq!((shared.count(Frame::Tails), shared.count(Frame::Untouched)), (1, 1));
        shared.leave();
        assert_eq!(shared.count(Frame::Tails), 1);
        shared.leave();
        assert_eq!((shared.count(Frame::Free), shared.count(Frame::Tails)), (1, 0));
        assert_eq!(models::join(&shared.slot), None);
    });
}

#[test]
fn scenario_22_one_of_two_tail_pages_survives_2_threads() {
    two_makers();
}

#[test]
fn scenario_22_two_survivors_are_caught_2_threads() {
    must_fail("tails-publish-by-store", two_makers);
}

/// One user leaves while another comes, looks, and leaves.
fn leave_against_join() {
    loom::model(|| {
        let shared = Shared::new();
        assert!(shared.enter(0));
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            // Joined or made: then looks at what it has.
            let own = other.enter(1);
            other.look(Pfn::new(u64::from(own)).unwrap());
            other.leave();
        });
        shared.look(Pfn::ZERO);
        shared.leave();
        thread.join().unwrap();
        assert_eq!(shared.count(Frame::Tails), 0, "leaked");
        assert_eq!(models::join(&shared.slot), None);
    });
}

#[test]
fn the_last_user_frees_2_threads() {
    leave_against_join();
}

/// A user that came by `join` looks at what the maker wrote.
fn maker_and_user() {
    loom::model(|| {
        let shared = Shared::new();
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            if let Some(pfn) = models::join(&other.slot) {
                other.look(pfn);
                other.leave();
            }
        });
        shared.enter(0);
        thread.join().unwrap();
        shared.leave();
        assert_eq!(shared.count(Frame::Free), 1);
    });
}

#[test]
fn a_user_sees_what_the_maker_wrote_2_threads() {
    maker_and_user();
}

#[test]
fn unordered_users_are_caught_2_threads() {
    must_fail("tails-join-relaxed", maker_and_user);
    must_fail("tails-leave-relaxed", leave_against_join);
}
