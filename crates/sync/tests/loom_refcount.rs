// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference count: lookups against the last put and against freezing, overflow, and words that must not be written.
#![cfg(mmkit_loom)]

mod both;

use both::both;
use loom::sync::Arc;
use loom::thread;
use mmkit_sync::atomic::UnsafeCell;
use mmkit_sync::mutant::must_fail;
use mmkit_sync::{Counted, GetError, Put, ReadSide, Readers, RefCount};

const TAG: u32 = 5;

/// A counted object. Loom checks that its body is read under references and written by a unique owner.
struct Object {
    count: RefCount,
    body: UnsafeCell<bool>,
    readers: Readers,
}

// SAFETY: `body` is accessed under the rules of the count; a model that does otherwise fails.
unsafe impl Sync for Object {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Object {}

impl Object {
    fn new(count: u32, alive: bool) -> Self {
        let (count, body) = (RefCount::new(count, TAG), UnsafeCell::new(alive));
        Self { count, body, readers: Readers::new() }
    }

    fn read(&self) -> bool {
        // SAFETY: the caller holds a reference.
        self.body.with(|body| unsafe { *body })
    }

    fn write(&self, alive: bool) {
        // SAFETY: the caller owns the object.
        self.body.with_mut(|body| unsafe { *body = alive });
    }

    /// Drops one reference, and frees if it was the last; says whether it was.
    fn put(&self) -> bool {
        let last = self.count.put(1).unwrap() == Put::Last(TAG);
        if last {
            assert!(self.read(), "freed twice");
            self.write(false);
        }
        last
    }
}

fn try_get_against_last_put() {
    let lookup = |object: &Object| match object.count.try_get(1, |tag| tag == TAG) {
        Ok(tag) => {
            assert_eq!(tag, TAG);
            assert!(object.read(), "used after free");
            object.put()
        }
        Err(error) => {
            assert_eq!(error, GetError::Zero);
            false
        }
    };
    both(
        || Object::new(1, true),
        Object::put,
        lookup,
        |object, put, looked_up| {
            assert!(put ^ looked_up, "freed by both or by neither");
            assert_eq!(object.count.load(), Counted { count: 0, tag: TAG });
        },
    );
}

#[test]
fn try_get_against_last_put_2_threads() {
    try_get_against_last_put();
}

#[test]
fn try_get_against_last_put_mutants_fail_2_threads() {
    must_fail("refcount-look-then-add", try_get_against_last_put);
    must_fail("refcount-put-relaxed", try_get_against_last_put);
    must_fail("refcount-last-put-no-fence", try_get_against_last_put);
}

fn puts_of_three() {
    loom::model(|| {
        let object = Arc::new(Object::new(3, true));
        let threads: [_; 2] = core::array::from_fn(|_| {
            let object = Arc::clone(&object);
            thread::spawn(move || u32::from(object.read() && object.put()))
        });
        let mut freed = u32::from(object.put());
        for thread in threads {
            freed += thread.join().unwrap();
        }
        assert_eq!(freed, 1);
    });
}

#[test]
fn exactly_one_put_is_the_last_3_threads() {
    puts_of_three();
}

#[test]
fn exactly_one_put_is_the_last_mutants_fail_3_threads() {
    must_fail("refcount-put-relaxed", puts_of_three);
    must_fail("refcount-last-put-no-fence", puts_of_three);
}

fn unfreeze_against_try_get() {
    let publish = |object: &Object| {
        object.write(true);
        object.count.unfreeze(1).unwrap();
    };
    let lookup = |object: &Object| {
        if object.count.try_get(1, |_| true).is_ok() {
            assert!(object.read(), "not published");
        }
    };
    both(|| Object::new(0, false), publish, lookup, |_, (), ()| ());
}

#[test]
fn unfreeze_publishes_to_try_get_2_threads() {
    unfreeze_against_try_get();
}

#[test]
fn unfreeze_publishes_to_try_get_mutants_fail_2_threads() {
    must_fail("refcount-try-get-relaxed", unfreeze_against_try_get);
    must_fail("refcount-unfreeze-relaxed", unfreeze_against_try_get);
}

fn freeze_against_try_get() {
    let freeze = |object: &Object| match object.count.freeze(1) {
        Ok(tag) => {
            assert_eq!(tag, TAG);
            object.write(false);
            object.write(true);
            object.count.unfreeze(1).unwrap();
        }
        Err(found) => assert_eq!(found, 2),
    };
    let lookup = |object: &Object| {
        if object.count.try_get(1, |tag| tag == TAG).is_ok() {
            assert!(object.read(), "half changed");
            assert!(!object.put());
        }
    };
    both(
        || Object::new(1, true),
        freeze,
        lookup,
        |object, (), ()| {
            assert_eq!(object.count.load(), Counted { count: 1, tag: TAG });
        },
    );
}

#[test]
fn freeze_against_try_get_2_threads() {
    freeze_against_try_get();
}

#[test]
fn freeze_against_try_get_mutants_fail_2_threads() {
    must_fail("refcount-freeze-by-store", freeze_against_try_get);
    must_fail("refcount-look-then-add", freeze_against_try_get);
    must_fail("refcount-unfreeze-relaxed", freeze_against_try_get);
    must_fail("refcount-try-get-relaxed", freeze_against_try_get);
}

fn freeze_after_put() {
    let freeze = |object: &Object| {
        if object.count.freeze(1).is_ok() {
            object.write(false);
        }
    };
    let put = |object: &Object| {
        assert!(object.read());
        assert_eq!(object.count.put(1), Ok(Put::Held));
    };
    both(
        || Object::new(2, true),
        freeze,
        put,
        |object, (), ()| {
            assert!(object.count.load().count <= 1);
        },
    );
}

#[test]
fn freeze_sees_what_was_done_before_a_put_2_threads() {
    freeze_after_put();
}

#[test]
fn freeze_sees_what_was_done_before_a_put_mutants_fail_2_threads() {
    must_fail("refcount-freeze-relaxed", freeze_after_put);
    must_fail("refcount-put-relaxed", freeze_after_put);
}

fn retag_against_try_get() {
    // The owner turns it into something else: a lookup of what it was must not get that.
    let retag = |object: &Object| {
        let frozen = object.count.freeze(1).is_ok();
        if frozen {
            object.count.store_unique(1, TAG + 1);
        }
        frozen
    };
    let lookup = |object: &Object| object.count.try_get(1, |tag| tag == TAG).is_ok();
    both(
        || Object::new(1, true),
        retag,
        lookup,
        |object, frozen, got| {
            assert!(!(frozen && got), "a reference to what it no longer is");
            let want = Counted { count: 1 + u32::from(got), tag: TAG + u32::from(frozen) };
            assert_eq!(object.count.load(), want);
        },
    );
}

#[test]
fn identity_and_count_are_checked_together_2_threads() {
    retag_against_try_get();
}

#[test]
fn identity_and_count_mutants_fail_2_threads() {
    must_fail("refcount-look-then-add", retag_against_try_get);
}

fn overflow() {
    let get = |object: &Object| object.count.get(1).is_ok();
    let try_get = |object: &Object| object.count.try_get(1, |_| true).is_ok();
    both(
        || Object::new(RefCount::MAX - 1, true),
        get,
        try_get,
        |object, mine, theirs| {
            assert!(mine ^ theirs, "there was room for exactly one");
            assert_eq!(object.count.load().count, RefCount::MAX);
        },
    );
}

#[test]
fn overflow_is_refused_exactly_2_threads() {
    overflow();
}

#[test]
fn overflow_mutants_fail_2_threads() {
    must_fail("refcount-look-then-add", overflow);
}

fn underflow() {
    loom::model(|| {
        // One reference, three puts: one is right, and the object stays dead.
        let object = Arc::new(Object::new(1, true));
        let threads: [_; 2] = core::array::from_fn(|_| {
            let object = Arc::clone(&object);
            thread::spawn(move || object.count.put(1))
        });
        let mut puts = [object.count.put(1), Ok(Put::Held), Ok(Put::Held)];
        for (put, thread) in puts[1..].iter_mut().zip(threads) {
            *put = thread.join().unwrap();
        }
        assert_eq!(puts.iter().filter(|put| **put == Ok(Put::Last(TAG))).count(), 1);
        assert_eq!(puts.iter().filter(|put| put.is_err()).count(), 2);
        assert_eq!(object.count.load(), Counted { count: RefCount::SATURATED, tag: TAG });
        assert!(object.count.try_get(1, |_| true).is_err());
    });
}

#[test]
fn underflow_saturates_3_threads() {
    underflow();
}

#[test]
fn underflow_mutants_fail_3_threads() {
    must_fail("refcount-no-saturation", underflow);
}

fn read_only_at_zero() {
    let optimise = |object: &Object| {
        let frozen = object.count.freeze(1).is_ok();
        if frozen {
            object.readers.synchronize().unwrap();
            object.count.write_protect(true);
        }
        frozen
    };
    // A lookup inside a reader: it may come before the freeze, in the middle, or find a read-only word.
    let lookup = |object: &Object| {
        let guard = object.readers.enter();
        let got = object.count.try_get(1, |tag| tag == TAG);
        drop(guard);
        got.is_ok()
    };
    both(|| Object::new(1, true), optimise, lookup, |_, frozen, got| assert!(frozen ^ got));
}

#[test]
fn a_frozen_word_is_never_written_2_threads() {
    read_only_at_zero();
}

#[test]
fn a_frozen_word_mutants_fail_2_threads() {
    must_fail("refcount-write-at-zero", read_only_at_zero);
    must_fail("readers-enter-no-fence", read_only_at_zero);
    must_fail("readers-synchronize-no-fence", read_only_at_zero);
}
