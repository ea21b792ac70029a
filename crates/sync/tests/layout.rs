// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the types promise about layout and threads.
#![cfg(not(mmkit_loom))]

use core::cell::Cell;

use mmkit_sync::atomic::{AtomicU64, UnsafeCell};
use mmkit_sync::{
    BitGuard, BitSpinLock, Deferred, Events, Immovable, LiveGuard, LiveRef, Lock, LockGuard, RawLock,
    ReaderGuard, Readers, RefCount, SeqCount, SeqWriter, Shard, Shards, SpinLock, Tally,
};
use static_assertions::{
    assert_eq_align, assert_eq_size, assert_impl_all, assert_not_impl_any, assert_obj_safe,
};

assert_eq_size!(RefCount, u64);
assert_eq_align!(RefCount, AtomicU64);
assert_eq_size!(BitSpinLock, u64);
assert_eq_align!(BitSpinLock<0>, AtomicU64);
assert_eq_size!(SeqCount, u64);
assert_eq_size!(SpinLock, u8);
assert_eq_size!(UnsafeCell<u32>, u32);
assert_eq_size!(LockGuard<'static, SpinLock, u8>, [usize; 2]);
assert_eq_size!(BitGuard<'static>, [u64; 2]);
assert_eq_size!(Immovable, ());

assert_impl_all!(RefCount: Send, Sync);
assert_impl_all!(BitSpinLock: Send, Sync);
assert_impl_all!(SeqCount: Send, Sync);
assert_impl_all!(LiveRef<[Shard; 4]>: Send, Sync);
assert_impl_all!(LiveGuard<'static>: Send, Sync);
assert_impl_all!(Lock<SpinLock, Cell<u8>>: Send, Sync);
assert_impl_all!(Readers: Send, Sync);
assert_impl_all!(Tally: Send, Sync);
assert_impl_all!(Deferred: Send);
assert_impl_all!([Shard; 0]: Shards);
assert_impl_all!(&'static [Shard]: Shards);

assert_not_impl_any!(Lock<SpinLock, *mut u8>: Send, Sync);
assert_not_impl_any!(BitGuard<'static>: Send);
assert_not_impl_any!(BitGuard<'static, 63, Cell<u8>>: Send, Sync);
assert_not_impl_any!(LockGuard<'static, SpinLock, u8>: Send);
assert_not_impl_any!(LockGuard<'static, SpinLock, Cell<u8>>: Send, Sync);
assert_not_impl_any!(ReaderGuard<'static>: Send);
assert_not_impl_any!(SeqWriter<'static>: Send);
assert_not_impl_any!(RefCount: Clone);

assert_obj_safe!(Events, RawLock, Shards);

#[test]
fn a_shard_has_its_cache_line_to_itself() {
    let shards = [const { Shard::new() }; 2];
    let [first, second] = shards.each_ref().map(|shard| core::ptr::from_ref(shard).addr());
    assert!(second - first >= 64, "{} bytes apart", second - first);
}

#[test]
fn zeroed_words_are_valid() {
    // SAFETY: an atomic word of zeroes.
    let count: RefCount = unsafe { core::mem::zeroed() };
    assert_eq!(count.raw(), 0);
    // SAFETY: an atomic word of zeroes.
    let lock: BitSpinLock = unsafe { core::mem::zeroed() };
    assert!(!lock.is_locked() && lock.peek() == 0);
}
